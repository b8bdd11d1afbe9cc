"""Norms, rotary embeddings and SwiGLU as one kernel each: liger-kernel's, where it is installed and a GPU is there.

Liger knows a list of families. It puts other names into the file that a model's class is from (its rotary embedding),
and other methods on the model's own layers. Both are noted here, so that they can be taken back: `trial.py` asks the
model itself what is right before it tries the kernels. Liger's heads and losses stay out: ours never has all logits.
"""

import importlib.util
import logging
import sys
from typing import Any

import torch
from transformers import PreTrainedModel

from kto_workbench.feedback.rendering import short_reason

log = logging.getLogger(__name__)

_NOTHING = object()


class Kernels:
    """Liger's changes to a model, turned on or off; off at first."""

    def __init__(self, model: PreTrainedModel) -> None:
        """Note what liger changes. Raises what liger raises, with nothing changed."""
        from liger_kernel.transformers.monkey_patch import _apply_liger_kernel_to_instance

        places = {id(place): place for m in model.modules() for place in (m, type(m))}
        places[0] = sys.modules[type(model).__module__]
        before = {key: dict(vars(place)) for key, place in places.items()}
        self.on = False
        self._changes: list[tuple[Any, str, Any, Any]] = []
        try:
            _apply_liger_kernel_to_instance(model=model, cross_entropy=False, fused_linear_cross_entropy=False)
        finally:
            for key, place in places.items():
                for name, new in list(vars(place).items()):
                    if new is not (was := before[key].get(name, _NOTHING)):
                        self._changes.append((place, name, was, new))
            self.on = True
            self.turn(False)

    def __len__(self) -> int:
        """How many changes there are; none for a family that liger does not know."""
        return len(self._changes)

    def turn(self, on: bool) -> None:
        """Let the model compute with the kernels, or by itself again."""
        if on == self.on:
            return
        for place, name, was, new in self._changes:
            if (value := new if on else was) is _NOTHING:
                delattr(place, name)
            else:
                setattr(place, name, value)
        self.on = on


def find_kernels(model: PreTrainedModel, device: torch.device) -> Kernels | None:
    """Liger's kernels for a model, turned off; None without a GPU, without liger, or for a family that it doesn't know.

    Where liger fails, the log says so, and the model computes by itself.
    """
    if device.type != "cuda" or importlib.util.find_spec("liger_kernel") is None:
        return None
    try:
        kernels = Kernels(model)
    except Exception as error:  # of another version, or a family that is no longer as it knows it
        log.warning("liger-kernel is not used: %s.", short_reason(error))
        return None
    return kernels if len(kernels) else None
