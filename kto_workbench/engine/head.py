"""Log-probabilities from hidden states without ever holding the full logits.

Logits of a vocabulary of 128,000 for one batch are gigabytes. Here they exist for a chunk of tokens at a time; the
gradient with respect to the hidden state is computed beside the log-probability, and the backward pass only multiplies
it by the token's scalar: two matrix products a token, no second look at the weight.
"""

import functools
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from kto_workbench.engine.passes import free_memory
from kto_workbench.runs.memory import HEAD_CHUNK

# Logits alive at once, in elements, are runs.memory.HEAD_CHUNK: small enough for a CPU's caches, large enough to keep a
# GPU busy. Where a GPU is nearly full they may take a quarter of what is left, but not less than this.
FEWEST = 2**22
# Bytes of an element at its peak: logits and their exponential in float32, both in bfloat16 beside a matrix product.
BYTES = 12


@dataclass(frozen=True)
class Head:
    """How a model turns hidden states into logits: softcap(scale · (hidden @ weight.T + bias)).

    `weight` is [V, H]; `scale` is Granite's 1 / logits_scaling or Cohere's logit_scale; `softcap` is Gemma's.
    """

    weight: Tensor
    bias: Tensor | None = None
    scale: float = 1.0
    softcap: float | None = None

    @classmethod
    def of(cls, model: nn.Module) -> "Head | None":
        """The head of a causal language model; None if it is not a plain linear layer."""
        linear = model.get_output_embeddings()
        if type(linear) is not nn.Linear:
            return None
        config = model.config.get_text_config()
        scale = 1.0
        if getattr(config, "logits_scaling", None):
            scale = 1.0 / config.logits_scaling
        elif getattr(config, "logit_scale", None):
            scale = float(config.logit_scale)
        return cls(linear.weight, linear.bias, scale, getattr(config, "final_logit_softcapping", None))

    def logits(self, hidden: Tensor) -> Tensor:
        """[n, H] → [n, V] in float32."""
        hidden = hidden.to(self.weight.dtype)
        if hidden.dtype == torch.bfloat16 and has_float32_product(hidden.device.type):
            logits = _Float32Product.apply(hidden, self.weight)
            if self.bias is not None:
                logits = logits + self.bias
        else:
            logits = nn.functional.linear(hidden, self.weight, self.bias).float()
        if self.scale != 1.0:
            logits = logits * self.scale
        if self.softcap:
            logits = self.softcap * torch.tanh(logits / self.softcap)
        return logits


def token_logps(head: Head, hidden: Tensor, targets: Tensor, *, entropy: bool = False) -> tuple[Tensor, Tensor | None]:
    """Log π(target) of each token.

    Args:
        head: the model's head.
        hidden: [n, H] hidden states, each at the position that predicts its target.
        targets: [n] token ids.
        entropy: also return the entropy of each next-token distribution.

    Returns:
        logps [n] in float32, differentiable with respect to `hidden` and to the head, if that is trained; entropies
        [n] in nats, detached, or None.
    """
    if head.weight.requires_grad and torch.is_grad_enabled():
        return _trained_head_logps(head, hidden, targets, entropy)
    return _TokenLogps.apply(hidden, head, targets, entropy)


def _chunk(head: Head, hidden: Tensor) -> int:
    """Tokens whose logits may be alive at once."""
    elements = HEAD_CHUNK.get(hidden.device.type, 2**24)
    if hidden.device.type == "cuda":
        elements = fitting(elements, free_memory(hidden.device))
    return max(1, elements // head.weight.shape[0])


def fitting(elements: int, free: int) -> int:
    """So many elements, or as many as fit into a quarter of the free bytes."""
    return min(elements, max(FEWEST, free // 4 // BYTES))


def _trained_head_logps(head: Head, hidden: Tensor, targets: Tensor, entropy: bool) -> tuple[Tensor, Tensor | None]:
    """The same where the head learns too: its chunks are computed again in the backward pass."""

    def of_chunk(hidden: Tensor, targets: Tensor) -> Tensor:
        logits = head.logits(hidden)
        return logits.gather(-1, targets[:, None]).squeeze(-1) - logits.logsumexp(-1)

    size = _chunk(head, hidden)
    pieces = zip(hidden.split(size), targets.split(size), strict=True)
    logps = torch.cat([checkpoint(of_chunk, *piece, use_reentrant=False) for piece in pieces])
    if not entropy:
        return logps, None
    with torch.no_grad():
        return logps, _TokenLogps.apply(hidden, head, targets, True)[1]


@functools.cache
def has_float32_product(device: str) -> bool:
    """Whether torch gives the product of bfloat16 matrices in float32, as it is summed, instead of rounding it first.

    That rounding moves a logit of 20 by up to 0.06. CUDA has it since torch 2.8; CPUs don't.
    """
    one = torch.ones(16, 16, dtype=torch.bfloat16, device=device)
    try:
        return torch.mm(one, one, out_dtype=torch.float32).dtype == torch.float32
    except (RuntimeError, TypeError):  # NotImplementedError is a RuntimeError
        return False


class _Float32Product(torch.autograd.Function):
    """[n, H], [V, H] → [n, V], which torch has no derivative for."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(hidden, weight)
        return torch.mm(hidden, weight.T, out_dtype=torch.float32)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        hidden, weight = ctx.saved_tensors
        grad = grad.to(weight.dtype)
        return (
            grad @ weight if ctx.needs_input_grad[0] else None,
            grad.T @ hidden if ctx.needs_input_grad[1] else None,
        )


class _TokenLogps(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, head: Head, targets: Tensor, entropy: bool) -> tuple[Tensor, Tensor | None]:
        n, needs_grad = hidden.shape[0], ctx.needs_input_grad[0]
        logps = torch.empty(n, dtype=torch.float32, device=hidden.device)
        entropies = torch.empty_like(logps) if entropy else None
        gradient = torch.empty_like(hidden) if needs_grad else None
        size = _chunk(head, hidden)
        for start in range(0, n, size):
            part = slice(start, start + size)
            logits = head.logits(hidden[part])
            target = targets[part, None]
            # d(softcap(s)) / ds = 1 − (softcap(s) / cap)²
            slope = 1 - (logits / head.softcap) ** 2 if needs_grad and head.softcap else None
            # A vocabulary is long: what follows goes over it as seldom as it can, and in place.
            of_target, peak = logits.gather(-1, target), logits.amax(-1, keepdim=True)
            logits.sub_(peak)
            shifted = logits.clone() if entropy else None
            exponentials = logits.exp_()
            total = exponentials.sum(-1, keepdim=True)
            # In the order of torch's logsumexp, which a trained head takes: so equal weights give equal bits.
            logps[part] = (of_target - (total.log() + peak)).squeeze(-1)
            if entropy:
                entropies[part] = (total.log() - exponentials.mul(shifted).sum(-1, keepdim=True) / total).squeeze(-1)
            if needs_grad:
                # d logp / d logits = onehot(target) − softmax, here times −total
                exponentials.scatter_add_(-1, target, -total)
                if slope is not None:
                    exponentials *= slope
                product = (exponentials.to(head.weight.dtype) @ head.weight).to(torch.float32)
                gradient[part] = product.mul_(-head.scale / total).to(hidden.dtype)
        if needs_grad:
            ctx.save_for_backward(gradient)
        if entropies is not None:
            ctx.mark_non_differentiable(entropies)
        return logps, entropies

    @staticmethod
    def backward(ctx: Any, grad_logps: Tensor, _: Tensor | None) -> tuple[Tensor, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * grad_logps[:, None].to(gradient.dtype), None, None, None
