"""Runs from config to adapter, on a tiny model, in this process and for real."""

import json
import logging
import random
import sqlite3
import subprocess
import sys
from contextlib import closing

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny_models import WORDS, tiny_model, tiny_tokenizer

from kto_workbench import KTOConfig, WorkbenchError, train
from kto_workbench.engine.batches import Pair
from kto_workbench.engine.reference import ReferenceCache
from kto_workbench.engine.training import train_run
from kto_workbench.errors import DataError, ModelError
from kto_workbench.runs import create_run


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder with a tiny model, its tokenizer, and 24 thumbs."""
    folder = tmp_path_factory.mktemp("world")
    model = tiny_model("llama", attn_implementation="sdpa")
    model.save_pretrained(folder / "model")
    tiny_tokenizer().save_pretrained(folder / "model")
    draw = random.Random(0)
    text = lambda n: " ".join(draw.choice(WORDS) for _ in range(n))
    rows = [{"prompt": text(4), "completion": text(draw.randint(1, 6)), "label": i % 3 == 0} for i in range(24)]
    (folder / "thumbs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def make_config(world, workspace, **values):
    defaults = dict(
        model=str(world / "model"),
        data=str(world / "thumbs.jsonl"),
        workspace=str(workspace),
        batch_size=6,
        num_train_epochs=2,
        learning_rate=1e-2,
        max_length=64,
        save_steps=3,
        sample_steps=-1,
        lora_r=4,
        device="cpu",
    )
    return KTOConfig(**{**defaults, **values})


def adapter_of(run):
    return load_file(run.adapter / "adapter_model.safetensors")


def assert_same_adapter(a, b, rtol):
    a, b = adapter_of(a), adapter_of(b)
    assert a.keys() == b.keys()
    for name in a:
        assert (a[name] - b[name]).norm() <= rtol * b[name].norm() + 1e-8, name


TRAIN_KEYS = {
    "step", "epoch", "loss", "kl", "kl_raw", "rewards/chosen", "rewards/rejected", "rewards/margins", "logps/chosen",
    "logps/rejected", "grad_norm", "learning_rate", "tokens_per_second", "memory_bytes", "seconds",
}  # fmt: skip


def test_a_run_leaves_everything_behind(world, tmp_path):
    run = train(make_config(world, tmp_path, sample_steps=3), progress=False)
    status = run.status()
    assert (status.state, status.step, status.total_steps) == ("finished", status.total_steps, status.total_steps)
    # 24 thumbs, 8 up and 16 down: λ_D = 16/8 = 2. About a tenth of the prompts, at least two rows, is held out.
    assert (run.config().desirable_weight, run.config().undesirable_weight) == (2.0, 1.0)
    steps = [record for record in run.metrics() if "loss" in record]
    assert [record["step"] for record in steps] == list(range(1, status.total_steps + 1))
    assert steps[0].keys() >= TRAIN_KEYS
    # Step 1 is computed with the fresh adapter: rewards and z0 are 0.
    assert steps[0]["kl_raw"] == pytest.approx(0, abs=1e-4)
    assert steps[0]["rewards/rejected"] == pytest.approx(0, abs=1e-4)
    assert last_margin(steps) > 0.05
    evaluations = [record for record in run.metrics() if "eval_loss" in record]
    assert len(evaluations) == 2 and "eval_rewards/chosen" in evaluations[0] and "eval_kl" in evaluations[0]
    samples = run.samples()
    # Every third step, and before the first and after the last.
    assert {s["step"] for s in samples} == {0, 3, 6, status.total_steps}
    assert all(s["reference"] == s["tuned"] for s in samples if s["step"] == 0)
    assert adapter_of(run)


def last_margin(steps):
    """Of the last batch that had both thumbs."""
    return next(r["rewards/margins"] for r in reversed(steps) if r["rewards/margins"] is not None)


def test_same_config_same_adapter_and_other_seed_another(world, tmp_path):
    a, b = (train(make_config(world, tmp_path), progress=False) for _ in range(2))
    assert_same_adapter(a, b, rtol=0)
    c = train(make_config(world, tmp_path, seed=7), progress=False)
    assert any(not torch.equal(adapter_of(a)[n], adapter_of(c)[n]) for n in adapter_of(a))


@pytest.mark.parametrize(
    "options", [{"z0": "batch"}, {"z0": "every", "kl_every": 5, "kl_sample": 8}, {"objective": "bco"}]
)
def test_resumed_run_gives_the_same_losses_and_the_same_adapter(world, tmp_path, options):
    whole = train(make_config(world, tmp_path, **options), progress=False)
    run = create_run(make_config(world, tmp_path, **options))
    crash_at(run, step=5)
    assert run.latest_checkpoint().name == "checkpoint-3"
    run.set_status(state="queued", pid=None)
    train_run(run)
    center = "delta" if options.get("objective") == "bco" else "kl_raw"
    a = [{k: r[k] for k in ("step", "loss", center)} for r in whole.metrics() if "loss" in r]
    b = [{k: r[k] for k in ("step", "loss", center)} for r in run.metrics() if "loss" in r]
    assert [r["step"] for r in b] == [r["step"] for r in a] and any(r[center] for r in a)
    for x, y in zip(a, b, strict=True):
        assert y["loss"] == pytest.approx(x["loss"], rel=1e-6)
        assert y[center] == pytest.approx(x[center], rel=1e-5, abs=1e-5)
    assert_same_adapter(run, whole, rtol=1e-5)


def crash_at(run, step):
    """Train until a step at which the process fails, as far as the run can tell."""
    record = run.record

    class Crash(Exception):
        pass

    def recording(metrics):
        if metrics["step"] == step:
            raise Crash
        record(metrics)

    import kto_workbench.engine.training as training

    original = training.Recorder.on_log
    training.Recorder.on_log = lambda self, *a, logs=None, **k: (
        recording({"step": a[1].global_step, **logs}) if logs and "train_runtime" not in logs else None
    )
    try:
        with pytest.raises(Crash):
            train_run(run)
    finally:
        training.Recorder.on_log = original
    assert run.status().state == "failed"


@pytest.mark.parametrize("options", [{}, {"reference": "uniform"}, {"sft_weight": 0.3}])
def test_tokens_per_pass_does_not_change_the_adapter(world, tmp_path, options):
    # A batch of up to 16 in 1, 2, 4 and 16 passes. Adam divides by the gradient's size, so a weight whose gradient is
    # nearly 0 amplifies rounding: the comparison is of whole tensors.
    def trained(tokens):
        return train(
            make_config(world, tmp_path, batch_size=16, tokens_per_pass=tokens, max_steps=4, **options), progress=False
        )

    whole = trained("auto")
    for tokens in (150, 70, 1):
        parts = trained(tokens)
        assert_same_adapter(parts, whole, rtol=1e-4)
        for a, b in zip(parts.metrics(), whole.metrics(), strict=True):
            for name in ("loss", "kl_raw", "rewards/chosen", "logps/rejected"):
                if a.get(name) is not None:
                    assert a[name] == pytest.approx(b[name], rel=1e-4, abs=1e-4)


def test_second_run_computes_no_reference_again(world, tmp_path):
    first = train(make_config(world, tmp_path), progress=False)
    # Each row and its mismatched pair once, whatever the epochs.
    assert first.reference()["computed"] == 2 * 24
    for options in (
        {"beta": 0.5},
        {"learning_rate": 1e-3},
        {"desirable_weight": 1.0},
        {"num_train_epochs": 1},
        {"tokens_per_pass": 50},
    ):
        again = train(make_config(world, tmp_path, **options), progress=False)
        assert again.reference()["reused"] >= 48 and again.reference()["computed"] == 0, options
    # Other partners: the rows' own completions are known, the new mismatched ones mostly not.
    other = train(make_config(world, tmp_path, seed=5), progress=False)
    assert 0 < other.reference()["computed"] <= 24
    # Another template is another text.
    plain = train(make_config(world, tmp_path, template="none"), progress=False)
    assert plain.reference()["computed"] == 48


def test_a_few_steps_pay_for_a_few_batches(world, tmp_path):
    run = train(make_config(world, tmp_path, max_steps=2, batch_size=4, eval_fraction=0.0), progress=False)
    assert run.reference()["computed"] == 2 * 2 * 4


def test_other_weights_never_hit_the_cache(world, tmp_path):
    train(make_config(world, tmp_path), progress=False)
    tiny_model("llama", seed=1, attn_implementation="sdpa").save_pretrained(tmp_path / "other")
    tiny_tokenizer().save_pretrained(tmp_path / "other")
    run = train(make_config(world, tmp_path, model=str(tmp_path / "other")), progress=False)
    assert run.reference()["computed"] == 48


def test_damaged_cache_is_named_and_rebuilt(world, tmp_path, caplog):
    good = train(make_config(world, tmp_path), progress=False)
    (file,) = (tmp_path / "cache" / "reference").glob("*.sqlite")
    whole = file.read_bytes()
    with closing(sqlite3.connect(file)) as database:
        key, record = database.execute("SELECT key, record FROM known ORDER BY key LIMIT 1").fetchone()
    data = bytearray(whole)
    data[data.index(record) + 1] ^= 0x10  # a bit of rot in a value
    file.write_bytes(data)
    again = train(make_config(world, tmp_path), progress=False)
    assert again.reference()["computed"] == 1
    assert_same_adapter(again, good, rtol=1e-5)
    for damage in (whole[:40], b"not a database", bytes(len(whole)), whole[:4096] + bytes(len(whole) - 4096)):
        file.write_bytes(damage)
        caplog.clear()
        again = train(make_config(world, tmp_path), progress=False)
        assert str(file) in caplog.text or damage == bytes(len(whole))  # which SQLite takes for an empty one
        assert_same_adapter(again, good, rtol=0)
        assert again.reference()["computed"] == 48


def test_a_cache_that_can_not_be_written_costs_the_cache(world, tmp_path, caplog):
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "reference").write_text("a file where the folder should be")
    run = train(make_config(world, tmp_path), progress=False)
    assert run.status().state == "finished" and "goes on without" in caplog.text
    assert run.reference()["computed"] == 48  # remembered as long as the process lives


APPEND = """
import sys
from pathlib import Path
from kto_workbench.engine.batches import Pair
from kto_workbench.engine.reference import ReferenceCache
cache, mine = ReferenceCache(Path(sys.argv[1])), int(sys.argv[2])
for i in range(60):
    cache.add([Pair((mine, i), (k,)) for k in range(3)], [mine + i + k / 8 for k in range(3)])
"""


def test_two_processes_append_to_one_cache(tmp_path):
    path = tmp_path / "known.sqlite"
    writers = [subprocess.Popen([sys.executable, "-c", APPEND, path, str(mine)]) for mine in (1000, 2000)]
    assert [writer.wait(60) for writer in writers] == [0, 0]
    pairs = [Pair((mine, i), (k,)) for mine in (1000, 2000) for i in range(60) for k in range(3)]
    want = [mine + i + k / 8 for mine in (1000, 2000) for i in range(60) for k in range(3)]
    assert ReferenceCache(path).look_up(pairs).tolist() == want
    assert np.isnan(ReferenceCache(path).look_up([Pair((1000,), (0, 0))])).all()


def test_uniform_and_sft_need_no_reference_pass(world, tmp_path):
    for options in ({"reference": "uniform"}, {"objective": "sft"}):
        run = train(make_config(world, tmp_path, **options), progress=False)
        assert run.reference() == {} and run.status().state == "finished"


def test_gradient_checkpointing_gives_the_same_adapter(world, tmp_path):
    a = train(make_config(world, tmp_path), progress=False)
    b = train(make_config(world, tmp_path, gradient_checkpointing=True), progress=False)
    assert_same_adapter(b, a, rtol=1e-4)


def test_bfloat16_adapter_learns_and_resumes(world, tmp_path):
    options = dict(dtype="bfloat16", adapter_dtype="bfloat16")
    whole = train(make_config(world, tmp_path, **options), progress=False)
    assert {t.dtype for t in adapter_of(whole).values()} == {torch.bfloat16}
    steps = [r for r in whole.metrics() if "loss" in r]
    assert last_margin(steps) > 0.05
    run = create_run(make_config(world, tmp_path, **options))
    crash_at(run, step=5)
    run.set_status(state="queued", pid=None)
    train_run(run)
    # The masters came back from the checkpoint: rounded weights alone would drift from here.
    assert_same_adapter(run, whole, rtol=1e-6)
    with pytest.raises(ModelError, match="needs a model in bfloat16"):
        train(make_config(world, tmp_path, adapter_dtype="bfloat16", dtype="float32"), progress=False)


def test_stop_keeps_a_usable_adapter(world, tmp_path):
    run = create_run(make_config(world, tmp_path, num_train_epochs=500))
    record = run.record

    def stop_after_four(metrics):
        record(metrics)
        if metrics["step"] == 4:
            run.ask("stop")

    run.record = stop_after_four
    train_run(run)
    assert run.status().state == "stopped" and run.status().step in (4, 5)
    assert adapter_of(run) and run.latest_checkpoint() is not None


def test_truncation_is_counted_in_the_log(world, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    train(make_config(world, tmp_path, max_length=12, max_steps=1), progress=False)
    assert "max_length 12 cuts the start of" in caplog.text


def test_a_loss_that_is_no_number_fails_in_one_sentence(world, tmp_path, monkeypatch):
    from kto_workbench.engine import objective

    monkeypatch.setattr(objective, "sum_of_log_ratios", lambda policy, reference: torch.tensor(float("nan")))
    with pytest.raises(WorkbenchError, match="no longer a number at step 1"):
        train(make_config(world, tmp_path), progress=False)


def test_what_can_not_be_trained_says_so(world, tmp_path):
    one = tmp_path / "one.jsonl"
    one.write_text('{"prompt": "a", "completion": "b", "label": true}\n')
    with pytest.raises(DataError, match="at least two"):
        train(make_config(world, tmp_path, data=str(one)), progress=False)
    with pytest.raises(ModelError, match="no such folder"):
        train(make_config(world, tmp_path, model=str(tmp_path / "nothing")), progress=False)
    with pytest.raises(ModelError, match="adapter"):
        train(make_config(world, tmp_path, lora_targets="no_such_layer"), progress=False)
    if not torch.cuda.is_available():
        with pytest.raises(ModelError, match="no cuda device"):
            train(make_config(world, tmp_path, device="cuda"), progress=False)
