"""What a model says while it trains: to the watched prompts, for people to read, and to more, to measure by.

KL(π_θ ‖ π_ref) = E [log π_θ(y|x) − log π_ref(y|x)] over answers y that the tuned model itself samples. So answers are
sampled at temperature 1, from its own distribution, whatever the temperature of the watched ones, and scored token by
token as they were sampled, by the model with its adapter on and off. An answer that is cut at its longest counts as far
as it goes, so the number is that of answers of at most `sample_max_new_tokens`.
"""

import json
import logging
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from kto_workbench.config import KTOConfig
from kto_workbench.engine.assembly import Policy
from kto_workbench.engine.batches import Pair
from kto_workbench.engine.generation import generate
from kto_workbench.engine.models import as_it_is, dropout_off
from kto_workbench.engine.passes import split
from kto_workbench.engine.reference_answers import ReferenceAnswers
from kto_workbench.feedback.rendering import short_reason
from kto_workbench.runs.directory import Run

log = logging.getLogger(__name__)

MEASURED = 32  # prompts that the KL is measured on: one batch of answers
TOKENS_PER_PASS = 4096


def answering(config: KTOConfig) -> dict[str, Any]:
    """How the model answers while it trains: what `generate` takes."""
    return {
        "seed": config.seed,
        "temperature": config.temperature,
        "max_new_tokens": config.sample_max_new_tokens,
        "template": config.template,
        "template_kwargs": config.template_kwargs,
        "max_prompt_tokens": config.max_length,
    }


class Sampler:
    """Answers the watched prompts and records them; the reference's answers never change, so they are made once.

    `settings` are those of `generate`; `judged`, prompts that it answers for a judge; `known`, answers that the
    reference gave in other runs. The KL is measured on the watched prompts and `others`. Where the reference is the
    model as it started, there is none to score with later, and nothing is measured. `starts_as_reference`: whether both
    sides are the same before the first step, so that one answers for both.
    """

    def __init__(
        self,
        run: Run,
        policy: Policy,
        tokenizer: PreTrainedTokenizerBase,
        settings: Mapping[str, Any],
        prompts: Sequence[Any],
        others: Sequence[Any] = (),
        judged: Sequence[Any] = (),
        known: ReferenceAnswers | None = None,
        *,
        starts_as_reference: bool = True,
    ) -> None:
        self.run, self.model, self.tokenizer, self.prompts = run, policy.model, tokenizer, prompts
        self.as_reference, self.settings = policy.as_reference, dict(settings)
        self.scorer = None if policy.as_reference is as_it_is else policy.scorer
        self.starts_as_reference = starts_as_reference
        once = {json.dumps(prompt, sort_keys=True): prompt for prompt in (*prompts, *others)}
        self.measured = list(once.values())[:MEASURED]
        self.judged, self.known = list(judged), known
        self._reference: list[str] | None = None
        self._judged_reference: list[str] | None = None

    def __call__(self, step: int) -> None:
        """Record the answers of both sides at a step."""
        if not self.prompts:
            return
        if self._reference is None:
            self._watch()
        if not self.prompts:
            return
        the_same = step == 0 and self.starts_as_reference
        tuned = self._reference if the_same else self.answers(self.prompts)
        for prompt, reference, answer in zip(self.prompts, self._reference, tuned, strict=True):
            self.run.record_sample({"step": step, "prompt": prompt, "reference": reference, "tuned": answer})
        if not the_same and self.scorer is not None:
            self._measure(step)

    def answer_as_reference(self) -> None:
        """Have the reference answer; where it is the model as it starts, this must come before the first step."""
        if self.prompts:
            self._watch()
        if self.judged:
            self._judged_reference = self._as_reference(self.judged)

    def _watch(self) -> None:
        """Keep the reference's answers; a family that transformers can train and can't have answer is not watched."""
        try:
            self._reference = self._as_reference(self.prompts)
        except (AttributeError, TypeError, ValueError, LookupError, NotImplementedError) as error:
            log.warning("This model can't answer, so it is not watched while it trains: %s.", short_reason(error))
            self.prompts = ()

    def answers(self, prompts: Sequence[Any]) -> list[str]:
        """Answers of the tuned model, always with the same seed."""
        return generate(self.model, self.tokenizer, prompts, **self.settings)

    def _as_reference(self, prompts: Sequence[Any]) -> list[str]:
        def answers() -> list[str]:
            with self.as_reference(self.model):
                return self.answers(prompts)

        return self.known.get(prompts, self.settings, answers) if self.known else answers()

    def answer_judged(self) -> tuple[list[str], list[str]]:
        """Answers to the judged prompts, of the tuned model and of the reference."""
        if self._judged_reference is None:
            self._judged_reference = self._as_reference(self.judged)
        return self.answers(self.judged), self._judged_reference

    def _measure(self, step: int) -> None:
        """Record the KL with its standard error, and which prompts the two models part on most."""
        ratios = self.log_ratios(step)
        error = statistics.stdev(ratios) / len(ratios) ** 0.5 if len(ratios) > 1 else None
        kl = {"kl_sampled": statistics.fmean(ratios), "kl_sampled_error": error, "kl_sampled_count": len(ratios)}
        self.run.record({"step": step, **kl})
        furthest = sorted(zip(self.measured, ratios, strict=True), key=lambda one: -abs(one[1]))
        found = [{"prompt": prompt, "log_ratio": round(ratio, 4)} for prompt, ratio in furthest]
        self.run.suggest(found)

    @torch.no_grad()
    def log_ratios(self, seed: int) -> list[float]:
        """The log-ratios log π_θ(y|x) − log π_ref(y|x) of an answer y to each measured prompt x, in nats."""
        pairs: list[Pair] = []
        generate(
            self.model,
            self.tokenizer,
            self.measured,
            **{**self.settings, "seed": self.settings["seed"] + seed, "temperature": 1.0},
            on_tokens=pairs.append,
        )
        with dropout_off(self.model):
            tuned = self._score(pairs)
            with self.as_reference(self.model):
                reference = self._score(pairs)
        return [a - b for a, b in zip(tuned, reference, strict=True)]

    def _score(self, pairs: Sequence[Pair]) -> list[float]:
        out = [0.0] * len(pairs)
        for part in split([len(pair) for pair in pairs], TOKENS_PER_PASS):
            for i, value in zip(part, self.scorer.score([pairs[i] for i in part]).logps.tolist(), strict=True):
                out[i] = value
        return out
