"""KTO and its kin on transformers.Trainer: its checkpoints, resume, schedulers and reporting, our step.

What the Trainer wraps and hands back is the scorer, a module whose forward is scoring; its rows are rows of feedback,
and a batch of its loader is the whole batch of a step, of which each process takes its share.
"""

import contextlib
import importlib.util
import json
import logging
import math
import pickle
import random
import shutil
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils._pytree import tree_map
from torch.utils.data import DataLoader
from transformers import PrinterCallback, Trainer, TrainingArguments
from transformers.trainer import OPTIMIZER_NAME, SCHEDULER_NAME

from kto_workbench.config import KTOConfig
from kto_workbench.engine.batches import Batch, Batches, Pair, share_out
from kto_workbench.engine.crew import ALONE, Crew
from kto_workbench.engine.examples import Examples
from kto_workbench.engine.masters import master_optimizer
from kto_workbench.engine.models import check_not_repacked, fill_in_adapter, round_adapter
from kto_workbench.engine.objective import RunningMean, sum_of_log_ratios
from kto_workbench.engine.passes import Budget
from kto_workbench.engine.reference import Reference
from kto_workbench.engine.scoring import PaddedScorer
from kto_workbench.engine.sharding import shared_like, whole
from kto_workbench.engine.step import StepSums, kto_step, score_without_gradient, split_batch
from kto_workbench.engine.zero import ZeroOptimizer
from kto_workbench.errors import ConfigError, WorkbenchError
from kto_workbench.files import disk_refusal
from kto_workbench.judging.statistics import ranking
from kto_workbench.objectives import OBJECTIVES
from kto_workbench.runs.checkpoints import seal, unseal

log = logging.getLogger(__name__)

STATE_FILE = "kto_state.json"
MOST_SKIPPED = 3  # steps in a row whose loss or gradient is no number


class NoNumbers(WorkbenchError):
    """Step after step had to be skipped; the weights are those of the last good one."""


class KTOTrainer(Trainer):
    """Trains a model on rows of feedback, with KTO or another objective.

    Args:
        scorer: of the model, with its adapter, or with all its weights trainable.
        config: of the run, its weights settled.
        examples: all rows.
        batches: of the rows to train on.
        held_out: batches of the rows to evaluate on; None without any.
        reference: fills the reference's log-probabilities in; None where the objective uses none.
        output_dir: where checkpoints go.
        budget: tokens a pass.
        crew: the processes that share each batch; all of them must come with the same rows and config.

    Logged at each logging step, class means being sums ÷ counts over the whole logging window:
        loss, kl (= z0, without β), kl_raw (z0 before it is clamped), rewards/chosen, rewards/rejected, rewards/margins
        (with β), logps/chosen, logps/rejected (sums over completion tokens), grad_norm, learning_rate, epoch,
        tokens_per_second, memory_bytes (peak of the device, or of this process on a CPU), seconds. Of these only what
        the objective has, and for `bco` delta (the mean reward, with β), for pairs of answers rewards/accuracies (the
        share of them whose liked answer has the higher reward). Evaluation logs the same names behind `eval_`, and
        eval_loss_error, eval_ranking and eval_ranking_error, see Window.quality.
    """

    def __init__(
        self,
        scorer: PaddedScorer,
        config: KTOConfig,
        examples: Examples,
        batches: Batches,
        held_out: Batches | None,
        reference: Reference | None,
        output_dir: Path,
        budget: Budget,
        crew: Crew = ALONE,
    ) -> None:
        self.config, self.scorer, self.budget, self.reference = config, scorer, budget, reference
        self.examples, self.batches, self.held_out = examples, batches, held_out
        self.crew = crew
        self._window: list[StepSums] = []
        self.on_rows: Callable[[int, int, RowRewards], None] = lambda step, total_steps, rows: None
        self._tokens = 0
        self._window_started = self._started = time.perf_counter()
        self.skipped = self._skipped_in_a_row = 0
        self.on_skipped: Callable[[int, int], None] = lambda step, skipped: None
        self._z0: Tensor | None = None
        self._mean = RunningMean()
        self._eval_batches: list[Batch] = []
        arguments = training_arguments(config, output_dir, scorer.device, len(batches), held_out is not None)
        if config.optim.startswith("paged") and crew.in_step:
            raise ConfigError(f"Optimizer {config.optim} can't be shared out among processes; use `optim: adamw`.")
        if config.optim.startswith("paged") and scorer.device.type != "cuda":
            raise ConfigError(f"Optimizer {config.optim} needs a CUDA GPU; use `optim: adamw` here.")
        super().__init__(
            model=scorer,
            args=arguments,
            train_dataset=examples,
            eval_dataset=examples if held_out else None,
        )
        self.remove_callback(PrinterCallback)  # the records are in metrics.jsonl

    def _move_model_to_device(self, model: nn.Module, device: torch.device) -> None:
        """It is there; and weights that are shared out would be gathered from where they were before a move."""

    def get_train_dataloader(self) -> DataLoader:
        """Whole batches, on every process: each takes its share in the step."""
        return Loader(self.examples, self.batches)

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """The optimizer of the options; bfloat16 weights are trained on float32 masters."""
        trained = [p for p in self.model.parameters() if p.requires_grad]
        rounded = any(p.dtype == torch.bfloat16 for p in trained) and self.crew.sharding != "zero3"
        if rounded and self.optimizer is None:
            options = {"lr": self.config.learning_rate, "weight_decay": self.config.weight_decay}
            self.optimizer = master_optimizer(self.config.optim)(trained, **options)
        return super().create_optimizer(model) if self.optimizer is None else self.optimizer

    def _prepare_for_training(self, max_steps: int, train_dataloader: DataLoader, resume_from_checkpoint: Any) -> Any:
        """Wrap the scorer for several processes, and only then make what steps its parameters."""
        if self.crew.sharding == "none":
            self.model_wrapped = self.accelerator.prepare_model(self.model_wrapped)
            # DDP would broadcast buffers, which never change, in the first forward pass behind each step: and not every
            # process goes through the model equally often.
            self.model_wrapped.broadcast_buffers = False
            self.scorer.go_through(self.model_wrapped)
            self.crew.wrapped = self.model_wrapped
        self.create_optimizer()
        if self.crew.sharding != "zero3":
            self.optimizer = self.accelerator.prepare_optimizer(self.optimizer)
        self.create_scheduler(num_training_steps=max_steps)
        if self.crew.sharding == "zero3":
            self.optimizer = ZeroOptimizer(self.scorer, self.optimizer, self.config.max_grad_norm)
            self.model_wrapped = self.optimizer.engine
            self.scorer.go_through(self.model_wrapped)
        if resume_from_checkpoint is not None:
            self._load_optimizer_and_scheduler(resume_from_checkpoint)
        for name in ("model", "optimizer", "lr_scheduler"):
            setattr(self.callback_handler, name, getattr(self, name))
        self.callback_handler.train_dataloader = train_dataloader
        return self.model_wrapped, train_dataloader

    # one step

    def training_step(self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Tensor:
        """Add the gradient of one batch's mean loss; returns that loss, detached."""
        batch: Batch = inputs["batch"]
        model.train()
        z0 = self._estimate_z0_now_and_then()
        sums = self._step(batch, train=True, z0=z0, undo=self._forget_gradients)
        self._tokens += sum(len(pair) for pair in batch.pairs)
        if not self._is_sound(sums.loss):
            self._forget_gradients()  # the optimizer then leaves weights and moments as they are
            self._skip()
            return torch.zeros_like(sums.loss)
        self._skipped_in_a_row = 0
        self._mean = sums.mean
        self._window.append(sums)
        return sums.loss

    def _step(self, batch: Batch, *, undo: Callable[[], None] = lambda: None, **options: Any) -> StepSums:
        """Take the process's share of a step over a batch, its reference filled in."""
        shares = share_out(batch, self.crew)
        mine = batch.take(shares[self.crew.rank]) if self.crew.size > 1 else batch
        if self.reference:
            self.reference.fill_in(mine)

        def work(tokens: int | None) -> StepSums:
            most = 1
            if self.crew.in_step:
                most = max(len(split_batch(self.scorer, batch.take(share), tokens)) for share in shares)
            return kto_step(
                self.scorer, mine, self.config, tokens, mean=self._mean, crew=self.crew, at_least=most, **options
            )

        examples = [[batch.pairs[i] for i in example] for example in batch.examples]
        return self._within_budget(work, examples, undo)

    def _is_sound(self, loss: Tensor) -> bool:
        """Whether the loss and every gradient are numbers; waits for the device, or a bad step could not be undone."""
        sound = torch.isfinite(loss).all() & torch.isfinite(self._gradient_norm()).to(loss.device)
        return not self.crew.most(int(not sound), self.scorer.device)

    def _gradient_norm(self) -> Tensor:
        """The norm of all gradients; every process must ask."""
        if self.crew.sharding == "zero3":
            return self.optimizer.norm()
        gradients = [p.grad for p in self.scorer.parameters() if p.grad is not None]
        return whole(torch.nn.utils.get_total_norm(gradients)) if gradients else torch.zeros(())

    def _forget_gradients(self) -> None:
        (self.optimizer if self.crew.sharding == "zero3" else self.scorer).zero_grad(set_to_none=True)

    def _skip(self) -> None:
        self.skipped += 1
        self._skipped_in_a_row += 1
        step = self.state.global_step + 1
        log.warning("Step %d is skipped: its loss or gradient is no number.", step)
        self.on_skipped(step, self.skipped)
        if self._skipped_in_a_row == MOST_SKIPPED:
            raise NoNumbers(
                f"The loss or its gradient is no longer a number at step {step - MOST_SKIPPED + 1}: it and those after "
                "it were skipped, and what was learned before is kept. Lower the learning rate, or look for odd rows "
                "with `kto check`."
            )

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        return inputs  # the step moves what it needs

    def _within_budget(self, work: Any, examples: Sequence[Sequence[Pair]], undo: Any = lambda: None) -> Any:
        """Do work on examples, each of which must go through the model at once."""
        longest = max(map(self.scorer.tokens, examples), default=1)
        pairs = [pair for example in examples for pair in example]
        return self.budget.run(work, max(self.scorer.tokens(pairs), longest), longest, undo)

    def _estimate_z0_now_and_then(self) -> Tensor | None:
        """With z0 `every`: z0 before clamping, from mismatched pairs that are drawn anew each `kl_every` steps."""
        if self.config.z0 != "every" or not self.config.uses_reference:
            return None
        step = self.state.global_step
        if self._z0 is None or step % self.config.kl_every == 0:
            draw = random.Random(f"{self.config.seed}/{step}")
            pairs = self.examples.mismatched(
                [self.batches.two_of_different_prompts(draw) for _ in range(self.config.kl_sample)]
            )

            mine = [pairs[i] for i in self.crew.share([len(pair) for pair in pairs])[self.crew.rank]]

            def work(tokens: int | None) -> Tensor:
                score = lambda: score_without_gradient(self.scorer, mine, tokens, self.crew)
                return self.crew.agreed(score, self.scorer.device)

            reference = self.reference.logps(mine)
            policy = self._within_budget(work, [[pair] for pair in pairs])
            self._z0 = self.crew.sum(sum_of_log_ratios(policy, reference)) / len(pairs)
        return self._z0

    # evaluation

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """The training metrics on the held-out batches."""
        z0 = self._estimate_z0_now_and_then()
        with torch.no_grad():
            sums = [self._step(batch, train=False, z0=z0) for batch in self._held_out_batches()]
        window, objective = self._everyones(sums), self.config.objective
        found = {**window.metrics(objective), **window.quality(objective)}
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in found.items()}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _held_out_batches(self) -> Sequence[Batch]:
        """The same batches at every evaluation."""
        if not self._eval_batches and self.held_out:
            self._eval_batches = [self.examples.batch(numbers) for numbers in self.held_out]
        return self._eval_batches

    # records

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Complete a training record with what the steps since the last one added up to."""
        if "loss" in logs and self._window:
            # The one place where the host waits for the device.
            window = self._everyones(self._window)
            metrics = window.metrics(self.config.objective)
            now = time.perf_counter()
            logs |= metrics
            logs["tokens_per_second"] = self._tokens / max(now - self._window_started, 1e-9)
            logs["memory_bytes"] = peak_memory(self.scorer.device)
            logs["seconds"] = now - self._started
            self._window, self._tokens, self._window_started = [], 0, now
            if self.config.load_in_4bit:
                check_not_repacked(self.scorer.model)
            if self.config.uses_rewards:
                self.on_rows(self.state.global_step, self.state.max_steps, window.rows(self.config.objective))
        elif "loss" in logs:  # every step since the last record was skipped
            logs["loss"] = float("nan")
        if "loss" in logs and self.skipped:
            logs["skipped_steps"] = self.skipped
        super().log(logs, start_time)

    def _everyones(self, steps: Sequence[StepSums]) -> "Window":
        return Window.joined(self.crew.gather(Window.read(steps)))

    def _clip_grad_norm(self, model: nn.Module) -> Tensor:
        # DeepSpeed's engine clips as it steps.
        return self._gradient_norm() if self.crew.sharding == "zero3" else super()._clip_grad_norm(model)

    def _get_grad_norm(self, model: nn.Module, grad_norm: Tensor | None = None) -> Tensor | None:
        if self.crew.sharding == "zero3":
            return self._gradient_norm() if grad_norm is None else grad_norm
        return whole(super()._get_grad_norm(model, grad_norm))

    # what a resumed run needs to go on as if never interrupted

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write what is trained, into a checkpoint."""
        save_tuned(self.scorer.model, Path(output_dir or self.args.output_dir), self.crew)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        """In the form of one process, whoever saves: so that any number of processes can resume."""
        if not self.crew.in_step:
            return super()._save_optimizer_and_scheduler(output_dir)
        state = tree_map(
            lambda value: whole(value) if isinstance(value, Tensor) else value, self.optimizer.state_dict()
        )
        if self.crew.leads:
            torch.save(state, Path(output_dir) / OPTIMIZER_NAME)
            torch.save(self.lr_scheduler.state_dict(), Path(output_dir) / SCHEDULER_NAME)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        with _said_of(checkpoint):
            if self.crew.in_step:
                self._load_shared_out(Path(checkpoint))
            else:
                super()._load_optimizer_and_scheduler(checkpoint)

    def _load_shared_out(self, checkpoint: Path) -> None:
        """Take up an optimizer's state that was saved whole, each process its part."""
        load = lambda name: torch.load(checkpoint / name, map_location=self.scorer.device, weights_only=True)
        state, masters = load(OPTIMIZER_NAME), "masters"
        self.lr_scheduler.load_state_dict(load(SCHEDULER_NAME))
        if self.crew.sharding == "zero3":
            return self.optimizer.load_state_dict(state)
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        for number, values in state["state"].items():
            like = parameters[number]
            for name, value in values.items():
                values[name] = shared_like(value, like) if value.shape == like.shape else value
        if masters in state:
            state[masters] = [shared_like(v, p) for v, p in zip(state[masters], parameters, strict=True)]
        self.optimizer.load_state_dict(state)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        folder = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
        z0 = None if self._z0 is None else float(self._z0)
        mean = {"value": float(self._mean.value), "count": self._mean.count}
        state = {"z0": z0, "mean": mean, "tokens_per_pass": self.budget.tokens, "skipped": self.skipped}
        try:
            if self.crew.leads:
                unseal(folder)
            super()._save_checkpoint(model, trial)
            self.crew.wait()  # each process has written the state of its own random numbers
            if self.crew.leads:
                (folder / STATE_FILE).write_text(json.dumps(state))
                seal(folder)
        except Exception as error:
            if refusal := disk_refusal(error):
                shutil.rmtree(folder, ignore_errors=True)  # the older ones are whole, and it takes their room
                raise WorkbenchError(refusal) from error
            raise

    def _load_rng_state(self, checkpoint: str | None) -> None:
        with _said_of(checkpoint):
            super()._load_rng_state(checkpoint)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        tuned = self.scorer.model
        if hasattr(tuned, "peft_config"):
            if self.crew.sharding != "fsdp2":
                super()._load_from_checkpoint(resume_from_checkpoint, tuned)
            fill_in_adapter(tuned, Path(resume_from_checkpoint))
        else:
            places = tuned.state_dict()
            with _said_of(resume_from_checkpoint):
                for part in sorted(Path(resume_from_checkpoint).glob("model*.safetensors")):
                    for name, tensor in load_file(part).items():
                        places[name].copy_(shared_like(tensor, places[name]))
        if self.config.adapter_dtype == "bfloat16":
            round_adapter(self.scorer.model)
        with contextlib.suppress(OSError, ValueError):
            state = json.loads((Path(resume_from_checkpoint) / STATE_FILE).read_text())
            if state["z0"] is not None:
                self._z0 = torch.tensor(state["z0"], device=self.scorer.device)
            if mean := state.get("mean"):
                self._mean = RunningMean(torch.tensor(mean["value"], device=self.scorer.device), mean["count"])
            self.budget.tokens = state["tokens_per_pass"]
            self.skipped = state.get("skipped", 0)


@contextlib.contextmanager
def _said_of(checkpoint: str | None) -> Iterator[None]:
    """Say it in a sentence when a checkpoint of an older version, which has no checksums, can't be loaded."""
    try:
        yield
    except (OSError, EOFError, RuntimeError, ValueError, KeyError, pickle.UnpicklingError) as error:
        log.exception("%s can't be loaded.", checkpoint)
        raise WorkbenchError(
            f"The checkpoint {checkpoint} can't be loaded; without that folder the run resumes from an older one."
        ) from error


class Loader(DataLoader):
    """Batches of the current epoch, one at a time; it passes the epoch on to those who draw them."""

    def __init__(self, examples: Examples, batches: Batches) -> None:
        super().__init__(examples, batch_sampler=batches, collate_fn=as_inputs)

    def set_epoch(self, epoch: int) -> None:
        """Draw the batches of this epoch."""
        self.batch_sampler.set_epoch(epoch)


def as_inputs(batch: Batch) -> dict[str, Batch]:
    """A batch as the Trainer hands it on."""
    return {"batch": batch}


def tuned_files(checkpoint: Path) -> list[Path]:
    """What a checkpoint holds of the trained model itself: weights and what describes them."""
    beginnings = ("adapter_", "model", "config.json", "generation_config.json")
    return [path for path in sorted(checkpoint.iterdir()) if path.is_file() and path.name.startswith(beginnings)]


@torch.no_grad()
def save_tuned(model: nn.Module, folder: Path, crew: Crew = ALONE) -> None:
    """Write what a training changes: the adapter alone, or the whole model. Every process must come along."""
    options: dict[str, Any] = {}
    trained = ""
    if hasattr(model, "peft_config"):
        options["selected_adapters"], trained = [model.active_adapter], f".{model.active_adapter}"
    if crew.in_step:
        options["state_dict"] = {
            name: whole(value).cpu() if trained in name else value
            for name, value in model.state_dict(keep_vars=True).items()
        }
    if crew.leads:
        model.save_pretrained(folder, **options)


@dataclass(frozen=True)
class RowRewards:
    """A logging window's rows on the host: `rewards` with β, `labels` True for thumbs up; `z0` is its mean in nats.

    `z0` is None where the objective has none.
    """

    z0: float | None
    rewards: list[float]
    labels: list[bool]


@dataclass(frozen=True)
class Window:
    """A logging window on the host: its steps' `losses`, `z0`, `z0_raw` and mean rewards `deltas`, and its rows."""

    losses: list[float]
    z0: list[float]
    z0_raw: list[float]
    deltas: list[float]
    rewards: list[float]
    logps: list[float]
    labels: list[bool]

    @classmethod
    def read(cls, steps: Sequence[StepSums]) -> "Window":
        """Read steps from the device behind a single wait."""
        label = torch.cat([s.label for s in steps])
        delta = [torch.as_tensor(s.mean.value, device=s.loss.device) for s in steps]
        numbers = [torch.stack([s.loss, s.z0, s.z0_raw, d]) for s, d in zip(steps, delta, strict=True)]
        scalars = torch.stack(numbers, dim=1)
        rows = torch.stack([torch.cat([s.rewards for s in steps]), torch.cat([s.logps for s in steps]), label.float()])
        read, n, m = torch.cat([scalars.double().flatten(), rows.double().flatten()]).tolist(), len(steps), len(label)
        cut = [read[i * n : i * n + n] for i in range(4)] + [read[4 * n + i * m : 4 * n + i * m + m] for i in range(3)]
        return cls(*cut[:6], [up == 1.0 for up in cut[6]])

    @classmethod
    def joined(cls, windows: "Sequence[Window]") -> "Window":
        """Those of several processes: each has a part of each step's loss, and rows of its own."""
        losses = [math.fsum(parts) for parts in zip(*(w.losses for w in windows), strict=True)]
        together = lambda name: [value for w in windows for value in getattr(w, name)]
        first = windows[0]
        return cls(losses, first.z0, first.z0_raw, first.deltas, *map(together, ("rewards", "logps", "labels")))

    def metrics(self, objective: str = "kto") -> dict[str, float]:
        """What the objective logs; class means are sums ÷ counts over the whole window, NaN where a class is absent."""
        up = [i for i, good in enumerate(self.labels) if good]
        down = [i for i, good in enumerate(self.labels) if not good]
        mean = lambda values, some: math.fsum(values[i] for i in some) / len(some) if some else math.nan
        chosen, rejected = mean(self.rewards, up), mean(self.rewards, down)
        found = {
            "loss": _mean(self.losses),
            "kl": _mean(self.z0),
            "kl_raw": _mean(self.z0_raw),
            "delta": _mean(self.deltas),
            "rewards/chosen": chosen,
            "rewards/rejected": rejected,
            "rewards/margins": chosen - rejected,
            "logps/chosen": mean(self.logps, up),
            "logps/rejected": mean(self.logps, down),
        }
        if OBJECTIVES[objective].paired:
            sides = zip(self.rewards[0::2], self.rewards[1::2], strict=True)
            found["rewards/accuracies"] = _mean([float(liked > disliked) for liked, disliked in sides])
        return {name: found[name] for name in OBJECTIVES[objective].metrics}

    def quality(self, objective: str) -> dict[str, float]:
        """How sure its loss is, and, where the objective has rewards, how well they rank its rows.

        `ranking` is the share of pairs of a thumb up and a thumb down in which the thumb up has the higher reward; no
        β, no λ and no loss gets into it, so runs that differ in these can be compared. `…_error` is a standard error.
        """
        spread = statistics.stdev(self.losses) / len(self.losses) ** 0.5 if len(self.losses) > 1 else None
        found = {"loss_error": spread}
        if OBJECTIVES[objective].reference:
            labelled = list(zip(self.rewards, self.labels, strict=True))
            sides = ([reward for reward, good in labelled if good is side] for side in (True, False))
            found["ranking"], found["ranking_error"] = ranking(*sides)
        return {name: math.nan if value is None else value for name, value in found.items()}

    def rows(self, objective: str = "kto") -> RowRewards:
        """Its rows' rewards."""
        z0 = _mean(self.z0) if OBJECTIVES[objective].centre == "z0" else None
        return RowRewards(z0, self.rewards, self.labels)


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if values else math.nan


def mean_metrics(steps: Sequence[StepSums], objective: str = "kto") -> dict[str, float]:
    """The metrics of a window of steps."""
    return Window.read(steps).metrics(objective)


def peak_memory(device: torch.device) -> int:
    """Peak memory in bytes: allocated on a GPU, resident in this process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    info = psutil.Process().memory_info()
    return getattr(info, "peak_wset", info.rss)


def total_steps(config: KTOConfig, n_batches: int) -> int:
    """Optimizer steps of a whole run with so many batches an epoch, as transformers' Trainer counts them."""
    return config.max_steps if config.max_steps > 0 else math.ceil(n_batches * config.num_train_epochs)


def training_arguments(
    config: KTOConfig, output_dir: Path, device: torch.device, n_batches: int, evaluates: bool
) -> TrainingArguments:
    """Our options in the words of transformers."""
    missing = next((name for name in config.reporters if importlib.util.find_spec(name) is None), None)
    if missing:
        raise ConfigError(f"Option `report_to` names {missing}, which is not installed here; `pip install {missing}`.")
    # At the end of an epoch, but as a step: transformers evaluates behind an epoch's last checkpoint otherwise, and one
    # killed between the two would never make it up.
    evaluation = "steps" if evaluates else "no"
    total = total_steps(config, n_batches)
    arguments = TrainingArguments(
        output_dir=str(output_dir),
        per_device_train_batch_size=config.batch_size,
        num_train_epochs=config.num_train_epochs,
        max_steps=config.max_steps,
        learning_rate=config.learning_rate,
        lr_scheduler_type=config.lr_scheduler_type,
        warmup_steps=round(config.warmup_ratio * total),
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
        optim="adamw_torch" if config.optim == "adamw" else config.optim,
        logging_steps=config.logging_steps,
        logging_nan_inf_filter=False,  # it waits for the device at every step
        eval_strategy=evaluation,
        eval_steps=config.eval_steps or n_batches,
        save_strategy="steps" if config.save_steps else "no",
        save_steps=config.save_steps or 500,
        # The best and the newest at least: of a single one, transformers would leave the best alone.
        save_total_limit=max(config.save_total_limit, 2 if config.keep_best else 1),
        seed=config.seed,
        data_seed=config.seed,
        use_cpu=device.type == "cpu",
        report_to=list(config.reporters) or ["none"],
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        ddp_find_unused_parameters=False,
        disable_tqdm=True,
    )
    # One process drives one device: without this the Trainer would wrap the model for every GPU that it sees.
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments
