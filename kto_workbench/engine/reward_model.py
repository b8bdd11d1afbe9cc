"""A reward model as a judge: any sequence classifier that transformers loads, with one output or two."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForSequenceClassification
from transformers.utils import logging as transformers_logging

from kto_workbench.engine.models import pick_device, pick_dtype
from kto_workbench.engine.passes import split
from kto_workbench.errors import ModelError
from kto_workbench.feedback.rendering import check_model_folder, load_tokenizer
from kto_workbench.feedback.rows import told
from kto_workbench.feedback.templates import prompt_messages, short_reason
from kto_workbench.judging.verdicts import Case, Progress, Verdicts, by_score

TOKENS_PER_PASS = 8192
LONGEST = 8192  # tokens of a conversation; its start goes first, since the answer is at its end


class RewardModel:
    """Scores an answer to a prompt; of two answers the one with the higher score wins."""

    needs_expected = False

    def __init__(self, model: str, *, device: str = "auto", dtype: str = "auto") -> None:
        """Load a folder or a hub id.

        Raises:
            ModelError: it can't be loaded, has no trained head, or has more than two outputs.
        """
        self.name = f"reward:{model}"
        check_model_folder(model)
        transformers_logging.disable_progress_bar()
        path = os.path.expanduser(model)
        self.device = pick_device(device)
        # Said by transformers of a head that it had to make up; we say it in a sentence of our own.
        verbosity = transformers_logging.get_verbosity()
        transformers_logging.set_verbosity_error()
        try:
            loaded, info = AutoModelForSequenceClassification.from_pretrained(
                path,
                dtype=pick_dtype(dtype, self.device),
                local_files_only=Path(path).is_dir(),
                output_loading_info=True,
                trust_remote_code=False,
                use_safetensors=True,
            )
        except Exception as error:  # transformers raises a dozen kinds for the one thing that the user wants to know
            raise ModelError(f"Can't load the reward model {model!r}: {short_reason(error)}.") from None
        finally:
            transformers_logging.set_verbosity(verbosity)
        if info["missing_keys"]:
            raise ModelError(f"Model {model!r} has no trained head to give rewards with.")
        if loaded.config.num_labels not in (1, 2):
            raise ModelError(f"A reward model has one output or two; {model!r} has {loaded.config.num_labels} of them.")
        self.tokenizer = load_tokenizer(model)
        self.tokenizer.padding_side, self.tokenizer.truncation_side = "right", "left"
        if self.tokenizer.pad_token_id is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        if loaded.config.get_text_config().pad_token_id is None:
            loaded.config.get_text_config().pad_token_id = self.tokenizer.pad_token_id
        positions = getattr(loaded.config.get_text_config(), "max_position_embeddings", None)
        self.longest = min(LONGEST, positions or LONGEST)
        self.model = loaded.to(self.device).eval()

    @torch.no_grad()
    def scores(
        self, prompts: Sequence[Any], answers: Sequence[str], on_progress: Progress | None = None
    ) -> list[float]:
        """A score for each answer: the model's one output, or the log-odds of its second class."""
        rows = [self._encode(prompt, answer) for prompt, answer in zip(prompts, answers, strict=True)]
        lengths = [len(row["input_ids"]) for row in rows]
        # Similar lengths together: a pass is as wide as its longest row.
        order = sorted(range(len(rows)), key=lengths.__getitem__)
        out, done = [0.0] * len(rows), 0
        for part in split([lengths[i] for i in order], TOKENS_PER_PASS):
            picked = [order[i] for i in part]
            batch = self.tokenizer.pad([rows[i] for i in picked], return_tensors="pt").to(self.device)
            logits = self.model(**batch).logits.float()
            values = logits[:, 0] if logits.shape[1] == 1 else logits[:, 1] - logits[:, 0]
            for i, value in zip(picked, values.tolist(), strict=True):
                out[i] = value
            done += len(picked)
            if on_progress:
                on_progress(done, len(rows))
        return out

    def verdicts(self, cases: Sequence[Case], on_progress: Progress = lambda done, total: None) -> Verdicts:
        """Score both answers of every case."""
        prompts = [case.prompt for case in cases]
        found = self.scores(
            prompts * 2, [case.reference for case in cases] + [case.tuned for case in cases], on_progress
        )
        return by_score(found[: len(cases)], found[len(cases) :])

    def _encode(self, prompt: Any, answer: str) -> dict[str, list[int]]:
        """With the model's own chat template; without one, prompt and answer as a pair of texts."""
        options = {"truncation": True, "max_length": self.longest}
        messages = prompt_messages(prompt)
        if self.tokenizer.chat_template:
            whole = [*messages, {"role": "assistant", "content": answer}]
            try:
                text = self.tokenizer.apply_chat_template(whole, tokenize=False)
            except Exception as error:  # jinja's own kinds, raised by the template's author
                raise ModelError(f"The reward model's chat template refuses a prompt: {short_reason(error)}.") from None
            return dict(self.tokenizer(text, add_special_tokens=False, **options))
        asked = "\n\n".join(map(told, messages))
        return dict(self.tokenizer(asked, answer, **options))
