"""The objectives on the page: all of them train the demo through its form, which shows what each of them uses."""

import re

import pytest
from browser import (
    browser,  # noqa: F401
    go_to,
    needs_browser,
    open_page,  # noqa: F401
    screenshot,
    wait_for,
    workbench,  # noqa: F401
)
from pages import Page

from kto_workbench.engine.training import train_run
from kto_workbench.objectives import METRICS, OBJECTIVES, OPTIONS, unused_by
from kto_workbench.runs import list_runs
from kto_workbench.ui import live, train
from kto_workbench.ui.workbench import Workbench
from kto_workbench.views.records import records_of


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    bench = Workbench(tmp_path_factory.mktemp("workspace"))
    page = Page(bench)
    yield page, bench
    page.close()


def form(page, event, **chosen):
    """What the fields hold, in the order of an event's inputs: as they are on opening, but for what was chosen."""
    named = {f"train-{name.replace('_', '-')}": value for name, value in chosen.items()} | {"data-source": "demo-pairs"}
    return [named.get(part.elem_id, part.value) for part in event.inputs]


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_every_objective_trains_on_the_demo_through_the_form(page, objective, monkeypatch):
    page, bench = page
    monkeypatch.setattr(train, "start", lambda run: train_run(run))  # here, and not in a child process
    begin = page.named("train.build.<locals>.begin_run")
    # The weights of the last file stand in the fields, shown or not.
    short = dict(max_steps=3, batch_size=8, sample_steps=-1, eval_steps=3, desirable_weight=3.0, undesirable_weight=1.0)
    page.fire(begin, form(page, begin, objective=objective, **short))
    run = list_runs(bench.workspace)[0]
    config, one = run.config(), OBJECTIVES[objective]
    assert run.status().state == "finished" and config.objective == objective and run.data()["rows"] == 400
    assert (config.desirable_weight is None) == ("desirable_weight" in unused_by(objective))
    last = run.metrics()[-2]
    assert {name for name in METRICS if name in last} == set(one.metrics)
    # What is drawn is what it has: no z0 without one, no accuracy without pairs.
    head = lambda chart: live.draw(records_of(run), chart, "train", "en", config.beta, 0.0, [chart], objective)[0]
    assert ("β·z0" in head("rewards")) == (">z0 " in head("z0")) == (one.centre == "z0")
    assert ("δ" in head("rewards")) == (one.centre == "mean")
    assert ("thumbs down" in head("rewards")) == one.reference
    assert ("share of pairs" in head("accuracies")) == one.paired


def test_the_form_tells_of_pairs_and_shows_what_is_used(page):
    page, _ = page
    preview, used = (page.named(f"train.build.<locals>.{name}") for name in ("preview", "show_used"))
    assert "200 pairs of 400 rows" in page.fire(preview, form(page, preview, objective="apo_zero"))
    told = page.fire(preview, form(page, preview, objective="bco", desirable_weight=3.0))
    assert "pairs of" not in told and "mean of all rewards" in told
    assert "--objective dpo" in page.fire(preview, form(page, preview, objective="dpo", z0="zero"))
    for objective in OBJECTIVES:
        shown = [word == "True" for word in re.findall(r"'visible': (True|False)", page.fire(used, [objective]))]
        assert {name for name, yes in zip(OPTIONS, shown, strict=True) if not yes} == unused_by(objective)


def choose(page, objective):
    """Train on the demo's pairs with an objective, from the tab Train, until the page says that it has finished."""
    if not page.locator("#train-objective input").is_visible():
        page.locator("#data-source input").click()
        page.get_by_role("option", name="Demo: pairs").click()
        wait_for(lambda: "1 : 1" in page.inner_text("#data-cards"), 20)
        go_to(page, "Train")
        page.locator("#train-num-train-epochs input").fill("0.5")
        page.locator("#train-num-train-epochs input").press("Tab")
    page.locator("#train-objective input").click()
    page.get_by_role("option", name=objective, exact=True).click()
    told = lambda: page.inner_text("#train-goes-on").strip()
    learns = "" if objective == "kto" else OBJECTIVES[objective].learns  # what KTO does is said everywhere
    wait_for(lambda: learns in told() and bool(learns) == bool(told()), 20, told)


def train_it(page, workspace, objective):
    known = len(list_runs(workspace))
    page.click("#train-start")
    wait_for(lambda: len(list_runs(workspace)) > known, 20)
    run = list_runs(workspace)[0]
    said = lambda: page.input_value("#train-run input")
    wait_for(lambda: run.about()["name"] in said() and said().endswith("finished"), 120, said)
    wait_for(lambda: "finished" in page.inner_text("#train-progress"), 20)
    assert run.status().state == "finished" and run.config().objective == objective
    return run


@needs_browser
def test_dpo_on_the_demos_pairs(workbench, open_page):  # noqa: F811
    page = open_page(workbench.url)
    choose(page, "kto")
    wait_for(lambda: page.locator("#train-desirable-weight").is_visible(), 20)
    choose(page, "dpo")
    wait_for(lambda: "200 pairs of 400 rows" in page.inner_text("#train-goes-on"), 20)
    wait_for(lambda: not page.locator("#train-desirable-weight").is_visible(), 20)
    assert page.locator("#train-beta").is_visible()
    train_it(page, workbench.workspace, "dpo")
    wait_for(lambda: "KL, in nats" in page.inner_text("#train-z0-key"), 20)
    assert "z0" not in page.inner_text("#train-z0-key") + page.inner_text("#train-rewards-key")
    assert "margin" in page.inner_text("#train-rewards-key") and "dpo" in page.input_value("#train-run input")
    screenshot(page, "train-dpo-1280")


@needs_browser
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_all_others_start_from_the_page_and_end(workbench, open_page):  # noqa: F811
    page = open_page(workbench.url)
    titles = {"z0": "Rewards, and β·z0", "mean": "Rewards", "": "Rewards"}

    def head(name):
        return page.inner_text(f"#train-{name}-key")

    for objective in sorted(OBJECTIVES.keys() - {"dpo"}):
        one = OBJECTIVES[objective]
        choose(page, objective)
        for option in ("beta", "desirable_weight"):
            field = page.locator(f"#train-{option.replace('_', '-')}")
            wait_for(lambda field=field, shown=option in one.options: field.is_visible() == shown, 20)
        train_it(page, workbench.workspace, objective)
        title = titles[one.centre] if one.reference else "Log-probabilities of the answers"
        wait_for(lambda title=title: head("rewards").startswith(title), 20, lambda: head("rewards"))
        assert ("z0" in head("rewards") + head("z0")) == (one.centre == "z0")
        assert ("δ, the mean reward" in head("rewards")) == (one.centre == "mean")
        assert ("margin" in head("rewards")) == ("thumbs down" in head("rewards")) == one.reference
        page.set_viewport_size({"width": 390, "height": 900})
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
        screenshot(page, f"train-{objective}-390")
        page.set_viewport_size({"width": 1280, "height": 900})
