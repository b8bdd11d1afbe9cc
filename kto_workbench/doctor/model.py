"""One model as the doctor sees it: its files, its template, the memory of a training, its family, and a dry step."""

import functools
import logging
import os
import random
import time
from pathlib import Path
from typing import Any

import torch

from kto_workbench.config import KTOConfig
from kto_workbench.doctor.device import device
from kto_workbench.doctor.results import BROKEN, FINE, LACKING, Result, Subject, amount
from kto_workbench.engine.models import pick_dtype
from kto_workbench.errors import ModelError
from kto_workbench.feedback import Row
from kto_workbench.feedback.rendering import decode, encode, load_tokenizer, model_path
from kto_workbench.feedback.sight import sight_of
from kto_workbench.feedback.templates import uses_template

ANSWER = "That is fine."
QUESTION = {"role": "user", "content": "How are you?"}
TOOL = {
    "type": "function",
    "function": {"name": "tell_time", "description": "The time.", "parameters": {"type": "object", "properties": {}}},
}
# What a row may hold besides: its messages, its tools, and what of them the model must see.
SHAPES: dict[str, tuple[list[dict[str, Any]], list[Any] | None, str]] = {
    "a question": ([QUESTION], None, "How are you?"),
    "a system prompt": ([{"role": "system", "content": "Be brief."}, QUESTION], None, "Be brief."),
    "several turns": ([QUESTION, {"role": "assistant", "content": "Fine."}, QUESTION], None, "Fine."),
    "tools": ([QUESTION], [TOOL], "tell_time"),
}
PATIENCE = 8.0  # seconds that a larger dry step may take
USUAL = 0.5  # of max_length, which rows take on the average


def files(subject: Subject) -> Result:
    """Whether the model's files are there, and what they hold."""
    from transformers import AutoConfig

    folder = Path(model_path(subject.model)).expanduser()
    if folder.is_dir() and not (folder / "config.json").is_file():
        return Result(BROKEN, f"{folder} is a folder, but holds no model: there is no config.json in it.")
    tokenizer = _tokenizer(subject.model, subject.trust)
    config = AutoConfig.from_pretrained(
        os.path.expanduser(model_path(subject.model)), local_files_only=folder.is_dir(), trust_remote_code=subject.trust
    )
    positions = getattr(config.get_text_config(), "max_position_embeddings", None)
    figures = {"type": config.model_type, "vocabulary": len(tokenizer), "positions": positions}
    far = f", {positions:,} positions" if positions else ""
    said = f"{subject.model}: {config.model_type}, {len(tokenizer):,} tokens{far}"
    if getattr(config, "vision_config", None) is None:
        return Result(FINE, f"{said}.", figures)
    blind = sight_of(tokenizer).blind
    if blind:
        return Result(LACKING, f"{said}; rows with images can't be trained on: {blind}.", {**figures, "sees": False})
    how = "rows with images are padded, and only its language side is trained"
    return Result(FINE, f"{said}; {how}.", {**figures, "sees": True})


def template(subject: Subject) -> Result:
    """What the chat template takes, and whether a rated answer comes through it as it was."""
    tokenizer = _tokenizer(subject.model, subject.trust)
    refused, changed, unseen = {}, [], []
    for shape, (prompt, tools, part) in SHAPES.items():
        try:
            encoded = encode(tokenizer, Row(prompt, ANSWER, True, tools=tools))
        except Exception as error:  # a template's author may raise anything
            refused[shape] = str(error).splitlines()[0].rstrip(".")[:300] if str(error) else type(error).__name__
            continue
        context, _, scored = decode(tokenizer, encoded)
        if ANSWER not in scored:
            changed.append(shape)
        if part not in context:
            unseen.append(shape)
    figures = {"template": uses_template(tokenizer), "refused": refused, "changed": changed, "unseen": unseen}
    if "a question" in refused:
        return Result(BROKEN, f"The chat template fails on a plain question: {refused['a question']}.", figures)
    if not uses_template(tokenizer):
        return Result(FINE, "There is no chat template: prompts and answers are plain text.", figures)
    notes = [f"rows with {shape} fail ({reason})" for shape, reason in refused.items()]
    notes += [f"answers after {shape} come out changed" for shape in changed]
    notes += [f"it leaves out {shape}" for shape in unseen]
    if notes:
        return Result(LACKING, f"The chat template takes a question; {'; '.join(notes)}.", figures)
    return Result(FINE, "The chat template takes system prompts, several turns and tools.", figures)


def memory(subject: Subject) -> Result:
    """What a training with the options as they are would take, by parts, and what would make it fit."""
    from kto_workbench.engine.passes import free_memory
    from kto_workbench.runs.memory import MemoryEstimate, ModelShape, estimate_memory

    config, place = KTOConfig(model=subject.model), device()
    shape = ModelShape.of(_config(subject.model, subject.trust))
    if shape is None:
        return Result(LACKING, "Its config.json does not say what its memory follows from.")
    size, free = pick_dtype(config.dtype, place).itemsize, free_memory(place)
    # The smallest passes: whatever more there is in a batch is split until it fits.
    least = config.replace(tokens_per_pass=config.max_length)

    def estimate(**options: Any) -> MemoryEstimate:
        return estimate_memory(least.replace(**options), shape, device=place.type, dtype_bytes=size, free=free)

    found = estimate()
    figures = {"free": free, "low": found.low, "high": found.high, "recomputed": found.recomputed, **found.parts}
    large = {name: value for name, value in found.parts.items() if value > found.total / 50}
    parts = ", ".join(f"{name} {amount(value)}" for name, value in large.items())
    how = ", its activations made again in the backward pass" if found.recomputed else ""
    said = f"A row of {config.max_length:,} tokens takes {amount(found.low)} to {amount(found.high)} ({parts}){how}"
    if found.high <= free:
        return Result(FINE, f"{said}; {amount(free)} are free.", figures)
    if estimate(load_in_4bit=True).high <= free:
        return Result(LACKING, f"{said}, and {amount(free)} are free: turn on load_in_4bit.", figures)
    return Result(BROKEN, f"{said}, and {amount(free)} are free: too little for this model, even in 4 bits.", figures)


def family(subject: Subject) -> Result:
    """Whether its sequences are packed or padded, or why it can't be trained."""
    heard = _Heard()
    logger = logging.getLogger("kto_workbench")
    logger.addHandler(heard)
    try:
        scorer = _scorer(subject.model, subject.trust)
    finally:
        logger.removeHandler(heard)
    figures = {"layout": scorer.name, "said": heard.lines}
    if heard.lines:
        return Result(LACKING, " ".join(heard.lines), figures)
    how = {"packed": "sequences are packed, the quick way"}.get(scorer.name, f"sequences are {scorer.name}")
    return Result(FINE, f"It is trained as it is: {how}.", figures)


def step(subject: Subject) -> Result:
    """Steps on a few rows, then on more and longer ones while that is quick, and what one of a training would take."""
    config = KTOConfig(model=subject.model, desirable_weight=1.0, undesirable_weight=1.0)
    scorer, usual = _scorer(subject.model, subject.trust), round(config.max_length * USUAL)
    goal, told = config.batch_size * usual, []
    for rows, length in ((2, min(64, usual)), (4, usual), (config.batch_size, usual)):
        if told and told[-1][0] / told[-1][1] * rows * length > PATIENCE:
            break
        _dry_step(scorer, rows, length, config)
        told.append((_dry_step(scorer, rows, length, config), rows * length))
    seconds, tokens = told[-1]
    expected = seconds / tokens * goal
    figures = {"seconds": seconds, "tokens": tokens, "seconds_per_step": expected, "tokens_per_step": goal}
    at_it = "" if tokens == goal else f", by one of {tokens} tokens"
    said = f"a step of {config.batch_size} rows of {usual} tokens takes about {_duration(expected)}{at_it}"
    return Result(FINE, f"Forward and backward work; {said}.", figures)


def _dry_step(scorer: Any, rows: int, length: int, config: KTOConfig) -> float:
    """The seconds of a step without optimizer. Raises ModelError where its loss or its gradient is not a number."""
    from kto_workbench.engine.batches import Batch, Pair
    from kto_workbench.engine.passes import Budget
    from kto_workbench.engine.step import kto_step

    draw, vocabulary = random.Random(0), scorer.model.config.get_text_config().vocab_size
    some = lambda n: tuple(draw.randrange(vocabulary) for _ in range(n))
    pairs = [Pair(some(length - length // 4), some(length // 4)) for _ in range(rows)]
    other = [Pair(a.prompt_ids, b.completion_ids) for a, b in zip(pairs, pairs[1:] + pairs[:1], strict=True)]
    zeros = torch.zeros(rows, device=scorer.device)
    batch = Batch(pairs, other, torch.arange(rows, device=scorer.device) % 2 == 0, zeros, zeros)
    clear = lambda: scorer.model.zero_grad(set_to_none=True)
    begun = time.perf_counter()
    work = lambda tokens: kto_step(scorer, batch, config, tokens, train=True)
    loss = Budget(None).run(work, rows * length, length, clear).loss.item()
    taken = time.perf_counter() - begun
    gradients = [p.grad for p in scorer.model.parameters() if p.grad is not None]
    finite = loss == loss and all(bool(torch.isfinite(gradient).all()) for gradient in gradients)
    clear()
    if not gradients or not finite:
        raise ModelError("The loss of a step, or its gradient, is not a number; try dtype float32.")
    return taken


def _duration(seconds: float) -> str:
    for size, unit in ((3600, "h"), (60, "min")):
        if seconds > 1.5 * size:
            return f"{seconds / size:.2g} {unit}"
    return f"{seconds:.2g} s"


class _Heard(logging.Handler):
    """Keeps what the engine warns of."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


@functools.cache
def _tokenizer(model: str, trust: bool) -> Any:
    return load_tokenizer(model, trust=trust)


def _config(model: str, trust: bool) -> dict[str, Any]:
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(os.path.expanduser(model_path(model)), trust_remote_code=trust).to_dict()


@functools.cache
def _scorer(model: str, trust: bool) -> Any:
    """The model with a fresh adapter, as a training begins."""
    from kto_workbench.engine.models import add_lora, load_model
    from kto_workbench.engine.scoring import make_scorer

    config, place = KTOConfig(model=model), device()
    if config.threads:
        torch.set_num_threads(config.threads)
    loaded = load_model(model, device=place, dtype=pick_dtype(config.dtype, place), trust=trust)
    return make_scorer(add_lora(loaded, config))
