"""One KTO step over a batch: z0 over the whole batch first, then loss and gradient pass by pass."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kto_workbench.config import KTOConfig
from kto_workbench.engine import objective
from kto_workbench.engine.batches import Batch, Pair
from kto_workbench.engine.models import dropout_off
from kto_workbench.engine.passes import split
from kto_workbench.engine.scoring import PaddedScorer, Scores


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


def kto_step(
    scorer: PaddedScorer,
    batch: Batch,
    config: KTOConfig,
    tokens_per_pass: int | None,
    *,
    train: bool,
    z0: Tensor | None = None,
) -> StepSums:
    """Score a batch, estimate z0, and, in training, add the gradient of its mean loss to the parameters' `.grad`.

    Args:
        scorer: of the policy.
        batch: m examples with the reference's log-probabilities filled in, where the config uses them.
        config: objective, β, λ, z0, reference, sft_weight.
        tokens_per_pass: None for one pass; without effect on the result.
        train: False computes the metrics alone.
        z0: scalar that was estimated elsewhere (z0 `every`), in nats before clamping; else None.

    Returns:
        The step's sums, detached.
    """
    passes = split([len(pair) for pair in batch.pairs], tokens_per_pass)
    device = batch.label.device
    mismatched = uses_mismatched(config)
    entropy = config.objective == "kto" and config.reference == "uniform"
    # With everything in one pass, the mismatched completions go on from the prompts' keys and values of the gradient
    # pass. Dropout would get into them, so then they are scored apart.
    together = mismatched and (not train or (len(passes) == 1 and not config.lora_dropout))
    done: list[Scores] = []
    z0_raw = torch.zeros((), device=device) if z0 is None else z0
    if together:
        parts = []
        with torch.set_grad_enabled(train):
            for part in passes:
                scores, kl_logps = scorer.score_both(_pick(batch.pairs, part), _pick(batch.mismatched, part))
                done.append(scores)
                parts.append(kl_logps)
        z0_raw = objective.mean_log_ratio(_in_order(parts, passes), batch.reference_kl_logps)
    elif mismatched:
        z0_raw = objective.mean_log_ratio(
            score_without_gradient(scorer, batch.mismatched, tokens_per_pass), batch.reference_kl_logps
        )
    z0_now = z0_raw.clamp(min=0)

    loss = torch.zeros((), device=device)
    rewards, logps = torch.zeros(len(batch), device=device), torch.zeros(len(batch), device=device)
    lengths = torch.tensor([len(pair.completion_ids) for pair in batch.pairs], dtype=torch.float32).to(
        device, non_blocking=True
    )
    for number, part in enumerate(passes):
        with torch.set_grad_enabled(train):
            scores = done[number] if done else scorer.score(_pick(batch.pairs, part), entropy=entropy)
            at = torch.tensor(part).to(device, non_blocking=True)
            part_loss, part_rewards = _loss_of_pass(scores, batch, at, z0_now, lengths, config)
        if train:
            part_loss.backward()
        loss += part_loss.detach()
        rewards[at], logps[at] = part_rewards, scores.logps.detach()
    return StepSums(loss, z0_now, z0_raw, batch.label, rewards, logps)


def _loss_of_pass(
    scores: Scores, batch: Batch, at: Tensor, z0: Tensor, lengths: Tensor, config: KTOConfig
) -> tuple[Tensor, Tensor]:
    """What the examples `at` add to the batch's mean loss, and their rewards."""
    label = batch.label[at]
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
        loss = losses.sum() / len(batch)
    if sft_weight:
        # The mean is over the whole batch's tokens; this pass adds its part of it.
        tokens_here, tokens = (lengths[at] * label).sum(), (lengths * batch.label).sum()
        share = tokens_here / tokens.clamp(min=1)
        loss = loss + sft_weight * share * objective.sft_loss(scores.logps, lengths[at], label)
    return loss, rewards


@torch.no_grad()
def score_without_gradient(scorer: PaddedScorer, pairs: Sequence[Pair], tokens_per_pass: int | None) -> Tensor:
    """[n] log-probabilities of pairs, pass by pass, without dropout."""
    passes = split([len(pair) for pair in pairs], tokens_per_pass)
    with dropout_off(scorer.model):
        return _in_order([scorer.score(_pick(pairs, part)).logps for part in passes], passes)


def _pick(items: Sequence[Pair], numbers: list[int]) -> list[Pair]:
    return [items[i] for i in numbers]


def _in_order(parts: list[Tensor], passes: list[list[int]]) -> Tensor:
    """Results of passes, put back into the order of the batch."""
    flat = torch.cat(parts)
    order = torch.tensor([i for part in passes for i in part])
    out = torch.empty_like(flat)
    out[order.to(flat.device, non_blocking=True)] = flat
    return out
