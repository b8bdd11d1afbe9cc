"""Runs that are over: names, notes, the trash."""

import pytest

from kto_workbench.config import KTOConfig
from kto_workbench.errors import RunError
from kto_workbench.runs import list_runs, shelf
from kto_workbench.runs.directory import new_run


@pytest.fixture
def run(tmp_path):
    run = new_run(KTOConfig(workspace=str(tmp_path)), {"data": "demo"})
    run.set_status(state="finished")
    return run


def test_names_and_notes_are_kept_and_tamed(run):
    assert shelf.about_run(run) == {"name": "", "note": ""}
    shelf.describe_run(run, "  my\nfirst   run " + "x" * 200, " worked ")
    about = shelf.about_run(run)
    assert about["name"].startswith("my first run") and len(about["name"]) == shelf.LONGEST_NAME
    assert about["note"] == "worked"
    (run.path / "about.json").write_text("[1]")
    assert shelf.about_run(run) == {"name": "", "note": ""}


def test_a_deleted_run_comes_back_whole(run, tmp_path):
    run.record({"step": 1, "loss": 0.5})
    shelf.delete_run(run)
    assert list_runs(tmp_path) == [] and shelf.deleted_runs(tmp_path) == [run.id]
    assert shelf.restore_run(run.id, tmp_path).metrics() == [{"step": 1, "loss": 0.5}]
    assert shelf.deleted_runs(tmp_path) == []


def test_a_run_at_work_is_not_deleted(run):
    run.set_status(state="queued", pid=None)
    with pytest.raises(RunError, match="stop it before"):
        shelf.delete_run(run)


@pytest.mark.parametrize("name", ["", "..", "../runs", "/etc", "nothing-here"])
def test_only_deleted_runs_are_restored(run, tmp_path, name):
    with pytest.raises(RunError, match="no deleted run"):
        shelf.restore_run(name, tmp_path)
