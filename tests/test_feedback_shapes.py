"""Every shape in which feedback is published or exported: four rows of our own making, in every kind of file.

A sample says what its rows become, and what becomes of the row that makes no thumb.
"""

import csv
import json
import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kto_workbench.errors import DataError
from kto_workbench.feedback import check, load_feedback
from kto_workbench.feedback.guessing import glimpse


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
    "tulu-3": (
        [{"id": "i", "prompt": "p", "chosen": [user("p"), assistant("A")], "rejected": [user("p"), assistant(b)],
          "chosen_model": "x", "rejected_model": "y"} for b in "BCAD"],
        [pair for b in "BCD" for pair in two([user("p")], "A", b)],
        ["are the same"],
        "conversational pairs with implicit prompt",
    ),
    "skywork": (
        [{"chosen": [user("p"), assistant("A")], "rejected": [user("p"), assistant(b)], "source": "s"} for b in "BCAD"],
        [pair for b in "BCD" for pair in two([user("p")], "A", b)],
        ["are the same"],
        "conversational pairs with implicit prompt",
    ),
    "openai-preferences": (
        [{"input": {"messages": [user("p")], "tools": []}, "preferred_output": [assistant("A")],
          "non_preferred_output": [assistant(b)]} for b in "BCAD"],
        [pair for b in "BCD" for pair in two([user("p")], "A", b)],
        ["are the same"],
        "OpenAI preferences: ",
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
        names = dict.fromkeys(key for row in rows for key in row)
        rows = [{name: row.get(name) for name in names} for row in rows]
        try:
            table = pa.Table.from_pylist(rows)
        except pa.ArrowInvalid:  # a column of texts and objects, in which exports write JSON
            as_json = lambda value: json.dumps(value) if isinstance(value, (list, dict)) else value
            table = pa.Table.from_pylist([{name: as_json(value) for name, value in row.items()} for row in rows])
        pq.write_table(table, path)
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


# ratings and conversations, joined by id -----------------------------------------------------------------------------

CALL = [{"role": "user", "content": "Hi"}]


def langfuse_score(trace, value, name="user-feedback", observation=None):
    kind = {"dataType": "CATEGORICAL", "stringValue": value} if isinstance(value, str) else {"dataType": "BOOLEAN"}
    return {"id": f"s{trace}", "traceId": trace, "observationId": observation, "name": name, "source": "API",
            "value": None if isinstance(value, str) else value, **kind, "comment": None}  # fmt: skip


LANGFUSE = (
    [langfuse_score("t1", 1), langfuse_score("t2", 0), langfuse_score("t1", 0.2, "hallucination"),
     langfuse_score("t9", 1)],
    [{"id": "t1", "name": "chat", "input": {"messages": CALL}, "output": {"role": "assistant", "content": "Hello"}},
     {"id": "t2", "name": "chat", "input": "Bye?", "output": {"answer": "No"}},
     {"id": "t3", "name": "chat", "input": "unrated", "output": "x"}],
    [(CALL, "Hello", True), ("Bye?", "No", False)],
    [(4, "traceId is the id of no conversation in these files")],
)  # fmt: skip
OBSERVATIONS = (
    [langfuse_score("t1", "good", observation="o1"), langfuse_score("t2", "bad"), langfuse_score("t2", "good")],
    [{"id": "o1", "trace_id": "t1", "parent_observation_id": "o0", "input": CALL,
      "output": {"choices": [{"message": {"role": "assistant", "content": "Hello"}}]}},
     {"id": "o3", "trace_id": "t2", "parent_observation_id": "o2", "input": "part", "output": "part"},
     {"id": "o2", "trace_id": "t2", "parent_observation_id": None, "input": "Bye?", "output": "No"}],
    [(CALL, "Hello", True), ("Bye?", "No", False), ("Bye?", "No", True)],
    [],
)  # fmt: skip
LANGSMITH = (
    [{"id": f"f{i}", "run_id": run, "session_id": "s", "key": "user_score", "score": score, "value": None,
      "comment": None, "correction": None, "feedback_source": {"type": "app"}}
     for i, (run, score) in enumerate([("r1", 1), ("r2", 0), ("r3", None), ("r3", 1)])],
    [{"id": "r1", "run_type": "llm",
      "inputs": {"messages": [[{"lc": 1, "id": ["langchain", "schema", "messages", "HumanMessage"],
                                "kwargs": {"content": "Hi"}}]]},
      "outputs": {"generations": [[{"text": "Hello", "message": {"kwargs": {"content": "Hello"}}}]]}},
     {"id": "r2", "run_type": "chain", "inputs": {"question": "Bye?"}, "outputs": {"output": "No"}},
     {"id": "r3", "run_type": "chain", "inputs": {"input": "And?", "k": 1},
      "outputs": {"messages": [{"type": "human", "content": "And?"}, {"type": "ai", "content": "Yes"}]}}],
    [(CALL, "Hello", True), ("Bye?", "No", False), ("And?", "Yes", True)],
    [],
)  # fmt: skip
PHOENIX = (
    [{"span_id": span, "name": "thumbs", "annotator_kind": "HUMAN", "result": result, "identifier": ""}
     for span, result in (
         ("a", {"label": "thumbs-up", "score": 1}), ("b", {"label": "thumbs-down", "score": 0}),
         ("c", {"label": "thumbs-up", "score": None}), ("d", {"label": "thumbs-up", "score": 1}))],
    [{"context.span_id": "a", "name": "llm", "attributes.llm.input_messages": [
        {"message.role": "user", "message.content": "Hi"}], "attributes.output.value": "Hello"},
     {"context.span_id": "b", "name": "llm", "attributes.input.value": "Bye?", "attributes.output.value": "No"},
     {"context.span_id": "c", "name": "llm", "attributes.input.value": '{"input": "And?"}',
      "attributes.llm.output_messages": [{"message": {"role": "assistant", "content": "Yes"}}]}],
    [(CALL, "Hello", True), ("Bye?", "No", False), ("And?", "Yes", True)],
    [(4, "span_id is the id of no conversation in these files")],
)  # fmt: skip
PLAIN = (
    [{"message_id": i, "thumb": thumb} for i, thumb in ((2, "down"), (1, "up"), (7, "up"), (3, "perhaps"))],
    [{"id": i, "question": f"q{i}", "answer": f"a{i}"} for i in (1, 2, 3)],
    [("q1", "a1", True), ("q2", "a2", False)],
    [(4, "thumb 'perhaps' is neither"), (3, "message_id is the id of no conversation")],
)
JOINED = {"Langfuse": LANGFUSE, "Langfuse observations": OBSERVATIONS, "LangSmith": LANGSMITH, "Phoenix": PHOENIX,
          "": PLAIN}  # fmt: skip


def of(feedback, expected, problems, called):
    assert sorted(map(repr, rows_of(feedback))) == sorted(map(repr, expected)), list(feedback.problems)
    assert all(any(said in problem.reason for problem in feedback.problems) for _, said in problems)
    assert feedback.rows_in == feedback.rows_kept + len(feedback.problems)
    assert feedback.format.startswith("ratings joined to conversations by id" + (f": {called}" if called else "; "))


@pytest.mark.parametrize("kind", ["json", "jsonl", "csv", "parquet"])
@pytest.mark.parametrize("name", JOINED)
def test_ratings_and_conversations_in_two_files(tmp_path, name, kind):
    ratings, talks, expected, problems = JOINED[name]
    for folder in "ab":
        (tmp_path / folder).mkdir()
    a, b = write(tmp_path / "a", ratings, kind), write(tmp_path / "b", talks, kind)
    for both in (f"{a}+{b}", f"{b}+{a}"):
        feedback = load_feedback(both, workspace=tmp_path)
        of(feedback, expected, problems, name.split()[0] if name else "")
        if kind in ("jsonl", "parquet"):  # a row is where its rating is
            assert sorted(problem.line for problem in feedback.problems) == sorted(line for line, _ in problems)
            kept = [row.line for row in feedback.rows]
            assert sorted([*kept, *(line for line, _ in problems)]) == [
                line
                for line, one in enumerate(ratings, 1)
                if one.get("name") != "hallucination" and one.get("score", 1) is not None
            ]


@pytest.mark.parametrize("name", [name for name in JOINED if name])
def test_ratings_and_conversations_in_one_file(tmp_path, name):
    ratings, talks, expected, problems = JOINED[name]
    feedback = load_feedback(write(tmp_path, [*ratings, *talks], "jsonl"), workspace=tmp_path)
    of(feedback, expected, problems, name.split()[0])


def test_logs_that_carry_their_ratings(tmp_path):
    told = {"input": {"messages": CALL}, "output": {"role": "assistant", "content": "Hello"}}
    spans = {"attributes.input.value": "Hi?", "attributes.output.value": "Hello"}
    for kind in ("jsonl", "csv", "parquet"):
        for one, rated, asked in (
            (told, lambda n: {"scores": [{"name": "cost", "value": 0.3}, {"name": "user-feedback", "value": n}]}, CALL),
            ({"inputs": {"question": "Hi?"}, "outputs": {"output": "Hello"}},
             lambda n: {"feedback_stats": {"user_score": {"n": 1, "avg": float(n)}}}, "Hi?"),
            (spans, lambda n: {"annotations": [{"name": "thumbs", "result": {"label": "x", "score": n}}]}, "Hi?"),
        ):  # fmt: skip
            rows = [{"id": "a", **one, **rated(1)}, {"id": "b", **one, **rated(0)}]
            feedback = load_feedback(write(tmp_path, rows, kind))
            assert rows_of(feedback) == [(asked, "Hello", True), (asked, "Hello", False)], (kind, rows)
            assert feedback.format.startswith("logs with their ratings: ")


def test_the_report_says_what_was_recognised():
    for name, said in (
        ("arena-33k", "two answers and which won: Chatbot Arena (answer_a, answer_b, winner)"),
        ("nectar", "a ranked list of answers (prompt, answers, ranks)"),
        ("ultrafeedback", "a rated list of answers (prompt, answers, scores)"),
    ):
        text = check(SAMPLES[name][0]).to_text()
        assert f"list; {said}\n" in text
    assert "take ← best-worst" in check(SAMPLES["nectar"][0]).to_text()
    assert "threshold ← 5.5" in text and "lies on the cut 5.5" in text and "threshold=NUMBER moves the cut" in text
    assert "winner is a tie, which makes no thumb" in check(SAMPLES["arena-33k"][0]).to_text()


def test_ratings_alone_are_refused_by_name(tmp_path):
    for name, (ratings, *_) in JOINED.items():
        path = write(tmp_path, ratings, "jsonl")
        expected = f"holds ratings of {name.split()[0]} without the text" if name else "is not feedback as it stands"
        with pytest.raises(DataError, match=expected):
            load_feedback(path, workspace=tmp_path)


def test_which_of_several_ratings_counts_can_be_said(tmp_path):
    (tmp_path / "a").mkdir()
    a, b = write(tmp_path / "a", LANGFUSE[0], "jsonl"), write(tmp_path, LANGFUSE[1], "jsonl")
    mapping = {"name": "hallucination", "threshold": 0.5}
    assert rows_of(load_feedback(f"{a}+{b}", mapping=mapping)) == [(CALL, "Hello", False)]
    with pytest.raises(DataError, match="named `x`; they are named `user-feedback`, `hallucination`"):
        load_feedback(f"{a}+{b}", mapping={"name": "x"})


def test_columns_of_two_files_can_be_said(tmp_path):
    (tmp_path / "a").mkdir()
    a = write(tmp_path / "a", [{"about": n, "said": said} for n, said in ((1, "up"), (2, "down"))], "jsonl")
    b = write(tmp_path, [{"key": n, "q": f"q{n}", "a": f"a{n}"} for n in (1, 2)], "csv")
    with pytest.raises(DataError, match="can't be joined"):
        load_feedback(f"{a}+{b}")
    mapping = ["rates=about", "id=key", "label=said", "prompt=q", "completion=a"]
    assert rows_of(load_feedback(f"{a}+{b}", mapping=mapping)) == [("q1", "a1", True), ("q2", "a2", False)]


def test_messages_in_rows_of_their_own_are_joined_to_their_answers(tmp_path):
    rows = [
        oasst("a1", "p", "assistant", "best", 0),
        oasst("p", None, "prompter", "Hi"),
        oasst("a2", "p", "assistant", "worst", 1),
        oasst("q", "a1", "prompter", "More"),
        oasst("b1", "q", "assistant", "unranked"),
        oasst("c1", "q", "assistant", "wörst", 2.0),
        oasst("c2", "q", "assistant", "middle", 1.0),
        oasst("c3", "q", "assistant", "best of all", 0.0),
    ]
    before = [user("Hi"), assistant("best"), user("More")]
    expected = [([user("Hi")], "best", True), ([user("Hi")], "worst", False)]
    expected += [(before, "wörst", False), (before, "best of all", True)]
    for kind in ("json", "jsonl", "csv", "parquet"):
        feedback = load_feedback(write(tmp_path, rows, kind), workspace=tmp_path)
        assert rows_of(feedback) == expected, kind
        assert "lies between the best and the worst" in feedback.parts_left_out[0].reason
        assert feedback.format.startswith("messages joined to their answers by id; a ranked list of answers")
    # 0 is best, so below 1.5 is up: best, worst (1), middle, best of all
    cut = load_feedback(write(tmp_path, rows, "jsonl"), mapping={"threshold": 1.5})
    assert [row.label for row in cut.rows] == [True, True, False, True, True]


def test_lists_of_rows_in_one_object(tmp_path):
    ratings, talks, expected, problems = LANGFUSE
    path = tmp_path / "both.json"
    path.write_text(json.dumps({"scores": ratings, "traces": talks, "meta": {"page": 1}}))
    of(load_feedback(path), expected, problems, "Langfuse")
    path.write_text(json.dumps({"data": SAMPLES["shp"][0], "meta": {"page": 1}}))
    assert rows_of(load_feedback(path)) == SAMPLES["shp"][1]
    # One row that stands alone is a row, whatever lists it holds.
    for name in ("ultrafeedback", "distilabel", "halos-binary"):
        path.write_text(json.dumps(SAMPLES[name][0][0]))
        assert load_feedback(path).rows_in == 1
    path.write_text(json.dumps({"messages": [user("p"), assistant("A")], "label": True}))
    assert rows_of(load_feedback(path)) == [([user("p")], "A", True)]


# what does not fit ---------------------------------------------------------------------------------------------------


def test_a_mapping_leaves_the_judged_answer_where_it_is():
    # The thumb down is on the first answer, and the conversation went on.
    rows = [chat("a1", -1), chat("a2", 1)]
    expected = [([user("Hi")], "Hello", False), ([user("Hi"), assistant("Hello"), user("Bye")], "See you", True)]
    messages = "snapshot.chat.chat.messages"
    for mapping in ({"label": "data.rating"}, {"label": "data.rating", "messages": messages}, {"messages": messages}):
        assert rows_of(load_feedback(rows, mapping=mapping)) == expected, mapping
    other = [
        {"turns": [user("Hi"), assistant("Hello"), user("Bye"), assistant("See you")], "at": at, "ok": ok}
        for at, ok in ((1, "no"), (3, "yes"), (-1, "yes"), (2, "yes"), (9, "no"))
    ]
    feedback = load_feedback(other, mapping=["messages=turns", "judged=at", "label=ok"])
    assert rows_of(feedback) == [*expected, expected[1]]
    assert [(problem.line, problem.reason) for problem in feedback.problems] == [
        (4, "turns has a message of the user where the judged answer should be"),
        (5, "turns holds no message with the id of the judged one"),
    ]


def test_an_answer_of_an_arena_that_has_a_thumb_of_its_own_keeps_it():
    both = [chat("a1", 1, arena=True), chat("b1", 1, arena=True)]
    messages = both[1]["snapshot"]["chat"]["chat"]["history"]["messages"]
    messages["a1"]["annotation"] = {"rating": 1}
    assert rows_of(load_feedback(both[1:])) == [([user("Hi")], "Howdy", True)]


def test_images_that_cannot_be_had_are_named_by_row(tmp_path):
    picture = {"type": "image", "image": "data:…", "mimeType": "image/png"}
    seen = arena("model_a", parts)
    seen["conversation_a"][0]["content"].append(picture)
    attached = chat("a1", 1)
    attached["snapshot"]["chat"]["chat"]["history"]["messages"]["u1"]["files"] = [{"type": "image", "url": "x"}]
    asked = {"prompt": "p", "completion": "A", "label": True, "images": []}
    for rows, reason in (
        ([arena("model_a", parts), seen], "prompt: a data URL is not in base64"),
        ([chat("a1", 1), attached], "snapshot.chat.chat.history.messages: there is no image 'x' beside the feedback"),
        ([asked, {**asked, "images": ["a.png"]}], "images: there is no image 'a.png' beside the feedback"),
    ):
        for kind in ("jsonl", "parquet"):
            feedback = load_feedback(write(tmp_path, rows, kind))
            assert [(problem.line, problem.reason) for problem in feedback.problems] == [(2, reason)], kind


def test_answers_can_be_named_for_a_file_that_is_not_known(tmp_path):
    rows = [
        {"q": "p", "left_text": "A", "right_text": "B", "who": who, "stars": [4, 2], "texts": ["A", "B"]}
        for who in ("L", "R", "none", "0")
    ]
    mapping = ["prompt=q", "answer_a=left_text", "answer_b=right_text", "winner=who", "a=L", "b=R", "both_bad=none"]
    feedback = load_feedback(write(tmp_path, rows, "csv"), mapping=mapping)
    assert [row.label for row in feedback.rows] == [True, False, False, True, False, False]
    assert feedback.problems[0].reason == "who is a tie, which makes no thumb"
    several = ["prompt=q", "answers=texts", "scores=stars"]
    assert load_feedback(rows, mapping=several).mapping["threshold"] == 3
    assert [row.label for row in load_feedback(rows[:1], mapping=[*several, "threshold=1"]).rows] == [True, True]
    both = load_feedback(rows[:1], mapping=[*several, "take=best-worst"])
    assert rows_of(both) == two("p", "A", "B") and both.mapping["take"] == "best-worst"
    with pytest.raises(DataError, match="take should be threshold or best-worst, not 'most'"):
        load_feedback(rows, mapping=[*several, "take=most"])


def test_a_winner_may_be_the_name_of_a_model():
    rows = [{**arena(name), "model_a": a} for name, a in (("x", "x"), ("y", "x"), ("y", "y"), ("tie", "x"))]
    feedback = load_feedback(rows)
    assert rows_of(feedback) == [*A_WINS, *B_WINS]
    reasons = ["winner 'y' names neither answer", "winner is a tie, which makes no thumb"]
    assert [problem.reason for problem in feedback.problems] == reasons


def test_a_judged_answer_is_one_whatever_stands_beside_it():
    row = {"prompt": "p", "completion": "A", "label": True, "answer_a": "x", "answer_b": "y", "vote": "a"}
    assert rows_of(load_feedback([{**row, "responses": ["x", "y"], "ratings": [1, 5]}])) == [("p", "A", True)]
    assert rows_of(load_feedback([row], mapping={"winner": "vote"})) == two("p", "x", "y")


def test_conversations_of_helpsteer2_have_turns():
    prompt = "Hi\n<extra_id_1>Assistant\nHello\n<extra_id_1>User\nMore"
    rows = [{**steer("A", 4), "prompt": prompt}]
    assert rows_of(load_feedback(rows)) == [([user("Hi"), assistant("Hello"), user("More")], "A", True)]


def test_columns_that_are_not_known_are_guessed_and_looked_at(tmp_path):
    rows = [
        {"nr": i, "log": {"ask": f"Wie {i}?", "tell": "Es ist " * 9, "by": ["x", {"y": 1}]}, "stimme": stimme}
        for i, stimme in enumerate(["+1", "-1", "+1", None, "0"])
    ]
    path = write(tmp_path, rows, "jsonl")
    seen = glimpse(path, tmp_path)
    assert not seen.recognised and seen.reason is None and seen.complete
    assert seen.mapping == {"prompt": "log.ask", "completion": "log.tell", "label": "stimme"}
    assert list(seen.columns) == ["nr", "log", "log.ask", "log.tell", "log.by", "stimme"]
    assert [(row.prompt, row.label, row.line) for row in seen.rows] == [
        ("Wie 0?", True, 1),
        ("Wie 1?", False, 2),
        ("Wie 2?", True, 3),
    ]
    # Under a mapping it says what is wrong with it, and guesses nothing.
    wrong = glimpse(path, tmp_path, {"prompt": "log.ask"}, guess=False)
    assert not wrong.complete and wrong.rows == [] and wrong.mapping == {"prompt": "log.ask"}
    empty = glimpse(path, tmp_path, {"prompt": "log.ask", "completion": "log.by", "label": "stimme"}, guess=False)
    assert empty.complete and empty.reason == "log.by holds a block of type 'text'; only text can be trained on"
    known = glimpse(write(tmp_path, SAMPLES["open-webui"][0], "json"), tmp_path)
    assert known.recognised and known.mapping["judged"] == "meta.message_id" and known.rows[0].completion == "See you"


ODD = (None, True, -1, 2.5, "", "x", "[1", '{"a": 1}', [], [None], [[1]], {}, {"a": [1]}, ["x", {"role": 3}], "\\ud800")


def damaged(value, chance):
    """The value with one of its parts, however deep, replaced by something odd."""
    if isinstance(value, (list, dict)) and value and chance.random() < 0.8:
        keys = list(value) if isinstance(value, dict) else range(len(value))
        key, copied = chance.choice(keys), value.copy()
        copied[key] = damaged(value[key], chance)
        return copied
    return chance.choice(ODD)


@pytest.mark.parametrize("name", [*SAMPLES, *(f"join {name}" for name in JOINED)])
def test_a_damaged_row_costs_no_more_than_itself(tmp_path, name):
    chance = random.Random(name)
    for _ in range(60):
        if name in SAMPLES:
            rows = [*SAMPLES[name][0]] * 3
            at = chance.randrange(len(rows))
            rows[at] = damaged(rows[at], chance)
            source = [row if isinstance(row, dict) else {"row": row} for row in rows]
        else:
            (tmp_path / "a").mkdir(exist_ok=True)
            files = [list(rows) * 2 for rows in JOINED[name.removeprefix("join ")][:2]]
            hit = chance.choice(files)
            at = chance.randrange(len(hit))
            hit[at] = damaged(hit[at], chance)
            a, b = (write(tmp_path / folder, rows, "jsonl") for folder, rows in zip(("a", "."), files, strict=True))
            source = f"{a}+{b}"
        feedback = load_feedback(source, workspace=tmp_path)
        assert feedback.rows_in == feedback.rows_kept + len(feedback.problems)
        assert feedback.rows_kept >= 1
