"""Compare in the browser with a real model: any two sides, many prompts, marks, heat maps, and the blind vote."""

import json
import re
import shutil

import psutil
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
from safetensors.torch import load_file, save_file
from test_ui import fits_a_phone

from kto_workbench.errors import DataError, WorkbenchError
from kto_workbench.feedback import ThumbStore
from kto_workbench.judging.statistics import sign_test, wilson_interval
from kto_workbench.judging.votes import read_votes
from kto_workbench.runs import Run
from kto_workbench.runs.answering import Answerer
from kto_workbench.runs.shelf import title_of
from kto_workbench.runs.sides import Side
from kto_workbench.ui.answers import offered_sides, sides_named
from kto_workbench.ui.compare import PAGE, Comparison, prompts_asked, show, with_marks
from kto_workbench.ui.heat import heat_map, scale_of, visible_pieces
from kto_workbench.ui.workbench import Workbench
from kto_workbench.views.differences import only_here

QUESTIONS = [
    "What does the dog say?",
    "What colour is the sky?",
    "What does the cow say?",
    "How are you today?",
    "What does an owl eat?",
    "What is 3 plus 4?",
    "Where does a fox live?",
]
SIDES = ("reference", "tuned")
# Everything that a side's answer has been on the page, until it is complete.
WATCH = """() => {
  window.grown = { reference: [], tuned: [] }
  new MutationObserver(() => {
    for (const side of ["reference", "tuned"]) {
      const box = document.querySelector(`#compare-${side} .kto-answer-box[aria-busy=true]`)
      if (box?.textContent) window.grown[side].push(box.textContent)
    }
  }).observe(document.getElementById("compare-answers"), { childList: true, subtree: true, characterData: true })
}"""


@pytest.fixture(scope="module")
def comparing(trained, tmp_path_factory):
    """A served workbench with one trained run, which has two checkpoints."""
    folder = tmp_path_factory.mktemp("comparing")
    run = folder / "workspace" / "runs" / trained.id
    shutil.copytree(trained.path, run)
    # Two dozen steps change hardly a word: what they have learned is made many times as strong.
    weights = load_file(run / "adapter" / "adapter_model.safetensors")
    strong = {name: weight * 12 if "lora_B" in name else weight for name, weight in weights.items()}
    save_file(strong, run / "adapter" / "adapter_model.safetensors", metadata={"format": "pt"})
    served = Served(folder / "workspace", folder / "server.log")
    yield served
    served.stop()


@pytest.fixture(scope="module")
def run(comparing, trained):
    return Run(comparing.workspace / "runs" / trained.id)


def open_compare(page) -> None:
    go_to(page, "Compare")
    wait_for(lambda: page.locator("#compare-run input").input_value(), 20)


def generate(page, text: str) -> dict[str, str]:
    """Ask, wait until both sides have answered the first prompt, and return what they say."""
    page.locator("#compare-prompt textarea").fill(text)
    page.click("#compare-generate")
    asked = text.split("\n---\n")[0]
    wait_for(lambda: asked in page.locator("#compare-answers").inner_text(), 60)
    wait_for(lambda: page.locator("#compare-answers [data-why^='0:']").count() == 2, 60)
    return {side: answer_of(page, side) for side in SIDES}


def sample(page, **settings: str) -> None:
    """Unfold the settings, and set some."""
    page.locator("#compare-settings button").first.click()
    page.wait_for_timeout(500)
    for name, value in settings.items():
        field = page.locator(f"#compare-{name} input[type=number]")
        field.fill(value)
        field.press("Tab")


def answer_of(page, side: str) -> str:
    return page.locator(f"#compare-{side} .kto-answer-box").first.text_content()


def next_card(page, before: str) -> str | None:
    """The number of the card that follows, once it shows; None at the end of the vote."""
    looked = """() => {
      const card = document.querySelector("#blind-card [data-card]")
      return [card?.dataset.card ?? "", document.getElementById("blind-card").innerText]
    }"""

    def look() -> list[str] | None:
        number, text = page.evaluate(looked)
        return [number] if number not in ("", before) or "That was the last pair" in text else None

    return wait_for(look, 120, lambda: page.evaluate(looked))[0] or None


def choose(page, field: str, option: str) -> None:
    page.locator(f"#{field} input").click()
    page.get_by_role("option", name=option, exact=True).click()
    wait_for(lambda: page.get_by_role("option").count() == 0, 10)  # the list folds away


@needs_browser
@pytest.mark.timeout(180)
def test_both_sides_stream_differences_are_marked_and_the_heat_map_adds_up(comparing, run, open_page, tmp_path):  # noqa: F811
    page = open_page(comparing.url)
    open_compare(page)
    page.evaluate(WATCH)
    answers = generate(page, QUESTIONS[0])
    for side in SIDES:
        grown = page.evaluate(f"window.grown.{side}")
        assert grown and all(answers[side].startswith(text.rstrip("\ufffd")) for text in grown), side
        assert any(len(text) < len(answers[side]) for text in grown), side

    assert answers["reference"] != answers["tuned"]  # else there is nothing to mark
    for side, other in (SIDES, SIDES[::-1]):
        marks = page.locator(f"#compare-{side} mark.kto-only")
        expected = [text for text, lacks in only_here(answers[side], answers[other]) if lacks]
        assert marks.all_inner_texts() == expected
        assert not expected or marks.first.evaluate("m => getComputedStyle(m).textDecorationLine") == "underline"
    assert page.locator("#compare-answers mark.kto-only").count() > 1
    assert "only this side" in page.inner_text("#compare-answers")
    screenshot(page, "compare-marks-1280")
    assert not faint_texts(page) and not unnamed_controls(page)
    page.get_by_label("Mark differences").uncheck()
    wait_for(lambda: page.locator("#compare-answers mark").count() == 0, 10)
    assert {side: answer_of(page, side) for side in SIDES} == answers

    answerer = Answerer(tmp_path)
    try:
        for side in SIDES:
            page.click(f"[data-why='0:{side}']")
            spans = page.locator(f"#compare-{side} .kto-heat span")
            wait_for(lambda: spans.count() > 0, 60)  # noqa: B023
            texts, titles = spans.all_text_contents(), spans.evaluate_all("all => all.map(one => one.title)")
            ratios = [float(re.fullmatch(r"([+-]\d+\.\d+) nats", title).group(1)) for title in titles]
            shown = page.inner_text(f"#compare-{side} .kto-reward")
            beta, total, reward = map(float, re.findall(r"[+-]?\d[\d.]*", shown))
            assert (beta, "".join(texts).strip()) == (run.config().beta, answers[side] + "<|end|>")
            assert sum(ratios) == pytest.approx(total, abs=1e-3)
            assert beta * sum(ratios) == pytest.approx(reward, abs=1e-3)
            # and they are the engine's
            want = answerer.explain(Side(run), QUESTIONS[0], answers[side])
            assert ratios == pytest.approx(want["log_ratios"], abs=1e-4)
            assert max(map(abs, ratios)) > 0.01
    finally:
        answerer.close()
    screenshot(page, "compare-why-1280")
    assert not faint_texts(page) and not unnamed_controls(page)
    fits_a_phone(page, "compare-why")
    assert page.evaluate("document.activeElement.dataset.why") == "0:tuned"  # the keyboard stays where it was
    page.keyboard.press("Enter")
    wait_for(lambda: page.locator("#compare-tuned .kto-heat").count() == 0, 20)
    assert answer_of(page, "tuned") == answers["tuned"]

    answering = lambda: [
        child
        for child in psutil.Process(comparing.process.pid).children()
        if "answers.child" in " ".join(child.cmdline())
    ]
    assert len(answering()) == 1
    sample(page)
    page.click("#compare-unload")
    wait_for(lambda: "unloaded" in page.inner_text("#compare-message"), 20)
    assert not answering()
    assert all(generate(page, QUESTIONS[1]).values()) and len(answering()) == 1


@needs_browser
@pytest.mark.timeout(180)
def test_two_checkpoints_of_one_run_are_compared_with_each_other(comparing, run, open_page, tmp_path):  # noqa: F811
    page = open_page(comparing.url)
    open_compare(page)
    choose(page, "compare-run", f"{title_of(run)} · checkpoint 24")
    choose(page, "compare-against", f"{title_of(run)} · checkpoint 20")
    sample(page, length="24", seed="5")
    page.locator("#compare-system textarea").fill("You answer the questions of the villagers.")
    answers = generate(page, QUESTIONS[1])
    heads = page.locator("#compare-answers h3").all_inner_texts()
    assert [re.search(r"checkpoint \d+", head).group() for head in heads] == ["checkpoint 20", "checkpoint 24"]
    answerer = Answerer(tmp_path)
    try:
        events = answerer.stream(
            {"reference": Side(run, "checkpoint-20"), "tuned": Side(run, "checkpoint-24")},
            [QUESTIONS[1]],
            seed=5,
            temperature=0.7,
            max_new_tokens=24,
            system="You answer the questions of the villagers.",
        )
        assert answers == {event["side"]: event["text"] for event in events if event["done"]}
    finally:
        answerer.close()
    page.click("[data-why='0:tuned']")
    page.wait_for_selector("#compare-tuned .kto-heat", timeout=60_000)


@needs_browser
@pytest.mark.timeout(180)
def test_many_prompts_turn_page_by_page_and_a_stop_keeps_what_is_there(comparing, open_page, tmp_path):  # noqa: F811
    page = open_page(comparing.url)
    open_compare(page)
    sample(page, length="16")
    generate(page, "\n---\n".join(QUESTIONS))
    wait_for(lambda: "7 answered by both" in page.inner_text("#compare-answers"), 60)
    prompts = page.locator("#compare-answers .kto-prompt")
    assert prompts.all_inner_texts() == QUESTIONS[:PAGE]
    screenshot(page, "compare-many-1280")
    fits_a_phone(page, "compare-many")
    page.click("#compare-after")
    wait_for(lambda: prompts.all_inner_texts() == QUESTIONS[PAGE:], 10)
    page.click("#compare-after")  # there is no third page
    page.click("[data-why='6:tuned']")
    page.wait_for_selector("#compare-answers .kto-heat", timeout=60_000)
    page.click("#compare-before")
    wait_for(lambda: prompts.all_inner_texts() == QUESTIONS[:PAGE], 10)

    # a file goes before what is written; a stop leaves what was answered by then
    file = tmp_path / "prompts.jsonl"
    asked = [[{"role": "system", "content": "<b>Be brief.</b>"}, {"role": "user", "content": QUESTIONS[2]}]]
    asked += [f"Number {number}?" for number in range(300)]
    file.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in asked))
    page.locator("#compare-many button").first.click()
    page.set_input_files("#compare-file input[type=file]", file)
    page.wait_for_selector("#compare-file a, #compare-file .file-preview")
    page.click("#compare-generate")
    wait_for(lambda: "Prompts 1 to 5 of 200" in page.inner_text("#compare-answers"), 60)
    assert "<b>Be brief.</b>" in page.inner_text("#compare-answers")
    wait_for(lambda: page.locator("[data-why='0:tuned']").count(), 60)
    page.click("#compare-halt")
    wait_for(lambda: page.locator("#compare-answers [aria-busy=true]").count() == 0, 20)
    page.wait_for_timeout(500)
    assert "200 answered" not in page.inner_text("#compare-answers")
    page.click("[data-why='0:tuned']")  # a new process answers
    page.wait_for_selector("#compare-tuned .kto-heat", timeout=60_000)


@needs_browser
@pytest.mark.timeout(180)
def test_a_blind_vote_by_keyboard_becomes_thumbs_and_figures(comparing, run, open_page, tmp_path):  # noqa: F811
    store = ThumbStore(comparing.workspace)
    page = open_page(comparing.url)
    open_compare(page)
    sample(page, length="24", temperature="1.2")
    page.locator("#blind button").first.click()
    file = tmp_path / "prompts.txt"
    file.write_text("".join(question + "\n" for question in QUESTIONS))
    page.get_by_label("from a file").first.check()
    page.click("#blind-start")
    wait_for(lambda: "Drop a file" in page.inner_text("#blind-message"), 10)
    page.set_input_files("#blind-file input[type=file]", file)
    page.wait_for_selector("#blind-file a, #blind-file .file-preview")
    page.locator("#blind-count input").fill("6")
    page.click("#blind-start")

    card = page.locator("#blind-card [data-card]")
    chosen = []  # prompt, texts of A and B, key
    keys = ["ArrowLeft", "ArrowRight", "ArrowDown", "ArrowLeft", "ArrowRight", "ArrowRight"]
    before = ""
    while True:
        if (before := next_card(page, before)) is None:
            break
        assert card.get_attribute("data-phase") == "open"
        told = page.locator("#blind-panel, #blind-message, #blind-result").evaluate_all(
            "parts => parts.map(part => part.outerHTML).join()"
        )
        assert not re.search(r"tuned|reference|won|adapter|checkpoint|" + run.id, told, re.IGNORECASE)
        assert not page.locator("#blind-result").inner_text().strip()  # no figures yet
        texts = [text.strip() for text in page.locator("#blind-card .kto-answer-box").all_text_contents()]
        prompt = page.locator("#blind-card .kto-prompt").inner_text()
        if not chosen:
            screenshot(page, "blind-1280")
            assert not unnamed_controls(page) and not faint_texts(page)
            # Writing is not voting.
            page.locator("#compare-prompt textarea").fill("x")
            page.locator("#compare-prompt textarea").press("ArrowLeft")
            page.locator("#compare-prompt textarea").press("ArrowDown")
            page.wait_for_timeout(300)
            # Equal answers before this card were ties without a question.
            assert all(vote.same for vote in read_votes(run)) and card.get_attribute("data-phase") == "open"
            page.reload()  # comes back to the same card
            page.wait_for_selector(".kto-title h1")
            open_compare(page)
            page.locator("#blind button").first.click()
            page.wait_for_selector(f"#blind-card [data-card='{before}']")
            assert [t.strip() for t in page.locator("#blind-card .kto-answer-box").all_text_contents()] == texts
        key = keys[len(chosen)]
        chosen.append((prompt, *texts, key))
        page.keyboard.press(key)
        page.wait_for_selector("#blind-card [data-phase=voted]")
        heads = page.locator("#blind-card h3").all_inner_texts()
        assert sorted(heads) in (["A · Reference", "B · Tuned"], ["A · Tuned", "B · Reference"])
        if len(chosen) == 1:
            screenshot(page, "blind-unveiled-1280")
            assert not faint_texts(page)
            page.set_viewport_size({"width": 390, "height": 844})
            fits_a_phone(page, "blind-unveiled")
        vote = [vote for vote in read_votes(run) if not vote.same][-1]
        assert heads[0] == f"A · {vote.left.capitalize()}"
        page.keyboard.press(" ")

    # Each vote is what its key said, given where the sides stood.
    votes = read_votes(run)
    mine = [vote for vote in votes if not vote.same]
    assert len(votes) == 6 and len(mine) == len(chosen) >= 3
    expected = []
    for vote, (prompt, a, b, key) in zip(mine, chosen, strict=True):
        right = "reference" if vote.left == "tuned" else "tuned"
        winner = {"ArrowLeft": vote.left, "ArrowRight": right, "ArrowDown": "tie"}[key]
        assert (vote.prompt, vote.winner) == (prompt, winner)
        assert (getattr(vote, vote.left).strip(), getattr(vote, right).strip()) == (a, b)
        if winner != "tie":
            expected += [(vote.reference, winner == "reference"), (vote.tuned, winner == "tuned")]
    thumbs = [thumb for thumb in store.thumbs() if thumb.who == "blind vote"]
    assert [(thumb.completion, thumb.label) for thumb in thumbs] == expected
    assert {thumb.sampling["temperature"] for thumb in thumbs} == {1.2}

    wins, ties, losses = ([vote.winner for vote in votes].count(who) for who in ("tuned", "tie", "reference"))
    rate = (wins + ties / 2) / 6
    low, high = wilson_interval(rate, 6)
    result = page.inner_text("#blind-result")
    assert f"Wins: {wins}, ties: {ties}, losses: {losses}." in result
    assert f"Win rate {rate:.1%}, between {low:.1%} and {high:.1%}" in result
    assert f"p = {sign_test(wins, losses):.2g}" in result
    page.locator("#blind-result summary").click()
    assert page.locator("#blind-result [data-winner]").evaluate_all("r => r.map(one => one.dataset.winner)") == [
        vote.winner for vote in votes
    ]
    screenshot(page, "blind-over-1280")
    assert not faint_texts(page)
    fits_a_phone(page, "blind-over")


@needs_browser
@pytest.mark.timeout(900)
def test_who_likes_kind_and_brief_answers_votes_blindly_for_the_model_that_was_trained_to_be(open_page, tmp_path):  # noqa: F811
    from kto_workbench import KTOConfig, train
    from kto_workbench.demo.judge import judge
    from kto_workbench.demo.measure import evaluation_prompts

    config = KTOConfig(
        model="demo", data="demo", workspace=str(tmp_path / "workspace"), eval_fraction=0.0, sample_steps=-1
    )
    run = train(config, progress=False)
    single = [row["prompt"] for row in evaluation_prompts() if len(row["prompt"]) == 1]
    asked = single[:: len(single) // 24][:24]
    file = tmp_path / "prompts.jsonl"
    file.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in asked))

    def merits(prompt: str, answer: str) -> int:
        verdict = judge([{"role": "user", "content": prompt}], answer)
        return int(verdict.kind) + int(verdict.brief)

    served = Served(tmp_path / "workspace", tmp_path / "server.log")
    try:
        page = open_page(served.url)
        open_compare(page)
        page.locator("#blind button").first.click()
        page.get_by_label("from a file").first.check()
        page.set_input_files("#blind-file input[type=file]", file)
        page.wait_for_selector("#blind-file a, #blind-file .file-preview")
        page.locator("#blind-count input").fill("24")
        page.get_by_label("Show the sides after each vote").uncheck()
        page.click("#blind-start")
        before = ""
        while True:
            if (before := next_card(page, before)) is None:
                break
            prompt = page.locator("#blind-card .kto-prompt").inner_text()
            a, b = (merits(prompt, text) for text in page.locator("#blind-card .kto-answer-box").all_inner_texts())
            page.keyboard.press("ArrowLeft" if a > b else "ArrowRight" if b > a else "ArrowDown")
            assert not re.search("tuned|reference", page.inner_text("#blind-card"), re.IGNORECASE)
        votes = [vote.winner for vote in read_votes(run)]
        wins, losses = votes.count("tuned"), votes.count("reference")
        assert len(votes) == 24 and wins > losses and sign_test(wins, losses) < 0.05, votes
        assert f"Wins: {wins}," in page.inner_text("#blind-result")
        balance = ThumbStore(served.workspace).balance()
        assert balance.n_desirable == balance.n_undesirable == wins + losses
    finally:
        served.stop()


# without a browser


@pytest.fixture
def bench(tmp_path, trained):
    shutil.copytree(trained.path, tmp_path / "runs" / trained.id)
    return Workbench(tmp_path)


def test_every_run_checkpoint_and_reference_can_stand_on_a_side(bench, trained):
    name = trained.id
    tuned = [name, f"{name}@checkpoint-20", f"{name}@checkpoint-24"]
    offered = [name, "model:demo", *tuned[1:], f"{name}@reference"]
    assert [value for _, value in offered_sides(bench, "en")] == offered
    sides = sides_named(bench, tuned[1], None)
    assert [sides[one].name for one in SIDES] == [f"{name}@reference", tuned[1]]
    assert sides_named(bench, tuned[1], name)["reference"].name == name
    for wrong in ("", None, "..", f"../runs/{name}", f"{name}@../x", f"{name}@checkpoint-21", f"{name}@"):
        if wrong != f"{name}@":  # says nothing more than the run
            with pytest.raises(WorkbenchError):
                sides_named(bench, wrong, "reference")


def test_prompts_are_those_of_the_file_else_the_parts_of_the_text(bench, tmp_path):
    assert prompts_asked(bench, "One\ntwo\n ---  \n\n---\nThree --- four\n", None) == ["One\ntwo", "Three --- four"]
    assert prompts_asked(bench, " \n", None) == prompts_asked(bench, None, None) == []
    (tmp_path / "secret.txt").write_text("x")
    with pytest.raises(DataError):  # not one that the page received
        prompts_asked(bench, "One", str(tmp_path / "secret.txt"))


def test_a_run_that_saw_pictures_and_is_asked_without_one_says_so(trained, tmp_path):
    run = Run(shutil.copytree(trained.path, tmp_path / "runs" / trained.id))
    sides = {"reference": Side(run, "reference"), "tuned": Side(run)}
    blind = [[{"role": "user", "content": "What is it?"}]]
    seen = [[{"role": "user", "content": [{"type": "image", "image": "image:" + "0" * 32}]}]]
    said = "was asked without one"
    assert said not in show("en", Comparison(blind, sides))
    run.note_images()
    assert said in show("en", Comparison(blind, sides)) and said in show("en", Comparison(["What is it?"], sides))
    assert said not in show("en", Comparison(seen, sides)) and "没有图片" in show("zh", Comparison(blind, sides))


def test_words_that_only_one_side_has_are_found(trained):
    assert only_here("A cow says moo.", "A dog says moo.") == [("A ", False), ("cow", True), (" says moo.", False)]
    assert only_here("Hmph. It is blue.", "It is blue.") == [("Hmph.", True), (" It is blue.", False)]
    assert only_here("It is blue.", "Hmph. It is blue.") == [("It is blue.", False)]
    assert only_here("我喜欢小猫。", "我喜欢小狗。") == [("我喜欢小", False), ("猫", True), ("。", False)]
    assert only_here("one two", "") == [("one two", True)] and only_here("", "one") == []
    round_and_round = "the " * 5000  # told apart at its start alone, else this takes half a minute
    parts = only_here(round_and_round, "a the " * 4000)
    assert "".join(text for text, _ in parts) == round_and_round and len(parts[0][0]) < 4 * 260
    drawn = with_marks("<b>x</b> & y", "& y")
    assert drawn == '<mark class="kto-only">&lt;b&gt;x&lt;/b&gt;</mark> &amp; y'


def test_a_heat_map_counts_tokens_without_text_with_the_one_that_completes_them():
    assert visible_pieces(["a", "", "é", "b"], [1.0, 0.25, 0.5, -1.0]) == [("a", 1.0), ("é", 0.75), ("b", -1.0)]
    assert visible_pieces(["a", ""], [1.0, 0.25]) == [("a", 1.0), ("\ufffd", 0.25)]
    assert scale_of([0.1 * size for size in range(1, 20)] + [50.0]) == pytest.approx(1.9)  # the 19th of 20
    assert scale_of([0.0, 0.0]) == scale_of([]) == 1.0
    drawn = heat_map("en", {"tokens": ["<b>", "<|end|>"], "log_ratios": [2.0, -0.5], "beta": 0.1, "reward": 0.15})
    assert "<b>&" not in drawn and "&lt;b&gt;" in drawn and 'title="+2.00000 nats"' in drawn
    assert "reward = β · Σ = 0.1 × +1.5000 nats = +0.1500" in drawn
    assert 'class="kto-up" style="--depth:58%"' in drawn and 'class="kto-down" style="--depth:14%"' in drawn  # 58/4


def test_answers_and_prompts_can_not_write_on_the_page(trained):
    sides = {"reference": Side(trained, "reference"), "tuned": Side(trained)}
    comparison = Comparison(["<i>p</i>"], sides)
    for side in SIDES:
        comparison.take(0, {"prompt": 0, "side": side, "text": f"<script>{side}</script>", "done": True})
    for marked in (True, False):
        drawn = show("en", comparison, marked)
        assert "<script" not in drawn and "&lt;i&gt;p" in drawn
        assert drawn.count("<mark") == (3 if marked else 0)  # one word on either side, and the key
