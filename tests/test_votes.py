"""Blind votes: how pairs are dealt, what a vote leaves behind, what is counted, and that nothing tells the side."""

import json
import shutil

import pytest

from kto_workbench.config import KTOConfig
from kto_workbench.errors import RunError
from kto_workbench.feedback import ThumbStore
from kto_workbench.judging.votes import FILE_NAME, Vote, keep_vote, read_votes, summarize_votes
from kto_workbench.runs.directory import new_run
from kto_workbench.runs.sides import REFERENCE, Side
from kto_workbench.ui.blind import AHEAD, Ballot, Pair, now, results, show


@pytest.fixture
def run(tmp_path):
    return new_run(KTOConfig(workspace=str(tmp_path)), {})


def a_vote(winner="tuned", **changes):
    about = dict(ballot="b", prompt="Hi?", tuned_side="r", against="r@reference", tuned="Yes.", reference="No.")
    return Vote(**{**about, "left": "tuned", "winner": winner, **changes})


def echo(prompts, *, seed):
    """Both sides' answers as `Answerer.stream` gives them; equal ones to prompts that end in "="."""
    for side in ("reference", "tuned"):
        for number, prompt in enumerate(prompts):
            yield {"prompt": number, "side": side, "text": "gro", "done": False}
            text = prompt if prompt.endswith("=") else f"{prompt} {side}"
            yield {"prompt": number, "side": side, "text": text, "done": True}


def a_ballot(run, prompts, answer=echo, **options):
    sides = {"reference": Side(run, REFERENCE), "tuned": Side(run)}
    store = ThumbStore(run.path.parent.parent)
    return Ballot(store, prompts, sides, {"temperature": 0.5, "max_new_tokens": 9}, answer, **options)


# the file


def test_votes_come_back_as_they_were_kept(run):
    votes = [a_vote(), a_vote("reference", prompt=[{"role": "user", "content": "你好"}]), a_vote("tie", same=True)]
    assert read_votes(run) == []
    for vote in votes:
        keep_vote(run, vote)
    found = read_votes(run)
    assert [vote.winner for vote in found] == ["tuned", "reference", "tie"]
    assert found[1].prompt == votes[1].prompt and found[2].same
    keep_vote(run, a_vote(against="other"))
    assert len(read_votes(run, against="r@reference")) == 3 and len(read_votes(run, tuned_side="x")) == 0


def test_a_torn_line_costs_itself_alone(run):
    keep_vote(run, a_vote())
    with (run.path / FILE_NAME).open("ab") as file:
        file.write(b'{"ballot": "b", "winner": "tun')
    assert len(read_votes(run)) == 1
    keep_vote(run, a_vote("reference"))
    assert [vote.winner for vote in read_votes(run)] == ["tuned", "reference"]
    with (run.path / FILE_NAME).open("ab") as file:
        file.write(b'[1]\n{"winner": "tuned"}\n' + json.dumps({**a_vote().__dict__, "winner": "me"}).encode() + b"\n")
    assert len(read_votes(run)) == 2


def test_votes_of_a_run_that_is_gone_are_refused_in_one_sentence(run):
    shutil.rmtree(run.path)
    with pytest.raises(RunError, match=r"^Can't write to .*votes\.jsonl: No such file or directory\.$"):
        keep_vote(run, a_vote())


def test_the_summary_counts_ties_as_half():
    found = summarize_votes([a_vote(winner) for winner in ["tuned"] * 6 + ["tie"] * 2 + ["reference"] * 2])
    assert (found["n"], found["wins"], found["ties"], found["losses"]) == (10, 6, 2, 2)
    assert found["win_rate"] == 0.7  # (6 + 2/2) / 10
    # Wilson at z = 1.96: (0.7 + z²/20 ± z √(0.7·0.3/10 + z²/400)) / (1 + z²/10)
    assert found["interval"] == pytest.approx([0.3968, 0.8922], abs=1e-4)
    assert found["sign_test_p"] == pytest.approx(2 * (1 + 8 + 28) / 2**8)  # at most 2 of 8 fair coins, either way
    assert summarize_votes([])["win_rate"] is None


# one way through prompts


def test_a_vote_is_two_thumbs_and_a_tie_is_none(run):
    ballot = a_ballot(run, ["a", "b", "c"])
    list(ballot.answer_ahead())
    for number, (left, choice) in enumerate((("tuned", "left"), ("tuned", "right"), ("reference", "tie"))):
        ballot.pairs[number].left = left
        ballot.vote(number, choice)
        assert ballot.position == number  # unveiled, and still there
        ballot.go_on(number)
    assert ballot.over
    votes = read_votes(run)
    assert [(vote.left, vote.winner) for vote in votes] == [
        ("tuned", "tuned"),
        ("tuned", "reference"),
        ("reference", "tie"),
    ]
    thumbs = {thumb.id: thumb for thumb in ballot.store.thumbs()}
    assert [(thumb.completion, thumb.label) for thumb in thumbs.values()] == [
        ("a reference", False),
        ("a tuned", True),
        ("b reference", True),
        ("b tuned", False),
    ]
    assert [len(vote.thumbs) for vote in votes] == [2, 2, 0]
    low, high = (thumbs[number] for number in votes[0].thumbs)
    assert (low.adapter, high.adapter) == ("", str(run.adapter)) and low.run == high.run == run.id
    assert low.who == high.who == "blind vote" and high.model == run.config().model
    seed = ballot.pairs[0].seed
    assert high.sampling == {"temperature": 0.5, "max_new_tokens": 9, "seed": seed} and high.side == run.id
    assert votes[0].sampling == {"temperature": 0.5, "max_new_tokens": 9, "seed": seed}


def test_only_the_first_vote_on_the_card_that_shows_counts(run):
    ballot = a_ballot(run, ["a", "b"])
    list(ballot.answer_ahead())
    ballot.vote(1, "left")  # not yet shown
    ballot.vote(0, "up")  # no such choice
    ballot.go_on(0)  # not without a vote
    assert ballot.position == 0 and not read_votes(run)
    ballot.vote(0, "left")
    ballot.vote(0, "right")  # unveiled by now
    assert len(read_votes(run)) == 1 and ballot.pairs[0].winner == ballot.pairs[0].left
    ballot.go_on(0)
    ballot.go_on(0)  # pressed twice
    assert ballot.position == 1


def test_without_unveiling_a_vote_leads_straight_to_the_next(run):
    ballot = a_ballot(run, ["a", "b"], unveils=False)
    list(ballot.answer_ahead())
    ballot.vote(0, "left")
    assert ballot.position == 1 and ballot.shown.winner is None
    ballot.vote(1, "tie")
    assert ballot.over and len(read_votes(run)) == 2


def test_equal_answers_are_ties_that_nobody_is_asked_about(run):
    ballot = a_ballot(run, ["a=", "b", "c=", "d="], unveils=False)
    list(ballot.answer_ahead())
    assert ballot.position == 1 and [vote.same for vote in read_votes(run)] == [True]
    assert "1 of 1" in show("en", ballot)  # of four prompts, the one that is a card
    ballot.vote(1, "left")
    assert ballot.over
    assert [(vote.winner == "tie", vote.same) for vote in read_votes(run)] == [
        (True, True),
        (False, False),
        (True, True),
        (True, True),
    ]
    assert len(list(ballot.store.thumbs())) == 2


def test_pairs_are_made_ahead_of_the_voter_and_no_further(run):
    calls = []

    def answer(prompts, *, seed):
        calls.append(len(prompts))
        return echo(prompts, seed=seed)

    ballot = a_ballot(run, [f"p{number}" for number in range(40)], answer, unveils=False)
    list(ballot.answer_ahead())
    assert calls == [2, 8, 8] and len(ballot.pairs) == 18 >= AHEAD  # 2 + 8 = 10 < 12
    for number in range(6):
        ballot.vote(number, "left")
    list(ballot.answer_ahead())
    assert len(calls) == 3  # 12 are unread
    ballot.vote(6, "left")
    list(ballot.answer_ahead())
    assert len(calls) == 4


def test_a_page_that_ran_out_of_cards_while_a_batch_was_written_is_known_to_wait(run):
    def answer(prompts, *, seed):
        if ballot.pairs:  # the voter is faster than the second batch
            ballot.vote(0, "left")
            ballot.vote(1, "left")
            assert "being written" in now("en", ballot)
        yield from echo(prompts, seed=seed)

    ballot = a_ballot(run, [f"p{number}" for number in range(6)], answer, unveils=False)
    ahead = ballot.answer_ahead()
    next(ahead)
    assert 'data-card="0"' in now("en", ballot) and not ballot.awaited
    next(ahead)
    assert ballot.awaited and 'data-card="2"' in now("en", ballot)


def test_a_vote_that_can_not_be_kept_leaves_no_thumbs(run):
    ballot = a_ballot(run, ["a"])
    list(ballot.answer_ahead())
    (run.path / FILE_NAME).mkdir()  # in the way
    with pytest.raises(RunError, match="Can't write to"):
        ballot.vote(0, "left")
    assert not list(ballot.store.thumbs()) and ballot.shown.winner is None


def test_each_side_is_on_the_left_about_half_the_time(run):
    ballot = a_ballot(run, [f"p{number}" for number in range(400)])
    while ballot.asked < 400:
        ballot.position = len(ballot.pairs)
        list(ballot.answer_ahead())
    left = sum(pair.left == "tuned" for pair in ballot.pairs)
    assert 140 <= left <= 260  # 200 ± 6 · √(400/4): fails once in 10⁸ runs if it is fair


# what is shown


def test_before_the_vote_a_card_is_its_texts_in_their_order_and_nothing_else(run):
    ballot = a_ballot(run, ["a"])
    texts = ("One <b>answer</b>.", "Another.")
    shown = []
    for left, right in (("tuned", "reference"), ("reference", "tuned")):
        ballot.pairs = [Pair("a", {left: texts[0], right: texts[1]}, 7, left)]
        shown.append(show("en", ballot))
    assert shown[0] == shown[1]  # whoever wrote them
    assert "&lt;b&gt;answer" in shown[0] and "<b>" not in shown[0]
    ballot.vote(0, "left")
    assert "A · Reference" in show("en", ballot) and "B · Tuned" in show("en", ballot)


def test_the_figures_are_those_of_this_ballot_with_the_others_beside_it(run):
    about = dict(tuned_side=run.id, against=f"{run.id}@reference")
    for ballot, winners in (("b", ["tuned", "tuned", "tie"]), ("earlier", ["reference"])):
        for winner in winners:
            keep_vote(run, a_vote(winner, ballot=ballot, tuned="<i>Yes</i>", same=winner == "tie", **about))
    sides = {"reference": Side(run, REFERENCE), "tuned": Side(run)}
    drawn = results("en", sides, run.path, "b")
    assert "83.3%" in drawn and "Wins: 2, ties: 1, losses: 0." in drawn and "p = 0.5" in drawn  # (2 + 1/2) / 3; 2 / 2²
    assert "Equal answers, which were not shown and count as ties: 1." in drawn
    assert "All 4 votes on these sides: win rate 62.5%" in drawn  # (2 + 1/2) / 4
    assert drawn.count("<tr data-winner") == 3 and "<i>Yes" not in drawn and "&lt;i&gt;Yes" in drawn
    assert "4" in results("zh", sides, run.path) and results("zh", sides, run.path).count("<tr data-winner") == 4
    assert "no votes" in results("en", {**sides, "tuned": Side(run, "checkpoint-4")}, run.path)
