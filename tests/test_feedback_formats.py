"""Every format by a small sample: the right counts, prompts and answers."""

import csv
import gzip
import io
import json

import datasets
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from kto_workbench.errors import DataError
from kto_workbench.feedback import load_feedback


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


def system(text):
    return {"role": "system", "content": text}


def rows_of(feedback):
    return [(row.prompt, row.completion, row.label) for row in feedback.rows]


def load(rows):
    return rows_of(load_feedback(rows))


# shapes of rows ------------------------------------------------------------------------------------------------------


def test_trl_unpaired_text_and_conversational():
    assert load([{"prompt": "p", "completion": "c", "label": True}]) == [("p", "c", True)]
    assert load([{"prompt": [user("p")], "completion": [assistant("c")], "label": False}]) == [
        ([user("p")], "c", False)
    ]
    call = {"role": "assistant", "content": "", "tool_calls": [{"id": "1"}]}
    turns = [call, {"role": "tool", "content": "5", "tool_call_id": "1"}, assistant("five")]
    assert load([{"prompt": [user("p")], "completion": turns, "label": True}]) == [
        ([user("p"), *turns[:2]], "five", True)
    ]


def test_trl_paired_text_and_conversational():
    assert load([{"prompt": "p", "chosen": "c", "rejected": "r"}]) == [("p", "c", True), ("p", "r", False)]
    pair = {"prompt": [user("p")], "chosen": [assistant("c")], "rejected": [assistant("r")]}
    assert load([pair]) == [([user("p")], "c", True), ([user("p")], "r", False)]


def test_trl_implicit_prompt():
    pair = {"chosen": [user("p"), assistant("c")], "rejected": [user("p"), assistant("r")]}
    assert load([pair]) == [([user("p")], "c", True), ([user("p")], "r", False)]
    # texts part at the start of a word: "sky is b|lue" and "sky is b|rown" are cut before the b
    pair = {"chosen": "The sky is blue", "rejected": "The sky is brown"}
    assert load([pair]) == [("The sky is ", "blue", True), ("The sky is ", "brown", False)]
    feedback = load_feedback([pair, {"chosen": "abc", "rejected": "xyz"}])
    assert feedback.problems[0].reason == "chosen and rejected share no prompt at their start"


def test_anthropic_transcripts():
    start = "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: And?\n\nAssistant:"
    turns = [user("Hi"), assistant("Hello"), user("And?")]
    pair = {"chosen": f"{start} Fine.", "rejected": f"{start} Bad."}
    assert load([pair]) == [(turns, "Fine.", True), (turns, "Bad.", False)]
    assert load([{"prompt": start, "completion": "Fine.", "label": 1}]) == [(turns, "Fine.", True)]


def test_llama_factory():
    alpaca = {"instruction": "Add.", "input": "2+3", "output": "5", "kto_tag": True}
    assert load([alpaca]) == [("Add.\n2+3", "5", True)]
    alpaca = {**alpaca, "input": "", "system": "s", "history": [["q", "a"]], "kto_tag": "false"}
    assert load([alpaca]) == [([system("s"), user("q"), assistant("a"), user("Add.")], "5", False)]
    pair = {"instruction": "Add.", "input": "", "chosen": "5", "rejected": "6"}
    assert load([pair]) == [("Add.", "5", True), ("Add.", "6", False)]
    blocks = [{"type": "text", "value": "2+"}, {"type": "text", "value": "3"}]
    sharegpt = {
        "conversations": [{"from": "human", "value": blocks}, {"from": "gpt", "value": "5"}],
        "kto_tag": True,
        "system": "s",
        "tools": '[{"name": "add"}]',
    }
    row = load_feedback([sharegpt]).rows[0]
    assert (row.prompt, row.completion, row.tools) == ([system("s"), user("2+3")], "5", [{"name": "add"}])
    calls = [("human", "q"), ("function_call", "f()"), ("observation", "5"), ("gpt", "five")]
    sharegpt = {"conversations": [{"from": who, "value": said} for who, said in calls], "label": True}
    assert load([sharegpt]) == [([user("q"), assistant("f()"), {"role": "tool", "content": "5"}], "five", True)]
    image = [{"role": "user", "content": [{"type": "image", "url": "x"}]}, assistant("a")]
    feedback = load_feedback([sharegpt, {"conversations": image, "label": True}])
    where = "there is no file beside which it could lie"
    assert feedback.problems[0].reason == f"conversations: an image is named by its path, and {where}"
    sound = [{"role": "user", "content": [{"type": "audio", "url": "x"}]}, assistant("a")]
    feedback = load_feedback([sharegpt, {"conversations": sound, "label": True}])
    assert "block of type 'audio'" in feedback.problems[0].reason


def test_ultrafeedback_scores_have_a_threshold_that_is_shown():
    row = {
        "instruction": "q",
        "completions": [{"response": f"a{n}", "overall_score": n, "model": "m"} for n in (9, 2, 5.5)],
    }
    feedback = load_feedback([row])
    assert rows_of(feedback) == [("q", "a9", True), ("q", "a2", False)]
    assert feedback.mapping["threshold"] == 5.5 and feedback.rows_kept == 1
    assert "lies on the cut" in feedback.parts_left_out[0].reason
    assert len(load_feedback([row], mapping={"threshold": 5}).rows) == 3
    lists = {"prompt": "q", "generations": ["a", "b"], "ratings": [5, 1]}
    assert load([lists]) == [("q", "a", True), ("q", "b", False)]
    binarized = {
        "prompt": "q",
        "chosen": [user("q"), assistant("a")],
        "rejected": [user("q"), assistant("b")],
        "messages": [user("q"), assistant("a")],
        "score_chosen": 8.0,
        "score_rejected": 2.0,
    }
    assert load([binarized]) == [([user("q")], "a", True), ([user("q")], "b", False)]


def test_openai_logs():
    answer = {"choices": [{"index": 0, "message": assistant("a"), "finish_reason": "stop"}], "id": "x"}
    log = {"request": {"model": "m", "messages": [user("q")]}, "response": answer, "feedback": "thumbs_up"}
    assert load([log]) == [([user("q")], "a", True)]
    assert load([{"messages": [user("q")], **answer, "rating": {"rating": 0}}]) == [([user("q")], "a", False)]
    assert load([{**log, "feedback": None, "metadata": {"rating": "bad"}}]) == [([user("q")], "a", False)]
    two = {**log, "response": {"choices": answer["choices"] * 2}}
    assert "2 answers" in load_feedback([log, two]).problems[0].reason
    preference = {
        "input": {"messages": [user("q")], "tools": []},
        "preferred_output": [assistant("a")],
        "non_preferred_output": [assistant("b")],
    }
    assert load([preference]) == [([user("q")], "a", True), ([user("q")], "b", False)]


def test_argilla():
    one = {
        "fields": {"prompt": "q", "response": "a"},
        "responses": [{"values": {"rating": {"value": 5}}, "status": "submitted"}],
    }
    two = {"fields": {"prompt": "q", "response": "b"}, "responses": {"rating": [{"value": 1, "user_id": "u"}]}}
    draft = {
        "fields": {"prompt": "q", "response": "c"},
        "responses": [{"values": {"rating": {"value": 5}}, "status": "draft"}],
    }
    feedback = load_feedback([one, two, draft])
    assert rows_of(feedback) == [("q", "a", True), ("q", "b", False)]
    assert [(p.line, p.reason) for p in feedback.problems] == [(3, "rating is missing")]
    hub = {
        "prompt": "q",
        "response": "a",
        "quality": [{"user_id": "u", "value": "good", "status": "submitted"}],
        "id": 7,
    }
    assert load([hub]) == [("q", "a", True)]
    hub = {
        "prompt": "q",
        "response": "a",
        "thumb.responses": ["no", "no", "yes"],
        "thumb.responses.users": ["a", "b", "c"],
    }
    assert load([hub]) == [("q", "a", False)]
    tie = {**hub, "thumb.responses": ["no", "yes"]}
    assert "annotators disagree" in load_feedback([hub, tie]).problems[0].reason


def test_label_studio():
    def task(result, **data):
        return {"id": 1, "data": {"prompt": "q", **data}, "annotations": [{"result": result, "was_cancelled": False}]}

    choice = [{"from_name": "verdict", "to_name": "t", "type": "choices", "value": {"choices": ["Good"]}}]
    assert load([task(choice, response="a")]) == [("q", "a", True)]
    stars = [[{"from_name": "stars", "type": "rating", "value": {"rating": n}}] for n in (4, 1)]
    assert [row[2] for row in load([task(result, response="a") for result in stars])] == [True, False]
    right = [{"from_name": "pw", "type": "pairwise", "value": {"selected": "right"}}]
    assert load([task(right, answer1="a", answer2="b")]) == [("q", "b", True), ("q", "a", False)]
    unjudged = {**task(choice, response="a"), "annotations": []}
    assert "nobody has judged" in load_feedback([task(choice, response="a"), unjudged]).problems[0].reason
    assert load([{"id": 1, "prompt": "q", "response": "a", "sentiment": "Negative", "annotator": 3}]) == [
        ("q", "a", False)
    ]


def test_ratings_with_a_cut():
    rows = [{"question": "q", "answer": str(n), "rating": n} for n in (1, 2, 3, 4, 5)]
    feedback = load_feedback(rows)
    assert [row.label for row in feedback.rows] == [False, False, True, True]
    assert feedback.mapping["threshold"] == 3 and feedback.problems[0].line == 3
    assert [r.label for r in load_feedback(rows, mapping={"threshold": 4.5}).rows] == [False, False, False, False, True]


# files ---------------------------------------------------------------------------------------------------------------

ROWS = [
    {"prompt": "Größe?", "completion": 'sie sagte: "groß",\nja', "label": True},
    {"prompt": "Wie, bitte?", "completion": "", "label": False},
]
EXPECTED = [("Größe?", 'sie sagte: "groß",\nja', True), ("Wie, bitte?", "", False)]


def as_csv(delimiter):
    out = io.StringIO()
    writer = csv.DictWriter(out, ROWS[0], delimiter=delimiter)
    writer.writeheader()
    writer.writerows(ROWS)
    return out.getvalue()


JSONL = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)
TEXTS = {
    "jsonl": JSONL,
    "windows-jsonl": JSONL.replace("\n", "\r\n"),
    "json": json.dumps(ROWS, ensure_ascii=False),
    "pretty-json": json.dumps(ROWS, ensure_ascii=False, indent=2),
    "wrapped-json": json.dumps({"data": ROWS}, ensure_ascii=False, indent=2),
    "objects-over-lines": "\n".join(json.dumps(row, ensure_ascii=False, indent=2) for row in ROWS),
    **{f"csv{delimiter}": as_csv(delimiter) for delimiter in ",;\t|"},
}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("kind", TEXTS)
def test_text_files(tmp_path, kind, encoding):
    (tmp_path / "a").write_bytes(TEXTS[kind].encode(encoding))
    feedback = load_feedback(tmp_path / "a")
    assert rows_of(feedback) == EXPECTED and feedback.rows_in == 2


@pytest.mark.parametrize("kind", ["jsonl", "pretty-json", "csv,"])
def test_packed_files(tmp_path, kind):
    data = TEXTS[kind].encode()
    halves = (data[: len(data) // 2], data[len(data) // 2 :])
    for packed in (
        gzip.compress(data),
        zstandard.compress(data),
        b"".join(map(gzip.compress, halves)),
        b"".join(map(zstandard.compress, halves)),
    ):
        (tmp_path / "a").write_bytes(packed)
        assert rows_of(load_feedback(tmp_path / "a")) == EXPECTED


def test_parquet_and_arrow_files(tmp_path):
    table = pa.Table.from_pylist(ROWS)
    pq.write_table(table, tmp_path / "a.parquet")
    (tmp_path / "packed").write_bytes(gzip.compress((tmp_path / "a.parquet").read_bytes()))
    with pa.ipc.new_file(tmp_path / "a.arrow", table.schema) as writer:
        writer.write_table(table)
    with pa.ipc.new_stream(tmp_path / "b.arrow", table.schema) as writer:
        writer.write_table(table)
    dictionary = pa.table(
        {**{n: table[n] for n in ("prompt", "label")}, "completion": table["completion"].dictionary_encode()}
    )
    pq.write_table(dictionary, tmp_path / "b.parquet")
    for name in ("a.parquet", "packed", "a.arrow", "b.arrow", "b.parquet"):
        feedback = load_feedback(tmp_path / name)
        assert rows_of(feedback) == EXPECTED, name
        assert [row.line for row in feedback.rows] == [1, 2]


def test_columns_that_are_no_part_of_the_feedback_do_no_harm(tmp_path):
    when = pa.array([1, 2], pa.timestamp("ns"))  # Python has no nanoseconds
    table = pa.Table.from_pylist(ROWS).append_column("when", when).append_column("blob", [[b"\xff", None]])
    table = table.set_column(2, "label", pa.array([5, 6]))
    pq.write_table(table, tmp_path / "a.parquet")
    feedback = load_feedback(tmp_path / "a.parquet", mapping={"up": "5", "down": ["6"]})
    assert rows_of(feedback) == EXPECTED


def test_nested_parquet(tmp_path):
    rows = [
        {"messages": [user("q"), assistant("a")], "label": 1},
        {"messages": [user("q"), assistant("b")], "label": 0},
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    assert rows_of(load_feedback(tmp_path / "a.parquet")) == [([user("q")], "a", True), ([user("q")], "b", False)]


def test_conversations_in_csv_cells(tmp_path):
    cell = json.dumps([user("q, or not"), assistant("a")])
    with (tmp_path / "a.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["messages", "rating"], [cell, "5"], [cell, "1"]])
    assert rows_of(load_feedback(tmp_path / "a.csv")) == [
        ([user("q, or not")], "a", True),
        ([user("q, or not")], "a", False),
    ]


def test_tables_in_memory():
    for table in (pa.Table.from_pylist(ROWS), pl.DataFrame(ROWS), datasets.Dataset.from_list(ROWS)):
        assert load(table) == EXPECTED
    assert load(datasets.Dataset.from_list(ROWS).select([1])) == EXPECTED[1:]
    with pytest.raises(DataError, match="not a int"):
        load_feedback(3)


def test_folders_of_datasets(tmp_path):
    datasets.Dataset.from_list(ROWS).save_to_disk(tmp_path / "one")
    assert load(tmp_path / "one") == EXPECTED
    both = {"train": datasets.Dataset.from_list(ROWS), "test": datasets.Dataset.from_list(ROWS[:1])}
    datasets.DatasetDict(both).save_to_disk(tmp_path / "two")
    assert load(tmp_path / "two") == EXPECTED  # the train split
    assert load(tmp_path / "two" / "test") == EXPECTED[:1]


def test_a_hub_id(monkeypatch):
    def load_dataset(name, split):
        assert split == "train"
        if name == "someone/thumbs":
            return datasets.Dataset.from_list(ROWS)
        raise ConnectionError("Couldn't reach the Hub\nand a long story")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(DataError, match="There is no file data/nope.jsonl"):  # no network is asked for it
        load_feedback("data/nope.jsonl")
    assert load("someone/thumbs") == EXPECTED
    with pytest.raises(
        DataError, match="no file someone/else, and no such dataset can be had from the hub: Couldn't reach"
    ):
        load_feedback("someone/else")
