"""How long from Start until the page draws the first points of a curve, in a real browser.

    python -m benchmarks.first_point [--starts 3] [--browser /usr/bin/chromium] [--json]

The file is that of `first_step`: 4,624 rows. Seconds count from the click to the run's directory, to its state
`running`, to its first record and to the first line that the rewards chart shows, which takes two records; `cpu` are
the CPU seconds that the training process had taken by its first record.
"""

import argparse
import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from benchmarks.first_step import PAIRS, write_pairs
from benchmarks.machine import describe_machine

LINE = "#train-rewards-plot path[aria-roledescription='line mark']"
PATIENCE = 300.0


def main() -> None:
    """Serve, open, start, watch; print what was seen."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--starts", type=int, default=3)
    parser.add_argument("--browser", default="/usr/bin/chromium")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    found: dict[str, Any] = {"machine": describe_machine(os.cpu_count() or 1), "starts": []}
    with tempfile.TemporaryDirectory() as folder, served(Path(folder)) as url, page_of(given.browser, url) as page:
        path = Path(folder) / "pairs.jsonl"
        write_pairs(path, PAIRS)
        page.set_input_files("#data-upload input[type=file]", str(path))
        page.wait_for_function("document.querySelector('#data-cards').innerText.includes('4,624')")
        page.get_by_role("tab", name="Train", exact=True).click()
        for _ in range(given.starts):
            found["starts"].append(one_start(page, Path(folder) / "workspace"))
            print(found["starts"][-1], file=sys.stderr)
    if given.json:
        print(json.dumps(found, indent=1))
        return
    names = ("directory", "running", "record", "line", "cpu")
    print(f"| {' | '.join(names)} |\n{'|---' * len(names)}|")
    for start in found["starts"]:
        print(f"| {' | '.join(f'{start[name]:.1f}' for name in names)} |")


@contextlib.contextmanager
def served(folder: Path) -> Any:
    """A workbench with an empty workspace, as its address."""
    log = folder / "server.log"
    command = [sys.executable, "-m", "kto_workbench", "app", "--no-browser", "--port", "0"]
    with log.open("w") as file:
        process = subprocess.Popen([*command, "--workspace", str(folder / "workspace")], stdout=file, stderr=file)
    try:
        yield wait_for(lambda: (said := re.search(r"http://[^\s/]+", log.read_text())) and said.group())
    finally:
        process.terminate()
        process.wait()


@contextlib.contextmanager
def page_of(browser: str, url: str) -> Any:
    """The page in a browser, its data at hand."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox", "--disable-gpu"])
        page = chromium.new_page(viewport={"width": 1280, "height": 900})
        page.set_default_timeout(PATIENCE * 1000)
        page.goto(url)
        page.wait_for_selector("#data-cards dd")
        yield page
        chromium.close()


def one_start(page: Any, workspace: Path) -> dict[str, float]:
    """Seconds from a click on Start to what is seen of it; the run is stopped then."""
    before = runs_in(workspace)
    page.wait_for_selector("#train-start:not([disabled])")
    clicked = time.perf_counter()
    page.click("#train-start")
    seen: dict[str, float] = {}

    def noted(name: str, what: Any) -> Any:
        if what:
            seen.setdefault(name, time.perf_counter() - clicked)
        return what

    (run,) = wait_for(lambda: noted("directory", runs_in(workspace) - before))
    status = lambda: json.loads((run / "status.json").read_text())
    wait_for(lambda: noted("running", status()["state"] == "running"))
    wait_for(lambda: noted("record", (run / "metrics.jsonl").is_file()))
    times = psutil.Process(status()["pid"]).cpu_times()
    lines = page.locator(LINE)
    drawn = lambda: any("L" in (line.get_attribute("d") or "") for line in lines.all())
    wait_for(lambda: noted("line", drawn()))
    page.click("#train-stop")
    wait_for(lambda: status()["state"] in ("stopped", "finished"))
    return {**seen, "cpu": times.user + times.system}


def runs_in(workspace: Path) -> set[Path]:
    return {path for path in workspace.glob("runs/*") if not path.name.startswith(".")}  # one in the making is hidden


def wait_for(look: Any) -> Any:
    """What `look` returns, as soon as it is true."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        if found := look():
            return found
        time.sleep(0.05)
    raise SystemExit("Nothing was seen for too long.")


if __name__ == "__main__":
    main()
