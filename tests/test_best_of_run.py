"""A judge while training: what it records, when it ends a run, and which step the run keeps."""

import functools
import logging
import math
import shutil

import pytest
import torch
from conftest import SMALL, call_kto, ended
from safetensors.torch import load_file, save_file
from tiny_vision import png

from kto_workbench import KTOConfig, compare, train
from kto_workbench.demo.judge import judge as demo_judge
from kto_workbench.engine import judges, sampler, training
from kto_workbench.engine.assembly import Policy
from kto_workbench.engine.crew import ALONE
from kto_workbench.engine.judged import Judged, best_step
from kto_workbench.engine.models import as_it_is, load_model
from kto_workbench.engine.reference_answers import ReferenceAnswers
from kto_workbench.engine.sampler import Sampler, answering
from kto_workbench.engine.sharding import at_once
from kto_workbench.engine.trainer import KTOTrainer
from kto_workbench.engine.training import train_run
from kto_workbench.errors import ConfigError, WorkbenchError
from kto_workbench.feedback.images import Beside, Images
from kto_workbench.feedback.rendering import load_tokenizer, model_path
from kto_workbench.judging.verdicts import REFERENCE, TIE, TUNED, Verdicts
from kto_workbench.runs import Run, create_run, start
from kto_workbench.runs.directory import new_run
from kto_workbench.runs.sides import Side
from kto_workbench.ui.live import draw
from kto_workbench.views.card import card
from kto_workbench.views.records import records_of
from kto_workbench.views.report import write_report

JUDGED = SMALL | dict(
    max_steps=8, eval_steps=8, save_steps=3, judge="demo", judge_steps=2, judge_prompts=8, sample_max_new_tokens=24
)


def judged_of(run):
    return [record for record in run.metrics() if "judged_win_rate" in record]


def adapter_of(path):
    return load_file(path / "adapter_model.safetensors")


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture(scope="module")
def config(tmp_path_factory, small_data):
    return KTOConfig(data=str(small_data), workspace=str(tmp_path_factory.mktemp("judged")), **JUDGED)


@pytest.fixture(scope="module")
def run(config):
    return train(config, progress=False)


class Scripted:
    """A judge that says what a script has, one judgement after the other: how many of the answers win."""

    name, needs_expected = "scripted", False

    def __init__(self, wins):
        self.wins, self.seen = iter(wins), []

    def verdicts(self, cases, on_progress):
        self.seen.append(cases)
        wins = next(self.wins)
        if wins is None:
            raise WorkbenchError("The endpoint is down.")
        return Verdicts([TUNED] * wins + [REFERENCE] * (len(cases) - wins))


@pytest.fixture
def script(monkeypatch):
    def write(*wins):
        judge = Scripted(wins)
        monkeypatch.setattr(training, "find_judge", lambda *_, **__: judge)
        return judge

    return write


def test_what_the_judge_says_is_recorded(run):
    found = judged_of(run)
    assert [record["step"] for record in found] == [2, 4, 6, 8]
    for record in found:
        wins, ties, losses = (record[f"judged_{name}"] for name in ("wins", "ties", "losses"))
        n = wins + ties + losses
        assert record["judged_count"] == n == 8
        rate = (wins + ties / 2) / n
        assert record["judged_win_rate"] == pytest.approx(rate)
        # Of points 1, ½ and 0: their variance, n − 1 below it, over n; all the same: 3 / n bounds what was not seen.
        spread = wins * (1 - rate) ** 2 + ties * (0.5 - rate) ** 2 + losses * rate**2
        error = math.sqrt(spread / (n - 1) / n) if n not in (wins, ties, losses) else 3 / 8 / 1.95996
        assert record["judged_error"] == pytest.approx(error, rel=1e-4)
    assert run.status().best_step is None and run.status().message == ""  # nothing was to be kept


def test_standard_error_by_hand(tmp_path, config):
    class Three(Scripted):
        def verdicts(self, cases, on_progress):
            return Verdicts([TUNED, TIE, None, REFERENCE])

    one = Judged(
        new_run(config.replace(workspace=str(tmp_path)), {}), Three([]), None, list("abcd"), 1,
        early_stop=0, keep_best=False, crew=ALONE,
    )  # fmt: skip
    found = one._ask(1, ["x y"] * 4, ["x"] * 4)
    # 1, ½, 0 about ½: variance (¼ + 0 + ¼) / 2 = ¼, over three: √(1/12).
    assert found["judged_error"] == pytest.approx(math.sqrt(1 / 12)) and found["judged_count"] == 3
    assert found["judged_length_ratio"] == 2


def test_it_is_the_tuned_model_that_is_judged_on_held_out_prompts(run, config):
    """Loaded anew from the run, and asked by `compare`: the same answers, and by the demo's own judge the same wins."""
    from kto_workbench.judging.questions import held_out_of

    prompts = held_out_of(run)[:8]
    asked = {"seed": config.seed, "temperature": config.temperature, "max_new_tokens": 24}
    answers = compare(Side(run), prompts, **asked)

    def liked(prompt, answer):
        messages = prompt if isinstance(prompt, list) else [{"role": "user", "content": prompt}]
        verdict = demo_judge(messages, answer)
        return verdict.kind and verdict.brief

    points = [liked(a["prompt"], a["tuned"]) - liked(a["prompt"], a["reference"]) for a in answers]
    last = judged_of(run)[-1]
    assert (points.count(1), points.count(0), points.count(-1)) == tuple(
        last[f"judged_{name}"] for name in ("wins", "ties", "losses")
    )


def test_judging_changes_no_weight(run, config):
    alone = train(config.replace(judge=""), progress=False)
    assert same(adapter_of(alone.adapter), adapter_of(run.adapter))
    losses = [[r["loss"] for r in one.metrics() if "loss" in r] for one in (alone, run)]
    assert losses[0] == losses[1]


class Asked:
    """Counts the lists of prompts that models answer while they train, of both sides."""

    def __init__(self, monkeypatch):
        self.count, whole = 0, sampler.generate
        monkeypatch.setattr(sampler, "generate", lambda *a, **k: (self.note(), whole(*a, **k))[1])

    def note(self):
        self.count += 1

    def by(self, config):
        """What a training asks, and what its judge says."""
        before = self.count
        found = judged_of(train(config, progress=False))
        return self.count - before, found


def test_the_reference_answers_once_for_all_runs(config, tmp_path, monkeypatch):
    config = config.replace(max_steps=2, judge_steps=1, workspace=str(tmp_path / "one"))
    asked = Asked(monkeypatch)
    assert asked.by(config)[0] == 3  # the reference once, the tuned side behind both steps
    other = {"beta": 0.9, "learning_rate": 3e-3, "objective": "sft", "lora_r": 8}
    count, found = asked.by(config.replace(**other))
    # As where nothing is known: the same words, so the same verdicts.
    alone = asked.by(config.replace(**other, workspace=str(tmp_path / "other")))
    assert (count, alone[0]) == (2, 3) and found == alone[1]
    # Damage is no answer.
    (kept,) = (tmp_path / "one" / "cache" / "answers").iterdir()
    text = kept.read_text()
    kept.write_text(text.replace("e", "a", 3))
    assert asked.by(config.replace(**other)) == alone and kept.read_text() == text


def test_what_changes_the_references_answers_has_them_made_anew(config, tmp_path, monkeypatch):
    folder = tmp_path / "model"
    shutil.copytree(model_path("demo"), folder)
    short = {"max_steps": 1, "judge_prompts": 2, "sample_max_new_tokens": 4, "model": str(folder)}
    config = config.replace(**short, workspace=str(tmp_path / "workspace"))
    asked = Asked(monkeypatch)
    assert [asked.by(config)[0] for _ in range(2)] == [2, 1]
    template = folder / "chat_template.jinja"
    template.write_text(template.read_text() + " ")
    assert asked.by(config)[0] == 2
    weights = load_file(folder / "model.safetensors")
    save_file({name: tensor * 1.01 for name, tensor in weights.items()}, folder / "model.safetensors", {"format": "pt"})
    assert [asked.by(config)[0] for _ in range(2)] == [2, 1]
    assert asked.by(config.replace(dtype="bfloat16"))[0] == 2
    # What is asked, and how, with the same model.
    known = ReferenceAnswers(tmp_path / "answers", "a reference", Images(tmp_path))
    device = torch.device("cpu")
    model, tokenizer = load_model("demo", device=device, dtype=torch.float32), load_tokenizer("demo")
    policy = Policy(model, None, as_it_is, at_once)

    def asks(prompts, **change):
        before = asked.count
        one = config.replace(**change)
        Sampler(None, policy, tokenizer, answering(one), [], judged=prompts, known=known).answer_as_reference()
        return asked.count - before

    prompts = ["Hi", [{"role": "user", "content": "What does a cow say?"}]]
    assert asks(prompts) == 1 and asks(prompts, beta=3.0, batch_size=4) == 0
    assert asks(prompts[:1]) == asks(prompts[::-1]) == 1
    for change in (
        {"seed": 1}, {"temperature": 0.5}, {"sample_max_new_tokens": 5}, {"template": "none"}, {"max_length": 255},
        {"template_kwargs": {"now": 1}},
    ):  # fmt: skip
        assert asks(prompts, **change) == 1, change


def test_another_picture_behind_the_same_path_is_asked_anew(tmp_path):
    images, path = Images(tmp_path / "workspace"), tmp_path / "cat.png"
    path.write_bytes(png(1))
    key = images.add("cat.png", Beside(tmp_path), "images")
    prompts = [[{"role": "user", "content": [{"type": "image", "image": key}]}]]
    answers = iter((["a cat"], ["a dog"]))
    known = ReferenceAnswers(tmp_path / "answers", "a reference", images)
    ask = lambda: known.get(prompts, {}, lambda: next(answers))
    assert ask() == ask() == ["a cat"]
    path.write_bytes(png(2))
    assert ask() == ["a dog"]


def test_the_best_step_is_kept_and_its_checkpoint_survives(script, config):
    script(2, 7, 5, 6)
    options = {"keep_best": True, "save_steps": 1, "save_total_limit": 1}
    run = train(config.replace(**options), progress=False)
    status = run.status()
    assert (status.state, status.step, status.best_step) == ("finished", 8, 4)
    assert status.message == "The model is that of step 4, whose answers the judge liked best."
    kept = run.path / "checkpoints" / "checkpoint-4"
    assert [folder.name for folder in run.checkpoint_folders()] == ["checkpoint-4", "checkpoint-8"]
    assert same(adapter_of(run.adapter), adapter_of(kept))
    assert not same(adapter_of(run.adapter), adapter_of(run.path / "checkpoints" / "checkpoint-8"))
    said = "win rate 0.75 ± 0.16 at step 8, the highest 0.875 ± 0.12 at step 4; the model is that of step 4."
    assert said in write_report(run) and said in card(run, "adapter")
    head, table = draw(records_of(run), "judged", "train", "en", 1.0, 0.6, ["judged"])
    assert table["value"].tolist() == [0.25, 0.875, 0.625, 0.75] and "0.75" in head


def test_a_run_ends_when_answers_get_no_better(script, config):
    script(5, 5, 3)  # as good again is no better
    run = train(config.replace(early_stop=2), progress=False)
    status = run.status()
    assert (status.state, status.step, status.best_step) == ("finished", 6, None)
    assert status.message == (
        "Ended early: the judge has seen no better answers since step 2; the model is that of step 6."
    )
    assert [record["step"] for record in run.metrics() if "eval_loss" in record] == [6]  # as every run's end
    script(3, 5, 5, 4)
    run = train(config.replace(early_stop=2, keep_best=True), progress=False)
    status = run.status()
    assert (status.state, status.step, status.best_step) == ("finished", 8, 4)
    assert "Ended early" not in status.message  # at its last step, with nothing left to spare


def test_a_judge_that_fails_costs_a_point(script, config, caplog):
    script(3, None, 5, 4)
    with caplog.at_level(logging.WARNING):
        run = train(config.replace(keep_best=True), progress=False)
    assert [record["step"] for record in judged_of(run)] == [2, 6, 8]
    assert run.status().state == "finished" and run.status().best_step == 6
    assert "Step 4 is not judged: The endpoint is down." in caplog.text


def test_a_resumed_run_judges_and_keeps_as_one_that_was_never_broken_off(config, monkeypatch):
    options = {"keep_best": True, "early_stop": 9}
    whole = train(config.replace(**options), progress=False)
    run = create_run(config.replace(**options))
    # Broken off in step 8, after three judgements; the newest checkpoint is of step 6.
    step = KTOTrainer.training_step

    def broken(self, *arguments, **options):
        if self.state.global_step == 7:
            raise KeyboardInterrupt
        return step(self, *arguments, **options)

    monkeypatch.setattr(KTOTrainer, "training_step", broken)
    with pytest.raises(KeyboardInterrupt):
        train_run(run)
    monkeypatch.undo()
    assert len(judged_of(run)) == 3
    run.set_status(state="queued", pid=None)
    train_run(Run(run.path))
    assert judged_of(run) == judged_of(whole)
    assert (run.status().best_step, run.status().message) == (whole.status().best_step, whole.status().message)
    assert same(adapter_of(run.adapter), adapter_of(whole.adapter))


def test_a_full_fine_tuning_keeps_its_best_model(script, config):
    script(8, 3)
    options = {"tuning": "full", "keep_best": True, "max_steps": 4, "judge_steps": 2, "save_total_limit": 1}
    run = train(config.replace(**options), progress=False)
    assert run.status().best_step == 2
    kept = load_file(run.path / "checkpoints" / "checkpoint-2" / "model.safetensors")
    assert same(load_file(run.model / "model.safetensors"), kept)
    assert not same(load_file(run.path / "checkpoints" / "checkpoint-4" / "model.safetensors"), kept)
    assert compare(run, ["Hi"], max_new_tokens=2)[0]["tuned"] is not None  # it has its tokenizer


def test_the_best_of_judgements_is_the_first_of_the_highest():
    assert best_step([]) is None
    assert best_step([(5, 0.5), (10, 0.75), (15, 0.75), (20, 0.6)]) == 10


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"keep_best": True, "judge": ""}, "Option `keep_best` goes by a judge: name one with option `judge`."),
        ({"early_stop": 2, "judge": ""}, "Option `early_stop` goes by a judge: name one with option `judge`."),
        ({"eval_fraction": 0.0}, "Option `judge` asks held-out prompts: it needs an `eval_fraction` above 0."),
        ({"judge": "exact"}, "Judge `exact` goes by expected answers, and feedback has none; take another one."),
        ({"judge": "nobody"}, "There is no judge 'nobody'; there are "),
        ({"judge": "endpoint:nobody"}, "There is no endpoint 'nobody' in this workspace, which has none yet; "),
    ],
)
def test_refusals(config, options, sentence):
    with pytest.raises(ConfigError) as error:
        train(config.replace(**options), progress=False)
    assert str(error.value).startswith(sentence)


def test_an_endpoint_that_is_down_does_not_stop_a_training(config, tmp_path, caplog, monkeypatch):
    # It is asked again and again, as ever, only without waiting between.
    monkeypatch.setattr(judges, "EndpointJudge", functools.partial(judges.EndpointJudge, backoff=0.0))
    (tmp_path / "endpoints.yaml").write_text("gone: {url: http://127.0.0.1:9/v1, model: m}\n")
    options = {"workspace": str(tmp_path), "judge": "endpoint:gone", "judge_steps": 8, "learning_rate": 0.01}
    with caplog.at_level(logging.WARNING):
        run = train(config.replace(**options), progress=False)
    assert run.status().state == "finished" and not judged_of(run)
    assert "Step 8 is not judged: Nobody answers at gone; is its server running?" in caplog.text


def test_an_unknown_judge_is_refused_before_a_run_is_made(config, tmp_path):
    done = call_kto("train", config.data, "--workspace", tmp_path, "--judge", "nobody", code=2)
    assert done.stderr.startswith("There is no judge 'nobody'") and not done.stdout
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_of_two_processes_the_first_asks_and_both_keep_the_same_step(config, run):
    options = {"processes": 2, "device": "cpu", "keep_best": True, "early_stop": 3}
    shared = create_run(config.replace(**options))
    start(shared)
    assert ended(shared).state == "finished", shared.log()
    assert [record["step"] for record in judged_of(shared)] == [record["step"] for record in judged_of(run)]
    assert {record["judged_count"] for record in judged_of(shared)} == {8}
    best = best_step([(record["step"], record["judged_win_rate"]) for record in judged_of(shared)])
    assert shared.status().best_step == (best if best != 8 else None)
    kept = shared.path / "checkpoints" / f"checkpoint-{best}"
    assert same(adapter_of(shared.adapter), adapter_of(kept))


@pytest.mark.slow
def test_on_the_demo_answers_say_when_to_stop_and_the_loss_says_otherwise(tmp_path):
    options = {"learning_rate": 3e-3, "max_steps": 500, "eval_steps": 50, "sample_steps": -1, "threads": 1}
    judge = {"judge": "demo", "early_stop": 2, "keep_best": True}
    run = train(KTOConfig(data="demo", workspace=str(tmp_path), **options, **judge), progress=False)
    rates = {record["step"]: record["judged_win_rate"] for record in judged_of(run)}
    losses = {record["step"]: record["eval_loss"] for record in run.metrics() if "eval_loss" in record}
    last = run.status().step
    assert last < 500 and max(rates.values()) > 0.8
    assert last - 100 == best_step(sorted(rates.items())) == run.status().best_step
    # The loss was at its lowest long before, and has grown by half since, while the answers lost nothing.
    assert losses[last] > 1.5 * min(losses.values()) and rates[last] > max(rates.values()) - 0.05
