"""LoRA's forward and backward with nothing of the layer's output size made twice.

peft computes `base(x) + lora_B(lora_A(x)) * scaling`: three temporaries as large as the layer's output, and as many in
the backward pass; and a float32 adapter on a bfloat16 model keeps a float32 copy of every input. The matrix products
are the same here, but they add onto one tensor, in the dtype of the model. What is taught to the optimizer, saved and
loaded stays peft's: only the forward of its plain and its 4-bit linear layers changes, and only where it is the same.
"""

from typing import Any

import torch
from peft.import_utils import is_bnb_4bit_available
from peft.tuners.lora import Linear as LoraLinear
from torch import Tensor, nn


class _Fused:
    """What both kinds of layers share; stands before peft's class."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """[..., in] → [..., out]."""
        active = self.active_adapters
        if self.disable_adapters or self.merged or len(active) != 1 or args or kwargs:
            return super().forward(x, *args, **kwargs)
        name = active[0]
        if name in self.lora_variant or name not in self.lora_A or self.lora_B[name].bias is not None:
            return super().forward(x)
        a, b, dropout = self.lora_A[name].weight, self.lora_B[name].weight, self.lora_dropout[name]
        kind = x.device.type
        if torch.is_autocast_enabled(kind):
            # As autocast would: a float32 adapter computes in the bfloat16 of the model that it is on.
            x, a, b = (t.to(torch.get_autocast_dtype(kind)) for t in (x, a, b))
        same = x.dtype == a.dtype == self.base_dtype
        if not same or (self.training and getattr(dropout, "p", 0.0)):
            return super().forward(x)
        return self.add_up(x, a, b, self.scaling[name])


class FusedLoraLinear(_Fused, LoraLinear):
    """peft's LoRA layer over a plain `nn.Linear`, its products added in place."""

    @property
    def base_dtype(self) -> torch.dtype:
        """What the base layer computes in."""
        return self.base_layer.weight.dtype

    def add_up(self, x: Tensor, a: Tensor, b: Tensor, scaling: float) -> Tensor:
        """Base and adapter."""
        return _FusedLora.apply(x, self.base_layer.weight, self.base_layer.bias, a, b, scaling)


FUSED: dict[type, type] = {LoraLinear: FusedLoraLinear}
BASES: set[type] = {nn.Linear}

if is_bnb_4bit_available():
    from bitsandbytes.nn import Linear4bit
    from peft.tuners.lora.bnb import Linear4bit as Lora4bit

    class FusedLora4bit(_Fused, Lora4bit):
        """peft's LoRA layer over bitsandbytes' 4-bit one: the adapter's product is added onto what that returns."""

        @property
        def base_dtype(self) -> torch.dtype | None:
            """What the base layer computes in."""
            return self.base_layer.compute_dtype

        def add_up(self, x: Tensor, a: Tensor, b: Tensor, scaling: float) -> Tensor:
            """Base and adapter."""
            return _AddedLora.apply(self.base_layer(x), x, a, b, scaling)

    FUSED[Lora4bit] = FusedLora4bit
    BASES.add(Linear4bit)


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
        return y.resize_(*x.shape[:-1], y.shape[-1])  # not a view, which a model could not change in place

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        rows, low, weight, a, b = ctx.saved_tensors
        grad = grad.reshape(-1, grad.shape[-1])
        grad_low, grad_a, grad_b = _adapter_gradients(grad, rows, low, b, ctx.scaling)
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = grad @ weight
            grad_x = grad_x.addmm_(grad_low, a).view(ctx.shape)
        return grad_x, None, None, grad_a, grad_b, None


class _AddedLora(torch.autograd.Function):
    """y + s (x Aᵀ) Bᵀ, with gradients for y, x, A and B."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, x: Tensor, a: Tensor, b: Tensor, scaling: float) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        low = rows @ a.t()
        ctx.save_for_backward(rows, low, a, b)
        ctx.scaling, ctx.shape = scaling, x.shape
        return torch.addmm(y.view(-1, y.shape[-1]), low, b.t(), alpha=scaling).resize_(y.shape)

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
        rows, low, a, b = ctx.saved_tensors
        grad = grad_y.reshape(-1, grad_y.shape[-1])
        grad_low, grad_a, grad_b = _adapter_gradients(grad, rows, low, b, ctx.scaling)
        return grad_y, (grad_low @ a).view(ctx.shape), grad_a, grad_b, None


def _adapter_gradients(
    grad: Tensor, rows: Tensor, low: Tensor, b: Tensor, scaling: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of s (x Aᵀ) Bᵀ with respect to x Aᵀ, A and B."""
    grad_low = grad @ b
    grad_low *= scaling
    return grad_low, grad_low.t() @ rows, (grad.t() @ low).mul_(scaling)


def fuse(model: nn.Module) -> int:
    """Let every LoRA layer of a peft model compute in place where it can; returns how many there are."""
    count = 0
    for module in model.modules():
        fused = FUSED.get(type(module))
        if fused and type(module.base_layer) in BASES and not _is_trained(module.base_layer):
            module.__class__ = fused
            count += 1
    return count


def _is_trained(layer: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in layer.parameters())


def unfuse(model: nn.Module) -> int:
    """Let the layers compute as peft does again; returns how many there are."""
    plain = {fused: kind for kind, fused in FUSED.items()}
    layers = [module for module in model.modules() if type(module) in plain]
    for module in layers:
        module.__class__ = plain[type(module)]
    return len(layers)
