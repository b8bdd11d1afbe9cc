"""Bad input: one sentence, bounded memory and time, and no row lost in silence."""

import csv
import gzip
import io
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from kto_workbench.errors import DataError
from kto_workbench.feedback import load_feedback

GOOD = b'{"prompt": "p", "completion": "c", "label": true}\n'


def refused(path, **options):
    """The sentence with which a source is refused."""
    with pytest.raises(DataError) as error:
        load_feedback(path, **options)
    sentence = str(error.value)
    assert "\n" not in sentence and sentence.endswith(".") and len(sentence) < 400
    return sentence


def written(tmp_path, content):
    (tmp_path / "a").write_bytes(content)
    return tmp_path / "a"


# files that are refused ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pack", [gzip.compress, zstandard.compress])
def test_a_truncated_archive(tmp_path, pack):
    noise = b"".join(b'{"prompt": "%d", "completion": "c", "label": 1}\n' % (i * 7919 % 10007) for i in range(5000))
    path = written(tmp_path, pack(noise)[:-100])
    assert "is not a complete" in refused(path)
    path.write_bytes(pack(noise)[:3])
    refused(path)


@pytest.mark.parametrize("content", [GOOD, b"0" * 100], ids=["of rows", "of one line"])
def test_a_zip_bomb(tmp_path, monkeypatch, content):
    if content is GOOD:
        monkeypatch.setattr("kto_workbench.feedback.files.BOMB_BYTES", 2**26)  # 64 MB of rows are enough to see it
    part = content * (2**20 // len(content))
    path = written(tmp_path, zstandard.compress(part) * 4000)  # 4 GB
    assert path.stat().st_size < 2**20
    began = time.monotonic()
    assert "looks like a zip bomb" in refused(path, workspace=tmp_path)
    assert time.monotonic() - began < 60


def test_a_zip_archive_and_other_binaries(tmp_path):
    assert "can't be read as a zip archive" in refused(written(tmp_path, b"PK\x03\x04" + bytes(100)))
    assert "neither text nor" in refused(written(tmp_path, b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 20))
    assert "neither text nor" in refused(written(tmp_path, bytes(5000)))
    refused(written(tmp_path, b"\xff\xfe"))
    refused(written(tmp_path, b"PAR1"))


def test_damaged_parquet_and_arrow(tmp_path):
    table = pa.Table.from_pylist([{"prompt": "p" * i, "completion": "c", "label": True} for i in range(1000)])
    pq.write_table(table, tmp_path / "a")
    whole = (tmp_path / "a").read_bytes()
    for damaged in (whole[:-50], whole[: len(whole) // 2], b"PAR1" + os.urandom(1000) + b"PAR1"):
        assert "damaged" in refused(written(tmp_path, damaged))
    out = io.BytesIO()
    with pa.ipc.new_stream(out, table.schema) as writer:
        writer.write_table(table)
    assert "damaged" in refused(written(tmp_path, out.getvalue()[:-1000]))


def test_flipped_bytes_in_a_binary_file(tmp_path):
    table = pa.Table.from_pylist(
        [{"prompt": "p" * (i % 50 + 1), "completion": f"c{i}", "label": i % 2 == 0} for i in range(99)]
    )
    stream, parquet = io.BytesIO(), io.BytesIO()
    with pa.ipc.new_stream(stream, table.schema) as writer:
        writer.write_table(table)
    pq.write_table(table, parquet)
    chance = random.Random(0)
    for whole in (stream.getvalue(), parquet.getvalue()) * 40:
        damaged = bytearray(whole)
        for _ in range(chance.randint(1, 4)):
            damaged[chance.randrange(4, len(damaged))] = chance.randrange(256)
        try:
            feedback = load_feedback(written(tmp_path, damaged))
        except DataError as error:
            assert "\n" not in str(error)
        else:
            assert feedback.rows_in == feedback.rows_kept + len(feedback.problems) and len(list(feedback.rows))


def test_what_is_no_file(tmp_path, monkeypatch):
    assert "is a folder" in refused(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    assert "not a regular file" in refused(tmp_path / "pipe")  # and it does not wait for a writer
    assert "not a regular file" in refused("/dev/zero")
    assert "no file" in refused("nowhere.jsonl")
    assert "Can't read" in refused("x" * 300)
    assert "Can't read" in refused("a\0b")
    path = written(tmp_path, GOOD)
    if os.geteuid():
        path.chmod(0)
    else:  # root may read anything
        monkeypatch.setattr(os, "access", lambda *_: False)
    assert "permission denied" in refused(path)


# rows that are listed ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"prompt": "p\0", "completion": "c", "label": true}', "NUL bytes"),
        (b'{"prompt": "p\xe9", "completion": "c", "label": true}', "not valid UTF-8"),
        (b'{"prompt": "p\\ud83d", "completion": "c", "label": true}', "half an emoji"),
        (b'{"prompt": "p", "completion": "c", "label": ' + b"9" * 5000 + b"}", "too long"),
        (b'{"prompt": ' + b"[" * 100_000, "nested too deeply"),
        (b'{"prompt": ' + b'{"a":' * 5000 + b"1" + b"}" * 5001, "nested too deeply"),
        (b'{"prompt": "p", "completion": "c", "label": true} {"prompt": "q"}', "not valid JSON"),
        (b'{"prompt": {"a": 1}, "completion": "c", "label": true}', "prompt is not text"),
        (b'{"prompt": "p", "completion": ["c", 1], "label": true}', "completion is not text"),
        (b'{"prompt": "p", "completion": "c", "label": [true, false]}', "neither thumbs up nor thumbs down"),
        (b'{"prompt": "p", "completion": "c", "label": NaN}', "label is missing"),
    ],
)
def test_a_bad_line_between_good_ones(tmp_path, line, reason):
    feedback = load_feedback(written(tmp_path, GOOD + line + b"\n" + GOOD))
    assert (feedback.rows_in, feedback.rows_kept) == (3, 2)
    assert [(problem.line, reason in problem.reason) for problem in feedback.problems] == [(2, True)]


def test_mixed_types_in_a_column(tmp_path):
    labels = [True, "good", 1, "👎", 0, None, "maybe", 2.5]
    rows = [{"prompt": 5 if i % 2 else "p", "completion": 4.0, "label": label} for i, label in enumerate(labels)]
    feedback = load_feedback(written(tmp_path, b"".join(json.dumps(row).encode() + b"\n" for row in rows)))
    assert [row.label for row in feedback.rows] == [True, True, True, False, False]
    assert [problem.line for problem in feedback.problems] == [6, 7, 8]
    assert feedback.rows[1].prompt == "5" and feedback.rows[0].completion == "4.0"


def test_a_csv_formula_is_text(tmp_path):
    cell = '=HYPERLINK("http://example.org","x")'
    out = io.StringIO()
    csv.writer(out).writerows([["prompt", "completion", "label"], [cell, "@SUM(1+1)", "1"], ["p", "#NAME?", "0"]])
    feedback = load_feedback(written(tmp_path, out.getvalue().encode()))
    assert [(row.prompt, row.completion) for row in feedback.rows] == [(cell, "@SUM(1+1)"), ("p", "#NAME?")]


@pytest.mark.parametrize(
    ("start", "filler", "end", "rows_in"),
    [
        (GOOD + b'{"prompt": "', b"x", b'"}\n' + GOOD, 3),
        (b"[" + GOOD + b', {"prompt": "', b"x", b'"}]', 2),
        (b"prompt,completion,label\np,c,1\n", b"x", b"\np,c,0\n", 3),
        pytest.param(b'prompt,completion,label\np,c,1\n"', b"x\n", b'",c,0\n', 2, marks=pytest.mark.slow),
        (GOOD, b"[", b"\n" + GOOD, 3),
    ],
    ids=["JSON lines", "JSON", "CSV", "CSV quote", "nested"],
)
def test_a_line_of_100_megabytes_is_listed_in_bounded_memory(tmp_path, start, filler, end, rows_in):
    with (tmp_path / "a").open("wb") as file:
        file.write(start)
        for _ in range(100):
            file.write(filler * (2**20 // len(filler)))
        file.write(end)
    code = """
import resource, sys
from kto_workbench.feedback import load_feedback
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
feedback = load_feedback(sys.argv[1])
grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024
print(feedback.rows_in, feedback.rows_kept, len(feedback.problems), grown)
"""
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "a")], capture_output=True, text=True)
    found, kept, listed, grown = map(int, done.stdout.split())
    assert found == kept + listed and found >= rows_in and kept >= 1 and listed >= 1
    assert grown < 600 and time.monotonic() - began < 60


# rows in = rows kept + rows listed -----------------------------------------------------------------------------------

TEXTS = st.text(st.characters(codec="utf-8"), max_size=12) | st.sampled_from(
    ["", " ", "[", '[{"role": "user"}]', "Human: a"]
)
VALUES = st.none() | st.booleans() | st.integers(-3, 9) | st.floats() | TEXTS | st.lists(TEXTS, max_size=2)
LABELS = st.booleans() | st.sampled_from([1, 0, "good", "bad", "👍", "maybe", None, ""]) | VALUES
ROWS = st.fixed_dictionaries({}, optional={"prompt": TEXTS | VALUES, "completion": TEXTS | VALUES, "label": LABELS})
FIRST = {"prompt": "p", "completion": "c", "label": True}


def account(feedback, rows_in):
    """Hold the equation, and that each row is either kept or listed."""
    kept, listed = [row.line for row in feedback.rows], [problem.line for problem in feedback.problems]
    assert feedback.rows_in == rows_in == feedback.rows_kept + len(feedback.problems)
    assert len(listed) == len(set(listed)) and not set(kept) & set(listed)
    assert len(set(kept) | set(listed)) == rows_in
    assert feedback.n_desirable + feedback.n_undesirable == len(feedback.rows)
    assert kept == sorted(kept) and all(problem.reason for problem in feedback.problems)


def load_bytes(content):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a"
        path.write_bytes(content)
        return load_feedback(path)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        ROWS.map(lambda row: json.dumps(row).encode()) | st.binary(max_size=20).map(lambda b: b.replace(b"\n", b""))
    )
)
def test_json_lines_account_for_every_line(lines):
    lines = [json.dumps(FIRST).encode(), *lines]
    account(load_bytes(b"\n".join(lines)), sum(bool(line.strip()) for line in lines))


@settings(max_examples=100, deadline=None)
@given(st.lists(ROWS | VALUES), st.sampled_from([None, 1]))
def test_json_lists_account_for_every_element(rows, indent):
    feedback = load_bytes(json.dumps([FIRST, *rows], indent=indent).encode())
    assert feedback.rows_in == 1 + len(rows) == feedback.rows_kept + len(feedback.problems)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.lists(TEXTS.filter(lambda t: "\0" not in t), min_size=2, max_size=4)), st.sampled_from(",;\t|"))
def test_csv_accounts_for_every_row(rows, delimiter):
    out = io.StringIO()
    csv.writer(out, delimiter=delimiter).writerows([["prompt", "completion", "label"], ["p", "c", "1"], *rows])
    account(load_bytes(out.getvalue().encode()), 1 + len(rows))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.fixed_dictionaries({"prompt": TEXTS, "completion": TEXTS, "label": LABELS})))
def test_the_fast_way_and_the_careful_way_agree(rows):
    """Plain columns take the vectorised way of columns.py, dicts the careful one of formats.py: the same comes out."""
    rows = [FIRST, *rows]
    slow = load_feedback(rows)
    fast = load_bytes("\n".join(map(json.dumps, rows)).encode())
    assert [(r.prompt, r.completion, r.label, r.line) for r in fast.rows] == [
        (r.prompt, r.completion, r.label, r.line) for r in slow.rows
    ]
    assert fast.problems == slow.problems


@settings(max_examples=100, deadline=None)
@given(st.lists(st.fixed_dictionaries({"prompt": TEXTS, "chosen": TEXTS, "rejected": TEXTS})))
def test_the_fast_way_and_the_careful_way_agree_on_pairs(rows):
    rows = [{"prompt": "p", "chosen": "c", "rejected": "r"}, *rows]
    slow, fast = load_feedback(rows), load_feedback(pa.Table.from_pylist(rows))
    assert [(r.prompt, r.completion, r.label, r.line) for r in fast.rows] == [
        (r.prompt, r.completion, r.label, r.line) for r in slow.rows
    ]
    assert fast.problems == slow.problems


@settings(max_examples=150, deadline=None)
@given(
    st.binary(max_size=300)
    | st.binary(max_size=60).map(lambda b: GOOD + b)
    | st.binary(max_size=60).map(lambda b: b"[" + GOOD + b)
)
def test_any_bytes_are_refused_in_a_sentence_or_accounted_for(content):
    try:
        feedback = load_bytes(content)
    except DataError as error:
        assert "\n" not in str(error)
    else:
        assert feedback.rows_in == feedback.rows_kept + len(feedback.problems)
