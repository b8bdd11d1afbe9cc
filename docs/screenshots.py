"""Take the pictures of the docs anew, every tab at two widths, with a freshly trained demo.

python docs/screenshots.py [FOLDER]
"""

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from browser import CHROMIUM, QUIET, Served, go_to, wait_for  # noqa: E402
from playwright.sync_api import Page, sync_playwright  # noqa: E402

TABS = ("Data", "Train", "Compare", "Feedback", "Runs", "Learn")
WIDTHS = (1280, 390)
QUESTIONS = ("What does the cow say?", "How do I make pancakes?")


def train_the_demo(page: Page) -> None:
    """One click, and wait until it has finished."""
    go_to(page, "Train")
    page.click("#train-start")
    wait_for(lambda: "finished" in page.inner_text("#train-progress"), 900, lambda: page.inner_text("#train-progress"))

    wait_for(lambda: "pace" in page.inner_text("#train-expected"), 60)


def ask(page: Page) -> None:
    """Something to see on the tabs that ask models."""
    go_to(page, "Compare")
    wait_for(lambda: "finished" in page.locator("#compare-run input").input_value(), 60)  # the run makes its way there
    page.locator("#compare-prompt textarea").fill(QUESTIONS[0])
    page.click("#compare-generate")
    wait_for(lambda: page.locator("[data-why^='0:']").count() == 2, 120)  # both sides have answered
    page.click("[data-why='0:tuned']")
    wait_for(lambda: page.locator("#compare-tuned .kto-heat").count() == 1, 60)
    go_to(page, "Feedback")
    wait_for(lambda: "finished" in page.locator("#feedback-run input").input_value(), 60)
    for number, question in enumerate(QUESTIONS, 1):
        page.locator("#feedback-prompt textarea").fill(question)
        page.click("#feedback-send")
        bots = page.locator("#feedback-chat [data-testid=bot]")
        wait_for(lambda: bots.count() == number, 60)  # noqa: B023
        page.wait_for_timeout(6000)
    page.locator("#feedback-chat").get_by_label("Like", exact=True).first.click()
    page.wait_for_timeout(500)


def settle(page: Page) -> None:
    """Wait until the page has not grown for three seconds, since a tab is filled when it is opened."""
    heights: list[int] = []
    while len(heights) < 7 or len(set(heights[-7:])) > 1:
        heights.append(page.evaluate("document.documentElement.scrollHeight"))
        page.wait_for_timeout(500)


def photograph(page: Page, folder: Path, width: int, tabs: Sequence[str] = TABS, suffix: str = "") -> None:
    """Each tab, from top to bottom."""
    page.set_viewport_size({"width": width, "height": 860})
    for tab in tabs:
        go_to(page, tab)
        settle(page)
        page.screenshot(path=folder / f"{tab.lower()}-{width}{suffix}.png", full_page=True)
        print(folder / f"{tab.lower()}-{width}{suffix}.png")


def main(folder: Path) -> None:
    """Make all pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="kto-") as scratch, sync_playwright() as playwright:
        served = Served(Path(scratch) / "workspace", Path(scratch) / "server.log")
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=QUIET)
        try:
            page = browser.new_page(locale="en-US", viewport={"width": 1280, "height": 860})
            page.goto(served.url)
            page.wait_for_selector("#data-cards dd")
            train_the_demo(page)
            ask(page)
            for width in WIDTHS:
                photograph(page, folder, width)
            page.emulate_media(color_scheme="dark")
            page.reload()
            page.wait_for_selector(".kto-title h1")
            page.wait_for_timeout(4000)  # until it has come back to the tab that was open
            photograph(page, folder, 1280, ["Train", "Learn"], "-dark")
        finally:
            browser.close()
            served.stop()


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "docs" / "pictures")
