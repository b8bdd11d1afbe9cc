"""A served workbench and a real browser for tests: fixtures to import into a test module.

    from browser import browser, open_page, workbench  # noqa: F401

Every page opened through `open_page` fails its test if a request leaves the origin or a script error occurs.
"""

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
ARTIFACTS = ROOT / "artifacts"
CHROMIUM = Path("/usr/bin/chromium")
# Chromium looks up its own services at start; none of that belongs to the page.
QUIET = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
]

# A busy machine is no reason to fail: how often the time that a quiet one takes at most is waited.
PATIENCE = 3

# In CI a missing browser is a failure, not a reason to look away.
needs_browser = pytest.mark.skipif(
    not CHROMIUM.exists() and not os.environ.get("CI"), reason=f"there is no Chromium at {CHROMIUM}"
)


class Served:
    """A workbench served by a process of its own, which a test may kill and start again on the same port."""

    def __init__(self, workspace: Path, log: Path, **options: object) -> None:
        self.workspace, self.options, self.log = workspace, options, log
        self.port = 0
        self.process: subprocess.Popen | None = None
        self.start()

    def start(self) -> None:
        # A page looks for what has begun every five seconds; no test waits that long.
        options = {"port": self.port, "open_browser": False, "idle_seconds": 0.5, **self.options}
        code = f"from kto_workbench.ui.app import serve; serve({str(self.workspace)!r}, **{options!r})"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", code],
                cwd=ROOT,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, "HF_HUB_OFFLINE": "1", "DISPLAY": "", "WAYLAND_DISPLAY": ""},  # opens no windows
            )
        self.url = wait_for(lambda: re.search(r"(http://\S+)", self.log.read_text()), 60, self._said).group(1)
        self.port = int(self.url.rsplit(":", 1)[1])

    def kill(self) -> None:
        """End the server as a power cut would."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.kill()

    def _said(self) -> str:
        return self.log.read_text()


def wait_for(look: Callable[[], Any], seconds: float, otherwise: Callable[[], object] = lambda: "") -> Any:
    """What `look` returns, as soon as it is true; `seconds` are those of a quiet machine."""
    end = time.monotonic() + seconds * PATIENCE
    while time.monotonic() < end:
        if found := look():
            return found
        time.sleep(0.1)
    raise AssertionError(f"still waiting after {seconds} s: {otherwise()}")


@pytest.fixture(scope="module")
def workbench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A served workbench with an empty workspace, shared by the tests of a module."""
    folder = tmp_path_factory.mktemp("served")
    served = Served(folder / "workspace", folder / "server.log")
    yield served
    served.stop()


@pytest.fixture(scope="module")
def browser() -> Iterator[object]:
    """Debian's Chromium, headless."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=str(CHROMIUM), args=QUIET)
        yield chromium
        chromium.close()


@pytest.fixture
def open_page(browser) -> Iterator[Callable]:
    """Open a page: `open_page(url, width=1280, locale="en-US")`; what it did wrong fails the test at its end."""
    contexts, faults = [], []

    def opened(url: str, *, width: int = 1280, height: int = 900, locale: str = "en-US", scheme: str = "light"):
        context = browser.new_context(
            viewport={"width": width, "height": height}, locale=locale, color_scheme=scheme, reduced_motion="reduce"
        )
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(20_000 * PATIENCE)
        page.on("pageerror", lambda error: faults.append(f"script error: {error}"))
        page.on("dialog", lambda dialog: (faults.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        page.on(
            "request",
            lambda request: (
                None
                if request.url.startswith((url.split("/#")[0].rstrip("/") + "/", "data:", "blob:"))
                else faults.append(f"left the origin: {request.url}")
            ),
        )
        page.goto(url)
        page.wait_for_selector(".kto-title h1")
        if "#" not in url:
            page.wait_for_selector("#data-cards dd")
        return page

    yield opened
    for context in contexts:
        context.close()
    assert not faults, faults


def go_to(page, tab: str) -> None:
    """Open a tab by its name."""
    page.get_by_role("tab", name=tab, exact=True).click()


def screenshot(page, name: str) -> None:
    """Keep a picture of the whole page for people to look at."""
    ARTIFACTS.mkdir(exist_ok=True)
    page.screenshot(path=ARTIFACTS / f"{name}.png", full_page=True)
