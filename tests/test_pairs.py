"""Pairs found among thumbs: which answers, how many, the same ones again; what is trained on where there are none."""

import json
import random

import numpy as np
import pytest
from conftest import call_kto
from hypothesis import given
from hypothesis import strategies as st
from test_training import adapter_of, make_config, world  # noqa: F401
from tiny_models import WORDS

from kto_workbench import load_feedback, train
from kto_workbench.errors import DataError
from kto_workbench.feedback.pairs import find_pairs
from kto_workbench.runs import create_run

THUMB = st.tuples(st.integers(0, 3), st.integers(0, 3), st.booleans())  # prompt, answer, up


def rows_of(thumbs):
    return load_feedback([{"prompt": f"p{p}", "completion": f"a{a}", "label": up} for p, a, up in thumbs]).rows


@given(st.lists(THUMB, min_size=1, max_size=30), st.integers(0, 5))
def test_each_answer_is_in_one_pair_at_most_and_no_two_are_left_that_could_be_paired(thumbs, seed):
    rows = rows_of(thumbs)
    pairs = find_pairs(rows, seed)
    used = pairs.ravel().tolist()
    assert len(used) == len(set(used))
    sides = {(p, a): {up for q, b, up in thumbs if (q, b) == (p, a)} for p, a, _ in thumbs}
    for liked, disliked in pairs.tolist():
        assert rows[liked].label and not rows[disliked].label
        assert rows[liked].prompt == rows[disliked].prompt and rows[liked].completion != rows[disliked].completion
    # By hand: of each prompt the thumbs up or the thumbs down, whichever are fewer; answers with both count as none.
    fine = [thumb for thumb in thumbs if len(sides[thumb[:2]]) == 1]
    count = sum(min(sum(q == p and up == wanted for q, _, up in fine) for wanted in (True, False)) for p in range(4))
    assert len(pairs) == count
    assert np.array_equal(find_pairs(rows, seed), pairs)


def test_which_answers_meet_is_drawn_by_the_seed():
    rows = rows_of([(0, a, a < 10) for a in range(20)])
    found = {tuple(map(tuple, find_pairs(rows, seed).tolist())) for seed in range(5)}
    assert len(found) == 5 and all(len(pairs) == 10 for pairs in found)


def test_answers_of_one_line_are_paired_with_each_other():
    # Twenty comparisons about one prompt: by lot alone, one in twenty would meet its own.
    rows = load_feedback([{"prompt": "p", "chosen": f"good {i}", "rejected": f"bad {i}"} for i in range(20)]).rows
    pairs = find_pairs(rows, seed=3).tolist()
    assert len(pairs) == 20 and all(rows[a].line == rows[b].line for a, b in pairs)


def test_a_prompt_is_the_same_as_text_and_as_its_one_message_and_another_with_other_tools():
    tools = lambda name: [{"type": "function", "function": {"name": name, "parameters": {}}}]
    chat = [{"role": "user", "content": "p"}]
    some = [{"prompt": "p", "completion": "a", "label": True}, {"prompt": chat, "completion": "b", "label": False}]
    assert len(find_pairs(load_feedback(some).rows)) == 1
    some = [{"prompt": chat, "completion": "a", "label": True, "tools": tools("f")}]
    some += [{"prompt": chat, "completion": "b", "label": False, "tools": tools(name)} for name in ("g", "f")]
    assert find_pairs(load_feedback(some).rows).tolist() == [[0, 2]]


def paired_file(path, n=24, siblings=0):
    """Pairs, and before them some rows that answer a prompt of their own."""
    draw = random.Random(1)
    text = lambda most: " ".join(draw.choice(WORDS) for _ in range(draw.randint(1, most)))
    rows = [{"prompt": f"{text(4)} {i}", "completion": text(6), "label": i % 2 == 0} for i in range(siblings)]
    for i in range(n):
        prompt = f"{text(4)} {siblings + i}"
        answers = [(f"{text(5)} {word}", word == "good") for word in ("good", "bad")]
        rows += [{"prompt": prompt, "completion": answer, "label": up} for answer, up in answers]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_training_on_pairs_holds_whole_pairs_out_and_says_how_many_there_are(world, tmp_path, caplog):  # noqa: F811
    data = paired_file(tmp_path / "p.jsonl", siblings=6)
    caplog.set_level("INFO")
    run = train(make_config(world, tmp_path, objective="dpo", data=str(data), batch_size=4), progress=False)
    # 24 pairs; about a tenth of the 54 rows is held out, whole prompts, and batches of 4 count pairs.
    remark = next(line for line in caplog.messages if "pairs of" in line)
    total, rows, kept, held = (int(word) for word in remark.split() if word.isdigit())
    assert (total, rows, kept + held) == (24, 54, 24) and 1 <= held <= 4
    assert run.status().total_steps == 2 * -(-kept // 4)
    assert run.data()["pairs"] == 24 and run.config().desirable_weight is None
    records = run.metrics()
    last, evaluated = (next(r for r in reversed(records) if name in r) for name in ("loss", "eval_loss"))
    assert last["rewards/accuracies"] > 0.5 and "eval_rewards/accuracies" in evaluated
    assert not {"kl", "kl_raw", "delta"} & (last.keys() | {name.removeprefix("eval_") for name in evaluated})
    assert last["rewards/margins"] == pytest.approx(last["rewards/chosen"] - last["rewards/rejected"])
    assert run.rewards()[-1]["z0"] is None and len(run.rewards()[-1]["rewards"]) % 2 == 0
    assert adapter_of(run)


def test_without_pairs_it_is_refused_in_a_sentence(world, tmp_path):  # noqa: F811
    with pytest.raises(DataError, match="no prompt with both a thumb up and a thumb down.*`dpo`.*`kto` needs none"):
        create_run(make_config(world, tmp_path, objective="dpo"))
    config = ["--model", str(world / "model"), "--objective", "ipo", "--workspace", str(tmp_path)]
    done = call_kto("train", str(world / "thumbs.jsonl"), *config, code=2)
    assert done.stderr.count("\n") == 1 and "no pairs" in done.stderr and not list(tmp_path.glob("runs/*"))


def test_where_all_pairs_are_held_out_it_says_so(world, tmp_path):  # noqa: F811
    data = paired_file(tmp_path / "p.jsonl", n=1, siblings=2)
    config = make_config(world, tmp_path, objective="dpo", data=str(data), eval_fraction=0.5, seed=0)
    seeds = [config.replace(seed=seed) for seed in range(6)]
    said = set()
    for one in seeds:
        try:
            said.add(train(one.replace(max_steps=1), progress=False).status().state)
        except DataError as error:
            said.add(str(error))
    assert said == {
        "finished",
        f"All pairs of {data} (there are 1) are held out to evaluate; lower `eval_fraction`.",
    }


def test_check_says_how_many_pairs_there_are(tmp_path):
    done = call_kto("check", str(paired_file(tmp_path / "p.jsonl", siblings=3)), "--json")
    assert json.loads(done.stdout)["n_pairs"] == 24
    assert "24 pairs of 51 rows" in call_kto("check", str(tmp_path / "p.jsonl")).stdout
