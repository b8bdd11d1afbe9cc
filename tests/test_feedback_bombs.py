"""Small files that stand for gigabytes: one sentence, and memory that stays small."""

import gzip
import os
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from kto_workbench.errors import DataError
from kto_workbench.feedback import load_feedback
from kto_workbench.feedback.tables import CHUNK_ROWS, HELD_BYTES, _unpacked_size

pytestmark = pytest.mark.reliability("A small file that stands for gigabytes is one sentence")

MEGABYTE = "a" * 2**20
MOST = 900  # MB that any of them may take, python and its libraries included; each stands for more, or would take more


def named_again(count, text=MEGABYTE):
    """One text, `count` times, stored once."""
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(count, np.int32)), pa.array([text]))


def rows_of(count, **columns):
    return pa.table({"prompt": ["p"] * count, "completion": ["c"] * count, "label": [True] * count, **columns})


def in_lists(count):
    turns = pa.StructArray.from_arrays([named_again(count, "user"), named_again(count)], ["role", "content"])
    return pa.ListArray.from_arrays(pa.array([0, count], pa.int32()), turns)


def as_parquet(table, path, **options):
    pa.parquet.write_table(table, path, compression="zstd", **options)


def as_arrow(table, path, compression="zstd", writer=pa.ipc.new_file):
    options = pa.ipc.IpcWriteOptions(compression=compression)
    with writer(path, table.schema, options=options) as file:
        file.write_table(table)


def few_values(path):
    as_parquet(rows_of(3000, prompt=named_again(3000)), path)


def few_values_told_as_texts(path):
    as_parquet(rows_of(3000, prompt=named_again(3000)), path, store_schema=False)


def one_list(path):
    as_parquet(pa.table({"messages": in_lists(3000), "label": [True]}), path, store_schema=False)


def one_page(path):
    as_parquet(rows_of(260, prompt=[MEGABYTE] * 260), path, use_dictionary=False, data_page_size=2**30)


def rows_that_say_nothing(path):
    same = {name: named_again(2**23, "a") for name in ("prompt", "completion")}
    as_parquet(pa.table({**same, "label": np.zeros(2**23, bool)}), path)


def packed_buffers(path):
    as_arrow(rows_of(400, prompt=[MEGABYTE] * 400), path)


def packed_buffers_of_a_stream(path):
    as_arrow(rows_of(400, prompt=[MEGABYTE] * 400), path, "lz4", pa.ipc.new_stream)


def packed_dictionary(path):
    texts = pa.DictionaryArray.from_arrays(pa.array([0, 1] * 200, pa.int32()), pa.array(["a" * 2**28, "b" * 2**20]))
    as_arrow(rows_of(400, prompt=texts), path)


def few_values_of_arrow(path):
    as_arrow(rows_of(3000, prompt=named_again(3000)), path, None)


def nothing_again_and_again(path):
    as_arrow(pa.table({"prompt": pa.nulls(2**24)}), path, None)


def one_row_of_json(path):
    with gzip.open(path, "wb", 1) as file:
        file.write(b'[{"prompt": "p", "completion": "c", "label": true, "x": [' + b"[]," * 4_000_000 + b"0]}]")


BOMBS = [
    few_values, few_values_told_as_texts, one_list, one_page, rows_that_say_nothing, packed_buffers,
    packed_buffers_of_a_stream, packed_dictionary, few_values_of_arrow, nothing_again_and_again, one_row_of_json,
]  # fmt: skip
LOADED = """
import re, sys
from kto_workbench.errors import DataError
from kto_workbench.feedback import load_feedback
for path in sys.argv[2:]:
    try:
        print(load_feedback(path, workspace=sys.argv[1]).problems[0].reason)
    except DataError as error:
        print(error)
    print(int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read()).group(1)) >> 10)
"""


def test_no_file_takes_more_memory_than_feedback_could(tmp_path):
    paths = [tmp_path / bomb.__name__ for bomb in BOMBS]
    for bomb, path in zip(BOMBS, paths, strict=True):
        bomb(path)
        assert os.path.getsize(path) < 4_000_000
    command = [sys.executable, "-c", LOADED, tmp_path, *paths]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    said, peaks = done.stdout.splitlines()[::2], list(map(int, done.stdout.splitlines()[1::2]))
    assert len(said) == len(BOMBS) and max(peaks) < MOST, list(zip(said, peaks, strict=True))
    for path, sentence in zip(paths, said, strict=True):
        assert "looks like a zip bomb" in sentence or "longer than 8 MB" in sentence, (path.name, sentence)


def mixed(count):
    """Rows of which some are long, many alike, and some nothing."""
    random = np.random.default_rng(0)
    texts = ["x" * int(n) for n in random.integers(0, 40_000, 20)] + [f"text {i}" for i in range(count)]
    prompts = [texts[i] for i in random.integers(0, len(texts), count)]
    turns = [[{"role": "user", "content": prompt}, {"role": "assistant", "content": "yes"}] for prompt in prompts]
    return prompts, turns


@pytest.mark.parametrize("write", [as_parquet, as_arrow, lambda table, path: as_arrow(table, path, None)])
@pytest.mark.parametrize("dictionary", [False, True])
def test_what_is_taken_piece_by_piece_is_whole(tmp_path, write, dictionary, monkeypatch):
    monkeypatch.setattr("kto_workbench.feedback.tables.HELD_BYTES", 8_000_000)  # some rows at a time
    prompts, turns = mixed(3 * CHUNK_ROWS + 5)
    column = pa.array(prompts)
    table = rows_of(len(prompts), prompt=column.dictionary_encode() if dictionary else column)
    write(table, tmp_path / "texts")
    found = load_feedback(tmp_path / "texts", workspace=tmp_path)
    asked = [prompt for prompt in prompts if prompt.strip()]
    assert [row.prompt for row in found.rows] == asked and found.rows_in == len(prompts)
    write(pa.table({"messages": turns, "label": [True] * len(turns)}), tmp_path / "chats")
    chats = load_feedback(tmp_path / "chats", workspace=tmp_path)
    assert [row.prompt[0]["content"] for row in chats.rows] == asked


def test_the_size_in_a_page_header_is_read_as_it_stands(tmp_path):
    """Against the sizes that were written: one value is its length in 4 bytes, and itself."""
    for length in (1, 59, 60, 8_187, 8_188, 1_000_000):
        as_parquet(pa.table({"a": ["a" * length] * 3}), tmp_path / "a", dictionary_pagesize_limit=2**30)
        column = pa.parquet.ParquetFile(tmp_path / "a").metadata.row_group(0).column(0)
        with pa.OSFile(str(tmp_path / "a")) as file:
            assert _unpacked_size(file, column.dictionary_page_offset) == 4 + length


def test_damaged_tables_are_one_sentence(tmp_path):
    """Any byte changed, or the rest cut off: rows, or a DataError, and nothing else."""
    for write in (as_parquet, as_arrow):
        write(rows_of(20), tmp_path / "whole")
        whole = (tmp_path / "whole").read_bytes()
        random = np.random.default_rng(1)
        for number in range(150):
            damaged = bytearray(whole)
            for place in random.integers(0, len(whole), random.integers(1, 4)):
                damaged[place] = random.integers(0, 256)
            if number % 5 == 0:
                damaged = damaged[: random.integers(1, len(whole))]
            (tmp_path / "damaged").write_bytes(damaged)
            try:
                load_feedback(tmp_path / "damaged", workspace=tmp_path)
            except DataError as error:
                assert "\n" not in str(error)


def test_a_chunk_is_small():
    assert HELD_BYTES <= 2**27
