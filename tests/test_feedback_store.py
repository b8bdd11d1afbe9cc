"""The store of thumbs: votes, several processes, kills, exports."""

import json
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime

import pyarrow.parquet as pq
import pytest

from kto_workbench.errors import DataError
from kto_workbench.feedback import Row, ThumbStore, load_feedback
from kto_workbench.feedback.balance import Balance
from kto_workbench.feedback.held_out import prompt_key

CHAT = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi 👋"}]


def test_a_vote_is_kept_with_all_that_belongs_to_it(tmp_path):
    store = ThumbStore(tmp_path)
    before = time.time()
    thumb = store.add(
        CHAT, "Hello!", True, model="demo", adapter="runs/a/adapter", run="a", sampling={"temperature": 0.7}, who="ann"
    )
    kept = ThumbStore(tmp_path).get(thumb)
    assert (kept.prompt, kept.completion, kept.label, kept.model) == (CHAT, "Hello!", True, "demo")
    assert (kept.adapter, kept.run, kept.sampling, kept.who) == ("runs/a/adapter", "a", {"temperature": 0.7}, "ann")
    assert before <= kept.created == kept.changed <= time.time()


def test_a_vote_can_be_changed_taken_back_and_given_again(tmp_path):
    store = ThumbStore(tmp_path)
    first, second = store.add("p", "a", True), store.add("p", "b", False)
    store.change(first, False)
    store.retract(second)
    assert [(t.id, t.label) for t in store.thumbs()] == [(first, False)] and len(store) == 1
    assert store.get(second).label is None
    assert [t.id for t in store.thumbs(retracted=True)] == [first, second]
    store.change(second, True)
    assert (store.balance().n_desirable, store.balance().n_undesirable) == (1, 1)
    assert store.get(second).changed >= store.get(second).created
    for act in (lambda: store.change(99, True), lambda: store.retract(99), lambda: store.get(99)):
        with pytest.raises(DataError, match="no thumb 99"):
            act()


def test_an_empty_workspace_has_no_thumbs_and_gets_no_file(tmp_path):
    store = ThumbStore(tmp_path / "new")
    assert len(store) == 0 and list(store.thumbs()) == [] and not store.path.parent.exists()
    with pytest.raises(DataError, match="No thumbs have been collected"):
        load_feedback("thumbs", workspace=tmp_path / "new")


def test_thumbs_are_training_data_by_name(tmp_path):
    store = ThumbStore(tmp_path)
    store.add("p", "a", True)
    gone = store.add("p", "b", False)
    store.add(CHAT, "c", False)
    store.retract(gone)
    feedback = load_feedback("thumbs", workspace=tmp_path)
    assert [(row.prompt, row.completion, row.label, row.line) for row in feedback.rows] == [
        ("p", "a", True, 1), (CHAT, "c", False, 3),
    ]  # fmt: skip


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
@pytest.mark.parametrize("prompts", [["p", "q"], ["p", CHAT]])
def test_an_export_loads_to_the_same_rows(tmp_path, suffix, prompts):
    store = ThumbStore(tmp_path)
    for prompt in prompts:
        store.add(prompt, "a\n=1+1", prompt == "p", sampling={"seed": 1})
    out = tmp_path / f"out{suffix}"
    assert store.export(out) == 2
    rows = load_feedback(out).rows
    expected = [p if prompts[1] == "q" or p is CHAT else [{"role": "user", "content": p}] for p in prompts]
    assert [(row.prompt, row.completion, row.label) for row in rows] == [
        (expected[0], "a\n=1+1", True), (expected[1], "a\n=1+1", False),
    ]  # fmt: skip
    first = json.loads(out.read_text().splitlines()[0]) if suffix == ".jsonl" else pq.read_table(out).to_pylist()[0]
    assert json.loads(first["sampling"]) == {"seed": 1}


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_tools_that_were_offered_come_back_with_the_thumb(tmp_path, suffix):
    # A prompt that is answered brings its tools in its first message; a row has them beside it.
    tool = {"type": "function", "function": {"name": "tell_time"}}
    store = ThumbStore(tmp_path)
    store.add("p", "a", True)
    store.add(Row([*CHAT], "", True, tools=[tool]).asked, "b", False)
    store.export(tmp_path / f"out{suffix}")
    for source in ("thumbs", tmp_path / f"out{suffix}"):
        plain, offered = load_feedback(source, workspace=tmp_path).rows
        assert (plain.tools, offered.prompt, offered.tools) == (None, CHAT, [tool])
        assert offered.asked[0] == {**CHAT[0], "tools": [tool]} and prompt_key(offered.asked) == prompt_key(CHAT)


def test_an_export_that_can_not_be_written_says_so_and_leaves_nothing(tmp_path):
    store = ThumbStore(tmp_path)
    assert store.export(tmp_path / "none.parquet") == 0 and pq.read_table(tmp_path / "none.parquet").num_rows == 0
    with pytest.raises(DataError, match="jsonl or a .parquet"):
        store.export(tmp_path / "a.csv")
    with pytest.raises(DataError, match="Can't write"):
        store.export(tmp_path / "nowhere" / "a.jsonl")
    assert [p.name for p in tmp_path.iterdir()] == ["none.parquet"]


def test_a_file_that_is_no_store_is_one_sentence(tmp_path):
    store = ThumbStore(tmp_path)
    store.path.write_bytes(b"not a database, whatever its name says" * 50)
    with pytest.raises(DataError, match="Can't use the thumbs in"):
        store.add("p", "a", True)
    store.path.unlink()
    sqlite3.connect(store.path).execute("PRAGMA user_version = 99").connection.close()
    with pytest.raises(DataError, match="newer workbench"):
        len(store)


# What the first version wrote, word by word.
VERSION_1 = """
CREATE TABLE IF NOT EXISTS thumbs (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    prompt TEXT NOT NULL,           -- JSON: a text or a list of messages
    completion TEXT NOT NULL,
    label INTEGER,                  -- 1 up, 0 down, NULL taken back
    model TEXT NOT NULL, adapter TEXT NOT NULL, run TEXT NOT NULL,
    sampling TEXT NOT NULL,         -- JSON: temperature, seed, …
    who TEXT NOT NULL,
    created REAL NOT NULL, changed REAL NOT NULL    -- seconds since 1970
)"""


def test_a_file_of_the_first_version_is_taken_over_whole(tmp_path):
    path = ThumbStore(tmp_path).path
    old = [
        (1, '"p"', "a", 1, "demo", "runs/r/adapter", "r", '{"temperature": 0.9}', "ann", 100.0, 100.0),
        (3, json.dumps(CHAT), "b", None, "demo", "", "r", "{}", "", 200.0, 300.0),
    ]
    database = sqlite3.connect(path)
    database.execute("PRAGMA journal_mode = WAL")
    database.execute(VERSION_1)
    database.executemany(f"INSERT INTO thumbs VALUES ({', '.join('?' * 11)})", old)
    database.execute("PRAGMA user_version = 1")
    database.commit()
    database.close()

    with ThreadPoolExecutor(4) as pool:  # several open it at once; one of them renews it
        found = list(pool.map(lambda _: list(ThumbStore(tmp_path).thumbs(retracted=True)), range(4)))
    assert found[0] == found[1] == found[2] == found[3]
    first, second = found[0]
    assert (first.id, first.prompt, first.completion, first.label, first.sampling, first.who, first.created) == (
        1, "p", "a", True, {"temperature": 0.9}, "ann", 100.0,
    )  # fmt: skip
    assert (second.id, second.prompt, second.label, second.run, second.changed) == (3, CHAT, None, "r", 300.0)
    assert first.note == second.note == ""
    store = ThumbStore(tmp_path)
    store.annotate(1, "why")
    assert store.get(1).note == "why" and store.add("p", "c", False, note="new") == 4


def test_a_file_of_the_second_version_says_who_wrote_each_answer(tmp_path):
    path = ThumbStore(tmp_path).path
    samplings = ['{"side": "tuned", "seed": 1}', '{"side": "reference"}', '{"side": "checkpoint-8"}', "{}", "damaged"]
    database = sqlite3.connect(path)
    database.execute("PRAGMA journal_mode = WAL")
    database.execute(VERSION_1.replace("NULL    --", "NULL, note TEXT NOT NULL DEFAULT ''    --"))
    old = [(i, '"p"', f"{i}", i % 2, "demo", "", "r", text, "", 1.0, 1.0, "") for i, text in enumerate(samplings, 1)]
    database.executemany(f"INSERT INTO thumbs VALUES ({', '.join('?' * 12)})", old)
    database.execute("PRAGMA user_version = 2")
    database.commit()
    database.close()
    # thumbs 1, 3 and 5 are up
    assert ThumbStore(tmp_path).by_side() == {
        "": Balance(1, 1), "r": Balance(1, 0), "r@checkpoint-8": Balance(1, 0), "r@reference": Balance(0, 1),
    }  # fmt: skip


def test_a_thumb_says_who_wrote_the_answer_and_so_does_the_export(tmp_path):
    store = ThumbStore(tmp_path)
    thumb = store.add("p", "a", False, model="Qwen/Qwen3-8B", side="endpoint:local")
    store.add("p", "b", True, model="demo", side="model:demo")
    store.add("p", "c", True, model="demo", side="model:demo")
    mine = store.edit(thumb, "better")  # which no model wrote
    assert (store.get(thumb).side, store.get(mine).side) == ("endpoint:local", "")
    found = store.by_side()
    assert found == {"model:demo": Balance(2, 0), "": Balance(1, 0), "endpoint:local": Balance(0, 1)}
    assert next(iter(found)) == "model:demo"
    store.export(tmp_path / "out.jsonl")
    store.export(tmp_path / "out.parquet")
    sides = ["endpoint:local", "model:demo", "model:demo", ""]
    assert [json.loads(line)["side"] for line in (tmp_path / "out.jsonl").read_text().splitlines()] == sides
    assert pq.read_table(tmp_path / "out.parquet")["side"].to_pylist() == sides


def test_a_note_is_kept_with_its_vote_and_exported(tmp_path):
    store = ThumbStore(tmp_path)
    thumb = store.add("p", "a", False, note="too\nlong")
    assert store.get(thumb).note == "too\nlong"
    store.annotate(thumb, "=rude 👎")
    assert (store.get(thumb).note, store.get(thumb).label) == ("=rude 👎", False)
    store.export(tmp_path / "out.jsonl")
    assert json.loads((tmp_path / "out.jsonl").read_text())["note"] == "=rude 👎"
    store.export(tmp_path / "out.parquet")
    assert pq.read_table(tmp_path / "out.parquet").to_pylist()[0]["note"] == "=rude 👎"
    with pytest.raises(DataError, match="no thumb 9"):
        store.annotate(9, "x")


def test_a_better_answer_is_a_desirable_row_of_its_own(tmp_path):
    store = ThumbStore(tmp_path)
    liked = store.add(CHAT, "a", True, model="demo", run="r", adapter="x", sampling={"temperature": 0.9}, who="ann")
    taken_back = store.add("p", "b", False)
    store.retract(taken_back)
    first, second = store.edit(liked, " A! "), store.edit(taken_back, "B!")
    better = store.get(first)
    assert (better.prompt, better.completion, better.label) == (CHAT, "A!", True)
    assert (better.model, better.run, better.adapter, better.who) == ("demo", "r", "x", "ann")
    assert better.sampling == {"edited_from": liked} and better.note == ""
    assert store.get(liked).label is True  # the voter's own vote stands
    assert store.get(taken_back).label is False  # no vote: who writes a better one finds it worse
    assert store.get(second).sampling == {"edited_from": taken_back}

    assert store.edited(liked) == better and store.edited(first) is None
    store.retract(first)
    assert store.edited(liked) is None
    assert store.edit(liked, "A!!") == first  # mended, not added
    assert (store.get(first).completion, store.get(first).label) == ("A!!", True)
    assert len(store) == 4
    for thumb, better, said in ((liked, " \n", "is empty"), (liked, "a ", "is the same"), (99, "c", "no thumb 99")):
        with pytest.raises(DataError, match=said):
            store.edit(thumb, better)
    assert len(store) == 4


def test_votes_are_counted_by_the_day_of_this_machines_calendar(tmp_path, monkeypatch):
    monkeypatch.setenv("TZ", "Asia/Shanghai")  # UTC + 8
    time.tzset()
    try:
        store = ThumbStore(tmp_path)
        assert store.by_day() == {}
        moments = ["2026-03-01 15:59", "2026-03-01 16:00", "2026-03-02 15:00", "2026-03-09 12:00"]
        for moment, label in zip(moments, (True, True, False, True), strict=True):
            seconds = datetime.fromisoformat(moment + "+00:00").timestamp()
            monkeypatch.setattr(time, "time", lambda seconds=seconds: seconds)
            last = store.add("p", moment, label)
        store.retract(last)
        days = {day.isoformat(): (found.n_desirable, found.n_undesirable) for day, found in store.by_day().items()}
        assert days == {"2026-03-01": (1, 0), "2026-03-02": (1, 1)}  # 16:00 UTC is midnight there
    finally:
        monkeypatch.undo()
        time.tzset()


def test_threads_wait_for_each_other(tmp_path):
    store = ThumbStore(tmp_path)
    with ThreadPoolExecutor(8) as pool:
        ids = list(pool.map(lambda i: store.add("p", str(i), i % 2 == 0), range(80)))
    assert len(set(ids)) == 80 == len(store)


def test_a_new_file_waits_for_whoever_is_making_it_too(tmp_path):
    # While another holds the file, SQLite refuses the switch to write-ahead logging at once, whatever the timeout.
    other = sqlite3.connect(tmp_path / "feedback.sqlite", isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    threading.Timer(0.5, lambda: other.execute("ROLLBACK")).start()
    assert ThumbStore(tmp_path).add("p", "a", True) == 1
    other.close()


WRITER = """
import sys
from kto_workbench.feedback.store import ThumbStore
store, name = ThumbStore(sys.argv[1]), sys.argv[2]
for i in range(100_000):
    thumb = store.add("p", f"{name} {i}", True, who=name)
    if i % 3 == 0:
        store.change(thumb, False)
    print(thumb, i % 3 != 0, flush=True)     # what is printed has been acknowledged
"""


def test_kills_lose_no_acknowledged_thumb(tmp_path):
    """Two processes write at once and are killed, three times over; what they had acknowledged is all there."""
    chance = random.Random(1)
    acknowledged = {}
    for turn in range(3):
        writers = [
            subprocess.Popen(
                [sys.executable, "-c", WRITER, str(tmp_path), f"{turn}-{i}"], stdout=subprocess.PIPE, text=True
            )
            for i in range(2)
        ]
        for writer in writers:
            acknowledged.update(_said(writer.stdout.readline()))  # it has begun
        time.sleep(chance.uniform(0.05, 0.3))
        for writer in writers:
            writer.send_signal(signal.SIGKILL)
        for writer in writers:
            # a kill may cut the last line short: that one was not acknowledged
            acknowledged.update(pair for line in writer.stdout if line.endswith("\n") for pair in _said(line).items())
            writer.stdout.close()
            assert writer.wait() == -signal.SIGKILL
    store = ThumbStore(tmp_path)
    kept = {thumb.id: thumb.label for thumb in store.thumbs()}
    assert len(acknowledged) >= 6 and acknowledged.items() <= kept.items()
    assert len(kept) - len(acknowledged) <= 6  # at most the one that each of 6 writers was busy with
    database = sqlite3.connect(store.path)
    assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    database.close()
    assert store.add("p", "after", True) > max(kept)


def _said(line):
    thumb, label = line.split()
    return {int(thumb): label == "True"}
