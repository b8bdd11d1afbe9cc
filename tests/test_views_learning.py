"""The value function by hand, and its gradient by finite differences."""

import math
import re

import numpy as np
import pytest

from kto_workbench.views.drawing import Dot, Line, line_chart, ticks
from kto_workbench.views.learning import faded_beyond, pull, pull_of_dpo, sigmoid, value


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
