"""Answers to prompts: in batches, with kept keys and values, the same for the same seed."""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from transformers import GenerationConfig, PreTrainedTokenizerBase

from kto_workbench.engine.batches import Pair
from kto_workbench.engine.models import base_of, checkpoint_activations, dropout_off, precision_of
from kto_workbench.engine.vision import seen_on_the_left
from kto_workbench.feedback.images import keys_in
from kto_workbench.feedback.rendering import cut_start, feed, look_at
from kto_workbench.feedback.sight import Look, sight_of
from kto_workbench.feedback.templates import (
    header,
    opened_thought,
    render_prompt,
    special_tokens,
    turn_end,
    uses_template,
)


@torch.no_grad()
def generate(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Any],
    *,
    seed: int = 0,
    temperature: float = 0.7,
    max_new_tokens: int = 128,
    template: str = "auto",
    template_kwargs: Mapping[str, Any] | None = None,
    max_prompt_tokens: int | None = None,
    batch_size: int = 32,
    on_text: Callable[[int, str], None] | None = None,
    on_answered: Callable[[int], None] = lambda done: None,
    on_tokens: Callable[[Pair], None] = lambda pair: None,
) -> list[str]:
    """Answers to prompts (text or chat messages), in order.

    Args:
        model: with its adapter on or off, as the caller has set it.
        tokenizer: of the model.
        prompts: what is asked.
        seed: the same seed gives the same answers; the state of torch's generators is left as it was.
        temperature: 0 is greedy.
        max_new_tokens: longest answer.
        template: see the option of this name.
        template_kwargs: see the option of this name.
        max_prompt_tokens: a longer prompt loses its start; None leaves it as long as the model's positions allow.
        batch_size: prompts answered at once.
        on_text: told (number of the prompt, its text so far) while answers grow.
        on_answered: told how many prompts are answered, after each batch.
        on_tokens: told of each answer, in order, its prompt and the ids sampled, with the one that ended it.

    Prompts with images and such without are answered apart. Raises ModelError, also for an image that is gone.
    """
    answers: list[str] = []
    texts = [render_prompt(tokenizer, one, template=template, template_kwargs=template_kwargs) for one in prompts]
    reader = _Reader(tokenizer, model, template, template_kwargs)
    longest = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    room = max(1, longest - max_new_tokens) if longest else None
    limit = min((n for n in (room, max_prompt_tokens) if n), default=None)
    device = next(model.parameters()).device
    devices = [device] if device.type == "cuda" else []
    checkpointing = getattr(model, "is_activation_checkpointing", False)
    if checkpointing:  # in train mode it would switch the cache off
        model.activation_checkpointing_disable()
    try:
        with torch.random.fork_rng(devices), dropout_off(model), precision_of(model)():
            torch.manual_seed(seed)
            for some in _batches(prompts, batch_size):
                start, part = some[0], [texts[i] for i in some]
                tell = (lambda i, text, start=start: on_text(start + i, text)) if on_text else None
                if keys_in(prompts[start]):
                    fed = [look_at(tokenizer, texts[i], keys_in(prompts[i]), limit, template=template) for i in some]
                else:
                    ids = feed(tokenizer, part, template=template)
                    fed = [(cut_start(tokenizer, row, limit) if limit else row, None) for row in ids]
                begun = [opened_thought(text) for text in part]
                answers += _generate_batch(model, reader, fed, begun, temperature, max_new_tokens, tell, on_tokens)
                on_answered(len(answers))
    finally:
        if checkpointing:
            checkpoint_activations(model)
    return answers


def _batches(prompts: Sequence[Any], size: int) -> Iterator[list[int]]:
    """The numbers of the prompts that are answered together, in order: all with images, or all without."""
    for _, some in itertools.groupby(range(len(prompts)), lambda i: bool(keys_in(prompts[i]))):
        numbers = list(some)
        yield from (numbers[i : i + size] for i in range(0, len(numbers), size))


class _Reader:
    """Reads generated ids as answers, up to the end of the turn."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        model: nn.Module,
        template: str,
        template_kwargs: Mapping[str, Any] | None,
    ) -> None:
        self.tokenizer = tokenizer
        self.ends = {tokenizer.eos_token_id}
        own = getattr(model, "generation_config", None)
        if own is not None and own.eos_token_id is not None:
            self.ends |= {own.eos_token_id} if isinstance(own.eos_token_id, int) else set(own.eos_token_id)
        self.leave_out = True
        if uses_template(tokenizer, template):
            # The template's own end of a turn, which training teaches, may be no other's.
            *_, last = tokenizer(turn_end(tokenizer, template_kwargs), add_special_tokens=False)["input_ids"] or [None]
            self.ends |= {last} & set(special_tokens(tokenizer).values())
            # A channel's header is made of special tokens: without them nobody could tell its parts from each other.
            self.leave_out = not header(tokenizer, template_kwargs)

    def read(self, ids: list[int], begun: str) -> str:
        """An answer with what the prompt has begun of it, a thought: so it can be scored where it was written."""
        end = next((i for i, token in enumerate(ids) if token in self.ends), len(ids))
        return (begun + self.tokenizer.decode(ids[:end], skip_special_tokens=self.leave_out)).strip()


def _generate_batch(
    model: nn.Module,
    reader: _Reader,
    fed: list[tuple[Sequence[int], Look | None]],
    begun: list[str],
    temperature: float,
    max_new_tokens: int,
    on_text: Callable[[int, str], None] | None,
    on_tokens: Callable[[Pair], None],
) -> list[str]:
    tokenizer, ends = reader.tokenizer, reader.ends
    prompts = [list(ids) for ids, _ in fed]
    pad = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    width = max(map(len, prompts))
    device = next(model.parameters()).device
    tokens = torch.tensor([[pad] * (width - len(row)) + row for row in prompts], device=device)
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in prompts], device=device)
    sampling = (
        {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0}
        if temperature
        else {"do_sample": False}
    )
    settings = GenerationConfig(
        max_new_tokens=max_new_tokens, eos_token_id=sorted(ends), pad_token_id=pad, use_cache=True, **sampling
    )
    streamer = _Growing(reader, begun, on_text) if on_text else None
    # The settings of a model's own generation_config (a top_p, a repetition penalty) would differ from model to model.
    given = {}
    if fed[0][1] is not None:
        given = seen_on_the_left([look for _, look in fed], sight_of(tokenizer), width, base_of(model))
    out = model.generate(input_ids=tokens, attention_mask=mask, generation_config=settings, streamer=streamer, **given)
    sampled = out[:, width:].tolist()
    for (prompt, look), row in zip(fed, sampled, strict=True):
        end = next((i for i, token in enumerate(row) if token in ends), len(row) - 1)
        on_tokens(Pair(tuple(prompt), tuple(row[: end + 1]), look))
    return [reader.read(row, start) for row, start in zip(sampled, begun, strict=True)]


class _Growing:
    """What `generate` calls a streamer: it gets the prompts first, then one token of every row at a time."""

    def __init__(self, reader: _Reader, begun: list[str], on_text: Callable[[int, str], None]) -> None:
        self.reader, self.begun, self.on_text = reader, begun, on_text
        self.rows: list[list[int]] = [[] for _ in begun]
        self.prompt_seen = False

    def put(self, tokens: torch.Tensor) -> None:
        """Take one step's tokens."""
        if not self.prompt_seen:
            self.prompt_seen = True
            return
        for i, token in enumerate(tokens.reshape(-1).tolist()):
            if self.rows[i] and self.rows[i][-1] in self.reader.ends:
                continue
            self.rows[i].append(token)
            self.on_text(i, self.reader.read(self.rows[i], self.begun[i]))

    def end(self) -> None:
        """Nothing is left to flush."""
