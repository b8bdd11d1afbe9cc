"""Attention over a packed batch: many sequences one behind another, no padding, prompts' keys and values kept.

Registered with transformers as an attention implementation of its own, so any model whose attention goes through its
AttentionInterface can use it. Without a `ragged` argument (generation, plain forward passes) it is ordinary SDPA.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

NAME = "kto_ragged"

# One kernel for all sequences of a pass, on GPUs that have it. `scoring.make_scorer` tries it on short sequences and
# switches it off where it fails or disagrees: the loop of SDPA calls is right everywhere.
varlen = {"enabled": True}


@dataclass
class Ragged:
    """How the tokens of a packed forward pass hang together.

    `lengths`: tokens of each sequence, in order. `keep`: keys and values of each sequence's first so many tokens are
    put into `kept`, detached. `prefix`: such kept ones, that the sequences of this pass go on from.
    """

    lengths: list[int]
    keep: list[int] | None = None
    prefix: "dict[int, list[tuple[Tensor, Tensor]]] | None" = None
    kept: "dict[int, list[tuple[Tensor, Tensor]]]" = field(default_factory=dict)
    _starts: dict[str, Tensor] = field(default_factory=dict)

    def starts(self, name: str, lengths: list[int], device: torch.device) -> Tensor:
        """[n + 1] int32 where each sequence starts, and the end of the last; the same in every layer, so made once."""
        if name not in self._starts:
            ends = torch.tensor([0, *lengths]).cumsum(0).to(torch.int32)
            self._starts[name] = ends.to(device, non_blocking=True)
        return self._starts[name]


def _ragged_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    ragged: Ragged | None = None,
    is_causal: bool | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attention of `query` [1, heads, T, D] over `key` and `value` [1, kv_heads, T, D]; returns [1, T, heads, D]."""
    if ragged is None:
        causal = (
            query.shape[2] > 1 and attention_mask is None and (module.is_causal if is_causal is None else is_causal)
        )
        out = _attend(query, key, value, attention_mask, causal, scaling, softcap)
        return out.transpose(1, 2).contiguous(), None
    layer, outputs, start = module.layer_idx, [], 0
    if ragged.keep is not None:
        ragged.kept[layer] = []
    in_one = varlen["enabled"] and query.is_cuda and softcap is None and query.dtype in (torch.bfloat16, torch.float16)
    keys, values = [], []
    for i, length in enumerate(ragged.lengths):
        part = slice(start, start + length)
        start += length
        q, k, v = query[:, :, part], key[:, :, part], value[:, :, part]
        if ragged.keep is not None:
            kept = slice(0, ragged.keep[i])
            ragged.kept[layer].append((k[:, :, kept].detach(), v[:, :, kept].detach()))
        if ragged.prefix is not None:
            k_before, v_before = ragged.prefix[layer][i]
            k, v = torch.cat([k_before, k], dim=2), torch.cat([v_before, v], dim=2)
        if in_one:
            keys.append(k)
            values.append(v)
        else:
            outputs.append(_attend_causally(q, k, v, scaling, softcap, sliding_window))
    if in_one:
        return _attend_in_one(query, keys, values, ragged, scaling, sliding_window), None
    return torch.cat(outputs, dim=2).transpose(1, 2).contiguous(), None


def _attend_in_one(
    query: Tensor, keys: list[Tensor], values: list[Tensor], ragged: Ragged, scaling: float | None, window: int | None
) -> Tensor:
    """The same with torch's variable-length kernel, whose causal mask is aligned at the sequences' ends."""
    from torch.nn.attention.varlen import varlen_attn

    k, v = torch.cat(keys, dim=2), torch.cat(values, dim=2)
    q, k, v = (t[0].transpose(0, 1).contiguous() for t in (query, k, v))
    key_lengths = [t.shape[2] for t in keys]
    out = varlen_attn(
        q,
        k,
        v,
        ragged.starts("q", ragged.lengths, query.device),
        ragged.starts("k", key_lengths, query.device),
        max(ragged.lengths),
        max(key_lengths),
        scale=scaling,
        window_size=(-1 if window is None else window - 1, 0),
        enable_gqa=q.shape[1] != k.shape[1],
    )
    return out[None]


def _attend_causally(
    q: Tensor, k: Tensor, v: Tensor, scaling: float | None, softcap: float | None, window: int | None
) -> Tensor:
    """Causal attention of one sequence's last tokens q over all its k and v, over at most `window` of them."""
    n_q, n_k = q.shape[2], k.shape[2]
    windowed = window is not None and n_k > window
    if n_q == n_k and not windowed:
        return _attend(q, k, v, None, True, scaling, softcap)
    if n_q == 1 and not windowed:
        return _attend(q, k, v, None, False, scaling, softcap)
    at = torch.arange(n_k - n_q, n_k, device=q.device)[:, None]
    seen = torch.arange(n_k, device=q.device)[None]
    mask = seen <= at
    if windowed:
        mask &= seen > at - window
    return _attend(q, k, v, mask, False, scaling, softcap)


def _attend(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool, scaling: float | None, softcap: float | None
) -> Tensor:
    grouped = q.shape[1] != k.shape[1]
    if softcap is None:
        return F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=causal, scale=scaling, enable_gqa=grouped
        )
    # Gemma 2 squeezes its scores through tanh, which SDPA has no place for.
    if grouped:
        k, v = (t.repeat_interleave(q.shape[1] // k.shape[1], dim=1) for t in (k, v))
    scores = q @ k.transpose(-1, -2) * (q.shape[-1] ** -0.5 if scaling is None else scaling)
    scores = softcap * torch.tanh(scores / softcap)
    if causal:
        mask = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool, device=q.device).tril()
    if mask is not None:
        # Not −∞: a padding token of a padded batch may see nothing at all, and must not become NaN.
        lowest = torch.finfo(scores.dtype).min
        scores = scores.masked_fill(~mask, lowest) if mask.dtype == torch.bool else scores + mask
    return scores.softmax(-1, dtype=torch.float32).to(q.dtype) @ v


def register() -> str:
    """Make the implementation known to transformers; returns the name to pass as `attn_implementation`."""
    AttentionInterface.register(NAME, _ragged_attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    return NAME
