"""Two sides beside each other: their answers, and why they differ, token by token."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from kto_workbench.answers.sides import Models, Opened, load_base, source_of
from kto_workbench.engine.batches import Pair
from kto_workbench.engine.generation import generate
from kto_workbench.engine.models import dropout_off, load_adapter
from kto_workbench.engine.passes import split
from kto_workbench.errors import RunError
from kto_workbench.feedback import Row
from kto_workbench.feedback.images import Images
from kto_workbench.feedback.rendering import encode, load_tokenizer
from kto_workbench.runs.completions import answers
from kto_workbench.runs.directory import Run
from kto_workbench.runs.sides import AnySide, EndpointSide, Side, find_side, reference_of

TOKENS_PER_PASS = 4096


def compare(
    run: Run | AnySide | str | Path,
    prompts: Sequence[Any],
    *,
    against: Run | AnySide | str | None = None,
    seed: int = 0,
    temperature: float | None = None,
    max_new_tokens: int | None = None,
    models: Models | None = None,
) -> list[dict[str, Any]]:
    """Answers of two sides to the same prompts, with the same seed and sampling.

    Args:
        run: a run with an adapter or a model, its directory, or any side, also by its name: `model:demo`.
        prompts: texts, or lists of chat messages.
        against: the other side; None is the run's reference.
        seed: of the sampling, on both sides.
        temperature: None takes the run's.
        max_new_tokens: None takes the run's.
        models: kept warm from call to call; None loads them for this call alone.

    Returns:
        [{prompt, reference, tuned}]; `reference` is what `against` says.

    Raises:
        RunError: a side has nothing to answer with yet.
    """
    tuned = as_side(run)
    sides = {"reference": as_side(against) if against else reference_of(tuned), "tuned": tuned}
    models = models or Models()
    found = {
        name: answer_as(models, side, prompts, seed, *sampling_of(tuned, temperature, max_new_tokens))
        for name, side in sides.items()
    }
    return [{"prompt": prompt, **{name: found[name][i] for name in sides}} for i, prompt in enumerate(prompts)]


def as_side(run: Run | AnySide | str | Path) -> AnySide:
    """A side as it is, or by its name; a run, or its directory, as its tuned model."""
    if isinstance(run, Run):
        return Side(run)
    return run if isinstance(run, AnySide) else find_side(str(run))


def sampling_of(side: AnySide, temperature: float | None, max_new_tokens: int | None) -> tuple[float, int]:
    """Temperature and longest answer, the run's own where they are None."""
    config = side.config()
    return (config.temperature if temperature is None else temperature), max_new_tokens or config.sample_max_new_tokens


def answer_as(
    models: Models,
    side: AnySide,
    prompts: Sequence[Any],
    seed: int,
    temperature: float,
    max_new_tokens: int,
    *,
    on_text: Callable[[int, str], None] | None = None,
    on_answered: Callable[[int], None] = lambda done: None,
) -> list[str]:
    """One side's answers, in order; see `generate` for what is told meanwhile."""
    if isinstance(side, EndpointSide):
        texts: dict[int, str] = {}
        sampling = {"seed": seed, "temperature": temperature, "max_new_tokens": max_new_tokens}
        for event in answers(side.endpoint, prompts, **sampling):
            if event["done"]:
                texts[event["prompt"]] = event["text"]
                on_answered(len(texts))
            elif on_text:
                on_text(event["prompt"], event["text"])
        return [texts[number] for number in range(len(prompts))]
    with models.use(side) as opened:
        return generate(
            opened.model,
            opened.tokenizer,
            prompts,
            seed=seed,
            temperature=temperature,
            max_new_tokens=max_new_tokens,
            template=opened.config.template,
            template_kwargs=opened.config.template_kwargs,
            on_text=on_text,
            on_answered=on_answered,
        )


def explain(
    models: Models, side: AnySide, prompt: Any, answer: str, *, against: AnySide | None = None
) -> dict[str, Any]:
    """Why the sides differ on an answer: log π_side − log π_against of each of its tokens.

    Args:
        models: kept warm.
        side: usually the tuned model.
        prompt: a text, or a list of chat messages.
        answer: any text, rendered and cut to max_length as a training row would be.
        against: None is the run's reference.

    Returns:
        tokens: the answer in pieces, its end-of-turn token included, as the model reads it.
        log_ratios: nats for each piece.
        beta: that of the side's run, or else of the other's.
        reward: β · Σ log_ratios, what training logs for the same text.
        logp, reference_logp: log-probabilities of the whole answer, in nats.
    """
    against = against or reference_of(side)
    with models.use(side) as opened:
        pair = as_pairs(opened, [prompt], [answer])[0]
        logps, tokenizer = score_tokens(opened, pair), opened.tokenizer
        pieces = decode_pieces(tokenizer, pair.completion_ids)
    with models.use(against) as opened:
        _check_same_tokens(tokenizer, opened.tokenizer, [pair])
        reference = score_tokens(opened, pair)
    ratios, beta = (logps - reference).tolist(), (against if side.run is None else side).config().beta
    return {
        "tokens": pieces,
        "log_ratios": ratios,
        "beta": beta,
        "reward": beta * sum(ratios),
        "logp": logps.sum().item(),
        "reference_logp": reference.sum().item(),
    }


def completion_stats(
    models: Models, side: AnySide, against: AnySide, prompts: Sequence[Any], answers: Sequence[str]
) -> list[dict[str, float]]:
    """How likely each answer is to either side: [{tuned_logp, reference_logp, tokens}], in nats.

    For answers that `side` sampled, the mean of tuned_logp − reference_logp estimates KL(side ‖ against).
    """
    with models.use(side) as opened:
        pairs = as_pairs(opened, prompts, answers)
        tuned, tokenizer = score(opened, pairs), opened.tokenizer
    with models.use(against) as opened:
        _check_same_tokens(tokenizer, opened.tokenizer, pairs)
        reference = score(opened, pairs)
    return [
        {"tuned_logp": a, "reference_logp": b, "tokens": len(pair.completion_ids)}
        for a, b, pair in zip(tuned, reference, pairs, strict=True)
    ]


def open_run(run: Run) -> tuple[nn.Module, PreTrainedTokenizerBase]:
    """The tuned model of a run, for use outside of this package, and its tokenizer. Raises RunError."""
    source = source_of(Side(run))
    model = load_base(source.config, source.base, source.sees)
    tokenizer = load_tokenizer(source.config.model, Images(source.config.workspace), trust=source.config.trusted)
    return (load_adapter(model, source.adapter) if source.adapter else model), tokenizer


def as_pairs(opened: Opened, prompts: Sequence[Any], answers: Sequence[str]) -> list[Pair]:
    """Prompts and answers as token ids, as a training of the side's config would see them."""
    rows = [Row(prompt, answer, True) for prompt, answer in zip(prompts, answers, strict=True)]
    config = opened.config
    how = {"template": config.template, "template_kwargs": config.template_kwargs}
    encoded = [encode(opened.tokenizer, row, config.max_length, **how) for row in rows]
    return [Pair(e.prompt_ids, e.completion_ids, e.look) for e in encoded]


@torch.no_grad()
def score(opened: Opened, pairs: Sequence[Pair]) -> list[float]:
    """Log-probabilities of completions, in nats."""
    out = [0.0] * len(pairs)
    with dropout_off(opened.model):
        for part in split([len(pair) for pair in pairs], TOKENS_PER_PASS):
            for i, value in zip(part, opened.scorer.score([pairs[i] for i in part]).logps.tolist(), strict=True):
                out[i] = value
    return out


@torch.no_grad()
def score_tokens(opened: Opened, pair: Pair) -> torch.Tensor:
    """[n] log-probabilities of a completion's tokens, in float64 on the CPU."""
    with dropout_off(opened.model):
        return opened.scorer.score_tokens(pair).double().cpu()


def decode_pieces(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> list[str]:
    """The text of each token; one that ends inside of a character leaves its text to the next."""
    pieces, before = [], ""
    for end in range(1, len(ids) + 1):
        text = tokenizer.decode(ids[:end], skip_special_tokens=False, clean_up_tokenization_spaces=False)
        if text.endswith("\ufffd") and end < len(ids):
            pieces.append("")
            continue
        pieces.append(text[len(before) :])
        before = text
    return pieces


def _check_same_tokens(one: PreTrainedTokenizerBase, other: PreTrainedTokenizerBase, pairs: Sequence[Pair]) -> None:
    """Raise RunError where token ids mean something else to the other side's model."""
    ids = sorted({token for pair in pairs for token in pair.prompt_ids + pair.completion_ids})
    if len(one) != len(other) or one.convert_ids_to_tokens(ids) != other.convert_ids_to_tokens(ids):
        raise RunError("The two sides read text in different tokens, so their log-probabilities can't be compared.")
