"""Export from the page: a process of its own, whose state is told from files alone."""

import json
import os
import time

import pytest
from conftest import wait_for

from kto_workbench.config import KTOConfig
from kto_workbench.errors import RunError
from kto_workbench.runs.children import reap
from kto_workbench.runs.directory import EXPORT_FORMATS, new_run
from kto_workbench.ui import export


@pytest.fixture(autouse=True)
def none_is_left_behind():
    yield
    wait_for(lambda: not reap())


@pytest.fixture
def run(tmp_path):
    run = new_run(KTOConfig(workspace=str(tmp_path)), {"data": "demo"})
    run.set_status(state="finished")
    return run


@pytest.mark.parametrize("form", EXPORT_FORMATS)
def test_a_run_is_exported_by_a_child_process(trained, form):
    export.begin_export(trained, form)
    assert export.export_state(trained, form)[0] in ("working", "done")
    wait_for(lambda: not export.is_exporting(trained))
    state, told = export.export_state(trained, form)
    assert state == "done", told
    names = {path.name for path in (trained.path / "export" / form).iterdir()}
    assert told == str((trained.path / "export" / form).resolve())
    own = {
        "adapter": {"adapter_model.safetensors", "adapter_config.json", "tokenizer.json"},
        "merged": {"model.safetensors", "config.json", "tokenizer.json"},
        "gguf": {"model.gguf", "Modelfile"},
    }
    assert own[form] | {"README.md", "curves.png"} <= names
    assert not any(names & own[other] - own[form] for other in own)
    assert told in export.show_exports("en", trained) and told in export.show_exports("zh", trained)
    before = (trained.path / "export" / f"{form}.log").stat().st_mtime_ns
    export.begin_export(trained, form)  # is done
    assert (trained.path / "export" / f"{form}.log").stat().st_mtime_ns == before


def test_what_can_not_be_exported_is_one_sentence(run):
    assert export.export_state(run, "adapter") == ("none", "") and not export.can_export(run)
    export.begin_export(run, "adapter")
    wait_for(lambda: not export.is_exporting(run))
    state, told = export.export_state(run, "adapter")
    assert state == "failed" and "no adapter yet" in told
    assert 'role="alert"' in export.show_exports("en", run)
    with pytest.raises(RunError, match="not as"):
        export.begin_export(run, "../evil")
    run.set_status(state="queued", pid=None)
    with pytest.raises(RunError, match="when it has ended"):
        export.begin_export(run, "adapter")


def test_an_export_that_broke_off_or_is_older_than_the_adapter_is_none(run):
    folder = run.path / "export" / "merged"
    folder.mkdir(parents=True)
    log = folder.with_suffix(".log")
    log.write_text("Killed\n")
    folder.with_suffix(".json").write_text(json.dumps({"pid": os.getpid(), "started": 1.0}))  # another process's PID
    assert export.export_state(run, "merged") == ("failed", "Killed")
    log.write_text(f"{folder.resolve()}\n")
    assert export.export_state(run, "merged")[0] == "done"
    run.adapter.mkdir()
    (run.adapter / "adapter_model.safetensors").write_bytes(b"")
    later = time.time() + 10
    os.utime(run.adapter / "adapter_model.safetensors", (later, later))
    assert export.export_state(run, "merged")[0] == "none"
