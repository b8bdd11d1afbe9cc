"""Who is in a batch with whom, and whose mismatched partner."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kto_workbench.engine.batches import compose, mismatched_pairs
from kto_workbench.feedback.held_out import hold_out
from kto_workbench.feedback.rendering import Encoded


@pytest.mark.parametrize(
    "n, batch_size, sizes",
    [
        (8, 4, [4, 4]),
        (9, 4, [3, 3, 3]),  # not 4 + 4 + 1: a batch of one has no partner
        (3, 2, [3]),  # not 2 + 1
        (5, 2, [2, 3]),
        (2, 32, [2]),
        (33, 32, [16, 17]),
    ],
)
def test_batches_are_even_and_never_of_one(n, batch_size, sizes):
    assert sorted(map(len, compose(range(n), batch_size, seed=0))) == sizes


def test_one_row_is_refused():
    with pytest.raises(ValueError, match="no mismatched partner"):
        compose(["only"], 8, seed=0)


@given(st.lists(st.integers(0, 6), min_size=2, max_size=40), st.integers(2, 12), st.integers(0, 5))
def test_every_row_once_and_siblings_apart_where_possible(prompts, batch_size, seed):
    batches = compose(prompts, batch_size, seed)
    assert sorted(row for batch in batches for row in batch) == list(range(len(prompts)))
    for batch in batches:
        m = len(batch)
        assert m >= 2
        neighbours = sum(prompts[batch[i]] == prompts[batch[(i + 1) % m]] for i in range(m))
        largest = max([prompts[row] for row in batch].count(key) for key in {prompts[row] for row in batch})
        # g siblings fill at most m/2 places of a circle without touching; each further one touches at least twice over.
        if largest <= m // 2:
            assert neighbours == 0


def test_same_seed_same_batches_other_seed_others():
    assert compose(range(50), 8, seed=1) == compose(range(50), 8, seed=1) != compose(range(50), 8, seed=2)


def test_pairs_are_mixed_so_batches_hold_both_classes():
    # Sorted input (all thumbs up first), as paired files have it, must not give one-class batches.
    labels = [True] * 64 + [False] * 64
    for batch in compose(range(128), 16, seed=0):
        assert 0 < sum(labels[row] for row in batch) < 16


def test_mismatched_partner_is_the_next_row_cut_to_max_length():
    rows = [Encoded((1, 2, 3), (10, 11)), Encoded((4,), (20,)), Encoded((5, 6), (30, 31, 32))]
    got = mismatched_pairs(rows, max_length=4)
    # x_0 has 3 tokens, so 4 − 3 = 1 of y_1 fits; x_1 leaves 3 of y_2; x_2 leaves 2 of y_0.
    assert [(p.prompt_ids, p.completion_ids) for p in got] == [
        ((1, 2, 3), (20,)),
        ((4,), (30, 31, 32)),
        ((5, 6), (10, 11)),
    ]
    with pytest.raises(ValueError, match="batch of one"):
        mismatched_pairs(rows[:1], max_length=4)


@given(st.lists(st.integers(0, 9), min_size=0, max_size=60), st.sampled_from([0.0, 0.1, 0.5]), st.integers(0, 3))
def test_held_out_prompts_are_not_trained_on(prompts, fraction, seed):
    train, held = hold_out(prompts, fraction, seed)
    assert sorted(train + held) == list(range(len(prompts)))
    assert not {prompts[i] for i in train} & {prompts[i] for i in held}
    if fraction == 0:
        assert held == []
    if held:
        assert len(held) >= 2 and len(train) >= 2
