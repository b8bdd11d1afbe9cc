"""What the page expects of the next run: from files, without torch, and silent where it knows nothing."""

import subprocess
import sys

import numpy as np
import pytest

from kto_workbench.config import KTOConfig
from kto_workbench.feedback import load_feedback
from kto_workbench.runs.directory import new_run
from kto_workbench.ui import estimate


@pytest.fixture(scope="module")
def feedback():
    return load_feedback("demo")


def test_a_large_batch_lies_two_deviations_above_the_mean_one():
    # prompts of 10 and 30 tokens: mean 20, deviation 10; of 4: 4 · 20 + 2 · 10 · √4 = 120
    lengths = np.array([10, 30])
    same = np.array([5, 5])
    found = estimate.Lengths(lengths, same, lengths, same).largest_batch(4)
    assert found == (120, 20, 35, 0)
    # With images all rows are as long as the longest, and their answers as the longest answer: 4 · (35 − 5), 4 · 5.
    seen = estimate.Lengths(lengths, same, lengths, same, pixels=300).largest_batch(4)
    assert seen == (120, 20, 35, 1200)


def test_lengths_are_those_of_the_model(feedback):
    lengths = estimate.token_lengths(feedback, "demo", 512, "auto")
    assert len(lengths.prompt) == 400 and lengths.prompt.min() > 2
    cut = estimate.token_lengths(feedback, "demo", 16, "auto")
    assert (cut.kept_prompt + cut.kept_completion).max() == 16
    assert (cut.prompt == lengths.prompt).all() and (cut.completion == lengths.completion).all()
    assert estimate.different_prompts(feedback) == len({str(row.prompt) for row in feedback.rows})


def test_a_model_that_is_not_here_is_not_looked_for(feedback):
    for model in ("some/model", "no such model", "/no/such/folder", "a/b/c"):
        assert estimate.model_folder(model) is None
        assert estimate.token_lengths(feedback, model, 512, "auto") is None
    assert "not on this machine yet: Start fetches it" in estimate.expected(
        "en", KTOConfig(model="some/model"), feedback, []
    )


def test_memory_is_a_range_beside_what_is_free(feedback, monkeypatch):
    monkeypatch.setattr(estimate, "find_gpu", lambda: None)
    monkeypatch.setattr(estimate, "free_memory", lambda: 21_700_000_000)
    said = estimate.expected("en", KTOConfig(), feedback, [])
    assert said.startswith("Memory: about 0.") and "22 GB free" in said and "tight" not in said
    monkeypatch.setattr(estimate, "free_memory", lambda: 100_000_000)
    cramped = estimate.expected("en", KTOConfig(), feedback, [])
    assert "tight" in cramped and "activations made again in the backward pass" in cramped
    assert "made again" not in said + estimate.expected("en", KTOConfig(gradient_checkpointing=True), feedback, [])
    monkeypatch.setattr(estimate, "find_gpu", lambda: estimate.Gpu(8_000_000_000, bfloat16=True))
    assert "8.0 GB free on the GPU" in estimate.expected("en", KTOConfig(), feedback, [])
    assert "GPU" not in estimate.expected("en", KTOConfig(device="cpu"), feedback, [])


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ("23456, 8.9\n11, 6.1\n", estimate.Gpu(23456 * 2**20, bfloat16=True)),
        ("15109, 7.5\n", estimate.Gpu(15109 * 2**20, bfloat16=False)),
        ("[N/A], 8.0\n", None),
        ("No devices were found\n", None),
        ("", None),
    ],
)
def test_the_first_gpu_is_the_one_that_its_driver_s_tool_names(tmp_path, monkeypatch, said, found):
    tool = tmp_path / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\nprintf '%s' '{said}'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    estimate._ask_gpu.cache_clear()
    assert estimate.find_gpu() == found
    estimate._ask_gpu.cache_clear()


def test_time_follows_the_pace_of_the_last_finished_run_of_the_same_model(feedback, tmp_path):
    def run(state, seconds, **options):
        made = new_run(KTOConfig(workspace=str(tmp_path), **options), {"data": "demo"})
        made.set_status(state=state, step=20, first_step=10, training_started=1000.0, ended=1000.0 + seconds)
        return made

    runs = [run("stopped", 1), run("finished", 1, model="another/model"), run("finished", 80, batch_size=8)]
    # 80 s for 10 steps of 8 rows: a second a row. 400 rows without a tenth held out, in batches of 16: 23 steps an
    # epoch, 6 epochs, 16 rows each: 2208 s = 37 min
    assert "about 37 min" in estimate.expected("en", KTOConfig(), feedback, runs)
    assert "about 32 s" in estimate.expected("en", KTOConfig(max_steps=2), feedback, runs)
    assert "pace" not in estimate.expected("en", KTOConfig(), feedback, runs[:2])


def test_the_server_loads_a_tokenizer_without_torch():
    code = (
        "from kto_workbench.ui.app import leave_torch_out\n"
        "leave_torch_out()\n"
        "from kto_workbench.feedback import load_feedback\n"
        "from kto_workbench.ui import estimate\n"
        "assert estimate.token_lengths(load_feedback('demo'), 'demo', 512, 'auto') is not None\n"
        "import sys\n"
        "assert not [name for name in sys.modules if name.startswith('torch.')]\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and not done.stderr, done.stderr
