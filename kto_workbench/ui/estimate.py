"""What the next run will take, of memory and of time, beside what is free: from files alone, never the network.

A page must not fail over an estimate: where something is not known, what follows from it is simply left out.
"""

import functools
import json
import math
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from kto_workbench import files
from kto_workbench.config import KTOConfig, read_template_kwargs
from kto_workbench.errors import ConfigError
from kto_workbench.feedback import Feedback, sight
from kto_workbench.feedback.images import Images
from kto_workbench.feedback.rendering import encode_rows, load_tokenizer
from kto_workbench.feedback.rows import Problem
from kto_workbench.objectives import OBJECTIVES
from kto_workbench.runs import Run
from kto_workbench.runs.machine import ask_driver, free_memory
from kto_workbench.runs.schemas import ANYTHING
from kto_workbench.runs.settings import model_folder
from kto_workbench.ui import html
from kto_workbench.ui.words import say

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SAMPLE = 400  # rows; the median of a sample of these is as good as that of a million
SEEN_SAMPLE = 40  # of rows with images, each of which is decoded
MEASURED_LOOKS = 4  # of those, whose images are made ready for the model
PROCESS = 350 * 2**20  # Python and its libraries, which a run on a CPU has in the same memory
GPU_LOOK_SECONDS = 5.0


@dataclass(frozen=True)
class Lengths:
    """Tokens of the prompts and the completions of a sample of rows, before and after max_length cuts them.

    `pixels`: elements of what the model's processor makes of a prompt's images, at most.
    """

    prompt: np.ndarray
    completion: np.ndarray
    kept_prompt: np.ndarray
    kept_completion: np.ndarray
    pixels: int = 0

    def largest_batch(self, size: int) -> tuple[int, int, int, int]:
        """Tokens of prompts, completions and longest row of a batch two deviations above the mean, and its pixels.

        Rows with images are padded to the longest.
        """

        def most(tokens: np.ndarray) -> int:
            return math.ceil(size * tokens.mean() + 2 * tokens.std() * math.sqrt(size))

        longest = int((self.kept_prompt + self.kept_completion).max())
        if self.pixels:
            completion = size * int(self.kept_completion.max())
            return size * longest - completion, completion, longest, size * self.pixels
        return most(self.kept_prompt), most(self.kept_completion), longest, 0


@dataclass(frozen=True)
class Look:
    """A sample of `rows` rows as a model sees them: `lengths` of those that its template takes, `refused` the others.

    `lengths` is None without any.
    """

    lengths: Lengths | None
    refused: tuple[Problem, ...]
    rows: int


_one_at_a_time = threading.Lock()


@functools.lru_cache(maxsize=4)
def _tokenizer(folder: str, images: Images):
    return load_tokenizer(folder, images)


@functools.lru_cache(maxsize=8)
def _look(feedback: Feedback, folder: str, max_length: int, template: str, template_kwargs: str) -> Look:
    count = len(feedback.rows)
    sample = min(SEEN_SAMPLE if feedback.n_with_images else SAMPLE, count)
    chosen = np.sort(np.random.default_rng(0).choice(count, sample, replace=False))
    how = {"template": template, "template_kwargs": read_template_kwargs(template_kwargs)}
    tokenizer = _tokenizer(folder, feedback.images)
    encoded = encode_rows(tokenizer, feedback.rows.take(chosen), max_length, **how)
    refused = tuple(row for row in encoded if isinstance(row, Problem))
    encoded = [row for row in encoded if not isinstance(row, Problem)]
    if not encoded:
        return Look(None, refused, len(chosen))
    kept = np.array([(len(row.prompt_ids), len(row.completion_ids)) for row in encoded])
    cut = np.array([(row.prompt_cut, row.completion_cut) for row in encoded])
    looks = [row.look for row in encoded if row.look][:MEASURED_LOOKS]
    pixels = max((_pixels(tokenizer, look) for look in looks), default=0)
    return Look(Lengths(*(kept + cut).T, *kept.T, pixels), refused, len(chosen))


def _pixels(tokenizer: "PreTrainedTokenizerBase", look: sight.Look) -> int:
    _, others = sight.sight_of(tokenizer).numbers([look])
    return sum(values.size for values in others.values() if values.dtype.kind == "f")


def token_lengths(
    feedback: Feedback, model: str, max_length: int, template: str, template_kwargs: str = ""
) -> Lengths | None:
    """Lengths in the model's tokens; None without rows that its template takes, or without the model's files.

    Raises ModelError or, for template_kwargs that are no JSON object, ConfigError.
    """
    found = look(feedback, model, max_length, template, template_kwargs)
    return found and found.lengths


def look(feedback: Feedback, model: str, max_length: int, template: str, template_kwargs: str = "") -> Look | None:
    """Some rows as the model sees them; None without rows, or without the model's files.

    Raises ModelError or, for template_kwargs that are no JSON object, ConfigError.
    """
    folder = model_folder(model)
    if folder is None or not len(feedback.rows):
        return None
    with _one_at_a_time:  # loading a tokenizer takes a second or two, and pages ask together
        return _look(feedback, str(folder), max_length, template, template_kwargs)


def different_prompts(feedback: Feedback) -> int:
    """How many prompts the rows answer."""
    return len(feedback.rows.table.column("prompt").unique())


def expected(language: str, config: KTOConfig, feedback: Feedback, runs: list[Run]) -> str:
    """One line: memory of what is free, and time."""
    return " · ".join(filter(None, (_memory(language, config, feedback), _time(language, config, feedback, runs))))


def _memory(language: str, config: KTOConfig, feedback: Feedback) -> str:
    from kto_workbench.runs.memory import ModelShape, Tokens, estimate_memory

    folder = model_folder(config.model)
    if folder is None:
        return say(language, "expected.unknown")
    shape = ModelShape.of(files.read_json(folder / "config.json", ANYTHING, links=True)[0] or {})
    if shape is None:
        return ""
    gpu = find_gpu() if config.device in ("auto", "cuda") else None
    half = config.dtype == "bfloat16" or config.dtype == "auto" and gpu is not None and gpu.bfloat16
    kwargs = json.dumps(config.template_kwargs)
    lengths = token_lengths(feedback, config.model, config.max_length, config.template, kwargs)
    free, process = (free_memory(), PROCESS) if gpu is None else (gpu.free, 0)
    estimate = estimate_memory(
        config,
        shape,
        Tokens(*lengths.largest_batch(min(_answers(config), len(feedback.rows)))) if lengths else None,
        device="cuda" if gpu is not None else "cpu",
        dtype_bytes=2 if half else 4,
        free=free - process,
    )
    tight = estimate.high + process > free
    low, high = gigabytes(estimate.low + process), gigabytes(estimate.high + process)
    span = low if low == high else f"{low}–{high}"
    where = "" if gpu is None else say(language, "expected.gpu")
    sentence = say(language, "expected.of", span=span, free=gigabytes(free), where=where)
    if estimate.recomputed and not config.gradient_checkpointing:
        sentence += say(language, "expected.recomputed")
    return sentence + (say(language, "expected.tight") if tight else "")


def gigabytes(size: float) -> str:
    """Bytes in GB, with a digit behind the point where there is one before it."""
    amount = size / 1e9
    return f"{amount:.1f}" if amount < 9.95 else f"{amount:.0f}"


def _time(language: str, config: KTOConfig, feedback: Feedback, runs: list[Run]) -> str:
    seconds = seconds_of(config, feedback, runs)
    return "" if seconds is None else say(language, "expected.time", time=html.time_left(language, seconds))


def seconds_of(config: KTOConfig, feedback: Feedback, runs: list[Run]) -> float | None:
    """How long a run would take, from the pace of the newest finished run of the same model; None without one."""
    pace = next((found for run in runs if (found := _seconds_per_row(run, config)) is not None), None)
    if pace is None:
        return None
    examples = feedback.n_pairs if OBJECTIVES[config.objective].paired else len(feedback.rows)
    batches = math.ceil(examples * (1 - config.eval_fraction) / config.batch_size)
    steps = config.max_steps if config.max_steps > 0 else batches * config.num_train_epochs
    return pace * _answers(config) * steps


def _answers(config: KTOConfig) -> int:
    """How many answers a batch has: a pair has two."""
    return config.batch_size * (2 if OBJECTIVES[config.objective].paired else 1)


def _seconds_per_row(run: Run, config: KTOConfig) -> float | None:
    status = run.status()
    steps = status.step - status.first_step
    if status.state != "finished" or not status.training_started or not status.ended or steps < 1:
        return None
    try:
        trained = run.config()
    except ConfigError:
        return None
    if Path(trained.model) != Path(config.model) and trained.model != config.model:
        return None
    return (status.ended - status.training_started) / steps / _answers(trained)


@dataclass(frozen=True)
class Gpu:
    """The first GPU: free bytes, and whether it computes in bfloat16 (from compute capability 8.0 on)."""

    free: int
    bfloat16: bool


def find_gpu() -> Gpu | None:
    """The first GPU, asked of its driver's own tool; None without one."""
    return _ask_gpu(int(time.monotonic() / GPU_LOOK_SECONDS))


@functools.lru_cache(maxsize=1)
def _ask_gpu(_: int) -> Gpu | None:
    try:
        mebibytes, capability = ask_driver("memory.free", "compute_cap")[0]
        return Gpu(int(mebibytes) * 2**20, float(capability) >= 8.0)
    except (ValueError, IndexError):
        return None
