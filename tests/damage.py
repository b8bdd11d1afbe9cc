"""Ways in which a file of a workspace can be spoiled, each drawn from a seed; and a workspace with something of all.

damage(path, random.Random(7)) → what was done to the file, in words
"""

import json
import os
import random
import shutil
import sys
from pathlib import Path
from typing import Any

import yaml
from fake_training import record_at

from kto_workbench import KTOConfig
from kto_workbench.feedback.store import ThumbStore
from kto_workbench.judging.votes import Vote, keep_vote
from kto_workbench.runs import Run
from kto_workbench.runs.directory import new_run
from kto_workbench.runs.shelf import delete_run, describe_run

SECRET = "an outside file's secret"
ODD = [
    None, True, False, 0, -1, 1, 3.5, -2.5e300, 1e308, 2**63, 10**40, 10**4400, "", " ", "paused", "running", "queued",
    "running", "x" * 5000, "\x00", "\ud800", "../../outside/secret.txt", "/dev/zero", "<script>alert(1)</script>",
    "<img src=x>", "{x}", "%s", "🦄", "\u202e", [], {}, [None], [[]], {"": {}}, [1, "a", None], {"step": "1"},
    float("nan"), float("inf"), float("-inf"), "nan", "1e999", "1" * 5000, "2020-01-01",
]  # fmt: skip


def deep(levels: int = 3000) -> str:
    """JSON, and YAML, that is nested too deeply for a parser that recurses."""
    return "[" * levels + "]" * levels


def _written(path: Path, data: bytes) -> None:
    _gone(path)
    path.write_bytes(data)


def _gone(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _linked(path: Path, to: str) -> None:
    _gone(path)
    path.symlink_to(to)


def _sparse(path: Path) -> None:
    _written(path, b"")
    os.truncate(path, 3 * 2**30)


def _folder(path: Path) -> None:
    _gone(path)
    path.mkdir()
    (path / "inside").write_text("something")


def _pipe(path: Path) -> None:
    _gone(path)
    os.mkfifo(path)


def _torn(path: Path, draw: random.Random) -> None:
    data = path.read_bytes() if path.is_file() else b""
    _written(path, data[: draw.randrange(len(data) + 1)])


def _flipped(path: Path, draw: random.Random) -> None:
    data = bytearray(path.read_bytes() if path.is_file() else b"x")
    for _ in range(draw.randint(1, 8)):
        if data:
            data[draw.randrange(len(data))] = draw.randrange(256)
    _written(path, bytes(data))


def _changed(value: Any, draw: random.Random, depth: int = 0) -> Any:
    """A value with one place in it replaced, removed, or added."""
    if isinstance(value, dict) and value and (depth < 1 or draw.random() < 0.7):
        key = draw.choice(list(value))
        what = draw.random()
        if what < 0.12:
            return {k: v for k, v in value.items() if k != key}
        if what < 0.2:
            return {**value, draw.choice(["gone_option", "from_the_future", "", "\x00"]): draw.choice(ODD)}
        return {**value, key: _changed(value[key], draw, depth + 1)}
    if isinstance(value, list) and value and draw.random() < 0.7:
        place = draw.randrange(len(value))
        if draw.random() < 0.2:
            return [*value[:place], *value[place + 1 :]]
        return [*value[:place], _changed(value[place], draw, depth + 1), *value[place + 1 :]]
    return draw.choice(ODD)


def _json(value: Any) -> bytes:
    limit = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(0)  # a number of many digits is one of the ways
    try:
        return json.dumps(value).encode()
    finally:
        sys.set_int_max_str_digits(limit)


def _other_values(path: Path, draw: random.Random) -> None:
    try:
        text = path.read_text()
        if path.suffix == ".jsonl":
            lines = text.splitlines()
            place = draw.randrange(len(lines))
            changed = _json(_changed(json.loads(lines[place]), draw)).decode()
            written = "\n".join([*lines[:place], changed, *lines[place + 1 :], ""]).encode()
        elif path.suffix == ".yaml":
            changed = _changed(yaml.safe_load(text), draw)
            # JSON is YAML, and says what YAML's writer would refuse.
            written = _json(changed) if draw.random() < 0.5 else _yaml(changed)
        else:
            written = _json(_changed(json.loads(text), draw))
    except (OSError, ValueError, RecursionError, yaml.YAMLError):  # it was spoiled before, or holds no values
        return _flipped(path, draw)
    _written(path, written)


def _yaml(value: Any) -> bytes:
    lines = [f"{key}: {_short(item)}\n" for key, item in value.items()] if isinstance(value, dict) else [_short(value)]
    return "".join(lines).encode("utf-8", "replace")


def _short(value: Any) -> str:
    return _json(value).decode()[:3000] if isinstance(value, int) else str(value)[:3000]


TEXTS = {
    "empty": b"", "null": b"null", "list": b"[]", "number": b"3", "text": b'"x"', "nested": deep().encode(),
    "nested in a field": b'{"state": ' + deep().encode() + b"}", "half": b'{"state": "fin', "zeros": bytes(3000),
    "no UTF-8": b"\xff\xfe\x00a", "many digits": b'{"step": ' + b"9" * 5000 + b"}", "NaN": b'{"step": NaN}',
    "surrogate": b'{"state": "\\ud800", "step": 1}', "paused": b'{"state": "paused"}', "gone": b"gone_option: 1\n",
    "aliases": b"a: &a [x, x]\nb: &b [*a, *a]\nmodel: [*b, *b]\n", "loop": b"model: &a [*a]\n",
    "long line": b'{"step": 1, "x": "' + b"y" * 300_000 + b'"}\n', "tab": b"\t\x01\n",
}  # fmt: skip
WAYS = {
    "missing": _gone,
    "folder": _folder,
    "link outside": lambda path: _linked(path, os.path.abspath(_outside(path))),
    "link loop": lambda path: _linked(path, path.name),
    "link to nothing": lambda path: _linked(path, "nowhere"),
    "link to a folder": lambda path: _linked(path, ".."),
    "link to a device": lambda path: _linked(path, "/dev/zero"),
    "pipe": _pipe,
    "huge": _sparse,
    **{name: lambda path, data=data: _written(path, data) for name, data in TEXTS.items()},
}


def damage(path: Path, draw: random.Random) -> str:
    """Spoil one file; returns how, in a word."""
    what = draw.random()
    if what < 0.4 and path.is_file():
        _other_values(path, draw)
        return "other values"
    if what < 0.5 and path.is_file():
        draw.choice([_torn, _flipped])(path, draw)
        return "torn or flipped"
    name = draw.choice(list(WAYS))
    WAYS[name](path)
    return name


def _outside(path: Path) -> Path:
    """The secret file that lies beside the workspace."""
    return next(parent for parent in path.parents if (parent / "outside").is_dir()) / "outside" / "secret.txt"


# a workspace with something of everything ----------------------------------------------------------------------------


def lively_workspace(folder: Path) -> tuple[Path, Run, Run]:
    """A workspace beside a secret: a finished run with all that a run can have, a sound one, and a deleted one."""
    (folder / "outside").mkdir()
    (folder / "outside" / "secret.txt").write_text(SECRET)
    workspace = folder / "workspace"
    config = KTOConfig(workspace=str(workspace), data="demo", desirable_weight=3.0, undesirable_weight=1.0)
    facts = {"data": "demo", "rows": 400, "n_desirable": 100, "n_undesirable": 300, "problems": 0, "sha256": None}
    runs = [new_run(config, facts) for _ in range(3)]
    for run in runs:
        _fill(run)
    delete_run(runs[2])
    store = ThumbStore(workspace)
    store.add("Hello!", "Good day.", True, model="demo", run=runs[0].id, sampling={"seed": 1})
    store.add([{"role": "user", "content": "Hi"}], "Hm.", False, note="rude")
    for name, text in (
        ("uploads/mine.jsonl", '{"prompt": "a", "completion": "b", "label": true}\n' * 4),
        ("presets/mine.yaml", "beta: 0.2\nmodel: demo\n"),
        ("prompts/mine.txt", "One?\nTwo?\n"),
        ("uploads/.mine.jsonl.mapping", "prompt=prompt\ncompletion=completion\nlabel=label\n"),
        ("endpoints.yaml", "mine:\n  url: http://127.0.0.1:9/v1\n  model: m\n"),
        ("answering.log", "awake\n"),
    ):
        path = workspace / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return workspace, runs[0], runs[1]


def _fill(run: Run) -> None:
    steps = 12
    for step in range(1, steps + 1):
        run.record(record_at(step, steps))
    run.record({"step": steps, **{f"eval_{key}": value for key, value in record_at(steps, steps).items()}})
    run.record_sample({"step": 0, "prompt": "What does a cow say?", "reference": "Hm.", "tuned": "Moo."})
    run.record_sample({"step": 9, "prompt": [{"role": "user", "content": "Hi"}], "reference": "A", "tuned": "B"})
    for step in (1, 6, 12):
        run.record_rewards({"step": step, "z0": 0.1, "rewards": [0.1, -0.2, 0.3], "labels": [True, False, True]})
    (run.path / "reference.json").write_text('{"reused": 3, "computed": 5, "seconds": 1.5}\n')
    (run.path / "suggestions.json").write_text('[{"prompt": "Hi"}, {"prompt": [{"role": "user", "content": "Hi"}]}]\n')
    (run.path / "log.txt").write_text("12:00:00 begun\n12:00:01 done\n")
    for folder in ("checkpoints/checkpoint-4", "checkpoints/checkpoint-8", "adapter", "evaluations", "export"):
        (run.path / folder).mkdir(parents=True)
    lora = {"peft_type": "LORA", "r": 8, "lora_alpha": 16, "target_modules": ["q_proj"], "task_type": "CAUSAL_LM"}
    for folder in ("checkpoints/checkpoint-4", "checkpoints/checkpoint-8", "adapter"):
        (run.path / folder / "adapter_config.json").write_text(json.dumps(lora))
        (run.path / folder / "adapter_model.safetensors").write_bytes(b"\x02\0\0\0\0\0\0\0{}")
        (run.path / folder / "trainer_state.json").write_text('{"global_step": 4}')
    lengths = {"words": 5.0, "tokens": 7.0, "distinct_1": 0.9, "distinct_2": 0.95}
    outcome = {
        "judge": "shorter", "n": 2, "wins": 1, "ties": 0, "losses": 1, "win_rate": 0.5, "interval": [0.1, 0.9],
        "sign_test_p": 1.0, "position_bias": 0.5, "requests": 4, "cached": 0, "unparsed": 1, "longer_won": 0.5,
        "tuned": lengths, "reference": lengths, "length_ratio": 1.0, "kl": {"per_answer": 0.5, "per_token": 0.1},
        "verdicts": ["tuned", "reference"],
    }  # fmt: skip
    step = {key: value for key, value in outcome.items() if key not in ("verdicts", "reference")}
    outcome["checkpoints"] = [{"step": 4, "side": f"{run.id}@checkpoint-4", **step}, {"step": 8, "side": "x", **step}]
    about = {
        "tuned": run.id,
        "against": f"{run.id}@reference",
        "prompts": "held-out",
        "n_prompts": 2,
        "judge": "shorter",
    }
    answers = [
        {"prompt": prompt, "reference": "A b", "tuned": "C"} for prompt in ("P", [{"role": "user", "content": "Q"}])
    ]
    kept = {"created": 1.7e9, "about": about, "progress": {"stage": "judge", "done": 2, "total": 2}, "error": ""}
    finished = {**kept, "state": "finished", "seconds": 2.0, "evaluation": outcome, "answers": answers}
    (run.path / "evaluations" / "20260101-000000-000001.json").write_text(json.dumps(finished))
    failed = {**kept, "state": "failed", "error": "No.", "pid": 4, "process_started": 5.0}
    (run.path / "evaluations" / "20260101-000000-000002.json").write_text(json.dumps(failed))
    (run.path / "evaluations" / "20260101-000000-000002.log").write_text("no\n")
    (run.path / "export" / "adapter.log").write_text("x\n")
    (run.path / "export" / "adapter.json").write_text('{"pid": 4, "started": 5.0}')
    for winner in ("tuned", "reference", "tie"):
        vote = Vote("b1", "Hello!", run.id, f"{run.id}@reference", "Hi!", "Hm.", left="tuned", winner=winner)
        keep_vote(run, vote)
    describe_run(run, "A name", "A note")
    run.set_status(state="finished", step=12, total_steps=12, epoch=1.0, training_started=1.7e9, ended=1.7e9 + 60)


RUN_FILES = (
    "config.yaml", "status.json", "data.json", "reference.json", "about.json", "metrics.jsonl", "samples.jsonl",
    "rewards.jsonl", "votes.jsonl", "suggestions.json", "log.txt", "commands", "checkpoints", "evaluations", "adapter",
    "export",
    "checkpoints/checkpoint-8", "checkpoints/checkpoint-8/trainer_state.json",
    "checkpoints/checkpoint-8/adapter_model.safetensors", "adapter/adapter_config.json",
    "adapter/adapter_model.safetensors", "evaluations/20260101-000000-000001.json",
    "evaluations/20260101-000000-000002.json", "evaluations/20260101-000000-000002.log", "export/adapter.log",
    "export/adapter.json",
)  # fmt: skip
WORKSPACE_FILES = (
    "feedback.sqlite", "uploads/mine.jsonl", "presets/mine.yaml", "prompts/mine.txt", "uploads", "presets", "prompts",
    "trash", "cache", "device.lock", "endpoints.yaml", "answering.log", "uploads/.mine.jsonl.mapping",
)  # fmt: skip
