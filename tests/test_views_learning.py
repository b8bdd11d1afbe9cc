"""The value function by hand, its gradient by finite differences, and a run's own rows on it."""

import math
import re

import numpy as np
import pytest
import torch
from transformers import TrainerControl, TrainerState

from kto_workbench.config import KTOConfig
from kto_workbench.engine.recorder import Recorder
from kto_workbench.engine.step import StepSums
from kto_workbench.engine.trainer import RowRewards, Window
from kto_workbench.runs.directory import new_run
from kto_workbench.views.drawing import Dot, Line, line_chart, ticks
from kto_workbench.views.learning import (
    dots_of,
    faded_beyond,
    pull,
    pull_of_dpo,
    recorded_steps,
    sigmoid,
    value,
)


def test_a_mark_near_the_right_edge_is_named_on_its_left():
    line = Line("a", np.array([0.0, 10.0]), np.array([0.0, 1.0]), "#000")
    drawn = line_chart([line], title="t", width=340, height=240, verticals=[(1.0, "a tenth"), (9.5, "a tenth")])
    left, right = re.findall(r'<text x="([\d.]+)"( text-anchor="end")? y="\d+">a tenth', drawn)
    assert not left[1] and right[1]


def test_value_by_hand():
    # β (r − z0) = 0.5 · (3 − 1) = 1; σ(1) = 1 / (1 + e^−1) = 0.7311; with λ = 2 that is 1.4621
    assert value(3.0, up=True, beta=0.5, weight=2.0, z0=1.0) == pytest.approx(2 / (1 + math.exp(-1)))
    assert value(3.0, up=False, beta=0.5, weight=2.0, z0=1.0) == pytest.approx(2 / (1 + math.exp(1)))
    assert value(1.0, up=True, beta=0.5, weight=2.0, z0=1.0) == 1.0  # at z0: λ/2
    assert sigmoid(np.array([-1e4, 1e4])).tolist() == [0.0, 1.0]


@pytest.mark.parametrize("up", [True, False])
@pytest.mark.parametrize("r", [-4.0, 0.0, 1.3])
def test_pull_is_the_slope_of_the_value(up, r):
    options = dict(up=up, beta=0.7, weight=1.5, z0=0.4)
    slope = (value(r + 1e-5, **options) - value(r - 1e-5, **options)) / 2e-5
    assert pull(r, **options) == pytest.approx(slope, rel=1e-6)
    assert (pull(r, **options) > 0) == up  # liked answers up, disliked ones down, wherever they are


def test_a_tenth_of_the_pull_is_left_where_it_is_called_faded():
    options = dict(up=True, beta=0.2, weight=1.0, z0=0.0)
    assert pull(faded_beyond(0.2), **options) == pytest.approx(pull(0.0, **options) / 10)


def test_pull_of_dpo_by_hand():
    assert pull_of_dpo(0.0, beta=0.3) == pytest.approx(0.15)
    assert pull_of_dpo(10.0, beta=1.0) == pytest.approx(1 / (1 + math.exp(10)))


def test_ticks_are_round_numbers_within_bounds():
    assert ticks(0, 10, 5) == [0, 2, 4, 6, 8, 10]
    assert ticks(-0.31, 0.52, 5) == [-0.2, 0.0, 0.2, 0.4]
    assert ticks(1, 138, 8) == [20, 40, 60, 80, 100, 120]


def test_charts_are_escaped_and_broken_where_values_are_missing():
    evil = "<script>alert(1)</script>"
    svg = line_chart(
        [Line(evil, [0, 1, 2, 3], [0.0, 1.0, np.nan, 2.0], evil)],
        title=evil,
        verticals=[(1, evil)],
        dots=[Dot(1, 1, evil)],
    )
    assert "<script" not in svg
    path = svg.split('<path d="')[1].split('"')[0]
    assert path.count("M") == 2 and path.count("L") == 1
    assert line_chart([], title="empty").startswith("<svg")


# one's own rewards on the curves


def make_run(tmp_path, **options):
    return new_run(KTOConfig(workspace=str(tmp_path), **options), {"data": "demo"})


def test_a_training_notes_each_row_s_reward_down(trained):
    records = {record["step"]: record for record in trained.metrics() if "loss" in record}
    noted = trained.rewards()
    assert [line["step"] for line in noted] == list(range(1, trained.status().total_steps + 1))  # 24 steps are few
    for line in noted:
        metrics, rewards = records[line["step"]], np.array(line["rewards"])
        up = np.array(line["labels"])
        assert len(rewards) == len(up) == 8 and up.dtype == bool
        assert line["z0"] == metrics["kl"]
        for side, key in ((up, "rewards/chosen"), (~up, "rewards/rejected")):
            if side.any():
                assert rewards[side].mean() == pytest.approx(metrics[key], abs=1e-5)
    dots = dots_of(trained)
    assert (dots.step, dots.z0) == (24, noted[-1]["z0"])
    beta = trained.config().beta
    assert sorted([*dots.up, *dots.down]) == pytest.approx(sorted(r / beta for r in noted[-1]["rewards"]))


def note_rewards(run, steps, total, rows=4):
    """Have the recorder note `rows` rows a step down, of which the first has a thumb up."""
    recorder = Recorder(run, lambda step: None, 0, progress=False)
    for step in steps:
        rewards = [float(step)] * rows
        recorder.on_rows(step, total, RowRewards(0.5, rewards, [True] + [False] * (rows - 1)))
    state = TrainerState(global_step=max(steps), max_steps=total)
    recorder.on_train_end(None, state, TrainerControl())


def test_about_forty_steps_of_a_long_run_are_kept_evenly_and_the_last(tmp_path):
    run = make_run(tmp_path)
    note_rewards(run, range(1, 1001), 1000)
    # 1000 steps in 40 parts of 25: the first step of each part, and the last of all
    assert recorded_steps(run) == [*range(1, 1001, 25), 1000]


def test_a_run_that_was_stopped_keeps_its_last_record_and_resumes_without_doubles(tmp_path):
    run = make_run(tmp_path)
    note_rewards(run, range(10, 641, 10), 1000)  # a record each 10 steps, stopped at 640
    assert recorded_steps(run)[-2:] == [630, 640]
    run.rewind(600)  # the checkpoint that it goes on from
    assert recorded_steps(run)[-1] == 580  # parts begin at 576, 601, 626, …
    note_rewards(run, range(610, 1001, 10), 1000)
    steps = [line["step"] for line in run.rewards()]
    assert steps == sorted(set(steps)) and steps[-1] == 1000 and len(steps) <= 42


def test_a_line_holds_at_most_256_rows_from_the_whole_window(tmp_path):
    run = make_run(tmp_path)
    recorder = Recorder(run, lambda step: None, 0, progress=False)
    recorder.on_rows(7, 7, RowRewards(0.0, [float(n) for n in range(1024)], [n % 8 == 0 for n in range(1024)]))
    (line,) = run.rewards()
    assert line["rewards"] == [float(n) for n in range(0, 1024, 4)]  # each fourth
    assert line["labels"] == [n % 8 == 0 for n in range(0, 1024, 4)]


def test_dots_are_the_rows_nearest_to_the_step_as_log_ratios(tmp_path):
    run = make_run(tmp_path, beta=0.5)
    for step in (1, 10, 20):
        run.record_rewards({"step": step, "z0": 0.2, "rewards": [step / 2, -step / 4, None], "labels": [1, 0, 0]})
    with (run.path / "rewards.jsonl").open("a") as file:  # another program's, and one that a crash cut off
        file.write('{"step": 30, "z0": 0, "rewards": [1], "labels": []}\n[1]\n{"step": 40, "rew')
    assert recorded_steps(run) == [1, 10, 20]
    dots = dots_of(run, 12)
    # r = reward / β: 5 / 0.5 = 10 and −2.5 / 0.5 = −5; what was no number is left out
    assert (dots.step, dots.z0, dots.up.tolist(), dots.down.tolist()) == (10, 0.2, [10.0], [-5.0])
    assert dots_of(run).step == 20


def test_a_run_without_rows_shows_its_batch_means(tmp_path):
    run = make_run(tmp_path, beta=0.5)
    for step in range(1, 61):
        run.record({"step": step, "loss": 1.0, "rewards/chosen": float(step), "rewards/rejected": None})
    dots = dots_of(run, 3)
    assert dots.step is None and dots.up.tolist() == [2.0 * step for step in range(21, 61)] and not len(dots.down)


def test_a_window_s_rows_are_those_of_all_its_steps_in_order():
    def sums(label, rewards):
        one = torch.tensor(0.5)
        return StepSums(one, one, one, torch.tensor(label), torch.tensor(rewards), torch.tensor(rewards))

    window = Window.read([sums([True, False], [1.0, -2.0]), sums([False], [0.25])])
    metrics, rows = window.metrics(), window.rows()
    assert rows == RowRewards(0.5, [1.0, -2.0, 0.25], [True, False, False])
    assert metrics["rewards/rejected"] == pytest.approx((-2 + 0.25) / 2)
