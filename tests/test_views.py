"""Views: columns that grow, smoothing, thinning that keeps peaks, the figure."""

import random
import subprocess
import sys
import time

import numpy as np
import pytest
from fake_training import record_at

from kto_workbench.config import KTOConfig
from kto_workbench.runs import jsonlines
from kto_workbench.runs.directory import Run, new_run
from kto_workbench.runs.schemas import take_many_metrics, take_metrics
from kto_workbench.views.curves import CHARTS, chart_points, points, smooth
from kto_workbench.views.figure import plot
from kto_workbench.views.records import Columns, Records, records_of


@pytest.fixture
def run(tmp_path) -> Run:
    return new_run(KTOConfig(workspace=str(tmp_path), beta=0.5), {"data": "demo"})


def test_columns_fill_what_a_record_lacks_with_nan():
    columns = Columns([{"step": 1, "loss": 0.5}, {"step": 2, "kl": 0.1}, {"step": 3, "loss": None, "kl": 0.2}])
    np.testing.assert_array_equal(columns["loss"], [0.5, np.nan, np.nan])
    np.testing.assert_array_equal(columns["kl"], [np.nan, 0.1, 0.2])
    np.testing.assert_array_equal(columns["unknown"], [np.nan] * 3)
    assert columns.last("loss") == 0.5 and columns.last("unknown") is None


def test_records_take_in_what_is_new_and_part_training_from_held_out(run):
    records = Records(run)
    assert len(records.read().train) == 0
    run.record({"step": 1, "loss": 0.5, "rewards/chosen": 0.1})
    run.record({"step": 1, "eval_loss": 0.6, "eval_rewards/chosen": 0.2})
    records.read()
    assert records.train["loss"].tolist() == [0.5]
    assert records.eval["rewards/chosen"].tolist() == [0.2]
    version = records.version
    assert records.read().version == version
    run.record({"step": 2, "loss": 0.4})
    assert records.read().version != version
    assert records.train["step"].tolist() == [1, 2]


def test_records_of_a_resumed_run_are_read_anew(run):
    for step in range(1, 6):
        run.record({"step": step, "loss": step / 10})
    assert len(records_of(run).train) == 5
    run.rewind(2)
    run.record({"step": 3, "loss": 9.0})
    assert records_of(run).train["loss"].tolist() == [0.1, 0.2, 9.0]


def test_smoothing_is_unbiased_from_the_first_value_on():
    # weight 1/2: 0; (1/2·0 + 1·3)/(1/2 + 1) = 2; (1/4·0 + 1/2·3 + 1·3)/(1/4 + 1/2 + 1) = 4.5/1.75
    assert smooth(np.array([0.0, 3.0, 3.0]), 0.5).tolist() == pytest.approx([0.0, 2.0, 4.5 / 1.75])
    values = np.array([4.0, 4.0, 4.0])
    assert smooth(values, 0.9).tolist() == pytest.approx([4.0, 4.0, 4.0])
    assert smooth(values, 0.0) is values


@pytest.mark.parametrize("smoothing", [0.0, 0.6, 0.95])
def test_thinned_as_it_grows_a_curve_keeps_its_peaks_and_is_what_it_would_be_all_at_once(smoothing):
    draw = np.random.default_rng(0)
    for count in (1, 2, 7, 149, 150, 151, 333, 4_001):
        values = draw.normal(size=count).cumsum() + 9 * (draw.random(count) < 0.01)
        values[draw.random(count) < 0.1] = np.nan  # a batch of one class
        values[0] = 1.0
        smoothed, top, bottom = {}, 0.0, 0.0  # by hand: out_i = Σ w^(i−j) v_j / Σ w^(i−j)
        for step, value in enumerate(values):
            if value == value:
                top, bottom = smoothing * top + value, smoothing * bottom + 1
                smoothed[step] = top / bottom
        for pieces in ([count], [1] * count, [3] * (count // 3) + [count % 3]):
            columns, done = Columns(), 0
            for piece in pieces:
                new = range(done, done + piece)
                columns.extend([{"step": i, "loss": values[i]} if values[i] == values[i] else {"step": i} for i in new])
                done += piece
                if piece > 1 or done % 10 == 0 or done == count:
                    steps, thin = columns.thinned("loss", smoothing, 150)
            known = np.array(list(smoothed.values()))
            assert len(steps) <= 150 and (len(known) > 146 or len(steps) == len(known))
            assert thin == pytest.approx([smoothed[int(step)] for step in steps], abs=1e-12)
            assert (thin.max(), thin.min()) == pytest.approx((known.max(), known.min()))
            assert (steps[0], steps[-1]) == (min(smoothed), max(smoothed)) and (np.diff(steps) > 0).all()
            # No stretch without its peak: nothing rises above, or falls below, the 16 drawn points around it.
            for step, value in smoothed.items():
                at = int(np.searchsorted(steps, step))
                near = thin[max(0, at - 8) : at + 8]
                assert near.min() - 1e-9 <= value <= near.max() + 1e-9


def test_what_was_read_once_does_not_change_under_a_readers_hands(run):
    run.record({"step": 1, "loss": 0.5, "kl": 1.0})
    before = records_of(run).train
    for step in range(2, 40):
        run.record({"step": step, "loss": 0.1})
    after = records_of(run).train
    assert before["loss"].tolist() == [0.5] and before.last("loss") == 0.5 and len(before) == 1
    assert len(after["kl"]) == len(after["loss"]) == 39 and after.last("kl") == 1.0
    run.record({"step": 40, "kl": 2.0})  # lacking for a while
    assert (
        records_of(run).train["kl"].tolist()[0::39] == [1.0, 2.0] and np.isnan(records_of(run).train["kl"][1:39]).all()
    )


def test_lines_are_taken_many_at_once_as_one_by_one():
    draw = random.Random(0)
    odd = [
        b"{}", b"[]", b"{", b'{"step":1},{"step":2}', b'{"step":-1}', b'{"step":true,"loss":1}', b'{"step":null}', b"1",
        b'{"step":3,"loss":NaN}', b'{"step":3,"loss":1e999}', b'{"step":3,"loss":true}', b'{"step":3,"loss":"2"}',
        b'{"step":3,"loss":null,"kl":2}', b'{"step":3,"x":99999999999999999999999}', b'{"step":3,"step":4}', b"\xff",
        b'{"step":4,"x":[1]}', b'{"loss":1}', b"null", b'{"step":5}]', b'[{"step":5}',
    ]  # fmt: skip
    for _ in range(200):
        lines = [b'{"step": %d, "loss": 0.25}' % i for i in range(draw.choice([0, 1, 600]))]
        for line in draw.sample(odd, draw.randint(0, 4)):
            lines.insert(draw.randint(0, len(lines)), line)
        one_by_one = [record for line in lines if (record := take_metrics(line)) is not None]
        assert take_many_metrics(lines) == one_by_one


def test_the_newest_values_are_found_from_the_end(run):
    assert run.last_values("loss", "kl") == {"loss": None, "kl": None} and run.last_metrics() == {}
    for step in range(1, 3000):  # some 200 KiB, more than is read at first
        run.record(
            {"step": step, "loss": step / 2, "kl": 3.0 if step == 2950 else None, "filling": 1 / 3, "much": 2 / 3}
        )
    run.record({"step": 3000, "eval_loss": 7.0})
    with (run.path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3001, "loss": 9')  # torn
    assert run.last_values("loss", "kl") == {"loss": 2999 / 2, "kl": 3.0}
    assert run.last_metrics()["step"] == 2999
    backwards = [record["step"] for record in jsonlines.backwards(run.path / "metrics.jsonl")]
    assert backwards == [3000, *range(2999, 0, -1)]


def test_z0_is_drawn_times_beta_over_rewards_and_plain_on_its_own():
    columns = Columns([{"step": 1, "kl": 0.8, "rewards/chosen": 0.3, "rewards/rejected": -0.2, "rewards/margins": 0.5}])
    over = chart_points(columns, "rewards", beta=0.5)
    assert over["beta_z0"][1].tolist() == [0.4]  # 0.5 · 0.8
    assert over["chosen"][1].tolist() == [0.3]  # rewards contain β already
    assert chart_points(columns, "z0", beta=0.5)["z0"][1].tolist() == [0.8]


def test_a_batch_of_one_class_leaves_no_hole():
    columns = Columns(
        [{"step": 1, "rewards/chosen": 1.0}, {"step": 2, "rewards/chosen": None}, {"step": 3, "rewards/chosen": 3.0}]
    )
    curve = CHARTS["rewards"][0]
    steps, values = points(columns, curve)
    assert steps.tolist() == [1, 3] and values.tolist() == [1.0, 3.0]


def test_a_look_costs_the_same_at_a_hundred_thousand_steps(run):
    columns = Columns(record_at(1, 100_000) for _ in range(10))
    one = {"loss": 0.3, "rewards/chosen": 1.0, "rewards/rejected": -1.0, "kl": 0.1}
    columns.extend([{"step": step, **one} for step in range(11, 100_001)])
    started = time.perf_counter()
    charts = [chart_points(columns, chart, smoothing=0.6) for chart in ("rewards", "z0", "loss")]
    assert time.perf_counter() - started < 1.0  # about 0.1 s on an idle core
    for chart in charts:
        assert sum(len(steps) for steps, _ in chart.values()) <= 600


def test_figure_of_an_empty_a_live_and_several_runs(run, tmp_path):
    def texts(figure):
        return (
            [text.get_text() for axis in figure.axes for text in axis.texts + axis.get_legend().get_texts()]
            if all(axis.get_legend() for axis in figure.axes)
            else [text.get_text() for axis in figure.axes for text in axis.texts]
        )

    assert texts(plot(run)) == ["nothing logged yet"] * 4
    for step in range(1, 30):
        run.record(record_at(step, 30))
    run.record({"step": 29, "eval_rewards/chosen": 0.5, "eval_loss": 0.4})
    figure = plot(run)
    assert {"thumbs up (chosen)", "thumbs down (rejected)", "β·z0", "z0", "loss", "margin"} <= set(texts(figure))
    figure.savefig(tmp_path / "one.png")
    assert run.id in figure.get_suptitle() and "β 0.5" in figure.get_suptitle()
    both = plot([run, run])
    assert {run.id, f"{run.id} rejected"} <= set(texts(both))
    both.savefig(tmp_path / "both.png")


def test_views_and_ui_leave_torch_alone():
    code = "import kto_workbench.ui.app, kto_workbench.views.figure, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("weight", [0.01, 0.3, 0.6, 0.95, 0.999])
def test_smoothing_many_values_at_once_is_smoothing_one_by_one(weight):
    random = np.random.default_rng(0)
    values = random.normal(0, 1, 5000) * 10.0 ** random.integers(-9, 9, 5000)
    total = share = 0.0
    expected = []
    for value in values.tolist():
        total, share = total * weight + value, share * weight + 1
        expected.append(total / share)
    found = smooth(values, weight)
    # Each is a mean of those before it, so what is lost is measured by the largest of them that still counts.
    scale = np.maximum(np.abs(expected), np.maximum.accumulate(np.abs(values)) * 1e-6)
    assert np.all(np.abs(found - expected) <= 1e-9 * scale)
