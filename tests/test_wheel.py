"""An installed wheel works from any folder: the demo's model and feedback travel in it."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import kto_workbench

REPOSITORY = Path(__file__).resolve().parents[1]


def pip(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=180,
    )


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder with the package from its wheel."""
    folder = tmp_path_factory.mktemp("wheel")
    built = pip("wheel", REPOSITORY, "--no-deps", "--wheel-dir", folder)
    if built.returncode and "hatchling" in built.stdout + built.stderr and "No matching distribution" in built.stderr:
        pytest.skip("the build backend hatchling can't be had from the package index")
    assert built.returncode == 0, built.stderr
    (wheel,) = folder.glob("kto_workbench-*.whl")
    done = pip("install", wheel, "--no-deps", "--target", folder / "installed")
    assert done.returncode == 0, done.stderr
    return folder / "installed"


def call(installed, cwd, *arguments):
    # In front of the editable install of this very environment, whose libraries serve otherwise.
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    done = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, cwd=cwd, env=environment, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_wheel_checks_its_demo_and_loads_its_model_from_any_folder(installed, tmp_path):
    code = """
import kto_workbench, torch
from kto_workbench.engine.models import load_model
from kto_workbench.feedback.rendering import load_tokenizer, model_path
model = load_model("demo", device=torch.device("cpu"), dtype=torch.float32)
print(kto_workbench.__file__, model_path("demo"), model.num_parameters() > 0, load_tokenizer("demo").eos_token)
"""
    file, model, *rest = call(installed, tmp_path, "-c", code).split()
    assert Path(file) == installed / "kto_workbench" / "__init__.py"  # not the repository
    assert Path(model).is_relative_to(installed) and rest == ["True", "<|end|>"]
    report = json.loads(call(installed, tmp_path, "-m", "kto_workbench", "check", "demo", "--json"))
    assert report["rows_kept"] == 400 and Path(report["source"]).is_relative_to(installed)


def test_a_wheel_holds_the_package_and_its_assets_and_nothing_else(installed):
    (wheel,) = installed.parent.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert len(tops) == 2 and "kto_workbench" in tops  # and its metadata
    assert {"kto_workbench/assets/model/model.safetensors", "kto_workbench/assets/evaluation.jsonl"} <= set(names)
    assert {f"kto_workbench/assets/feedback/{n}.jsonl" for n in ("kind_and_brief", "right_or_wrong")} <= set(names)
    assert not [name for name in names if "__pycache__" in name or "/tests/" in name]
    assert any(name.endswith("entry_points.txt") for name in names)
    assert wheel.name.split("-")[1] == kto_workbench.__version__  # which is its only definition
