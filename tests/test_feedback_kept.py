"""Large files are read once: what was kept is what would be read, and nothing else is ever taken for it."""

import json

import pytest

from kto_workbench.feedback import kept, load_feedback
from kto_workbench.feedback.held_out import MOST, hold_out, prompt_key, prompt_numbers


@pytest.fixture
def large(tmp_path, monkeypatch):
    """A file that counts as large, with two rows that can't be used."""
    monkeypatch.setattr(kept, "KEPT_FROM", 1000)
    monkeypatch.setattr(kept, "ROWS_A_BATCH", 256)
    rows = [{"prompt": f"q{i}", "completion": f"a{i}", "label": i % 3 == 0} for i in range(300)]
    rows[7] = {"prompt": "q7", "completion": "a7", "label": "perhaps"}
    lines = [json.dumps(row) for row in rows]
    lines[9] = "{broken"
    path = tmp_path / "large.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return path


def kept_files(workspace):
    return sorted((workspace / "cache" / "rows").glob("*.arrow"))


def facts(feedback):
    names = ("rows_in", "source", "path", "container", "unit", "format", "mapping", "n_desirable", "n_undesirable")
    found = {name: getattr(feedback, name) for name in names}
    return found | {"rows": list(feedback.rows), "problems": list(feedback.problems)}


def test_what_was_kept_is_what_was_read(large, tmp_path, monkeypatch):
    first = load_feedback(large, workspace=tmp_path)
    assert len(kept_files(tmp_path)) == 1 and first.problems[0].line == 8 and first.problems[1].line == 10
    monkeypatch.setattr("kto_workbench.feedback.loading._read", None)  # reading again would fail
    again = load_feedback(large, workspace=tmp_path)
    assert facts(again) == facts(first) and len(again) == 298
    # Row by row, some of them, and in odd order, over the batches that they lie in.
    rows = list(first.rows)
    assert [again.rows[i] for i in (297, 0, 255, 256, -1)] == [rows[i] for i in (297, 0, 255, 256, -1)]
    assert list(again.rows.take([256, 3, 3, 297, 0])) == [rows[i] for i in (256, 3, 3, 297, 0)]
    assert list(again.rows[250:260]) == rows[250:260]
    with pytest.raises(IndexError):
        again.rows.take([5, 298])


def test_another_content_mapping_or_code_is_read_anew(large, tmp_path, monkeypatch):
    load_feedback(large, workspace=tmp_path)
    other = load_feedback(
        large, workspace=tmp_path, mapping={"prompt": "completion", "completion": "prompt", "label": "label"}
    )
    assert other.rows[0].prompt == "a0" and len(kept_files(tmp_path)) == 2
    large.write_text(large.read_text().replace('"q0"', '"z0"'))
    assert load_feedback(large, workspace=tmp_path).rows[0].prompt == "z0"
    monkeypatch.setattr(kept, "_code", lambda: "another version")
    load_feedback(large, workspace=tmp_path)
    assert len(kept_files(tmp_path)) == 4
    load_feedback(large, workspace=tmp_path, mapping={"prompt": "prompt", "completion": "completion", "label": "label"})
    assert len(kept_files(tmp_path)) == kept.KEPT_FILES  # the oldest has made room


@pytest.mark.parametrize("damage", [lambda data: data[:100], lambda data: b"", lambda data: data[:-8] + b"\0" * 8])
def test_a_damaged_one_is_read_anew(large, tmp_path, damage):
    first = load_feedback(large, workspace=tmp_path)
    (file,) = kept_files(tmp_path)
    file.write_bytes(damage(file.read_bytes()))
    assert facts(load_feedback(large, workspace=tmp_path)) == facts(first)


def test_a_workspace_that_can_not_be_written_costs_a_second_reading(large, tmp_path):
    (tmp_path / "cache").write_text("a file where the folder should be")
    assert len(load_feedback(large, workspace=tmp_path)) == 298


def test_prompts_are_numbered_as_their_keys_tell_them_apart():
    prompts = [
        "hi",
        [{"role": "user", "content": "hi"}],
        [{"role": "user", "content": "ho"}],
        [{"role": "system", "content": "be kind"}, {"role": "user", "content": "hi"}],
        "hi",
    ]
    rows = load_feedback([{"prompt": p, "completion": "x", "label": True} for p in prompts]).rows
    numbers, keys = prompt_numbers(rows), [prompt_key(row.prompt) for row in rows]
    for i in range(len(prompts)):
        for j in range(len(prompts)):
            assert (numbers[i] == numbers[j]) == (keys[i] == keys[j])


def test_an_evaluation_stays_small_when_data_is_large():
    train, held = hold_out(range(100_000), 0.1, seed=0)
    assert len(held) == MOST and len(train) == 100_000 - MOST
