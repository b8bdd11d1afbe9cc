"""Two servers on one workspace: they know of each other, and what would hurt is done in turn or refused."""

import os
import signal
import threading

import pytest
from browser import Served
from conftest import ended, wait_for
from test_answering import PROMPTS, SETTINGS, final
from visitors import Visitor

from benchmarks.load import Page
from kto_workbench import KTOConfig
from kto_workbench.errors import RunError
from kto_workbench.feedback.store import ThumbStore
from kto_workbench.runs import create_run, start, turn
from kto_workbench.runs.answering import Answerer
from kto_workbench.runs.launch import stop
from kto_workbench.runs.servers import noted, others


def told_on(served: Served) -> str:
    """What a page that opens now says of other servers."""
    page = Page(served.url, 0)
    try:
        return page.send(page.showing("page-beside"))[0]
    finally:
        page.http.close()


def check_that_votes_of_both_are_kept(*servers: Served) -> None:
    """Four visitors of each vote at the same time: each vote is there once, on both pages and on the disk."""
    visitors = [Visitor(served.url, f"voter{number}") for number, served in enumerate(servers * 4)]
    given = {(f"Question {n} of {who}?", n % 3 > 0) for who in range(len(visitors)) for n in range(12)}

    def votes_of(who: int) -> None:
        for question, up in sorted(given):
            if question.endswith(f" of {who}?"):
                visitors[who].vote(question, f"An answer to: {question}", up)

    voting = [threading.Thread(target=votes_of, args=[who]) for who in range(len(visitors))]
    for one in voting:
        one.start()
    for one in voting:
        one.join()
    kept = [(thumb.prompt[0]["content"], thumb.label) for thumb in ThumbStore(servers[0].workspace).thumbs()]
    assert len(kept) == len(given) == 96 and set(kept) == given
    for visitor in visitors[:2]:
        told = str(visitor.send(visitor.showing("feedback-collected")))
        assert f"<b>{sum(up for _, up in given)}</b>" in told, told
    for visitor in visitors:
        visitor.close()


@pytest.mark.reliability("Two servers on one workspace know of each other")
def test_two_servers_know_of_each_other_at_the_shell_and_on_the_page(tmp_path):
    workspace = tmp_path / "workspace"
    first = Served(workspace, tmp_path / "first.log")
    try:
        assert "shows this" not in first.log.read_text() and first.url not in str(told_on(first))
        second = Served(workspace, tmp_path / "second.log")
        try:
            said = f"The page on {first.url} (process {first.process.pid}) shows this workspace, too."
            wait_for(lambda: said in second.log.read_text().splitlines())
            assert f"at {first.url}, too" in told_on(second) and f"at {second.url}, too" in told_on(first)
            check_that_votes_of_both_are_kept(first, second)
            first.kill()  # as a power cut does: its note stays, and counts no more
            assert len(list((workspace / "servers").iterdir())) == 2
            assert first.url not in str(told_on(second))
            assert len(list((workspace / "servers").iterdir())) == 1
        finally:
            second.stop()
        assert not list((workspace / "servers").iterdir())
    finally:
        first.stop()


@pytest.mark.reliability("Two servers on one workspace know of each other")
def test_what_lies_among_the_notes_is_read_as_any_other_file(tmp_path):
    with noted(tmp_path, "http://127.0.0.1:1"):
        (note,) = (tmp_path / "servers").iterdir()
        assert others(tmp_path) == []  # itself is no other
        mine = note.read_text()
        for name, text in {
            "elsewhere": mine.replace('"machine": "', '"machine": "another '),
            "gone": mine.replace(f'"pid": {os.getpid()}', '"pid": 4000000'),
            "foreign": mine.replace('"process_mark": "', '"process_mark": "0'),  # the number of another process by now
            "torn": mine[:20],
            "odd": '{"address": 1}',
        }.items():
            (tmp_path / "servers" / f"{name}.json").write_text(text)
        (tmp_path / "servers" / "loop.json").symlink_to("loop.json")
        (tmp_path / "servers" / "folder").mkdir()
        assert [server.machine.split()[0] for server in others(tmp_path)] == ["another"]
        elsewhere = tmp_path / "servers" / "elsewhere.json"
        assert {path.name for path in (tmp_path / "servers").iterdir()} == {note.name, elsewhere.name, "folder"}
        os.utime(elsewhere, (0, 0))  # it shares the folder, and has not been heard of for long
        assert others(tmp_path) == [] and not elsewhere.exists()
    assert not note.exists()


@pytest.mark.reliability("Two servers on one workspace know of each other")
def test_a_run_that_is_started_by_all_at_once_is_started_once(tmp_path):
    run = create_run(KTOConfig(workspace=str(tmp_path), data="demo", model="demo"))
    begun, refused, ready = [], [], threading.Barrier(8)

    def press() -> None:
        ready.wait()
        try:
            begun.append(start(run))
        except RunError as error:
            refused.append(str(error))

    pressing = [threading.Thread(target=press) for _ in range(8)]
    for one in pressing:
        one.start()
    for one in pressing:
        one.join()
    stop(run)
    assert len(begun) == 1 and set(refused) == {f"Run {run.id} is queued already."} and len(refused) == 7
    assert ended(run).state == "stopped"


@pytest.mark.reliability("Two servers on one workspace know of each other")
def test_two_answering_processes_take_turns_at_holding_models(tmp_path, trained, monkeypatch):
    one, other = Answerer(tmp_path), Answerer(tmp_path)
    log = tmp_path / "answering.log"
    try:
        expected = final(one.stream(trained.path, PROMPTS, **SETTINGS))
        assert final(other.stream(trained.path, PROMPTS, **SETTINGS)) == expected
        assert log.read_text().count("Another server is asked: the models are let go.") == 1
        assert final(one.stream(trained.path, PROMPTS, **SETTINGS)) == expected
        assert log.read_text().count("Another server is asked: the models are let go.") == 2
        # One that hangs is named, and nobody waits for ever.
        os.kill(one._child.pid, signal.SIGSTOP)
        monkeypatch.setattr(turn, "SILENT_SECONDS", 1.0)
        third = turn.AnsweringTurn(tmp_path)
        with pytest.raises(RunError, match=f"^Process {one._child.pid}, which answers for another server"):
            third.take()
        one.close()
        third.take()  # the dead one's turn is free
        assert third.held
        third.give()
        assert final(other.stream(trained.path, PROMPTS, **SETTINGS)) == expected
    finally:
        one.close()
        other.close()
