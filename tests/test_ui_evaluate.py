"""Evaluate on many prompts, from the page: what is started, what is refused, what is shown."""

import json
import shutil
from dataclasses import replace

import pytest
from accessible import faint_texts, unnamed_controls
from browser import (
    browser,  # noqa: F401
    needs_browser,
    open_page,  # noqa: F401
    screenshot,
    workbench,  # noqa: F401
)
from browser import wait_for as wait
from conftest import wait_for
from test_judging import prefers_please, serve  # noqa: F401

from kto_workbench.errors import WorkbenchError
from kto_workbench.judging.records import Record, list_records, new_record
from kto_workbench.judging.report import in_words
from kto_workbench.judging.steps import checkpoints_of
from kto_workbench.runs import Run
from kto_workbench.runs.children import reap
from kto_workbench.runs.endpoints import Endpoint, add_endpoint
from kto_workbench.runs.shelf import title_of
from kto_workbench.ui import outcome
from kto_workbench.ui.evaluate import Wish, begin_evaluation, cost_line, judge_for, keep_prompts, prompt_files
from kto_workbench.ui.words import retell
from kto_workbench.ui.workbench import Workbench
from kto_workbench.views.card import card
from kto_workbench.views.report import write_report

SIDE = {"words": 10.0, "tokens": 14.0, "distinct_1": 0.5, "distinct_2": None}
EVALUATION = {
    "judge": "longer", "n": 10, "wins": 9, "ties": 1, "losses": 0, "win_rate": 0.95, "interval": [0.655, 0.995],
    "sign_test_p": 0.004, "position_bias": 0.9, "requests": 20, "cached": 3, "unparsed": 2, "longer_won": 1.0,
    "reference": SIDE, "tuned": {**SIDE, "words": 25.0}, "length_ratio": 2.5,
    "kl": {"per_answer": 4.5, "per_token": 0.25}, "verdicts": ["tuned", "reference", "tie"],
}  # fmt: skip
EVIL = "<img src=x onerror=alert(1)>"


def copied(trained, workspace):
    """The trained run in a workspace of its own, which a test may write to."""
    return Run(shutil.copytree(trained.path, workspace / "runs" / trained.id, ignore=lambda *_: ["evaluations"]))


@pytest.fixture
def bench(tmp_path, trained):
    copied(trained, tmp_path)
    yield Workbench(tmp_path)
    wait_for(lambda: not reap())


@pytest.fixture
def prompts(bench):
    """A file of two prompts, as the browser sends one."""
    bench.received.mkdir(parents=True)
    path = bench.received / "my prompts.txt"
    path.write_text("What does an owl eat?\nWhat is 7 plus 3?\n")
    return str(keep_prompts(bench, str(path))[0])


def wish(of, **changes):
    fields = dict(
        run=of.id, against="reference", checkpoints=False, prompts="demo", limit=2, kind="shorter", argument="",
        endpoint=None, criteria="", max_tokens=16, price_read=None, price_written=None,
    )  # fmt: skip
    return Wish(**{**fields, **changes})


def test_the_judge_that_the_data_brings_comes_first(bench, trained, prompts):
    assert judge_for(bench, trained.id, "held-out") == "demo"  # the demo's own, not who says less
    assert judge_for(bench, trained.id, prompts) == "demo"  # nothing is expected there
    assert judge_for(bench, None, "held-out") == "none"
    expecting = bench.received / "sums.jsonl"
    expecting.write_text('{"prompt": "What is 7 plus 3?", "expected": "10"}\n')
    path = str(keep_prompts(bench, str(expecting))[0])
    assert judge_for(bench, trained.id, path) == "contains" and judge_for(bench, None, path) == "contains"


def test_a_judge_of_length_is_not_suspected_of_going_by_length():
    long = {**EVALUATION, "position_bias": None, "unparsed": 0}
    assert len(outcome.remarks("en", {**long, "judge": "demo"})) == 2
    for judge in ("longer", "shorter", "length:10-50"):
        assert not outcome.remarks("en", {**long, "judge": judge})
    assert "length:" not in in_words({**long, "judge": "longer"}) and "length" in in_words({**long, "judge": "demo"})


def test_a_child_process_evaluates_and_the_page_only_looks(bench, trained, prompts, serve, monkeypatch):  # noqa: F811
    monkeypatch.setenv("MY_JUDGE_API_KEY", "sk-not-for-the-page")
    server, run = serve(prefers_please), bench.run(trained.id)
    add_endpoint(Endpoint(server.url, "m", "MY_JUDGE_API_KEY", "judge"), bench.workspace)
    asked = wish(run, prompts=prompts, kind="endpoint", endpoint="judge")
    record = begin_evaluation(bench, replace(asked, checkpoints=True, against=checkpoints_of(run)[0].name))
    assert record.read()["state"] in ("starting", "running")
    assert 'role="progressbar"' in outcome.show("en", record, record.read())
    with pytest.raises(WorkbenchError, match="is at work already"):
        begin_evaluation(bench, wish(run))
    wait_for(lambda: record.read()["state"] not in ("starting", "running"))
    found = record.read()
    assert found["state"] == "finished", record.log_path.read_text()
    assert found["evaluation"]["judge"] == "endpoint:judge" and found["about"]["n_prompts"] == 2 == len(
        found["answers"]
    )
    first = found["evaluation"]["checkpoints"][0]  # is held against itself
    assert first["side"] == found["about"]["against"] == checkpoints_of(run)[0].name
    assert (first["ties"], first["requests"]) == (2, 0) and abs(first["kl"]["per_answer"]) < 1e-4
    assert b"sk-not" not in b"".join(path.read_bytes() for path in run.path.rglob("*") if path.is_file())
    assert [one.name for one in list_records(run)] == [record.name]
    for language in ("en", "zh"):
        shown = outcome.show(language, record, found)
        assert shown.count("<svg") == 4 and "kto-won-line" in shown  # two charts, each wide and narrow
        assert "my_prompts.txt (2)" in outcome.record_title(language, found)


def test_a_failed_evaluation_says_why(bench, trained):
    run = bench.run(trained.id)
    add_endpoint(Endpoint("http://127.0.0.1:9/v1", "m", name="dead"), bench.workspace)
    record = begin_evaluation(bench, wish(run, kind="endpoint", endpoint="dead"))
    wait_for(lambda: record.read()["state"] == "failed")
    assert "Nobody answers at dead" in outcome.show("en", record, record.read())
    assert "没有应答" in outcome.show("zh", record, record.read())


def test_an_evaluation_that_was_stopped_or_killed_is_shown_as_such(bench, trained):
    run = bench.run(trained.id)
    record = begin_evaluation(bench, wish(run, limit=0))
    record.stop()
    assert record.read()["state"] == "stopped" and "stopped" in outcome.record_title("en", record.read())
    killed = new_record(run, {"judge": EVIL, "prompts": "x", "n_prompts": 1})
    killed.write(pid=1, process_started=1.0)
    killed.log_path.write_text(EVIL)
    shown = outcome.show("en", killed, killed.read())
    assert "ended without a word" in shown and EVIL not in shown


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"run": "../.."}, "There is no model in ../..: it has no config.json."),
        ({"against": "/etc"}, "There is no model in /etc: it has no config.json."),
        ({"against": "http://x/v1"}, "An address can't be given here: "),
        ({"run": "endpoint:http://x/v1"}, "There is no endpoint 'http://x/v1' in this workspace, "),
        ({"run": "20260101-000000-none"}, "There is no run "),
        ({"prompts": "/etc/passwd"}, "That is not a file of prompts that this page received; drop it again."),
        ({"kind": "regex", "argument": "("}, "Judge `regex` can't read its pattern '(': "),
        ({"kind": "length", "argument": ""}, "Judge `length` is written `length:MIN-MAX`, not 'length:'."),
        ({"kind": "polite"}, "There is no judge 'polite'."),
        ({"limit": -1}, "Option `limit` should be at least 1, not -1."),
        ({"prompts": "held-out", "run": None}, "There is no run yet."),
        (
            {"kind": "endpoint", "endpoint": "http://x/v1"},
            "There is no endpoint 'http://x/v1' in this workspace, which has none yet; see `kto endpoint add`.",
        ),
    ],
)
def test_what_can_not_be_started_is_one_sentence(bench, trained, changes, sentence):
    run = bench.run(trained.id)
    with pytest.raises(WorkbenchError) as caught:
        begin_evaluation(bench, wish(run, **changes))
    assert str(caught.value).startswith(sentence) and not list_records(run)
    assert retell("zh", caught.value) != str(caught.value)


def test_the_cost_is_shown_before_the_start(bench, trained):
    run = bench.run(trained.id)
    assert cost_line(bench, wish(run, limit=3), "en").count("3 prompts") == 1
    held_out = cost_line(bench, wish(run, limit=0, prompts="held-out"), "en")
    assert "prompts" in held_out and "requests" not in held_out
    add_endpoint(Endpoint("http://x/v1", "m", name="dear"), bench.workspace)
    asked = wish(run, limit=3, kind="endpoint", endpoint="dear")
    assert "at most 6 requests" in cost_line(bench, asked, "en") and "money" not in cost_line(bench, asked, "en")
    dear = cost_line(bench, replace(asked, price_read=1e6, price_written=0), "en")
    assert ".00 in money" in dear and "6 个请求" in cost_line(bench, asked, "zh")
    with pytest.raises(WorkbenchError, match="There is no endpoint 'file:///etc/passwd'"):
        cost_line(bench, replace(asked, endpoint="file:///etc/passwd"), "en")


def test_files_of_prompts_stay_in_the_workspace(bench, tmp_path):
    bench.received.mkdir(parents=True)
    evil = bench.received / "..evil<b>.jsonl"
    evil.write_text(json.dumps({"prompt": "Hi"}) + "\n")
    path, count = keep_prompts(bench, str(evil))
    assert count == 1 and prompt_files(bench) == [path] and path.parent == tmp_path / "prompts"
    assert "<" not in path.name and not path.name.startswith(".")
    none = bench.received / "none.jsonl"
    none.write_text("{}\n")
    for refused in (str(none), "/etc/passwd", str(tmp_path / "runs")):
        with pytest.raises(WorkbenchError):
            keep_prompts(bench, refused)
    assert prompt_files(bench) == [path]


@pytest.mark.parametrize("language", ["en", "zh"])
def test_what_weakens_a_win_is_said_beside_it(language):
    answers = [{"prompt": [{"role": "user", "content": EVIL}], "reference": EVIL, "tuned": EVIL}] * 3
    about = {"tuned": EVIL, "against": "b"}
    evaluation = {**EVALUATION, "judge": EVIL}
    shown = outcome.results(language, {"evaluation": evaluation, "answers": answers, "about": about})
    assert EVIL not in shown and shown.count("kto-warning") == 4  # length twice, place, unread replies
    assert 'style="left:65.50%;width:34.00%"' in shown and 'style="left:95.00%"' in shown
    assert "95.0%" in shown and "65.5%" in shown and "99.5%" in shown
    assert shown.count("<details") == 2
    plain = {**EVALUATION, "length_ratio": 1.0, "longer_won": 0.5, "position_bias": 0.5, "unparsed": 0}
    assert "kto-warning" not in outcome.results(language, {"evaluation": plain, "answers": answers, "about": about})
    unread = {**plain, "n": 0, "win_rate": None, "interval": None, "sign_test_p": None, "verdicts": [None] * 3}
    assert 'role="alert"' in outcome.results(language, {"evaluation": unread, "answers": answers, "about": about})
    none = {**unread, "judge": None, "verdicts": None, "position_bias": None}
    assert "kto-won" not in outcome.results(language, {"evaluation": none, "answers": answers, "about": about})


# in a browser --------------------------------------------------------------------------------------------------------


@needs_browser
@pytest.mark.timeout(240)
def test_an_evaluation_in_the_browser_survives_a_reload(workbench, open_page, trained, serve, tmp_path):  # noqa: F811
    server, run = serve(prefers_please), copied(trained, workbench.workspace)
    add_endpoint(Endpoint(server.url, "judge-7b", name="local"), workbench.workspace)
    prompts = tmp_path / "owls.txt"
    prompts.write_text("What does an owl eat?\nWhat sound does an owl make?\n")
    page = open_page(f"{workbench.url}/#compare")

    def unfold():
        page.wait_for_selector("#evaluate", state="visible")
        page.locator("#evaluate > button").first.click()
        page.wait_for_selector("#evaluate-run", state="visible")

    unfold()
    wait(lambda: page.locator("#evaluate-run input").input_value().startswith(title_of(run)), 20)
    page.locator("#evaluate-upload").wait_for()
    page.set_input_files("#evaluate input[type=file]", str(prompts))
    wait(lambda: "2 prompts in owls.txt" in page.inner_text("#evaluate-message"), 20)
    assert not page.locator("#evaluate-endpoint").is_visible()
    page.locator("#evaluate-judge input").click()
    page.get_by_role("option", name="a language model at an endpoint").click()
    assert page.locator("#evaluate-endpoint input").input_value() == "local · judge-7b"
    wait(lambda: "2 prompts. The judge gets at most 4 requests" in page.inner_text("#evaluate-cost"), 20)
    page.locator("#evaluate-start").click()
    wait(lambda: list_records(run), 20, lambda: page.inner_text("#evaluate-message"))
    page.reload()
    unfold()
    page.wait_for_selector("#evaluate-result .kto-won, #evaluate-result .kto-message", timeout=90_000)
    found = list_records(run)[0].read()
    assert found["state"] == "finished", found
    rate = f"{found['evaluation']['win_rate']:.1%}"
    assert page.inner_text("#evaluate-result .kto-won-rate b") == rate
    assert "owls.txt (2)" in page.locator("#evaluate-shown input").input_value()
    assert page.locator("#evaluate-stop").is_disabled()
    assert not unnamed_controls(page) and not faint_texts(page)
    screenshot(page, "evaluate")


def test_report_and_card_tell_the_newest_evaluation_that_is_finished(trained, tmp_path):
    run = copied(trained, tmp_path)
    assert "Evaluation" not in write_report(run) and "Evaluation" not in card(run, "adapter")
    (run.path / "evaluations").mkdir()
    for number, (state, rate) in enumerate((("finished", 0.25), ("finished", 0.95), ("failed", 0.5)), 1):
        found = {**EVALUATION, "win_rate": rate, "judge": EVIL}
        Record(run, f"2026-{number}").write(state=state, evaluation=found)
    for told in (write_report(run), card(run, "adapter")):
        assert "The tuned side wins 95.0% by judge" in told
    assert EVIL not in write_report(run)
