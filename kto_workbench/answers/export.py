"""A run's result in a form that other programs take.

adapter   PEFT's two files: small, for transformers, vLLM and whoever loads the base model beside it
merged    the whole model in safetensors, adapter merged in
gguf      one file for llama.cpp, with a Modelfile for Ollama; see gguf_file.py for what it can hold
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from kto_workbench.answers.gguf_file import check_supported, write_gguf, write_modelfile
from kto_workbench.config import KTOConfig
from kto_workbench.engine.models import load_adapter, load_model, merge_adapter
from kto_workbench.errors import RunError
from kto_workbench.feedback.rendering import load_tokenizer
from kto_workbench.feedback.sight import copy_processor
from kto_workbench.feedback.templates import told
from kto_workbench.runs.directory import ADAPTER_FILES, Run

SHARD = "5GB"


def export(run: Run, format: str, out: str | Path | None = None) -> Path:
    """Write a run's adapter, the merged model, or a GGUF file.

    Args:
        run: with an adapter, or with the model of a full fine-tuning.
        format: `adapter`, `merged` or `gguf`.
        out: a folder that does not exist yet; None puts it into the run's directory.

    Returns:
        The folder, which appears when all of it is written.

    Raises:
        RunError: nothing trained yet, the folder exists, or the format can't hold this model.
    """
    target = Path(out) if out else run.path / "export" / format
    with _written_at_once(target) as folder:
        tokenizer = _tokenizer(run.config())
        if format == "adapter":
            source = run.newest_adapter()
            for name in ADAPTER_FILES:
                shutil.copy2(source / name, folder / name)
            tokenizer.save_pretrained(folder)
        elif format == "merged":
            merged(run).save_pretrained(folder, max_shard_size=SHARD)
            tokenizer.save_pretrained(folder)
            copy_processor(run.config().model, folder)
        else:
            check_supported(run.config().model, tokenizer)
            write_gguf(merged(run), tokenizer, folder / "model.gguf", name=run.id)
            write_modelfile(tokenizer, folder / "Modelfile", temperature=run.config().temperature)
    return target


def _tokenizer(config: KTOConfig) -> PreTrainedTokenizerBase:
    """The model's tokenizer, its chat template told what training told it: whoever gets the files won't know."""
    tokenizer = load_tokenizer(config.model, trust=config.trusted)
    if isinstance(tokenizer.chat_template, str):
        tokenizer.chat_template = told(tokenizer.chat_template, config.template_kwargs)
    elif tokenizer.chat_template:
        templates = tokenizer.chat_template.items()
        tokenizer.chat_template = {name: told(one, config.template_kwargs) for name, one in templates}
    return tokenizer


def merged(run: Run) -> nn.Module:
    """The tuned model without an adapter, on the CPU and in the dtype of the base's files.

    Also a run that trained on a 4-bit base is merged into the full weights: rounded ones would lose the adapter's
    digits. Raises RunError.
    """
    config = run.config()
    transformers_logging.disable_progress_bar()
    cpu = torch.device("cpu")
    if config.tuning == "full":
        if not run.trained():
            raise RunError(f"Run {run.id} has no model yet; it is {run.status().state}.")
        return load_model(
            str(run.model), device=cpu, dtype="auto", sees=run.trained_with_images(), trust=config.trusted
        )
    adapter = run.newest_adapter()
    dtype = torch.float32 if config.dtype == "float32" else "auto"
    base = load_model(config.model, dtype=dtype, device=cpu, sees=run.trained_with_images(), trust=config.trusted)
    return merge_adapter(load_adapter(base, adapter))


def push(folder: Path, name: str, *, private: bool = True) -> str:
    """Upload an exported folder to the Hugging Face hub, and return its address.

    Args:
        folder: what `export` has written.
        name: `owner/name` of the model there; made if it does not exist.
        private: whether a new one is private.

    Raises:
        RunError: no token is set, or the hub refuses.
    """
    from huggingface_hub import HfApi, get_token

    if not get_token():
        raise RunError("No token for the Hugging Face hub is set; log in with `hf auth login`, or set HF_TOKEN.")
    try:
        api = HfApi()
        address = api.create_repo(name, private=private, exist_ok=True)
        api.upload_folder(repo_id=address.repo_id, folder_path=folder)
    except Exception as error:  # of the name, the network, the rights: the hub's sentence says which
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise RunError(f"The hub did not take {name}: {reason.rstrip('.')}.") from error
    return str(address)


@contextmanager
def _written_at_once(target: Path) -> Iterator[Path]:
    """A folder beside the target that becomes the target when all went well. Raises RunError."""
    if target.is_file() or target.is_dir() and any(target.iterdir()):
        raise RunError(f"There is something in {target} already; name another folder with --out.")
    part = target.with_name(target.name + ".part")
    try:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
    except OSError as error:
        raise RunError(f"Can't write to {target}: {error.strerror}.") from None
    try:
        yield part
        if target.is_dir():
            target.rmdir()
        part.rename(target)
    except OSError as error:
        raise RunError(f"Can't write to {target}: {error.strerror}.") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
