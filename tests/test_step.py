"""One step: splits that change nothing, z0's choices, the reference's choices; beside TRL in test_objectives_trl.py."""

import pytest
import torch
from test_scoring import make_pairs
from tiny_models import tiny_lora

from kto_workbench.config import KTOConfig
from kto_workbench.engine.batches import Batch, Pair
from kto_workbench.engine.models import adapter_off
from kto_workbench.engine.objective import RunningMean
from kto_workbench.engine.passes import Budget, split
from kto_workbench.engine.scoring import PaddedScorer, make_scorer
from kto_workbench.engine.step import kto_step, split_batch
from kto_workbench.errors import ModelError
from kto_workbench.objectives import OBJECTIVES

LENGTHS = ((12, 5), (3, 9), (7, 1), (1, 4), (20, 3), (2, 2), (9, 9), (5, 5))


def make_config(**values):
    return KTOConfig(
        **{"model": "tiny", "beta": 0.3, "desirable_weight": 1.2, "undesirable_weight": 0.8, "batch_size": 8, **values}
    )


def make_batch(model, labels=(True, False, False, True, False, True, True, False)):
    pairs, mismatched = make_pairs(lengths=LENGTHS[: len(labels)])
    scorer = make_scorer(model)
    with torch.no_grad(), adapter_off(model):
        scores, kl = scorer.score_both(pairs, mismatched)
    return Batch(pairs, mismatched, torch.tensor(labels), scores.logps, kl)


def make_couples(model):
    """Four prompts with a liked and a disliked answer each, the liked one first."""
    pairs, _ = make_pairs(lengths=LENGTHS)
    couples = [Pair(pairs[i - i % 2].prompt_ids, pair.completion_ids) for i, pair in enumerate(pairs)]
    with torch.no_grad(), adapter_off(model):
        reference = make_scorer(model).score(couples).logps
    return Batch(couples, [], torch.tensor([True, False] * 4), reference, coupled=True)


def gradients(model):
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def run_step(model, batch, config, tokens=None, scorer=None, **options):
    model.zero_grad()
    sums = kto_step(scorer or make_scorer(model), batch, config, tokens, train=True, **options)
    return sums, gradients(model)


def test_fresh_adapter_gives_rewards_0_z0_0_and_half_the_weights():
    model = tiny_lora(fresh=True)
    sums, _ = run_step(model, make_batch(model), make_config())
    # Four up, four down: (4 · 1.2/2 + 4 · 0.8/2) / 8 = 0.5
    assert sums.loss.item() == pytest.approx((4 * 1.2 / 2 + 4 * 0.8 / 2) / 8)
    assert sums.z0.item() == 0 and sums.rewards.abs().max().item() == 0


@pytest.mark.parametrize("tokens", [1, 20, 40, 75])
@pytest.mark.parametrize(
    "options",
    [
        {}, {"sft_weight": 0.5}, {"reference": "uniform"}, {"z0": "zero"},
        *({"objective": name} for name in OBJECTIVES if name != "kto"), {"objective": "ipo", "sft_weight": 0.5},
    ],
)  # fmt: skip
def test_splitting_a_batch_into_passes_changes_nothing(tokens, options):
    model, config = tiny_lora(), make_config(**options)
    batch = make_couples(model) if OBJECTIVES[config.objective].paired else make_batch(model)
    whole, whole_gradient = run_step(model, batch, config)
    parts, parts_gradient = run_step(model, batch, config, tokens)
    assert len(split_batch(make_scorer(model), batch, tokens)) > 1
    for name in ("loss", "z0", "z0_raw", "rewards", "logps"):
        torch.testing.assert_close(getattr(parts, name), getattr(whole, name), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(parts.mean.value, whole.mean.value, rtol=1e-5, atol=1e-5)
    assert (parts_gradient - whole_gradient).norm() <= 1e-5 * whole_gradient.norm()


def test_packed_step_equals_padded_step():
    model = tiny_lora()
    batch, config = make_batch(model), make_config()
    a, gradient_a = run_step(model, batch, config)
    b, gradient_b = run_step(model, batch, config, scorer=PaddedScorer(model))
    assert a.loss.item() == pytest.approx(b.loss.item(), rel=1e-5)
    assert a.z0_raw.item() == pytest.approx(b.z0_raw.item(), rel=1e-4)
    assert (gradient_a - gradient_b).norm() <= 1e-5 * gradient_b.norm()


@pytest.mark.parametrize("label", [True, False])
def test_batch_of_one_class_trains(label):
    model = tiny_lora()
    sums, gradient = run_step(model, make_batch(model, labels=(label,) * 4), make_config())
    assert torch.isfinite(gradient).all() and gradient.norm() > 0 and torch.isfinite(sums.loss)


def test_each_weight_scales_its_own_class_alone():
    # The gradient is linear in the weights: g(λ_D, λ_U) = λ_D g(1, 0) + λ_U g(0, 1). A weight without effect breaks it.
    model = tiny_lora()
    batch = make_batch(model)
    of = lambda d, u: run_step(model, batch, make_config(desirable_weight=d, undesirable_weight=u))[1]
    up, down = of(1.0, 0.0), of(0.0, 1.0)
    assert up.norm() > 0 and down.norm() > 0
    torch.testing.assert_close(of(3.0, 0.5), 3.0 * up + 0.5 * down, rtol=1e-4, atol=1e-6)


def test_z0_zero_and_z0_given():
    model = tiny_lora()
    batch = make_batch(model)
    assert run_step(model, batch, make_config(z0="zero"))[0].z0.item() == 0
    # A z0 from elsewhere is clamped at 0 like any other, and kept raw for the record.
    sums, _ = run_step(model, batch, make_config(z0="every"), z0=torch.tensor(-2.0))
    assert (sums.z0.item(), sums.z0_raw.item()) == (0.0, -2.0)
    sums, _ = run_step(model, batch, make_config(z0="every"), z0=torch.tensor(0.7))
    r = sums.rewards / 0.3
    u = torch.where(batch.label, r - 0.7, 0.7 - r)
    weight = torch.where(batch.label, 1.2, 0.8)
    assert sums.loss.item() == pytest.approx((weight * (1 - torch.sigmoid(0.3 * u))).mean().item(), rel=1e-5)


def test_uniform_reference_by_hand():
    model = tiny_lora()
    batch = make_batch(model)
    sums, _ = run_step(model, batch, make_config(reference="uniform"))
    with torch.no_grad():
        scores = PaddedScorer(model).score(batch.pairs, entropy=True)
    r = scores.logps + scores.entropy  # r − z0 in one: see objective.uniform_reference_logps
    torch.testing.assert_close(sums.rewards, 0.3 * r, rtol=1e-4, atol=1e-4)
    assert sums.z0.item() == 0


def test_sft_objective_is_the_mean_next_token_loss_of_thumbs_up():
    model = tiny_lora()
    batch = make_batch(model)
    sums, _ = run_step(model, batch, make_config(objective="sft"))
    with torch.no_grad():
        logps = PaddedScorer(model).score(batch.pairs).logps
    tokens = sum(len(p.completion_ids) for p, up in zip(batch.pairs, batch.label, strict=True) if up)
    assert sums.loss.item() == pytest.approx(-logps[batch.label].sum().item() / tokens, rel=1e-5)


def test_couples_go_through_the_model_together_and_batch_size_counts_them():
    model = tiny_lora()
    batch = make_couples(model)
    assert (batch.size, len(batch)) == (4, 8) and batch.imitated == sum(LENGTHS[i][1] for i in (0, 2, 4, 6))
    # A couple takes its prompt once: 12 + 5 + 9, 7 + 1 + 4, 20 + 3 + 2, 9 + 9 + 5 tokens; 37 hold 25 and 12 of them.
    assert split_batch(make_scorer(model), batch, 37) == [[0, 1], [2, 3, 4, 5], [6, 7]]
    # Without sharing twice: 38, 19, 45 and 32 tokens, the longest first.
    assert split_batch(PaddedScorer(model), batch, 1) == [[4, 5], [0, 1], [6, 7], [2, 3]]
    assert batch.take([2, 3]).examples == [[0, 1]] and batch.take([2, 3]).size == 4
    sums, _ = run_step(model, batch, make_config(objective="dpo"))
    # The mean of four losses, each from a couple of rewards.
    liked, disliked = sums.rewards[0::2], sums.rewards[1::2]
    assert sums.loss.item() == pytest.approx(-(liked - disliked).sigmoid().log().mean().item(), rel=1e-5)


def test_bcos_mean_takes_in_the_batch_in_training_alone():
    model = tiny_lora()
    batch, before = make_batch(model), RunningMean(torch.tensor(0.5), 8)
    config = make_config(objective="bco")
    sums, _ = run_step(model, batch, config, mean=before)
    delta = (8 * 0.5 + sums.rewards.sum().item()) / 16  # eight rewards before, and eight more
    assert sums.mean.value.item() == pytest.approx(delta, rel=1e-5) and sums.mean.count == 16
    sign = torch.where(batch.label, 1.0, -1.0)
    weight = torch.where(batch.label, 1.2, 0.8)
    want = lambda shift: -(weight * (sign * (sums.rewards - shift)).sigmoid().log()).mean().item()
    assert sums.loss.item() == pytest.approx(want(delta), rel=1e-5)
    held_out = kto_step(make_scorer(model), batch, config, None, train=False, mean=before)
    assert held_out.mean == before and held_out.loss.item() == pytest.approx(want(0.5), rel=1e-5)


@pytest.mark.parametrize("objective", ["kto", "bco"])
def test_lora_dropout_does_not_reach_what_rewards_are_counted_from(objective):
    model = tiny_lora(lora_dropout=0.5)
    batch, config = make_batch(model), make_config(lora_dropout=0.5, objective=objective)
    torch.manual_seed(0)
    a, _ = run_step(model, batch, config)
    torch.manual_seed(1)
    b, _ = run_step(model, batch, config)
    assert a.z0_raw.item() == pytest.approx(b.z0_raw.item(), rel=1e-5)
    assert float(a.mean.value) == pytest.approx(float(b.mean.value), rel=1e-5)
    assert a.loss.item() != pytest.approx(b.loss.item(), rel=1e-4)  # while the gradient pass has its dropout


def test_out_of_memory_halves_the_pass_and_repeats_the_step_exactly(caplog):
    model = tiny_lora()
    batch, config = make_batch(model), make_config()
    scorer = make_scorer(model)
    want, want_gradient = run_step(model, batch, config)
    inner, said = scorer.forward, []

    def failing_allocator(pairs, mismatched=(), entropy=False):
        if torch.is_grad_enabled() and sum(map(len, pairs)) > 30:
            raise torch.OutOfMemoryError("CUDA out of memory (played)")
        return inner(pairs, mismatched, entropy)

    scorer.forward = failing_allocator
    budget = Budget(None, said.append)
    total, longest = sum(map(len, batch.pairs)), max(map(len, batch.pairs))
    model.zero_grad()
    got = budget.run(
        lambda tokens: kto_step(scorer, batch, config, tokens, train=True), total, longest, undo=model.zero_grad
    )
    # 97 tokens: 97 → 48 → 24, which is at most 30.
    assert total == 97 and said == [48, 24] == [48, budget.tokens]
    assert got.loss.item() == pytest.approx(want.loss.item(), rel=1e-5)
    assert (gradients(model) - want_gradient).norm() <= 1e-5 * want_gradient.norm()
    assert "24 tokens a pass" in caplog.text


def test_out_of_memory_with_a_single_sequence_is_one_sentence():
    def never(tokens):
        raise torch.OutOfMemoryError("CUDA out of memory (played)")

    with pytest.raises(ModelError, match="single sequence of 23 tokens"):
        Budget(None).run(never, largest=97, longest=23)


@pytest.mark.parametrize(
    "said",
    [
        "CUDA error: out of memory",  # driver calls outside of the allocator
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "Error out of memory at line 380 in file /src/csrc/pythonInterface.cpp",  # bitsandbytes
        "MPS backend out of memory (MPS allocated: 8.00 GB)",
    ],
)
def test_out_of_memory_may_come_as_a_plain_error(said):
    def work(tokens):
        if tokens is None:
            raise RuntimeError(said)
        return tokens

    assert Budget(None).run(work, largest=97, longest=23) == 48


def test_the_hosts_own_out_of_memory_counts_and_other_errors_do_not():
    # A terabyte of terabytes: what torch really raises here.
    assert Budget(None).run(lambda tokens: tokens or torch.empty(2**60), largest=97, longest=23) == 48
    with pytest.raises(RuntimeError, match="size of tensor"):
        Budget(None).run(lambda tokens: torch.ones(2) + torch.ones(3), largest=97, longest=23)


def test_where_not_even_one_sequence_fits_room_is_made_once():
    made = []

    def work(tokens):
        if not made:
            raise torch.OutOfMemoryError("CUDA out of memory (played)")
        return tokens

    def make_room():
        made.append(True)
        return len(made) == 1

    # 97 → 48 → 24 → 12, which is one sequence at a time; with the room, all that was allowed at first.
    assert Budget(90, make_room=make_room).run(work, largest=97, longest=23) == 90
    assert len(made) == 1
    made.clear()
    never = lambda tokens: torch.empty(2**60)
    with pytest.raises(ModelError, match="single sequence of 23 tokens"):
        Budget(None, make_room=make_room).run(never, largest=97, longest=23)
    assert len(made) > 1  # it was asked again, had nothing left, and that was the end


@pytest.mark.parametrize(
    "tokens, passes",
    [(None, [[0, 1, 2, 3]]), (10, [[0, 1, 2, 3]]), (5, [[0, 3], [1, 2]]), (1, [[0], [2], [1], [3]])],
)
def test_split_fills_passes(tokens, passes):
    # Lengths 4, 2, 3, 1: 4 + 1 and 3 + 2 fill two passes of 5; one token a pass leaves each sequence alone.
    assert split([4, 2, 3, 1], tokens) == passes
