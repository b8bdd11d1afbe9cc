"""LoRA's forward and backward with nothing of the layer's output size made twice.

peft computes `base(x) + lora_B(lora_A(x)) * scaling`: three temporaries as large as the layer's output, and as many in
the backward pass. The matrix products are the same here, but they add onto one tensor. What is taught to the optimizer,
saved and loaded stays peft's: only the forward of its plain linear layers changes, and only where it is the same.
"""

from typing import Any

import torch
from peft.tuners.lora import Linear as LoraLinear
from torch import Tensor, nn


class FusedLoraLinear(LoraLinear):
    """peft's LoRA layer over a plain `nn.Linear`, its products added in place."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """[..., in] → [..., out]."""
        active = self.active_adapters
        if self.disable_adapters or self.merged or len(active) != 1 or args or kwargs:
            return super().forward(x, *args, **kwargs)
        name = active[0]
        base, a, b = self.base_layer, self.lora_A[name].weight, self.lora_B[name].weight
        dropout = self.lora_dropout[name]
        kind = x.device.type
        cast = torch.is_autocast_enabled(kind) and torch.get_autocast_dtype(kind) != x.dtype
        same = x.dtype == base.weight.dtype == a.dtype
        if cast or not same or (self.training and getattr(dropout, "p", 0.0)) or name in self.lora_variant:
            return super().forward(x)
        return _FusedLora.apply(x, base.weight, base.bias, a, b, self.scaling[name])


class _FusedLora(torch.autograd.Function):
    """y = x Wᵀ + bias + s (x Aᵀ) Bᵀ, with gradients for x, A and B; W and its bias are frozen."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, scaling: float
    ) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        low = rows @ a.t()
        y = rows @ weight.t() if bias is None else torch.addmm(bias, rows, weight.t())
        y.addmm_(low, b.t(), alpha=scaling)
        ctx.save_for_backward(rows, low, weight, a, b)
        ctx.scaling, ctx.shape = scaling, x.shape
        return y.view(*x.shape[:-1], y.shape[-1])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        rows, low, weight, a, b = ctx.saved_tensors
        grad = grad.reshape(-1, grad.shape[-1])
        grad_low = grad @ b
        grad_low *= ctx.scaling
        grad_b = (grad.t() @ low).mul_(ctx.scaling)
        grad_a = grad_low.t() @ rows
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = grad @ weight
            grad_x = grad_x.addmm_(grad_low, a).view(ctx.shape)
        return grad_x, None, None, grad_a, grad_b, None


def fuse(model: nn.Module) -> int:
    """Let every plain LoRA layer of a peft model compute in place; returns how many there are."""
    count = 0
    for module in model.modules():
        if (
            type(module) is LoraLinear
            and type(module.base_layer) is nn.Linear
            and not module.base_layer.weight.requires_grad
        ):
            module.__class__ = FusedLoraLinear
            count += 1
    return count
