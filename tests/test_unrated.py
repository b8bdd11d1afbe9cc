"""What nobody rated: shares of good answers on both sides, and an alarm where the tuned side is clearly worse."""

import json

import pytest
from test_ui_evaluate import EVALUATION

from kto_workbench import evaluate
from kto_workbench.demo.measure import ASKED, demo_probe, evaluation_prompts
from kto_workbench.feedback.named import asset
from kto_workbench.judging.report import in_words
from kto_workbench.judging.unrated import compare_abilities, compare_manners, general_probe, pairs_of, says
from kto_workbench.ui import outcome

GOOD, LOST, GAINED, BAD = (True, True), (True, False), (False, True), (False, False)


@pytest.mark.parametrize(
    ("pairs", "p", "alarm"),
    [
        ([LOST] * 5 + [GOOD] * 5, 2 / 2**5, True),  # five coins that all fell on one side
        ([LOST] * 4 + [GOOD] * 6, 2 / 2**4, False),  # four may be an accident
        ([LOST] * 8 + [GAINED] * 2, 2 * (1 + 10 + 45) / 2**10, False),
        ([LOST] * 9 + [GAINED] * 2, 2 * (1 + 11 + 55) / 2**11, True),
        ([GAINED] * 9 + [BAD], 2 / 2**9, False),  # better is no alarm
        ([GOOD] * 3 + [BAD] * 3, 1.0, False),
    ],
)
def test_an_alarm_is_a_loss_that_is_no_accident(pairs, p, alarm):
    found = pairs_of("sums", pairs)
    assert found["p"] == pytest.approx(p) and found["alarm"] is alarm and found["n"] == len(pairs)
    assert found["reference"] == sum(one for one, _ in pairs) / len(pairs)
    assert found["tuned"] == sum(other for _, other in pairs) / len(pairs)


def test_the_questions_that_come_along_know_their_answers():
    rows = [json.loads(line) for line in asset("abilities.jsonl").read_text().splitlines()]
    probe = general_probe()
    assert len(rows) == len(probe.prompts) == 30 and len({row["ability"] for row in rows}) == 4
    right = [f"I think it is {row['expected'][0]}." for row in rows]
    wrong = ["I would rather talk about the weather." for _ in rows]
    for one in compare_abilities(probe, right, wrong):
        assert (one["reference"], one["tuned"], one["alarm"]) == (1.0, 0.0, True), one
    assert not any(one["alarm"] for one in compare_abilities(probe, wrong, right))
    assert says("it is 12.", ["12"]) and not says("it is 128", ["12"]) and not says("12", ["1"])
    assert says("HOT", ["HOT"]) and not says("It is hot", ["HOT"])  # capital letters were asked for


def test_another_language_and_refusals_are_seen():
    prompts = ["What do you think of the weather in this town today?"] * 6
    english = "I think that the weather is fine and that it will be warm for the rest of the week."
    german = "Ich denke, dass das Wetter schön ist und dass es nicht mehr so kalt wird wie in der letzten Woche."
    language, answered = compare_manners(prompts, [english] * 6, [german] * 6)
    assert (language["name"], language["reference"], language["tuned"], language["alarm"]) == ("language", 1, 0, True)
    assert not answered["alarm"]
    refusal = "I'm sorry, but I can't help with that."
    assert compare_manners(prompts, [english] * 6, [refusal] * 6)[-1]["alarm"]
    assert compare_manners(["天气怎么样？"] * 6, ["很好。"] * 6, ["抱歉，我无法回答。"] * 6)[-1]["alarm"]


def test_both_sides_of_a_run_are_asked_what_nobody_rated(trained):
    probe = demo_probe()
    sums = [row["prompt"] for row in evaluation_prompts() if row["topic"] == "sums"]
    assert sum(prompt in sums for prompt in probe.prompts) == ASKED * len(sums)
    found = evaluate(trained, None, ["What sound does a cow make?"], "shorter", probe=probe)["evaluation"]["unrated"]
    by_name = {one["name"]: one for one in found}
    assert by_name["sums"]["n"] == ASKED * len(sums) and by_name["facts"]["n"] > 20
    assert by_name["facts"]["reference"] > 0.8 > by_name["sums"]["reference"]  # as DEMO's base is made to be


def test_the_alarm_stands_beside_the_win_rate():
    worse = pairs_of("sums", [LOST] * 6 + [GOOD] * 4)
    same = pairs_of("facts", [GOOD] * 9)
    evaluation = {**EVALUATION, "unrated": [same, worse]}
    assert "WORSE  sums: 100% → 40% (of 10)" in in_words(evaluation) and "WORSE  facts" not in in_words(evaluation)
    found = {"evaluation": evaluation, "about": {}, "answers": [{"prompt": "?", "reference": "", "tuned": ""}] * 3}
    assert "it got worse: sums, 100% → 40% of 10 (sign test: p = 0.031)" in outcome.results("en", found)
    shown = outcome.results("zh", found)
    assert "却变差了：算术" in shown and shown.count("kto-worse") == 1
