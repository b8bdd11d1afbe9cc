"""One KTO step over a batch: z0 over the whole batch first, then loss and gradient pass by pass."""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kto_workbench.config import KTOConfig
from kto_workbench.engine import objective
from kto_workbench.engine.batches import Batch, Pair
from kto_workbench.engine.crew import ALONE, Crew
from kto_workbench.engine.models import dropout_off
from kto_workbench.engine.passes import without_gradient
from kto_workbench.engine.scoring import PaddedScorer, Scores, to_device


@dataclass(frozen=True)
class StepSums:
    """What a step adds to the log, as sums and counts on the device: means are taken over the whole logging window.

    `loss` [1], `z0` [1] and `z0_raw` [1] (before clamping) are the step's own; `label` [m] bool, `rewards` [m] with β,
    `logps` [m].
    """

    loss: Tensor
    z0: Tensor
    z0_raw: Tensor
    label: Tensor
    rewards: Tensor
    logps: Tensor


def uses_reference(config: KTOConfig) -> bool:
    """Whether the reference's log-probabilities of the examples are needed at all."""
    return config.objective == "kto" and config.reference != "uniform"


def uses_mismatched(config: KTOConfig) -> bool:
    """Whether each batch's mismatched pairs are scored, by policy and reference."""
    return uses_reference(config) and config.z0 == "batch"


# What a process goes through the model with when it has nothing to do and the others wait for it.
FILLER = Pair((0,), (0,))


def kto_step(
    scorer: PaddedScorer,
    batch: Batch,
    config: KTOConfig,
    tokens_per_pass: int | None,
    *,
    train: bool,
    z0: Tensor | None = None,
    crew: Crew = ALONE,
    at_least: int = 1,
) -> StepSums:
    """Score a batch, estimate z0, and, in training, add the gradient of its mean loss to the parameters' `.grad`.

    Args:
        scorer: of the policy.
        batch: this process's share of it, with the reference's log-probabilities filled in where the config uses them.
        config: objective, β, λ, z0, reference, sft_weight.
        tokens_per_pass: of a pass with gradient; None for one pass; without effect on the result.
        train: False computes the metrics alone.
        z0: scalar that was estimated elsewhere (z0 `every`), in nats before clamping; else None.
        crew: the processes that share the batch.
        at_least: passes, where other processes take so many.

    Returns:
        The step's sums over this process's share, detached.
    """
    device = scorer.device
    label = batch.label.to(device, non_blocking=True)
    lengths = to_device([len(pair.completion_ids) for pair in batch.pairs], device).float()
    mismatched = uses_mismatched(config)
    entropy = config.objective == "kto" and config.reference == "uniform"
    passes = scorer.split(batch.pairs, tokens_per_pass if train else without_gradient(tokens_per_pass))
    passes += [[]] * (at_least - len(passes))

    # z0 first, of the whole batch. The mismatched completions of one pass go on from the prompts of its gradient pass,
    # whose graph is kept until z0 is known; those of the others take passes without gradient. Dropout would get into
    # prompts of a gradient pass, so then all of them do.
    together = mismatched and not (train and config.lora_dropout)
    apart = [i for part in passes[1:] for i in part] if together else list(range(len(batch)))
    first: Scores | None = None
    z0_raw = torch.zeros((), device=device) if z0 is None else z0
    if mismatched:

        def score_mismatched() -> tuple[Tensor, Scores | None]:
            kl_logps, scores = torch.empty(len(batch), device=device), None
            others = [batch.mismatched[i] for i in apart]
            kl_logps[to_device(apart, device)] = score_without_gradient(scorer, others, tokens_per_pass, crew)
            if together:
                with torch.set_grad_enabled(train):
                    part = passes[0]
                    scores, logps = scorer.score_both(_pick(batch.pairs, part), _pick(batch.mismatched, part))
                kl_logps[to_device(part, device)] = logps[: len(part)]
            return kl_logps, scores

        with _gradients_kept(crew, train):
            kl_logps, first = crew.agreed(score_mismatched, device)
        z0_raw = crew.sum(objective.sum_of_log_ratios(kl_logps, batch.reference_kl_logps)) / batch.size
    z0_now = z0_raw.clamp(min=0)

    loss = torch.zeros((), device=device)
    rewards, logps = torch.zeros(len(batch), device=device), torch.zeros(len(batch), device=device)

    def go_through(part: list[int], scores: Scores | None) -> None:
        with torch.set_grad_enabled(train):
            scores = scores or scorer.score(_pick(batch.pairs, part), entropy=entropy)
            scores = scores.first(len(part))  # what stood in for nothing counts for nothing
            at = to_device(part, device)
            part_loss, part_rewards = _loss_of_pass(scores, batch, label[at], at, z0_now, lengths[at], config)
        rewards[at], logps[at] = part_rewards, scores.logps.detach()
        loss.add_(part_loss.detach())
        if train:
            # Wrappers average gradients over processes; these are parts of a sum.
            (part_loss * crew.size).backward()

    def go_through_all() -> None:
        for number, part in enumerate(passes):
            go_through(part, first if number == 0 else None)

    with _gradients_kept(crew, train):
        crew.agreed(go_through_all, device)
    if train and crew.size > 1:
        # The gradients that each process has gathered are averaged behind a pass that adds nothing to them, which is
        # too small to run out of memory: so nobody waits for one that has.
        (0.0 * scorer.score([FILLER]).logps.sum()).backward()
    return StepSums(loss, z0_now, z0_raw, label, rewards, logps)


def _gradients_kept(crew: Crew, train: bool) -> contextlib.AbstractContextManager[None]:
    return crew.keeping_gradients() if train else contextlib.nullcontext()


def _loss_of_pass(
    scores: Scores, batch: Batch, label: Tensor, at: Tensor, z0: Tensor, lengths: Tensor, config: KTOConfig
) -> tuple[Tensor, Tensor]:
    """What the examples `at` add to the batch's mean loss, and their rewards."""
    sft_weight = 1.0 if config.objective == "sft" else config.sft_weight
    loss = torch.zeros((), device=scores.logps.device)
    rewards = torch.zeros_like(scores.logps.detach())
    if config.objective == "kto":
        if scores.entropy is not None:
            reference = objective.uniform_reference_logps(scores.logps, scores.entropy)
        else:
            reference = batch.reference_logps[at]
        losses, rewards = objective.kto_loss(
            scores.logps,
            reference,
            label,
            z0,
            beta=config.beta,
            desirable_weight=config.desirable_weight,
            undesirable_weight=config.undesirable_weight,
        )
        loss = losses.sum() / batch.size
    if sft_weight:
        # The mean is over the whole batch's tokens; this pass adds its part of it.
        share = (lengths * label).sum() / max(batch.imitated, 1)
        loss = loss + sft_weight * share * objective.sft_loss(scores.logps, lengths, label)
    return loss, rewards


@torch.no_grad()
def score_without_gradient(
    scorer: PaddedScorer, pairs: Sequence[Pair], tokens_per_pass: int | None, crew: Crew = ALONE
) -> Tensor:
    """[n] log-probabilities of pairs, without dropout; `tokens_per_pass` is that of passes with gradient."""
    logps = torch.empty(len(pairs), device=scorer.device)
    parts = scorer.split(pairs, without_gradient(tokens_per_pass))
    fillers = crew.most(len(parts), scorer.device) - len(parts) if crew.in_step else 0
    with dropout_off(scorer.model):
        for part in parts:
            logps[to_device(part, logps.device)] = scorer.score([pairs[i] for i in part]).logps
        for _ in range(fillers):
            scorer.score([FILLER])
    return logps


def _pick(items: Sequence[Pair], numbers: list[int]) -> list[Pair]:
    """Some pairs; where there are none, something to go through the model with all the same."""
    return [items[i] for i in numbers] or [FILLER]
