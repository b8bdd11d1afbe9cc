"""Optimizers for bfloat16 weights: the weights that train are float32 copies, the model sees them rounded.

A bfloat16 weight has 8 bits of mantissa: an update smaller than 1/256 of it is lost. Kept in float32 it adds up, while
the activations that the adapter saves stay half as large.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from kto_workbench.runs.memory import MASTERS_AT_ONCE


class _Masters:
    """Stands before an optimizer's class: it steps float32 masters of `params`, which are rounded back into them."""

    def __init__(self, params: Iterable[Tensor], **options: Any) -> None:
        self._model_params = list(params)
        super().__init__([p.detach().clone().float() for p in self._model_params], **options)

    @property
    def masters(self) -> list[Tensor]:
        """The float32 weights, in the order of the parameters."""
        return [p for group in self.param_groups for p in group["params"]]

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One step on the masters, with the gradients of the model's parameters.

        A few of them at a time: all gradients in float32, and what AdamW makes of them on its way, would take eight
        more bytes a weight. The optimizer passes over masters without a gradient.
        """
        loss = None if closure is None else closure()
        for part in self._parts():
            for master, p in part:
                master.grad = None if p.grad is None else p.grad.float()
            super().step()
            for master, p in part:
                master.grad = None
                p.copy_(master)
        return loss

    def _parts(self) -> Iterator[list[tuple[Tensor, Tensor]]]:
        """Masters with their parameters, so many at a time that they hold about MASTERS_AT_ONCE weights."""
        part: list[tuple[Tensor, Tensor]] = []
        for pair in zip(self.masters, self._model_params, strict=True):
            if part and sum(master.numel() for master, _ in part) + pair[0].numel() > MASTERS_AT_ONCE:
                yield part
                part = []
            part.append(pair)
        yield part

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients of the model's parameters."""
        for p in self._model_params:
            p.grad = None

    def state_dict(self) -> dict[str, Any]:
        """The optimizer's state with the masters, which the rounded weights can't give back."""
        return {**super().state_dict(), "masters": [m.detach().cpu() for m in self.masters]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up a state with its masters."""
        state_dict = dict(state_dict)
        masters = state_dict.pop("masters")
        super().load_state_dict(state_dict)
        with torch.no_grad():
            for master, saved in zip(self.masters, masters, strict=True):
                master.copy_(saved)


class MasterAdamW(_Masters, torch.optim.AdamW):
    """torch's AdamW over float32 masters."""


def master_optimizer(optim: str) -> type[torch.optim.Optimizer]:
    """The optimizer of an `optim` option over float32 masters."""
    if optim == "adamw":
        return MasterAdamW
    from bitsandbytes.optim import PagedAdamW8bit

    return type("MasterPagedAdamW8bit", (_Masters, PagedAdamW8bit), {})
