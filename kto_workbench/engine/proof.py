"""Before the first step: is the reference what it is held for?

Rewards count against the model without its adapter, and its log-probabilities are kept on disk for later runs. Some
adapters move the base's weights when they are put on (PiSSA, OLoRA), bring some of their own (embeddings of new
tokens), or train some (biases): without the adapter such a model is another one than it was, or becomes so with each
step. So every weight of the base is summed up as it comes from its files, and again with the adapter on: a few rows
would not tell of an embedding that none of them has. The base also says what it thinks of some rows, and says it again
with the adapter off; and what the reference says must stay while everything that will be trained is moved.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from kto_workbench.engine.batches import Pair
from kto_workbench.engine.models import (
    adapter_off,
    attention_of,
    dropout_off,
    moves_base,
    precision_of,
    set_attention,
    start_adapter_on,
    vocabulary_of,
)
from kto_workbench.engine.trial import STILL, apart, cant_score
from kto_workbench.errors import ModelError
from kto_workbench.feedback.rendering import short_reason

NUDGE = 0.1


# Integers as wide as a weight: their sum leaves out no bit.
BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@dataclass(frozen=True)
class Witness:
    """What a model was as it was loaded.

    `logps` [n]: what it says of `pairs`, by its own `attention`, to so many nats `steady`; `sums` [m]: of the bits of
    its `weights`, which are in there by name.
    """

    pairs: list[Pair]
    logps: Tensor
    attention: str
    steady: float
    weights: dict[str, nn.Parameter]
    sums: Tensor


def ask(model: PreTrainedModel) -> Witness:
    """What a model says of a few rows before anything is put on it. Raises ModelError if it can't say anything."""
    ordinary = vocabulary_of(model)
    draw = torch.Generator().manual_seed(1)

    def ids(n: int) -> tuple[int, ...]:
        return tuple(ordinary[i] for i in torch.randint(len(ordinary), (n,), generator=draw).tolist())

    pairs = [Pair(ids(n), ids(m)) for n, m in ((5, 4), (3, 9))]
    try:
        logps, again = _say(model, pairs), _say(model, pairs)
    except Exception as error:  # whatever an unknown architecture asks of its rows
        raise cant_score(short_reason(error)) from error
    weights = dict(model.named_parameters())
    return Witness(pairs, logps, attention_of(model), apart(logps, again, pairs), weights, _sum_up(weights))


def _sum_up(weights: dict[str, nn.Parameter]) -> Tensor:
    """[m] int64 sums of weights as the integers that their bits are."""
    sums = [w.detach().view(BITS[w.element_size()]).sum(dtype=torch.int64).cpu() for w in weights.values()]
    return torch.stack(sums)


@torch.no_grad()
def _say(model: nn.Module, pairs: Sequence[Pair]) -> Tensor:
    """[n] log-probabilities of rows by a model's own logits, one row at a time."""
    logps = []
    for pair in pairs:
        ids = torch.tensor([pair.prompt_ids + pair.completion_ids], device=next(model.parameters()).device)
        logits = model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits[0].float()
        rows = logits[len(pair.prompt_ids) - 1 : -1].log_softmax(-1)
        logps.append(rows.gather(-1, ids[0, len(pair.prompt_ids) :, None]).sum())
    return torch.stack(logps)


def prove(
    model: nn.Module,
    witness: Witness,
    as_reference: Callable[[nn.Module], contextlib.AbstractContextManager[None]] = adapter_off,
) -> None:
    """Raise ModelError unless the adapter off gives the base, and the reference stays when the adapter learns.

    Args:
        model: with its adapter, before the first step; it is left as it is.
        witness: what the base said when it was loaded.
        as_reference: makes the model the reference for a while.
    """
    moved = (_sum_up(witness.weights) != witness.sums).nonzero()
    if len(moved):
        name = list(witness.weights)[int(moved[0])]
        raise moves_base(
            f"the adapter moved or replaced the base's own {name} when it was put on, as PiSSA and OLoRA do"
        )
    pairs, now = witness.pairs, attention_of(model)
    still = STILL + 4 * witness.steady
    set_attention(model, witness.attention)
    try:
        with dropout_off(model), adapter_off(model):
            off = _say(model, pairs)
        if apart(off, witness.logps, pairs) > still:
            raise moves_base("it says something else than the base")
        with dropout_off(model), precision_of(model)():
            with as_reference(model):
                before = _say(model, pairs)
            if as_reference is start_adapter_on and apart(before, _say(model, pairs), pairs) > still:
                raise ModelError(
                    "This adapter can't be kept as the reference beside the one that learns, because it shares weights "
                    "between layers; use `reference: base`, or merge it and start from the merged model."
                )
            with _nudged(model), as_reference(model):
                after = _say(model, pairs)
        if apart(before, after, pairs) > still:
            raise ModelError(
                "The reference would change while this adapter learns, because it trains weights of the base itself, "
                "such as biases; merge it and start from the merged model."
            )
    finally:
        set_attention(model, now)


@contextlib.contextmanager
def _nudged(model: nn.Module) -> Iterator[None]:
    """Everything trained a little elsewhere for a while."""
    kept = [(p, p.detach().clone()) for p in model.parameters() if p.requires_grad]
    draw = torch.Generator().manual_seed(2)
    try:
        for parameter, _ in kept:
            parameter.data += (torch.randn(parameter.shape, generator=draw) * NUDGE).to(parameter)
        yield
    finally:
        for parameter, value in kept:
            parameter.data.copy_(value)
