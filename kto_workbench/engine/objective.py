"""The KTO objective as pure functions (Ethayarajh et al. 2024, arXiv 2402.01306, Eq. 8).

For a batch of m examples (x_i, y_i, label_i), with log-probabilities summed over completion tokens, in nats:

    r_i  = log π_θ(y_i|x_i) − log π_ref(y_i|x_i)
    z0   = max(0, 1/m Σ_i [log π_θ(y_j|x_i) − log π_ref(y_j|x_i)]),  j = (i+1) mod m, never backpropagated
    v_i  = λ_D σ(β (r_i − z0))  if label_i is desirable,  λ_U σ(β (z0 − r_i))  if it is not
    loss = 1/m Σ_i (λ_i − v_i)
"""

import torch
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


def sft_loss(policy_logps: Tensor, completion_lengths: Tensor, label: Tensor) -> Tensor:
    """The next-token loss over the tokens of desirable completions, in nats a token; 0 if there is none.

    LLaMA-Factory's `pref_ftx` term, without its rescaling by class rarity.
    """
    tokens = (completion_lengths * label).sum()
    return -(policy_logps * label).sum() / tokens.clamp(min=1)
