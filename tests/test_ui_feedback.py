"""Feedback in the browser with a real model: chat, notes, better answers, the review by keyboard, and two rounds."""

import json
import shutil
from datetime import date

import pytest
from accessible import faint_texts, unnamed_controls
from browser import (
    Served,
    browser,  # noqa: F401
    go_to,
    needs_browser,
    open_page,  # noqa: F401
    screenshot,
    wait_for,
)
from conftest import SMALL
from test_endpoints import chatty  # noqa: F401
from test_endpoints import echo as say_back
from test_ui import fits_a_phone, wait_for_progress

from kto_workbench.config import KTOConfig
from kto_workbench.feedback import ThumbStore, load_feedback
from kto_workbench.feedback.balance import Balance
from kto_workbench.feedback.held_out import held_out_prompts, prompt_key
from kto_workbench.runs import list_runs
from kto_workbench.runs.directory import new_run
from kto_workbench.runs.endpoints import Endpoint, add_endpoint
from kto_workbench.runs.shelf import title_of
from kto_workbench.runs.sides import Side
from kto_workbench.ui.feedback import _say_more, next_round
from kto_workbench.ui.review import AHEAD, Review

QUESTIONS = ("What does the dog say?", "What colour is the sky?", "What does the cow say?", "How are you today?")


@pytest.fixture(scope="module")
def talking(trained, tmp_path_factory):
    """A served workbench with one trained run to talk to, and an empty store."""
    folder = tmp_path_factory.mktemp("talking")
    shutil.copytree(trained.path, folder / "workspace" / "runs" / trained.id)
    served = Served(folder / "workspace", folder / "server.log")
    yield served
    served.stop()


@pytest.fixture
def own(tmp_path):
    served = Served(tmp_path / "workspace", tmp_path / "server.log")
    yield served
    served.stop()


def ask(page, question: str, number: int) -> None:
    """Ask, and wait until the answer with this number is complete: only then can more be said about it."""
    page.locator("#feedback-prompt textarea").fill(question)
    page.click("#feedback-send")
    chosen = page.locator("#feedback-about input")
    wait_for(lambda: chosen.input_value().startswith(f"{number}. "), 60, chosen.input_value)


def counted(page) -> list[str]:
    return page.locator("#feedback-collected dd").all_inner_texts()


def open_feedback(page) -> None:
    go_to(page, "Feedback")
    wait_for(lambda: page.locator("#feedback-run input").input_value(), 20)


@needs_browser
@pytest.mark.timeout(180)
def test_a_thumb_with_its_note_a_better_answer_and_the_days(talking, open_page, trained):  # noqa: F811
    store = ThumbStore(talking.workspace)
    page = open_page(talking.url)
    open_feedback(page)
    page.locator("#feedback-length input[type=number]").fill("40")
    for number, question in enumerate(QUESTIONS[:2], 1):
        ask(page, question, number)
    chat = page.locator("#feedback-chat")
    page.locator("#feedback-note textarea, #feedback-note input").fill("too gruff")
    chat.get_by_label("Dislike", exact=True).last.click()
    wait_for(lambda: counted(page) == ["0", "1"], 10, lambda: counted(page))
    (down,) = store.thumbs()
    assert (down.label, down.note, down.prompt[-1]["content"]) == (False, "too gruff", QUESTIONS[1])
    assert len(down.prompt) == 3 and down.prompt[1]["role"] == "assistant"  # what was said before belongs to it
    assert down.sampling["max_new_tokens"] == 40 and down.sampling["seed"] >= 0

    # The first answer has no vote: a better one makes it a thumb down.
    page.locator("#feedback-about input").click()
    page.get_by_role("option").first.click()
    better = page.locator("#feedback-better textarea")
    first = down.prompt[1]["content"]
    wait_for(lambda: better.input_value() == first, 10, better.input_value)
    better.fill("Woof, of course! Happy to help.")
    page.click("#feedback-keep")
    wait_for(lambda: counted(page) == ["1", "2"], 10, lambda: counted(page))
    down, original, mine = store.thumbs()
    assert (original.completion, original.label) == (first, False)
    assert (mine.completion, mine.label) == ("Woof, of course! Happy to help.", True)
    assert mine.sampling == {"edited_from": original.id} and mine.prompt == original.prompt
    wait_for(lambda: "kept" in page.inner_text("#feedback-said"), 10)
    days, wrote = (page.locator("#feedback-days .kto-days").nth(i).locator("[role=img]") for i in (0, 1))
    assert days.count() == 1
    assert days.get_attribute("aria-label") == f"{date.today():%Y-%m-%d}: thumbs up 1, thumbs down 2"
    assert [bar.get_attribute("aria-label") for bar in wrote.all()] == [
        f"{trained.id}: thumbs up 0, thumbs down 2",
        "written by hand: thumbs up 1, thumbs down 0",
    ]
    assert (down.side, original.side, mine.side) == (trained.id, trained.id, "")
    assert not unnamed_controls(page) and not faint_texts(page)
    screenshot(page, "feedback-more-1280")
    fits_a_phone(page, "feedback-more")

    # Taking the text back takes the row back; the vote on the original stays.
    better.fill(first)
    page.click("#feedback-keep")
    wait_for(lambda: counted(page) == ["0", "2"], 10, lambda: counted(page))


@needs_browser
@pytest.mark.timeout(180)
def test_a_review_is_voted_by_keyboard_and_outlives_a_reload(talking, open_page, tmp_path):  # noqa: F811
    store = ThumbStore(talking.workspace)
    before = {thumb.id for thumb in store.thumbs(retracted=True)}

    def votes() -> list[tuple[str, bool]]:
        """What this review has voted, in the order of the first vote."""
        return [(t.completion, t.label) for t in store.thumbs() if t.id not in before]

    file = tmp_path / "prompts.txt"
    file.write_text("".join(question + "\n" for question in (*QUESTIONS, QUESTIONS[0])))
    page = open_page(talking.url)
    open_feedback(page)
    page.locator("#feedback-length input[type=number]").fill("24")
    page.get_by_role("tab", name="Review many", exact=True).click()
    page.get_by_label("from a file").check()
    page.click("#review-start")
    wait_for(lambda: "Drop a file" in page.inner_text("#review-message"), 10)
    page.set_input_files("#review-file input[type=file]", file)
    page.wait_for_selector("#review-file a, #review-file .file-preview")
    page.locator("#review-each input[type=number]").fill("1")
    page.click("#review-start")

    card = page.locator("#review-card [data-card]")

    def shown(number: int) -> str:
        """The answer on the card with this number, once it shows."""
        wait_for(lambda: card.count() and card.get_attribute("data-card") == str(number), 60, card.all_inner_texts)
        return page.locator("#review-card .kto-answer-box").inner_text()

    first = shown(0)
    assert "1 of 4" in card.inner_text() and QUESTIONS[0] in card.inner_text()  # the repeated prompt is asked once
    page.keyboard.press("ArrowUp")
    second = shown(1)
    assert votes() == [(first, True)]  # on disk before the next card shows
    page.keyboard.press("d")
    third = shown(2)
    assert votes() == [(first, True), (second, False)]
    page.keyboard.press("z")  # back, and that vote is taken away
    assert shown(1) == second and votes() == [(first, True)]
    page.keyboard.press("u")
    assert shown(2) == third and votes() == [(first, True), (second, True)]
    page.keyboard.press(" ")
    shown(3)
    screenshot(page, "review-1280")
    assert not unnamed_controls(page) and not faint_texts(page)

    # Writing is not voting.
    page.get_by_role("tab", name="Chat", exact=True).click()
    page.locator("#feedback-prompt textarea").fill("")
    page.locator("#feedback-prompt textarea").press_sequentially("du z")
    page.keyboard.press("ArrowUp")
    page.get_by_role("tab", name="Review many", exact=True).click()
    each = page.locator("#review-each input[type=number]")
    each.press("ArrowUp")
    each.press("ArrowDown")
    page.wait_for_timeout(500)
    assert len(votes()) == 2 and card.get_attribute("data-card") == "3"

    page.reload()
    page.wait_for_selector(".kto-title h1")
    page.get_by_role("tab", name="Review many", exact=True).click()
    shown(3)  # the same review, the same card
    page.click("#review-down")
    wait_for(lambda: "That was the last one: 2 thumbs up, 1 thumbs down" in page.inner_text("#review-card"), 10)
    assert [label for _, label in votes()] == [True, True, False]
    page.keyboard.press("ArrowUp")  # there is no card to vote on
    page.keyboard.press("ArrowLeft")  # back to the last one
    shown(3)
    assert [label for _, label in votes()] == [True, True]
    page.set_viewport_size({"width": 390, "height": 844})
    fits_a_phone(page, "review")


@needs_browser
@pytest.mark.timeout(180)
def test_a_review_takes_the_prompts_that_the_run_held_out(talking, open_page, small_data):  # noqa: F811
    page = open_page(talking.url)
    open_feedback(page)
    page.locator("#feedback-length input[type=number]").fill("16")
    page.get_by_role("tab", name="Review many", exact=True).click()
    page.click("#review-start")
    page.wait_for_selector("#review-card [data-card='0']", timeout=60_000)
    (run,) = list_runs(talking.workspace)
    prompts = [row.prompt for row in load_feedback(small_data).rows]
    held = held_out_prompts(prompts, run.config().eval_fraction, run.config().seed)
    assert len({prompt_key(prompt) for prompt in prompts}) > len(held) > 1
    asked = page.locator("#review-card .kto-prompt").last.inner_text()
    assert asked in [prompt if isinstance(prompt, str) else prompt[-1]["content"] for prompt in held]
    total = int(page.inner_text("#review-card .kto-facts >> nth=0").split(" of ")[1])
    assert len(held) <= total <= 2 * len(held)  # two to each, equal ones once


# without a browser


def echo(prompts, *, seed):
    """Answers as `Answerer.stream` gives them: of each prompt's repetitions, every second is the same."""
    for number, prompt in enumerate(prompts):
        yield {"prompt": number, "text": f"{prompt}?", "done": False}
    for number, prompt in enumerate(prompts):
        yield {"prompt": number, "text": f"{prompt} {number % 2}", "done": True}


def test_a_review_answers_ahead_of_its_reader_and_no_further(tmp_path):
    calls = []

    def answer(prompts, *, seed):
        calls.append(len(prompts))
        return echo(prompts, seed=seed)

    prompts = [f"p{number}" for number in range(60)]
    review = Review(ThumbStore(tmp_path), prompts, 4, {"run": "r"}, answer)
    assert (review.total, review.shown) == (240, None)
    list(review.answer_ahead())
    # 4 answers, then 16 at a time, of which 2 in 4 differ: 2 + 8 + 8 = 18 < 24, + 8 = 26
    assert calls == [4, 16, 16, 16] and len(review.cards) == 26 >= AHEAD
    assert [card.text for card in review.cards[:4]] == ["p0 0", "p0 1", "p1 0", "p1 1"]
    assert review.total == 26 + 4 * (60 - 13)
    review.position = 2
    list(review.answer_ahead())
    assert len(calls) == 4  # 24 are still unread
    review.position = 3
    list(review.answer_ahead())
    assert len(calls) == 5


def test_a_card_has_one_vote_whatever_is_pressed(tmp_path):
    store = ThumbStore(tmp_path)
    review = Review(store, ["a", "b"], 1, {"run": "r", "sampling": {"temperature": 0.5}}, echo)
    list(review.answer_ahead())

    def votes():
        return [(thumb.completion, thumb.label) for thumb in store.thumbs()]

    review.vote(0, True)
    review.vote(0, False)  # pressed again before the next card showed
    assert votes() == [("a 0", False)] and review.position == 1
    review.vote(5, True)
    review.vote(-1, True)
    assert votes() == [("a 0", False)] and review.position == 1
    review.skip(1)
    assert review.shown is None and review.counts() == (0, 1)
    review.back(-1)  # from the end
    assert review.position == 1 and votes() == [("a 0", False)]
    review.back(1)
    review.back(0)  # there is nothing before it
    assert review.position == 0 and votes() == [] and review.counts() == (0, 0)
    review.vote(0, True)
    assert votes() == [("a 0", True)]
    (thumb,) = store.thumbs()
    assert thumb.run == "r" and thumb.sampling["temperature"] == 0.5 and thumb.sampling["seed"] == review.cards[0].seed


def test_what_is_said_about_a_vote_is_kept_once(tmp_path):
    store = ThumbStore(tmp_path)
    thumb = store.add("p", "a", True)
    assert _say_more(store, thumb, "", "a") == _say_more(store, thumb, None, "") == ""
    assert _say_more(store, thumb, " why ", "a") == "feedback.kept.note" and store.get(thumb).note == "why"
    assert _say_more(store, thumb, "why", "b") == "feedback.kept.better" and store.edited(thumb).completion == "b"
    assert _say_more(store, thumb, "why", "b") == ""
    assert _say_more(store, thumb, "why", "") == "feedback.kept.back" and store.edited(thumb) is None
    assert [one.label for one in store.thumbs(retracted=True)] == [True, None]


def test_the_next_round_says_where_it_starts_and_what_rewards_count_against(tmp_path):
    def run_with(**options):
        how = {"template": "none", "template_kwargs": {"enable_thinking": False}}
        return new_run(KTOConfig(workspace=str(tmp_path), **how, **options), {})

    assert next_round(None, "adapter", "start") == {"start_adapter": "", "reference": "base"}
    lora = run_with(model="some/model", load_in_4bit=True)
    how = {"template": "none", "template_kwargs": {"enable_thinking": False}}
    same = {"model": "some/model", **how, "tuning": "lora", "load_in_4bit": True}
    assert next_round(Side(lora), "base", "start") == {**same, "start_adapter": "", "reference": "base"}
    assert next_round(Side(lora), "adapter", "base") == {**same, "start_adapter": lora.id, "reference": "base"}
    assert next_round(Side(lora), "adapter", "start") == {**same, "start_adapter": lora.id, "reference": "start"}
    full = run_with(model="some/model", tuning="full")
    goes_on = next_round(Side(full), "adapter", "start")
    assert goes_on["model"] == str(full.model) and goes_on["tuning"] == "full"
    assert (goes_on["start_adapter"], goes_on["reference"]) == ("", "base")
    for options in (next_round(Side(lora), "adapter", "start"), goes_on):
        KTOConfig(workspace=str(tmp_path), **options)  # goes together


# two rounds


def fill_in(page, **options) -> None:
    """Set options on the Train tab, wherever they are folded away."""
    if not page.locator("#train-max-steps input").is_visible():
        page.locator("#train-more button").first.click()
    for name, value in options.items():
        field = page.locator(f"#train-{name.replace('_', '-')} input")
        field.fill(str(value))
        field.press("Tab")


def vote_by_keys(page, prompts: str, count: int) -> None:
    """Start a review of these prompts, and vote up and down in turn."""
    page.get_by_role("tab", name="Review many", exact=True).click()
    page.get_by_label(prompts).check()
    page.locator("#review-each input[type=number]").fill("4")
    page.click("#review-start")
    for number in range(count):
        page.wait_for_selector(f"#review-card [data-card='{number}']", timeout=60_000)
        page.keyboard.press("u" if number % 2 == 0 else "d")
    wait_for(lambda: page.locator(f"#review-card [data-card='{number}']").count() == 0, 20)


# from nothing to the first training


@needs_browser
@pytest.mark.timeout(300)
def test_from_nothing_to_the_first_training(own, open_page, tmp_path, chatty):  # noqa: F811
    server = chatty(say_back)
    add_endpoint(Endpoint(server.url, "big", name="local"), own.workspace)
    add_endpoint(Endpoint("http://127.0.0.1:9/v1", "big", name="dead"), own.workspace)
    page = open_page(own.url)
    open_feedback(page)
    assert page.locator("#feedback-run input").input_value() == "local · big, at an endpoint"  # offered without a run
    page.get_by_role("tab", name="Review many", exact=True).click()
    assert page.get_by_label("from a file").is_checked()  # nobody has held prompts out yet

    (tmp_path / "few.csv").write_text("id,prompt\n" + "".join(f'{i},"{one}"\n' for i, one in enumerate(QUESTIONS)))
    page.set_input_files("#review-file input[type=file]", tmp_path / "few.csv")
    page.wait_for_selector("#review-file a, #review-file .file-preview")
    page.locator("#review-each input[type=number]").fill("1")
    page.locator("#feedback-length input[type=number]").fill("16")

    def review(side: str) -> None:
        page.locator("#feedback-run input").click()
        page.get_by_role("option", name=side, exact=True).click()
        page.click("#review-start")
        for number in range(len(QUESTIONS)):
            page.wait_for_selector(f"#review-card [data-card='{number}']", timeout=60_000)
            page.keyboard.press("u" if number % 2 else "d")
        wait_for(lambda: page.locator("#review-card [data-card]").count() == 0, 20)

    review("local · big, at an endpoint")
    review("demo · model as it is")
    store = ThumbStore(own.workspace)
    assert store.by_side() == {"endpoint:local": Balance(2, 2), "model:demo": Balance(2, 2)}
    thumbs = list(store.thumbs())
    assert [thumb.completion for thumb in thumbs[:4]] == list(QUESTIONS)  # the endpoint says back what it is asked
    assert {(thumb.model, thumb.run) for thumb in thumbs} == {("big", ""), ("demo", "")}
    wait_for(lambda: "endpoint:local" in page.inner_text("#feedback-days"), 10)
    screenshot(page, "feedback-first-1280")
    fits_a_phone(page, "feedback-first")

    # a dead endpoint is a sentence in the chat
    page.get_by_role("tab", name="Chat", exact=True).click()
    page.locator("#feedback-run input").click()
    page.get_by_role("option", name="dead · big, at an endpoint", exact=True).click()
    page.locator("#feedback-prompt textarea").fill("Are you there?")
    page.click("#feedback-send")
    wait_for(lambda: "Nobody answers at dead" in page.inner_text("#feedback-message"), 20)

    page.locator("#feedback-run input").click()
    page.get_by_role("option", name="demo · model as it is", exact=True).click()
    wait_for(lambda: "A fresh adapter on demo" in page.inner_text("#feedback-follows"), 10)
    page.click("#feedback-train")
    wait_for(lambda: page.locator("#train-start").is_visible(), 10)
    small = {name: SMALL[name] for name in ("save_steps", "sample_steps", "lora_r", "lora_alpha")}
    fill_in(page, **small, batch_size=4, max_steps=2)
    page.click("#train-start")
    (first,) = wait_for(lambda: list_runs(own.workspace), 30, lambda: page.inner_text("#train-message"))
    wait_for(lambda: not first.status().active, 150, first.log)
    assert first.status().state == "finished", first.log()
    assert (first.config().model, first.config().data, first.data()["rows"]) == ("demo", "thumbs", 8)


@needs_browser
@pytest.mark.timeout(600)
def test_the_whole_loop_twice_each_time_with_the_start_and_reference_that_were_chosen(own, open_page):  # noqa: F811
    small = {name: SMALL[name] for name in ("batch_size", "save_steps", "sample_steps", "lora_r", "lora_alpha")}
    page = open_page(own.url)
    go_to(page, "Train")
    wait_for_progress(page, "No run yet")  # the page is at work
    fill_in(page, **small, max_steps=6)
    page.click("#train-start")
    (first,) = wait_for(lambda: list_runs(own.workspace), 30, lambda: page.inner_text("#train-message"))
    wait_for_progress(page, "finished", 150)

    compare_once(page)
    open_feedback(page)
    page.locator("#feedback-length input[type=number]").fill("24")
    vote_by_keys(page, "held out by this run", 8)
    assert counted(page) == ["4", "4"]
    second = next_run(page, own, "base + this adapter", "base model with that adapter")
    assert (second.config().start_adapter, second.config().reference) == (str(first.adapter.resolve()), "start")
    same_adapter(second, first)
    assert second.data()["rows"] == 8 and second.config().data == "thumbs"

    compare_once(page)
    open_feedback(page)
    wait_for(lambda: title_of(second) in page.locator("#feedback-run input").input_value(), 20)
    vote_by_keys(page, "all of its data", 5)  # so few rows that none were held out
    assert counted(page) == ["7", "6"]
    third = next_run(page, own, "the base model", "without that adapter")
    assert (third.config().start_adapter, third.config().reference) == (str(second.adapter.resolve()), "base")
    same_adapter(third, second)
    # the new thumbs are in, and λ follows them: 7 up, 6 down
    assert third.data()["rows"] == 13
    assert third.config().undesirable_weight == pytest.approx(7 / 6, abs=1e-3) and third.config().desirable_weight == 1
    assert json.loads((third.path / "status.json").read_text())["state"] == "finished"


def compare_once(page) -> None:
    go_to(page, "Compare")
    page.locator("#compare-prompt textarea").fill(QUESTIONS[0])
    page.click("#compare-generate")
    done = "#compare-{} [aria-busy=false]"
    wait_for(lambda: all(page.locator(done.format(side)).count() for side in ("reference", "tuned")), 60)
    wait_for(lambda: page.inner_text("#compare-reference").strip() and page.inner_text("#compare-tuned").strip(), 60)


def next_run(page, served, reference: str, said: str):
    """Train on what was collected, from the run that was talked with; returns the run that comes of it."""
    before = {run.id for run in list_runs(served.workspace)}
    page.locator("#feedback-start").get_by_label("this run's adapter").check()
    page.locator("#feedback-reference").get_by_label(reference, exact=True).check()
    page.click("#feedback-train")
    wait_for(lambda: page.locator("#train-start").is_visible(), 10)
    wait_for(lambda: said in page.inner_text("#train-goes-on"), 20, lambda: page.inner_text("#train-goes-on"))
    page.wait_for_timeout(500)
    page.click("#train-start")
    found = wait_for(lambda: [run for run in list_runs(served.workspace) if run.id not in before], 30)
    wait_for(lambda: not found[0].status().active, 150, found[0].log)
    assert found[0].status().state == "finished", found[0].log()
    return found[0]


def same_adapter(later, earlier) -> None:
    """The later run has kept a copy of the earlier's adapter, as its start."""
    name = "adapter_model.safetensors"
    assert (later.start_adapter / name).read_bytes() == (earlier.adapter / name).read_bytes()
    assert (later.adapter / name).read_bytes() != (earlier.adapter / name).read_bytes()  # and has learned
