"""The page without a mouse, with a screen reader, in weak light: every tab, light and dark."""

import pytest
from accessible import faint_texts, keyboard_stops, unnamed_controls
from browser import (
    browser,  # noqa: F401
    go_to,
    needs_browser,
    open_page,  # noqa: F401
    wait_for,
    workbench,  # noqa: F401
)
from fake_training import record_at
from test_ui import make_run

pytestmark = needs_browser
TABS = ("Data", "Train", "Compare", "Feedback", "Runs", "Learn")
# Some stops that a tab can't do without, in their order.
STOPS = {
    "Data": ["data-source", "data-upload", "data-train", "data-ratio", "data-side", "data-rendered", "data-after"],
    "Train": ["train-start", "train-run", "train-part", "train-smoothing", "train-model", "train-beta", "train-more",
              "train-presets", "preset-save", "train-exact", "train-command"],
    "Compare": ["compare-prompt", "compare-ideas", "compare-run", "compare-generate"],
    "Feedback": ["feedback-prompt", "feedback-send", "feedback-run", "feedback-train"],
    "Runs": ["runs-chosen", "runs-metric", "runs-name", "runs-save", "runs-report", "runs-delete"],
    "Learn": ["learn-beta", "learn-z0", "learn-mine"],
}  # fmt: skip


@pytest.mark.timeout(240)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_control_has_a_name_every_text_is_clear_and_the_keyboard_reaches_all(workbench, open_page, scheme):  # noqa: F811
    for state, error in (("finished", ""), ("failed", "It broke.")):
        run = make_run(workbench.workspace)
        for step in range(1, 13):
            run.record(record_at(step, 12))
        run.set_status(state=state, error=error, step=12, total_steps=12)
    page = open_page(workbench.url, scheme=scheme)
    for tab in TABS:
        go_to(page, tab)
        page.wait_for_timeout(800)
        if tab == "Train":
            wait_for(lambda: "It broke." in page.inner_text("#train-progress"), 20)
            for part in ("more", "presets", "exact"):
                page.locator(f"#train-{part} button").first.click()
            page.wait_for_timeout(800)
        if tab == "Runs":
            wait_for(lambda: page.locator("#runs-save").is_enabled(), 20)
        assert not faint_texts(page), tab
        if scheme == "dark":
            continue  # names and the order of the stops are those of the light page
        assert not unnamed_controls(page), tab
        stops = keyboard_stops(page)
        assert "nothing to be seen" not in stops
        # sliders name their inner parts themselves; what is asked for must come in this order
        found = [stop for stop in dict.fromkeys(stops) if stop in STOPS[tab]]
        assert found == STOPS[tab]
