"""The benchmarks measure what they say: same work on both sides, and a floor whose arithmetic is written out."""

import math
import random

import pytest
import torch

from benchmarks import effects, machine, objectives, several_gpus, vs_trl, workload
from benchmarks.ours import Ours, Timed, longest
from benchmarks.workload import Example, Mix, Shape
from kto_workbench.feedback import load_feedback
from kto_workbench.runs.memory import ModelShape

TINY = Shape(layers=2, hidden=32, intermediate=48, heads=4, kv_heads=2, vocabulary=97, lora_r=4)
MIX = Mix(12, 9, 0.6)


def test_batches_are_the_same_at_every_call_and_as_long_as_asked():
    batches = workload.make_batches(MIX, 64, 8, 97)
    assert batches == workload.make_batches(MIX, 64, 8, 97)
    mean = sum(len(e.prompt) for batch in batches for e in batch) / 64
    assert mean == pytest.approx(12, rel=0.3)
    equal = workload.make_batches(Mix(12, 9, 0), 16, 8, 97)
    assert {(len(e.prompt), len(e.completion)) for batch in equal for e in batch} == {(12, 9)}
    assert all(e.completion[-1] == workload.END for batch in batches for e in batch)


def test_padding_counts_mismatched_sequences_too():
    # Rows of 2 + 1 and 3 + 4 tokens: padded to 7, 14 of 10. Mismatched 2 + 4 and 3 + 1: padded to 6, 12 of 10.
    assert workload.padding([[(2, 1), (3, 4)]]) == pytest.approx((14 + 12) / (10 + 10))


def test_the_floor_is_the_table_of_performance():
    batch = [Example((5,) * 7, (6,) * 3, True)]
    n = TINY.body_parameters
    # q and o 32·32, k and v 32·16, gate, up and down 32·48, two layers
    assert n == 2 * (2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 48)
    assert workload.floor_operations(TINY, [batch]) == 4 * n * 10 + 2 * n * 3 + 3 * 3 * 2 * 97 * 32


def test_a_summary_adds_up_each_batchs_best_and_median():
    costs = [[machine.Cost(3, 2), machine.Cost(1, 4), machine.Cost(2, 6)], [machine.Cost(5, 5)] * 3]
    assert vs_trl.summarize(costs) == {"wall_min": 6, "wall_median": 7, "cpu_min": 7, "cpu_median": 9}


def test_the_lean_setting_holds_the_longest_sequence():
    batches = [[Example((1,) * 5, (2,) * 2, True), Example((1,) * 3, (2,) * 9, False)]]
    # Own pairs have 7 and 12 tokens, mismatched ones 5 + 9 and 3 + 2.
    assert longest(batches) == 14


@pytest.mark.filterwarnings("ignore")
def test_every_variant_computes_what_trl_computes_and_a_difference_stops_the_benchmark():
    batches = workload.make_batches(MIX, 8, 4, TINY.vocabulary)
    engines = {variant: vs_trl.build(variant, TINY, batches) for variant in vs_trl.VARIANTS}
    for engine in engines.values():
        workload.move_adapter(engine.model)
    assert vs_trl.compare(engines) < 1e-4
    engines["ours"].config = engines["ours"].config.replace(beta=0.11)
    with pytest.raises(SystemExit, match="ours computes something else"):
        vs_trl.compare(engines)


def test_a_timed_step_leaves_weights_where_they_are_and_no_gradients():
    batches = workload.make_batches(MIX, 4, 4, TINY.vocabulary)
    ours = Ours(TINY, batches, "ours")
    ours.score_reference()
    workload.move_adapter(ours.model)
    before = [p.detach().clone() for p in ours.model.parameters() if p.requires_grad]
    cost = Timed(ours)(0)
    assert cost.wall > 0 and math.isfinite(cost.cpu)
    for p, was in zip((p for p in ours.model.parameters() if p.requires_grad), before, strict=True):
        assert p.grad is None and torch.allclose(p, was, atol=1e-7)


def test_what_several_gpus_take_by_hand():
    # A layer: q and o are 8·8, k and v 8·4, gate, up and down 8·16: 576. Embedding and head: 2·10·8.
    shape = ModelShape(layers=2, hidden=8, intermediate=16, heads=2, kv_heads=1, head_dim=4, vocabulary=10)
    shared = several_gpus.Way(shape, full=True, sharded=True, processes=4)
    assert shared.weights == 2 * 576 + 160 == 1312
    assert shared.memory() == 16 * 1312 / 4 + 2 * (2 * 576 + 160)
    assert shared.collectives(passes=3) == {"gathered": 3 * (2 * 1152 + 160), "scattered": 3 * 1312}
    assert shared.wire(passes=1) == 3 / 4 * 2 * (2 * 1152 + 160) + 3 / 4 * 2 * 1312
    # LoRA of rank 16 on seven matrices: in + out are 16, 12, 12, 16, 24, 24, 24.
    lora = several_gpus.Way(shape, full=False, sharded=False, processes=4)
    assert lora.adapter == 2 * 16 * 128
    assert lora.memory() == 2 * 1312 + 16 * 4096
    assert lora.wire(passes=3) == 2 * 3 / 4 * 4 * 4096


@pytest.mark.slow
def test_two_processes_send_what_the_arithmetic_says():
    rows = several_gpus.check(passes=2)
    assert {row["what"] for row in rows} == {"reduced", "gathered", "scattered", "held"}
    for row in rows:  # the arithmetic leaves norms out
        assert row["expected"] <= row["counted"] <= 1.005 * row["expected"], row


@pytest.mark.parametrize(("name", "siblings"), [*((n, 2) for n in objectives.VARIANTS), ("kto, z0 batch", 1)])
def test_the_tokens_that_go_through_the_model_are_those_of_the_formula(name, siblings):
    answers = objectives.make_answers(MIX, TINY, siblings)
    measured = objectives.Measured(TINY, answers, objectives.VARIANTS[name])
    counted, formula = objectives.count(measured), measured.formula()
    assert counted == pytest.approx({part: formula[part] for part in counted})
    if name == "dpo":
        # Eight prompts once, and of 16 answers all tokens but the last, by the policy and by the reference.
        prompts = sum(len(answer.prompt) for answer in answers[::2])
        completions = sum(len(answer.completion) - 1 for answer in answers)
        assert counted == {"gradient": prompts + completions, "scored": 0, "reference": prompts + completions}
        assert formula["alone"] == 2 * (2 * prompts + completions)


def test_the_feedback_of_the_effects_is_what_it_is_called():
    pairs = [{"prompt": f"p{i}", "chosen": "good", "rejected": "bad"} for i in range(200)]
    made = {name: make(pairs, random.Random(1)) for name, make in effects.CONDITIONS.items()}
    loaded = {name: load_feedback(rows) for name, rows in made.items()}
    shape = {name: (found.n_desirable, found.n_undesirable, found.n_pairs) for name, found in loaded.items()}
    assert shape == {
        "pairs": (200, 200, 200), "flip20": (200, 200, 200), "flip40": (200, 200, 200), "rare": (22, 200, 22),
        "unpaired": (100, 100, 0),
    }  # fmt: skip
    wrong = {name: sum(row.label != (row.completion == "good") for row in found.rows) for name, found in loaded.items()}
    assert wrong == {"pairs": 0, "flip20": 80, "flip40": 160, "rare": 0, "unpaired": 0}
