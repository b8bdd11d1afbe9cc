"""What a run keeps when it ends: its adapter or its whole model, put into its directory all at once."""

import shutil
from pathlib import Path

from torch import nn
from transformers import PreTrainedTokenizerBase

from kto_workbench.engine.crew import Crew
from kto_workbench.engine.trainer import save_tuned, tuned_files
from kto_workbench.feedback.sight import copy_processor
from kto_workbench.runs.directory import Run


def save(model: nn.Module, tokenizer: PreTrainedTokenizerBase, run: Run, crew: Crew, *, whole: bool) -> None:
    """Keep a model as it is: `whole`, with its tokenizer, or its adapter."""
    if whole:
        _save_whole(model, tokenizer, run, crew)
    else:
        _save_adapter(model, run, crew)


def keep(checkpoint: Path, tokenizer: PreTrainedTokenizerBase, run: Run, *, whole: bool) -> None:
    """Keep what a checkpoint holds: a `whole` model, to which the tokenizer is added, or an adapter."""
    beside = run.path / "kept.part"
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir()
    for path in tuned_files(checkpoint):
        shutil.copy2(path, beside / path.name)
    if whole:
        tokenizer.save_pretrained(beside)
    target = run.model if whole else run.adapter
    shutil.rmtree(target, ignore_errors=True)
    beside.rename(target)


def _save_whole(model: nn.Module, tokenizer: PreTrainedTokenizerBase, run: Run, crew: Crew) -> None:
    beside = run.path / "model.part"
    save_tuned(model, beside, crew)
    if crew.leads:
        tokenizer.save_pretrained(beside)
        copy_processor(run.config().model, beside)
        shutil.rmtree(run.model, ignore_errors=True)
        beside.rename(run.model)


def _save_adapter(model: nn.Module, run: Run, crew: Crew) -> None:
    beside = run.path / "adapter.part"
    save_tuned(model, beside, crew)
    if not crew.leads:
        return
    if run.adapter.exists():
        for path in beside.iterdir():
            path.replace(run.adapter / path.name)
        beside.rmdir()
    else:
        beside.rename(run.adapter)
