"""A run's result in a form that other programs take."""

import shutil
from pathlib import Path

import torch
from transformers.utils import logging as transformers_logging

from kto_workbench.engine.models import load_adapter, load_model
from kto_workbench.errors import RunError
from kto_workbench.feedback.rendering import load_tokenizer
from kto_workbench.runs.directory import Run

FORMATS = ("adapter", "merged")


def export(run: Run, format: str, out: str | Path | None = None) -> Path:
    """Write a run's adapter (PEFT), or the base model with the adapter merged in, as safetensors.

    Args:
        run: with an adapter.
        format: `adapter` or `merged`.
        out: a folder that does not exist yet; None puts it into the run's directory.

    Returns:
        The folder.

    Raises:
        RunError: no adapter yet, or the folder exists.
    """
    target = Path(out) if out else run.path / "export" / format
    if target.is_file() or target.is_dir() and any(target.iterdir()):
        raise RunError(f"There is something in {target} already; name another folder with --out.")
    source, config = run.newest_adapter(), run.config()
    try:
        target.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"Can't write to {target}: {error.strerror}.") from None
    if format == "adapter":
        names = ("adapter_model.safetensors", "adapter_config.json", "README.md")
        for name in names:
            if (source / name).is_file():
                shutil.copy2(source / name, target / name)
    else:
        # On the CPU, in the dtype of the files: a merge into rounded 4-bit weights would lose the adapter's digits.
        dtype = torch.float32 if config.dtype == "float32" else "auto"
        transformers_logging.disable_progress_bar()
        base = load_model(config.model, device=torch.device("cpu"), dtype=dtype, attn_implementation="sdpa")
        load_adapter(base, source).merge_and_unload().save_pretrained(target)
    load_tokenizer(config.model).save_pretrained(target)
    return target
