"""What a run trains, put together: rows and base model as they are read, then the policy with its reference."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from kto_workbench.config import KTOConfig
from kto_workbench.engine import proof
from kto_workbench.engine.crew import Crew
from kto_workbench.engine.fused_kernels import find_kernels
from kto_workbench.engine.models import (
    adapter_off,
    as_it_is,
    base_of,
    check_tokens,
    checkpoint_activations,
    keep_as_reference,
    load_model,
    longest_row,
    make_trainable,
    pick_device,
    pick_dtype,
    start_adapter_on,
)
from kto_workbench.engine.preparation import Prepared, prepare
from kto_workbench.engine.reference import AsReference
from kto_workbench.engine.scoring import PaddedScorer, make_scorer
from kto_workbench.engine.sharding import at_once, shard
from kto_workbench.engine.zero import load_deepspeed
from kto_workbench.errors import ConfigError, ModelError
from kto_workbench.feedback import load_feedback
from kto_workbench.feedback.images import Images
from kto_workbench.feedback.rendering import load_tokenizer
from kto_workbench.feedback.sight import sight_of

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Loaded:
    """What a run begins with.

    `config`: with the `max_length` that the model has positions for; `base`: the model as it was loaded, with weights
    in `dtype`; `sees`: whether rows have images that it looks at.
    """

    config: KTOConfig
    tokenizer: PreTrainedTokenizerBase
    prepared: Prepared
    base: PreTrainedModel
    dtype: torch.dtype
    device: torch.device
    sees: bool


def load(config: KTOConfig, crew: Crew) -> Loaded:
    """Read feedback, tokenizer and base model. Raises WorkbenchError where they do not go together."""
    device = pick_device(config.device)
    dtype = pick_dtype(config.dtype, device)
    if crew.in_step and config.load_in_4bit:
        raise ConfigError("4-bit weights can't be shared out among processes: use `sharding: none`.")
    if crew.sharding == "zero3":
        load_deepspeed(device)
    tokenizer = load_tokenizer(config.model, Images(config.workspace), trust=config.trusted)
    with crew.first_one_first():  # it leaves its rows in the cache for the others
        feedback = load_feedback(config.data, workspace=config.workspace, mapping=config.mapping)
    rows, with_images = feedback.rows, feedback.n_with_images > 0
    prepared = prepare(rows, tokenizer, config, with_images)
    sees = with_images and not sight_of(tokenizer).blind
    if sees and crew.in_step:  # where a process has no images, it would not go through what sees
        raise ConfigError("Rows with images can't be trained on with shared out weights: use `sharding: none`.")
    # Weights that are shared out come to the device a layer at a time; the files are mapped, not read.
    loaded_on = torch.device("cpu") if crew.sharding == "fsdp2" else device
    how = {"load_in_4bit": config.load_in_4bit, "sees": sees, "trust": config.trusted}
    base = load_model(config.model, device=loaded_on, dtype=dtype, **how)
    check_tokens(base, tokenizer)
    if (longest := longest_row(base) or config.max_length) < config.max_length:
        log.warning("This model has positions for %d tokens, so max_length is lowered to that.", longest)
        config = config.replace(max_length=longest)
        prepared = prepare(rows, tokenizer, config, with_images)
    for line in prepared.remarks:
        log.info(line)
    return Loaded(config, tokenizer, prepared, base, dtype, device, sees)


@dataclass(frozen=True)
class Policy:
    """What is trained, and how it is scored.

    `as_reference`: the context in which the model is its own reference; `within`: runs work that sees whole weights.
    """

    model: nn.Module
    scorer: PaddedScorer
    as_reference: AsReference
    within: Callable[[Callable[[], Any]], Any]


def make_policy(loaded: Loaded, start: Path | None, crew: Crew) -> Policy:
    """Make the base model trainable, with a proof that its reference is what it is said to be.

    `start`: the adapter that it goes on from. Raises ModelError where processes would not compute the same.
    """
    config, base = loaded.config, loaded.base
    kernels = find_kernels(base, loaded.device) if config.fused_kernels == "auto" else None
    witness = proof.ask(base) if config.tuning == "lora" else None
    model = make_trainable(base, config, start)
    as_reference = adapter_off
    if config.reference == "start":
        keep_as_reference(model, start)
        as_reference = start_adapter_on
    elif config.tuning == "full":
        as_reference = as_it_is  # what can't be switched back to later must be asked before the first step
    if config.gradient_checkpointing:
        checkpoint_activations(model)
    if witness:
        proof.prove(model, witness, as_reference)
    within = at_once
    if crew.sharding == "fsdp2":
        within = shard(model, base_of(model)._no_split_modules or (), loaded.device, crew).within
    sight, looking = sight_of(loaded.tokenizer), loaded.prepared.looking
    scorer = make_scorer(model, kernels, sight=sight, prompts=looking, within=within)
    if len(ways := set(crew.gather(scorer.way))) > 1:
        raise ModelError(f"The processes find different ways of scoring this model right ({', '.join(sorted(ways))}).")
    return Policy(model, scorer, as_reference, within)
