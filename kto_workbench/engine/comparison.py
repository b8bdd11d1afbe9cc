"""Answers of a finished run beside its reference's: in a notebook, in the shell, and for the demo's figures."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn
from transformers import PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from kto_workbench.config import KTOConfig
from kto_workbench.engine.generation import compare_sides
from kto_workbench.engine.models import load_adapter, load_model, pick_device, pick_dtype
from kto_workbench.errors import RunError
from kto_workbench.feedback.rendering import load_tokenizer
from kto_workbench.runs.directory import Run


def compare(
    run: Run | str | Path,
    prompts: Sequence[Any],
    *,
    seed: int = 0,
    temperature: float | None = None,
    max_new_tokens: int | None = None,
) -> list[dict[str, Any]]:
    """Answers of the reference and of the tuned model to the same prompts, with the same seed and sampling.

    Args:
        run: a run with an adapter, or its directory.
        prompts: texts, or lists of chat messages.
        seed: of the sampling, on both sides.
        temperature: None takes the run's.
        max_new_tokens: None takes the run's.

    Returns:
        [{prompt, reference, tuned}].

    Raises:
        RunError: the run has no adapter yet.
    """
    run = run if isinstance(run, Run) else Run(run)
    model, tokenizer = open_run(run)
    config = run.config()
    return compare_sides(
        model,
        tokenizer,
        prompts,
        seed=seed,
        temperature=config.temperature if temperature is None else temperature,
        max_new_tokens=max_new_tokens or config.sample_max_new_tokens,
        template=config.template,
    )


def adapter_path(run: Run) -> Path:
    """The newest adapter of a run: the final one, else its latest checkpoint's. Raises RunError if there is none."""
    for path in (run.adapter, run.latest_checkpoint()):
        if path is not None and (path / "adapter_model.safetensors").is_file():
            return path
    raise RunError(f"Run {run.id} has no adapter yet; it is {run.status().state}.")


def open_run(run: Run) -> tuple[nn.Module, PreTrainedTokenizerBase]:
    """The model of a run with its adapter, and its tokenizer."""
    adapter, config = adapter_path(run), run.config()
    model = load_base(config)
    return load_adapter(model, adapter), load_tokenizer(config.model)


def load_base(config: KTOConfig) -> nn.Module:
    """The base model of a config, loaded as for its training."""
    transformers_logging.disable_progress_bar()  # it would stand before the answers
    device = pick_device(config.device)
    return load_model(
        config.model, device=device, dtype=pick_dtype(config.dtype, device), load_in_4bit=config.load_in_4bit
    )
