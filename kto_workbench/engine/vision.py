"""Models that see: what of them is language, and what they are given beside tokens.

Only the language side is trained: the vision tower, and the projector that leads from it, stay what they are, and
nothing is kept of them for a backward pass.
"""

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, PreTrainedConfig, PreTrainedModel

from kto_workbench.engine.batches import Pair
from kto_workbench.feedback.sight import Look, Sight


def class_for(config: PreTrainedConfig, sees: bool) -> Any:
    """The class to load a model with: the whole of one that is to see, or that transformers has no other class of."""
    if type(config) in AutoModelForImageTextToText._model_mapping.keys():
        if sees or type(config) not in AutoModelForCausalLM._model_mapping.keys():
            return AutoModelForImageTextToText
    return AutoModelForCausalLM


def besides_language(model: PreTrainedModel) -> list[str]:
    """Names of the modules with weights of a model that are no part of its language side; none for most models."""
    if model.config.get_text_config() is model.config:
        return []
    language = set(model.get_decoder().modules()) | {model.get_output_embeddings()}
    if model in language:
        return []
    return [
        name
        for name, module in model.named_modules()
        if module not in language and next(module.parameters(recurse=False), None) is not None
    ]


def freeze_besides_language(model: PreTrainedModel) -> None:
    """Leave the language side alone to be trained."""
    for name in besides_language(model):
        for parameter in model.get_submodule(name).parameters(recurse=False):
            parameter.requires_grad_(False)


def seen(pairs: Sequence[Pair], sight: Sight, width: int, model: PreTrainedModel) -> dict[str, Tensor]:
    """What a model is given beside the ids and the mask of rows with images, which are `width` tokens wide.

    Raises ModelError.
    """
    looks = [pair.look for pair in pairs]
    return _given(sight, looks, [0] * len(looks), width, model)


def seen_on_the_left(looks: Sequence[Look], sight: Sight, width: int, model: PreTrainedModel) -> dict[str, Tensor]:
    """The same for prompts that end where the row ends, as they are answered."""
    return _given(sight, looks, [width - look.size for look in looks], width, model)


def _given(
    sight: Sight, looks: Sequence[Look], starts: Sequence[int], width: int, model: PreTrainedModel
) -> dict[str, Tensor]:
    device = next(model.parameters()).device
    of_tokens, others = sight.numbers(looks)
    given: dict[str, Tensor] = {}
    for name, values in of_tokens.items():
        wide = torch.zeros(len(looks), width, dtype=torch.long)
        for i, (look, start) in enumerate(zip(looks, starts, strict=True)):
            wide[i, start : start + look.size] = torch.from_numpy(values[i, : look.size])
        given[name] = wide.to(device)
    for name, values in others.items():
        tensor = torch.from_numpy(values)
        given[name] = tensor.to(device, model.dtype if tensor.is_floating_point() else None)
    return given


def can_keep_logits(model: nn.Module) -> bool:
    """Whether a model can be asked for the logits of its last tokens alone."""
    return "logits_to_keep" in inspect.signature(model.forward).parameters
