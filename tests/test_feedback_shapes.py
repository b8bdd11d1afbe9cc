"""Every shape in which feedback is published or exported: four rows of our own making, in every kind of file.

A sample says what its rows become, and what becomes of the row that makes no thumb.
"""

import csv
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kto_workbench.feedback import load_feedback


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


def parts(role, text):
    return {"role": role, "content": [{"type": "text", "text": text}]}


def rows_of(feedback):
    return [(row.prompt, row.completion, row.label) for row in feedback.rows]


def two(prompt, up, down):
    return [(prompt, up, True), (prompt, down, False)]


def arena(winner, content=lambda role, text: {"role": role, "content": text}):
    """A battle of two turns, whose answers already differ in the first."""
    ask, more = content("user", "Hi"), content("user", "More")
    a = [ask, content("assistant", "A1"), more, content("assistant", "A2")]
    b = [ask, content("assistant", "B1"), more, content("assistant", "B2")]
    return {"model_a": "x", "model_b": "y", "winner": winner, "conversation_a": a, "conversation_b": b, "turn": 2}


BEFORE_A = [user("Hi"), assistant("A1"), user("More")]
BEFORE_B = [user("Hi"), assistant("B1"), user("More")]
A_WINS = [(BEFORE_A, "A2", True), (BEFORE_B, "B2", False)]
B_WINS = [(BEFORE_A, "A2", False), (BEFORE_B, "B2", True)]
BOTH_BAD = [(BEFORE_A, "A2", False), (BEFORE_B, "B2", False)]


def chat(judged, rating, **meta):
    """An Open WebUI feedback: one question, two answers to it, and one of them went on."""
    nodes = [
        ("u1", None, ["a1", "b1"], user("Hi")),
        ("a1", "u1", ["u2"], assistant("Hello")),
        ("b1", "u1", [], assistant('<details type="reasoning" done="true">\n<summary>S</summary>\n</details>\nHowdy')),
        ("u2", "a1", ["a2"], user("Bye")),
        ("a2", "u2", [], assistant("See you")),
    ]
    messages = {
        key: {"id": key, "parentId": parent, "childrenIds": children, **said, "timestamp": 1}
        for key, parent, children, said in nodes
    }
    linear = [messages[key] for key in ("u1", "a1", "u2", "a2")]
    return {
        "id": "f" + judged,
        "user_id": "u",
        "version": 0,
        "type": "rating",
        "data": {
            "rating": rating,
            "model_id": "m",
            "reason": "ok",
            "comment": "",
            "tags": [],
            "details": {"rating": 7},
        },
        "meta": {"arena": False, "model_id": "m", "message_id": judged, "message_index": 1, "chat_id": "c", **meta},
        "snapshot": {
            "chat": {
                "id": "c",
                "title": "t",
                "chat": {"history": {"messages": messages, "currentId": "a2"}, "messages": linear},
            }
        },
        "created_at": 1,
        "updated_at": 2,
    }


def oasst(key, parent, role, text, rank=None):
    return {"message_id": key, "parent_id": parent, "role": role, "text": text, "rank": rank, "lang": "en"}


def steer(response, helpfulness):
    scores = {"correctness": 3, "coherence": 4, "complexity": 1, "verbosity": 1}
    return {"prompt": "p", "response": response, "helpfulness": helpfulness, **scores}


def nectar(*ranks):
    answers = [{"answer": f"{i}", "model": "m", "rank": float(rank)} for i, rank in enumerate(ranks)]
    return {"prompt": "\n\nHuman: Hi\n\nAssistant: ", "answers": answers, "turns": 1, "num_responses": len(ranks)}


def tree(*ranks):
    replies = [{"text": f"{i}", "role": "assistant", "rank": rank, "replies": []} for i, rank in enumerate(ranks)]
    root = {"text": "Hi", "role": "prompter", "replies": replies}
    return {"message_tree_id": "t", "tree_state": "ready_for_export", "prompt": root}


def turn(role, text):
    return {"role": role, "content": [{"type": "text", "value": text}], "loss_weight": 1.0}


HH = "\n\nHuman: Hi\n\nAssistant: "
RATED = [{"response": f"a{n}", "overall_score": n, "fine-grained_score": n, "model": "m"} for n in (9.0, 2.0, 5.5)]

# name: (rows, what they become, what the others say, what the report calls it)
SAMPLES = {
    "open-webui": (
        [chat("a2", 1), chat("a1", -1), chat("a1", 1, arena=True), chat("gone", 1)],
        [
            ([user("Hi"), assistant("Hello"), user("Bye")], "See you", True),
            ([user("Hi")], "Hello", False),
            ([user("Hi")], "Hello", True),
            ([user("Hi")], "Howdy", False),
        ],
        ["holds no message with the id of the judged one"],
        "ratings joined to conversations by id: Open WebUI feedback",
    ),
    "arena-33k": (
        [arena(winner) for winner in ("model_a", "model_b", "tie", "tie (bothbad)")],
        [*A_WINS, *B_WINS, *BOTH_BAD],
        ["is a tie, which makes no thumb"],
        "two answers and which won: Chatbot Arena",
    ),
    "arena-140k": (
        [arena(winner, parts) for winner in ("model_a", "model_b", "tie", "both_bad")],
        [*A_WINS, *B_WINS, *BOTH_BAD],
        ["is a tie, which makes no thumb"],
        "two answers and which won: Chatbot Arena",
    ),
    "arena-55k": (
        [
            {"id": i, "model_a": "x", "model_b": "y", "prompt": json.dumps(p), "response_a": json.dumps(a),
             "response_b": json.dumps(b), "winner_model_a": wa, "winner_model_b": wb, "winner_tie": tie}
            for i, (p, a, b, wa, wb, tie) in enumerate([
                (["p"], ["A"], ["B"], 1, 0, 0),
                (["p", "q"], ["A1", "A2"], ["B1", "B2"], 0, 1, 0),
                (["p"], ["A"], ["B"], 0, 0, 1),
                (["p"], [None], ["B"], 1, 0, 0),
            ])
        ],
        [
            *two("p", "A", "B"),
            ([user("p"), assistant("A1"), user("q")], "A2", False),
            ([user("p"), assistant("B1"), user("q")], "B2", True),
        ],
        ["is a tie", "response_a is missing"],
        "two answers and which won: Arena with a column for each outcome",
    ),
    "helpsteer2": (
        [steer("good", 4), steer("bad", 0), steer("so so", 2), steer("fine", 3)],
        [("p", "good", True), ("p", "bad", False), ("p", "fine", True)],
        ["lies on the cut 2"],
        "one answer with a thumb: HelpSteer2",
    ),
    "helpsteer2-preference": (
        [{"split": "train", "prompt": "p", "response_1": "A", "response_2": "B", "preference_strength": n}
         for n in (-2, 3, 0, -1)],
        [*two("p", "A", "B"), ("p", "A", False), ("p", "B", True), *two("p", "A", "B")],
        ["is a tie"],
        "two answers and which won: HelpSteer2 preferences",
    ),
    "helpsteer3": (
        [{"domain": "general", "context": [user("p")], "response1": "A", "response2": "B", "overall_preference": n}
         for n in (-3, 1, 0, 3)],
        [*two([user("p")], "A", "B"), *[([user("p")], "A", False), ([user("p")], "B", True)] * 2],
        ["is a tie"],
        "two answers and which won: HelpSteer3",
    ),
    "pku-saferlhf": (
        [{"prompt": "p", "response_0": "A", "response_1": b, "is_response_0_safe": True, "is_response_1_safe": False,
          "better_response_id": n, "safer_response_id": 1 - n} for b, n in (("B", 0), ("B", 1), ("A", 0), ("C", 0))],
        [*two("p", "A", "B"), ("p", "A", False), ("p", "B", True), *two("p", "A", "C")],
        ["are the same"],
        "two answers and which won: PKU-SafeRLHF",
    ),
    "shp": (
        [{"post_id": "i", "history": "p", "human_ref_A": "A", "human_ref_B": b, "labels": n, "score_A": 9, "score_B": 3}
         for b, n in (("B", 1), ("B", 0), ("", 1), ("C", 1))],
        [*two("p", "A", "B"), ("p", "A", False), ("p", "B", True), *two("p", "A", ""), *two("p", "A", "C")],
        [],
        "two answers and which won: SHP",
    ),
    "nectar": (
        [nectar(1, 2, 3), nectar(3, 1), nectar(1, 1), nectar(2, 1)],
        [([user("Hi")], "0", True), ([user("Hi")], "2", False), ([user("Hi")], "0", False), ([user("Hi")], "1", True)]
        + [([user("Hi")], "0", False), ([user("Hi")], "1", True)],
        ["rates all answers alike"],
        "a ranked list of answers",
    ),
    "webgpt": (
        [{"question": {"dataset": "eli5", "id": "i", "full_text": "p"}, "quotes_0": {"title": []}, "answer_0": "A",
          "answer_1": "B", "score_0": n, "score_1": -n} for n in (0.5, -1.0, 0.0, 1.0)],
        [*two("p", "A", "B"), ("p", "A", False), ("p", "B", True), *two("p", "A", "B")],
        ["is a tie"],
        "two answers and which won: WebGPT comparisons",
    ),
    "oasst-trees": (
        [tree(0, 1), tree(2, 0, 1), tree(None), tree(1, 0)],
        [([user("Hi")], "0", True), ([user("Hi")], "1", False), ([user("Hi")], "0", False), ([user("Hi")], "1", True)]
        + [([user("Hi")], "0", False), ([user("Hi")], "1", True)],
        ["holds no ranked answers"],
        "OASST trees: a ranked list of answers",
    ),
    "stack-exchange-paired": (
        [{"qid": 1, "question": "p", "date": "d", "response_j": "A", "response_k": b} for b in ("B", "C", "A", "D")],
        [*two("p", "A", "B"), *two("p", "A", "C"), *two("p", "A", "D")],
        ["are the same"],
        "a pair: stack-exchange-paired",
    ),
    "summarize-from-feedback": (
        [{"info": {"id": "i", "post": post, "title": "t"}, "summaries": [{"text": "A", "policy": "x"}, {"text": "B"}],
          "choice": n, "worker": "w"} for post, n in (("p", 0), ("p", 1), (None, 0), ("q", 0))],
        [*two("p", "A", "B"), ("p", "A", False), ("p", "B", True), *two("q", "A", "B")],
        ["info.post is missing"],
        "two answers and which won: summarize from feedback",
    ),
    "halos-binary": (
        [{"prompt": [user("p")], "output": [assistant(text)], "label": n, "reward": 1.0, "type": "binary_feedback"}
         for text, n in (("A", 1), ("B", 0), ("C", 1), ("D", 7))],
        [([user("p")], "A", True), ([user("p")], "B", False), ([user("p")], "C", True)],
        ["neither thumbs up nor thumbs down"],
        "conversational with thumbs",
    ),
    "halos-pairwise": (
        [{"prompt": [user("p")], "output_A": [assistant("A")], "output_B": [assistant(b)], "label": n, "type": "p"}
         for b, n in (("B", 1), ("B", 0), ("A", 1), ("C", 1))],
        [*two([user("p")], "A", "B"), ([user("p")], "A", False), ([user("p")], "B", True), *two([user("p")], "A", "C")],
        ["are the same"],
        "two answers and which won: HALOs",
    ),
    "llama-factory-v1": (
        [{"chosen_messages": [turn("user", "p"), turn("assistant", "A")],
          "rejected_messages": [turn("user", "p"), turn("assistant", b)]} for b in ("B", "C", "A", "D")],
        [*two([user("p")], "A", "B"), *two([user("p")], "A", "C"), *two([user("p")], "A", "D")],
        ["are the same"],
        "conversational pairs with implicit prompt",
    ),
    "distilabel": (
        [{"instruction": "p", "generations": ["A", "B"], "ratings": said} for said in ([5, 1], [1, 4], [2, 3], [3])],
        [*two("p", "A", "B"), ("p", "A", False), ("p", "B", True), ("p", "A", False)],
        ["does not hold one value for each of 2 answers"],
        "a rated list of answers",
    ),
    "distilabel-with-pairs": (
        [{"instruction": "p", "generations": ["A", b], "ratings": [5, 1], "chosen": "A", "rejected": b}
         for b in ("B", "C", "A", "D")],
        [*two("p", "A", "B"), *two("p", "A", "C"), *two("p", "A", "D")],
        ["are the same"],
        "alpaca",
    ),
    "ultrafeedback": (
        [{"source": "s", "instruction": "p", "completions": some} for some in (RATED, RATED[:1], RATED[2:], [])],
        [("p", "a9.0", True), ("p", "a2.0", False), ("p", "a9.0", True)],
        ["lies on the cut 5.5", "completions.*.response is missing"],
        "a rated list of answers",
    ),
    "ultrafeedback-binarized": (
        [{"prompt": "p", "chosen": [user("p"), assistant("A")], "rejected": [user("p"), assistant(b)],
          "messages": [user("p"), assistant("A")], "score_chosen": 8.0, "score_rejected": 2.0} for b in "BCAD"],
        [*two([user("p")], "A", "B"), *two([user("p")], "A", "C"), *two([user("p")], "A", "D")],
        ["are the same"],
        "conversational pairs with implicit prompt",
    ),
    "kto-mix-14k": (
        [{"prompt": [user("p")], "completion": [assistant(text)], "label": label}
         for text, label in (("A", True), ("B", False), ("C", True), ("D", None))],
        [([user("p")], "A", True), ([user("p")], "B", False), ([user("p")], "C", True)],
        ["label is missing"],
        "conversational with thumbs",
    ),
    "orca-dpo": (
        [{"system": "s", "question": "p", "chosen": "A", "rejected": b} for b in "BCAD"],
        [pair for b in "BCD" for pair in two([{"role": "system", "content": "s"}, user("p")], "A", b)],
        ["are the same"],
        "text pairs",
    ),
    "anthropic-hh": (
        [{"chosen": HH + "A", "rejected": HH + b} for b in "BCAD"],
        [*two([user("Hi")], "A", "B"), *two([user("Hi")], "A", "C"), *two([user("Hi")], "A", "D")],
        ["are the same"],
        "pairs of transcripts, as in Anthropic-HH",
    ),
    "argilla-hub": (
        [{"prompt": "p", "response": text, "quality": [{"user_id": "u", "value": word, "status": "submitted"}]}
         for text, word in (("A", "good"), ("B", "bad"), ("C", "good"), ("D", "hm"))],
        [("p", "A", True), ("p", "B", False), ("p", "C", True)],
        ["neither thumbs up nor thumbs down"],
        "Argilla: text with thumbs",
    ),
}  # fmt: skip


def write(folder, rows, kind):
    """The rows as a file of this kind; in CSV whatever is no plain value is JSON in a cell."""
    path = folder / f"rows.{kind}"
    if kind == "json":
        path.write_text(json.dumps(rows, indent=1))
    elif kind == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif kind == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        names = list(dict.fromkeys(key for row in rows for key in row))
        with path.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(names)
            for row in rows:
                cells = [row.get(name) for name in names]
                writer.writerow([json.dumps(cell) if isinstance(cell, (list, dict)) else cell for cell in cells])
    return path


@pytest.mark.parametrize("kind", ["json", "jsonl", "csv", "parquet"])
@pytest.mark.parametrize("name", SAMPLES)
def test_every_shape_in_every_kind_of_file(tmp_path, name, kind):
    rows, expected, reasons, called = SAMPLES[name]
    feedback = load_feedback(write(tmp_path, rows, kind), workspace=tmp_path)
    assert rows_of(feedback) == expected
    left_out = [problem.reason for problem in (*feedback.problems, *feedback.parts_left_out)]
    for reason in reasons:
        assert any(reason in one for one in left_out), (reason, left_out)
    assert feedback.rows_in == feedback.rows_kept + len(feedback.problems)
    assert feedback.format.startswith(called)
    # What is shown as the mapping reads the file just so.
    again = load_feedback(feedback.path, workspace=tmp_path, mapping=feedback.mapping)
    assert (rows_of(again), again.format, again.mapping) == (expected, feedback.format, feedback.mapping)
