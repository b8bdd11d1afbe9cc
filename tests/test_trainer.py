"""The trainer's own parts: when the host waits for the device, window means, a bfloat16 adapter's optimizer."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from bitsandbytes.optim import PagedAdamW8bit
from test_scoring import make_pairs
from test_step import LENGTHS, make_config
from tiny_models import tiny_lora
from torch.utils._python_dispatch import TorchDispatchMode

from kto_workbench.engine import masters
from kto_workbench.engine.batches import Batches
from kto_workbench.engine.examples import Examples
from kto_workbench.engine.masters import MasterAdamW, master_optimizer
from kto_workbench.engine.memory import LiveBytes
from kto_workbench.engine.objective import RunningMean
from kto_workbench.engine.passes import Budget
from kto_workbench.engine.reference import Reference, ReferenceCache
from kto_workbench.engine.scoring import make_scorer
from kto_workbench.engine.step import StepSums
from kto_workbench.engine.trainer import KTOTrainer, mean_metrics
from kto_workbench.feedback import Row
from kto_workbench.feedback.rendering import Encoded
from kto_workbench.objectives import OBJECTIVES
from kto_workbench.runs.memory import STEPPING


class CountReads(TorchDispatchMode):
    """Counts what makes the host wait for a GPU: reading a scalar, or sizes that depend on values."""

    WAITING = ("_local_scalar_dense", "nonzero", "masked_select", "item", "equal")

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if any(func.overloadpacket.__name__ == name for name in self.WAITING):
            self.seen.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


def make_trainer(model, tmp_path, **options):
    config = make_config(logging_steps=4, max_steps=8, device="cpu", save_steps=0, learning_rate=1e-3, **options)
    pairs, _ = make_pairs(lengths=LENGTHS)
    n = len(pairs)
    rows = [Row("", "", label=i % 2 == 0, line=i) for i in range(n)]
    encode = lambda some: [Encoded(pairs[row.line].prompt_ids, pairs[row.line].completion_ids) for row in some]
    couples = np.arange(n).reshape(-1, 2) if config.objective == "dpo" else None
    partner = (np.arange(n) + 1) % n if config.uses_mismatched else None
    examples = Examples(rows, partner, encode, config.max_length, couples=couples)
    n = len(examples)
    batches, scorer = Batches(np.arange(n), np.arange(n), 8, 0), make_scorer(model)
    reference = Reference(scorer, ReferenceCache(tmp_path / "reference.sqlite"), Budget(None))
    if config.reference == "uniform":
        reference = None
    return KTOTrainer(scorer, config, examples, batches, batches, reference, tmp_path, Budget(options.get("tokens")))


@pytest.mark.parametrize(
    "options",
    [
        {}, {"tokens_per_pass": 40}, {"z0": "every", "kl_every": 2}, {"reference": "uniform"}, {"objective": "bco"},
        {"objective": "dpo"},
    ],
)  # fmt: skip
def test_a_training_step_waits_once_to_see_that_its_gradient_is_a_number(tmp_path, options):
    model = tiny_lora()
    trainer = make_trainer(model, tmp_path, **options)
    (inputs,) = trainer.get_train_dataloader()
    trainer.training_step(model, inputs)  # the reference's first visit waits
    with CountReads() as reads:
        for _ in range(3):
            trainer.training_step(model, inputs)
    assert reads.seen == ["_local_scalar_dense"] * 3


def test_a_whole_training_waits_only_to_log_and_before_it_moves_a_weight(tmp_path):
    model = tiny_lora()
    trainer = make_trainer(model, tmp_path)
    with CountReads() as reads:
        trainer.train()
    # AdamW reads its step number, which lies on the CPU, once for each of its tensors and of the 8 steps, each of which
    # looks once whether its gradient is a number. Beyond that there are 2 records and transformers' own summary; each
    # reads a few numbers behind one wait: loss, gradient norm, and our metrics as one tensor.
    trained = sum(p.requires_grad for p in model.parameters())
    assert len(reads.seen) - 8 * trained - 8 <= 5 * (2 + 1)


def test_of_pairs_the_share_is_counted_whose_liked_answer_has_the_higher_reward():
    one = torch.tensor(0.5)
    sums = lambda rewards: StepSums(
        one, one, one, torch.tensor([True, False] * 2), torch.tensor(rewards), one.expand(4)
    )
    # (1 > −2), (0 < 3), (2 > 1), and a tie, which counts for nothing: 2 of 4.
    found = mean_metrics([sums([1.0, -2.0, 0.0, 3.0]), sums([2.0, 1.0, 1.0, 1.0])], "dpo")
    assert found["rewards/accuracies"] == 0.5 and found["rewards/margins"] == pytest.approx((4 - 3) / 4)


def test_each_objective_logs_what_it_has_and_nothing_else():
    one = torch.tensor(0.5)
    step = StepSums(one, one, one, torch.tensor([True, False]), torch.zeros(2), torch.zeros(2), RunningMean(one, 2))
    logged = {name: set(mean_metrics([step], name)) for name in OBJECTIVES}
    assert logged["sft"] == {"loss", "logps/chosen"}
    centres = {name: found & {"kl", "kl_raw", "delta"} for name, found in logged.items()}
    assert centres.pop("kto") == {"kl", "kl_raw"} and centres.pop("bco") == {"delta"} and not any(centres.values())
    assert {name for name, found in logged.items() if "rewards/accuracies" in found} == {"dpo", "apo_zero", "ipo"}
    assert mean_metrics([step], "bco")["delta"] == 0.5


def test_a_skipped_step_leaves_the_mean_of_rewards_alone(tmp_path):
    model = tiny_lora()
    trainer = make_trainer(model, tmp_path, objective="bco")
    (inputs,) = trainer.get_train_dataloader()
    trainer.training_step(model, inputs)
    before = trainer._mean
    batch = inputs["batch"]
    spoiled = {"batch": dataclasses.replace(batch, reference_logps=torch.full_like(batch.reference_logps, torch.nan))}
    trainer.training_step(model, spoiled)
    assert trainer.skipped == 1 and trainer._mean is before and before.count == 8


def test_window_means_are_sums_over_counts():
    # TRL's and LLaMA-Factory's class means of batch means would give (1 + 5) / 2 = 3 up; the sum over counts is
    # (1 + 5 + 6 + 7) / 4 = 4.75. Down appears in the first batch alone.
    def sums(label, rewards):
        one = torch.tensor(0.5)
        return StepSums(one, one, -one, torch.tensor(label), torch.tensor(rewards), torch.tensor(rewards) * 10)

    metrics = mean_metrics([sums([True, False], [1.0, -2.0]), sums([True, True, True], [5.0, 6.0, 7.0])])
    assert metrics["rewards/chosen"] == pytest.approx(4.75)
    assert metrics["rewards/rejected"] == pytest.approx(-2.0)
    assert metrics["rewards/margins"] == pytest.approx(4.75 + 2.0)
    assert metrics["logps/chosen"] == pytest.approx(47.5)
    assert (metrics["loss"], metrics["kl"], metrics["kl_raw"]) == (0.5, 0.5, -0.5)
    only_up = mean_metrics([sums([True], [1.0])])
    assert math.isnan(only_up["rewards/rejected"]) and only_up["rewards/chosen"] == 1.0


@pytest.mark.filterwarnings("ignore:Paged optimizers are not supported on CPU")
@pytest.mark.parametrize(("optim", "plain_type"), [("adamw", torch.optim.AdamW), ("paged_adamw_8bit", PagedAdamW8bit)])
def test_masters_follow_the_plain_optimizer_and_survive_a_checkpoint(optim, plain_type):
    torch.manual_seed(0)
    # Smaller tensors than 4096 bitsandbytes keeps in 32 bits.
    start, gradients = torch.randn(70, 70), [torch.randn(70, 70) for _ in range(12)]
    plain = torch.nn.Parameter(start.clone())
    rounded = torch.nn.Parameter(start.bfloat16())
    with torch.no_grad():
        plain.copy_(rounded)
    reference = plain_type([plain], lr=1e-3, weight_decay=0.1)
    ours = master_optimizer(optim)([rounded], lr=1e-3, weight_decay=0.1)
    for number, gradient in enumerate(gradients):
        plain.grad, rounded.grad = gradient.bfloat16().float(), gradient.bfloat16()
        reference.step()
        ours.step()
        ours.zero_grad()
        assert rounded.grad is None
        if number == 5:  # a resumed optimizer, with a model that was saved rounded
            saved = ours.state_dict()
            ours = master_optimizer(optim)([rounded], lr=1e-3, weight_decay=0.1)
            ours.load_state_dict(saved)
    torch.testing.assert_close(ours.masters[0], plain.detach())
    assert torch.equal(rounded, plain.bfloat16())


def test_masters_are_stepped_a_few_at_a_time_with_the_same_result(monkeypatch):
    torch.manual_seed(0)
    whole, parts = ([torch.nn.Parameter(torch.randn(1000).bfloat16()) for _ in range(20)] for _ in range(2))
    with torch.no_grad():
        for a, b in zip(whole, parts, strict=True):
            b.copy_(a)
    peaks = []
    for params, at_once in ((whole, 10**6), (parts, 2500)):
        monkeypatch.setattr(masters, "MASTERS_AT_ONCE", at_once)
        torch.manual_seed(1)
        ours = MasterAdamW(params, lr=1e-2, weight_decay=0.1)
        for number in range(4):
            for p in params[number % 2 :]:  # the first is left out now and then
                p.grad = torch.randn(1000).bfloat16()
            if number:  # the moments are there
                with LiveBytes() as live:
                    ours.step()
                peaks.append(live.peak)
            else:
                ours.step()
            ours.zero_grad()
    assert all(torch.equal(a, b) for a, b in zip(whole, parts, strict=True))
    # All gradients at once are 20 · 1000 · 4 bytes; two tensors at a time 8000, and three intermediates of one 12000.
    assert min(peaks[:3]) >= 80_000 > 20_000 >= max(peaks[3:])


def test_the_masters_of_a_gpu_take_what_the_estimate_says_while_they_step(monkeypatch):
    monkeypatch.setattr(masters, "MASTERS_AT_ONCE", 2**16)
    params = [torch.nn.Parameter(torch.ones(2**14).bfloat16()) for _ in range(12)]
    ours = MasterAdamW(params, lr=1e-2, foreach=True)  # as torch has it there
    for _ in range(2):
        for p in params:
            p.grad = torch.ones_like(p)
        with LiveBytes() as live:
            ours.step()
    assert live.peak == pytest.approx(STEPPING * 2**16, rel=0.02)


def test_small_updates_add_up_in_masters_and_are_lost_without():
    # 1 + 12 · 1e-3 is 1.012; in bfloat16 the next number after 1 is 1 + 1/128, and steps of 1e-3 round back to 1.
    kept, lost = (torch.nn.Parameter(torch.ones(1, dtype=torch.bfloat16)) for _ in range(2))
    ours, theirs = MasterAdamW([kept], lr=1e-3, weight_decay=0), torch.optim.AdamW([lost], lr=1e-3, weight_decay=0)
    for _ in range(12):
        kept.grad, lost.grad = (-torch.ones(1, dtype=torch.bfloat16) for _ in range(2))
        ours.step()
        theirs.step()
    assert lost.item() == 1.0 and kept.item() == pytest.approx(1 + 1 / 64, abs=1 / 128)
