"""The KL that a training measures on its own samples, against an estimate that shares no code with it."""

import json
import statistics

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from kto_workbench import KTOConfig, train
from kto_workbench.engine.sampler import MEASURED
from kto_workbench.feedback.rendering import model_path
from kto_workbench.ui.live import about_kl, draw
from kto_workbench.ui.suggestions import SHOWN, prompts_for
from kto_workbench.views.card import card
from kto_workbench.views.curves import SAMPLED
from kto_workbench.views.figure import plot
from kto_workbench.views.records import records_of
from kto_workbench.views.report import write_report

FRESH = 512


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The demo, far enough for its answers to have changed."""
    folder = tmp_path_factory.mktemp("sampled")
    options = {"max_steps": 50, "sample_steps": 25, "eval_steps": 50, "save_steps": 50, "threads": 1}
    return train(KTOConfig(data="demo", workspace=str(folder), **options), progress=False)


@torch.no_grad()
def estimate(run, prompts):
    """Mean and standard error of log π_θ − log π_ref over fresh answers: transformers and peft alone."""
    config = run.config()
    tokenizer = AutoTokenizer.from_pretrained(model_path(config.model))
    base = AutoModelForCausalLM.from_pretrained(model_path(config.model), dtype=torch.float32)
    model = PeftModel.from_pretrained(base, run.adapter).eval()
    torch.manual_seed(1234)
    asked = (prompts * -(-FRESH // len(prompts)))[:FRESH]
    chats = [p if isinstance(p, list) else [{"role": "user", "content": p}] for p in asked]
    texts = [tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True) for chat in chats]
    inputs = tokenizer(texts, return_tensors="pt", padding=True, padding_side="left", add_special_tokens=False)
    inputs = {key: inputs[key] for key in ("input_ids", "attention_mask")}
    width, end = inputs["input_ids"].shape[1], tokenizer.eos_token_id
    out = model.generate(
        **inputs, do_sample=True, temperature=1.0, top_k=0, top_p=1.0,
        max_new_tokens=config.sample_max_new_tokens, eos_token_id=end, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    answers = out[:, width:]
    # Up to and with the first token that ends the answer.
    ended = (answers == end).cumsum(-1)
    counted = (ended == 0) | ((answers == end) & (ended == 1))
    mask = torch.cat([inputs["attention_mask"], counted.long()], -1)
    positions = (mask.cumsum(-1) - 1).clamp(min=0)

    def logps():
        logits = model(input_ids=out, attention_mask=mask, position_ids=positions).logits[:, width - 1 : -1]
        found = logits.double().log_softmax(-1).gather(-1, answers[..., None]).squeeze(-1)
        return (found * counted).sum(-1)

    tuned = logps()
    with model.disable_adapter():
        reference = logps()
    ratios = (tuned - reference).tolist()
    return statistics.fmean(ratios), statistics.stdev(ratios) / FRESH**0.5


def test_the_sampled_kl_is_that_of_fresh_answers(run):
    measured = [record for record in run.metrics() if "kl_sampled" in record]
    assert [record["step"] for record in measured] == [25, 50]
    last = measured[-1]
    suggested = json.loads((run.path / "suggestions.json").read_text())
    assert last["kl_sampled_count"] == len(suggested) == MEASURED
    # The log-ratios that are kept are those that the mean and its error are of.
    ratios = [one["log_ratio"] for one in suggested]
    assert statistics.fmean(ratios) == pytest.approx(last["kl_sampled"], abs=1e-3)
    assert statistics.stdev(ratios) / MEASURED**0.5 == pytest.approx(last["kl_sampled_error"], abs=1e-3)
    assert [abs(one) for one in ratios] == sorted(map(abs, ratios), reverse=True)
    mean, error = estimate(run, [one["prompt"] for one in suggested])
    assert mean > 4 * error > 0  # there is something to agree on
    apart = abs(mean - last["kl_sampled"])
    assert apart < 2 * (error**2 + last["kl_sampled_error"] ** 2) ** 0.5, (mean, error, last)


def test_the_sampled_kl_is_read_beside_z0_and_not_as_a_step(run):
    records = records_of(run)
    assert records.sampled["step"].tolist() == [25, 50] and "kl_sampled" not in records.train
    assert len(records.train) == 50


def test_the_sampled_kl_stands_in_picture_report_and_card(run):
    last = [record for record in run.metrics() if "kl_sampled" in record][-1]
    said = f"KL {last['kl_sampled']:.3g} ± {last['kl_sampled_error']:.2g} nats, over 32 answers"
    assert said in write_report(run) and said in card(run, "adapter")
    z0 = plot(run).axes[2]
    drawn = [line.get_ydata()[-1] for line in z0.get_lines() if line.get_color() == SAMPLED]
    spread = 2 * last["kl_sampled_error"]  # the line, and the ends of its bars
    assert sorted(drawn) == pytest.approx([last["kl_sampled"] + by * spread for by in (-1, 0, 1)])
    head, table = draw(records_of(run), "z0", "train", "en", 1.0, 0.6, ["z0"])
    assert f"± {last['kl_sampled_error']:.2g}" in about_kl("en", records_of(run)) and 'data-learn="z0"' in head
    assert table[table["curve"] == "KL of its own answers"]["value"].tolist()[-1] == last["kl_sampled"]


def test_prompts_are_suggested_on_which_the_models_part(run):
    assert prompts_for(run)[0] in str(json.loads((run.path / "suggestions.json").read_text())[:3])
    for these in (prompts_for(run), prompts_for(None)):
        assert len(these) == len(set(these)) == SHOWN


def test_where_no_reference_is_left_nothing_is_measured(tmp_path, small_data):
    options = {"batch_size": 8, "max_steps": 2, "sample_steps": 1, "tuning": "full", "eval_fraction": 0.2, "threads": 1}
    full = train(KTOConfig(data=str(small_data), workspace=str(tmp_path), **options), progress=False)
    assert len(full.samples()) > 0 and not any("kl_sampled" in record for record in full.metrics())


def test_a_round_that_is_held_against_the_base_begins_with_its_own_answers(run, tmp_path):
    """Nothing is learned in its one step, so what it says before it, it says after it, and not what the base says."""
    goes_on = {"start_adapter": str(run.adapter), "reference": "base", "max_steps": 1, "learning_rate": 1e-12}
    again = train(KTOConfig(data="demo", workspace=str(tmp_path), **goes_on, sample_steps=1, threads=1), progress=False)
    before, after = ([one for one in again.samples() if one["step"] == step] for step in (0, 1))
    assert [one["tuned"] for one in before] == [one["tuned"] for one in after]
    assert any(one["tuned"] != one["reference"] for one in before)
    measured = {one["step"]: one for one in again.metrics() if "kl_sampled" in one}
    (first, last), was = (measured[0], measured[1]), [one for one in run.metrics() if "kl_sampled" in one][-1]
    for one in (first, last):
        error = (one["kl_sampled_error"] ** 2 + was["kl_sampled_error"] ** 2) ** 0.5
        assert abs(one["kl_sampled"] - was["kl_sampled"]) < 3 * error
