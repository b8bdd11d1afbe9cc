"""The docs: every command in them runs, every link leads somewhere, and what is generated is what the code says."""

import dataclasses
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import warm_python

import kto_workbench
from kto_workbench import notebook

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.glob("*.md"))
# What a reader types as it stands; `console` is for another machine, a model of the hub, or a name of the reader's own.
TYPED = re.compile(r"^```(sh|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# What a page says that they print, if it says so.
PRINTED = re.compile(r"^```output\n(.*?)^```$", re.MULTILINE | re.DOTALL)
WITH_COMMANDS = [page for page in PAGES if TYPED.search(page.read_text(encoding="utf-8"))]
# The same commands as in another language's page.
AS_ELSEWHERE = {"quick_start.zh.md": "quick_start.md"}


def commands(page):
    return TYPED.findall(page.read_text(encoding="utf-8"))


@pytest.mark.parametrize("page", [p for p in WITH_COMMANDS if p.name not in AS_ELSEWHERE], ids=lambda page: page.name)
def test_a_page_works_as_it_is_typed(page, tmp_path):
    # `kto` is this Python's, whatever else is installed.
    python = warm_python()
    (tmp_path / "bin").mkdir()
    kto = tmp_path / "bin" / "kto"
    kto.write_text(f'#!/bin/sh\nexec {" ".join(python.command())} -m kto_workbench "$@"\n')
    kto.chmod(0o755)
    environment = python.environment(PATH=f"{kto.parent}:{os.environ['PATH']}", PYTHONPATH=str(ROOT), MPLBACKEND="Agg")
    (tmp_path / "here").mkdir()
    said = ""
    for language, code in commands(page):
        run = ["bash", "-euo", "pipefail", "-c", code] if language == "sh" else [*python.command(), "-c", code]
        done = subprocess.run(run, cwd=tmp_path / "here", env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, f"{page.name}:\n{code}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr, done.stderr
        said += done.stdout
    for lines in PRINTED.findall(page.read_text(encoding="utf-8")):
        assert lines in said, said


@pytest.mark.parametrize(("page", "other"), AS_ELSEWHERE.items())
def test_a_translation_has_the_same_commands(page, other):
    assert commands(DOCS / page) == commands(DOCS / other) != []


def test_what_is_generated_is_what_the_code_says():
    done = subprocess.run([sys.executable, DOCS / "generate.py", "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_they_build_without_a_warning(tmp_path):
    # Sphinx warns of links and anchors that lead nowhere, pictures that aren't there, and pages that nothing leads to.
    command = [sys.executable, "-m", "sphinx", "--fail-on-warning", "--keep-going", "--quiet", "-b", "html"]
    done = subprocess.run([*command, DOCS, tmp_path / "html"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    built = (tmp_path / "html" / "python.html").read_text(encoding="utf-8")
    assert "Raises WorkbenchError" in built  # docstrings have come along
    public = {*kto_workbench.__all__, *(name for name in notebook.__all__ if name.islower())}  # but for colours
    missing = {name for name in public if not re.search(rf'id="kto_workbench\.([\w.]+\.)?{name}"', built)}
    assert not missing, missing


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "benchmarks/RESULTS.md"])
def test_links_within_the_repository_lead_somewhere(page):
    page = ROOT / page
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if not re.match(r"[a-z]+:", target) and not target.startswith("#"):
            assert (page.parent / target.split("#")[0]).exists(), f"{page.name} → {target}"


def test_every_option_of_trl_is_found_in_one_table():
    from transformers import TrainingArguments
    from trl import KTOConfig

    text = (DOCS / "coming_from.md").read_text(encoding="utf-8")
    table = text[text.index("## TRL") : text.index("## LLaMA-Factory")]
    first_column = " ".join(line.split("|")[1] for line in table.splitlines() if line.startswith("| `"))
    own = {f.name for f in dataclasses.fields(KTOConfig)} - {f.name for f in dataclasses.fields(TrainingArguments)}
    assert len(own) >= 15
    missing = {name for name in own if f"`{name}`" not in first_column}
    assert not missing, missing
    # What is said to correspond is an option or a verb here.
    from kto_workbench.config import options

    for line in table.splitlines():
        if line.startswith("| `"):
            for name in re.findall(r"`([a-z_]+)`", line.split("|")[2]):
                assert name in options(), f"{name} is no option"


def test_every_number_of_the_records_is_explained(trained):
    text = (DOCS / "run_directory.md").read_text(encoding="utf-8")
    logged = {name.removeprefix("eval_") for record in trained.metrics() for name in record}
    assert {"loss", "kl", "rewards/chosen"} <= logged
    missing = {name for name in logged if f"`{name}`" not in text}
    assert not missing, missing
