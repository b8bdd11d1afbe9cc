"""Two processes on a CPU, over gloo: the same numbers as one, whoever holds what; deaths, stops and resumes."""

import importlib.util
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
from conftest import call_kto, only_json
from safetensors.torch import load_file
from test_pairs import paired_file
from test_qlora import folder  # noqa: F401
from test_training import adapter_of, crash_at, make_config, world  # noqa: F401

from kto_workbench import Run, train
from kto_workbench.answers.comparison import compare
from kto_workbench.answers.export import export
from kto_workbench.config import save_config
from kto_workbench.demo.measure import evaluation_prompts, measure
from kto_workbench.engine.training import train_run
from kto_workbench.errors import ConfigError
from kto_workbench.runs import create_run
from kto_workbench.runs.directory import list_runs
from kto_workbench.runs.launch import resume, start
from kto_workbench.shell.demonstration import RATES, TEMPERATURE
from kto_workbench.ui import fields

ROOT = Path(__file__).parents[1]
WORKER = Path(__file__).parent / "crew_worker.py"
OPTIONS = dict(learning_rate=2e-3, batch_size=7, max_steps=12, save_steps=5, eval_steps=6)


def torchrun(*runs, path=""):
    """Two processes that train runs; `path` is where they find more packages."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    if path:
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, (os.environ.get("PYTHONPATH"), path)))
    return subprocess.run([*command, WORKER, *runs], env=environment, capture_output=True, text=True, timeout=400)


def assert_same_adapter(a, b, share=1e-5):
    """All tensors together: Adam makes whole steps of rounding where a single tensor's gradient is nearly 0."""
    a, b = adapter_of(a), adapter_of(b)
    assert a.keys() == b.keys()
    apart = sum((a[name] - b[name]).square().sum() for name in b).sqrt()
    assert apart <= share * sum(b[name].square().sum() for name in b).sqrt()


def records(run):
    return [record for record in run.metrics() if "loss" in record]


# Every run, and how two processes train it; several ways one after another where it dies on its way.
SCENARIOS = {
    "ddp": ["none"],
    "fsdp2": ["fsdp2"],
    "scarce": ["scarce"],
    "fsdp2-scarce": ["fsdp2+scarce"],
    "small-passes": ["none"],
    "fsdp2-small-passes": ["fsdp2"],
    "every": ["none"],
    "pair-batches": ["none"],
    "bco": ["none"],
    "dpo": ["none"],
    "dpo-fsdp2": ["fsdp2"],
    "full": ["none"],
    "full-fsdp2": ["fsdp2"],
    "4-bit": ["none"],
    "4-bit-fsdp2": ["fsdp2"],
    "paged-fsdp2": ["fsdp2"],
    "two-then-one": ["fsdp2+die8"],
    "one-then-two": ["none"],
    "one-then-fsdp2": ["fsdp2"],
    "full-dies": ["fsdp2+die8", "fsdp2"],
    "stopped": ["fsdp2+stop4"],
    "bfloat16": ["none"],
    "bfloat16-fsdp2": ["fsdp2"],
    "bfloat16-full-fsdp2": ["fsdp2"],
}
WITH_DEEPSPEED = {
    "zero3": ["zero3"],
    "zero3-small-passes": ["zero3"],
    "full-zero3": ["zero3+die8", "zero3"],
    "zero3-then-one": ["zero3+die8"],
    "one-then-zero3": ["zero3"],
    "bfloat16-zero3": ["zero3"],
}
WATCHED = {"sample_steps": 6, "sample_max_new_tokens": 6}
SMALL_PASSES = {"tokens_per_pass": 24}
ROUNDED = {"dtype": "bfloat16"}
FULL = {"tuning": "full", "learning_rate": 1e-3}
DPO = {"objective": "dpo", "batch_size": 5}  # odd shares: five pairs a batch
EVERY = {"z0": "every", "kl_every": 4, "kl_sample": 6}
CHANGED = {
    "alone": WATCHED, "ddp": WATCHED, "fsdp2": WATCHED, "zero3": WATCHED, "small-passes": SMALL_PASSES,
    "fsdp2-small-passes": SMALL_PASSES, "zero3-small-passes": SMALL_PASSES, "every": EVERY,
    "pair-batches": {"batch_size": 2}, "full": FULL, "full-fsdp2": FULL, "full-dies": FULL, "full-zero3": FULL,
    "bco": {"objective": "bco", "tokens_per_pass": 24}, "bco-alone": {"objective": "bco"},
    "bfloat16": ROUNDED, "bfloat16-fsdp2": ROUNDED, "bfloat16-zero3": ROUNDED, "bfloat16-full-fsdp2": ROUNDED | FULL,
    "dpo": DPO | SMALL_PASSES, "dpo-fsdp2": DPO, "dpo-alone": DPO, "paged-fsdp2": {"optim": "paged_adamw_8bit"},
}  # fmt: skip
TWINS = {
    "every": "every-alone", "pair-batches": "pair-batches-alone", "bco": "bco-alone", "dpo": "dpo-alone",
    "dpo-fsdp2": "dpo-alone", "4-bit": "4-bit-alone", "full": "full-alone", "full-fsdp2": "full-alone",
    "full-dies": "full-alone", "full-zero3": "full-alone",
}  # fmt: skip


def has_deepspeed():
    """Where DeepSpeed is: in the environment, or beside it, where only those see it that want it; None if nowhere."""
    if importlib.util.find_spec("deepspeed"):
        return ""
    beside = Path(sys.prefix) / "zero3"
    return str(beside) if beside.is_dir() else None


@pytest.fixture(scope="module")
def runs(world, folder, tmp_path_factory):  # noqa: F811
    """The same training by one process and by two in many ways, all of them by the same two."""
    workspace = tmp_path_factory.mktemp("crews")

    paired = paired_file(workspace / "pairs.jsonl")

    def config(name):
        four_bits = {"model": str(folder), "load_in_4bit": True} if name.startswith("4-bit") else {}
        of_pairs = {"data": str(paired)} if name.startswith("dpo") else {}
        return make_config(world, workspace, **{**OPTIONS, **four_bits, **of_pairs, **CHANGED.get(name, {})})

    beside = has_deepspeed()
    scenarios = SCENARIOS | (WITH_DEEPSPEED if beside is not None else {})
    made = {name: create_run(config(name)) for name in scenarios}
    for name in scenarios:
        if name.startswith("one-then"):
            crash_at(made[name], step=8)
            made[name].set_status(state="queued", pid=None)
    done = torchrun(*(f"{made[name].path}:{way}" for name, ways in scenarios.items() for way in ways), path=beside)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-16000:]
    for name in scenarios:
        if name.endswith("then-one"):
            made[name].set_status(state="queued", pid=None)
            train_run(made[name])
    alone = {"alone", *TWINS.values()}
    like = lambda name: name if name in CHANGED else name.removesuffix("-alone")
    return made | {name: train(config(like(name)), progress=False) for name in sorted(alone)}


@pytest.fixture
def one_and_many(request, runs):
    name = request.param
    if name not in runs:
        pytest.skip("DeepSpeed is not installed")
    return runs[TWINS.get(name, "alone")], runs[name]


def each(*names):
    return pytest.mark.parametrize("one_and_many", names, indirect=True)


ADAPTERS = (
    "ddp", "fsdp2", "zero3", "scarce", "fsdp2-scarce", "small-passes", "fsdp2-small-passes", "zero3-small-passes",
    "every", "pair-batches", "bco", "dpo", "dpo-fsdp2", "4-bit", "two-then-one", "one-then-two", "one-then-fsdp2",
    "zero3-then-one", "one-then-zero3",
)  # fmt: skip
UNEQUAL = ("tokens_per_second", "memory_bytes", "seconds")


@each(*ADAPTERS)
def test_two_processes_end_where_one_does(one_and_many):
    one, many = one_and_many
    assert_same_adapter(many, one)
    assert [r["step"] for r in records(many)] == list(range(1, 13))
    trained = lambda run: [r for r in run.metrics() if "kl_sampled" not in r]
    for a, b in zip(trained(many), trained(one), strict=True):
        assert a.keys() == b.keys()
        for metric, value in b.items():
            if metric not in UNEQUAL:
                assert a[metric] == (value if value is None else pytest.approx(value, rel=1e-4, abs=1e-5)), metric


def test_in_bfloat16_too(runs):
    """Weights that are shared out give what whole ones do; with three digits a weight, float32 is a bit apart."""
    for name in {"bfloat16-fsdp2", "bfloat16-zero3"} & runs.keys():
        assert_same_adapter(runs[name], runs["bfloat16"], share=1e-4)
    losses = {name: [one["loss"] for one in records(runs[name])] for name in runs}
    assert losses["bfloat16"] != losses["alone"] and losses["bfloat16"] == pytest.approx(losses["alone"], rel=0.03)
    assert losses["bfloat16-full-fsdp2"] == pytest.approx(losses["full-alone"], rel=0.03)


@each("full", "full-fsdp2", "full-dies", "full-zero3")
def test_a_whole_model_too(one_and_many):
    one, many = (load_file(run.model / "model.safetensors") for run in one_and_many)
    assert many.keys() == one.keys()
    for tensor in one:
        assert (many[tensor] - one[tensor]).norm() <= 1e-5 * one[tensor].norm(), tensor


@each("ddp", "fsdp2", "zero3")
def test_what_is_watched_and_left_behind_is_the_same(one_and_many, tmp_path):
    one, many = one_and_many
    assert many.samples() == one.samples() and len(one.samples()) > 2
    sampled = lambda run: [r for r in run.metrics() if "kl_sampled" in r]
    assert [r["step"] for r in sampled(many)] == [r["step"] for r in sampled(one)] == [6, 12]
    for a, b in zip(sampled(many), sampled(one), strict=True):
        assert a == {name: pytest.approx(value, rel=1e-3, abs=1e-5) for name, value in b.items()}
    assert [r["step"] for r in many.metrics() if "eval_loss" in r] == [6, 12]
    files = lambda run: {p.relative_to(run.path).as_posix() for p in run.path.rglob("*")}
    # Each process keeps the state of its own random numbers.
    of_one = {re.sub(r"rng_state\.pth", "rng_state_0.pth", name) for name in files(one)}
    assert {name for name in files(many) if "rng_state_1" not in name and "held-" not in name} == of_one
    merged = [load_file(export(run, "merged", tmp_path / run.id) / "model.safetensors") for run in (one, many)]
    for name, tensor in merged[0].items():
        torch.testing.assert_close(merged[1][name], tensor, rtol=1e-5, atol=1e-5)


@each("fsdp2", "full-fsdp2", "zero3", "full-zero3")
def test_each_process_holds_its_part_alone(one_and_many):
    for rank in range(2):
        held, everything = json.loads((one_and_many[1].path / f"held-{rank}.json").read_text())
        # Half of each weight, rounded up to a whole row where the rows are odd: of 97 tokens, one has 49.
        assert 0.48 * everything <= held <= 0.52 * everything


@each("ddp", "full")
def test_each_process_holds_everything(one_and_many):
    held, everything = json.loads((one_and_many[1].path / "held-1.json").read_text())
    assert held == everything


@each("scarce", "fsdp2-scarce")
def test_memory_that_runs_out_on_one_halves_on_both(one_and_many):
    run = one_and_many[1]
    state = json.loads((run.path / "checkpoints" / "checkpoint-12" / "kto_state.json").read_text())
    assert state["tokens_per_pass"] <= 30
    assert run.status().state == "finished"


def test_a_rank_without_one_class_and_batches_of_two(runs):
    # A batch of two gives each process one row: of one class. Some batch must have had both.
    assert any(r["rewards/margins"] is not None for r in records(runs["pair-batches"]))


def test_what_can_not_be_shared_out_is_refused_in_a_sentence(runs):
    status = runs["4-bit-fsdp2"].status()
    assert status.state == "failed"
    assert status.error == "4-bit weights can't be shared out among processes: use `sharding: none`."
    assert runs["paged-fsdp2"].status().error == (
        "Optimizer paged_adamw_8bit can't be shared out among processes; use `optim: adamw`."
    )


def test_a_stop_reaches_both_within_its_step(runs):
    assert runs["stopped"].status().state == "stopped" and runs["stopped"].status().step == 4
    assert runs["stopped"].adapter.exists() and runs["stopped"].latest_checkpoint().name == "checkpoint-4"


def wait_for(condition, seconds=120, run=None):
    """Wait for an event of a run, as long as the run lives."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        assert run is None or run.status().active, run.log()
        time.sleep(0.1)


def workers_of(run):
    """The processes that train a run, by rank."""
    found = {}
    for process in psutil.process_iter(["cmdline"]):
        command = process.info["cmdline"] or []
        if str(run.path.resolve()) in command and "accelerate.commands.launch" not in command:
            rank = process.environ().get("RANK")
            if rank is not None:
                found[int(rank)] = process
    return found


def test_a_killed_rank_is_a_crash_and_resumes_with_any_number_of_processes(world, tmp_path):  # noqa: F811
    options = {**OPTIONS, "max_steps": 30, "save_steps": 3, "eval_steps": 0, "eval_fraction": 0.0}
    # As the Train tab starts it: each widget holds text.
    config = make_config(world, tmp_path, **options)
    form = {name: fields.to_widget(name, value) for name, value in config.model_dump().items()}
    assert form["processes"] == "auto"
    run = create_run(fields.read(form | {"processes": " 2 "}))
    assert run.config().processes == 2
    start(run)
    wait_for(lambda: len(records(run)) >= 5 and run.latest_checkpoint() is not None, run=run)
    workers_of(run)[1].send_signal(signal.SIGKILL)
    wait_for(lambda: not run.status().active, seconds=15)
    assert run.status().state == "crashed", run.status()
    assert len(records(run)) < 30
    # It goes on in one process, and ends where a run that nothing happened to does.
    run.set_status(state="queued", pid=None)
    train_run(run)
    whole = train(make_config(world, tmp_path, **options), progress=False)
    assert [r["step"] for r in records(run)] == list(range(1, 31))
    assert_same_adapter(run, whole)


@pytest.mark.slow
@pytest.mark.parametrize("who", ["first", "launcher"])
def test_no_process_is_left_when_the_first_or_the_launcher_is_killed(world, tmp_path, who):  # noqa: F811
    options = {**OPTIONS, "max_steps": 3000, "eval_fraction": 0.0}
    run = create_run(make_config(world, tmp_path, processes=2, **options))
    launcher = start(run)
    wait_for(lambda: len(records(run)) >= 2, run=run)
    first, second = workers_of(run).values()
    everyone = [first, second, psutil.Process(launcher)]
    os.kill(run.status().pid if who == "first" else launcher, signal.SIGKILL)
    wait_for(lambda: not any(map(is_at_work, everyone)), seconds=60)
    assert run.status().state == "crashed" and run.status().resumable


def is_at_work(process):
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


@pytest.mark.slow
def test_stop_reaches_both_and_resume_starts_both(world, tmp_path):  # noqa: F811
    options = {**OPTIONS, "max_steps": -1, "num_train_epochs": 400, "eval_fraction": 0.0}
    run = create_run(make_config(world, tmp_path, processes=2, sharding="fsdp2", **options))
    start(run)
    wait_for(lambda: len(records(run)) >= 2, run=run)
    asked_at = run.status().step
    run.ask("stop")
    wait_for(lambda: not run.status().active)
    assert run.status().state == "stopped" and run.adapter.exists()
    assert run.status().step >= asked_at
    wait_for(lambda: not workers_of(run), seconds=20)
    before = records(run)[-1]["step"]
    resume(run)
    wait_for(lambda: records(run)[-1]["step"] > before + 1, run=run)
    run.ask("stop")
    wait_for(lambda: not run.status().active)
    assert run.status().state == "stopped"
    steps = [r["step"] for r in records(run)]
    assert steps == list(range(1, len(steps) + 1))


def test_processes_are_a_field_of_the_page():
    """Its text is a number or `auto`, and Start's command says it."""
    assert fields.widget("processes", "auto").value == "auto" and fields.widget("processes", 2).value == "2"
    for text, value in (("auto", "auto"), ("3", 3)):
        assert fields.read({"processes": text}).processes == value
    assert "--processes 3" in fields.command(fields.read({"processes": "3"}))
    with pytest.raises(ConfigError, match="`processes` must be `auto` or at least 1"):
        fields.read({"processes": "0"})


def test_more_processes_than_gpus_is_one_sentence(world, tmp_path):  # noqa: F811
    # Every process of this command finds one GPU.
    (tmp_path / "sitecustomize.py").write_text("import torch\n\ntorch.cuda.device_count = lambda: 1\n")
    save_config(make_config(world, tmp_path / "w", device="auto"), tmp_path / "config.yaml")
    command = [sys.executable, "-m", "kto_workbench", "train", tmp_path / "config.yaml", "--processes", "2"]
    path = os.pathsep.join(filter(None, (str(tmp_path), os.environ.get("PYTHONPATH"))))
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, timeout=200)
    sentence = "2 processes need 2 GPUs, and this machine has one GPU; use `processes: 1`."
    assert done.returncode == 2 and sentence in done.stderr and "Traceback" not in done.stderr
    (run,) = list_runs(tmp_path / "w")
    assert (run.status().state, run.status().error) == ("failed", sentence)


def launch(config, *options, processes=2):
    """Accelerate's launcher on a config, in the background."""
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", *options]
    command += ["--num_processes", str(processes), "-m", "kto_workbench", "train", config]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT
    )


@pytest.mark.slow
@pytest.mark.parametrize("machines", [1, 2])
def test_accelerates_own_launcher_trains_a_config(world, tmp_path, machines):  # noqa: F811
    save_config(make_config(world, tmp_path / "w", **OPTIONS), tmp_path / "config.yaml")
    if machines == 1:
        launchers = [launch(tmp_path / "config.yaml", ROOT / "configs" / "fsdp2.yaml", "--main_process_port", "0")]
    else:  # two launchers that know each other by an address alone
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        common = ["--num_machines", "2", "--main_process_ip", "127.0.0.1", "--main_process_port", port]
        launchers = [
            launch(tmp_path / "config.yaml", ROOT / "configs" / "ddp.yaml", *common, "--machine_rank", str(rank))
            for rank in range(2)
        ]
    for launcher in launchers:
        said, _ = launcher.communicate(timeout=400)
        assert launcher.returncode == 0, said[-6000:]
    (run,) = list_runs(tmp_path / "w")
    assert run.status().state == "finished" and [r["step"] for r in records(run)] == list(range(1, 13))
    assert_same_adapter(run, train(make_config(world, tmp_path, **OPTIONS), progress=False))


@pytest.mark.slow
def test_the_demo_by_two_processes_ends_with_its_figures(tmp_path):
    options = ["--workspace", tmp_path, "--eval-fraction", "0", "--sample-steps", "-1", "--processes", "2", "--json"]
    told = only_json(call_kto("train", "demo", *options, timeout=1500))
    run = Run(told["path"])
    assert told["state"] == "finished"
    steps = [r["step"] for r in records(run)]
    assert steps == list(range(1, told["step"] + 1))
    # As `kto demo` measures.
    answers = compare(run, [row["prompt"] for row in evaluation_prompts()], seed=42, temperature=TEMPERATURE)
    sides = {
        side: measure({"prompt": answer["prompt"], "answer": answer[side]} for answer in answers)
        for side in ("reference", "tuned")
    }
    print({side: {name: round(found[name], 3) for name in RATES} for side, found in sides.items()})
    assert sides["tuned"]["trait"] > 0.8 > 0.4 > sides["reference"]["trait"]
    assert sides["tuned"]["facts"] > sides["reference"]["facts"] - 0.05
