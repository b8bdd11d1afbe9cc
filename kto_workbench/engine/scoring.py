"""From a ragged batch of sequences to log π(completion | prompt), one number each.

Layouts with the same results:

    PackedScorer   sequences one behind another without padding; logits of completion positions only, in chunks; and all
                   completions of a prompt, mismatched ones too, go on from its keys and values: it is read once
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
from kto_workbench.engine.attention import Ragged, to_device
from kto_workbench.engine.batches import Pair
from kto_workbench.engine.fused_kernels import Kernels
from kto_workbench.engine.head import Head, token_logps
from kto_workbench.engine.models import base_of, body_of, precision_of, rotary_limit
from kto_workbench.engine.passes import split
from kto_workbench.engine.sharding import Within, at_once
from kto_workbench.engine.trial import choose
from kto_workbench.engine.vision import can_keep_logits, seen
from kto_workbench.errors import ModelError
from kto_workbench.feedback.sight import Sight


@dataclass(frozen=True, slots=True)
class Scores:
    """`logps` [m]: sums over completion tokens, in nats, float32; `entropy` [m]: of next-token entropies, or None."""

    logps: Tensor
    entropy: Tensor | None = None

    def first(self, n: int) -> "Scores":
        """Those of the first n."""
        return Scores(self.logps[:n], None if self.entropy is None else self.entropy[:n])


class PaddedScorer(nn.Module):
    """Log-probabilities by a padded batch through the whole model.

    What scores is a module, and scoring its forward: so whatever wraps a module for several processes (DDP, FSDP2,
    ZeRO-3) hooks it.
    """

    name = "padded"
    kernels = False  # whether the model computes with fused ones; see fused_kernels.py

    def __init__(self, model: nn.Module, sight: Sight | None = None, within: Within = at_once) -> None:
        super().__init__()
        self.model, self.sight = model, sight
        # Do what goes through parts of the model, such as answering, in here.
        self.within = within
        self.precision = precision_of(model)
        # Rows longer than this are read alone: they would change what shorter ones beside them are worth.
        self.limit = rotary_limit(base_of(model))
        self._wrapped: tuple[nn.Module, ...] = ()  # in a tuple, since what wraps a module is no part of it

    @property
    def way(self) -> str:
        """How it scores, as far as that rounds otherwise."""
        return f"{self.name}, fused kernels" if self.kernels else self.name

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.model.parameters()).device

    def forward(
        self, pairs: Sequence[Pair], mismatched: Sequence[Pair] = (), entropy: bool = False
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Log π(completion | prompt) of pairs, and of other completions after the same prompts.

        Args:
            pairs: n of them, with a graph where gradients are on.
            mismatched: none, or one for each pair with the same prompt; without a graph.
            entropy: whether the pairs' next-token entropies are wanted too.

        Returns:
            [n] log-probabilities in nats, [n] entropies or None, [n] log-probabilities of the mismatched or None.
        """
        kl_logps = None
        if mismatched:
            with torch.no_grad():
                kl_logps = self._score(mismatched, False).logps
        scores = self._score(pairs, entropy)
        return scores.logps, scores.entropy, kl_logps

    def go_through(self, wrapped: nn.Module) -> None:
        """Score through what this module was wrapped into from now on."""
        self._wrapped = (wrapped,)

    def score(self, pairs: Sequence[Pair], *, entropy: bool = False) -> Scores:
        """Log π(completion | prompt) of each pair."""
        return self.score_both(pairs, (), entropy=entropy)[0]

    def score_both(
        self, pairs: Sequence[Pair], mismatched: Sequence[Pair], *, entropy: bool = False
    ) -> tuple[Scores, Tensor | None]:
        """Scores of the pairs, and logps [m] of other completions after the same prompts, without a graph."""
        through = self._wrapped[0] if self._wrapped else self
        logps, entropies, kl_logps = self.within(lambda: through(pairs, mismatched, entropy))
        return Scores(logps, entropies), kl_logps

    def score_tokens(self, pair: Pair) -> Tensor:
        """[n] log-probabilities of each token of one completion, in nats."""
        ids = torch.tensor([pair.prompt_ids + pair.completion_ids], device=self.device)
        given = self._seen([pair], len(pair))
        with self.precision():
            logits = self.within(lambda: self.model(input_ids=ids, use_cache=False, **given).logits)[0].float()
        logits = logits[len(pair.prompt_ids) - 1 : -1]
        return logits.log_softmax(-1).gather(-1, ids[0, len(pair.prompt_ids) :, None]).squeeze(-1)

    def split(self, pairs: Sequence[Pair], tokens_per_pass: int | None) -> list[list[int]]:
        """Which pairs go through the model together, as lists of their numbers."""
        return split([len(pair) for pair in pairs], tokens_per_pass)

    def tokens(self, pairs: Sequence[Pair]) -> int:
        """How many tokens the model reads to score pairs in one pass."""
        return sum(map(len, pairs))

    def _beyond(self, pairs: Sequence[Pair]) -> bool:
        return self.limit is not None and any(len(pair) > self.limit for pair in pairs)

    def _seen(self, pairs: Sequence[Pair], width: int) -> dict[str, Tensor]:
        """What the model is given beside tokens, if the rows have images: all of them do, or none."""
        if pairs[0].look is None:
            return {}
        if self.sight is None:
            raise ModelError("Rows with images are scored where no images can be looked up.")
        return seen(pairs, self.sight, width, base_of(self.model))

    def _score(self, pairs: Sequence[Pair], entropy: bool) -> Scores:
        if len(pairs) > 1 and self._beyond(pairs):
            return self._score_parts(pairs, [[i] for i in range(len(pairs))], entropy)
        looking = [i for i, pair in enumerate(pairs) if pair.look]
        if 0 < len(looking) < len(pairs):  # processors and models differ in what they make of a batch of both
            return self._score_parts(pairs, [looking, [i for i, pair in enumerate(pairs) if not pair.look]], entropy)
        width = max(len(pair) for pair in pairs)
        ids = torch.zeros(len(pairs), width, dtype=torch.long)
        mask = torch.zeros_like(ids)
        scored = torch.zeros(len(pairs), width - 1, dtype=torch.bool)
        for i, pair in enumerate(pairs):
            ids[i, : len(pair)] = torch.tensor(pair.prompt_ids + pair.completion_ids)
            mask[i, : len(pair)] = 1
            scored[i, len(pair.prompt_ids) - 1 : len(pair) - 1] = True
        ids, mask, scored = ids.to(self.device), mask.to(self.device), scored.to(self.device)
        given, kept = self._seen(pairs, width), width
        if given and can_keep_logits(base_of(self.model)):
            # An image is many tokens, of which none is scored.
            given["logits_to_keep"] = kept = width - min(len(pair.prompt_ids) for pair in pairs) + 1
            scored = scored[:, 1 - kept :]
        with self.precision():
            logits = self.model(input_ids=ids, attention_mask=mask, use_cache=False, **given).logits
        distribution = logits[:, -kept:-1].float().log_softmax(-1)
        logps = distribution.gather(-1, ids[:, 1 - kept :, None]).squeeze(-1)
        sums = torch.where(scored, logps, 0.0).sum(-1)
        if not entropy:
            return Scores(sums)
        entropies = -(distribution.exp() * distribution).sum(-1)
        return Scores(sums, torch.where(scored, entropies, 0.0).sum(-1).detach())

    def _score_parts(self, pairs: Sequence[Pair], parts: Sequence[list[int]], entropy: bool) -> Scores:
        """Scores of rows that go through the model in these parts."""
        scores = [self._score([pairs[i] for i in part], entropy) for part in parts]
        back = torch.tensor([i for part in parts for i in part], device=self.device).argsort()
        together = lambda values: torch.cat(values)[back]
        return Scores(together([s.logps for s in scores]), together([s.entropy for s in scores]) if entropy else None)


class PackedScorer(PaddedScorer):
    """Log-probabilities of packed sequences; see the module's docstring."""

    name = "packed"

    def forward(
        self, pairs: Sequence[Pair], mismatched: Sequence[Pair] = (), entropy: bool = False
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """As the padded scorer's; each prompt is read once, for all that comes after it."""
        if self._beyond(pairs) or self._beyond(mismatched) or any(pair.look for pair in (*pairs, *mismatched)):
            return super().forward(pairs, mismatched, entropy)
        if mismatched and not torch.is_grad_enabled():
            logps, _, _ = self.forward([*pairs, *mismatched])
            return logps[: len(pairs)], None, logps[len(pairs) :]
        layout = Layout.of(pairs)
        keep = layout.prompts if mismatched else None
        ragged = Ragged(layout.lengths, layout.before, keep=keep, tails=layout.tails)
        hidden = self._hidden(layout.tokens, layout.starts, ragged)
        kl_logps = None
        if mismatched:
            with torch.no_grad():
                kl_logps = self._continue(hidden.detach(), layout, ragged, mismatched)
        logps, entropies = self._of_completions(hidden, layout.states, pairs, entropy)
        return logps, entropies, kl_logps

    def split(self, pairs: Sequence[Pair], tokens_per_pass: int | None) -> list[list[int]]:
        """Which pairs go through the model together: answers to one prompt do, where they fit."""
        groups: list[list[int]] = []
        room: dict[tuple[int, ...], int] = {}
        of_prompt: dict[tuple[int, ...], int] = {}
        for i, pair in enumerate(pairs):
            need = len(pair.completion_ids)
            if pair.prompt_ids in of_prompt and (tokens_per_pass is None or need <= room[pair.prompt_ids]):
                groups[of_prompt[pair.prompt_ids]].append(i)
            else:
                of_prompt[pair.prompt_ids] = len(groups)
                groups.append([i])
                room[pair.prompt_ids] = (tokens_per_pass or 0) - len(pair.prompt_ids)
            room[pair.prompt_ids] -= need
        lengths = [self.tokens([pairs[i] for i in group]) for group in groups]
        return [sorted(i for g in part for i in groups[g]) for part in split(lengths, tokens_per_pass)]

    def tokens(self, pairs: Sequence[Pair]) -> int:
        """How many tokens the model reads to score pairs in one pass, prompts once."""
        return sum(map(len, {pair.prompt_ids for pair in pairs})) + sum(len(pair.completion_ids) for pair in pairs)

    def _continue(self, hidden: Tensor, layout: "Layout", first: Ragged, mismatched: Sequence[Pair]) -> Tensor:
        """[n] log-probabilities of other completions, which go on from the prompts' kept keys and values."""
        prefix, first.kept = first.kept, {}
        first.keep = None  # a recomputation under checkpointing must not keep them again
        some = [i for i, pair in enumerate(mismatched) if len(pair.completion_ids) > 1]
        states, offset = hidden, len(hidden)
        # The prompt's last hidden state predicts the first token; the last token predicts nothing that is scored.
        places = [[layout.ends[layout.prompt_of[i]]] for i in range(len(mismatched))]
        if some:
            tokens = [mismatched[i].completion_ids[:-1] for i in some]
            starts = [len(mismatched[i].prompt_ids) for i in some]
            before = [(layout.prompt_of[i], start) for i, start in zip(some, starts, strict=True)]
            after = self._hidden(tokens, starts, Ragged([len(t) for t in tokens], before, prefix=prefix))
            states = torch.cat([hidden, after])
            for i, sequence in zip(some, tokens, strict=True):
                places[i] += range(offset, offset + len(sequence))
                offset += len(sequence)
        return self._of_completions(states, places, mismatched, False)[0]

    def _hidden(self, tokens: Sequence[Sequence[int]], starts: Sequence[int], ragged: Ragged) -> Tensor:
        """[T, H] last hidden states of packed tokens, each sequence's positions counted from its start."""
        ids = to_device([token for sequence in tokens for token in sequence], self.device)[None]
        positions = [range(start, start + len(sequence)) for start, sequence in zip(starts, tokens, strict=True)]
        at = to_device([position for sequence in positions for position in sequence], self.device)[None]
        with self.precision(), attention.packing(ragged):
            mask = torch.ones_like(ids, dtype=torch.bool)
            out = body_of(base_of(self.model))(input_ids=ids, position_ids=at, attention_mask=mask, use_cache=False)
        return out.last_hidden_state[0]

    def _of_completions(
        self, hidden: Tensor, places: Sequence[Sequence[int]], pairs: Sequence[Pair], entropy: bool
    ) -> tuple[Tensor, Tensor | None]:
        """[n] log-probabilities and entropies of completions, from the hidden states at their places."""
        picked = hidden.index_select(0, to_device([place for part in places for place in part], hidden.device))
        targets = to_device([token for pair in pairs for token in pair.completion_ids], hidden.device)
        lengths = [len(pair.completion_ids) for pair in pairs]
        # Asked for each time: where weights are shared out among processes, they are whole during a pass alone.
        logps, entropies = token_logps(Head.of(base_of(self.model)), picked, targets, entropy=entropy)
        return _sum_by_sequence(logps, lengths), None if entropies is None else _sum_by_sequence(entropies, lengths)


@dataclass(frozen=True, slots=True)
class Layout:
    """How pairs lie one behind another, each prompt once.

    The first answer to a prompt follows it in one sequence; each further one is a sequence that goes on from the
    prompt's part of that. `tokens`, `starts` (positions), `lengths`, `before`: of the sequences, as Ragged has them;
    `states`: for each pair the places whose hidden states predict its completion; `tails`: how many of each sequence's
    last tokens are among them; `prompts`: (sequence, length) of each prompt; `ends`: the place of each prompt's last
    token; `prompt_of`: the prompt of each pair.
    """

    tokens: list[tuple[int, ...]]
    starts: list[int]
    lengths: list[int]
    before: list[tuple[int, int] | None] | None
    states: list[list[int]]
    tails: list[int]
    prompts: list[tuple[int, int]]
    ends: list[int]
    prompt_of: list[int]

    @classmethod
    def of(cls, pairs: Sequence[Pair]) -> "Layout":
        """Lay pairs out. A sequence leaves out its last token, which predicts nothing that is scored."""
        tokens: list[tuple[int, ...]] = []
        starts: list[int] = []
        before: list[tuple[int, int] | None] = []
        states, tails, prompts, ends, prompt_of = [], [], [], [], []
        known: dict[tuple[int, ...], int] = {}
        offset = 0
        for pair in pairs:
            n = len(pair.prompt_ids)
            prompt = known.get(pair.prompt_ids)
            if prompt is None:
                prompt = known[pair.prompt_ids] = len(prompts)
                prompts.append((len(tokens), n))
                ends.append(offset + n - 1)
                sequence, start, after = pair.prompt_ids + pair.completion_ids[:-1], 0, None
                first, tail = offset + n, len(pair.completion_ids)
            else:
                sequence, start, after = pair.completion_ids[:-1], n, prompts[prompt]
                first, tail = offset, len(pair.completion_ids) - 1
            prompt_of.append(prompt)
            states.append([ends[prompt], *range(first, first + len(pair.completion_ids) - 1)])
            if sequence:
                tokens.append(sequence)
                starts.append(start)
                before.append(after)
                tails.append(tail)
                offset += len(sequence)
        shared = before if any(after is not None for after in before) else None
        return cls(tokens, starts, [len(t) for t in tokens], shared, states, tails, prompts, ends, prompt_of)


class LonelyScorer(PaddedScorer):
    """Log-probabilities by one row at a time: slow, and right where other rows of a batch would disturb."""

    name = "one by one"

    def __init__(self, model: nn.Module, sight: Sight | None = None, within: Within = at_once) -> None:
        super().__init__(model, sight, within)
        self.limit = 0


def make_scorer(
    model: nn.Module,
    kernels: Kernels | None = None,
    *,
    sight: Sight | None = None,
    prompts: Sequence[Pair] = (),
    within: Within = at_once,
) -> PaddedScorer:
    """The fastest scorer that a trial finds right for a model, with its fused kernels if they are right, too.

    `sight` is what rows with images are looked at with; `prompts` are some of them, for the trial. What goes through
    the model is done `within` something; see sharding.py. Raises ModelError if none is.
    """
    causal_lm = base_of(model)
    return choose(
        model,
        packed=lambda: PackedScorer(model, sight, within) if Head.of(causal_lm) else None,
        padded=lambda: PaddedScorer(model, sight, within),
        alone=lambda: LonelyScorer(model, sight, within),
        kernels=kernels,
        prompts=prompts,
    )


def _sum_by_sequence(values: Tensor, lengths: list[int]) -> Tensor:
    """[n] values of packed tokens → [m] sums."""
    owner = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    return values.new_zeros(len(lengths)).index_add(0, to_device(owner.tolist(), values.device), values)
