"""Files that are not recognised, and exports as they come: dropped into the page, corrected there, and trained on."""

import pytest
from accessible import faint_texts, unnamed_controls
from browser import (
    browser,  # noqa: F401
    needs_browser,
    open_page,  # noqa: F401
    screenshot,
    wait_for,
    workbench,  # noqa: F401
)
from test_feedback_shapes import LANGFUSE, chat, write

from kto_workbench import load_feedback
from kto_workbench.config import KTOConfig
from kto_workbench.runs import create_run, list_runs

pytestmark = needs_browser


def drop(page, *files) -> None:
    page.set_input_files("#data-upload input[type=file]", files)


def train(page, workspace):
    """Train on what is chosen, in the page; returns the run."""
    before = {run.id for run in list_runs(workspace)}
    page.click("#data-train")
    page.locator("#train-num-train-epochs input").fill("1")
    page.click("#train-start")
    runs = lambda: [run for run in list_runs(workspace) if run.id not in before]
    wait_for(lambda: any(run.status().state == "finished" for run in runs()), 150, lambda: page.inner_text("body"))
    (run,) = runs()
    return run


def fill(page, name: str, text: str) -> None:
    field = page.locator(f"#data-mapping-{name} :is(input, textarea)")
    field.fill(text)
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")


@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    ("width", "locale"), [pytest.param(1280, "en-US", marks=pytest.mark.slow, id="desk"), (390, "zh-CN")]
)
def test_columns_that_are_not_known_are_said_in_the_page_and_kept(workbench, open_page, tmp_path, width, locale):  # noqa: F811
    # The guess has the texts the wrong way round, and "gut" and "schlecht" are words that it does not know.
    rows = [
        {"Frage": f"Was ist {i}? " + "Bitte ganz genau. " * 9, "Antwort": f"Es ist {i}.", "Urteil": said}
        for i, said in enumerate(["gut", "schlecht"] * 4)
    ]
    page = open_page(workbench.url, width=width, locale=locale)
    drop(page, write(tmp_path, rows, "csv").rename(tmp_path / f"survey-{width}.csv"))
    message = page.locator("#data-message [role=alert]")
    wait_for(lambda: message.count(), 20)
    preview = page.locator("#data-mapping-preview")
    wait_for(lambda: "Urteil" in preview.inner_text(), 20)
    assert page.locator("#data-train").is_disabled() and not page.locator("#data-cards dd").count()
    assert page.locator("#data-mapping-columns tbody tr").count() == 3
    assert page.locator("#data-mapping-completion input").input_value() == "Frage"
    assert not unnamed_controls(page)
    fill(page, "prompt", "Frage")
    fill(page, "completion", "Antwort")
    fill(page, "up", "gut")
    fill(page, "down", "schlecht")
    # With the thumbs up alone there are three rows, too.
    first = ["Es ist 0.", "Es ist 1.", "Es ist 2."]
    wait_for(lambda: preview.locator(".kto-answer").all_inner_texts() == first, 20, preview.inner_text)
    thumbs = [one.get_attribute("class") for one in preview.locator(".kto-row").all()]
    assert ["kto-up" in thumb for thumb in thumbs] == [True, False, True]
    assert not faint_texts(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    screenshot(page, f"mapping-{width}")
    page.click("#data-mapping-keep")
    wait_for(lambda: page.locator("#data-cards dd").count() and not message.count(), 20)
    wait_for(lambda: page.locator("#data-train").is_enabled(), 20)
    assert page.locator("#data-rows .kto-row").count() == 8
    page.reload()  # it is kept with the file
    wait_for(lambda: page.locator("#data-rows .kto-row").count() == 8, 20)
    if width < 1000:
        page.click("#data-train")
        page.locator("#train-exact button").first.click()
        wait_for(lambda: "--mapping prompt=Frage completion=Antwort" in page.inner_text("#train-command"), 20)
        return
    # A training takes it along, and needs neither another file nor this one's fields.
    run = train(page, workbench.workspace)
    assert run.config().mapping == ("prompt=Frage", "completion=Antwort", "label=Urteil", "up=gut", "down=schlecht")
    assert run.data()["n_desirable"] == 4


@pytest.mark.timeout(240)
def test_an_open_webui_export_is_dropped_and_trained_on(workbench, open_page, tmp_path):  # noqa: F811
    # A thumb amid a conversation, one at its end, an arena whose loser stands beside the winner, and one without text.
    rows = [chat("a1", -1), chat("a2", 1), chat("b1", 1, arena=True), chat("gone", 1)]
    for i, row in enumerate(rows):
        row["id"] = str(i)
    page = open_page(workbench.url)
    drop(page, write(tmp_path, rows, "json"))
    # up: See you, Howdy; down: Hello, and once more as the loser of the arena
    wait_for(lambda: page.locator("#data-cards dd").all_inner_texts()[:3] == ["4", "2", "2"], 20)
    answers = page.locator("#data-rows .kto-answer").all_inner_texts()
    assert answers == ["Hello", "See you", "Howdy", "Hello"]
    assert "holds no message with the id" in page.inner_text("#data-problems")
    run = train(page, workbench.workspace)
    assert (run.data()["n_desirable"], run.data()["n_undesirable"], run.data()["problems"]) == (2, 2, 1)


@pytest.mark.timeout(120)
def test_ratings_and_conversations_are_dropped_together(workbench, open_page, tmp_path):  # noqa: F811
    (tmp_path / "a").mkdir()
    ratings = write(tmp_path / "a", LANGFUSE[0], "jsonl").rename(tmp_path / "scores.jsonl")
    talks = write(tmp_path, LANGFUSE[1], "jsonl").rename(tmp_path / "traces.jsonl")
    page = open_page(workbench.url)
    drop(page, ratings)
    message = page.locator("#data-message [role=alert]")
    wait_for(lambda: message.count() and "scores.jsonl+CONVERSATIONS" in message.inner_text(), 20)
    drop(page, ratings, talks)
    wait_for(lambda: page.locator("#data-cards dd").all_inner_texts()[:3] == ["2", "1", "1"], 20)
    assert page.locator("#data-source input").input_value() == "scores.jsonl + traces.jsonl"
    page.reload()
    wait_for(lambda: page.locator("#data-cards dd").all_inner_texts()[:3] == ["2", "1", "1"], 20)


def test_a_run_finds_both_files_from_any_folder(tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()
    write(tmp_path / "a", LANGFUSE[0], "jsonl")
    write(tmp_path, LANGFUSE[1], "jsonl")
    monkeypatch.chdir(tmp_path)
    run = create_run(KTOConfig(data="a/rows.jsonl+rows.jsonl", workspace="w"))
    assert run.config().data == f"{tmp_path}/a/rows.jsonl+{tmp_path}/rows.jsonl" and run.data()["rows"] == 2


def test_a_run_needs_no_second_file(tmp_path):
    rows = [{"q": f"p{i}", "a": "A", "ok": "fine" if i % 2 else "no"} for i in range(6)]
    path = write(tmp_path, rows, "jsonl")
    mapping = {"prompt": "q", "completion": "a", "label": "ok", "up": ["fine", "good"], "down": "no"}
    config = KTOConfig(data=str(path), workspace=str(tmp_path / "w"), mapping=mapping)
    run = create_run(config)
    assert run.config().mapping == ("prompt=q", "completion=a", "label=ok", "up=fine,good", "down=no")
    again = load_feedback(run.config().data, mapping=run.config().mapping)
    assert again.n_desirable == run.data()["n_desirable"] == 3
    assert again.mapping == {**mapping, "down": ["no"]}
