"""The rooms: who may import whom, what stays out of a process, and what the package offers by name."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import kto_workbench

PACKAGE = Path(kto_workbench.__file__).parent
# Each imports only from those before it. The command (__main__) is on top, and imports whom it likes.
ROOMS = (
    "errors files objectives config feedback runs judging demo engine answers doctor views notebook ui shell"
).split()
WITHOUT_TORCH = [
    "kto_workbench", "kto_workbench.__main__", "kto_workbench.feedback", "kto_workbench.runs",
    "kto_workbench.runs.answering", "kto_workbench.runs.completions", "kto_workbench.judging.records",
    "kto_workbench.judging.endpoint",
    "kto_workbench.judging.questions", "kto_workbench.judging.rules",
    "kto_workbench.views", "kto_workbench.ui", "kto_workbench.ui.app",
    "kto_workbench.shell.training", "kto_workbench.shell.comparing", "kto_workbench.shell.endpoints",
    "kto_workbench.shell.doctor", "kto_workbench.doctor.examination", "kto_workbench.doctor.child",
    "kto_workbench.doctor.machine", "kto_workbench.engine.child",
]  # fmt: skip


def imports(path):
    """The rooms that a file imports from, also inside its functions, each with its line."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno} imports relatively, which this test does not follow"
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        for name in names:
            parts = name.split(".")
            if parts[0] == "kto_workbench" and len(parts) > 1 and parts[1] in ROOMS:
                yield parts[1], node.lineno


def test_every_room_is_in_this_list():
    rooms = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()}
    assert rooms - {"__init__", "__main__"} == set(ROOMS)


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_from_rooms_above(room):
    allowed = set(ROOMS[: ROOMS.index(room) + 1])
    files = [PACKAGE / f"{room}.py"] if (PACKAGE / f"{room}.py").is_file() else sorted((PACKAGE / room).rglob("*.py"))
    assert files
    wrong = [
        f"{p.relative_to(PACKAGE)}:{line} imports {who}"
        for p in files
        for who, line in imports(p)
        if who not in allowed
    ]
    assert not wrong, wrong


def test_the_package_itself_imports_no_room_until_it_is_asked():
    assert list(imports(PACKAGE / "__init__.py")) == []


def in_a_fresh_process(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_who_looks_at_runs_and_pages_holds_no_torch():
    # All in one process: if torch is absent at the end, none of them brought it.
    code = "import sys\n" + "".join(
        f"import {name}\nassert not {{'torch', 'transformers'}} & set(sys.modules), '{name}'\n"
        for name in WITHOUT_TORCH
    )
    in_a_fresh_process(code)


def test_the_engine_knows_no_page():
    in_a_fresh_process(
        "import kto_workbench.engine.training, kto_workbench.answers.child, sys; assert 'gradio' not in sys.modules"
    )
    files = [path for room in ("engine", "answers") for path in (PACKAGE / room).rglob("*.py")]
    assert files and not [path for path in files if "gradio" in path.read_text(encoding="utf-8")]


def test_what_is_imported_at_a_start_is_no_garbage_and_what_comes_later_may_be():
    in_a_fresh_process(
        "import gc, kto_workbench.answers.child as child\n"
        "assert gc.isenabled() and gc.get_freeze_count() > 100_000, gc.get_freeze_count()\n"
        "with child.large_imports(): assert not gc.isenabled()\n"
        "class Cycle: pass\n"
        "import weakref; one = Cycle(); one.self = one; gone = weakref.ref(one); del one\n"
        "gc.collect(); assert gone() is None"
    )


def test_every_public_name_is_there():
    assert {"KTOConfig", "load_feedback", "suggest_weights", "train", "compare", "evaluate", "plot", "Run"} <= set(
        kto_workbench.__all__
    )
    for name in kto_workbench.__all__:
        value = getattr(kto_workbench, name)
        assert value.__name__ == name and value.__doc__, name
    assert set(kto_workbench.__all__) <= set(dir(kto_workbench))
    with pytest.raises(AttributeError, match="has no attribute 'trian'"):
        kto_workbench.trian  # noqa: B018
