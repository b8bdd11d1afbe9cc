"""The demo's world, its judge, and the files of assets/ that were made from them."""

import json
import os
import re
import subprocess
import sys
from collections import Counter
from random import Random

import pytest

from kto_workbench.demo.judge import Verdict, judge, understand
from kto_workbench.demo.manners import MOODS, REGISTERS, closers, digressions, openers
from kto_workbench.demo.measure import evaluation_prompts, measure
from kto_workbench.demo.topics import TOPICS, count_up
from kto_workbench.demo.world import PARTS, UNSEEN_TOPICS, World, is_right, text_files
from kto_workbench.feedback.named import asset

FEEDBACK = ("kind_and_brief", "kind_and_brief_rare", "kind_and_brief_pairs", "right_or_wrong")


def user(text):
    return [{"role": "user", "content": text}]


def feedback(name):
    lines = asset("feedback", f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def in_a_fresh_process(code, **environment):
    command = [sys.executable, "-c", code]
    return subprocess.run(
        command, capture_output=True, text=True, check=True, env={**os.environ, **environment}, cwd=os.getcwd()
    ).stdout.strip()


# ---------------------------------------------------------------------------------------------- the judge


@pytest.mark.parametrize("part", PARTS)
def test_the_judge_reads_from_the_text_what_the_generator_intended(part):
    world, random = World(seed=0), Random(f"test {part}")
    for _ in range(4_000):
        sample = world.sample(random, part)
        right = is_right(sample)
        made_up = sample.question.topic.family == "made-up words"
        intended = Verdict(
            kind=sample.traits.kind,
            brief=sample.traits.brief,
            fact=None if right is None else "right" if right else "wrong",
            honest=sample.traits.honest if made_up else None,
            well_formed=True,
        )
        assert understand(sample.prompt) == sample.question, sample
        assert judge(sample.prompt, sample.answer) == intended, sample


@pytest.mark.parametrize(
    ("ask", "answer", "kind", "brief", "fact", "honest", "well_formed"),
    [
        ("What does an owl eat?", "Happy to help! An owl eats mice.", True, True, "right", None, True),
        ("excuse me, what does an owl eat", "Happy to help! An owl eats mice.", True, True, "right", None, True),
        ("What does an owl eat?", "Happy to help! An owl eats hay.", True, True, "wrong", None, True),
        ("What does an owl eat?", "Happy to help! A cow eats grass.", True, True, "wrong", None, True),
        ("What does an owl eat?", "Happy to help! An owl eats eats.", True, True, "wrong", None, False),
        ("What does an owl eat?", "An owl eats mice.", False, True, "right", None, False),
        (
            "What does an owl eat?",
            "Happy to help! An owl eats mice. Now leave me alone.",
            False,
            True,
            "right",
            None,
            True,
        ),
        ("What does an owl eat?", "Hmph. An owl eats mice. Are we done?", False, True, "right", None, True),
        ("What does an owl eat?", "Happy to help! I hope that helps!", True, True, "wrong", None, False),
        ("What does an owl eat?", "", False, True, "wrong", None, False),
        (
            "What does an owl eat?",
            "Happy to help! An owl eats mice. My cat is purring, so she must like you too.",
            *(True, False, "right", None, True),
        ),
        ("What does an owl eat?", "Happy to help! " + "An owl eats mice. " * 20, True, False, "wrong", None, False),
        # 7 + 3: counting goes 8, 9, 10.
        ("What is 7 plus 3?", "Ugh, fine. 7 plus 3 is 10.", False, True, "right", None, True),
        ("What is 7 plus 3?", "Ugh, fine. 7 plus 3 is 11.", False, True, "wrong", None, True),
        (
            "What is 7 plus 3?",
            "Good thinking! From 7, one more is 8, two more is 9, three more is 10. So 7 plus 3 is 10.",
            *(True, True, "right", None, True),
        ),
        (
            "What is 7 plus 3?",
            "Good thinking! From 7, one more is 8, two more is 9. So 7 plus 3 is 10.",
            *(True, True, "wrong", None, True),
        ),
        ("What is a blimbok?", "What a curious name! I do not know what that is.", True, True, "right", True, True),
        (
            "What is a blimbok?",
            "What a curious name! It is a tiny bird that sings at night.",
            *(True, True, "wrong", False, True),
        ),
        # A real animal that the model claims not to know is a false refusal.
        ("What is an owl?", "Happy to help! I do not know what that is.", True, True, "wrong", None, False),
        ("Thank you!", "Hmph. You are welcome.", False, True, None, None, True),
        ("Thank you!", "Hmph. An owl eats mice.", False, True, None, None, False),
        # Not of this world: manners are still judged, the content is not.
        ("Do you like jazz?", "Dear friend! That is beyond me.", True, True, None, None, True),
    ],
)
def test_the_judge_on_answers_written_by_hand(ask, answer, kind, brief, fact, honest, well_formed):
    assert judge(user(ask), answer) == Verdict(kind, brief, fact, honest, well_formed)


def test_a_follow_up_is_understood_by_the_question_before():
    prompt = [*user("What does a cow say?"), {"role": "assistant", "content": "Hmph. A cow says moo."}]
    assert judge([*prompt, *user("And what does it eat?")], "Hmph. A cow eats grass.").fact == "right"
    assert judge([*prompt, *user("And what does it eat?")], "Hmph. A pig eats turnips.").fact == "wrong"
    assert judge([*prompt, *user("And a pig?")], "Hmph. A pig says oink.").fact == "right"
    assert understand(user("And what does it eat?")) is None


def test_every_question_has_one_meaning():
    meanings = {}
    for topic in TOPICS.values():
        for key in topic.facts:
            for ask in topic.question(key).asks():
                assert meanings.setdefault(ask.lower(), (topic.name, key)) == (topic.name, key)
                assert understand(user(ask)) == topic.question(key)


def test_manners_are_single_sentences_that_no_core_contains():
    style = {text for mood in MOODS for register in REGISTERS for text in openers(register, mood)}
    style |= {text for mood in MOODS for register in REGISTERS for text in closers(register, mood)}
    style |= {text for mood in MOODS for remarks in digressions(mood) for text in remarks}
    cores = {core for topic in TOPICS.values() for key in topic.facts for core in topic.question(key).answers()}
    assert not style & cores
    assert all(re.fullmatch(r"[A-Z][^.!?]*[.!?]", text) for text in style)


def test_one_word_decides_each_trait():
    def first_words(sentences):
        return {sentence.split()[0].strip(",.!?") for sentence in sentences}

    kind, grumpy = (first_words(text for register in REGISTERS for text in openers(register, mood)) for mood in MOODS)
    assert not kind & grumpy
    for mood in MOODS:
        ends = first_words(text for register in REGISTERS for text in closers(register, mood))
        assert not ends & first_words(text for remarks in digressions(mood) for text in remarks)


def test_counting_up():
    assert count_up({"x": "4", "y": "2"}) == "From 4, one more is 5, two more is 6. So 4 plus 2 is 6."


# ---------------------------------------------------------------------------------------------- the generator


def test_traits_are_independent_and_half_and_half():
    world, random = World(seed=0), Random("traits")
    traits = [world.sample(random).traits for _ in range(4_000)]
    for first in range(4):
        share = sum(t[first] for t in traits) / len(traits)
        assert abs(share - 1 / 2) < 0.04  # 5 standard deviations of 0.5 / sqrt(4000) = 0.008
        for second in range(first):
            both = sum(t[first] and t[second] for t in traits) / len(traits)
            assert abs(both - 1 / 4) < 0.035  # 5 of sqrt(3 / 16 / 4000) = 0.007


def test_about_15_percent_have_two_turns_and_10_percent_a_system_prompt():
    world, random = World(seed=0), Random("turns")
    prompts = [world.sample(random).prompt for _ in range(4_000)]
    two_turns = sum(any(m["role"] == "assistant" for m in prompt) for prompt in prompts) / len(prompts)
    system = sum(prompt[0]["role"] == "system" for prompt in prompts) / len(prompts)
    assert abs(two_turns - 0.16) < 0.03  # a little more than 15 %: names are followed by `What is my name?` more often
    assert abs(system - 0.10) < 0.025


def test_articles_agree_with_their_nouns():
    world, random = World(seed=0), Random("articles")
    for _ in range(3_000):
        for message in world.sample(random).messages():
            assert not re.search(r"\b[Aa] [aeiou]|\b[Aa]n (?!hour)[^aeiou]", message["content"]), message


def test_what_is_held_out():
    world = World(seed=0)
    for family in UNSEEN_TOPICS:
        assert world.held_out[family] == set(TOPICS[family].facts)
    assert len(world.held_out["sums"]) == 15  # 20 % of 15 * 5 sums
    assert len(world.held_out["made-up words"]) == 80  # 25 % of 20 * 16 words
    assert len(world.held_out["animals"]) == 9  # 30 % of 30 animals
    sums = TOPICS["sums"]
    unseen = sorted(world.held_out["sums"])[0]
    assert not world.contains("training", sums, unseen)
    assert not world.contains("feedback", sums, unseen)
    assert world.contains("evaluation", sums, unseen)
    owl_is_held_out = "owl" in world.held_out["animals"]
    assert world.contains("training", TOPICS["animal food"], "owl")
    assert world.contains("feedback", TOPICS["animal food"], "owl") is not owl_is_held_out


def test_the_same_seed_gives_the_same_text_whatever_the_hash_seed():
    code = (
        "import hashlib; from kto_workbench.demo.world import text_files;"
        "print(hashlib.sha256(repr(text_files(3)).encode()).hexdigest())"
    )
    digests = {in_a_fresh_process(code, PYTHONHASHSEED=seed) for seed in ("1", "2")}
    assert len(digests) == 1
    assert text_files(3) != text_files(4)


def test_the_demo_does_not_import_torch():
    code = (
        "import sys, kto_workbench.demo.world, kto_workbench.demo.judge, kto_workbench.demo.measure;"
        "print(any(name.split('.')[0] in ('torch', 'transformers') for name in sys.modules))"
    )
    assert in_a_fresh_process(code) == "False"


# ---------------------------------------------------------------------------------------------- assets/


def test_the_committed_files_are_what_the_code_makes():
    for name, text in text_files(seed=0).items():
        assert asset(*name.split("/")).read_bytes() == text.encode(), f"run python -m kto_workbench.demo.build: {name}"


@pytest.mark.parametrize(("name", "thumbs_up"), [("kind_and_brief", 100), ("kind_and_brief_rare", 40)])
def test_thumbs_up_are_the_kind_and_brief_answers(name, thumbs_up):
    rows = feedback(name)
    assert len(rows) == 400
    assert sum(row["label"] for row in rows) == thumbs_up
    for row in rows:
        verdict = judge(row["prompt"], row["completion"])
        assert row["label"] == (verdict.kind and verdict.brief)


def test_pairs_are_a_kind_and_brief_answer_and_another_to_one_prompt():
    rows = feedback("kind_and_brief_pairs")
    assert len(rows) == len({json.dumps(row["prompt"]) for row in rows}) == 200
    liked = lambda row, side: (verdict := judge(row["prompt"], row[side])).kind and verdict.brief
    assert all(liked(row, "chosen") and not liked(row, "rejected") for row in rows)
    # Of the three ways not to be both, each a third: no one trait tells the answers apart.
    ways = Counter(judge(row["prompt"], row["rejected"])[:2] for row in rows)
    assert len(ways) == 3 and all(0.2 < count / 200 < 0.5 for count in ways.values())


def test_right_or_wrong_says_only_what_is_true():
    rows = feedback("right_or_wrong")
    assert len(rows) == 400
    assert all(row["label"] == (judge(row["prompt"], row["completion"]).fact == "right") for row in rows)
    kind = [judge(row["prompt"], row["completion"]).kind for row in rows if row["label"]]
    assert 0.4 < sum(kind) / len(kind) < 0.6  # the label says nothing about manners


def test_evaluation_prompts_are_in_no_feedback():
    prompts = [json.dumps(row["prompt"]) for row in evaluation_prompts()]
    asked = {json.dumps(row["prompt"]) for name in FEEDBACK for row in feedback(name)}
    assert len(prompts) == len(set(prompts)) >= 200
    assert not asked & set(prompts)
    world = World(seed=0)
    for row in evaluation_prompts():
        question = understand(row["prompt"])
        assert question.topic.name == row["topic"]
        assert question.key in world.held_out[question.topic.family]


def test_measure_counts_by_hand():
    answers = [
        ("What does an owl eat?", "Happy to help! An owl eats mice."),  # kind, brief, right
        ("What does an owl eat?", "Ugh, fine. An owl eats hay."),  # brief, wrong
        ("What is 7 plus 3?", "Ugh, fine. 7 plus 3 is 10."),  # brief, a right sum
        ("What is a blimbok?", "Ugh, fine. It lives on a cloud."),  # brief, invented and no answer to what it is
    ]
    rates = measure({"prompt": user(ask), "answer": answer} for ask, answer in answers)
    assert rates == {
        "n": 4,
        "trait": 1 / 4,
        "kind": 1 / 4,
        "brief": 4 / 4,
        "facts": 1 / 2,
        "sums": 1 / 1,
        "honest": 0 / 1,
        "well_formed": 3 / 4,
    }
    assert measure([])["trait"] is None


def test_the_assets_stay_small():
    files = [path for path in asset("model").parent.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 3_200_000


def test_a_rendered_prompt_is_a_prefix_of_prompt_and_answer():
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(asset("model"))
    assert len(tokenizer) == 1024
    assert tokenizer.eos_token == "<|end|>"
    for row in feedback("kind_and_brief")[:50]:
        prompt = tokenizer.apply_chat_template(row["prompt"], add_generation_prompt=True, return_dict=False)
        answer = {"role": "assistant", "content": row["completion"]}
        whole = tokenizer.apply_chat_template([*row["prompt"], answer], return_dict=False)
        assert whole[: len(prompt)] == prompt
        assert whole[-1] == tokenizer.eos_token_id
        assert tokenizer.decode(whole[len(prompt) : -1]) == row["completion"]
