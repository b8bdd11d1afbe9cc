"""What a model says to the watched prompts while it trains."""

from collections.abc import Sequence
from typing import Any

from torch import nn
from transformers import PreTrainedTokenizerBase

from kto_workbench.config import KTOConfig
from kto_workbench.engine.generation import generate
from kto_workbench.engine.models import adapter_off
from kto_workbench.engine.reference import AsReference
from kto_workbench.runs.directory import Run


class Sampler:
    """Answers the watched prompts and records them; the reference's answers never change, so they are made once."""

    def __init__(
        self,
        run: Run,
        model: nn.Module,
        tokenizer: PreTrainedTokenizerBase,
        prompts: Sequence[Any],
        config: KTOConfig,
        as_reference: AsReference = adapter_off,
    ) -> None:
        self.run, self.model, self.tokenizer, self.prompts = run, model, tokenizer, prompts
        self.as_reference = as_reference
        self.settings = {
            "seed": config.seed,
            "temperature": config.temperature,
            "max_new_tokens": config.sample_max_new_tokens,
            "template": config.template,
            "template_kwargs": config.template_kwargs,
            "max_prompt_tokens": config.max_length,
        }
        self._reference: list[str] | None = None

    def __call__(self, step: int) -> None:
        """Record the answers of both sides at a step."""
        if not self.prompts:
            return
        if self._reference is None:
            self.answer_as_reference()
        tuned = generate(self.model, self.tokenizer, self.prompts, **self.settings) if step else self._reference
        for prompt, reference, answer in zip(self.prompts, self._reference, tuned, strict=True):
            self.run.record_sample({"step": step, "prompt": prompt, "reference": reference, "tuned": answer})

    def answer_as_reference(self) -> None:
        """Have the reference answer; where it is the model as it starts, this must come before the first step."""
        if self.prompts:
            with self.as_reference(self.model):
                self._reference = generate(self.model, self.tokenizer, self.prompts, **self.settings)
