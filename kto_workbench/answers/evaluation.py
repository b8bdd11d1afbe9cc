"""Two sides on a set of prompts: who wins, by how much, and at what length and distance from the reference.

evaluate(Side(run), None, prompts, make_rule("shorter"))["evaluation"]["win_rate"]
evaluate_checkpoints(run, prompts, judge)["evaluation"]["checkpoints"]        # a win rate for each step
"""

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from kto_workbench.answers.comparison import answer_as, as_pairs, as_side, completion_stats, sampling_of
from kto_workbench.answers.sides import Models
from kto_workbench.engine.batches import Pair
from kto_workbench.engine.judges import find_judge
from kto_workbench.errors import ConfigError, ModelError
from kto_workbench.feedback.images import keys_in
from kto_workbench.feedback.rendering import check_sight, load_tokenizer
from kto_workbench.feedback.templates import render_prompt
from kto_workbench.judging.endpoint import prompt_text
from kto_workbench.judging.statistics import mean
from kto_workbench.judging.steps import checkpoints_of, step_of
from kto_workbench.judging.unrated import Probe, compare_abilities, compare_manners
from kto_workbench.judging.verdicts import (
    Case,
    Judge,
    Verdicts,
    about_answers,
    length_ratio,
    longer_won,
    summarize,
)
from kto_workbench.runs import Run
from kto_workbench.runs.completions import Client
from kto_workbench.runs.sides import REFERENCE, AnySide, EndpointSide, Side, reference_of

log = logging.getLogger(__name__)

# Told (stage, done, total): `answers` counts prompts, `scores` sides, `judge` what the judge counts.
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Sampling:
    """How both sides answer: with the same seed, temperature and longest answer in tokens."""

    seed: int
    temperature: float
    max_new_tokens: int


def evaluate(
    tuned: Run | AnySide | str,
    reference: Run | AnySide | str | None,
    prompts: Sequence[Any],
    judge: Judge | str | None = None,
    *,
    expected: Sequence[tuple[str, ...]] | None = None,
    seed: int = 0,
    temperature: float | None = None,
    max_new_tokens: int | None = None,
    probe: Probe | None = None,
    models: Models | None = None,
    on_progress: Progress = lambda stage, done, total: None,
) -> dict[str, Any]:
    """Answers of two sides to the same prompts, judged and measured.

    Args:
        tuned: a run, its directory, or any side, also by its name: `model:demo`.
        reference: the other side; None is the run's reference.
        prompts: texts, or lists of chat messages.
        judge: who says which answer wins, or its name (engine/judges.py); None measures only.
        expected: for each prompt the answers that are right, for judges that go by them.
        seed: of the sampling, on both sides.
        temperature: None takes the run's.
        max_new_tokens: None takes the run's.
        probe: questions with known answers, for what nobody rated; see judging/unrated.py.
        models: kept warm from call to call.
        on_progress: told (stage, done, total).

    Returns:
        `answers` [{prompt, reference, tuned}] and `evaluation`: n, wins, ties, losses, win_rate, interval, sign_test_p,
        position_bias, requests, cached, unparsed, longer_won and verdicts (None, without a judge); tuned and reference
        with words, tokens, distinct_1, distinct_2; length_ratio in words; kl {per_answer, per_token} in nats: the mean
        of log π_tuned − log π_reference over the tuned side's own answers, an estimate of KL(tuned ‖ reference) where
        they were sampled at temperature 1; `missing` says why there is none. An endpoint's answers have no `tokens`.
        `unrated` [{name, n, reference, tuned, p, alarm}]: shares of good answers to the probe, in the prompt's
        language, and not refused.

    Raises:
        ConfigError: there is no prompt, or no expected answer for a judge that needs one.
        RunError: a side has nothing to answer with.
    """
    side = as_side(tuned)
    against = as_side(reference) if reference else reference_of(side)
    found = _evaluate(
        [side], against, prompts, judge, expected, seed, temperature, max_new_tokens, models, on_progress, probe
    )[0]
    return {"answers": found.answers, "evaluation": found.evaluation}


def evaluate_checkpoints(
    run: Run,
    prompts: Sequence[Any],
    judge: Judge | str | None = None,
    *,
    against: Run | AnySide | None = None,
    expected: Sequence[tuple[str, ...]] | None = None,
    seed: int = 0,
    temperature: float | None = None,
    max_new_tokens: int | None = None,
    probe: Probe | None = None,
    models: Models | None = None,
    on_progress: Progress = lambda stage, done, total: None,
) -> dict[str, Any]:
    """`evaluate` for every checkpoint of a run and its tuned model against one other side, which answers once.

    Returns:
        As `evaluate`, of the last of them, with `checkpoints` [{step, side, and its evaluation without verdicts}].

    Raises:
        RunError: no checkpoint is left, beside what `evaluate` raises.
    """
    sides = checkpoints_of(run)
    other = as_side(against) if against else Side(run, REFERENCE)
    found = _evaluate(
        sides, other, prompts, judge, expected, seed, temperature, max_new_tokens, models, on_progress, probe
    )
    steps = [
        {"step": step_of(one.side), "side": one.side.name}
        | {key: value for key, value in one.evaluation.items() if key not in ("verdicts", "reference")}
        for one in found
    ]
    return {"answers": found[-1].answers, "evaluation": {**found[-1].evaluation, "checkpoints": steps}}


@dataclass(frozen=True)
class _Evaluated:
    side: AnySide
    answers: list[dict[str, Any]]
    evaluation: dict[str, Any]


def _evaluate(
    sides: Sequence[AnySide],
    against: AnySide,
    prompts: Sequence[Any],
    judge: Judge | str | None,
    expected: Sequence[tuple[str, ...]] | None,
    seed: int,
    temperature: float | None,
    max_new_tokens: int | None,
    models: Models | None,
    on_progress: Progress,
    probe: Probe | None = None,
) -> list[_Evaluated]:
    expected = expected or [()] * len(prompts)
    prompts, expected = _answerable([*sides, against], prompts, expected)
    judge = find_judge(judge, sides[0].config().workspace) if isinstance(judge, str) else judge
    _check(prompts, judge, expected)
    for side in (*sides, against):
        if isinstance(side, EndpointSide):
            with Client(side.endpoint) as client:
                client.reach()  # before hours of answers are made beside it
    models = models or Models()
    sampling = Sampling(seed, *sampling_of(sides[0], temperature, max_new_tokens))
    total = len(prompts) * (len(sides) + 1)
    reference = _answers(models, against, prompts, sampling, lambda done: on_progress("answers", done, total))
    probed = _answers(models, against, probe.prompts, sampling, lambda done: None) if probe else []
    found = []
    for number, side in enumerate(sides):
        before = len(prompts) * (number + 1)
        tuned = _answers(
            models, side, prompts, sampling, lambda done, before=before: on_progress("answers", before + done, total)
        )
        cases = [Case(*one) for one in zip(prompts, reference, tuned, expected, strict=True)]
        asked = [prompt_text(prompt) for prompt in prompts]
        unrated = compare_manners(asked, reference, tuned)
        if probe:
            now = _answers(models, side, probe.prompts, sampling, lambda done: None)
            unrated = compare_abilities(probe, probed, now) + unrated
        found.append((side, cases, {**_measure(models, side, against, cases), "unrated": unrated}))
        on_progress("scores", number + 1, len(sides))
    return [
        _judged(side, cases, measured, judge, number, len(sides), on_progress)
        for number, (side, cases, measured) in enumerate(found)
    ]


def _answerable(
    sides: Sequence[AnySide], prompts: Sequence[Any], expected: Sequence[tuple[str, ...]]
) -> tuple[list[Any], list[tuple[str, ...]]]:
    """The prompts that the chat template of every side takes; one that it refuses costs that prompt.

    An endpoint's template is its own affair. Raises ModelError if none is left.
    """
    refused: dict[int, ModelError] = {}
    here = [side.config() for side in sides if not isinstance(side, EndpointSide)]
    configs = {(c.model, c.template, json.dumps(c.template_kwargs)): c for c in here}
    for config in configs.values():
        tokenizer = load_tokenizer(config.model, trust=config.trusted)
        for number, prompt in enumerate(prompts):
            try:
                if keys_in(prompt):
                    check_sight(tokenizer, config.template)
                render_prompt(tokenizer, prompt, template=config.template, template_kwargs=config.template_kwargs)
            except ModelError as error:
                refused[number] = error
    if refused:
        first = refused[min(refused)]
        if len(refused) == len(prompts):
            raise first
        log.warning("%d of %d prompts are left out: %s", len(refused), len(prompts), first)
    left = [number for number in range(len(prompts)) if number not in refused]
    return [prompts[number] for number in left], [expected[number] for number in left]


def _check(prompts: Sequence[Any], judge: Judge | None, expected: Sequence[tuple[str, ...]]) -> None:
    if not prompts:
        raise ConfigError("There is no prompt to evaluate on.")
    missing = next((i for i, answers in enumerate(expected, 1) if not answers), None)
    if judge and judge.needs_expected and missing:
        raise ConfigError(
            f"Judge `{judge.name}` needs an `expected` or `answer` beside every prompt; prompt {missing} has none."
        )


def _answers(
    models: Models, side: AnySide, prompts: Sequence[Any], sampling: Sampling, on_answered: Callable[[int], None]
) -> list[str]:
    return answer_as(
        models,
        side,
        prompts,
        sampling.seed,
        sampling.temperature,
        sampling.max_new_tokens,
        on_answered=on_answered,
    )


def _measure(models: Models, side: AnySide, against: AnySide, cases: Sequence[Case]) -> dict[str, Any]:
    """Lengths, distinct-n and KL of both sides' answers.

    No KL where the sides read a text as different tokens, or where one is an endpoint, whose tokens nobody knows. An
    answer that was cut at its longest is scored as if it had ended there.
    """
    prompts, tuned, reference = ([getattr(case, name) for case in cases] for name in ("prompt", "tuned", "reference"))
    pairs, others = _pairs(models, side, prompts, tuned), _pairs(models, against, prompts, tuned)
    about = {
        "tuned": about_answers(tuned, _tokens(pairs)),
        "reference": about_answers(reference, _tokens(_pairs(models, against, prompts, reference))),
    }
    kl: dict[str, Any] = {"per_answer": None, "per_token": None}
    if pairs is None or others is None:
        kl["missing"] = "An endpoint gives no log-probabilities of a given text, so there is no KL."
    elif pairs != others:
        kl["missing"] = "The two sides read text in different tokens, so there is no KL."
    else:
        stats = completion_stats(models, side, against, prompts, tuned)
        ratios = [one["tuned_logp"] - one["reference_logp"] for one in stats]
        kl = {"per_answer": mean(ratios), "per_token": sum(ratios) / sum(_tokens(pairs))}
    return {**about, "length_ratio": length_ratio(about["reference"], about["tuned"]), "kl": kl}


def _pairs(models: Models, side: AnySide, prompts: Sequence[Any], answers: Sequence[str]) -> list[Pair] | None:
    """Prompts and answers as a side reads them; None at an endpoint."""
    if isinstance(side, EndpointSide):
        return None
    with models.use(side) as opened:
        return as_pairs(opened, prompts, answers)


def _tokens(pairs: Sequence[Pair] | None) -> list[int] | None:
    return None if pairs is None else [len(pair.completion_ids) for pair in pairs]


def _judged(
    side: AnySide,
    cases: Sequence[Case],
    measured: dict[str, Any],
    judge: Judge | None,
    number: int,
    n_sides: int,
    on_progress: Progress,
) -> _Evaluated:
    answers = [{"prompt": case.prompt, "reference": case.reference, "tuned": case.tuned} for case in cases]
    verdicts = Verdicts([])
    if judge is not None:
        verdicts = judge.verdicts(
            cases, lambda done, total: on_progress("judge", number * total + done, n_sides * total)
        )
    outcome = {
        "judge": judge.name if judge else None,
        **summarize(verdicts),
        "longer_won": longer_won(cases, verdicts) if judge else None,
        **measured,
        "verdicts": verdicts.winners if judge else None,
    }
    return _Evaluated(side, answers, outcome)
