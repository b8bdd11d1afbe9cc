"""Learn: six pictures that move, questions that recorded runs answer, and a page whose symbols explain themselves."""

import math
import re

import pytest
from accessible import faint_texts, unnamed_controls
from browser import (
    browser,  # noqa: F401
    go_to,
    needs_browser,
    open_page,  # noqa: F401
    screenshot,
    wait_for,
    workbench,  # noqa: F401
)
from fake_training import record_at

from kto_workbench.config import KTOConfig
from kto_workbench.runs import list_runs
from kto_workbench.runs.directory import new_run
from kto_workbench.shell.lessons import LESSONS, record
from kto_workbench.ui import lessons
from kto_workbench.ui.lesson_words import LESSON_WORDS
from kto_workbench.ui.words import STEPS_OF_LEARN
from kto_workbench.views.learning import descend, load_lessons


def told(name, at):
    return re.sub("<[^>]+>", "", lessons.PICTURES[name]("en", at).rsplit('<p class="kto-plain">', 1)[1])


def test_what_the_pictures_say_is_right():
    assert "probability of 0.0039, which is −5.5 nats" in told("word", 0.5)  # ½⁸ = 1/256; 8 ln ½ = −5.545
    # r = 2: e² = 7.389; σ(2) = 1 / (1 + e⁻²) = 0.8808
    assert "7.39 times as likely" in told("r", 2) and "worth 0.88 of 1, with a thumb down 0.12" in told("r", 2)
    assert "worth 0.73 of 1: it lies above z0" in told("z0", 1)  # σ(2 − 1) = 0.7311
    assert "worth 0.50 of 1: it lies at z0" in told("z0", 2) and "below z0" in told("z0", 3)
    # A tenth of σ(1 − σ): s(1 − s) = 1/40, s = (1 + √0.9)/2 = 0.97434, ln(s / (1 − s)) = 3.637; / 0.5 = 7.27
    assert "7.3 nats away" in told("beta", 0.5) and "1.2 nats away" in told("beta", 3)
    assert "λD 9 and λU 1" in told("lambda", 10)  # 9 · 10 = 1 · 90


def test_the_ball_rolls_downhill():
    loss = lambda r: 1 - 1 / (1 + math.exp(-r))
    at = [descend(steps, lessons.LEARNING_RATE) for steps in range(31)]
    assert at == sorted(at) and loss(at[0]) > 0.85 and loss(at[30]) < 0.05
    # One step: −2 + 2 · σ(−2)(1 − σ(−2)) = −2 + 2 · 0.1192 · 0.8808 = −1.790
    assert at[1] == pytest.approx(-1.790, abs=1e-3)


def test_the_questions_are_answered_by_the_recorded_runs():
    runs = load_lessons()
    assert runs.keys() == LESSONS.keys() and runs["beta"]["beta"] == 10 * runs["demo"]["beta"]
    end = lambda name: [sum(runs[name][side][-3:]) / 3 for side in ("up", "down")]
    gap = {name: end(name)[0] - end(name)[1] for name in runs}
    assert {one: lessons.true_answer(one) for one in lessons.QUESTIONS} == {
        "beta": "nearer", "rate": "nearer", "rare": "further",
    }  # fmt: skip
    assert gap["beta"] < gap["demo"] / 2 and gap["rate"] < gap["demo"] / 5
    # What is said of rare thumbs up: disliked answers go further without λ, liked ones gain less.
    assert end("rare_unweighted")[1] < end("rare")[1] - 2 and end("rare_unweighted")[0] < end("rare")[0]
    for question in lessons.QUESTIONS:
        before = lessons.show_answer("en", question, None)
        assert "changed" not in before  # nothing is given away
        after = lessons.show_answer("en", question, lessons.true_answer(question))
        changed = gap[lessons.RUN_OF[question]]
        assert "You were right." in after and f"{changed:.1f} nats apart" in after
        wrong = next(one for one in lessons.GUESSES if one != lessons.true_answer(question))
        assert "Not so: " in lessons.show_answer("en", question, wrong)


@pytest.mark.slow
def test_the_recorded_runs_can_be_recorded_again(tmp_path):
    again, kept = record(tmp_path), load_lessons()
    for name, run in again.items():
        assert lessons.gap(run) == pytest.approx(lessons.gap(kept[name]), rel=0.3), name


def test_every_step_is_one_sentence_in_both_languages():
    for name in STEPS_OF_LEARN:
        english, chinese = LESSON_WORDS[f"lesson.{name}.text"]
        assert english.endswith(".") and english.count(". ") == 0 and len(english.split()) < 60
        assert chinese.endswith("。") and chinese.count("。") == 1


@needs_browser
def test_learn_moves_asks_and_is_linked_to(workbench, open_page):  # noqa: F811
    page = open_page(workbench.url + "/#learn")
    for tab in ("learn", "compare", "feedback"):  # nothing to show yet: each says what to do
        go_to(page, tab.capitalize())
        wait_for(lambda: page.locator(f"#invite-{tab}-train").is_visible(), 20)  # noqa: B023
    go_to(page, "Learn")
    assert page.locator("#learn-mine").is_disabled()
    for name in STEPS_OF_LEARN:
        picture = page.locator(f"#picture-{name}")
        wait_for(lambda: picture.inner_text().strip(), 20)  # noqa: B023
        before = picture.inner_html()
        slider = page.locator(f"#move-{name} input[type=number]")
        slider.fill({"word": "0.9", "loss": "20", "r": "-3", "z0": "4", "beta": "2", "lambda": "40"}[name])
        slider.press("Enter")
        wait_for(lambda: picture.inner_html() != before, 20)  # noqa: B023
    assert "0.0498 times as likely" in page.inner_text("#lesson-r")  # e⁻³
    page.locator("#predict-guess").get_by_label("less far apart").check()
    wait_for(lambda: "You were right." in page.inner_text("#predict-answer"), 20)
    page.locator("#predict-question").get_by_label("Thumbs up are 1 in 10, and both λ stay 1").check()
    wait_for(lambda: "right" not in page.inner_text("#predict-answer"), 20)  # a new question: guess again
    assert not unnamed_controls(page) and not faint_texts(page)
    screenshot(page, "learn-steps-1280")
    page.set_viewport_size({"width": 390, "height": 844})
    page.wait_for_timeout(500)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    screenshot(page, "learn-steps-390")
    page.set_viewport_size({"width": 1280, "height": 900})

    # The button makes a run, and the Train tab watches it; its charts lead back to the step that explains them.
    run = new_run(KTOConfig(workspace=str(workbench.workspace), desirable_weight=3.0, undesirable_weight=1.0), {})
    for step in range(1, 20):
        run.record(record_at(step, 20))
    run.set_status(state="stopped", step=20, total_steps=20)
    go_to(page, "Train")
    link = page.locator("#train-z0-key [data-learn=z0]")
    wait_for(lambda: link.is_visible(), 20)
    legend = page.locator("#train-z0-key .kto-curve").first
    wait_for(lambda: "in nats" in (legend.get_attribute("title") or ""), 10)  # z0 says what it is
    assert legend.get_attribute("aria-description") == legend.get_attribute("title")
    label = page.locator("#train-beta [data-testid=block-info]")
    assert "lets go of an answer" in label.get_attribute("title")
    link.click()
    place = lambda: page.evaluate("document.getElementById('lesson-z0').getBoundingClientRect().top")
    wait_for(lambda: 0 <= place() < 300 and page.evaluate("location.hash") == "#learn", 20, place)
    go_to(page, "Compare")
    page.click("#invite-compare-train")
    wait_for(lambda: len(list_runs(workbench.workspace)) == 2, 30)
    wait_for(lambda: page.evaluate("location.hash") == "#train", 10)
    new = list_runs(workbench.workspace)[0]
    wait_for(lambda: page.locator("#train-run input").input_value().startswith(new.about()["name"]), 20)
    page.click("#train-stop")
    wait_for(lambda: not new.status().active, 90)


@needs_browser
def test_learn_is_chinese_where_the_browser_is(workbench, open_page):  # noqa: F811
    page = open_page(workbench.url + "/#learn", locale="zh-CN", width=390, scheme="dark")
    wait_for(lambda: "可能性是原来的 7.39 倍" in page.inner_text("#lesson-r"), 20)
    heading = page.locator("#lesson-beta .kto-lesson-text h3 >> nth=0")
    wait_for(lambda: "多早放手" in (heading.get_attribute("title") or ""), 10)
    assert not faint_texts(page)
