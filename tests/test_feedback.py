"""Loading feedback: rows, labels, problems, balance and λ."""

import json
import subprocess
import sys

import pytest

from kto_workbench.errors import DataError
from kto_workbench.feedback import Balance, check, load_feedback, parse_mapping, suggest_weights, weight_range
from kto_workbench.feedback.labels import LabelRule, UnclearLabel, choose_rule


def write_lines(path, rows):
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def rows_of(feedback):
    return [(row.prompt, row.completion, row.label) for row in feedback.rows]


def test_importing_feedback_leaves_torch_out():
    code = "import kto_workbench.feedback, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


# λ -------------------------------------------------------------------------------------------------------------------


def test_one_up_to_ten_down_asks_for_ten_to_fifteen():
    # λ_D · 100 / (1 · 1000) in [1, 1.5]  →  λ_D in [10, 15]
    assert suggest_weights(100, 1000) == (10, 1)
    assert suggest_weights(100, 1000, ratio=1.5) == (15, 1)
    assert weight_range(100, 1000) == {"desirable_weight": (10, 15), "undesirable_weight": (1, 1)}


def test_ten_up_to_one_down_raises_the_other_side():
    # 1 · 1000 / (λ_U · 100) in [1, 1.5]  →  λ_U in [1000/150, 10]
    assert suggest_weights(1000, 100) == (1, 10)
    assert weight_range(1000, 100)["undesirable_weight"] == pytest.approx((1000 / 150, 10))


@pytest.mark.parametrize(("up", "down"), [(150, 150), (12, 10), (10, 12), (1, 400), (400, 1), (7, 3)])
@pytest.mark.parametrize("ratio", [1.0, 4 / 3, 1.5])
def test_suggested_weights_hold_the_ratio_and_never_fall_below_one(up, down, ratio):
    weight_up, weight_down = suggest_weights(up, down, ratio)
    assert weight_up * up / (weight_down * down) == pytest.approx(ratio)
    assert min(weight_up, weight_down) == 1


def test_one_class_alone_is_said_and_left_alone():
    assert suggest_weights(5, 0) == suggest_weights(0, 5) == (1, 1)
    assert "All thumbs are up" in Balance(5, 0).advice
    assert "between 10 and 15" in Balance(1, 10).advice


# labels --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("up", "down"),
    [
        (True, False), (1, 0), (1, -1), (1.0, 0.0), ("true", "false"), ("True", "FALSE"), ("1", "0"), ("1", "-1"),
        ("good", "bad"), ("👍", "👎"), ("👍🏽", "👎🏿"), ("yes", "no"), ("up", "down"), ("desirable", "undesirable"),
        ("chosen", "rejected"), ("thumbs_up", "thumbs_down"), ("Thumbs Up", "Thumbs Down"), (" like ", "dislike"),
    ],
)  # fmt: skip
def test_labels(tmp_path, up, down):
    rows = [{"prompt": "p", "completion": "c", "label": up}, {"prompt": "q", "completion": "d", "label": down}]
    feedback = load_feedback(write_lines(tmp_path / "a.jsonl", rows))
    assert rows_of(feedback) == [("p", "c", True), ("q", "d", False)]
    assert rows_of(load_feedback(rows)) == rows_of(feedback)


def test_a_label_that_is_neither_is_listed_with_line_field_and_reason(tmp_path):
    labels = [True, "maybe", None, False, {"a": 1}, ""]
    rows = [{"prompt": "p", "completion": "c", "thumb": label} for label in labels]
    feedback = load_feedback(write_lines(tmp_path / "a.jsonl", rows))
    assert feedback.rows_in == 6 and feedback.rows_kept == 2
    assert [(p.line, p.field, p.reason) for p in feedback.problems] == [
        (2, "thumb", "thumb 'maybe' is neither thumbs up nor thumbs down"),
        (3, "thumb", "thumb is missing"),
        (5, "thumb", "thumb {'a': 1} is neither thumbs up nor thumbs down"),
        (6, "thumb", "thumb is missing"),
    ]


def test_ratings_have_a_cut_and_one_slip_makes_no_scale():
    stars = choose_rule([1, 2, 5, 4, 3], "rating")
    assert stars.threshold == 3 and stars.read(4) and not stars.read(2)
    with pytest.raises(UnclearLabel, match="lies on the cut 3"):
        stars.read(3)
    assert choose_rule([1, 0, 0, 1, 2], "label") == LabelRule()
    assert choose_rule([0.1, 0.9], "score").threshold == 0.5
    with pytest.raises(UnclearLabel):
        choose_rule([1, -1, 0]).read(0)


# rows and problems ---------------------------------------------------------------------------------------------------


def test_bad_rows_are_listed_and_the_rest_goes_on(tmp_path):
    good = '{"prompt": "a", "completion": "b", "label": true}'
    lines = [good, "", '{"prompt": "a", "comp', "[1]", '{"prompt": " ", "completion": "b", "label": 1}', good + "  "]
    lines += ['{"prompt": "a", "completion": null, "label": false}', '{"completion": "b", "label": false}']
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    feedback = load_feedback(tmp_path / "a.jsonl")
    assert feedback.rows_in == 7 and len(feedback.rows) == 2 and [row.line for row in feedback.rows] == [1, 6]
    assert feedback.unit == "line" and [(p.line, p.field) for p in feedback.problems] == [
        (3, ""), (4, ""), (5, "prompt"), (7, "completion"), (8, "prompt"),
    ]  # fmt: skip


def test_an_empty_answer_keeps_its_thumb(tmp_path):
    feedback = load_feedback([{"prompt": "p", "completion": "", "label": True}])
    assert rows_of(feedback) == [("p", "", True)]


def test_a_pair_is_one_row_in_and_two_rows_of_feedback():
    pairs = [{"prompt": "p", "chosen": "yes", "rejected": "no"}, {"prompt": "p", "chosen": "x", "rejected": "x"}]
    feedback = load_feedback(pairs)
    assert rows_of(feedback) == [("p", "yes", True), ("p", "no", False)]
    assert (feedback.rows_in, feedback.rows_kept, feedback.n_desirable, feedback.n_undesirable) == (2, 1, 1, 1)
    assert feedback.problems[0].reason == "chosen and rejected are the same"


def test_conversations():
    messages = [
        {"role": "system", "content": "s"},
        {"role": "user", "content": "u"},
        {"role": "assistant", "content": "a"},
    ]
    row = load_feedback([{"messages": messages, "label": True}]).rows[0]
    assert row.prompt == messages[:2] and row.completion == "a" and row.system == "s"
    sharegpt = [{"from": "human", "value": "u"}]
    pair = {
        "conversations": sharegpt,
        "chosen": {"from": "gpt", "value": "a"},
        "rejected": {"from": "gpt", "value": "b"},
    }
    assert rows_of(load_feedback([pair])) == [(messages[1:2], "a", True), (messages[1:2], "b", False)]


def test_a_json_list_knows_its_lines(tmp_path):
    rows = [{"prompt": f"p{i}", "completion": "c", "label": i % 2} for i in range(3)]
    (tmp_path / "a.json").write_text(json.dumps(rows, indent=1))
    assert [row.line for row in load_feedback(tmp_path / "a.json").rows] == [2, 7, 12]  # 5 lines a row, after "["
    (tmp_path / "b.json").write_text(json.dumps(rows))
    assert [row.line for row in load_feedback(tmp_path / "b.json").rows] == [1, 2, 3]
    (tmp_path / "c.json").write_text(json.dumps(rows, indent=1)[:-20])
    cut = load_feedback(tmp_path / "c.json")
    assert (cut.rows_in, cut.rows_kept, cut.problems[0].reason) == (3, 2, "the file ends inside this row")


def test_a_mapping_corrects_what_was_recognised():
    rows = [{"q": "p", "a": "c", "verdict": "accept it"}, {"q": "p", "a": "d", "verdict": "no way"}]
    with pytest.raises(DataError, match="`q`, `a`, `verdict`"):
        load_feedback(rows)
    mapping = {"prompt": "q", "completion": "a", "up": ["accept it"], "down": "no way"}
    feedback = load_feedback(rows, mapping=mapping)
    assert rows_of(feedback) == [("p", "c", True), ("p", "d", False)]
    assert load_feedback(rows, mapping=feedback.mapping).mapping == feedback.mapping
    written = parse_mapping(["prompt=q", "completion=a", "up=accept it", "down=no way,never"])
    assert rows_of(load_feedback(rows, mapping=written)) == rows_of(feedback)
    with pytest.raises(DataError, match="part=column"):
        parse_mapping(["prompt"])
    with pytest.raises(DataError, match="no column `nope`"):
        load_feedback(rows, mapping={"prompt": "nope"})
    with pytest.raises(DataError, match="no part `promt`"):
        load_feedback(rows, mapping={"promt": "q"})


def test_rows_are_a_sequence():
    rows = load_feedback([{"prompt": f"p{i}", "completion": "c", "label": True} for i in range(5)]).rows
    assert rows[-1].prompt == "p4" and [row.prompt for row in rows[1:3]] == ["p1", "p2"]
    assert [row.prompt for row in rows.take([4, 0])] == ["p4", "p0"]
    with pytest.raises(IndexError):
        rows[5]


# errors --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b" \n\n", "is empty"),
        (b"[]", "holds no rows"),
        (b'{"prompt": "a", "compl', "its only row can't be used; line 1: the file ends inside this row"),
        (b"hello\nworld\n", "its columns are `hello`"),
        (b"\0\1\2\3" * 50, "neither text nor Parquet nor Arrow"),
        (b'{"prompt": "a", "completion": "b", "label": 7}\n' * 3, "none of its 3 rows can be used; line 1: label 7"),
    ],
)  # fmt: skip
def test_what_can_not_be_used_is_one_sentence(tmp_path, content, said):
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(DataError) as error:
        load_feedback(tmp_path / "a")
    assert said in str(error.value) and "\n" not in str(error.value) and str(error.value).endswith(".")


def test_a_missing_file_and_a_folder_are_one_sentence(tmp_path):
    with pytest.raises(DataError, match="There is no file"):
        load_feedback(tmp_path / "nope.jsonl")
    with pytest.raises(DataError, match="is a folder"):
        load_feedback(tmp_path)


# the check -----------------------------------------------------------------------------------------------------------


def test_the_check_reports_what_outside_checks_hold_on_to():
    rows = [{"prompt": "p", "completion": str(i), "label": i == 0} for i in range(11)] + [{"prompt": "p"}]
    report = check(rows)
    found = json.loads(json.dumps(report.to_dict()))
    assert (found["rows_in"], found["rows_kept"], found["n_desirable"], found["n_undesirable"]) == (12, 11, 1, 10)
    assert found["problems"] == [{"line": 12, "field": "label", "reason": "label is missing"}]
    assert (found["desirable_weight"], found["undesirable_weight"]) == (10, 1)
    assert found["weight_range"] == {"desirable_weight": [10, 15], "undesirable_weight": [1, 1]}
    assert "1 thumbs up / 10 thumbs down (1/10)" in report.to_text()
