"""KTO on transformers.Trainer: its checkpoints, resume, schedulers and reporting, our step.

To the Trainer one "row" is a whole batch: its composition is fixed for the run, the order is shuffled each epoch.
"""

import contextlib
import json
import logging
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import Tensor, nn
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from kto_workbench.config import KTOConfig
from kto_workbench.engine.batches import Batch, Pair
from kto_workbench.engine.masters import master_optimizer
from kto_workbench.engine.models import check_not_repacked, round_adapter
from kto_workbench.engine.objective import mean_log_ratio
from kto_workbench.engine.passes import Budget
from kto_workbench.engine.reference import reference_logps
from kto_workbench.engine.scoring import PaddedScorer
from kto_workbench.engine.step import StepSums, kto_step, score_without_gradient, uses_reference
from kto_workbench.errors import ConfigError, WorkbenchError

log = logging.getLogger(__name__)

STATE_FILE = "kto_state.json"


class KTOTrainer(Trainer):
    """Trains a model with KTO on prepared batches.

    Args:
        model: with its adapter, or with all its weights trainable.
        config: of the run, its weights settled.
        scorer: of the model.
        train_batches: with the reference's log-probabilities filled in.
        eval_batches: likewise; may be empty.
        output_dir: where checkpoints go.
        budget: tokens a pass.
        callbacks: of transformers.

    Logged at each logging step, class means being sums ÷ counts over the whole logging window:
        loss, kl (= z0, without β), kl_raw (z0 before it is clamped), rewards/chosen, rewards/rejected, rewards/margins
        (with β), logps/chosen, logps/rejected (sums over completion tokens), grad_norm, learning_rate, epoch,
        tokens_per_second, memory_bytes (peak of the device, or of this process on a CPU), seconds. Evaluation logs the
        same names behind `eval_`.
    """

    def __init__(
        self,
        model: nn.Module,
        config: KTOConfig,
        scorer: PaddedScorer,
        train_batches: Sequence[Batch],
        eval_batches: Sequence[Batch],
        output_dir: Path,
        budget: Budget,
        callbacks: Sequence[TrainerCallback] = (),
    ) -> None:
        self.config, self.scorer, self.budget = config, scorer, budget
        self.eval_batches = list(eval_batches)
        self.train_pairs = [pair for batch in train_batches for pair in batch.pairs]
        self._window: list[StepSums] = []
        self.on_rows: Callable[[int, int, RowRewards], None] = lambda step, total_steps, rows: None
        self._tokens = 0
        self._window_started = self._started = time.perf_counter()
        self._z0: Tensor | None = None
        arguments = training_arguments(config, output_dir, scorer.device, len(train_batches), bool(eval_batches))
        if config.optim.startswith("paged") and scorer.device.type != "cuda":
            raise ConfigError(f"Optimizer {config.optim} needs a CUDA GPU; use `optim: adamw` here.")
        if arguments.world_size > 1:
            raise ConfigError("This version trains in one process; start it without torchrun or accelerate launch.")
        super().__init__(
            model=model,
            args=arguments,
            train_dataset=list(train_batches),
            eval_dataset=self.eval_batches or None,
            data_collator=lambda rows: {"batch": rows[0]},
            callbacks=list(callbacks),
        )
        self.remove_callback(PrinterCallback)  # the records are in metrics.jsonl

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """The optimizer of the options; bfloat16 weights are trained on float32 masters."""
        trained = [p for p in self.model.parameters() if p.requires_grad]
        rounded = any(p.dtype == torch.bfloat16 for p in trained)
        if rounded and self.optimizer is None:
            options = {"lr": self.config.learning_rate, "weight_decay": self.config.weight_decay}
            self.optimizer = master_optimizer(self.config.optim)(trained, **options)
        return super().create_optimizer(model) if self.optimizer is None else self.optimizer

    # one step

    def training_step(self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Tensor:
        """Add the gradient of one batch's mean loss; returns that loss, detached."""
        batch: Batch = inputs["batch"]
        model.train()
        z0 = self._estimate_z0_now_and_then() if self.config.z0 == "every" else None

        def work(tokens: int | None) -> StepSums:
            return kto_step(self.scorer, batch, self.config, tokens, train=True, z0=z0)

        sums = self._within_budget(work, batch.pairs, undo=lambda: model.zero_grad(set_to_none=True))
        self._window.append(sums)
        self._tokens += sum(len(pair) for pair in batch.pairs)
        return sums.loss

    def _within_budget(self, work: Any, pairs: Sequence[Pair], undo: Any = lambda: None) -> Any:
        lengths = [len(pair) for pair in pairs]
        return self.budget.run(work, sum(lengths), max(lengths), undo)

    def _estimate_z0_now_and_then(self) -> Tensor | None:
        """z0 before clamping from a sample of mismatched pairs, drawn anew each `kl_every` steps."""
        if not uses_reference(self.config):
            return None
        step = self.state.global_step
        if self._z0 is None or step % self.config.kl_every == 0:
            draw = random.Random(f"{self.config.seed}/{step}")
            pairs = [
                _random_mismatched(self.train_pairs, self.config.max_length, draw) for _ in range(self.config.kl_sample)
            ]

            def work(tokens: int | None) -> Tensor:
                policy = score_without_gradient(self.scorer, pairs, tokens)
                return mean_log_ratio(policy, reference_logps(pairs, self.scorer, tokens))

            self._z0 = self._within_budget(work, pairs)
        return self._z0

    # evaluation

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """The training metrics on the held-out batches."""
        sums = []
        z0 = self._estimate_z0_now_and_then() if self.config.z0 == "every" else None
        with torch.no_grad():
            for batch in self.eval_batches:
                work = lambda tokens, batch=batch: kto_step(self.scorer, batch, self.config, tokens, train=False, z0=z0)
                sums.append(self._within_budget(work, batch.pairs))
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in mean_metrics(sums).items()}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    # records

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Complete a training record with what the steps since the last one added up to."""
        if "loss" in logs and self._window:
            # The one place where the host waits for the device.
            metrics, rows = read_window(self._window)
            now = time.perf_counter()
            logs |= metrics
            logs["tokens_per_second"] = self._tokens / max(now - self._window_started, 1e-9)
            logs["memory_bytes"] = peak_memory(self.scorer.device)
            logs["seconds"] = now - self._started
            self._window, self._tokens, self._window_started = [], 0, now
            if self.config.load_in_4bit:
                check_not_repacked(self.model)
            if not all(map(_is_finite, (metrics["loss"], logs.get("grad_norm", 0.0)))):
                raise WorkbenchError(
                    f"The loss or its gradient is no longer a number at step {self.state.global_step}: lower the "
                    "learning rate, or look for odd rows with `kto check`."
                )
            self.on_rows(self.state.global_step, self.state.max_steps, rows)
        super().log(logs, start_time)

    # what a resumed run needs to go on as if never interrupted

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        folder = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
        z0 = None if self._z0 is None else float(self._z0)
        (folder / STATE_FILE).write_text(json.dumps({"z0": z0, "tokens_per_pass": self.budget.tokens}))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        if self.config.adapter_dtype == "bfloat16":
            round_adapter(self.model)
        with contextlib.suppress(OSError, ValueError):
            state = json.loads((Path(resume_from_checkpoint) / STATE_FILE).read_text())
            if state["z0"] is not None:
                self._z0 = torch.tensor(state["z0"], device=self.scorer.device)
            self.budget.tokens = state["tokens_per_pass"]


@dataclass(frozen=True)
class RowRewards:
    """A logging window's rows on the host: `rewards` with β, `labels` True for thumbs up; `z0` is its mean in nats."""

    z0: float
    rewards: list[float]
    labels: list[bool]


def mean_metrics(steps: Sequence[StepSums]) -> dict[str, float]:
    """The metrics of a logging window: class means are sums ÷ counts over all of it; NaN where a class is absent."""
    return read_window(steps)[0]


def read_window(steps: Sequence[StepSums]) -> tuple[dict[str, float], RowRewards]:
    """The metrics of a logging window and its rows, read behind a single wait for the device."""
    label = torch.cat([s.label for s in steps])
    sides = torch.stack([label, ~label]).double()
    rewards, logps = torch.cat([s.rewards for s in steps]).double(), torch.cat([s.logps for s in steps]).double()
    means = torch.stack([sides @ rewards, sides @ logps]) / sides.sum(-1)
    scalars = torch.stack([torch.stack([s.loss, s.z0, s.z0_raw]) for s in steps]).double().mean(0)
    read = torch.cat([scalars, means.flatten(), rewards, label.double()]).tolist()
    loss, z0, z0_raw, reward_d, reward_u, logp_d, logp_u = read[:7]
    rows = RowRewards(z0, read[7 : 7 + len(label)], [up == 1.0 for up in read[7 + len(label) :]])
    metrics = {
        "loss": loss,
        "kl": z0,
        "kl_raw": z0_raw,
        "rewards/chosen": reward_d,
        "rewards/rejected": reward_u,
        "rewards/margins": reward_d - reward_u,
        "logps/chosen": logp_d,
        "logps/rejected": logp_u,
    }
    return metrics, rows


def peak_memory(device: torch.device) -> int:
    """Peak memory in bytes: allocated on a GPU, resident in this process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    info = psutil.Process().memory_info()
    return getattr(info, "peak_wset", info.rss)


def training_arguments(
    config: KTOConfig, output_dir: Path, device: torch.device, n_batches: int, evaluates: bool
) -> TrainingArguments:
    """Our options in the words of transformers. A "row" of its data set is a batch of ours."""
    evaluation = "no" if not evaluates else "steps" if config.eval_steps else "epoch"
    total = config.max_steps if config.max_steps > 0 else max(1, round(n_batches * config.num_train_epochs))
    arguments = TrainingArguments(
        output_dir=str(output_dir),
        per_device_train_batch_size=1,
        per_device_eval_batch_size=1,
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
        eval_steps=config.eval_steps or None,
        save_strategy="steps" if config.save_steps else "no",
        save_steps=config.save_steps or 500,
        save_total_limit=config.save_total_limit,
        seed=config.seed,
        data_seed=config.seed,
        use_cpu=device.type == "cpu",
        activation_checkpointing=config.gradient_checkpointing,
        activation_checkpointing_kwargs={"use_reentrant": False} if config.gradient_checkpointing else None,
        report_to=[name.strip() for name in config.report_to.split(",")],
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        disable_tqdm=True,
    )
    # One process drives one device: without this the Trainer would wrap the model for every GPU that it sees.
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments


def _random_mismatched(pairs: Sequence[Pair], max_length: int, draw: random.Random) -> Pair:
    first, second = draw.sample(range(len(pairs)), 2)
    # A sibling's or an equal completion is no mismatch; a few tries find another where there is one.
    for _ in range(20):
        if pairs[first].prompt_ids != pairs[second].prompt_ids:
            break
        first, second = draw.sample(range(len(pairs)), 2)
    prompt = pairs[first].prompt_ids
    return Pair(prompt, pairs[second].completion_ids[: max(1, max_length - len(prompt))])


def _is_finite(value: float) -> bool:
    return value == value and abs(value) != float("inf")
