"""What the page's server takes when much is asked of it: many runs, steps, thumbs, open pages and voters.

    python -m benchmarks.load [--runs 1000 --steps 200000 --thumbs 100000 --pages 20 --voters 100] [--json]

A workspace of that size is written into a temporary folder and served by a process of its own; pages are sessions that
send the events of an open Train tab. Promised: the first answer within 3 s and a tick for under 50 ms, both of the
server's own CPU time (which other programs of the machine don't change), and at most 600 MB held.
"""

import argparse
import contextlib
import json
import re
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psutil

from kto_workbench.config import KTOConfig
from kto_workbench.feedback.store import FILE_NAME, ThumbStore
from kto_workbench.runs import Run
from kto_workbench.runs.directory import new_run

FACTS = {"data": "demo", "rows": 400, "n_desirable": 100, "n_undesirable": 300}
MOST_SECONDS, MOST_TICK, MOST_MEGABYTES = 3.0, 0.050, 600
ROUNDS = 10


def record_at(step: int) -> dict[str, Any]:
    """A step as the engine logs it."""
    return {
        "step": step, "epoch": step / 1000, "loss": 0.5 - step * 1e-7, "kl": 0.1, "kl_raw": 0.1,
        "rewards/chosen": step * 1e-6, "rewards/rejected": -step * 1e-6, "rewards/margins": step * 2e-6,
        "logps/chosen": -30.0, "logps/rejected": -32.0, "grad_norm": 1.5, "learning_rate": 1e-4,
        "tokens_per_second": 2800.0, "memory_bytes": 640 * 2**20, "seconds": step * 0.12,
    }  # fmt: skip


def fill(workspace: Path, runs: int, steps: int, thumbs: int) -> Run:
    """Write the workspace; returns the newest run, which counts as running: this process stands for its training."""
    for _ in range(runs - 1):
        run = new_run(KTOConfig(workspace=str(workspace), desirable_weight=3, undesirable_weight=1), FACTS)
        run.set_status(state="finished", step=10, total_steps=10, ended=time.time())
        run.record(record_at(10))
    live = new_run(KTOConfig(workspace=str(workspace), desirable_weight=3, undesirable_weight=1), FACTS)
    live.claim()
    live.set_status(state="running", step=steps, total_steps=2 * steps, training_started=time.time())
    with (live.path / "metrics.jsonl").open("w") as file:
        file.writelines(json.dumps(record_at(step)) + "\n" for step in range(1, steps + 1))
    _add_thumbs(workspace, thumbs)
    return live


def _add_thumbs(workspace: Path, count: int) -> None:
    """As the store keeps them, but many in one transaction: a thousand through the store, and copies of these."""
    store = ThumbStore(workspace)
    for i in range(min(count, 1000)):
        store.add(f"Question {i}?", f"Answer {i}.", i % 3 == 0)
    with contextlib.closing(sqlite3.connect(workspace / FILE_NAME)) as database, database:
        known = [row[1] for row in database.execute("PRAGMA table_info(thumbs)") if row[1] != "id"]
        names = ", ".join(known)
        for _ in range(count // 1000 - 1):
            database.execute(f"INSERT INTO thumbs ({names}) SELECT {names} FROM thumbs WHERE id <= 1000")


class Page:
    """One open page: its session, and the events that it sends."""

    def __init__(self, url: str, number: int) -> None:
        self.http = httpx.Client(base_url=url, timeout=120)
        self.session = f"page{number}"
        config = self.http.get("/config").raise_for_status().json()
        self.parts = {part["id"]: part["props"] for part in config["components"]}
        self.all_events = [event for event in config["dependencies"] if event["backend_fn"]]
        self.events = [event for event in self.all_events if not event["queue"]]

    def on(self, kind: str) -> list[dict[str, Any]]:
        """The events that something of this kind sets off: `load`, `tick`."""
        return [
            one
            for one in self.events
            if any(trigger == kind and self.parts.get(i, {}).get("active", True) for i, trigger in one["targets"])
        ]

    def showing(self, name: str) -> dict[str, Any]:
        """The event that fills the part of this name."""
        return next(one for one in self.events if any(self.parts[i].get("elem_id") == name for i in one["outputs"]))

    def send(self, event: dict[str, Any], run: str = "") -> list[Any]:
        """Send an event with what a page that watches this run has in its fields; returns what the page is to show."""
        values = [
            run if (self.parts[i].get("elem_id") or "").endswith("-run") else self.parts[i].get("value")
            for i in event["inputs"]
        ]
        body = {"fn_index": event["id"], "data": values, "session_hash": self.session}
        answer = self.http.post("/gradio_api/run/predict", json=body)
        if answer.status_code != 200:
            raise RuntimeError(f"event {event['id']} of {event['targets']}: {answer.text[:300]}")
        return answer.json()["data"]

    def click(self, button: str, fields: dict[str, Any]) -> None:
        """Click a button whose event waits for its turn, with some fields filled in by their names."""
        part = next(i for i, props in self.parts.items() if props.get("elem_id") == button)
        event = next(one for one in self.all_events if [part, "click"] in one["targets"])
        parts = [self.parts[i] for i in event["inputs"]]
        values = [fields.get(props.get("elem_id") or "", props.get("value")) for props in parts]
        body = {"fn_index": event["id"], "data": values, "session_hash": self.session}
        self.http.post("/gradio_api/queue/join", json=body).raise_for_status()


def measure(runs: int, steps: int, thumbs: int, pages: int, voters: int) -> dict[str, Any]:
    """Serve such a workspace and ask for it; see the module's docstring."""
    with tempfile.TemporaryDirectory() as folder:
        workspace, log = Path(folder) / "workspace", Path(folder) / "log"
        live = fill(workspace, runs, steps, thumbs)
        code = f"from kto_workbench.ui.app import serve; serve({str(workspace)!r}, port=0, open_browser=False)"
        with log.open("w") as out:
            server = subprocess.Popen([sys.executable, "-c", code], stdout=out, stderr=subprocess.STDOUT)
        try:
            while not (found := re.search(r"(http://\S+)", log.read_text())):
                time.sleep(0.05)
            return _ask(found.group(1), psutil.Process(server.pid), live, pages, voters, workspace)
        finally:
            server.terminate()
            server.wait()


def _ask(url: str, server: psutil.Process, live: Run, pages: int, voters: int, workspace: Path) -> dict[str, Any]:
    used = lambda: sum(server.cpu_times()[:2])
    began, before = time.monotonic(), used()
    first = Page(url, 0)
    for event in first.on("load"):
        first.send(event, live.id)
    answered, opening = time.monotonic() - began, used() - before
    everyone = [first, *(Page(url, number) for number in range(1, pages))]
    ended = threading.Event()

    def train() -> None:
        step = live.status().step
        while not ended.wait(0.5):
            step += 1
            live.record(record_at(step))
            live.set_status(step=step)

    training = threading.Thread(target=train)
    training.start()
    try:
        ticks = [(page, event) for page in everyone for event in page.on("tick")]
        for page, event in ticks:  # a page's first tick sends it everything
            page.send(event, live.id)
        before = used()
        for _ in range(ROUNDS):
            for page, event in ticks:
                page.send(event, live.id)
        tick = (used() - before) / (ROUNDS * len(ticks))
        store = ThumbStore(workspace)
        with ThreadPoolExecutor(voters) as pool:
            votes = list(pool.map(lambda i: store.add(f"Vote {i}?", "Yes.", True), range(voters)))
    finally:
        ended.set()
        training.join()
        for page in everyone:
            page.http.close()
    return {
        "first_answer_seconds": answered,
        "first_answer_cpu_seconds": opening,
        "tick_cpu_seconds": tick,
        "megabytes": server.memory_info().rss / 2**20,
        "votes_kept": len(set(votes)),
    }


def main() -> int:
    """Measure, print, and fail if a promise is broken."""
    parser = argparse.ArgumentParser(description="What the page's server takes when much is asked of it.")
    sizes = {"runs": 1000, "steps": 200_000, "thumbs": 100_000, "pages": 20, "voters": 100}
    for name, value in sizes.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = vars(parser.parse_args())
    as_json = arguments.pop("json")
    found = measure(**arguments)
    print(json.dumps(found) if as_json else "\n".join(f"{name:<26}{value:>10.3f}" for name, value in found.items()))
    kept = (
        found["first_answer_cpu_seconds"] < MOST_SECONDS,
        found["tick_cpu_seconds"] < MOST_TICK,
        found["megabytes"] < MOST_MEGABYTES,
        found["votes_kept"] == arguments["voters"],
    )
    return 0 if all(kept) else 1


if __name__ == "__main__":
    sys.exit(main())
