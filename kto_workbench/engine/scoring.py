"""From a ragged batch of sequences to log π(completion | prompt), one number each.

Layouts with the same results:

    PackedScorer   sequences one behind another without padding; logits of completion positions only, in chunks; and the
                   mismatched completions go on from the prompts' kept keys and values, so that prompts are read once
    PaddedScorer   the obvious way, a padded batch through the whole model: for architectures whose attention does not
                   go through transformers' AttentionInterface, and for unusual heads
    LonelyScorer   the same, a row at a time

`make_scorer` takes the fastest that a trial finds right; see trial.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kto_workbench.engine import attention
from kto_workbench.engine.attention import Ragged
from kto_workbench.engine.batches import Pair
from kto_workbench.engine.head import Head, token_logps
from kto_workbench.engine.models import base_of, precision_of
from kto_workbench.engine.trial import choose


@dataclass(frozen=True, slots=True)
class Scores:
    """`logps` [m]: sums over completion tokens, in nats, float32; `entropy` [m]: of next-token entropies, or None."""

    logps: Tensor
    entropy: Tensor | None = None


class PaddedScorer:
    """Log-probabilities by a padded batch through the whole model."""

    name = "padded"

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.precision = precision_of(model)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.model.parameters()).device

    def score(self, pairs: Sequence[Pair], *, entropy: bool = False) -> Scores:
        """Log π(completion | prompt) of each pair."""
        width = max(len(pair) for pair in pairs)
        ids = torch.zeros(len(pairs), width, dtype=torch.long)
        mask = torch.zeros_like(ids)
        scored = torch.zeros(len(pairs), width - 1, dtype=torch.bool)
        for i, pair in enumerate(pairs):
            ids[i, : len(pair)] = torch.tensor(pair.prompt_ids + pair.completion_ids)
            mask[i, : len(pair)] = 1
            scored[i, len(pair.prompt_ids) - 1 : len(pair) - 1] = True
        ids, mask, scored = ids.to(self.device), mask.to(self.device), scored.to(self.device)
        with self.precision():
            logits = self.model(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, :-1].float()
        distribution = logits.log_softmax(-1)
        logps = distribution.gather(-1, ids[:, 1:, None]).squeeze(-1)
        sums = torch.where(scored, logps, 0.0).sum(-1)
        if not entropy:
            return Scores(sums)
        entropies = -(distribution.exp() * distribution).sum(-1)
        return Scores(sums, torch.where(scored, entropies, 0.0).sum(-1).detach())

    def score_tokens(self, pair: Pair) -> Tensor:
        """[n] log-probabilities of each token of one completion, in nats."""
        ids = torch.tensor([pair.prompt_ids + pair.completion_ids], device=self.device)
        with self.precision():
            logits = self.model(input_ids=ids, use_cache=False).logits[0, len(pair.prompt_ids) - 1 : -1].float()
        return logits.log_softmax(-1).gather(-1, ids[0, len(pair.prompt_ids) :, None]).squeeze(-1)

    def score_both(
        self, pairs: Sequence[Pair], mismatched: Sequence[Pair], *, entropy: bool = False
    ) -> tuple[Scores, Tensor]:
        """Scores of the pairs, and logps [m] of other completions after the same prompts, without a graph."""
        with torch.no_grad():
            kl_logps = self.score(mismatched).logps
        return self.score(pairs, entropy=entropy), kl_logps


class PackedScorer(PaddedScorer):
    """Log-probabilities of packed sequences; see the module's docstring."""

    name = "packed"

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        causal_lm = base_of(model)
        self.head = Head.of(causal_lm)
        self.body = getattr(causal_lm, causal_lm.base_model_prefix)

    def score(self, pairs: Sequence[Pair], *, entropy: bool = False) -> Scores:
        """Log π(completion | prompt) of each pair."""
        lengths = [len(pair) - 1 for pair in pairs]
        hidden = self._hidden(_inputs(pairs), [range(n) for n in lengths], Ragged(lengths))
        return self._scores(hidden, pairs, entropy)

    def score_both(
        self, pairs: Sequence[Pair], mismatched: Sequence[Pair], *, entropy: bool = False
    ) -> tuple[Scores, Tensor]:
        """Scores of the pairs, and log-probabilities [m] of other completions after the same prompts, without a graph.

        The prompts' keys and values are taken over from the first pass, so the second reads completions only.
        """
        lengths = [len(pair) - 1 for pair in pairs]
        prompts = [len(pair.prompt_ids) for pair in pairs]
        ragged = Ragged(lengths, keep=prompts)
        hidden = self._hidden(_inputs(pairs), [range(n) for n in lengths], ragged)
        with torch.no_grad():
            kl_logps = self._continue(hidden.detach(), lengths, ragged, mismatched)
        return self._scores(hidden, pairs, entropy), kl_logps

    def _continue(self, hidden: Tensor, lengths: list[int], first: Ragged, mismatched: Sequence[Pair]) -> Tensor:
        prompts = [len(pair.prompt_ids) for pair in mismatched]
        prefix, first.kept = first.kept, {}
        first.keep = None  # a recomputation under checkpointing must not keep them again
        # The prompt's last hidden state predicts the first token; the last token predicts nothing that is scored.
        steps = [len(pair.completion_ids) - 1 for pair in mismatched]
        ends = torch.tensor(lengths).cumsum(0) - torch.tensor(lengths) + torch.tensor(prompts) - 1
        states = hidden[ends.to(hidden.device)]
        if any(steps):
            some = [i for i, n in enumerate(steps) if n]
            kept = {layer: [kv[i] for i in some] for layer, kv in prefix.items()}
            tokens = [mismatched[i].completion_ids[:-1] for i in some]
            positions = [range(prompts[i], prompts[i] + steps[i]) for i in some]
            after = self._hidden(tokens, positions, Ragged([steps[i] for i in some], prefix=kept))
            states = torch.cat([states, after])
        # Order the states by sequence: each prompt's last one, then those of its completion.
        order, offset = [], len(mismatched)
        for i, n in enumerate(steps):
            order += [i, *range(offset, offset + n)]
            offset += n
        states = states[_to(order, states.device)]
        targets = [token for pair in mismatched for token in pair.completion_ids]
        logps, _ = token_logps(self.head, states, _to(targets, states.device))
        return _sum_by_sequence(logps, [len(pair.completion_ids) for pair in mismatched])

    def _hidden(self, tokens: Sequence[Sequence[int]], positions: Sequence[range], ragged: Ragged) -> Tensor:
        """[T, H] last hidden states of packed tokens."""
        ids = _to([token for sequence in tokens for token in sequence], self.device)[None]
        at = _to([position for sequence in positions for position in sequence], self.device)[None]
        with self.precision(), attention.packing(ragged):
            mask = torch.ones_like(ids, dtype=torch.bool)
            out = self.body(input_ids=ids, position_ids=at, attention_mask=mask, use_cache=False)
        return out.last_hidden_state[0]

    def _scores(self, hidden: Tensor, pairs: Sequence[Pair], entropy: bool) -> Scores:
        places, start = [], 0
        for pair in pairs:
            places += range(start + len(pair.prompt_ids) - 1, start + len(pair) - 1)
            start += len(pair) - 1
        targets = [token for pair in pairs for token in pair.completion_ids]
        completions = [len(pair.completion_ids) for pair in pairs]
        picked = hidden.index_select(0, _to(places, hidden.device))
        logps, entropies = token_logps(self.head, picked, _to(targets, hidden.device), entropy=entropy)
        return Scores(
            _sum_by_sequence(logps, completions),
            None if entropies is None else _sum_by_sequence(entropies, completions),
        )


class LonelyScorer(PaddedScorer):
    """Log-probabilities by one row at a time: slow, and right where other rows of a batch would disturb."""

    name = "one by one"

    def score(self, pairs: Sequence[Pair], *, entropy: bool = False) -> Scores:
        """Log π(completion | prompt) of each pair."""
        scores = [super(LonelyScorer, self).score([pair], entropy=entropy) for pair in pairs]
        entropies = torch.cat([s.entropy for s in scores]) if entropy else None
        return Scores(torch.cat([s.logps for s in scores]), entropies)


def make_scorer(model: nn.Module) -> PaddedScorer:
    """The fastest scorer that a trial finds right for a model. Raises ModelError if none is."""
    causal_lm = base_of(model)
    return choose(
        model,
        packed=lambda: PackedScorer(model) if Head.of(causal_lm) else None,
        padded=lambda: PaddedScorer(model),
        alone=lambda: LonelyScorer(model),
    )


def _inputs(pairs: Sequence[Pair]) -> list[tuple[int, ...]]:
    """Each sequence without its last token, which predicts nothing that is scored."""
    return [(pair.prompt_ids + pair.completion_ids)[:-1] for pair in pairs]


def _to(numbers: list[int], device: torch.device) -> Tensor:
    """A list of integers as a tensor on the device, without making the host wait for it."""
    tensor = torch.tensor(numbers, dtype=torch.long)
    return tensor if device.type == "cpu" else tensor.pin_memory().to(device, non_blocking=True)


def _sum_by_sequence(values: Tensor, lengths: list[int]) -> Tensor:
    """[n] values of packed tokens → [m] sums."""
    owner = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    return values.new_zeros(len(lengths)).index_add(0, _to(owner.tolist(), values.device), values)
