"""The check: each finding on a small file that has just that, the way out, and the tokens of a model."""

import json
import random

import numpy as np
import polars as pl
import pytest

from kto_workbench.errors import DataError, ModelError
from kto_workbench.feedback import check, load_feedback
from kto_workbench.feedback.findings import length_auc, mismatched_share
from kto_workbench.feedback.fixes import repair_encoding
from kto_workbench.feedback.languages import guess_language
from kto_workbench.feedback.nearness import find_near

WORDS = (
    "river stone amber candle meadow harbour lantern velvet copper orchard thunder silver willow ember falcon".split()
)


def sentence(seed, words=20):
    return " ".join(random.Random(seed).choices(WORDS, k=words))


def row(prompt, completion, label):
    return {"prompt": prompt, "completion": completion, "label": label}


def healthy(n=20):
    return [row(f"Tell me {sentence(i)}", sentence(1000 + i), i % 2 == 0) for i in range(n)]


def found(rows, name, **options):
    """The one finding of this name, or None."""
    matching = [finding for finding in check(rows, **options).findings if finding.name == name]
    assert len(matching) <= 1
    return matching[0] if matching else None


def test_healthy_feedback_has_notes_only():
    assert {finding.severity for finding in check(healthy()).findings} == {"note"}


def test_conflicts():
    rows = [*healthy(), row("p", "same", True), row("p", "same", False), row("p", "other", False)]
    finding = found(rows, "conflicts")
    assert (finding.count, finding.lines, finding.severity) == (2, [21, 22], "problem")
    assert finding.details == {"answers": 1}


def test_exact_duplicates_list_the_repetitions():
    rows = [*healthy(), row("p", "a", True), row("p", "a", True), row("p", "a", True), row("q", "a", True)]
    finding = found(rows, "duplicates")
    assert (finding.count, finding.lines) == (2, [22, 23])
    assert found(rows[:21], "duplicates") is None


def test_near_duplicates():
    long = sentence(5, 60)
    rows = [
        *healthy(),
        row("A question", f"{long} indeed", True),  # 21
        row("A question", f"{long} indeed so", False),  # 22: a word more, and the other thumb
        row("a question?", f"{long.upper()}  Indeed!", True),  # 23: case, spacing and punctuation
        row("Something else entirely, asked in other words", f"{long} indeed", True),  # 24: another prompt
    ]
    finding = found(rows, "near-duplicates")
    assert finding.lines == [22, 23] and finding.count == 2
    assert finding.details["opposite_thumbs"] == 1
    sums = [row("2+3?", "2+3=5", True), row("2-3?", "2-3=5", False), row("1.5?", "1.5", True), row("15?", "15", True)]
    assert found([*healthy(), *sums], "near-duplicates") is None


def test_nearness_is_jaccard_similarity_of_runs():
    # runs of 5 characters: 100 letters have 96 runs; changing the last one changes 1 of them: 95 / 97 > 0.8
    base = "".join(random.Random(1).choices("abcdefghijklmnop", k=100))
    near, far = base[:-1] + "Z", base[:50] + base[:50][::-1]  # 46 runs of 96 and 96 are shared: 46 / 146 < 0.8
    assert find_near(["p"] * 4, [base, near, far, base]) == [(0, 1)]


def test_empty_one_word_template_formula():
    rows = [
        *healthy(), row("p1", " \n", True), row("p2", "Yes.", False), row("p3", "很好的回答", True),
        row("p4", "Fine<|im_end|>", True), row("p5 [INST] x", "ok then", False), row("p6", "=1+A2 or so", True),
        row("p7", "#NAME?", False),
    ]  # fmt: skip
    assert found(rows, "empty").lines == [21]
    assert found(rows, "one-word").lines == [22, 24, 27]
    assert found(rows, "template").lines == [24, 25]
    assert found(rows, "formula").lines == [27]  # "=1+A2" starts with a digit: sums look so too
    assert found([row("p", "=SUM(A1)", True)], "formula").lines == [1]


def test_damage_keys_and_addresses():
    key = "sk-" + "a1B2" * 8
    rows = [
        *healthy(), row("p1", "caf\u00c3\u00a9 au lait", True), row("p2", "\ufffd what", False),
        row("p3", "a\x00b c", True), row("p4", f"my key is {key}", True),
        row([{"role": "user", "content": "mail ann@example.org\x07"}], "no no", False),
        row("p6", "café naïve Ångström — “fine”", True), row("p7", "a @ b", True),
    ]  # fmt: skip
    assert found(rows, "damage").lines == [21, 22, 23, 25]
    assert found(rows, "keys").lines == [24]
    assert found(rows, "email").lines == [25]
    report = check(rows)
    assert key not in report.to_text() and key not in json.dumps(report.to_dict()["findings"])


def test_length_that_tells_the_thumb():
    # up: 3, 4, 5 against down: 1, 2, 4 characters. Of 9 pairs up is longer in 7, equal in 1: AUC = 7.5 / 9
    chars, label = pl.Series([3, 4, 5, 1, 2, 4]), pl.Series([True] * 3 + [False] * 3)
    assert length_auc(chars, label) == pytest.approx(7.5 / 9)
    assert length_auc(chars, pl.Series([True] * 6)) is None
    rows = [row(f"p{i}", sentence(i, 30 if i % 2 else 5), bool(i % 2)) for i in range(40)]
    finding = found(rows, "length")
    assert finding.severity == "warning" and finding.details["auc"] == 1.0 and "AUC 1.00" in finding.title
    assert found(healthy(), "length").severity == "note"
    # Three against three: an AUC of 1 is one order of 6! / (3! 3!) = 20, which chance may well have drawn.
    few = found(rows[:6], "length")
    assert few.severity == "note" and few.title.startswith("Too few rows to tell whether length gives the thumbs away")
    assert "AUC 1.00" in few.title and "does not" not in few.title
    assert found(healthy(), "length").title.startswith("Length does not give the thumbs away")


def test_languages():
    assert guess_language("This is what they have said to you, and it was not the first of them.") == "English"
    assert guess_language("Das ist nicht das, was ich mit dir auf dem Weg zu den Bergen sehen wollte.") == "German"
    assert guess_language("これはとても良い答えだと思います") == "Japanese"
    assert guess_language("这是一个很好的回答") == "Chinese"
    assert guess_language("Это очень хороший ответ") == "Cyrillic"
    assert guess_language("42") is None
    rows = [
        row("What is the name of the city that you are from, and how is it there?", "这是一个很好的回答", True),
        *healthy(),
    ]
    assert found(rows, "language").lines == [1]


def test_prompts_with_one_kind_of_thumb():
    rows = [row("a", "x", True), row("a", "y", True), row("b", "x", True), row("b", "y", False), row("c", "z", False)]
    finding = found(rows, "one-sided")
    assert (finding.count, finding.lines) == (2, [1, 2])
    assert finding.details == {"prompts": 3, "with_several": 2, "one_sided": 1}


def test_mismatched_pairs_that_a_batch_really_gets():
    # 8 rows of which 6 share a prompt: at least 2·6 − 8 = 4 stand beside a sibling, 4 of 8 do not
    assert mismatched_share(np.array([1] * 6 + [2, 3]), 8) == 0.5
    assert mismatched_share(np.array([1, 1, 2, 2]), 4) == 1
    assert mismatched_share(np.array([1, 1, 1]), 4) == 0
    assert found([row("only", f"answer {i}", i % 2 == 0) for i in range(10)], "mismatched").severity == "warning"


def test_balance_and_unusable_rows():
    assert found([row("p", "a", True), row("q", "b", True)], "balance").severity == "problem"
    rare = [row(f"p{i}", sentence(i), i == 0) for i in range(30)]
    assert "1 in 30" in found(rare, "balance").title
    finding = found([*healthy(), row("p", "a", "maybe")], "unusable")
    assert (finding.count, finding.lines) == (1, [21]) and "label 'maybe'" in finding.advice


# fixes ---------------------------------------------------------------------------------------------------------------


def test_fixes_write_a_new_file_and_leave_the_old_one(tmp_path):
    key = "hf_" + "x" * 34
    chat = [{"role": "user", "content": f'say "{key}"\nto ann@example.org'}]
    rows = [
        row("p", "same", True), row("p", "same", False), row("q", "twice", True), row("q", "twice", True),
        row("r", "", False), row("s", "Done.<|im_end|>\n</s>", True), row("t", "cafÃ© für dich 👍", False),
        row(chat, "no no", False), row("u", "x", "maybe"),
    ]  # fmt: skip
    old = tmp_path / "thumbs.jsonl"
    old.write_text("".join(json.dumps(r) + "\n" for r in rows))
    before = old.read_bytes()
    report = check(old)
    assert set(report.fixes) >= {"unusable", "conflicts", "duplicates", "empty", "template", "damage", "keys", "email"}
    new = report.fix(report.fixes, workspace=tmp_path)
    assert new == tmp_path / "uploads" / "thumbs-fixed.jsonl" and old.read_bytes() == before
    chat = [{"role": "user", "content": 'say "[key]"\nto [email]'}]
    fixed = load_feedback(new)
    assert [(r.prompt, r.completion, r.label) for r in fixed.rows] == [
        ("q", "twice", True), ("s", "Done.", True), ("t", "café für dich 👍", False), (chat, "no no", False),
    ]  # fmt: skip
    assert not check(fixed).fixes
    assert report.fix(["empty"], workspace=tmp_path).name == "thumbs-fixed-2.jsonl"
    assert len(load_feedback(tmp_path / "uploads" / "thumbs-fixed-2.jsonl").rows) == 7  # 9 − 1 unusable − 1 empty
    with pytest.raises(DataError, match="exists"):
        report.fix(["empty"], old)
    with pytest.raises(DataError, match="no fix `magic`"):
        report.fix(["magic"], tmp_path / "b.jsonl")
    assert old.read_bytes() == before


def test_encoding_repair_touches_only_what_is_spoilt():
    for text in ("café naïve", "Größe — “ja” 👍", "plain", "Ã", "x\tn\n"):
        assert repair_encoding(text) == text
        spoilt = text.encode("utf-8").decode("cp1252", errors="ignore")
        if "“ja”" not in text and spoilt.encode("cp1252").decode("utf-8", errors="ignore") == text:
            assert repair_encoding(spoilt) == text
    assert repair_encoding("itâ€™s\x07 fine") == "it’s fine"


# tokens --------------------------------------------------------------------------------------------------------------


def test_tokens_of_a_model_what_is_cut_and_what_is_trained():
    rows = [row("Hello!", "Good day to you.", True), row("Who are you?", "word " * 200, False)]
    report = check(rows, model="demo", max_length=64)
    tokens = report.tokens.to_dict()
    assert tokens["rows"] == 2 and tokens["completions_cut"] == 1 and not tokens["sampled"]
    assert tokens["tokens"]["max"] > 200 and "Good day to you." in tokens["rendered"]["completion"]
    marked = tokens["rendered"]["tokens"]
    trained = "".join(token["text"] for token in marked if token["trained"])
    assert trained.startswith("Good day to you.") and len(trained) > len("Good day to you.")  # and the end of the turn
    assert "Hello!" in "".join(token["text"] for token in marked if not token["trained"])
    finding = next(finding for finding in report.findings if finding.name == "truncated")
    assert finding.lines == [2] and finding.details["completions_cut"] == 1
    assert "⟦Good day to you." in report.to_text()
    json.dumps(report.to_dict())
    with pytest.raises(ModelError):
        check(rows, model="./nowhere")


def test_many_rows_are_tokenized_on_a_sample_and_say_so():
    seen = []
    report = check(healthy(30), model="demo", token_sample=5, progress=lambda *done: seen.append(done))
    assert (report.tokens.rows, report.tokens.sampled) == (5, True) and seen == [
        ("read", 30),
        ("looked at", 30),
        ("tokenized", 5),
    ]
    assert "of 5 sampled rows" in report.to_text()


# large files ---------------------------------------------------------------------------------------------------------


def test_rows_above_the_spill_size_lie_in_a_file_and_are_the_same(tmp_path, monkeypatch):
    rows = healthy(9000) + [row("last", "", True)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    here = load_feedback(tmp_path / "a.jsonl", workspace=tmp_path)
    monkeypatch.setattr("kto_workbench.feedback.loading.SPILL_BYTES", 2**19)
    spilt = load_feedback(tmp_path / "a.jsonl", workspace=tmp_path)
    assert (tmp_path / "cache").is_dir() and spilt.rows._path and not here.rows._path
    assert list(here.rows) == list(spilt.rows) and spilt.rows[-1].prompt == "last"
    wanted = np.random.default_rng(0).permutation(9001)[:2000]
    assert [r.line for r in spilt.rows.take(wanted)] == (wanted + 1).tolist()
    assert check(here).to_dict()["findings"] == check(spilt).to_dict()["findings"]
    del spilt
    assert not list((tmp_path / "cache").iterdir())
