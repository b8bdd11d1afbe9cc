"""Runs that are over: names, notes, the trash, the folder."""

import os
import sys

import pytest
from conftest import wait_for

from kto_workbench.config import KTOConfig
from kto_workbench.errors import RunError
from kto_workbench.runs import list_runs, shelf
from kto_workbench.runs.directory import new_run
from kto_workbench.ui.folder import has_screen, open_folder


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


# the folder


@pytest.fixture
def file_manager(tmp_path, monkeypatch):
    """A file manager that writes down what it was asked to show; returns where."""
    if sys.platform != "linux":
        pytest.skip("another system, another file manager")
    shown = tmp_path / "shown"
    opener = tmp_path / "bin" / "xdg-open"
    opener.parent.mkdir()
    opener.write_text(f'#!/bin/sh\nprintf "%s\\n" "$#" "$@" > "{shown}.part"; mv "{shown}.part" "{shown}"\n')
    opener.chmod(0o755)
    monkeypatch.setenv("PATH", f"{opener.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("DISPLAY", ":0")
    return shown


def test_a_folder_is_shown_whatever_its_name(file_manager, tmp_path):
    odd = tmp_path / "my runs; $(date) -x"
    odd.mkdir()
    assert open_folder(odd)
    wait_for(file_manager.exists)
    assert file_manager.read_text().splitlines() == ["1", str(odd)]


def test_without_a_screen_nothing_is_opened(file_manager, tmp_path, monkeypatch):
    monkeypatch.delenv("DISPLAY")
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    assert not has_screen() and not open_folder(tmp_path)


def test_neither_a_file_nor_what_is_gone_is_opened(file_manager, tmp_path):
    file = tmp_path / "a.txt"
    file.touch()
    assert not open_folder(file) and not open_folder(tmp_path / "gone")


def test_without_a_file_manager_it_says_no(tmp_path, monkeypatch):
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert not open_folder(tmp_path)
