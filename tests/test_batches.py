"""Who is taken together with whom, and whose mismatched partner; rows as they are visited."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kto_workbench.engine.batches import (
    Batch,
    Batches,
    Pair,
    behind_one_prompt,
    mismatched_pair,
    partners,
    share_out,
)
from kto_workbench.engine.crew import Crew
from kto_workbench.engine.examples import Examples
from kto_workbench.feedback import Row
from kto_workbench.feedback.held_out import hold_out
from kto_workbench.feedback.rendering import Encoded
from kto_workbench.feedback.rows import Problem

PROMPTS = st.lists(st.integers(0, 6), min_size=2, max_size=40)


def drawn(prompts, batch_size, seed, epoch=0, **options):
    prompts = np.asarray(prompts)
    batches = Batches(np.arange(len(prompts)), prompts, batch_size, seed, **options)
    batches.set_epoch(epoch)
    return list(batches)


@pytest.mark.parametrize(
    "n, batch_size, sizes", [(8, 4, [4, 4]), (9, 4, [3, 3, 3]), (3, 2, [1, 2]), (1, 2, [1]), (33, 32, [16, 17])]
)
def test_batches_are_even(n, batch_size, sizes):
    assert sorted(map(len, drawn(range(n), batch_size, seed=0))) == sizes


@given(PROMPTS, st.integers(1, 12), st.integers(0, 5), st.integers(0, 3), st.booleans())
def test_every_row_once_an_epoch(prompts, batch_size, seed, epoch, together):
    batches = drawn(prompts, batch_size, seed, epoch, together=together)
    assert sorted(row for batch in batches for row in batch) == list(range(len(prompts)))
    assert len(batches) == -(-len(prompts) // batch_size) and max(map(len, batches)) <= batch_size


@given(PROMPTS, st.integers(1, 12), st.integers(0, 5))
def test_answers_to_a_prompt_follow_each_other(prompts, batch_size, seed):
    order = [prompts[row] for batch in drawn(prompts, batch_size, seed) for row in batch]
    changes = sum(a != b for a, b in zip(order, order[1:], strict=False))
    assert changes == len(set(prompts)) - 1


def test_an_epoch_has_batches_of_its_own_and_can_be_drawn_alone():
    first, second = (drawn(range(50), 8, 1, epoch) for epoch in (0, 1))
    assert first != second and second == drawn(range(50), 8, 1, 1) and first != drawn(range(50), 8, 2, 0)
    # Sorted input (all thumbs up first), as paired files have it, must not give batches of one class.
    for batch in drawn(range(128), 16, seed=0):
        assert 0 < sum(row < 64 for row in batch) < 16


def test_groups_are_drawn_as_often_at_each_place():
    # Two siblings and two single rows in batches of two: the siblings meet unless one of the others is before them and
    # the other behind: 2 of the 3 orders of the groups keep them in one batch.
    met = sum([0, 1] in [sorted(b) for b in drawn([7, 7, 8, 9], 2, 0, epoch)] for epoch in range(600))
    assert met / 600 == pytest.approx(2 / 3, abs=0.06)


@given(PROMPTS, st.integers(0, 5))
def test_partners_are_a_circle_of_no_siblings_where_possible(prompts, seed):
    partner = partners(np.asarray(prompts), seed)
    n, seen, row = len(prompts), [], 0
    for _ in range(n):
        seen.append(row)
        row = partner[row]
    assert row == 0 and sorted(seen) == list(range(n))
    siblings = sum(prompts[row] == prompts[partner[row]] for row in range(n))
    largest = max(map(prompts.count, prompts))
    # g siblings fill at most n/2 places of a circle without touching; each further one touches.
    if largest <= n // 2:
        assert siblings == 0


def test_one_row_has_no_partner():
    with pytest.raises(ValueError, match="no mismatched partner"):
        partners(np.array([1]), 0)


def test_mismatched_completion_is_cut_to_what_max_length_leaves():
    # x has 3 tokens, so 4 − 3 = 1 of y fits; a prompt over the length leaves one all the same.
    assert mismatched_pair((1, 2, 3), [20, 21], 4).completion_ids == (20,)
    assert mismatched_pair((4,), [30, 31, 32], 4).completion_ids == (30, 31, 32)
    assert mismatched_pair((1, 2, 3, 4, 5), [20, 21], 4).completion_ids == (20,)


def examples_of(rows, partner, refused=(), told=None, couples=None):
    def encode(some):
        calls.append([row.line for row in some])
        return [
            Problem(row.line, "prompt", "its roles are refused")
            if row.line in refused
            else Encoded((row.line, row.line), (100 + row.line, 7))
            for row in some
        ]

    calls = []
    told = [] if told is None else told
    made = Examples(rows, None if partner is None else np.array(partner), encode, 16, told.append, couples)
    return made, calls


ROWS = [Row("p", "c", label=line % 2 == 0, line=line) for line in range(4)]


def test_rows_are_tokenized_when_they_are_visited_and_once():
    examples, calls = examples_of(ROWS, [1, 2, 3, 0])
    batch = examples.batch([2, 0])
    assert calls == [[2, 0, 3, 1]]  # two rows and their partners
    assert [p.prompt_ids for p in batch.pairs] == [(2, 2), (0, 0)] and batch.label.tolist() == [True, True]
    assert [p.prompt_ids for p in batch.mismatched] == [(2, 2), (0, 0)]
    assert [p.completion_ids for p in batch.mismatched] == [(103, 7), (101, 7)]
    assert batch.size == 2 and batch.imitated == 4  # two answers of two tokens with a thumb up
    examples.batch([1, 3])
    assert len(calls) == 1
    assert examples_of(ROWS, None)[0].batch([1]).mismatched == []


def test_a_row_that_the_template_refuses_costs_that_row():
    told = []
    examples, _ = examples_of(ROWS, [1, 2, 3, 0], refused={1}, told=told)
    batch = examples.batch([0, 1])
    # Row 1 is left out, and row 0, whose partner it was, takes the next on the circle.
    assert [p.prompt_ids for p in batch.pairs] == [(0, 0)] and batch.size == 1
    assert batch.mismatched[0].completion_ids == (102, 7)
    examples.batch([0, 1])
    assert [(problem.line, problem.reason) for problem in told] == [(1, "its roles are refused")]


@given(st.lists(st.integers(1, 50), max_size=20), st.integers(1, 4))
def test_a_crew_shares_everything_out_evenly(lengths, size):
    shares = Crew(0, size).share(lengths)
    assert sorted(i for share in shares for i in share) == list(range(len(lengths)))
    loads = [sum(lengths[i] for i in share) for share in shares]
    # Whoever has the most got its last example when it had the least: it has at most the mean and that example.
    assert max(loads) <= sum(lengths) / size + max(lengths, default=0)


def test_couples_are_examples_of_two_rows():
    couples = np.array([[2, 1], [0, 3]])
    made, _ = examples_of(ROWS, None, couples=couples)
    batch = made.batch([1, 0])
    assert [p.completion_ids[0] for p in batch.pairs] == [100, 103, 102, 101]
    assert batch.label.tolist() == [True, False] * 2 and (len(made), batch.size) == (2, 2)
    # Row 3 is refused, and the couple with it.
    told = []
    made, _ = examples_of(ROWS, None, refused={3}, told=told, couples=couples)
    assert len(made.batch([0, 1])) == 2 and len(told) == 1


def test_two_answers_lose_the_same_of_their_prompt():
    # The longer answer has cut the start off its prompt, behind a beginning of sequence that is kept.
    a, b = behind_one_prompt(Pair((1, 5, 6, 7), (9,)), Pair((1, 7), (8, 8, 8)))
    assert a == Pair((1, 7), (9,)) and b == Pair((1, 7), (8, 8, 8))
    # What a template puts before an answer without a thought is no cut, and stays.
    two = Pair((1, 5), (9,)), Pair((1, 5, 3, 4), (8,))
    assert behind_one_prompt(*two) == two


def test_a_crew_takes_couples_whole():
    pairs = [Pair((i // 2,) * 3, (i,) * (i + 1)) for i in range(8)]
    batch = Batch(pairs, [], torch.tensor([True, False] * 4), coupled=True)
    shares = share_out(batch, Crew(0, 3))
    assert sorted(i for share in shares for i in share) == list(range(8))
    assert all(share[0::2] == [i - 1 for i in share[1::2]] for share in shares)


def test_a_share_keeps_the_sums_of_the_whole():
    batch = examples_of(ROWS, [1, 2, 3, 0])[0].batch([0, 1, 2])
    share = batch.take([2])
    assert len(share) == 1 and share.pairs == [batch.pairs[2]] and share.mismatched == [batch.mismatched[2]]
    assert (share.size, share.imitated, share.label.tolist()) == (3, 4, [True])
    assert len(batch.take([])) == 0 and batch.take([]).size == 3


@given(st.lists(st.integers(0, 9), min_size=0, max_size=60), st.sampled_from([0.0, 0.1, 0.5]), st.integers(0, 3))
def test_held_out_prompts_are_not_trained_on(prompts, fraction, seed):
    train, held = (part.tolist() for part in hold_out(prompts, fraction, seed))
    assert sorted(train + held) == list(range(len(prompts)))
    assert not {prompts[i] for i in train} & {prompts[i] for i in held}
    if fraction == 0:
        assert held == []
    if held:
        assert len(held) >= 2 and len(train) >= 2
    # What stands for a prompt does not matter.
    assert [part.tolist() for part in hold_out([f"{p}?" for p in prompts], fraction, seed)] == [train, held]
