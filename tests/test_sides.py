"""Sides of a comparison: what they are called, that each is the model it says, and what the difference consists of."""

import json
import random
import shutil

import pytest
import torch
from conftest import SMALL, ended, wait_for
from peft import PeftModel
from test_endpoints import chatty, echo  # noqa: F401

from kto_workbench import KTOConfig, Run, compare, train
from kto_workbench.__main__ import main
from kto_workbench.answers import sides as module
from kto_workbench.answers.comparison import answer_as, completion_stats, decode_pieces, explain, open_run
from kto_workbench.answers.sides import Models, source_of
from kto_workbench.engine.batches import Pair
from kto_workbench.engine.models import load_model
from kto_workbench.engine.scoring import PaddedScorer
from kto_workbench.errors import ConfigError, ModelError, RunError, WorkbenchError
from kto_workbench.feedback import Row, load_feedback
from kto_workbench.feedback.rendering import encode, load_tokenizer, model_path
from kto_workbench.judging.records import list_records
from kto_workbench.judging.report import in_words
from kto_workbench.runs import create_run, start
from kto_workbench.runs.answering import Answerer
from kto_workbench.runs.endpoints import Endpoint, add_endpoint
from kto_workbench.runs.sides import Home, ModelSide, Side, find_side, sides_of
from kto_workbench.ui.compare import Comparison, show

PROMPTS = ["How many legs does a hedgehog have?", "Where do I find the kettle?", "What does an owl eat?"]
ANSWER = "Dear friend! A hedgehog has four legs."


@pytest.fixture(scope="module")
def models():
    return Models()


@pytest.fixture(scope="module")
def fully_tuned(tmp_path_factory, small_data):
    """A run that trained every weight of the demo model."""
    workspace = tmp_path_factory.mktemp("full")
    options = {**SMALL, "max_steps": 6, "save_steps": 3, "tuning": "full", "learning_rate": 1e-3}
    return train(KTOConfig(**options, data=str(small_data), workspace=str(workspace)), progress=False)


@pytest.fixture(scope="module")
def second_round(trained, small_data):
    """A run that goes on from another's adapter, counts its rewards against it, and draws pairs for z0 on the way."""
    options = {**SMALL, "max_steps": 6, "start_adapter": trained.id, "reference": "start"}
    options |= {"z0": "every", "kl_every": 4, "kl_sample": 8}
    return train(KTOConfig(**options, data=str(small_data), workspace=trained.config().workspace), progress=False)


def logps(model, prompt, answer, tokenizer=None):
    """[n] of each token of the answer: plain transformers, one sequence."""
    e = encode(tokenizer or load_tokenizer("demo"), Row(prompt, answer, True), 512)
    ids = torch.tensor([e.prompt_ids + e.completion_ids])
    with torch.no_grad():
        found = model(input_ids=ids).logits[0, :-1].log_softmax(-1).gather(-1, ids[0, 1:, None])[:, 0]
    return found[len(e.prompt_ids) - 1 :]


def plain_base():
    model = load_model("demo", device=torch.device("cpu"), dtype=torch.float32)
    model.set_attn_implementation("eager")
    return model


# names


def test_sides_have_names_that_are_found_again(trained):
    workspace = trained.config().workspace
    found = sides_of(trained)
    # save_steps 4, 24 steps, two checkpoints are kept
    assert [side.part for side in found] == ["reference", "checkpoint-20", "checkpoint-24", "tuned"]
    for side in found:
        again = find_side(side.name, workspace)
        assert (again.run.id, again.part) == (side.run.id, side.part)
    assert find_side(trained.id, workspace).part == "tuned"
    with pytest.raises(RunError) as caught:
        find_side(f"{trained.id}@checkpoint-5", workspace)
    assert str(caught.value) == (
        f"Run {trained.id} has no 'checkpoint-5'; it has reference, checkpoint-20, checkpoint-24, tuned."
    )


@pytest.mark.parametrize("part", ["", "../../start", "checkpoint-", "checkpoint-1/..", "/etc", "adapter"])
def test_a_side_is_never_just_any_folder(trained, part):
    with pytest.raises(RunError, match="^A side is a run's tuned model, its reference or a checkpoint-N, not "):
        Side(trained, part)


# each side is the model that it says


def test_the_reference_side_computes_what_the_base_computes(models, trained):
    with models.use(Side(trained)) as opened:
        tuned = logps(opened.model, PROMPTS[0], ANSWER)
    with models.use(Side(trained, "reference")) as opened:
        reference = logps(opened.model, PROMPTS[0], ANSWER)
    base = logps(plain_base(), PROMPTS[0], ANSWER)
    torch.testing.assert_close(reference, base, rtol=1e-5, atol=1e-5)
    assert (tuned - base).abs().max() > 1e-2
    model, _ = open_run(trained)
    torch.testing.assert_close(tuned, logps(model, PROMPTS[0], ANSWER), rtol=1e-5, atol=1e-5)


def test_an_adapter_that_stays_on_is_noticed(monkeypatch, trained):
    import contextlib

    models = Models()
    with models.use(Side(trained)):
        pass
    monkeypatch.setattr(module, "adapter_off", lambda model: contextlib.nullcontext())
    with (
        pytest.raises(ModelError, match="^The adapter is not off on the reference side: log-probabilities differ by"),
        models.use(Side(trained, "reference")),
    ):
        pass


def test_a_checkpoint_is_its_own_side(models, trained):
    folder = trained.path / "checkpoints" / "checkpoint-20"
    with models.use(Side(trained, "checkpoint-20")) as opened:
        got = logps(opened.model, PROMPTS[0], ANSWER)
    want = logps(PeftModel.from_pretrained(plain_base(), folder).eval(), PROMPTS[0], ANSWER)
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)
    with models.use(Side(trained)) as opened:
        assert (logps(opened.model, PROMPTS[0], ANSWER) - want).abs().max() > 1e-4


def test_two_checkpoints_are_compared_with_each_other(models, trained):
    early, late = Side(trained, "checkpoint-20"), Side(trained, "checkpoint-24")
    settings = dict(temperature=0.7, max_new_tokens=24, seed=3, models=models)
    answers = compare(late, PROMPTS, against=early, **settings)
    assert [a["reference"] for a in answers] == answer_as(models, early, PROMPTS, 3, 0.7, 24)
    assert [a["tuned"] for a in answers] == answer_as(models, late, PROMPTS, 3, 0.7, 24)
    assert compare(late, PROMPTS, against=late, **settings)[0]["reference"] == answers[0]["tuned"]


# full fine-tuning


def test_a_full_fine_tuning_moves_every_weight_and_leaves_a_whole_model(fully_tuned):
    from transformers import AutoModelForCausalLM

    assert fully_tuned.status().state == "finished" and not fully_tuned.adapter.exists()
    tuned = AutoModelForCausalLM.from_pretrained(fully_tuned.model).state_dict()
    base = plain_base().state_dict()
    assert tuned.keys() == base.keys()
    assert all(not torch.equal(tuned[name], base[name]) for name in base)
    first = fully_tuned.metrics()[0]
    # Before the first step the policy is the reference: all rewards are 0, the loss 1 − σ(0) times its weight.
    assert first["step"] == 1 and abs(first["rewards/chosen"]) < 1e-4 and abs(first["rewards/rejected"]) < 1e-4
    last = [m for m in fully_tuned.metrics() if "loss" in m][-1]
    assert last["rewards/margins"] > 0.01


def test_a_fully_tuned_model_has_its_sides(models, fully_tuned):
    assert [side.part for side in sides_of(fully_tuned)] == ["reference", "checkpoint-3", "checkpoint-6", "tuned"]
    assert source_of(Side(fully_tuned)).adapter is None
    with models.use(Side(fully_tuned)) as opened:
        tuned = logps(opened.model, PROMPTS[0], ANSWER)
    with models.use(Side(fully_tuned, "checkpoint-6")) as opened:
        torch.testing.assert_close(logps(opened.model, PROMPTS[0], ANSWER), tuned)
    with models.use(Side(fully_tuned, "reference")) as opened:
        reference = logps(opened.model, PROMPTS[0], ANSWER)
    torch.testing.assert_close(reference, logps(plain_base(), PROMPTS[0], ANSWER), rtol=1e-5, atol=1e-5)
    why = explain(models, Side(fully_tuned), PROMPTS[0], ANSWER)
    assert why["log_ratios"] == pytest.approx((tuned - reference).tolist(), abs=1e-4)
    with pytest.raises(RunError, match="tuned the whole model, so it has no adapter"):
        fully_tuned.newest_adapter()


def test_a_stopped_full_fine_tuning_resumes_as_if_never_interrupted(fully_tuned, tmp_path):
    from safetensors.torch import load_file

    from kto_workbench.engine.training import train_run

    path = tmp_path / "runs" / fully_tuned.id
    shutil.copytree(fully_tuned.path, path)
    shutil.rmtree(path / "model")
    shutil.rmtree(path / "checkpoints" / "checkpoint-6")
    run = Run(path)
    run.set_status(state="stopped")
    train_run(run)
    got, want = (load_file(r.model / "model.safetensors") for r in (run, fully_tuned))
    for name in want:
        torch.testing.assert_close(got[name], want[name], rtol=1e-5, atol=1e-6)


# a second round


def test_a_second_round_starts_where_the_first_ended(second_round, trained):
    config = second_round.config()
    assert config.reference == "start" and config.start_adapter == str(trained.adapter.resolve())
    weights = "adapter_model.safetensors"
    assert (second_round.start_adapter / weights).read_bytes() == (trained.adapter / weights).read_bytes()
    assert (second_round.adapter / weights).read_bytes() != (trained.adapter / weights).read_bytes()
    first = second_round.metrics()[0]
    # Rewards are counted against the adapter that it starts from: at the first step they are 0.
    assert abs(first["rewards/chosen"]) < 1e-4 and abs(first["rewards/rejected"]) < 1e-4 and first["kl_raw"] < 1e-4


def test_pairs_drawn_for_z0_are_held_against_the_adapter_that_training_starts_from(second_round, trained, small_data):
    # By hand: after 4 steps, 8 pairs (x_i, y_j); the mean of log π_4(y_j|x_i) − log π_start(y_j|x_i).
    from kto_workbench.engine.preparation import prepare

    rows, config = load_feedback(str(small_data)).rows, second_round.config()
    draw = random.Random(f"{config.seed}/4")
    train = prepare(rows, load_tokenizer("demo"), config).train
    drawn = [train.two_of_different_prompts(draw) for _ in range(config.kl_sample)]
    folders = (second_round.path / "checkpoints" / "checkpoint-4", trained.adapter)
    now, start = (PeftModel.from_pretrained(plain_base(), folder).eval() for folder in folders)
    score = lambda model, i, j: logps(model, rows[i].prompt, rows[j].completion).sum().item()
    want = sum(score(now, i, j) - score(start, i, j) for i, j in drawn) / len(drawn)
    record = next(record for record in second_round.metrics() if record["step"] == 5 and "kl_raw" in record)
    assert abs(want) > 1e-3 and record["kl_raw"] == pytest.approx(want, abs=1e-4)


def test_a_second_round_against_the_base_starts_with_the_first_rounds_rewards(trained, small_data, models):
    options = {**SMALL, "max_steps": 1, "start_adapter": str(trained.path), "reference": "base", "eval_fraction": 0.0}
    run = train(KTOConfig(**options, data=str(small_data), workspace=trained.config().workspace), progress=False)
    first, config = run.metrics()[0], run.config()
    assert abs(first["rewards/rejected"]) > 0.01
    # By hand: β · (log π_first − log π_base) over the one batch that was trained on, whichever of the epoch's it was.
    from kto_workbench.engine.preparation import prepare

    rows = load_feedback(str(small_data)).rows
    means = []
    for part in prepare(rows, load_tokenizer("demo"), config).train:
        disliked = [rows[number] for number in part if not rows[number].label]
        stats = completion_stats(
            models,
            Side(trained),
            Side(trained, "reference"),
            [row.prompt for row in disliked],
            [row.completion for row in disliked],
        )
        means.append(config.beta * sum(s["tuned_logp"] - s["reference_logp"] for s in stats) / len(stats))
    assert min(abs(first["rewards/rejected"] - mean) for mean in means) < 1e-4


def test_the_reference_of_a_second_round_is_the_first_ones_adapter(models, second_round, trained):
    with models.use(Side(second_round, "reference")) as opened:
        reference = logps(opened.model, PROMPTS[0], ANSWER)
    with models.use(Side(trained)) as opened:
        torch.testing.assert_close(reference, logps(opened.model, PROMPTS[0], ANSWER))


def test_where_the_start_is_named_the_reference_must_be(trained, small_data, tmp_path):
    workspace = trained.config().workspace
    with pytest.raises(ConfigError, match="^Option `start_adapter` needs `reference` beside it"):
        KTOConfig(start_adapter=trained.id)
    with pytest.raises(ConfigError, match="^Option `reference` `start` needs a `start_adapter`"):
        KTOConfig(reference="start")
    with pytest.raises(ConfigError, match="^Option `start_adapter` is for tuning `lora`"):
        KTOConfig(start_adapter=trained.id, reference="base", tuning="full")
    with pytest.raises(ConfigError, match="^Option `z0` `every` asks the reference all along, which tuning `full`"):
        KTOConfig(tuning="full", z0="every")
    base = dict(data=str(small_data), workspace=workspace, reference="base")
    with pytest.raises(RunError, match="^There is no run 'nowhere'"):
        create_run(KTOConfig(**base, start_adapter="nowhere"))
    other = tmp_path / "other"
    shutil.copytree(model_path("demo"), other)
    with pytest.raises(ConfigError, match=f"^Run {trained.id} was trained on model 'demo', so its adapter is no start"):
        create_run(KTOConfig(**base, model=str(other), start_adapter=trained.id))
    odd = tmp_path / "odd"
    odd.mkdir()
    (odd / "adapter_config.json").write_text("{")
    with pytest.raises(ConfigError, match="its adapter_config.json is damaged"):
        create_run(KTOConfig(**base, start_adapter=str(odd)))
    (odd / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    with pytest.raises(ConfigError, match="^There is no LoRA adapter in .*odd"):
        create_run(KTOConfig(**base, start_adapter=str(odd)))


def test_rank_alpha_and_layers_come_from_the_start(trained, small_data):
    options = dict(data=str(small_data), workspace=trained.config().workspace, lora_r=64, lora_alpha=1)
    run = create_run(KTOConfig(**options, start_adapter=trained.id, reference="base"))
    config = run.config()
    assert (config.lora_r, config.lora_alpha) == (SMALL["lora_r"], SMALL["lora_alpha"])
    assert set(config.lora_targets.split(",")) >= {"q_proj", "down_proj"}


# why


def test_the_heat_map_adds_up_to_the_reward_that_training_logs(tmp_path, small_data, models):
    # One batch is all of the data, so the last record of an evaluation-free run is this batch's rewards before its
    # last update; a step of size zero makes that the final adapter's.
    lines = small_data.read_text().splitlines()[:16]
    (tmp_path / "few.jsonl").write_text("\n".join(lines))
    options = {**SMALL, "batch_size": 16, "max_steps": 8, "eval_fraction": 0.0, "lr_scheduler_type": "linear"}
    data = str(tmp_path / "few.jsonl")
    run = train(KTOConfig(**options, data=data, workspace=str(tmp_path)), progress=False)
    again = {**options, "max_steps": 1, "learning_rate": 1e-12, "start_adapter": run.id, "reference": "base"}
    logged = train(KTOConfig(**again, data=data, workspace=str(tmp_path)), progress=False).metrics()[0]
    rows = load_feedback(data).rows
    side = Side(run)
    for label, name in ((True, "rewards/chosen"), (False, "rewards/rejected")):
        found = [explain(models, side, row.prompt, row.completion) for row in rows if row.label == label]
        assert len(found) > 2 and abs(logged[name]) > 0.01
        for why in found:
            assert why["reward"] == pytest.approx(run.config().beta * sum(why["log_ratios"]), abs=1e-9)
            assert why["logp"] - why["reference_logp"] == pytest.approx(sum(why["log_ratios"]), abs=1e-6)
        mean = sum(why["reward"] for why in found) / len(found)
        assert mean == pytest.approx(logged[name], abs=1e-4)


def test_the_pieces_of_a_heat_map_are_the_answer(models, trained):
    why = explain(models, Side(trained), PROMPTS[0], ANSWER)
    assert len(why["tokens"]) == len(why["log_ratios"]) > 5
    end = load_tokenizer("demo").eos_token
    assert "".join(why["tokens"]).strip() == ANSWER + end
    stats = completion_stats(models, Side(trained), Side(trained, "reference"), PROMPTS[:1], [ANSWER])
    assert stats[0]["tokens"] == len(why["tokens"])
    assert stats[0]["tuned_logp"] - stats[0]["reference_logp"] == pytest.approx(sum(why["log_ratios"]), abs=1e-4)


def test_pieces_of_a_character_wait_for_the_whole_of_it():
    class Bytes:
        def decode(self, ids, **_):
            return bytes(ids).decode("utf-8", errors="replace")

    ids = list("aé好!".encode())  # 1, 2, 3 and 1 bytes
    assert decode_pieces(Bytes(), ids) == ["a", "", "é", "", "", "好", "!"]


def test_tokens_of_one_by_one_equal_the_padded_sum(models, trained):
    with models.use(Side(trained)) as opened:
        pair = Pair((5, 6, 7), (8, 9, 10, 11))
        with torch.no_grad():
            each = opened.scorer.score_tokens(pair)
            total = PaddedScorer(opened.model).score([pair]).logps
    assert each.shape == (4,)
    torch.testing.assert_close(each.sum()[None], total, rtol=1e-5, atol=1e-5)


# the warm child


def test_the_child_answers_as_any_two_sides_and_explains(tmp_path, trained, models):
    answerer = Answerer(tmp_path)
    try:
        names = {"left": Side(trained, "checkpoint-20"), "right": Side(trained, "reference")}
        settings = dict(seed=3, temperature=0.7, max_new_tokens=16)
        done = {
            (event["side"], event["prompt"]): event["text"]
            for event in answerer.stream(names, PROMPTS, **settings)
            if event["done"]
        }
        for name, side in names.items():
            assert [done[name, i] for i in range(3)] == answer_as(models, side, PROMPTS, 3, 0.7, 16)
        want = explain(models, Side(trained), PROMPTS[0], ANSWER)
        got = answerer.explain(Side(trained), PROMPTS[0], ANSWER)
        assert got["tokens"] == want["tokens"]
        assert got["log_ratios"] == pytest.approx(want["log_ratios"], abs=1e-5)
    finally:
        answerer.close()


def test_the_child_lets_its_models_go_when_a_training_begins(tmp_path, trained, small_data):
    import psutil

    answerer = Answerer(tmp_path)
    settings = dict(seed=3, temperature=0.7, max_new_tokens=4)
    try:
        list(answerer.stream(trained.path, PROMPTS[:1], **settings))
        log = tmp_path / "answering.log"
        assert "let go" not in log.read_text()
        run = create_run(KTOConfig(**{**SMALL, "max_steps": 3}, data=str(small_data), workspace=str(tmp_path)))
        start(run)
        wait_for(lambda: "let go" in log.read_text(), what="the child to give way")
        assert psutil.pid_exists(answerer._child.pid) and answerer.warm
        assert ended(run).state == "finished"
        assert list(answerer.stream(run.path, PROMPTS[:1], **settings))[-1]["done"]
    finally:
        answerer.close()


# any model, and endpoints


def test_any_model_can_answer_as_it_is(models, tmp_path):
    side = find_side("demo", tmp_path)
    assert side == find_side("model:demo", tmp_path) == ModelSide("demo") and side.run is None
    with models.use(side) as opened:
        torch.testing.assert_close(logps(opened.model, PROMPTS[0], ANSWER), logps(plain_base(), PROMPTS[0], ANSWER))
    shutil.copytree(model_path("demo"), tmp_path / "copy")
    copy = find_side(str(tmp_path / "copy"), tmp_path)
    answers = compare(copy, PROMPTS[:1], against=side, temperature=0.0, max_new_tokens=8, models=models)
    assert answers[0]["tuned"] == answers[0]["reference"] != ""
    with pytest.raises(RunError, match="^model:demo is no run, so it has no reference of its own: "):
        compare(side, PROMPTS[:1])
    (tmp_path / "empty").mkdir()
    for name in (str(tmp_path / "empty"), f"model:{tmp_path / 'none'}", "model:", "model:a\nb"):
        with pytest.raises(ModelError):
            find_side(name, tmp_path)


def test_a_dead_endpoint_is_told_beside_the_answers_of_the_others(tmp_path, models, chatty):  # noqa: F811
    add_endpoint(Endpoint(chatty(echo).url, "big", name="local"), tmp_path)
    add_endpoint(Endpoint("http://127.0.0.1:9/v1", "big", name="dead"), tmp_path)
    names = {"a": "endpoint:dead", "b": "endpoint:local", "c": "demo"}
    sides = {key: find_side(name, tmp_path) for key, name in names.items()}
    comparison, answerer = Comparison(PROMPTS, sides), Answerer(tmp_path)
    try:
        with pytest.raises(WorkbenchError, match="^Nobody answers at dead; is its server running"):
            for event in answerer.stream(sides, PROMPTS, seed=3, temperature=0.7, max_new_tokens=16):
                comparison.take(0, event)
        assert [comparison.texts[i, "b"] for i in range(3)] == PROMPTS  # it says back what it is asked
        here = answer_as(models, ModelSide("demo"), PROMPTS, 3, 0.7, 16)
        assert [comparison.texts[i, "c"] for i in range(3)] == here
        assert list(comparison.failed) == ["a"] and not comparison.complete(0)
        with pytest.raises(RunError, match="^An endpoint gives no log-probabilities .*no heat map.$"):
            answerer.explain(sides["c"], PROMPTS[0], ANSWER, against=sides["b"])
    finally:
        answerer.close()
    comparison.sides = {"reference": sides["a"], "tuned": sides["c"]}
    comparison.failed = {"reference": comparison.failed["a"]}
    comparison.texts = {(i, "tuned"): text for i, text in enumerate(here)}
    comparison.done = set(comparison.texts)
    shown = show("en", comparison)
    assert shown.count("Nobody answers at dead") == 3 and here[0].split()[0] in shown
    assert "data-why" not in shown and "there is no heat map" in shown
    assert "没有应答" in show("zh", comparison)


def test_an_endpoint_is_evaluated_without_a_run_and_without_a_kl(tmp_path, chatty, capfd):  # noqa: F811
    add_endpoint(Endpoint(chatty(echo).url, "big", name="local"), tmp_path)
    (tmp_path / "prompts.txt").write_text("\n".join(PROMPTS))
    options = ["--prompts", str(tmp_path / "prompts.txt"), "--judge", "longer", "--max-new-tokens", "4", "--json"]
    asked = ["compare", "endpoint:local", "--against", "model:demo", "--workspace", str(tmp_path), *options]
    assert main(asked) == 0
    found = json.loads(capfd.readouterr().out)
    evaluation = found["evaluation"]
    assert [one["tuned"] for one in found["answers"]] == PROMPTS and evaluation["n"] == 3
    assert evaluation["kl"]["per_answer"] is None and "so there is no KL." in evaluation["kl"]["missing"]
    # 7, 6 and 5 words; four tokens at most, and the end of the turn
    assert evaluation["tuned"]["words"] == 6 and evaluation["tuned"]["tokens"] is None
    assert 0 < evaluation["reference"]["tokens"] <= 5
    (record,) = list_records(Home(tmp_path))
    assert record.read()["state"] == "finished" and record.read()["about"]["tuned"] == "endpoint:local"
    assert "so there is no KL." in in_words(evaluation)
    for wrong, sentence in [
        ([*asked[:2], "--workspace", str(tmp_path), *options], "endpoint:local is no run, so it has no reference "),
        ([*asked[:6]], "Only a run has prompts of its own: "),
        (["compare", "endpoint:none", *asked[2:]], "There is no endpoint 'none' in this workspace, which has local; "),
        ([*asked, "--checkpoints"], "Option `checkpoints` takes all of a run's: "),
    ]:
        assert main(wrong) == 2
        assert capfd.readouterr().err.startswith(sentence), wrong
