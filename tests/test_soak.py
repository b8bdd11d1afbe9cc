"""A server that is kept busy for long holds what it held at the beginning: memory, files, threads, children, rest."""

import itertools
import time
from dataclasses import dataclass

import fake_training
import psutil
import pytest
from browser import Served
from visitors import Visitor

from kto_workbench.config import KTOConfig
from kto_workbench.feedback.store import ThumbStore
from kto_workbench.runs.directory import new_run
from kto_workbench.ui.app import SESSIONS

pytestmark = pytest.mark.reliability("A server that is busy for long holds no more than at the beginning")

LONG_SECONDS = 1800.0
PACE = 1.0  # of an open page while a run works, seconds
REST_SECONDS = 2.0  # in which nobody asks anything


@dataclass
class Held:
    """What a server holds when nobody asks anything."""

    bytes: int
    files: int
    threads: int
    children: dict[int, int]  # bytes by process
    cores: float

    @classmethod
    def by(cls, server: psutil.Process) -> "Held":
        used = lambda: sum(server.cpu_times()[:2])
        began, before = time.monotonic(), used()
        time.sleep(REST_SECONDS)
        cores = (used() - before) / (time.monotonic() - began)
        children = {child.pid: child.memory_info().rss for child in server.children(recursive=True)}
        return cls(server.memory_info().rss, server.num_fds(), server.num_threads(), children, cores)


class Busy:
    """A served workspace with a live run, two open pages, and visitors who come, do what visitors do, and go."""

    def __init__(self, folder) -> None:
        self.workspace = folder / "workspace"
        weights = {"desirable_weight": 1, "undesirable_weight": 1}
        self.run = new_run(
            KTOConfig(workspace=str(self.workspace), **weights),
            {"data": "demo", "rows": 400, "n_desirable": 100, "n_undesirable": 300},
        )
        self.run.claim()  # this process stands for its training
        self.run.set_status(state="running", total_steps=100_000, training_started=time.time())
        self.step = self.votes = self.files = 0
        self.served = Served(self.workspace, folder / "server.log")
        self.server = psutil.Process(self.served.process.pid)
        self.pages = [Visitor(self.served.url, number) for number in range(2)]

    def train(self) -> None:
        """Two steps, and the status that tells of them."""
        for _ in range(2):
            self.step += 1
            self.run.record(fake_training.record_at(self.step, 100_000))
        self.run.set_status(step=self.step)

    def look(self) -> None:
        """What the open pages ask once a second."""
        for page in self.pages:
            for event in page.on("tick"):
                page.send(event, self.run.id)

    def visit(self, number: int) -> None:
        """A visitor opens the page, drops a file and one that holds nothing, votes, has an answer, and goes."""
        visitor = Visitor(self.served.url, f"-visitor-{number}")
        try:
            rows = '{"prompt": "a", "completion": "b", "label": true}\n' * 20
            assert f"mine-{number % 3}.jsonl" in visitor.drop(rows, f"mine-{number % 3}.jsonl")
            visitor.drop("\n", f"nothing-{number % 3}.jsonl")
            self.votes += 1
            visitor.vote("Hello!", f"Good day {self.votes}.", up=True)
            fields = {"compare-run": "model:demo", "compare-against": "model:demo", "compare-prompt": f"{number}?"}
            answered = visitor.press("compare-generate", "click", {**fields, "compare-length": 16})
            assert 'aria-busy=\\"false\\"' in answered, answered[-2000:]
        finally:
            visitor.close()

    def work(self, visits, pace: float = 0.0) -> None:
        """Look five times between two visits, each so many seconds after the other."""
        for visit in visits:
            for _ in range(5):
                began = time.monotonic()
                self.train()
                self.look()
                time.sleep(max(0.0, began + pace - time.monotonic()))
            self.visit(visit)

    def end(self) -> None:
        for page in self.pages:
            page.close()
        self.served.stop()


@pytest.fixture
def busy(tmp_path):
    busy = Busy(tmp_path)
    yield busy
    busy.end()


def check_growth(before: Held, after: Held, megabytes: float) -> None:
    told = f"{before}\n{after}"
    assert after.bytes - before.bytes < megabytes * 1e6, told
    assert after.files <= before.files + 2 and after.threads <= before.threads + 2, told
    assert after.children.keys() == before.children.keys() and len(before.children) == 1, told
    (grown,) = (after.children[pid] - held for pid, held in before.children.items())
    assert grown < megabytes * 1e6, told
    assert after.cores < before.cores + 0.02, told


def test_a_busy_server_does_not_grow(busy, cases):
    busy.work([0, 1, 0])
    before = Held.by(busy.server)
    busy.work([0, 1, 0])
    check_growth(before, Held.by(busy.server), megabytes=20)
    cases(busy.votes)
    assert len(ThumbStore(busy.workspace)) == busy.votes == 6
    assert sorted(path.name for path in (busy.workspace / "uploads").iterdir()) == [f"mine-{i}.jsonl" for i in range(2)]


@pytest.mark.long
@pytest.mark.timeout(4 * LONG_SECONDS)
def test_a_server_that_is_busy_for_long_does_not_grow(busy, cases):
    busy.work(range(SESSIONS))  # as many pages as are remembered have been open once
    before, end = Held.by(busy.server), time.monotonic() + LONG_SECONDS
    busy.work(itertools.takewhile(lambda _: time.monotonic() < end, itertools.count(SESSIONS)), PACE)
    check_growth(before, Held.by(busy.server), megabytes=40)
    cases(busy.votes)
    assert len(ThumbStore(busy.workspace)) == busy.votes
