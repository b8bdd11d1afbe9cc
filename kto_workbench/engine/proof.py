"""Before the first step: is the reference what it is held for?

Rewards count against the model without its adapter, and its log-probabilities are kept on disk for later runs. Some
adapters move the base's weights when they are put on (PiSSA, OLoRA, LoftQ), or train some of them (biases): without the
adapter such a model is another one than it was, or becomes so with each step. So the base says what it thinks of some
rows as it comes from its files, and says it again later: through the scorer with the adapter off, and once more while
everything that will be trained is moved.
"""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from kto_workbench.engine.batches import Pair
from kto_workbench.engine.models import adapter_off, dropout_off, vocabulary_of
from kto_workbench.engine.trial import Scorer, apart, rounding
from kto_workbench.errors import ModelError

NUDGE = 0.1


@dataclass(frozen=True)
class Witness:
    """`logps` [n]: what a model says of `pairs` as it was loaded."""

    pairs: list[Pair]
    logps: Tensor


@torch.no_grad()
def ask(model: PreTrainedModel) -> Witness:
    """Log-probabilities of a few rows by a model's own logits, one row at a time, before anything is put on it."""
    ordinary = vocabulary_of(model)
    draw = torch.Generator().manual_seed(1)
    pairs, logps = [], []
    for lengths in ((5, 4), (3, 9)):
        prompt, completion = (
            tuple(ordinary[i] for i in torch.randint(len(ordinary), (n,), generator=draw).tolist()) for n in lengths
        )
        ids = torch.tensor([prompt + completion], device=next(model.parameters()).device)
        logits = model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits[0].float()
        rows = logits[len(prompt) - 1 : -1].log_softmax(-1)
        logps.append(rows.gather(-1, ids[0, len(prompt) :, None]).sum())
        pairs.append(Pair(prompt, completion))
    return Witness(pairs, torch.stack(logps))


@torch.no_grad()
def prove(
    scorer: Scorer,
    witness: Witness,
    as_reference: Callable[[nn.Module], contextlib.AbstractContextManager[None]] = adapter_off,
) -> None:
    """Raise ModelError unless the adapter off gives the base, and the reference stays when the adapter learns.

    Args:
        scorer: of the model with its adapter, before the first step; the model is left as it is.
        witness: what the base said when it was loaded.
        as_reference: makes the model the reference for a while.
    """
    model, pairs = scorer.model, witness.pairs
    nats, _ = rounding(model)
    with dropout_off(model):
        with adapter_off(model):
            off = scorer.score(pairs).logps
        if apart(off, witness.logps, pairs) > nats:
            raise ModelError(
                "Without its adapter this model is not its base: the adapter moved the base's own weights when it was "
                "put on, as PiSSA, OLoRA and LoftQ do, or trained some of them; convert it to a plain LoRA adapter, or "
                "merge it and start from the merged model."
            )
        with as_reference(model):
            before = scorer.score(pairs).logps
        with _nudged(model), as_reference(model):
            after = scorer.score(pairs).logps
    if apart(before, after, pairs) > nats:
        raise ModelError(
            "The reference would change while this adapter learns, because it trains weights of the base itself, such "
            "as biases; merge it and start from the merged model."
        )


@contextlib.contextmanager
def _nudged(model: nn.Module):
    """Everything trained a little elsewhere for a while."""
    kept = [(p, p.detach().clone()) for p in model.parameters() if p.requires_grad]
    draw = torch.Generator(device="cpu").manual_seed(2)
    try:
        for parameter, _ in kept:
            parameter.add_((torch.randn(parameter.shape, generator=draw) * NUDGE).to(parameter))
        yield
    finally:
        for parameter, value in kept:
            parameter.copy_(value)
