"""Attention over a packed batch: many sequences one behind another, no padding, prompts' keys and values kept.

Registered with transformers as an attention implementation of its own, so any model whose attention goes through its
AttentionInterface can use it. How a layer's tokens see each other (all before, a window, chunks) is what the model asks
of transformers' masks: in a packed pass they are `Packed` objects instead of tensors. Nothing is dropped: what this
attention does not know raises NotKnown, and `trial.py` then leaves the model its own attention. Outside of packed
passes (generation, padded batches) it is ordinary SDPA.
"""

import contextlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

NAME = "kto_ragged"

# One kernel for all sequences of a pass, on GPUs that have it. `scoring.make_scorer` tries it on short sequences and
# switches it off where it fails or disagrees: the loop of SDPA calls is right everywhere.
varlen = {"enabled": True}


# Where no kernel computes them: scores that exist at once, for which a part of the queries is taken at a time, and
# scores that are kept for the backward pass. More are computed again there: those of all layers and sequences would be
# the most of a training's memory.
SCORES, KEPT_SCORES = 2**24, 2**18

# What models hand down to their attention that changes nothing of it: what a call returns, and what its mask says too.
BOOKKEEPING = {
    "cache_position", "logits_to_keep", "output_attentions", "output_hidden_states", "output_router_logits",
    "position_ids", "return_dict", "sliding_window", "use_cache",
}  # fmt: skip


class NotKnown(Exception):
    """A model asks something of its attention that this one does not know; the message says what."""


@dataclass
class Ragged:
    """How the tokens of a packed forward pass hang together.

    `lengths`: tokens of each sequence, in order. `before`: for each sequence None, or (s, n) where it goes on from the
    first n tokens of sequence s: one of this pass, or, with `prefix`, the s-th that an earlier pass has kept. `keep`:
    the (s, n) whose keys and values are put into `kept`, detached, layer by layer. `tails`: of how many last tokens of
    each sequence the last hidden states are read; None for all.
    """

    lengths: list[int]
    before: list[tuple[int, int] | None] | None = None
    keep: list[tuple[int, int]] | None = None
    prefix: "dict[int, list[tuple[Tensor, Tensor]]] | None" = None
    tails: list[int] | None = None
    kept: "dict[int, list[tuple[Tensor, Tensor]]]" = field(default_factory=dict)
    _starts: dict[str, Tensor] = field(default_factory=dict)
    _masks: dict[tuple[int, int], Tensor] = field(default_factory=dict)
    _read: Tensor | None = None

    def starts(self, name: str, lengths: list[int], device: torch.device) -> Tensor:
        """[n + 1] int32 where each sequence starts, and the end of the last; the same in every layer, so made once."""
        if name not in self._starts:
            ends = torch.tensor([0, *lengths]).cumsum(0).to(torch.int32)
            self._starts[name] = ends.to(device, non_blocking=True)
        return self._starts[name]

    def read(self, device: torch.device) -> Tensor:
        """[n] int64 the places of the tokens whose last hidden states are read, ascending."""
        if self._read is None:
            ends = itertools.accumulate(self.lengths)
            places = [p for end, tail in zip(ends, self.tails, strict=True) for p in range(end - tail, end)]
            self._read = to_device(places, device)
        return self._read

    def mask(self, n_q: int, n_k: int, like: Tensor) -> Tensor:
        """[n_q, n_k] what the last of n_k tokens do not see of them, as −∞ in the dtype of queries; made once, too."""
        if (n_q, n_k) not in self._masks:
            hidden = torch.full((n_q, n_k), -torch.inf, dtype=like.dtype, device=like.device)
            self._masks[n_q, n_k] = hidden.triu_(n_k - n_q + 1)
        return self._masks[n_q, n_k]


@dataclass(frozen=True)
class Packed:
    """What a layer gets as its mask in a packed pass.

    `seen` tells for positions (batch, head, query, key) in one sequence what is visible, and differs from plain
    causality only for sequences longer than `size`; None is never. `window`: it is a sliding window of so many tokens.
    `tails`: only the tokens that are read from the last layer ask anything; the others get zeros.
    """

    ragged: Ragged
    seen: Callable[..., Tensor]
    size: int | None = None
    window: int | None = None
    tails: bool = False


def to_device(numbers: Sequence[int], device: torch.device) -> Tensor:
    """A list of integers as a tensor on the device, without making the host wait for it."""
    tensor = torch.tensor(numbers, dtype=torch.long)
    return tensor if device.type == "cpu" else tensor.pin_memory().to(device, non_blocking=True)


_packing: ContextVar[Ragged | None] = ContextVar("packing", default=None)


@contextlib.contextmanager
def packing(ragged: Ragged) -> Iterator[None]:
    """The model's forward pass in this context is one over packed sequences.

    Give it an attention mask of two dimensions: without one, transformers would look for packed sequences itself.
    """
    token = _packing.set(ragged)
    try:
        yield
    finally:
        _packing.reset(token)


def _mask(
    *,
    mask_function: Callable[..., Tensor],
    local_size: int | None = None,
    allow_is_causal_skip: bool = True,
    config: Any = None,
    **rest: Any,
) -> Packed | Tensor | None:
    """The mask that transformers asks for: for packed sequences a description, else a tensor as for SDPA."""
    ragged = _packing.get()
    if ragged is None:
        return sdpa_mask(
            mask_function=mask_function, local_size=local_size, allow_is_causal_skip=allow_is_causal_skip, **rest
        )
    if not allow_is_causal_skip:  # so transformers says that this is not causality within a window or chunk
        raise NotKnown("its attention mask is of a kind of its own")
    windowed = local_size is not None and local_size == getattr(config, "sliding_window", None)
    chunked = local_size is not None and local_size == getattr(config, "attention_chunk_size", None)
    return Packed(ragged, mask_function, local_size, local_size if windowed and not chunked else None)


def _ragged_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Packed | Tensor | None,
    *,
    scaling: float | None = None,
    dropout: float = 0.0,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    is_causal: bool | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Attention of `query` [n, heads, T, D] over `key` and `value` [n, kv_heads, T, D]; returns [n, T, heads, D].

    `s_aux` [heads] are sinks: one more score in each softmax, for nothing. Raises NotKnown.
    """
    unknown = sorted(name for name in others.keys() - BOOKKEEPING if others[name] is not None)
    if unknown or dropout:
        raise NotKnown(f"its attention takes {', '.join(unknown) or 'dropout'}")
    if not isinstance(attention_mask, Packed):
        if _packing.get() is not None:
            raise NotKnown("it makes its attention masks by itself")
        if softcap is None and s_aux is None:
            return sdpa_attention_forward(
                module, query, key, value, attention_mask, scaling=scaling, is_causal=is_causal
            )
        causal = (
            query.shape[2] > 1 and attention_mask is None and (module.is_causal if is_causal is None else is_causal)
        )
        out = _attend(query, key, value, attention_mask, causal, scaling, softcap, s_aux)
        return out.transpose(1, 2).contiguous(), None
    if is_causal is False:
        raise NotKnown("a layer of it is not causal")
    packed, ragged = attention_mask, attention_mask.ragged
    if packed.tails:
        read = ragged.read(query.device)
        out = _attend_packed(module, query.index_select(2, read), key, value, packed, scaling, softcap, s_aux)
        return out.new_zeros(1, query.shape[2], *out.shape[2:]).index_copy(1, read, out), None
    return _attend_packed(module, query, key, value, packed, scaling, softcap, s_aux), None


def _attend_packed(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    packed: Packed,
    scaling: float | None,
    softcap: float | None,
    s_aux: Tensor | None,
) -> Tensor:
    """[1, n, heads, D] for queries of a packed pass: those of all its tokens, or of its tails."""
    ragged = packed.ragged
    lengths = ragged.tails if packed.tails else ragged.lengths
    in_one = (
        varlen["enabled"]
        and query.is_cuda
        and query.dtype in (torch.bfloat16, torch.float16)
        and softcap is None
        and s_aux is None
        and packed.size == packed.window
    )
    if in_one and ragged.before is None and ragged.keep is None:
        return _attend_in_one(query, key, value, lengths, ragged.lengths, packed, scaling)
    keys, values = _with_what_is_before(module.layer_idx, key, value, ragged)
    if in_one:
        k, v = torch.cat(keys, dim=2), torch.cat(values, dim=2)
        return _attend_in_one(query, k, v, lengths, [k.shape[2] for k in keys], packed, scaling)
    outputs = [
        _attend_causally(q, k, v, packed, scaling, softcap, s_aux)
        for q, k, v in zip(query.split(lengths, dim=2), keys, values, strict=True)
    ]
    return torch.cat(outputs, dim=2).transpose(1, 2).contiguous()


def _with_what_is_before(layer: int, key: Tensor, value: Tensor, ragged: Ragged) -> tuple[list[Tensor], list[Tensor]]:
    """All keys and values that each sequence sees; those to keep are put aside."""
    # One split instead of slices, whose backward would fill all keys with zeros once for each sequence.
    own = list(zip(key.split(ragged.lengths, dim=2), value.split(ragged.lengths, dim=2), strict=True))
    if ragged.keep is not None:
        ragged.kept[layer] = [(own[s][0][:, :, :n].detach(), own[s][1][:, :, :n].detach()) for s, n in ragged.keep]
    seen = own
    if ragged.before is not None:
        earlier = own if ragged.prefix is None else ragged.prefix[layer]
        seen = []
        for (k, v), before in zip(own, ragged.before, strict=True):
            if before is not None:
                s, n = before
                k, v = torch.cat([earlier[s][0][:, :, :n], k], dim=2), torch.cat([earlier[s][1][:, :, :n], v], dim=2)
            seen.append((k, v))
    keys, values = zip(*seen, strict=True)
    return list(keys), list(values)


def _attend_in_one(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    lengths: list[int],
    key_lengths: list[int],
    packed: Packed,
    scaling: float | None,
) -> Tensor:
    """The same with torch's variable-length kernel, whose causal mask is aligned at the sequences' ends."""
    from torch.nn.attention.varlen import varlen_attn

    q, k, v = (t[0].transpose(0, 1).contiguous() for t in (query, key, value))
    out = varlen_attn(
        q,
        k,
        v,
        packed.ragged.starts("tails" if packed.tails else "q", lengths, query.device),
        packed.ragged.starts("k", key_lengths, query.device),
        max(lengths),
        max(key_lengths),
        scale=scaling,
        window_size=(-1 if packed.window is None else packed.window - 1, 0),
        enable_gqa=q.shape[1] != k.shape[1],
    )
    return out[None]


def _attend_causally(
    q: Tensor, k: Tensor, v: Tensor, packed: Packed, scaling: float | None, softcap: float | None, sinks: Tensor | None
) -> Tensor:
    """Attention of one sequence's last tokens q over all its k and v, as far as the mask lets them see."""
    n_q, n_k = q.shape[2], k.shape[2]
    plain = packed.size is None or n_k <= packed.size
    if plain and n_q in (1, n_k):
        return _attend(q, k, v, None, n_q > 1, scaling, softcap, sinks)
    if plain:
        return _attend(q, k, v, packed.ragged.mask(n_q, n_k, q), False, scaling, softcap, sinks)
    at = torch.arange(n_k, device=q.device)
    queries = at[n_k - n_q :, None]
    seen = packed.seen(at.new_zeros(()), at.new_zeros(()), queries, at)
    return _attend(q, k, v, seen, False, scaling, softcap, sinks)


def _attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    causal: bool,
    scaling: float | None,
    softcap: float | None,
    sinks: Tensor | None,
) -> Tensor:
    grouped = q.shape[1] != k.shape[1]
    written_out = softcap is not None or sinks is not None
    if grouped and (written_out or not _takes_groups(q.device.type, q.dtype, masked=mask is not None)):
        k, v = (t.repeat_interleave(q.shape[1] // k.shape[1], dim=1) for t in (k, v))
        grouped = False
    if not written_out:
        return F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=causal, scale=scaling, enable_gqa=grouped
        )
    # SDPA has no place for scores squeezed through tanh, nor for a sink beside them.
    n_q, n_k = q.shape[2], k.shape[2]
    of_a_query = q.shape[0] * q.shape[1] * n_k
    at_once = max(1, SCORES // of_a_query)
    outputs = []
    for start in range(0, n_q, at_once):
        part, here, seen = slice(start, start + at_once), mask, n_k
        if causal:
            seen = min(start + at_once, n_k)
            at = torch.arange(seen, device=q.device)
            here = at <= at[part, None]
        elif mask is not None and mask.shape[-2] > 1:
            here = mask[..., part, :]
        given = (q[:, :, part], k[:, :, :seen], v[:, :, :seen], here, scaling, softcap, sinks)
        if n_q * of_a_query <= min(SCORES, KEPT_SCORES):
            return _written_out(*given)
        outputs.append(checkpoint(_written_out, *given, use_reentrant=False, preserve_rng_state=False))
    return torch.cat(outputs, dim=2)


def _takes_groups(device: str, dtype: torch.dtype, *, masked: bool) -> bool:
    """Whether SDPA takes fewer heads of keys than of queries without having all scores at once.

    Of a GPU's kernels only the one for half precision without a mask does.
    """
    return device != "cuda" or dtype in (torch.bfloat16, torch.float16) and not masked


def _written_out(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    scaling: float | None,
    softcap: float | None,
    sinks: Tensor | None,
) -> Tensor:
    scores = q @ k.transpose(-1, -2) * (q.shape[-1] ** -0.5 if scaling is None else scaling)
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    if mask is not None:
        # Not −∞: a padding token of a padded batch may see nothing at all, and must not become NaN.
        lowest = torch.finfo(scores.dtype).min
        scores = scores.masked_fill(~mask, lowest) if mask.dtype == torch.bool else scores + mask
    if sinks is not None:
        scores = torch.cat([scores, sinks.to(scores.dtype).view(1, -1, 1, 1).expand(*scores.shape[:3], 1)], dim=-1)
    weights = scores.softmax(-1, dtype=torch.float32).to(q.dtype)
    return (weights if sinks is None else weights[..., :-1]) @ v


AttentionInterface.register(NAME, _ragged_attention)
AttentionMaskInterface.register(NAME, _mask)
