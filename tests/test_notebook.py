"""What notebooks begin with: an interrupt keeps a usable run, curves move in place, texts are shown as texts."""

import os
import signal

import pytest
from conftest import SMALL
from safetensors import safe_open

from kto_workbench import KTOConfig, train
from kto_workbench.notebook import live, table, tokens


@pytest.fixture
def config(tmp_path, small_data):
    return KTOConfig(**SMALL | {"save_steps": 0, "eval_steps": 100}, data=str(small_data), workspace=str(tmp_path))


def test_an_interrupt_stops_within_a_step_and_keeps_an_adapter(config):
    before = signal.getsignal(signal.SIGINT)
    steps = []

    def interrupt(run):
        steps.append(run.metrics()[-1]["step"])
        if steps[-1] == 3:
            os.kill(os.getpid(), signal.SIGINT)

    run = train(config, progress=False, on_record=interrupt)
    status = run.status()
    assert (status.state, status.step) == ("stopped", 4)  # the step that was under way is the last
    assert steps == [1, 2, 3, 4]
    with safe_open(run.adapter / "adapter_model.safetensors", "pt") as file:
        tensors = [file.get_tensor(name) for name in file.keys() if "lora_B" in name]  # noqa: SIM118
    assert any(tensor.abs().sum() > 0 for tensor in tensors)  # B begins at 0: it has learned
    assert signal.getsignal(signal.SIGINT) is before


def test_a_second_interrupt_ends_it_at_once(config):
    def interrupt_twice(run):
        signal.raise_signal(signal.SIGINT)  # to this thread, at once: two to the process may arrive as one
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train(config, progress=False, on_record=interrupt_twice)


def test_a_live_figure_is_drawn_once_and_then_changed_in_place(trained, monkeypatch):
    # A kernel that writes down what a front end would be sent.
    from IPython.core.displaypub import DisplayPublisher
    from IPython.core.interactiveshell import InteractiveShell

    sent = []

    class Publisher(DisplayPublisher):
        def publish(self, data, *args, transient=None, update=False, **kwargs):
            sent.append((update, transient["display_id"], set(data)))

    shell = InteractiveShell.instance()
    monkeypatch.setattr(shell, "display_pub", Publisher(shell=shell, parent=shell))
    show = live(seconds=0)
    for _ in range(3):
        show(trained)
    InteractiveShell.clear_instance()
    assert [update for update, _, _ in sent] == [False, True, True]
    assert len({place for _, place, _ in sent}) == 1
    assert all("image/png" in kinds for _, _, kinds in sent)


def test_texts_are_texts():
    html = (
        table(["<b>"], [["<img src=x>"]]).data
        + tokens({"tokens": ["<i>", "b"], "log_ratios": [1.0, -0.5], "beta": 0.1, "reward": 0.05}).data
    )
    assert "<b>" not in html and "<img" not in html and "<i>" not in html
    # 0.1 × (1 − 0.5) = 0.05; the strongest change has the full colour, half of it half of that.
    assert "reward = 0.1 × +0.50 = +0.05" in html
    assert "13,148,136,0.75" in html and "217,119,6,0.38" in html
