"""Does a model score as it should? Tried on a few short rows before anything is scored or trained.

What is right is said by the model itself: one row at a time, without padding, with its own attention and with peft's
own layers. It must say the same twice, and a later token must change nothing before it; else it is refused. Then the
ways of scoring are tried from the fastest on, and the first is taken that gives the same log-probabilities, the same
gradients of what is trained, and to each row the same whatever stands beside it, and wherever it stands:

    packed        many rows one behind another, attention.py's attention; in the last layer those tokens alone whose
                  hidden states are read, where last_layer.py knows its parts
    padded        rows side by side, filled up to the longest, the model's own attention
    one by one    a row at a time, as the model says it

Windows of attention are a few tokens short during the trial, so that rows are longer than they are.
"""

import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from kto_workbench.engine import attention
from kto_workbench.engine.batches import Pair
from kto_workbench.engine.fused_kernels import Kernels
from kto_workbench.engine.fused_lora import fuse, unfuse
from kto_workbench.engine.last_layer import last_layer, narrow, widen
from kto_workbench.engine.models import attention_of, base_of, dropout_off, set_attention, vocabulary_of
from kto_workbench.engine.sharding import gradients
from kto_workbench.errors import ModelError
from kto_workbench.feedback.rendering import short_reason

log = logging.getLogger(__name__)

# Numbers of a config, and of modules that copy them, that rows of the trial have to reach beyond.
WINDOWS = ("sliding_window", "attention_chunk_size", "attention_window_size", "local_window_size", "floor_scale")
WINDOW = 6

# What rounding may do: (nats a token, share of the gradient).
ROUNDING = {torch.float32: (2e-5, 1e-3), torch.float16: (1e-2, 5e-2), torch.bfloat16: (3e-2, 1e-1)}

# What a row may change with its neighbours, in nats a token, in whatever precision: no more than sums in another order.
STILL = 1e-5

# Gradients of this many trained numbers are compared, the smallest tensors first.
COMPARED = 2**25


class Scorer(Protocol):
    """What is tried: see `scoring.py`."""

    name: str
    kernels: bool
    model: nn.Module

    def score(self, pairs: Sequence[Pair], *, entropy: bool = False) -> Any:
        """Log π(completion | prompt) of each pair, as `.logps`."""

    def score_both(self, pairs: Sequence[Pair], mismatched: Sequence[Pair], *, entropy: bool = False) -> Any:
        """The same, and log-probabilities of other completions after the same prompts."""


@dataclass(frozen=True)
class Way:
    """One way of scoring: the attention, the kind of LoRA layers and of last layer that its scorer needs."""

    make: Callable[[], Scorer | None]
    attention: str
    fused: bool
    varlen: bool = False
    narrow: bool = False

    def begin(self, model: nn.Module) -> Scorer | None:
        """The scorer, with the model made ready for it."""
        set_attention(model, self.attention)
        (fuse if self.fused else unfuse)(model)
        attention.varlen["enabled"] = self.varlen
        (narrow if self.narrow else widen)(model)
        return self.make()


def choose(
    model: nn.Module,
    *,
    packed: Callable[[], Scorer | None],
    padded: Callable[[], Scorer],
    alone: Callable[[], Scorer],
    kernels: Kernels | None = None,
    prompts: Sequence[Pair] = (),
) -> Scorer:
    """The fastest right way of scoring a model, which is left ready for it. Raises ModelError if there is none.

    Args:
        model: with its adapter, if it has one.
        packed: makes that scorer, or None for a head that it can't compute.
        padded: makes that scorer.
        alone: makes the one that takes a row at a time.
        kernels: fused ones, turned off, that the model may compute with.
        prompts: some with images, where there are such among what is to be scored: then nothing is packed.
    """
    rows = Rows.of(model, prompts)
    with _short_windows(base_of(model)), dropout_off(model):
        own, want = _ask_itself(model, alone, rows)
        unrest = STILL + 4 * _unrest(Way(padded, own, fused=False).begin(model), rows)
        ways = [
            *[
                Way(packed, attention.NAME, fused, varlen, last)
                for fused in (True, False)
                for varlen in _kernels(model)
                for last in ((True, False) if last_layer(model) else (False,))
            ],
            *[Way(padded, own, fused) for fused in (True, False)],
            *[Way(alone, own, fused) for fused in (True, False)],
        ]
        told: dict[str, str] = {}
        if prompts:
            ways = [way for way in ways if way.make is not packed]
            told["rows with images are not packed"] = ""
        for way in ways:
            scorer, reason = _try(way, model, rows, want, unrest)
            if not reason:
                break
            if not way.narrow:  # the next one is the same with the whole last layer, which tells
                told[reason] = told.get(reason, "")
        else:
            raise ModelError(f"This model can't be scored: {'; '.join(told)}.")
        if kernels:
            kernels.turn(True)
            with_kernels, reason = _try(way, model, rows, want, unrest)
            if reason:
                kernels.turn(False)
                way.begin(model)
                log.warning("liger-kernel is not used: %s.", reason)
            else:
                scorer = with_kernels
                scorer.kernels = True
    if told:
        log.warning("This model is scored %s, which is slower: %s.", scorer.name, "; ".join(told))
    return scorer


@dataclass(frozen=True)
class Rows:
    """Rows of the trial: `pairs` of several lengths, `other` completions after the same prompts, and strangers."""

    pairs: list[Pair]
    other: list[Pair]
    strangers: list[Pair]  # the first row, and the last with the same prompt, changed; the rest is as in `pairs`

    @classmethod
    def of(cls, model: nn.Module, given: Sequence[Pair] = ()) -> "Rows":
        """Rows of ordinary tokens of a model's vocabulary, the same every time; some after the prompts that are given.

        So rows with images stand beside such with others, and beside such without any.
        """
        ordinary = vocabulary_of(base_of(model))
        draw = torch.Generator().manual_seed(0)

        def ids(n: int) -> tuple[int, ...]:
            return tuple(ordinary[i] for i in torch.randint(len(ordinary), (n,), generator=draw).tolist())

        prompts = [ids(9), ids(3), ids(11), ids(9)]
        answers = [ids(6), ids(13), ids(5), ids(6), ids(9)]
        first, second, third, another = (Pair(prompt, ()) for prompt in prompts)
        for one in given[:1]:
            first = third = another = one
        for one in given[1:2]:
            third = another = one
        for one in given[2:3]:
            another = one
        behind = lambda prompt, answer: Pair(prompt.prompt_ids, answer, prompt.look)
        pairs = [behind(p, a) for p, a in zip([first, second, third, first], answers, strict=False)]
        other = [behind(p, a) for p, a in zip(pairs, answers[1:], strict=True)]
        strangers = [behind(another, answers[3]), *pairs[1:3], behind(another, answers[0])]
        return cls(pairs, other, strangers)


@dataclass(frozen=True)
class Said:
    """What a way of scoring says of the rows: log-probabilities a token, and gradients by name."""

    logps: Tensor
    other: Tensor
    gradients: dict[str, Tensor | None]


def _ask_itself(model: nn.Module, alone: Callable[[], Scorer], rows: Rows) -> tuple[str, Said]:
    """The model's own word, and the attention that it gives it with. Raises ModelError."""
    reason = ""
    for own in _own_attentions(base_of(model)):
        scorer = Way(alone, own, fused=False).begin(model)
        try:
            _check_steady(scorer, rows)
            _check_causal(scorer, rows)
            return own, _ask(scorer, rows)
        except ModelError:
            raise
        except Exception as error:  # an attention that it names as its own, and can't compute with
            reason = reason or short_reason(error)
    raise cant_score(reason)


def cant_score(reason: str) -> ModelError:
    """The error of a model that can't score even by itself."""
    return ModelError(f"This model can't be trained: it can't score a row of text itself ({reason}).")


def no_numbers(model: nn.Module) -> ModelError:
    """The error of a model whose log-probabilities are no numbers: where that comes from its weights, it says which."""
    for name, weight in base_of(model).state_dict().items():
        if weight.is_floating_point() and not bool(torch.isfinite(weight).all()):
            name = name.replace(".base_layer.", ".")
            return ModelError(f"This model can't be trained: its weights hold NaN or infinity, first in {name}.")
    return ModelError("This model can't be trained: its log-probabilities are no numbers.")


def _check_steady(scorer: Scorer, rows: Rows) -> None:
    """The same rows twice."""
    with torch.no_grad():
        first, second = (scorer.score(rows.pairs[:3]).logps for _ in range(2))
    if not bool(torch.isfinite(first).all()):
        raise no_numbers(scorer.model)
    if apart(first, second, rows.pairs[:3]) > rounding(scorer.model)[0]:
        raise ModelError("This model can't be trained: it gives the same text another score each time.")


def _check_causal(scorer: Scorer, rows: Rows) -> None:
    """A row whose last tokens are others: nothing changes before them."""
    row, changed = next((pair for pair in rows.pairs if pair.look), rows.pairs[1]), 3
    end = rows.pairs[2].completion_ids[:changed]
    with torch.no_grad():
        before, after = (
            scorer.score_tokens(Pair(row.prompt_ids, row.completion_ids[:-changed] + last, row.look))[:-changed]
            for last in (row.completion_ids[-changed:], end)
        )
    if not bool(torch.isfinite(before).all()):
        raise no_numbers(scorer.model)
    if (before - after).abs().mean() > rounding(scorer.model)[0]:
        raise ModelError(
            "This model can't be trained: it is no causal language model, a later token changes what it says before."
        )


def _unrest(padded: Scorer, rows: Rows) -> float:
    """What other rows in a batch of its own change of a row, in nats a token.

    Nothing, where each row is computed by itself; but experts are fed with tokens of all rows, and round accordingly.
    """
    try:
        with torch.no_grad():
            among, beside = (padded.score(pairs).logps[1:3] for pairs in (rows.pairs, rows.strangers))
    except Exception:  # the padded way's own trial tells
        return 0.0
    return min(apart(among, beside, rows.pairs[1:3]), rounding(padded.model)[0])


def _try(way: Way, model: nn.Module, rows: Rows, want: Said, unrest: float) -> tuple[Scorer | None, str]:
    """The scorer of a way, and what is wrong with it; nothing if it says what the model itself says."""
    nats, share = rounding(model)
    try:
        scorer = way.begin(model)
        if scorer is None:
            return None, "its head is not a plain linear layer"
        got = _ask(scorer, rows)
        with torch.no_grad():
            among, beside = (scorer.score(pairs).logps for pairs in (rows.pairs, rows.strangers))
            turned = scorer.score(rows.pairs[::-1]).logps.flip(0)
    except Exception as error:  # whatever an unknown architecture does on an unusual input, a plainer way remains
        return None, short_reason(error)
    if (worst := apart(beside[1:3], among[1:3], rows.pairs[1:3])) > unrest:
        return None, f"{scorer.name}, a row is worth {worst:.1e} nats a token more or less with another neighbour"
    if (worst := apart(turned, among, rows.pairs)) > max(unrest, nats / 6):
        return None, f"{scorer.name}, a row is worth {worst:.1e} nats a token more or less at another place"
    if (worst := max(apart(got.logps, want.logps, rows.pairs), apart(got.other, want.other, rows.other))) > nats:
        return None, f"{scorer.name}, its log-probabilities come out {worst:.1e} nats a token apart"
    missing = [name for name, gradient in want.gradients.items() if (gradient is None) != (got.gradients[name] is None)]
    if missing:
        return None, f"{scorer.name}, {len(missing)} of {len(want.gradients)} trained tensors get no gradient"
    if (worst := _gradients_apart(got.gradients, want.gradients)) > share:
        return None, f"{scorer.name}, its gradients come out {worst:.1e} apart"
    return scorer, ""


def _ask(scorer: Scorer, rows: Rows) -> Said:
    trained = [(n, p) for n, p in scorer.model.named_parameters() if p.requires_grad]
    compared: list[tuple[str, nn.Parameter]] = []
    numbers = 0
    for name, parameter in sorted(trained, key=lambda item: item[1].numel()):
        numbers += parameter.numel()
        if compared and numbers > COMPARED:
            break
        compared.append((name, parameter))
    with torch.set_grad_enabled(bool(compared)):
        scores, other = scorer.score_both(rows.pairs, rows.other)
        found: Sequence[Tensor | None] = ()
        if compared:
            loss = (scores.logps * torch.linspace(-1, 2, len(rows.pairs), device=scores.logps.device)).sum()
            found = gradients(loss, scorer.model, [p for _, p in compared])
    return Said(scores.logps.detach(), other.detach(), {n: g for (n, _), g in zip(compared, found, strict=True)})


def apart(a: Tensor, b: Tensor, pairs: Sequence[Pair]) -> float:
    """The largest difference of rows' log-probabilities, in nats a token; infinite where one is no number."""
    lengths = torch.tensor([len(pair.completion_ids) for pair in pairs], device=a.device)
    return torch.nan_to_num((a - b).abs() / lengths, nan=torch.inf).max().item()


def _gradients_apart(got: dict[str, Tensor | None], want: dict[str, Tensor | None]) -> float:
    """The largest difference of a tensor's gradients, as a share of its norm; small tensors weigh little."""
    norms = {name: gradient.float().norm() for name, gradient in want.items() if gradient is not None}
    if not norms:
        return 0.0
    least = 1e-2 * max(norms.values())
    apart = [(got[n].float() - want[n].float()).norm() / norm.clamp(min=least) for n, norm in norms.items()]
    return torch.nan_to_num(torch.stack(apart), nan=torch.inf).max().item() if least > 0 else 0.0


def rounding(model: nn.Module) -> tuple[float, float]:
    """What rounding may do to a model's log-probabilities, in nats a token, and to its gradients, as a share."""
    kinds = {p.dtype for p in model.parameters() if p.is_floating_point()}
    coarse = [kind for kind in (torch.bfloat16, torch.float16) if kind in kinds]
    return ROUNDING[coarse[0] if coarse else torch.float32]


def _kernels(model: nn.Module) -> tuple[bool, ...]:
    """A GPU's one kernel for all sequences first; where it is missing, a call for each sequence."""
    return (True, False) if next(model.parameters()).is_cuda else (False,)


def _own_attentions(causal_lm: nn.Module) -> list[str]:
    """Names of a model's own attention: the one it was loaded with first."""
    loaded = attention_of(causal_lm)
    if loaded == attention.NAME:
        loaded = "sdpa" if causal_lm._supports_sdpa else "eager"
    return [loaded, "eager"] if loaded != "eager" else ["eager"]


@contextlib.contextmanager
def _short_windows(causal_lm: nn.Module) -> Iterator[None]:
    """Windows of a few tokens for a while."""
    holders = {id(c): c for c in (causal_lm.config, causal_lm.config.get_text_config())}
    holders |= {id(module): module for module in causal_lm.modules()}
    changed = []
    for holder in holders.values():
        for name in WINDOWS:
            if isinstance(length := vars(holder).get(name), int | float) and length > WINDOW:
                changed.append((holder, name, length))
                setattr(holder, name, WINDOW)
    try:
        yield
    finally:
        for holder, name, length in changed:
            setattr(holder, name, length)
