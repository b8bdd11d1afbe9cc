"""The page in a real browser, with the real engine: upload, check, train, watch, stop, reload, compare; and the live
view driven by tests/fake_training.py where only the view is meant.
"""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from browser import (
    Served,
    browser,  # noqa: F401
    go_to,
    needs_browser,
    open_page,  # noqa: F401
    screenshot,
    wait_for,
    workbench,  # noqa: F401
)
from fake_training import record_at
from playwright.sync_api import Error as PlaywrightError

from kto_workbench.config import KTOConfig
from kto_workbench.feedback.rendering import model_path
from kto_workbench.runs import Run, list_runs
from kto_workbench.runs.directory import new_run
from kto_workbench.runs.shelf import describe_run, title_of
from kto_workbench.views.curves import HELD_OUT

# The curves of rewards that have values.
DRAWN_REWARDS = "#train-rewards-plot path[aria-roledescription='line mark'][d]:not([d=''])"

pytestmark = needs_browser
FAKE = Path(__file__).with_name("fake_training.py")
FEEDBACK = {"rows": 400, "n_desirable": 100, "n_undesirable": 300}


@pytest.fixture
def own(tmp_path):
    """A workbench for one test alone."""
    served = Served(tmp_path / "workspace", tmp_path / "server.log")
    yield served
    served.stop()


def make_run(workspace: Path, **options) -> Run:
    config = KTOConfig(workspace=str(workspace), desirable_weight=3.0, undesirable_weight=1.0, **options)
    return new_run(config, {"data": "demo", **FEEDBACK})


@pytest.fixture
def fake():
    """Start tests/fake_training.py on a run; none outlives its test."""
    started = []

    def start(run: Run, *options: str) -> subprocess.Popen:
        started.append(subprocess.Popen([sys.executable, str(FAKE), str(run.path), *options]))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


def progress(page) -> str:
    try:
        return " ".join(page.locator("#train-progress").all_inner_texts())
    except PlaywrightError:
        return ""  # the page is reloading itself


def wait_for_progress(page, text: str, seconds: float = 60) -> None:
    wait_for(lambda: text in progress(page), seconds, lambda: progress(page))


def fits_a_phone(page, name: str) -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    page.wait_for_timeout(500)
    screenshot(page, f"{name}-390")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.set_viewport_size({"width": 1280, "height": 900})


@pytest.mark.parametrize("width", [1280, 390])
def test_the_demo_is_loaded_when_the_page_opens(workbench, open_page, width):  # noqa: F811
    page = open_page(workbench.url, width=width)
    cards = page.inner_text("#data-cards")
    assert "400" in cards and "100" in cards and "300" in cards and "1 : 3" in cards
    bars = page.locator("#data-balance [role=img]")
    assert bars.nth(0).get_attribute("aria-label") == "Counted: thumbs up 100, thumbs down 300"
    assert bars.nth(1).get_attribute("aria-label") == "With λ: thumbs up 3 × 100, thumbs down 1 × 300"
    assert "Every row can be read" in page.inner_text("#data-problems")
    wait_for(lambda: "median; 95 % have at most" in page.inner_text("#data-lengths"), 60)
    assert page.locator("#data-lengths dd").all_inner_texts()[0] == "374"  # different prompts among 400 rows
    screenshot(page, f"data-{width}")
    for tab in ("Train", "Compare", "Feedback", "Runs", "Learn"):
        go_to(page, tab)
        page.wait_for_timeout(300)
        assert page.evaluate("document.documentElement.scrollWidth") <= width, tab
        screenshot(page, f"{tab.lower()}-empty-{width}")


def test_pages_of_rows_turn_and_the_weights_follow_the_slider(workbench, open_page):  # noqa: F811
    page = open_page(workbench.url)
    where = page.locator("#data-where")
    wait_for(lambda: "1–8 of 400" in where.inner_text(), 5)
    page.click("#data-after")
    wait_for(lambda: "9–16 of 400" in where.inner_text(), 5)
    page.locator("#data-side").get_by_label("Up", exact=True).check()
    wait_for(lambda: "1–8 of 100" in where.inner_text(), 5)
    assert page.locator("#data-rows .kto-row.kto-down").count() == 0
    page.locator("#data-ratio input[type=number]").fill("1.5")
    page.keyboard.press("Enter")
    # (λ_D · 100) / (λ_U · 300) = 1.5 with λ_U = 1 asks for λ_D = 4.5
    wait_for(lambda: "4.5 × 100" in page.inner_text("#data-balance"), 5)
    go_to(page, "Train")
    wait_for(lambda: page.locator("#train-desirable-weight input").input_value() == "4.5", 5)


def test_wrong_values_are_one_sentence_beside_the_button(workbench, open_page):  # noqa: F811
    page = open_page(workbench.url)
    go_to(page, "Train")
    page.locator("#train-batch-size input").fill("1")
    page.locator("#train-batch-size input").press("Tab")
    alert = page.locator("#train-message [role=alert]")
    wait_for(lambda: alert.count() and "`batch_size` should be at least 2" in alert.inner_text(), 10)
    page.click("#train-start")
    page.wait_for_timeout(1000)
    assert "`batch_size`" in alert.inner_text()
    assert not list_runs(workbench.workspace)
    page.locator("#train-batch-size input").fill("8")
    page.locator("#train-batch-size input").press("Tab")
    wait_for(lambda: not alert.count(), 5)
    page.locator("#train-exact button").first.click()
    wait_for(lambda: "--batch-size 8" in page.inner_text("#train-command .cm-content"), 5)


def test_a_file_that_is_no_feedback_is_one_sentence(workbench, open_page, tmp_path):  # noqa: F811
    page = open_page(workbench.url)
    wrong = tmp_path / "holiday.json"
    wrong.write_text('{"photos": [1, 2')
    page.set_input_files("#data-upload input[type=file]", wrong)
    alert = page.locator("#data-message [role=alert]")
    wait_for(lambda: alert.count(), 10)
    assert "holiday.json" in alert.inner_text()
    # Nothing of the demo stands beside it that could be taken for the file, and nothing can be trained on.
    wait_for(lambda: not page.locator("#data-cards dd").count(), 10)
    assert "can be read" not in page.inner_text("#data-problems") and not page.locator("#data-rows .kto-row").count()
    assert page.locator("#data-train").is_disabled()
    assert str(workbench.workspace) not in alert.inner_text()
    box, text = (page.locator(one).bounding_box() for one in ("#data-message", "#data-message .kto-message"))
    assert text["width"] <= box["width"] and page.evaluate("document.documentElement.scrollWidth") <= 1280
    page.evaluate(
        "() => {const p = document.querySelector('#data-message .kto-message'); p.textContent = '/a'.repeat(99)}"
    )
    assert alert.evaluate("one => one.scrollWidth <= one.clientWidth")
    page.locator("#data-source input").click()
    page.get_by_role("option", name="Demo: kind and brief").click()
    wait_for(lambda: "400" in page.inner_text("#data-cards"), 10)
    assert page.locator("#data-train").is_enabled()


def test_findings_are_shown_and_fixed_in_a_new_file(workbench, open_page, tmp_path):  # noqa: F811
    rows = [{"prompt": "Hello?", "completion": f"Good day, {n}!", "label": n % 2 == 0} for n in range(6)]
    rows += [rows[0], {"prompt": "Hello?", "completion": "", "label": False}]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    page = open_page(workbench.url)
    page.set_input_files("#data-upload input[type=file]", file)
    wait_for(lambda: "1 row repeats an earlier row" in page.inner_text("#data-findings"), 20)
    page.locator("#data-fixes").get_by_label("repeats").check()
    page.locator("#data-fixes").get_by_label("empty answer").check()
    page.click("#data-fix")
    wait_for(lambda: "fixed" in page.locator("#data-source input").input_value(), 20)
    wait_for(lambda: page.locator("#data-cards dd").first.inner_text() == "6", 20)
    assert file.read_text().count("\n") == 8  # the old file is left alone
    page.get_by_label("As the model sees them").check()
    wait_for(lambda: page.locator("#data-rows mark").count() == 6, 60)
    assert page.locator("#data-rows mark").first.inner_text() == "Good day, 0!<|end|>"
    screenshot(page, "data-fixed-1280")
    assert "Every row can be read" in page.inner_text("#data-problems") and not page.inner_text("#data-refused")
    # What another model's template refuses is said beside it.
    shutil.copytree(model_path("demo"), tmp_path / "picky")
    (tmp_path / "picky" / "chat_template.jinja").write_text("{{ raise_exception('nothing today') }}")
    page.get_by_role("tab", name="Train", exact=True).click()
    page.fill("#train-model input", str(tmp_path / "picky"))
    page.keyboard.press("Enter")
    page.get_by_role("tab", name="Data", exact=True).click()
    wait_for(lambda: "6 of 6 rows looked at can't be used" in page.inner_text("#data-refused"), 60)


def test_chinese_browsers_get_chinese(workbench, open_page):  # noqa: F811
    page = open_page(workbench.url, locale="zh-CN", scheme="dark")
    assert page.get_by_role("tab", name="训练", exact=True).is_visible()
    assert "点赞" in page.inner_text("#data-cards") and "所有行都可读取" in page.inner_text("#data-problems")
    screenshot(page, "data-1280-zh-dark")


@pytest.mark.timeout(240)
def test_the_demo_trains_with_one_click_survives_a_reload_and_stops_with_a_usable_adapter(own, open_page):  # noqa: F811
    page = open_page(own.url)
    go_to(page, "Train")
    page.click("#train-start")
    wait_for_progress(page, "training", 120)
    wait_for(lambda: list_runs(own.workspace)[0].status().step >= 6, 60)
    page.reload()  # comes back to the same tab, and to the run at work
    wait_for_progress(page, "left", 20)
    wait_for(
        lambda: page.locator(DRAWN_REWARDS).count() >= 3,
        20,
    )
    screenshot(page, "train-live-1280")
    page.click("#train-stop")
    wait_for_progress(page, "stopped", 60)
    (run,) = list_runs(own.workspace)
    assert (run.adapter / "adapter_model.safetensors").is_file()
    assert page.locator("#train-resume").is_visible()

    go_to(page, "Compare")
    page.locator("#compare-prompt textarea").fill("What does the cow say?")
    page.click("#compare-generate")
    done = "#compare-{} [aria-busy=false]"
    wait_for(lambda: all(page.locator(done.format(side)).count() for side in ("reference", "tuned")), 60)
    wait_for(lambda: page.inner_text("#compare-reference").strip() and page.inner_text("#compare-tuned").strip(), 60)
    screenshot(page, "compare-1280")
    fits_a_phone(page, "compare")
    go_to(page, "Feedback")
    for question in ("What does the dog say?", "What colour is the sky?"):
        said = page.locator("#feedback-chat [data-testid=bot]").count()
        page.locator("#feedback-prompt textarea").fill(question)
        page.click("#feedback-send")
        bots = page.locator("#feedback-chat [data-testid=bot]")
        wait_for(lambda: bots.count() > said, 30)  # noqa: B023
        before = ""
        while (text := bots.last.inner_text()) != before or text.strip() in ("", "…"):  # it is still being written
            before = text
            page.wait_for_timeout(1500)
    thumbs = page.locator("#feedback-chat")
    collected = lambda: page.locator("#feedback-collected dd").all_inner_texts()
    thumbs.get_by_label("Like", exact=True).first.click()
    wait_for(lambda: collected() == ["1", "0"], 10, lambda: (collected(), page.inner_text("#feedback-message")))
    thumbs.get_by_label("Dislike", exact=True).last.click()
    wait_for(lambda: collected() == ["1", "1"], 10, lambda: (collected(), page.inner_text("#feedback-message")))
    screenshot(page, "feedback-1280")
    fits_a_phone(page, "feedback")
    page.click("#feedback-train")
    wait_for(lambda: page.locator("#train-start").is_visible(), 10)
    go_to(page, "Data")
    wait_for(lambda: "dog" in page.inner_text("#data-rows"), 10)

    go_to(page, "Runs")
    wait_for(lambda: run.id in page.inner_text("#runs-table"), 10)
    wait_for(lambda: "stopped" in page.inner_text("#runs-table"), 10, lambda: page.inner_text("#runs-table"))
    screenshot(page, "runs-1280")
    wait_for(lambda: page.locator("#runs-export-adapter").is_enabled(), 10)
    page.click("#runs-export-adapter")
    folder = run.path.resolve() / "export" / "adapter"
    wait_for(lambda: str(folder) in page.inner_text("#runs-exported"), 60)
    assert (folder / "adapter_model.safetensors").is_file()
    fits_a_phone(page, "runs")


@pytest.mark.timeout(240)
def test_start_waits_for_the_weights_of_the_data(own, open_page):  # noqa: F811
    page, held = open_page(own.url + "/#train"), []

    def hold(route) -> None:
        """Keep back what asks for the weights of a source at a ratio, as a slow server would."""
        asked = json.loads(route.request.post_data or "{}").get("data")
        held.append(route) if asked == ["demo", 1] else route.continue_()

    page.route("**/run/predict", hold)
    page.reload()
    page.wait_for_selector("#data-cards dd", state="attached")
    assert held and page.locator("#train-start").is_disabled()
    for route in held:
        route.continue_()
    wait_for(lambda: page.locator("#train-start").is_enabled(), 20)
    assert page.locator("#train-desirable-weight input").input_value() == "3"  # 1 thumb up to 3 down


def test_an_uploaded_file_goes_all_the_way(own, open_page, tmp_path):  # noqa: F811
    rows = [
        {
            "prompt": f"What is {n} plus {n}?",
            "completion": f"{'Happy to help! ' if n % 3 == 0 else 'Hmph. '}{n} plus {n} is {2 * n}.",
            "label": n % 3 == 0,
        }
        for n in range(48)
    ]
    lines = [json.dumps(row) for row in rows]
    lines[4] = json.dumps({"prompt": "<img src=x onerror=alert(1)>", "completion": "c", "label": "<b>maybe</b>"})
    lines[6] = '{"prompt": "torn'
    rows_file = tmp_path / "my thumbs.jsonl"
    rows_file.write_text("\n".join(lines) + "\n")

    page = open_page(own.url, width=390, height=844)
    page.set_input_files("#data-upload input[type=file]", rows_file)
    wait_for(lambda: "46" in page.inner_text("#data-cards"), 20)
    problems = page.locator("#data-problems tbody tr")
    assert [problems.nth(n).locator("td").first.inner_text() for n in range(problems.count())] == ["5", "7"]
    assert page.locator("#data-problems b").count() == 0  # shown as text, not run as HTML
    screenshot(page, "data-uploaded-390")
    page.click("#data-train")
    page.locator("#train-num-train-epochs input").fill("2")
    page.click("#train-start")
    wait_for_progress(page, "finished", 150)
    (run,) = list_runs(own.workspace)
    assert run.data()["rows"] == 46 and run.config().num_train_epochs == 2
    # 15 thumbs up (of n = 0, 3, … 45 row 6 is torn) and 31 down: 31/15 on each thumb up would balance them.
    assert run.config().desirable_weight == pytest.approx(31 / 15, abs=1e-3) and run.config().undesirable_weight == 1
    assert Path(run.config().data).parent.name == "uploads"
    wait_for(lambda: "thumbs up" in page.inner_text("#train-rewards-key"), 10)
    screenshot(page, "train-uploaded-390")


def test_curves_grow_and_keep_their_colours(own, open_page, fake):  # noqa: F811
    page = open_page(own.url)
    go_to(page, "Train")
    wait_for_progress(page, "No run yet")
    run = make_run(own.workspace)
    process = fake(run, "--steps", "60", "--pause", "0.1")
    wait_for_progress(page, "training", 20)  # started elsewhere, taken up here
    lines = page.locator(DRAWN_REWARDS)
    wait_for(lambda: lines.count() == 5, 20, lines.count)
    early = lines.nth(0).get_attribute("d")
    wait_for(lambda: lines.nth(0).get_attribute("d") != early, 10)
    strokes = {lines.nth(n).get_attribute("stroke") for n in range(5)}
    assert len(strokes) == 5 and None not in strokes
    page.locator("#train-chart input").click()
    page.get_by_role("option", name="Gradient norm").click()
    wait_for(lambda: "gradient norm" in page.inner_text("#train-other-key"), 10)
    drawn = "#train-other-plot path[aria-roledescription='line mark']"
    wait_for(lambda: any((one.get_attribute("d") or "").count("L") > 5 for one in page.locator(drawn).all()), 10)
    wait_for_progress(page, "finished", 30)
    assert process.wait(10) == 0
    wait_for(lambda: "margin, held out" in page.inner_text("#train-rewards-key"), 10)
    held_out = page.locator(f"#train-rewards-plot path[stroke='{HELD_OUT}']").first
    assert (held_out.get_attribute("d") or "").count("L") == 5  # six evaluations
    assert held_out.evaluate("one => getComputedStyle(one).strokeDasharray") == "5px, 3px"
    samples = page.inner_text("#train-samples")
    assert "Moo, of course! Happy to help." in samples and "<b>pears</b>" in samples
    page.locator("#train-part input").click()
    page.get_by_role("option", name="held-out rows").click()
    bar = page.locator("#train-progress [role=progressbar]")
    assert bar.get_attribute("aria-valuenow") == "60" and bar.get_attribute("aria-valuemax") == "60"


def test_curves_go_and_come_back_with_the_run_that_is_chosen(own, open_page, fake):  # noqa: F811
    full = make_run(own.workspace)
    assert fake(full, "--steps", "40", "--pause", "0").wait(20) == 0
    empty = make_run(own.workspace)
    page = open_page(own.url)
    go_to(page, "Train")
    lines = page.locator("#train-rewards-plot path[aria-roledescription='line mark']")
    longest = lambda: max([(one.get_attribute("d") or "").count("L") for one in lines.all()], default=0)
    for run, drawn in [(empty, False), (full, True)] * 3:
        page.locator("#train-run input").fill(run.id)
        page.keyboard.press("Enter")
        wait_for(lambda drawn=drawn: (longest() > 20) == drawn, 20, longest)


def test_a_look_that_comes_late_does_not_take_the_choice_back(own, open_page):  # noqa: F811
    early, late = make_run(own.workspace), make_run(own.workspace)
    for run, name in ((early, "early"), (late, "late")):
        describe_run(run, name, "")
        run.set_status(state="stopped", step=1, total_steps=20)
    page = open_page(own.url + "/#train")
    box, passed, held = page.locator("#train-run input"), [], []
    wait_for(lambda: box.input_value().startswith("late"), 20, box.input_value)

    def hold_news_of_the_state(route):
        response = route.fetch()
        if not held and "early \u00b7 finished" in json.dumps(response.json(), ensure_ascii=False):
            held.append((route, response))
        else:
            passed.append(route.fulfill(response=response))

    page.route("**/gradio_api/run/**", hold_news_of_the_state)
    wait_for(lambda: page.wait_for_timeout(50) or len(passed) > 1, 20)  # what went before is no longer on its way
    early.set_status(state="finished", step=20, total_steps=20)
    wait_for(lambda: page.wait_for_timeout(50) or held, 20)  # a look at "late", still on its way
    box.click()
    page.get_by_role("option").filter(has_text="early").click()
    ((route, response),) = held
    route.fulfill(response=response)
    wait_for_progress(page, "20 of 20", 20)
    page.wait_for_timeout(1500)  # three looks
    assert box.input_value() == "early \u00b7 finished"


def test_a_page_outlives_its_server_and_shows_the_true_step(own, open_page, fake):  # noqa: F811
    run = make_run(own.workspace)
    process = fake(run, "--steps", "600", "--pause", "0.15")
    page = open_page(own.url)
    go_to(page, "Train")
    wait_for_progress(page, "training", 20)
    drawn = "path[aria-roledescription='line mark']"
    wait_for(lambda: all(page.locator(f"#train-{one}-plot {drawn}").count() for one in ("rewards", "z0", "other")), 40)
    own.kill()
    at_death = run.status().step
    wait_for(lambda: run.status().step > at_death + 10, 20)  # training goes on
    own.start()
    wait_for(lambda: f"step {run.status().step}" in progress(page), 30, lambda: progress(page))  # by itself
    run.ask("stop")
    wait_for_progress(page, "stopped", 20)
    process.wait(10)


def test_several_pages_show_the_same_run_and_keep_their_own_settings(own, open_page, fake):  # noqa: F811
    run = make_run(own.workspace)
    process = fake(run, "--steps", "2000", "--pause", "0.05")
    first, second = open_page(own.url + "/#train"), open_page(own.url + "/#train", locale="zh-CN")
    wait_for_progress(first, "training", 20)
    wait_for_progress(second, "训练中", 20)
    first.locator("#train-beta input").fill("0.25")
    first.locator("#train-beta input").press("Tab")
    first.click("#train-stop")
    wait_for_progress(first, "stopped", 20)
    wait_for_progress(second, "已停止", 20)
    assert second.locator("#train-beta input").input_value() == "1"
    assert first.locator("#train-beta input").input_value() == "0.25"
    assert second.locator("#train-resume").is_visible() and not second.locator("#train-stop").is_enabled()
    process.wait(10)


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_two_starts_queue_and_a_stopped_run_is_resumed_to_its_end(own, open_page):  # noqa: F811
    page = open_page(own.url + "/#train")
    page.locator("#train-more button").first.click()
    for name, value in (("max-steps", 30), ("save-steps", 5), ("sample-steps", -1)):
        page.locator(f"#train-{name} input").fill(str(value))
        page.locator(f"#train-{name} input").press("Tab")
    page.click("#train-start")
    (first,) = wait_for(lambda: list_runs(own.workspace), 20)
    shown = lambda: page.locator("#train-run input").input_value()
    wait_for(lambda: title_of(first) in shown(), 20, shown)  # a click before that would count as a double one
    page.click("#train-start")
    wait_for(lambda: len(list_runs(own.workspace)) == 2, 20)
    second = list_runs(own.workspace)[0]
    wait_for(lambda: "waits for its turn" in page.inner_text("#train-message"), 20)
    wait_for(lambda: first.status().step >= 6, 120, first.log)
    assert second.status().state == "queued" and second.status().step == 0
    page.locator("#train-run input").click()
    page.get_by_role("option").filter(has_text=title_of(first)).click()
    wait_for_progress(page, "of 30", 20)
    page.click("#train-stop")
    wait_for_progress(page, "stopped", 60)
    stopped_at = first.status().step
    assert stopped_at < 30
    page.click("#train-resume")  # queues behind the second, which had its turn
    wait_for_progress(page, "finished", 240)
    assert first.status().step == 30 and first.status().first_step == stopped_at
    assert [record["step"] for record in first.metrics() if "loss" in record] == list(range(1, 31))
    assert second.status().state == "finished"


def test_a_killed_training_is_shown_as_crashed_with_its_log(workbench, open_page, fake):  # noqa: F811
    run = make_run(workbench.workspace)
    run.log_path.write_text("Traceback: <script>alert(1)</script> out of memory\n")
    process = fake(run, "--steps", "500", "--pause", "0.1")
    page = open_page(workbench.url)
    go_to(page, "Train")
    wait_for_progress(page, "training", 20)
    process.kill()
    process.wait()
    wait_for_progress(page, "crashed", 20)
    assert page.locator("#train-resume").is_visible() and not page.locator("#train-stop").is_enabled()
    page.locator("#train-progress summary").click()
    assert "out of memory" in progress(page)
    screenshot(page, "train-crashed-1280")


def test_a_hundred_thousand_steps_do_not_slow_the_page(workbench, open_page):  # noqa: F811
    run = make_run(workbench.workspace)
    with (run.path / "metrics.jsonl").open("w") as file:
        for step in range(1, 100_001):
            file.write(json.dumps({**record_at(step % 997 + 1, 1000), "step": step}) + "\n")
    run.set_status(state="finished", step=100_000, total_steps=100_000)
    page = open_page(workbench.url)
    go_to(page, "Train")
    lines = page.locator(DRAWN_REWARDS)
    wait_for(lambda: lines.count() == 4, 40)  # no held-out rows
    assert sum((lines.nth(n).get_attribute("d") or "").count("L") + 1 for n in range(4)) <= 610
    started = time.monotonic()
    page.locator("#train-chart input").click()
    page.get_by_role("option", name="Learning rate").click()
    wait_for(lambda: "learning rate" in page.inner_text("#train-other-key"), 10)
    assert time.monotonic() - started < 5


def test_runs_are_laid_over_each_other_named_deleted_and_taken_back(own, open_page):  # noqa: F811
    runs = [make_run(own.workspace, beta=beta) for beta in (0.5, 2.0)]
    for run in runs:
        for step in range(1, 41):
            run.record(record_at(step, 40))
        run.set_status(state="stopped", step=40, total_steps=80)
    page = open_page(own.url + "/#runs")
    chosen = page.locator("#runs-chosen")
    wait_for(lambda: all(run.id in page.inner_text("#runs-table") for run in runs), 10)
    wait_for(lambda: page.locator("#runs-overlay .kto-wide path[stroke]").count() == 1, 10)
    page.locator("#runs-name input").fill("<b>sharp</b>")
    page.locator("#runs-note textarea").fill("a larger β")
    page.click("#runs-save")
    wait_for(lambda: "<b>sharp</b>" in page.inner_text("#runs-table"), 10)  # as text
    named = next(run for run in runs if (run.path / "about.json").exists())
    assert page.locator("#runs-resume").is_enabled()

    chosen.locator("input").click()
    page.get_by_role("option").filter(has_not_text="sharp").click()
    page.keyboard.press("Escape")
    wait_for(lambda: page.locator("#runs-overlay .kto-wide path[stroke]").count() == 2, 10)
    wait_for(lambda: "beta" in page.inner_text("#runs-difference"), 10)
    assert {"0.5", "2.0"} <= set(page.inner_text("#runs-difference").split())
    screenshot(page, "runs-two-1280")
    chosen.locator(".token-remove").nth(1).click()
    wait_for(lambda: page.locator("#runs-delete").is_enabled(), 10)
    with page.expect_download() as download:
        page.click("#runs-report")
    report = download.value.path().read_text()
    assert named.id in report and "&lt;b&gt;sharp" in report and "<b>sharp" not in report

    page.click("#runs-delete")
    wait_for(lambda: not named.path.exists(), 10)
    wait_for(lambda: "sharp" not in page.inner_text("#runs-table"), 10)
    page.click("#runs-undo")
    wait_for(lambda: "sharp" in page.inner_text("#runs-table"), 10)
    assert named.metrics()


# The labels of a chart's axes, each with how far it lies within the picture on its left: below 0, it is cut off.
LABELS = """plot => [...document.querySelectorAll(`#train-${plot}-plot svg.marks .role-axis-label text`)].map(text =>
  [text.textContent, text.getBoundingClientRect().left - text.closest("svg").getBoundingClientRect().left])"""


def signs(labels: list[tuple[str, float]]) -> set[str]:
    """Of labels other than 0."""
    return {
        "-" if text.startswith("\u2212") else "" for text, _ in labels if float(text.strip("\u2212").replace(",", ""))
    }


def test_no_label_of_an_axis_is_cut_off_as_curves_grow(own, open_page):  # noqa: F811
    pages = [open_page(own.url + "/#train", width=width) for width in (1280, 390)]  # before there is any run
    run = make_run(own.workspace)
    run.set_status(state="stopped", step=0, total_steps=20)
    for page in pages:
        wait_for_progress(page, "step 0 of 20", 20)  # the charts are there, without a value
    step = 0
    # Rewards of one step at 0, tiny ones, small ones on both sides of 0, large ones.
    for size, steps in ((0.0, 1), (2e-4, 3), (0.4, 5), (30.0, 5), (4000.0, 4)):
        for _ in range(steps):
            step += 1
            record = {"kl": 0.0, "kl_raw": -size / 3, "loss": 0.5 + size / 7, "rewards/margins": 1.5 * size}
            run.record({"step": step, **record, "rewards/chosen": 0.5 * size, "rewards/rejected": -size})
        run.set_status(state="stopped", step=step, total_steps=20)
        for page in pages:
            wait_for_progress(page, f"step {step} of 20", 20)
            for plot in ("rewards", "z0", "other"):
                labels = lambda: page.evaluate(LABELS, plot)  # noqa: B023
                wait_for(lambda: labels() and min(left for _, left in labels()) >= 0, 10, labels)  # noqa: B023
            if size:  # rewards lie on both sides of 0, and the labels say so
                wait_for(lambda: signs(page.evaluate(LABELS, "rewards")) == {"-", ""}, 10)  # noqa: B023
    screenshot(pages[1], "labels-390")


def test_the_value_function_moves_with_its_sliders(workbench, open_page):  # noqa: F811
    page = open_page(workbench.url + "/#learn", width=390)
    curve = page.locator("#learn-values .kto-narrow path[stroke]").first
    wait_for(lambda: curve.count(), 10)
    before = curve.get_attribute("d")
    page.locator("#learn-beta input[type=number]").fill("2")
    page.keyboard.press("Enter")
    wait_for(lambda: curve.get_attribute("d") != before, 10)
    assert "less likely" in page.inner_text("#learn-sign")


def test_a_run_s_own_rows_lie_on_the_value_function_step_by_step(own, open_page):  # noqa: F811
    run = make_run(own.workspace, beta=0.5)
    for step, reward in ((1, 0.0), (20, 1.0), (40, 2.0)):
        run.record(record_at(step, 40))
        rewards = [reward, reward, -reward]
        run.record_rewards({"step": step, "z0": step / 100, "rewards": rewards, "labels": [True, True, False]})
    run.set_status(state="finished", step=40, total_steps=40)
    page = open_page(own.url + "/#learn", width=390)
    told = page.locator("#learn-values .kto-plain")
    wait_for(lambda: told.count() and "at step 40, 2 with thumbs up, 1 with thumbs down" in told.inner_text(), 20)
    dots = page.locator("#learn-values .kto-narrow circle")
    assert dots.count() == 3
    page.locator("#learn-step input[type=number]").fill("17")
    page.keyboard.press("Enter")
    wait_for(lambda: "at step 20" in told.inner_text() and "z0 was 0.2 nats" in told.inner_text(), 20)
    go_to(page, "Data")
    go_to(page, "Learn")
    wait_for(lambda: "at step 20" in told.inner_text(), 20)  # still the one that was chosen
    page.click("#learn-mine")
    wait_for(lambda: page.locator("#learn-z0 input[type=number]").input_value() == "0.2", 20)
    assert page.locator("#learn-beta input[type=number]").input_value() == "0.5"
    old = make_run(own.workspace)  # of a version that kept no rows
    old.record(record_at(3, 40))
    old.set_status(state="finished", step=3, total_steps=40)
    go_to(page, "Train")
    page.locator("#train-run input").click()
    page.get_by_role("option").filter(has_text=old.id).click()
    go_to(page, "Learn")
    wait_for(lambda: f"batch means of run {old.id}" in told.inner_text(), 20)
    assert not page.locator("#learn-step").is_visible()


def test_a_run_s_folder_is_told_where_no_window_can_show_it(own, open_page):  # noqa: F811
    run = make_run(own.workspace)
    run.set_status(state="finished")
    page = open_page(own.url + "/#runs")
    folder = str(run.path.resolve())
    wait_for(lambda: page.inner_text("#runs-folder .cm-content") == folder, 20)
    page.click("#runs-open")
    wait_for(lambda: f"The run is in {folder} on the machine" in page.inner_text("#runs-message"), 20)


def test_a_tab_chosen_while_the_page_loads_stays(workbench, open_page):  # noqa: F811
    page = open_page(workbench.url + "/#learn")
    wait_for(lambda: page.locator("#learn-values svg").count(), 10)
    for tab in ("Runs", "Train", "Compare", "Data"):
        page.reload(wait_until="commit")
        page.get_by_role("tab", name=tab, exact=True).click()  # as soon as there is one
        page.wait_for_selector("#data-cards dd", state="attached")  # the page has been told everything
        address = lambda: page.evaluate("location.hash")
        wait_for(lambda: address() == f"#{tab.lower()}", 20, address)  # noqa: B023
        page.wait_for_timeout(500)
        assert page.get_by_role("tab", name=tab, exact=True).get_attribute("aria-selected") == "true"
    page.reload()
    wait_for(lambda: page.get_by_role("tab", name="Data", exact=True).get_attribute("aria-selected") == "true", 10)
