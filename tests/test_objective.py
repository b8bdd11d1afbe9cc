"""The KTO objective and its kin against arithmetic done by hand."""

import math

import pytest
import torch

from kto_workbench.engine.objective import (
    RunningMean,
    apo_zero_loss,
    apo_zero_unpaired_loss,
    bco_loss,
    dpo_loss,
    estimate_z0,
    ipo_loss,
    kto_loss,
    sft_loss,
    uniform_reference_logps,
)


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def losses_of(policy, reference, label, z0=0.0, beta=0.5, desirable=1.0, undesirable=1.0):
    return kto_loss(
        torch.tensor(policy),
        torch.tensor(reference),
        torch.tensor(label),
        torch.tensor(z0),
        beta=beta,
        desirable_weight=desirable,
        undesirable_weight=undesirable,
    )


def test_losses_and_rewards_by_hand():
    # r = (−10 − −12, −10 − −7) = (2, −3), z0 = 1, β = 0.5, λ_D = 1.5, λ_U = 2
    # up:   1.5 · (1 − σ(0.5 · (2 − 1)))  = 1.5 · (1 − σ(0.5)) = 1.5 · 0.377541 = 0.566311
    # down: 2.0 · (1 − σ(0.5 · (1 + 3)))  = 2.0 · (1 − σ(2.0)) = 2.0 · 0.119203 = 0.238406
    losses, rewards = losses_of([-10.0, -10.0], [-12.0, -7.0], [True, False], z0=1.0, desirable=1.5, undesirable=2.0)
    assert losses.tolist() == pytest.approx([0.566311, 0.238406], abs=1e-6)
    assert rewards.tolist() == pytest.approx([0.5 * 2, 0.5 * -3])


def test_weights_keep_their_digits_in_float64():
    # r = z0 = 0, so a loss is λ/2; 0.1 as a float32 would be 1.5e-9 off.
    zeros, label = torch.zeros(2, dtype=torch.float64), torch.tensor([True, False])
    losses, _ = kto_loss(zeros, zeros, label, 0.0, beta=0.1, desirable_weight=0.1, undesirable_weight=0.7)
    assert losses.tolist() == [0.1 / 2, 0.7 / 2]


def test_at_step_0_every_reward_is_0_and_the_loss_is_half_the_mean_weight():
    # r = z0 = 0, so v = λ/2: the mean of (3/2, 3/2, 1/2, 1/2) is 1.
    losses, rewards = losses_of([-5.0] * 4, [-5.0] * 4, [True, True, False, False], desirable=3.0, undesirable=1.0)
    assert losses.mean().item() == pytest.approx((3 / 2 + 3 / 2 + 1 / 2 + 1 / 2) / 4)
    assert rewards.tolist() == [0.0] * 4


@pytest.mark.parametrize("label, sign", [(True, -1), (False, +1)])
def test_gradient_is_one_scalar_a_sequence_and_points_the_right_way(label, sign):
    # dL/d log π = ∓ λβ σ(βu)(1 − σ(βu)), u = r − z0 up, z0 − r down. Descent raises thumbs up, lowers thumbs down:
    # the minus sign before the second term in some notes would raise both.
    beta, weight, r, z0 = 0.4, 1.7, 1.3, 0.5
    policy = torch.tensor([-3.0 + r], requires_grad=True)
    losses, _ = kto_loss(
        policy,
        torch.tensor([-3.0]),
        torch.tensor([label]),
        torch.tensor(z0),
        beta=beta,
        desirable_weight=weight,
        undesirable_weight=weight,
    )
    losses.sum().backward()
    s = sigmoid(beta * (r - z0) if label else beta * (z0 - r))
    assert policy.grad.item() == pytest.approx(sign * weight * beta * s * (1 - s), rel=1e-5)


def test_desirable_weight_changes_only_desirable_terms():
    one, _ = losses_of([-1.0, -1.0], [-2.0, -2.0], [True, False])
    two, _ = losses_of([-1.0, -1.0], [-2.0, -2.0], [True, False], desirable=2.0)
    assert two[0].item() == pytest.approx(2 * one[0].item())
    assert two[1].item() == one[1].item()


def test_swapping_labels_and_weights_mirrors_the_loss_at_z0_0():
    # λ_D (1 − σ(βr)) for r is λ_U (1 − σ(β · −(−r))) for −r with the weights swapped.
    a, _ = losses_of([1.0, -2.0, 0.5], [0.0] * 3, [True, False, True], desirable=3.0, undesirable=0.5)
    b, _ = losses_of([-1.0, 2.0, -0.5], [0.0] * 3, [False, True, False], desirable=0.5, undesirable=3.0)
    assert a.tolist() == pytest.approx(b.tolist())


def test_beta_scales_rewards_and_steepens_losses():
    a, rewards_a = losses_of([1.0], [0.0], [True], beta=0.1)
    b, rewards_b = losses_of([1.0], [0.0], [True], beta=1.0)
    assert (rewards_a.item(), rewards_b.item()) == pytest.approx((0.1, 1.0))
    assert (a.item(), b.item()) == pytest.approx((1 - sigmoid(0.1), 1 - sigmoid(1.0)))


@pytest.mark.parametrize("label", [True, False])
def test_batch_of_one_class_is_legal(label):
    losses, rewards = losses_of([-1.0, -2.0], [-1.5, -1.5], [label, label])
    assert torch.isfinite(losses).all() and torch.isfinite(rewards).all()


def test_loss_is_never_negative_and_never_more_than_the_weight_even_far_out():
    losses, _ = losses_of([1e4, -1e4, 1e4, -1e4], [0.0] * 4, [True, True, False, False], desirable=2.0, undesirable=3.0)
    assert losses.tolist() == pytest.approx([0.0, 2.0, 3.0, 0.0])


def test_z0_is_the_clamped_mean_and_carries_no_gradient():
    policy = torch.tensor([-1.0, -4.0, -2.0], requires_grad=True)
    # ((−1 + 3) + (−4 + 3) + (−2 + 4)) / 3 = (2 − 1 + 2) / 3 = 1
    z0 = estimate_z0(policy, torch.tensor([-3.0, -3.0, -4.0]))
    assert z0.item() == pytest.approx(1.0) and not z0.requires_grad
    # ((−1 + 0) + (−4 + 0) + (−2 + 0)) / 3 < 0
    assert estimate_z0(policy, torch.zeros(3)).item() == 0.0


def test_sft_loss_is_a_mean_over_desirable_tokens():
    # (12 + 3) nats over (4 + 1) tokens; the thumbs-down row's 100 nats do not count.
    logps, lengths, label = (
        torch.tensor([-12.0, -100.0, -3.0]),
        torch.tensor([4.0, 7.0, 1.0]),
        torch.tensor([True, False, True]),
    )
    assert sft_loss(logps, lengths, label).item() == pytest.approx((12 + 3) / (4 + 1))
    assert sft_loss(logps, lengths, torch.tensor([False] * 3)).item() == 0.0


def test_uniform_reference_centres_rewards_on_the_models_own_answers():
    # Answers a, b with probabilities 0.8, 0.2: H = −(0.8 ln 0.8 + 0.2 ln 0.2). The mean over the model's own answers of
    # log π(y) + H is 0, as a reward relative to its mean must be; with "− H" it would be −2H.
    p = torch.tensor([0.8, 0.2])
    entropy = -(p * p.log()).sum()
    r = p.log() - uniform_reference_logps(p.log(), entropy.expand(2))
    assert (p * r).sum().item() == pytest.approx(0.0, abs=1e-6)


# Two answers, or two pairs, with r_w = (2, −1) and r_l = (−3, 4) nats; β = 0.5.
LIKED, DISLIKED = [-10.0, -6.0], [-10.0, -2.0]
REFERENCE_LIKED, REFERENCE_DISLIKED = [-12.0, -5.0], [-7.0, -6.0]


def of_pairs(loss, *more, beta=0.5):
    sides = [torch.tensor(side) for side in (LIKED, DISLIKED, REFERENCE_LIKED, REFERENCE_DISLIKED, *more)]
    losses, liked, disliked = loss(*sides, beta=beta)
    assert liked.tolist() == pytest.approx([0.5 * 2, 0.5 * -1])
    assert disliked.tolist() == pytest.approx([0.5 * -3, 0.5 * 4])
    return losses.tolist()


def test_dpo_by_hand():
    # −log σ(0.5 · (2 − −3)) = −log σ(2.5) = log(1 + e^−2.5); −log σ(0.5 · (−1 − 4)) = log(1 + e^2.5)
    assert of_pairs(dpo_loss) == pytest.approx([math.log(1 + math.exp(-2.5)), math.log(1 + math.exp(2.5))])


def test_apo_zero_by_hand():
    # (1 − σ(0.5 · 2)) + σ(0.5 · −3) = 0.268941 + 0.182426;  (1 − σ(0.5 · −1)) + σ(0.5 · 4) = 0.622459 + 0.880797
    assert of_pairs(apo_zero_loss) == pytest.approx([0.268941 + 0.182426, 0.622459 + 0.880797], abs=1e-6)


def test_ipo_by_hand_is_of_means_over_tokens():
    # Lengths 4 and 2, 1 and 8: (2/4 − −3/2 − 1/(2 · 0.5))² = (0.5 + 1.5 − 1)² = 1;  (−1/1 − 4/8 − 1)² = 2.5² = 6.25
    assert of_pairs(ipo_loss, [4.0, 1.0], [2.0, 8.0]) == pytest.approx([1.0, 6.25])


@pytest.mark.parametrize("loss", [dpo_loss, apo_zero_loss])
def test_pairs_push_the_liked_answer_up_and_the_disliked_one_down(loss):
    liked, disliked = (torch.tensor([-3.0], requires_grad=True) for _ in range(2))
    loss(liked, disliked, torch.tensor([-2.5]), torch.tensor([-4.0]), beta=0.5)[0].sum().backward()
    assert liked.grad.item() < 0 < disliked.grad.item()
    if loss is dpo_loss:
        # r_w = −0.5, r_l = 1: dL/d log π_w = −β σ(−β (r_w − r_l)) = −0.5 σ(0.75), and as much the other way.
        assert liked.grad.item() == pytest.approx(-0.5 * sigmoid(0.75)) == -disliked.grad.item()


def test_ipo_pulls_back_what_is_too_far_apart():
    # One token each: r_w − r_l = 4 > 1/(2 · 0.5) = 1, so the gradient 2 (4 − 1) lowers the liked answer.
    liked = torch.tensor([4.0], requires_grad=True)
    zero, one = torch.zeros(1), torch.ones(1)
    ipo_loss(liked, zero, zero, zero, one, one, beta=0.5)[0].sum().backward()
    assert liked.grad.item() == pytest.approx(2 * (4 - 1))


def thumbs(loss, *more, **weights):
    tensors = (torch.tensor([-10.0, -10.0]), torch.tensor([-12.0, -7.0]), torch.tensor([True, False]))
    return loss(*tensors, *more, **{"beta": 0.5, "desirable_weight": 1.5, "undesirable_weight": 2.0, **weights})


def test_apo_zero_unpaired_by_hand():
    # r = (2, −3), β = 0.5: 1.5 · (1 − σ(1)) = 1.5 · 0.268941;  2 · σ(−1.5) = 2 · 0.182426
    losses, rewards = thumbs(apo_zero_unpaired_loss)
    assert losses.tolist() == pytest.approx([1.5 * 0.268941, 2 * 0.182426], abs=1e-6)
    assert rewards.tolist() == [1.0, -1.5]


def test_bco_by_hand():
    # Rewards (1, −1.5), δ = 0.25: −1.5 log σ(1 − 0.25) = 1.5 log(1 + e^−0.75),
    # −2 log σ(−(−1.5 − 0.25)) = 2 log(1 + e^−1.75)
    losses, rewards = thumbs(bco_loss, 0.25)
    want = [1.5 * math.log(1 + math.exp(-0.75)), 2 * math.log(1 + math.exp(-1.75))]
    assert losses.tolist() == pytest.approx(want, rel=1e-6) and rewards.tolist() == [1.0, -1.5]


def test_the_mean_of_all_rewards_so_far():
    # 1 and 3, then 8: (1 + 3) / 2 = 2, (1 + 3 + 8) / 3 = 4; a mean of batch means would be (2 + 8) / 2 = 5.
    two = RunningMean().with_more(torch.tensor(1.0 + 3.0), 2)
    three = two.with_more(torch.tensor(8.0), 1)
    assert (two.value.item(), two.count, three.value.item(), three.count) == (2.0, 2, 4.0, 3)
