"""One run from its config to its adapter or model: load, prepare, train, save. The child and notebooks call it."""

import contextlib
import itertools
import json
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging as transformers_logging

from kto_workbench.config import KTOConfig
from kto_workbench.engine.assembly import Loaded, Policy, load, make_policy
from kto_workbench.engine.batches import Batch, share_out
from kto_workbench.engine.crew import ALONE, Crew
from kto_workbench.engine.judged import Judged
from kto_workbench.engine.judges import find_judge
from kto_workbench.engine.memory import calibrate, recompute_activations
from kto_workbench.engine.passes import Budget
from kto_workbench.engine.preparation import Prepared
from kto_workbench.engine.recorder import STATUS_SECONDS, Recorder, RunOfCrew
from kto_workbench.engine.reference import Reference, ReferenceCache, reference_key
from kto_workbench.engine.reference_answers import ReferenceAnswers
from kto_workbench.engine.sampler import Sampler, answering
from kto_workbench.engine.saving import keep, save
from kto_workbench.engine.scoring import PaddedScorer
from kto_workbench.engine.trainer import KTOTrainer, NoNumbers, total_steps
from kto_workbench.errors import DataError, WorkbenchError
from kto_workbench.feedback.images import Images
from kto_workbench.feedback.rendering import model_path
from kto_workbench.files import disk_refusal
from kto_workbench.judging.rules import check_judge
from kto_workbench.judging.verdicts import Judge
from kto_workbench.runs.checkpoints import newest_whole
from kto_workbench.runs.directory import Run
from kto_workbench.runs.heartbeat import Heartbeat
from kto_workbench.runs.jsonlines import write_atomically
from kto_workbench.runs.launch import create_run
from kto_workbench.runs.turn import StoppedEarly, turn

log = logging.getLogger(__name__)

SAMPLES_IN_A_RUN = 5


def train(config: KTOConfig, *, progress: bool = True, on_record: Callable[[Run], object] | None = None) -> Run:
    """Train in this process and return the run; its directory is the same as that of a training in a child process.

    An interrupt (Ctrl+C, a notebook's stop button) stops it within a step, with a usable adapter, as `kto stop` does;
    a second one ends it at once.

    Args:
        config: what to train, on what, how.
        progress: whether to draw a bar.
        on_record: called with the run behind each record of its metrics; `kto_workbench.notebook.live()` draws.

    Raises WorkbenchError with one sentence; the run is then left `failed`, with the reason in its status.
    """
    run = create_run(config)
    with _interrupt_is_a_stop(run):
        train_run(run, progress=progress, on_record=on_record)
    return run


@contextlib.contextmanager
def _interrupt_is_a_stop(run: Run) -> Iterator[None]:
    """Only the main thread of a process is told of an interrupt, and may say what it means."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGINT)

    def stop(number: int, frame: object) -> None:
        signal.signal(signal.SIGINT, before)
        run.leave("stop")

    signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def train_run(
    run: Run, *, progress: bool = False, crew: Crew = ALONE, on_record: Callable[[Run], object] | None = None
) -> None:
    """Train a run, from its latest checkpoint if it has one, when its turn comes; every process of a crew calls it."""
    alone, run = run, RunOfCrew(run, crew)
    run.claim()
    try:
        config = run.config()
        with Heartbeat(run) if crew.leads else contextlib.nullcontext(), _turn_of_crew(alone, config, crew):
            run.set_status(state="starting", message="Loading the model.")
            told = (lambda: on_record(alone)) if on_record else (lambda: None)
            ended = _train(run, config, crew, progress=progress and crew.leads, on_record=told)
        run.set_status(**ended, ended=time.time())
    except StoppedEarly as said:
        run.set_status(state="stopped", message=str(said), ended=time.time())
    except KeyboardInterrupt:
        run.set_status(state="stopped", message="Interrupted.", ended=time.time())
        raise
    except Exception as error:
        refusal = disk_refusal(error)
        sentence = str(error) if isinstance(error, WorkbenchError) else refusal or f"{type(error).__name__}: {error}"
        # Of several processes, one that another has left tells nothing worth keeping: the run shows as crashed.
        if crew.size == 1 or refusal or isinstance(error, WorkbenchError):
            run.set_status(state="failed", error=sentence, message="", ended=time.time())
        if refusal:
            raise WorkbenchError(refusal) from error
        raise


@contextlib.contextmanager
def _turn_of_crew(run: Run, config: KTOConfig, crew: Crew) -> Iterator[None]:
    """The device's turn, which the first process takes for all."""
    with contextlib.ExitStack() as stack:
        go = True
        if crew.leads:
            try:
                stack.enter_context(turn(run, config.workspace))
            except StoppedEarly:
                go = False
        if not crew.from_first(go):
            raise StoppedEarly
        yield


def _train(
    run: Run, config: KTOConfig, crew: Crew, *, progress: bool, on_record: Callable[[], object]
) -> dict[str, Any]:
    """Returns how the run has ended, in the words of its status."""
    if config.threads:
        torch.set_num_threads(config.threads)
    transformers_logging.disable_progress_bar()
    torch.manual_seed(config.seed)
    check_judge(config)  # before anything is loaded
    loaded = load(config, crew)
    config, tokenizer, prepared = loaded.config, loaded.tokenizer, loaded.prepared
    if loaded.sees:
        run.note_images()
        log.info("Prompts have images: the language side is trained; what sees them stays as it is.")
    policy = make_policy(loaded, run.start_adapter if config.start_adapter else None, crew)
    model, whole = policy.model, config.tuning == "full"
    budget = _budget(run, config, policy.scorer, prepared.longest, crew)
    reference = _reference(run, loaded, policy, budget, crew) if config.uses_reference else None

    watched = list(config.sample_prompts) or prepared.watched
    to_judge = prepared.others[: config.judge_prompts] if config.judge else []
    judge = _judge_of(config, to_judge) if config.judge and crew.leads else None
    same = not config.start_adapter or config.reference == "start"
    key = _reference_key(run, loaded, policy.scorer, answering=True)
    known = ReferenceAnswers(Path(config.workspace) / "cache" / "answers", key, Images(config.workspace), crew)
    sampler = Sampler(
        run,
        policy,
        tokenizer,
        answering(config),
        watched,
        prepared.others,
        to_judge,
        known,
        starts_as_reference=same,
    )
    if whole:
        policy.within(sampler.answer_as_reference)
        if reference:
            to_visit = min(total_steps(config, len(prepared.train)), len(prepared.train))
            _visit(to_visit, run, prepared, reference, crew)
    checkpoint = newest_whole(run)
    trainer = KTOTrainer(
        policy.scorer,
        config,
        prepared.examples,
        prepared.train,
        prepared.held_out,
        reference,
        run.path / "checkpoints",
        budget,
        crew,
    )
    sample = lambda step: policy.within(lambda: sampler(step))
    every = config.sample_steps or max(1, total_steps(config, len(prepared.train)) // SAMPLES_IN_A_RUN)
    recorder = Recorder(run, sample, max(0, every) if watched else 0, progress=progress, on_record=on_record)
    recorder.steps_an_epoch = len(prepared.train)
    recorder.evaluates_at_the_end = prepared.held_out is not None and not config.eval_steps
    if reference:
        recorder.reference_seconds = lambda: reference.seconds
    trainer.add_callback(recorder)
    trainer.on_rows, trainer.on_skipped = recorder.on_rows, recorder.on_skipped
    judged = None
    if config.judge:
        judged = Judged(
            run,
            judge,
            lambda: policy.within(sampler.answer_judged),
            to_judge,
            config.judge_steps or config.eval_steps or len(prepared.train),
            early_stop=config.early_stop,
            keep_best=config.keep_best,
            crew=crew,
        )
        trainer.add_callback(judged)
    run.rewind(step_of(checkpoint) if checkpoint else -1)  # the answers before the first step, too
    try:
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    except NoNumbers:
        save(model, tokenizer, run, crew, whole=whole)
        raise
    if reference and crew.leads:
        _note_reference(run, reference)
    step = trainer.state.global_step
    best = judged.best_checkpoint(step) if judged else None
    if best is None:
        save(model, tokenizer, run, crew, whole=whole)
    elif crew.leads:
        keep(best, tokenizer, run, whole=whole)
    stopped = recorder.stopped and step < trainer.state.max_steps
    kept = step_of(best) if best else step
    return {
        "state": "stopped" if stopped else "finished",
        "message": judged.told(step, kept) if judged else "",
        "best_step": kept if best else None,
    }


def _budget(run: Run, config: KTOConfig, scorer: PaddedScorer, longest: Batch, crew: Crew) -> Budget:
    """Tokens a pass, as the config says or as `longest` is found to fit; what becomes of them is told in the status."""

    def make_room() -> bool:
        made = recompute_activations(scorer.model)
        if made:
            run.set_status(message="Not even one row fits: activations are recomputed, which takes a third more time.")
        return made

    budget = Budget(None, make_room=make_room)
    if config.tokens_per_pass == "auto":
        budget.tokens = calibrate(scorer, longest, config, make_room=make_room, crew=crew)
    else:
        budget.tokens = config.tokens_per_pass
    budget.on_halved = lambda tokens: run.set_status(
        message=f"Out of memory once: going on with {tokens} tokens a pass."
    )
    return budget


def _reference(run: Run, loaded: Loaded, policy: Policy, budget: Budget, crew: Crew) -> Reference:
    folder = Path(loaded.config.workspace) / "cache" / "reference"
    known = ReferenceCache(folder / f"{_reference_key(run, loaded, policy.scorer)}.sqlite")
    return Reference(policy.scorer, known, budget, as_reference=policy.as_reference, crew=crew)


def _reference_key(run: Run, loaded: Loaded, scorer: PaddedScorer, **how: bool) -> str:
    config = loaded.config
    return reference_key(
        scorer.model,
        scorer,
        os.path.expanduser(model_path(config.model)),
        loaded.dtype,
        config.load_in_4bit,
        Path(config.workspace) / "cache",
        run.start_adapter if config.reference == "start" else None,
        **how,
    )


def _judge_of(config: KTOConfig, prompts: Sequence[Any]) -> Judge:
    """The judge that the options name. Raises ConfigError, ModelError or DataError where it could never judge."""
    if not prompts:
        raise DataError(f"{config.data} is too small to hold prompts out for a judge.")
    with torch.random.fork_rng():  # a reward model's head may be drawn before it is read
        return find_judge(
            config.judge, config.workspace, criteria=config.judge_criteria, max_tokens=config.judge_max_tokens
        )


def _visit(total: int, run: Run, prepared: Prepared, reference: Reference, crew: Crew) -> None:
    """Have the reference score what training will visit, `total` batches, while the model still is the reference."""
    told = 0.0
    prepared.train.set_epoch(0)  # each epoch visits the same pairs
    for number, rows in enumerate(itertools.chain(itertools.islice(prepared.train, total), prepared.held_out or ())):
        if run.was_asked("stop", forget=True):
            raise StoppedEarly
        if time.time() - told > STATUS_SECONDS:
            told = time.time()
            run.set_status(message=f"Computing the reference: {number} of {total} batches.")
        batch = prepared.examples.batch(rows)
        reference.fill_in(batch.take(share_out(batch, crew)[crew.rank]))


def _note_reference(run: Run, reference: Reference) -> None:
    note = {"reused": reference.reused, "computed": reference.computed, "seconds": reference.seconds}
    write_atomically(run.path / "reference.json", json.dumps(note) + "\n")
    log.info("Reference: %d log-probabilities reused, %d computed, in %.1f s.", *note.values())


def step_of(checkpoint: Path) -> int:
    """The step that a checkpoint is of."""
    return int(checkpoint.name.rsplit("-", 1)[1])
