"""The KTO objective as pure functions (Ethayarajh et al. 2024, arXiv 2402.01306, Eq. 8), and its kin.

For a batch of m examples (x_i, y_i, label_i), with log-probabilities summed over completion tokens, in nats:

    r_i  = log π_θ(y_i|x_i) − log π_ref(y_i|x_i)
    z0   = max(0, 1/m Σ_i [log π_θ(y_j|x_i) − log π_ref(y_j|x_i)]),  j = (i+1) mod m, never backpropagated
    v_i  = λ_D σ(β (r_i − z0))  if label_i is desirable,  λ_U σ(β (z0 − r_i))  if it is not
    loss = 1/m Σ_i (λ_i − v_i)

The others have the same r_i; those that learn from pairs (x, y_w, y_l) have r_w and r_l, the liked answer's and the
disliked one's, and their loss is a mean over pairs.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


def kto_loss(
    policy_logps: Tensor,
    reference_logps: Tensor,
    label: Tensor,
    z0: Tensor | float,
    *,
    beta: float,
    desirable_weight: float,
    undesirable_weight: float,
) -> tuple[Tensor, Tensor]:
    """The loss and the reward of each example; the batch's loss is their mean (paper Eq. 8).

    Args:
        policy_logps: [m] log π_θ(y_i|x_i), with its graph.
        reference_logps: [m] log π_ref(y_i|x_i).
        label: [m] bool, True for desirable.
        z0: scalar reference point in nats, without β.
        beta: β, saturation of the value function.
        desirable_weight: λ_D.
        undesirable_weight: λ_U.

    Returns:
        losses [m], each λ − v ≥ 0, differentiable; rewards [m], β r_i, detached.
    """
    log_ratios = policy_logps - reference_logps
    # Not torch.where, which would round the weights of a float64 computation to float32.
    liked = label.to(log_ratios.dtype)
    weight = liked * desirable_weight + (1 - liked) * undesirable_weight
    sign = 2 * liked - 1
    # λ − λ σ(u) = λ σ(−u), which keeps its digits where σ(u) is near 1.
    losses = weight * torch.sigmoid(-beta * sign * (log_ratios - z0))
    return losses, beta * log_ratios.detach()


def sum_of_log_ratios(policy_kl_logps: Tensor, reference_kl_logps: Tensor) -> Tensor:
    """Σ log π_θ(y_j|x_i) − log π_ref(y_j|x_i) over mismatched pairs, detached: over m, this is z0 before clamping."""
    return (policy_kl_logps - reference_kl_logps).detach().sum()


def estimate_z0(policy_kl_logps: Tensor, reference_kl_logps: Tensor) -> Tensor:
    """The reference point z0, a detached scalar ≥ 0 in nats, from log-probabilities [n] of mismatched pairs."""
    return (sum_of_log_ratios(policy_kl_logps, reference_kl_logps) / len(policy_kl_logps)).clamp(min=0)


def uniform_reference_logps(policy_logps: Tensor, entropy: Tensor) -> Tensor:
    """What stands for the reference's log-probabilities when it is assumed uniform.

    With π_ref uniform over N answers, r − z0 = (log π_θ(y|x) + log N) − KL(π_θ ‖ uniform), and that KL is
    log N − H(π_θ): so r − z0 = log π_θ(y|x) + H(π_θ), which is 0 on average over the model's own answers. The paper's
    text writes "− H", which would be off by 2H.

    Args:
        policy_logps: [m] log π_θ(y_i|x_i).
        entropy: [m] H(π_θ(·|x_i)) in nats, estimated as the sum of the next-token entropies along y_i.

    Returns:
        [m] −entropy, detached; use it with z0 = 0, since it is in r already.
    """
    return -entropy.detach().to(policy_logps.dtype)


def apo_zero_unpaired_loss(
    policy_logps: Tensor,
    reference_logps: Tensor,
    label: Tensor,
    *,
    beta: float,
    desirable_weight: float,
    undesirable_weight: float,
) -> tuple[Tensor, Tensor]:
    """APO-zero (D'Oosterlinck et al. 2024, arXiv 2408.06266, Eq. 7) with each of its two terms for the answers it fits.

        loss = λ_D (1 − σ(β r))  for a desirable answer,  λ_U σ(β r)  for an undesirable one

    which is KTO with z0 = 0, since σ(βr) = 1 − σ(−βr).

    Args and returns: as of `kto_loss`.
    """
    weights = {"desirable_weight": desirable_weight, "undesirable_weight": undesirable_weight}
    return kto_loss(policy_logps, reference_logps, label, 0.0, beta=beta, **weights)


def bco_loss(
    policy_logps: Tensor,
    reference_logps: Tensor,
    label: Tensor,
    delta: Tensor | float,
    *,
    beta: float,
    desirable_weight: float,
    undesirable_weight: float,
) -> tuple[Tensor, Tensor]:
    """BCO (Jung et al. 2024, arXiv 2404.04656), a classifier of the thumbs whose logit is the shifted reward β r − δ.

        loss = −λ_D log σ(β r − δ)  for a desirable answer,  −λ_U log σ(−(β r − δ))  for an undesirable one

    The paper adds the means of either class, so that a rare one weighs as much as a frequent one: weights with
    λ_D n_D = λ_U n_U give that, up to a factor; both 1 are the plain mean over all answers.

    Args:
        policy_logps: [m] log π_θ(y_i|x_i), with its graph.
        reference_logps: [m] log π_ref(y_i|x_i).
        label: [m] bool, True for desirable.
        delta: δ, the mean reward, with β, never backpropagated; see `RunningMean`.
        beta: β.
        desirable_weight: λ_D.
        undesirable_weight: λ_U.

    Returns:
        losses [m], differentiable; rewards [m], β r_i, detached.
    """
    log_ratios = policy_logps - reference_logps
    liked = label.to(log_ratios.dtype)
    weight = liked * desirable_weight + (1 - liked) * undesirable_weight
    losses = -weight * F.logsigmoid((2 * liked - 1) * (beta * log_ratios - delta))
    return losses, beta * log_ratios.detach()


@dataclass(frozen=True)
class RunningMean:
    """BCO's δ: the mean of all rewards that training has seen, those of the batch at hand included.

    `value` is a scalar tensor without a graph, or 0 where `count` is.
    """

    value: Tensor | float = 0.0
    count: int = 0

    def with_more(self, total: Tensor, count: int) -> "RunningMean":
        """The mean of these and of so many more numbers, which add up to `total`."""
        both = self.count + count
        return RunningMean(self.value + (total - count * self.value) / both, both)


def dpo_loss(
    chosen_logps: Tensor,
    rejected_logps: Tensor,
    reference_chosen_logps: Tensor,
    reference_rejected_logps: Tensor,
    *,
    beta: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """DPO (Rafailov et al. 2023, arXiv 2305.18290, Eq. 7): loss = −log σ(β r_w − β r_l).

    Args:
        chosen_logps: [m] log π_θ(y_w|x) of the liked answers, with its graph.
        rejected_logps: [m] log π_θ(y_l|x) of the disliked answers to the same prompts.
        reference_chosen_logps: [m] log π_ref(y_w|x).
        reference_rejected_logps: [m] log π_ref(y_l|x).
        beta: β.

    Returns:
        losses [m], differentiable; the rewards of either side [m], β r_w and β r_l, detached.
    """
    chosen, rejected = chosen_logps - reference_chosen_logps, rejected_logps - reference_rejected_logps
    return -F.logsigmoid(beta * (chosen - rejected)), beta * chosen.detach(), beta * rejected.detach()


def apo_zero_loss(
    chosen_logps: Tensor,
    rejected_logps: Tensor,
    reference_chosen_logps: Tensor,
    reference_rejected_logps: Tensor,
    *,
    beta: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """APO-zero (D'Oosterlinck et al. 2024, arXiv 2408.06266, Eq. 7): loss = (1 − σ(β r_w)) + σ(β r_l).

    The paper's has no 1, which moves no gradient and keeps it above 0. Args and returns: as of `dpo_loss`.
    """
    chosen, rejected = chosen_logps - reference_chosen_logps, rejected_logps - reference_rejected_logps
    losses = torch.sigmoid(-beta * chosen) + torch.sigmoid(beta * rejected)
    return losses, beta * chosen.detach(), beta * rejected.detach()


def ipo_loss(
    chosen_logps: Tensor,
    rejected_logps: Tensor,
    reference_chosen_logps: Tensor,
    reference_rejected_logps: Tensor,
    chosen_lengths: Tensor,
    rejected_lengths: Tensor,
    *,
    beta: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """IPO (Azar et al. 2023, arXiv 2310.12036, Eq. 17): loss = (r_w / |y_w| − r_l / |y_l| − 1/(2β))².

    With sums instead of means over tokens, as the paper writes, the loss would grow with the square of an answer's
    length; TRL takes means, and says that the paper's authors did.

    Args:
        chosen_logps: [m] log π_θ(y_w|x) of the liked answers, with its graph.
        rejected_logps: [m] log π_θ(y_l|x) of the disliked answers to the same prompts.
        reference_chosen_logps: [m] log π_ref(y_w|x).
        reference_rejected_logps: [m] log π_ref(y_l|x).
        chosen_lengths: [m] tokens of the liked answers.
        rejected_lengths: [m] tokens of the disliked ones.
        beta: β, which is the paper's τ.

    Returns:
        losses [m], differentiable; the rewards of either side [m], of whole answers, β r_w and β r_l, detached.
    """
    chosen, rejected = chosen_logps - reference_chosen_logps, rejected_logps - reference_rejected_logps
    apart = chosen / chosen_lengths - rejected / rejected_lengths
    return (apart - 1 / (2 * beta)) ** 2, beta * chosen.detach(), beta * rejected.detach()


def sft_loss(policy_logps: Tensor, completion_lengths: Tensor, label: Tensor) -> Tensor:
    """The next-token loss over the tokens of desirable completions, in nats a token; 0 if there is none.

    LLaMA-Factory's `pref_ftx` term, without its rescaling by class rarity.
    """
    tokens = (completion_lengths * label).sum()
    return -(policy_logps * label).sum() / tokens.clamp(min=1)
