"""Notes: healthy runs stay silent, each kind of trouble is named once, with its numbers."""

import math

import pytest
from fake_training import record_at

from kto_workbench.config import KTOConfig
from kto_workbench.views.notes import TEXTS, Note, notes_on
from kto_workbench.views.records import Columns

CONFIG = KTOConfig()  # the demo's, β = 1


def kinds(train, held_out=(), config=CONFIG) -> list[str]:
    return [note.kind for note in notes_on(Columns(train), Columns(held_out), config)]


def steady(count=60, **values):
    """The same record for `count` steps."""
    record = {"loss": 0.4, "kl": 0.3, "rewards/chosen": 0.5, "rewards/rejected": -0.5, **values}
    return [{"step": step + 1, **record} for step in range(count)]


def test_a_healthy_run_and_an_empty_one_stay_silent():
    assert kinds([record_at(step, 60) for step in range(1, 41)]) == []
    assert kinds(steady()) == [] and kinds([]) == []


def test_a_loss_that_is_not_a_number_names_the_step():
    train = steady(10) + [{"step": 11, "loss": math.nan}, {"step": 12, "loss": None}]
    assert notes_on(Columns(train), Columns(), CONFIG) == [Note("nan", {"step": 11})]
    assert kinds([{"step": 1, "loss": None}]) == ["nan"]


def test_rewards_and_z0_that_rise_together_are_a_mismatch():
    train = [record_at(step, 60, "mismatch") for step in range(1, 61)]
    (note,) = notes_on(Columns(train), Columns(), CONFIG)
    # the last 8 of 60 steps, without step 55, which has no thumb up: mean step 397/7, chosen 9 · step/60
    assert note.kind == "mismatch" and note.values["chosen"] == pytest.approx(9 * 397 / 7 / 60)
    assert "shoot up together" in note.text and note.level == "warning"


def test_z0_counts_with_beta_in_a_mismatch_because_rewards_contain_it():
    train = steady(**{"rewards/chosen": 2.0, "rewards/rejected": 1.9, "kl": 10.0})
    assert kinds(train, config=KTOConfig(beta=1.0)) == ["mismatch"]
    assert kinds(train, config=KTOConfig(beta=0.1)) == []  # β·z0 = 1.0 is no surprise


def test_both_rewards_falling():
    assert kinds(steady(**{"rewards/chosen": -0.8, "rewards/rejected": -3.0})) == ["both_fall"]


def test_pairs_whose_rewards_both_fall_are_told_what_that_means_and_records_without_z0_are_no_mismatch():
    def kinds_of(chosen, rejected):
        records = steady(**{"rewards/chosen": chosen, "rewards/rejected": rejected})
        return kinds([{k: v for k, v in r.items() if k != "kl"} for r in records], config=KTOConfig(objective="dpo"))

    assert kinds_of(-0.8, -3.0) == ["both_fall_pairs"]
    assert kinds_of(2.0, 1.9) == []


def test_a_margin_from_one_side_only():
    # 0.05 of the margin 4.1 is 0.205, so a gain of 0.1 is almost nothing
    assert kinds(steady(**{"rewards/chosen": 0.1, "rewards/rejected": -4.0})) == ["rejected_only"]
    assert kinds(steady(**{"rewards/chosen": 1.0, "rewards/rejected": -4.0})) == []


def test_rewards_that_do_not_move_say_so_after_fifty_steps():
    train = {"rewards/chosen": 0.01, "rewards/rejected": -0.01}
    assert kinds(steady(49, **train)) == [] and kinds(steady(50, **train)) == ["still"]


def test_a_z0_of_zero_is_told_after_fifty_steps_unless_it_was_asked_for():
    train = steady(10) + [{**record, "step": record["step"] + 10, "kl": 0.0} for record in steady(50)]
    (note,) = notes_on(Columns(train), Columns(), CONFIG)
    assert note == Note("z0_zero", {"count": 50}) and note.level == "info"
    assert kinds(train[:-1]) == []
    assert kinds(train, config=KTOConfig(z0="zero")) == []


def test_far_from_the_reference():
    assert kinds(steady(kl=20.0), config=KTOConfig(beta=0.1)) == ["far"]


def test_a_held_out_loss_that_rises_while_the_other_falls():
    train = steady(loss=0.1)
    rising = [{"step": 10 * n, "loss": loss} for n, loss in enumerate((0.4, 0.3, 0.35, 0.36, 0.4), 1)]
    (note,) = notes_on(Columns(train), Columns(rising), CONFIG)
    assert note == Note("overfit", {"step": 20})
    assert kinds(train, [{"step": 10 * n, "loss": 0.4 - n / 100} for n in range(8)]) == []


def test_one_class_only():
    train = steady(**{"rewards/rejected": None})
    assert kinds(train) == ["one_side"]


def test_every_note_says_what_and_what_to_try():
    numbers = dict(step=1, chosen=1.0, rejected=1.0, z0=1.0, margin=1.0, count=50, side="up")
    for kind, (what, hint) in TEXTS.items():
        text = Note(kind, numbers).text
        assert "{" not in text and what and hint.endswith((".", "?"))
