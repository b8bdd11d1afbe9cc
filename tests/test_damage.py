"""A spoiled file costs a row and a sentence: every verb of the shell, every event of the page, over seeded damage."""

import contextlib
import functools
import html
import io
import json
import random
import shutil
import signal
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import gradio as gr
import pytest
from damage import RUN_FILES, SECRET, WAYS, WORKSPACE_FILES, damage, deep, lively_workspace
from pages import Page

from kto_workbench import KTOConfig
from kto_workbench import __main__ as shell
from kto_workbench.errors import WorkbenchError
from kto_workbench.runs import list_runs
from kto_workbench.runs.directory import new_run
from kto_workbench.ui import evaluate, export
from kto_workbench.ui.workbench import Workbench

SECONDS = 10.0
QUICK, WHOLE = (4, 1), (8, 2)  # events and verbs asked after each damage: a thousand cases ask each event 27 times


class Asked:
    """A workspace that can be spoiled and mended, with its page and its shell asked in this process."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.workspace, self.run, self.sound = lively_workspace(folder)
        shutil.copytree(self.workspace, folder / "kept", symlinks=True)
        self.bench = Workbench(self.workspace)
        self.bench.received.mkdir(parents=True, exist_ok=True)
        self.bench._answerer = NoModel()
        self.page = Page(self.bench)
        # The doctor tries a training, which takes its time.
        self.events = [fn for fn in self.page.events if not fn.fn.__module__.endswith(".doctor")]
        self.seconds = 120.0  # what is asked first imports its libraries
        for fn in self.events:
            self.fire(fn, random.Random(0))
        self.seconds = SECONDS
        self.mend([])

    def mend(self, spoiled: Iterable[Path]) -> None:
        """Put back what was spoiled, the run's state, and runs as they were."""
        kept, run = self.folder / "kept", self.run.path.relative_to(self.workspace)
        for path in dict.fromkeys((*spoiled, self.run.path / "status.json", self.sound.path / "status.json")):
            restore(kept / path.relative_to(self.workspace), path)
        for path in (self.workspace / "runs").iterdir():
            if path.name not in (self.run.id, self.sound.id):
                shutil.rmtree(path)
        for path in (run, self.sound.path.relative_to(self.workspace)):
            if not (self.workspace / path / "config.yaml").exists():  # it was deleted
                restore(kept / path, self.workspace / path)
        self.bench.received.mkdir(parents=True, exist_ok=True)

    # the shell

    def verbs(self) -> list[list[str]]:
        run, space = self.run.id, ["--workspace", str(self.workspace)]
        asked = [
            ["runs", "--json"], ["runs"], ["stop", run], ["resume", run], ["compare", run, "--prompts", "no.txt"],
            ["compare", run, "--judge", "endpoint", "--judge-url", "http://127.0.0.1:9/v1", "--judge-cost", "--json"],
            ["compare", f"{run}@checkpoint-8", "--prompts", "held-out", "--judge", "demo", "--limit", "0"],
            ["export", run, "--format", "nonsense"], ["check", "thumbs", "--json"], ["train", run, "--json"],
            ["train", str(self.run.path / "config.yaml"), "--beta", "-1"], ["runs", "--json"],
            ["check", str(self.workspace / "uploads" / "mine.jsonl"), "--json"],
            ["train", "--start-adapter", run, "--reference", "base", "--detach"],
        ]  # fmt: skip
        return [[*words, *space] for words in asked]

    def call(self, words: list[str]) -> str:
        """What a verb prints; fails on a traceback, on a hang, and on any exit code but 0 and 2."""
        out, err = io.StringIO(), io.StringIO()
        signal.signal(signal.SIGALRM, lambda *_: pytest.fail(f"{words} takes more than {SECONDS} s"))
        signal.setitimer(signal.ITIMER_REAL, SECONDS)
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                try:
                    code = shell.main(words)
                except SystemExit as ended:
                    code = ended.code
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        said = out.getvalue() + err.getvalue()
        assert code in (0, 2) and "Traceback" not in said, (words, said)
        assert code == 0 or len(err.getvalue().strip().splitlines()) == 1, (words, err.getvalue())
        return said

    # the page

    def inputs(self, fn: Any, draw: random.Random) -> list[Any]:
        values = []
        for part in fn.inputs:
            name = part.elem_id or ""
            run = draw.choice([self.run.id, self.run.id, self.sound.id])
            if name in ("runs-chosen",):
                values.append(draw.choice([[run], [self.run.id, self.sound.id], []]))
            elif name.endswith("-run") or name.endswith("-against"):
                values.append(draw.choice([run, f"{run}@checkpoint-8", f"{run}@reference", None]))
            elif name == "data-source":
                values.append(draw.choice(["thumbs", "demo", str(self.workspace / "uploads" / "mine.jsonl")]))
            elif name == "evaluate-prompts":
                values.append(draw.choice(["held-out", "demo", str(self.workspace / "prompts" / "mine.txt")]))
            elif name == "evaluate-shown":
                values.append(f"20260101-000000-00000{draw.randint(1, 2)}")
            elif name == "train-preset":
                values.append("mine")
            elif isinstance(part, gr.State):
                values.append(None)
            else:
                values.append(part.value)
        return values

    def fire(self, fn: Any, draw: random.Random) -> str:
        """What an event sends; fails on an exception and on a hang."""
        return self.page.fire(fn, self.inputs(fn, draw), self.seconds)


def restore(kept: Path, path: Path) -> None:
    """A copy of what was kept in place of whatever is there."""
    if not path.parent.is_dir():  # mended with its folder
        return
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    if kept.is_dir():
        shutil.copytree(kept, path)
    elif kept.exists():
        shutil.copyfile(kept, path)


class NoModel:
    """Stands in for the process that answers, which would load a model."""

    def stream(self, *_: Any, **__: Any) -> Any:
        raise WorkbenchError("There is no model here.")

    explain = stream

    def close(self) -> None:
        """Nothing to let go."""


def begins_nothing(*_: Any, **__: Any) -> Any:
    """Stands in for a process of its own: it has ended already."""
    raise OSError(11, "No more processes")


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        from kto_workbench.runs import launch, sweeps

        for module in (launch, sweeps, evaluate, export):
            patch.setattr(module, "start_apart", begins_nothing)
        patch.setattr(shell, "_parser", functools.cache(shell._parser))
        asked = Asked(tmp_path_factory.mktemp("damage"))
        yield asked
        asked.page.close()


def ask(asked: Asked, draw: random.Random, events: int, verbs: int) -> None:
    """Some events and some verbs, drawn."""
    for words in draw.sample(asked.verbs(), verbs):
        assert SECRET not in asked.call(words), words
    for fn in draw.sample(asked.events, events):
        assert SECRET not in asked.fire(fn, draw), fn
    assert sorted(path.name for path in asked.folder.iterdir()) == ["kept", "outside", "workspace"]
    assert [path.read_text() for path in (asked.folder / "outside").iterdir()] == [SECRET]


def one_case(asked: Asked, seed: int, much: tuple[int, int]) -> None:
    """Spoil a file or a few, ask, and mend."""
    draw, done = random.Random(seed), {}
    for _ in range(draw.choice([1, 1, 1, 2, 3])):
        of_run = draw.random() < 0.85
        path = asked.run.path / draw.choice(RUN_FILES) if of_run else asked.workspace / draw.choice(WORKSPACE_FILES)
        if path.parent.is_dir():  # and not spoiled itself
            done[path] = damage(path, draw)
    try:
        ask(asked, draw, *much)
    except BaseException as error:
        error.add_note(
            f"seed {seed}: { ({str(path.relative_to(asked.workspace)): how for path, how in done.items()}) }"
        )
        raise
    finally:
        asked.mend(sorted(done, key=lambda path: len(path.parts)))


@pytest.mark.reliability("Whatever became of a file, every verb and event answers in a sentence")
@pytest.mark.parametrize(
    ("seeds", "much"),
    [
        (range(1000), QUICK),
        *(pytest.param(range(n, n + 1000), WHOLE, marks=pytest.mark.slow) for n in range(1000, 6000, 1000)),
    ],
    ids=lambda value: f"from {value[0]}" if isinstance(value, range) else "",
)
def test_no_damage_breaks_a_verb_or_an_event(asked, seeds, much, cases):
    for seed in seeds:
        one_case(asked, seed, much)
        cases(1)


@pytest.mark.reliability("Whatever became of a file, every verb and event answers in a sentence")
@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", [*(f"run/{name}" for name in RUN_FILES), *WORKSPACE_FILES])
def test_no_way_of_damage_breaks_any_event(asked, name, cases):
    """Everything of which a thousand draws ask a part: each file, in each way, and all events and verbs after each."""
    path = asked.run.path / name[4:] if name.startswith("run/") else asked.workspace / name
    for number, (way, spoil) in enumerate(WAYS.items()):
        spoil(path)
        try:
            ask(asked, random.Random(number), len(asked.events), len(asked.verbs()))
        except BaseException as error:
            error.add_note(f"{name}: {way}")
            raise
        finally:
            asked.mend([path])
        cases(1)


# what used to break, by name ------------------------------------------------------------------------------------------


@pytest.mark.reliability("A run that can't be read is a row that says so")
@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("config.yaml", "gone_option: 1\n", "There is no option `gone_option`."),
        ("config.yaml", deep(), "nested too deeply"),
        ("status.json", '{"state": "paused"}', "Its status.json holds 'paused' as `state`."),
        ("status.json", '{"state": "running", "step": "many"}', "Its status.json holds 'many' as `step`."),
        ("data.json", '{"n_desirable": {}}', "Its data.json holds {} as `n_desirable`."),
        ("reference.json", deep(), "Its reference.json is not a whole JSON object."),
        ("metrics.jsonl", None, "Its metrics.jsonl is a folder."),
        ("rewards.jsonl", "link", "Its rewards.jsonl is a link."),
    ],
)
def test_a_run_that_can_not_be_read_is_a_row_that_says_so(asked, name, text, told):
    path = asked.run.path / name
    path.unlink()
    if text is None:
        path.mkdir()
    elif text == "link":
        path.symlink_to(name)  # to itself
    else:
        path.write_text(text)
    try:
        listed = json.loads(asked.call(["runs", "--json", "--workspace", str(asked.workspace)]))["runs"]
        spoiled, sound = (next(row for row in listed if row["run"] == run.id) for run in (asked.run, asked.sound))
        assert told in " ".join(spoiled["problems"]) and sound["problems"] == [] and sound["final"]["step"] == 12
        assert told in asked.call(["runs", "--workspace", str(asked.workspace)])
        table = asked.page.fire(asked.page.named("runs.build.<locals>.show"), [[asked.run.id]])
        assert told.rstrip(".") in html.unescape(table).replace("\\'", "'") and asked.sound.id in table
        for fn in asked.events:
            asked.fire(fn, random.Random(0))
    finally:
        asked.mend([path])


def test_a_folder_for_commands_is_made_where_it_is_missing(tmp_path):
    run = new_run(KTOConfig(workspace=str(tmp_path)), {})
    (run.path / "commands").rmdir()
    run.ask("stop")
    assert run.was_asked("stop", forget=True) and not run.was_asked("stop")


def test_a_run_without_its_config_is_still_listed(tmp_path):
    run = new_run(KTOConfig(workspace=str(tmp_path)), {})
    (run.path / "config.yaml").unlink()
    assert [one.id for one in list_runs(tmp_path)] == [run.id] and "it is missing" in run.problems()[0]
