"""One run from its config to its adapter or model: load, prepare, train, save. The child and notebooks call it."""

import json
import logging
import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from kto_workbench.config import KTOConfig
from kto_workbench.engine.batches import Batch, Pair, compose, mismatched_pairs
from kto_workbench.engine.memory import calibrate
from kto_workbench.engine.models import (
    adapter_off,
    as_it_is,
    checkpoint_activations,
    load_model,
    make_trainable,
    pick_device,
    pick_dtype,
)
from kto_workbench.engine.passes import Budget
from kto_workbench.engine.recorder import STATUS_SECONDS, Heartbeat, Recorder
from kto_workbench.engine.reference import AsReference, cache_for, fill_in
from kto_workbench.engine.sampler import Sampler
from kto_workbench.engine.scoring import PaddedScorer, make_scorer
from kto_workbench.engine.step import uses_mismatched, uses_reference
from kto_workbench.engine.trainer import KTOTrainer
from kto_workbench.errors import DataError, WorkbenchError
from kto_workbench.feedback import Row, load_feedback
from kto_workbench.feedback.held_out import hold_out, prompt_key
from kto_workbench.feedback.rendering import encode_rows, load_tokenizer, model_path
from kto_workbench.feedback.rows import Problem
from kto_workbench.runs.directory import Run
from kto_workbench.runs.jsonlines import write_atomically
from kto_workbench.runs.launch import create_run
from kto_workbench.runs.turn import StoppedEarly, turn

log = logging.getLogger(__name__)

WATCHED_PROMPTS = 4
SAMPLES_IN_A_RUN = 5


def train(config: KTOConfig, *, progress: bool = True) -> Run:
    """Train in this process and return the run; its directory is the same as that of a training in a child process.

    Raises WorkbenchError with one sentence; the run is then left `failed`, with the reason in its status.
    """
    run = create_run(config)
    train_run(run, progress=progress)
    return run


def train_run(run: Run, *, progress: bool = False) -> None:
    """Train a run, from its latest checkpoint if it has one, when its turn comes."""
    run.claim()
    try:
        config = run.config()
        with Heartbeat(run), turn(run, config.workspace):
            run.set_status(state="starting", message="Loading the model.")
            stopped = _train(run, config, progress=progress)
        run.set_status(state="stopped" if stopped else "finished", message="", ended=time.time())
    except StoppedEarly:
        run.set_status(state="stopped", message="Stopped before the first step.", ended=time.time())
    except KeyboardInterrupt:
        run.set_status(state="stopped", message="Interrupted.", ended=time.time())
        raise
    except Exception as error:
        sentence = str(error) if isinstance(error, WorkbenchError) else f"{type(error).__name__}: {error}"
        run.set_status(state="failed", error=sentence, message="", ended=time.time())
        raise


def _train(run: Run, config: KTOConfig, *, progress: bool) -> bool:
    """Returns whether the run was stopped before its last step."""
    if config.threads:
        torch.set_num_threads(config.threads)
    transformers_logging.disable_progress_bar()
    torch.manual_seed(config.seed)
    device = pick_device(config.device)
    dtype = pick_dtype(config.dtype, device)
    tokenizer = load_tokenizer(config.model)
    rows = list(load_feedback(config.data, workspace=config.workspace).rows)
    base = load_model(config.model, device=device, dtype=dtype, load_in_4bit=config.load_in_4bit)
    start = run.start_adapter if config.start_adapter else None
    model = make_trainable(base, config, start)
    if config.gradient_checkpointing:
        checkpoint_activations(model)
    scorer = make_scorer(model)

    prepared = prepare(rows, tokenizer, config)
    for line in prepared.remarks:
        log.info(line)
    batches = [to_batch(part, config, device) for part in prepared.train + prepared.evaluation]
    n_train = len(prepared.train)

    budget = Budget(None)
    if config.tokens_per_pass == "auto":
        budget.tokens = calibrate(scorer, max(batches, key=lambda batch: sum(map(len, batch.pairs))), config)
    else:
        budget.tokens = config.tokens_per_pass
    budget.on_halved = lambda tokens: run.set_status(
        message=f"Out of memory once: going on with {tokens} tokens a pass."
    )
    # What can't be switched back to later must be asked before the first step.
    as_reference = as_it_is if config.tuning == "full" or config.reference == "start" else adapter_off
    if uses_reference(config):
        _fill_in_reference(run, config, batches, scorer, dtype, budget, as_reference)

    watched = list(config.sample_prompts) or [row.prompt for row in prepared.watch(WATCHED_PROMPTS)]
    sampler = Sampler(run, model, tokenizer, watched, config, as_reference)
    if as_reference is as_it_is:
        sampler.answer_as_reference()
    checkpoint = run.latest_checkpoint()
    trainer = KTOTrainer(model, config, scorer, batches[:n_train], batches[n_train:], run.path / "checkpoints", budget)
    recorder = Recorder(run, sampler, _steps_between_samples(config, n_train, bool(watched)), progress=progress)
    trainer.add_callback(recorder)
    trainer.on_rows = recorder.on_rows
    run.rewind(int(checkpoint.name.rsplit("-", 1)[1]) if checkpoint else 0)
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    if config.tuning == "full":
        save_whole(model, tokenizer, run)
    else:
        save_adapter(model, run)
    return recorder.stopped and trainer.state.global_step < trainer.state.max_steps


@dataclass(frozen=True)
class Prepared:
    """Rows of each batch as (row, encoded), for training and evaluation, and remarks for the log."""

    train: list[list[tuple[Row, Any]]]
    evaluation: list[list[tuple[Row, Any]]]
    remarks: list[str]

    def watch(self, n: int) -> list[Row]:
        """A few rows whose prompts are worth watching: held-out ones, each prompt once, the shorter half of them."""
        pairs = [pair for part in self.evaluation or self.train for pair in part]
        once = list({prompt_key(row.prompt): (len(e.prompt_ids), row) for row, e in reversed(pairs)}.values())[::-1]
        middle = sorted(length for length, _ in once)[(len(once) - 1) // 2]
        return [row for length, row in once if length <= middle][:n]


def prepare(rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase, config: KTOConfig) -> Prepared:
    """Encode rows, hold some out by prompt, and compose batches. Raises DataError if too little is left."""
    if len(rows) < 2:
        raise DataError(f"{config.data} holds {len(rows)} usable row; KTO needs at least two, for a mismatched pair.")
    encoded = encode_rows(
        tokenizer, rows, config.max_length, template=config.template, template_kwargs=config.template_kwargs
    )
    keys = [prompt_key(row.prompt) for row in rows]
    # Drawn from all rows, so that one more that can't be used holds out no others.
    train, held = hold_out(keys, config.eval_fraction, config.seed)
    refused = [one for one in encoded if isinstance(one, Problem)]
    train, held = ([i for i in part if not isinstance(encoded[i], Problem)] for part in (train, held))
    held = held if len(held) > 1 else []
    if len(train) < 2:
        raise DataError(
            f"{config.data} holds fewer than two rows to train on: line {refused[0].line}: {refused[0].reason}."
        )
    if config.objective == "sft":
        train = [i for i in train if rows[i].label]
        if len(train) < 2:
            raise DataError(f"{config.data} has fewer than two thumbs up to imitate.")

    def batches(numbers: list[int]) -> list[list[tuple[Row, Any]]]:
        if not numbers:
            return []
        parts = compose([keys[i] for i in numbers], config.batch_size, config.seed)
        return [[(rows[numbers[i]], encoded[numbers[i]]) for i in part] for part in parts]

    remarks = [f"{len(train)} rows to train on, {len(held)} of other prompts held out to evaluate."]
    if refused:
        first = "; ".join(f"line {one.line}: {one.reason}" for one in refused[:3])
        remarks.append(f"{len(refused)} of {len(rows)} rows can't be used. {first}.")
    usable = [e for e in encoded if not isinstance(e, Problem)]
    cut_prompts = sum(e.prompt_cut > 0 for e in usable)
    cut_completions = sum(e.completion_cut > 0 for e in usable)
    if cut_prompts or cut_completions:
        remarks.append(
            f"max_length {config.max_length} cuts the start of {cut_prompts} prompts and the end of {cut_completions} "
            f"completions, of {len(rows)} rows."
        )
    return Prepared(batches(train), batches(held), remarks)


def to_batch(part: Sequence[tuple[Row, Any]], config: KTOConfig, device: torch.device) -> Batch:
    """One batch's rows as pairs, mismatched pairs and labels."""
    encoded = [e for _, e in part]
    return Batch(
        pairs=[Pair(e.prompt_ids, e.completion_ids) for e in encoded],
        mismatched=mismatched_pairs(encoded, config.max_length),
        label=torch.tensor([row.label for row, _ in part], device=device),
    )


def _fill_in_reference(
    run: Run,
    config: KTOConfig,
    batches: list[Batch],
    scorer: PaddedScorer,
    dtype: torch.dtype,
    budget: Budget,
    as_reference: AsReference,
) -> None:
    started = told = time.time()
    cache = cache_for(
        scorer.model,
        scorer,
        os.path.expanduser(model_path(config.model)),
        dtype,
        config.load_in_4bit,
        Path(config.workspace) / "cache",
        run.start_adapter if config.reference == "start" else None,
    )

    def tell(done: int, total: int) -> None:
        if run.was_asked("stop", forget=True):
            cache.save()
            raise StoppedEarly
        nonlocal told
        if time.time() - told > STATUS_SECONDS:
            told = time.time()
            run.set_status(message=f"Computing the reference: {done} of {total} batches.")

    reused, computed = fill_in(
        batches,
        scorer,
        cache,
        budget,
        mismatched=uses_mismatched(config),
        as_reference=as_reference,
        on_progress=tell,
    )
    note = {"reused": reused, "computed": computed, "seconds": time.time() - started}
    write_atomically(run.path / "reference.json", json.dumps(note) + "\n")
    log.info("Reference: %d log-probabilities reused, %d computed, in %.1f s.", reused, computed, note["seconds"])


def save_whole(model: nn.Module, tokenizer: PreTrainedTokenizerBase, run: Run) -> None:
    """Put a fully tuned model with its tokenizer into the run's directory, all at once."""
    beside = run.path / "model.part"
    model.save_pretrained(beside)
    tokenizer.save_pretrained(beside)
    shutil.rmtree(run.model, ignore_errors=True)
    beside.rename(run.model)


def save_adapter(model: nn.Module, run: Run) -> None:
    """Put the adapter into the run's directory, all at once."""
    beside = run.path / "adapter.part"
    model.save_pretrained(beside)
    if run.adapter.exists():
        for path in beside.iterdir():
            path.replace(run.adapter / path.name)
        beside.rmdir()
    else:
        beside.rename(run.adapter)


def _steps_between_samples(config: KTOConfig, n_batches: int, any_prompts: bool) -> int:
    if config.sample_steps < 0 or not any_prompts:
        return 0
    total = config.max_steps if config.max_steps > 0 else round(n_batches * config.num_train_epochs)
    return config.sample_steps or max(1, total // SAMPLES_IN_A_RUN)
