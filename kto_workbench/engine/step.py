"""One step over a batch, whatever the objective: first z0 over the whole batch, then loss and gradient pass by pass."""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kto_workbench.config import KTOConfig
from kto_workbench.engine import objective
from kto_workbench.engine.attention import to_device
from kto_workbench.engine.batches import Batch, Pair
from kto_workbench.engine.crew import ALONE, Crew
from kto_workbench.engine.models import dropout_off
from kto_workbench.engine.objective import RunningMean
from kto_workbench.engine.passes import split, without_gradient
from kto_workbench.engine.scoring import PaddedScorer, Scores
from kto_workbench.objectives import OBJECTIVES


@dataclass(frozen=True)
class StepSums:
    """What a step adds to the log, as sums and counts on the device: means are taken over the whole logging window.

    `loss` [1], `z0` [1] and `z0_raw` [1] (before clamping) are the step's own; `label` [m] bool, `rewards` [m] with β,
    `logps` [m]. `mean` is that of all rewards up to this step's, where the objective counts them from it.
    """

    loss: Tensor
    z0: Tensor
    z0_raw: Tensor
    label: Tensor
    rewards: Tensor
    logps: Tensor
    mean: RunningMean = RunningMean()


# What a process goes through the model with when it has nothing to do and the others wait for it.
FILLER = Pair((0,), (0,))
OF_COUPLES = {"dpo": objective.dpo_loss, "apo_zero": objective.apo_zero_loss, "ipo": objective.ipo_loss}


def kto_step(
    scorer: PaddedScorer,
    batch: Batch,
    config: KTOConfig,
    tokens_per_pass: int | None,
    *,
    train: bool,
    z0: Tensor | None = None,
    mean: RunningMean | None = None,
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
        mean: of all rewards before this step (objective `bco`); None where there were none.
        crew: the processes that share the batch.
        at_least: passes, where other processes take so many.

    Returns:
        The step's sums over this process's share, detached.
    """
    device = scorer.device
    label = batch.label.to(device, non_blocking=True)
    lengths = to_device([len(pair.completion_ids) for pair in batch.pairs], device).float()
    mean, mismatched = mean or RunningMean(), config.uses_mismatched
    passes = split_batch(scorer, batch, tokens_per_pass if train else without_gradient(tokens_per_pass))
    passes += [[]] * (at_least - len(passes))

    # First what rewards are counted from, of the whole batch: z0, from mismatched completions, or the mean reward.
    # Those of the first pass are scored with its gradient pass, whose graph is kept until that is known (mismatched
    # ones go on from its prompts); those of the others take passes without gradient. Dropout would get into what a
    # gradient pass finds, so then all of them do.
    together = not (train and config.lora_dropout)

    def score_first() -> tuple[Tensor, Scores | None]:
        logps, scores = torch.empty(len(batch), device=device), None
        apart = [i for part in passes[1:] for i in part] if together else list(range(len(batch)))
        of = batch.mismatched if mismatched else batch.pairs
        logps[to_device(apart, device)] = score_without_gradient(scorer, [of[i] for i in apart], tokens_per_pass, crew)
        if together:
            part = passes[0]
            with torch.set_grad_enabled(train):
                scores, kl_logps = scorer.score_both(
                    _pick(batch.pairs, part), _pick(batch.mismatched, part) if mismatched else ()
                )
            found = kl_logps if mismatched else scores.logps.detach()
            logps[to_device(part, device)] = found[: len(part)]
        return logps, scores

    first: Scores | None = None
    z0_raw = torch.zeros((), device=device) if z0 is None else z0
    takes_mean = train and OBJECTIVES[config.objective].centre == "mean"
    if mismatched or takes_mean:
        with _gradients_kept(crew, train):
            logps, first = crew.agreed(score_first, device)
        if mismatched:
            z0_raw = crew.sum(objective.sum_of_log_ratios(logps, batch.reference_kl_logps)) / batch.size
        else:
            total = crew.sum(config.beta * objective.sum_of_log_ratios(logps, batch.reference_logps))
            mean = mean.with_more(total, batch.size)
    z0_now = z0_raw.clamp(min=0)

    loss = torch.zeros((), device=device)
    rewards, logps = torch.zeros(len(batch), device=device), torch.zeros(len(batch), device=device)
    entropy = config.reference == "uniform"

    def go_through(part: list[int], scores: Scores | None) -> None:
        with torch.set_grad_enabled(train):
            scores = scores or scorer.score(_pick(batch.pairs, part), entropy=entropy)
            scores = scores.first(len(part))  # what stood in for nothing counts for nothing
            at = to_device(part, device)
            part_loss, part_rewards = _loss_of_pass(scores, batch, label[at], at, z0_now, mean, lengths[at], config)
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
    if train and crew.size > 1 and not crew.in_step:
        # The gradients that each process has gathered are averaged behind a pass that adds nothing to them, which is
        # too small to run out of memory: so nobody waits for one that has.
        (0.0 * scorer.score([FILLER]).logps.sum()).backward()
    return StepSums(loss, z0_now, z0_raw, label, rewards, logps, mean)


def split_batch(scorer: PaddedScorer, batch: Batch, tokens_per_pass: int | None) -> list[list[int]]:
    """Which of a batch's pairs go through the model together, as lists of their numbers; couples stay whole."""
    if not batch.coupled:
        return scorer.split(batch.pairs, tokens_per_pass)
    couples = batch.examples
    lengths = [scorer.tokens(_pick(batch.pairs, couple)) for couple in couples]
    return [[i for n in part for i in couples[n]] for part in split(lengths, tokens_per_pass)]


def _gradients_kept(crew: Crew, train: bool) -> contextlib.AbstractContextManager[None]:
    return crew.keeping_gradients() if train else contextlib.nullcontext()


def _loss_of_pass(
    scores: Scores,
    batch: Batch,
    label: Tensor,
    at: Tensor,
    z0: Tensor,
    mean: RunningMean,
    lengths: Tensor,
    config: KTOConfig,
) -> tuple[Tensor, Tensor]:
    """What the pairs `at` add to the batch's mean loss, and their rewards."""
    loss = torch.zeros((), device=scores.logps.device)
    rewards = torch.zeros_like(scores.logps.detach())
    if config.objective != "sft":
        losses, rewards = _losses_and_rewards(scores, batch, label, at, z0, mean, lengths, config)
        loss = losses.sum() / batch.size
    sft_weight = 1.0 if config.objective == "sft" else config.sft_weight
    if sft_weight:
        # The mean is over the whole batch's tokens; this pass adds its part of it.
        share = (lengths * label).sum() / max(batch.imitated, 1)
        loss = loss + sft_weight * share * objective.sft_loss(scores.logps, lengths, label)
    return loss, rewards


def _losses_and_rewards(
    scores: Scores,
    batch: Batch,
    label: Tensor,
    at: Tensor,
    z0: Tensor,
    mean: RunningMean,
    lengths: Tensor,
    config: KTOConfig,
) -> tuple[Tensor, Tensor]:
    """The loss of each example, and the reward of each pair."""
    logps = scores.logps
    if scores.entropy is None:
        reference = batch.reference_logps[at]
    else:
        reference = objective.uniform_reference_logps(logps, scores.entropy)
    if batch.coupled:
        sides = [values[side::2] for values in (logps, reference) for side in (0, 1)]
        if config.objective == "ipo":
            sides += [lengths[0::2], lengths[1::2]]
        losses, *rewards = OF_COUPLES[config.objective](*sides, beta=config.beta)
        return losses, torch.stack(rewards, dim=1).flatten()
    how = {
        "beta": config.beta,
        "desirable_weight": config.desirable_weight,
        "undesirable_weight": config.undesirable_weight,
    }
    if config.objective == "bco":
        return objective.bco_loss(logps, reference, label, mean.value, **how)
    if config.objective == "apo_zero_unpaired":
        return objective.apo_zero_unpaired_loss(logps, reference, label, **how)
    return objective.kto_loss(logps, reference, label, z0, **how)


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
