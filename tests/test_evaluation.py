"""Two sides on many prompts: the figures against other ways to get them, checkpoints, reward models, `kto compare`."""

import json

import pytest
import torch
from conftest import SMALL, only_json
from test_judging import prefers_please, serve  # noqa: F401
from test_shell import refused
from tiny_models import tiny_model, tiny_tokenizer

from kto_workbench import evaluate, train
from kto_workbench.__main__ import main
from kto_workbench.answers.comparison import compare
from kto_workbench.answers.evaluation import evaluate_checkpoints
from kto_workbench.answers.sides import Models
from kto_workbench.config import KTOConfig
from kto_workbench.engine.reward_model import RewardModel
from kto_workbench.errors import ConfigError, ModelError, RunError
from kto_workbench.judging.records import list_records
from kto_workbench.judging.rules import Rule, make_rule
from kto_workbench.judging.statistics import distinct, words
from kto_workbench.judging.steps import checkpoints_of
from kto_workbench.judging.verdicts import Case
from kto_workbench.runs.directory import new_run
from kto_workbench.runs.sides import REFERENCE, Side

PROMPTS = [
    "How many legs does a hedgehog have?",
    [{"role": "user", "content": "Where do I find the kettle?"}],
    "What does an owl eat?",
    "What is 7 plus 3?",
]
SHORT = {"max_new_tokens": 24, "seed": 5}


@pytest.fixture(scope="module")
def moved(tmp_path_factory, small_data):
    """A run of few but large steps, so that both sides answer differently from the first prompts on."""
    options = {"max_steps": 12, "learning_rate": 0.03, "data": str(small_data)}
    return train(KTOConfig(**SMALL | options, workspace=str(tmp_path_factory.mktemp("moved"))), progress=False)


@pytest.fixture(scope="module")
def models():
    return Models()


def logp(opened, prompt, answer):
    """The slow way: log π(answer and its end | prompt) from the model's own logits, and how many tokens that is."""
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    tokenizer = opened.tokenizer
    head = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    ids = torch.tensor([[*head, *tokenizer(answer, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]])
    with torch.no_grad():
        logps = opened.model(ids).logits[0, :-1].log_softmax(-1).gather(-1, ids[0, 1:, None])[:, 0]
    return logps[len(head) - 1 :].sum().item(), ids.shape[1] - len(head)


def test_figures_are_those_of_the_answers(moved, models):
    found = evaluate(moved, None, PROMPTS, make_rule("longer"), models=models, **SHORT)
    answers, evaluation = found["answers"], found["evaluation"]
    assert answers == compare(moved, PROMPTS, models=models, **SHORT)
    assert any(one["tuned"] != one["reference"] for one in answers)

    for side in ("tuned", "reference"):
        texts = [one[side] for one in answers]
        assert evaluation[side]["words"] == sum(len(words(text)) for text in texts) / 4
        assert evaluation[side]["distinct_2"] == distinct(texts, 2)
    assert evaluation["length_ratio"] == evaluation["tuned"]["words"] / evaluation["reference"]["words"]

    logps = {}
    for side in (Side(moved), Side(moved, REFERENCE)):
        with models.use(side) as opened:
            logps[side.part] = [logp(opened, one["prompt"], one["tuned"]) for one in answers]
    ratios = [a - b for (a, _), (b, _) in zip(logps["tuned"], logps["reference"], strict=True)]
    tokens = [n for _, n in logps["tuned"]]
    assert evaluation["kl"]["per_answer"] == pytest.approx(sum(ratios) / 4, abs=1e-3)
    assert evaluation["kl"]["per_token"] == pytest.approx(sum(ratios) / sum(tokens), abs=1e-4)
    assert abs(evaluation["kl"]["per_answer"]) > 0.01  # so that the lines above say something
    assert evaluation["tuned"]["tokens"] == sum(tokens) / 4

    lengths = [[len(words(one[side])) for side in ("tuned", "reference")] for one in answers]
    assert evaluation["wins"] == sum(a > b for a, b in lengths) and evaluation["losses"] == sum(
        a < b for a, b in lengths
    )
    assert evaluation["verdicts"] == ["tuned" if a > b else "reference" if b > a else "tie" for a, b in lengths]
    assert evaluation["judge"] == "longer" and evaluation["longer_won"] == 1


def test_a_side_against_itself_is_all_ties_and_no_kl(moved, models):
    side = Side(moved, REFERENCE)
    evaluation = evaluate(side, side, PROMPTS[:2], make_rule("longer"), models=models, **SHORT)["evaluation"]
    assert (evaluation["wins"], evaluation["ties"], evaluation["losses"]) == (0, 2, 0)
    assert evaluation["win_rate"] == 0.5 and evaluation["kl"]["per_answer"] == pytest.approx(0, abs=1e-4)


def test_the_judge_sees_the_tuned_answers_as_such(moved, models):
    tuned = {one["tuned"] for one in compare(moved, PROMPTS, models=models, **SHORT)}
    knows = Rule("knows", lambda prompt, answer, expected: answer in tuned)
    evaluation = evaluate(moved, None, PROMPTS, knows, models=models, **SHORT)["evaluation"]
    assert evaluation["losses"] == 0 and evaluation["wins"] >= 1


def test_without_a_judge_the_rest_is_still_given(moved, models):
    evaluation = evaluate(moved, None, PROMPTS[:1], models=models, **SHORT)["evaluation"]
    judged = evaluate(moved, None, PROMPTS[:1], make_rule("json"), models=models, **SHORT)["evaluation"]
    assert evaluation.keys() == judged.keys()
    for name in ("judge", "win_rate", "interval", "sign_test_p", "verdicts", "longer_won"):
        assert evaluation[name] is None
    assert {key: evaluation[key] for key in ("kl", "tuned", "reference", "length_ratio")} == {
        key: judged[key] for key in ("kl", "tuned", "reference", "length_ratio")
    }


def test_checkpoints_are_laid_over_each_other(moved, models):
    told = []
    sides = checkpoints_of(moved)
    found = evaluate_checkpoints(
        moved,
        PROMPTS[:2],
        make_rule("longer"),
        models=models,
        on_progress=lambda *how_far: told.append(how_far),
        **SHORT,
    )["evaluation"]
    steps = [one["step"] for one in found["checkpoints"]]
    assert len(steps) >= 2 and steps == sorted(set(steps)) and steps[-1] == 12
    assert [one["side"] for one in found["checkpoints"]] == [side.name for side in sides]
    assert {key: found["checkpoints"][-1][key] for key in ("win_rate", "kl")} == {
        key: found[key] for key in ("win_rate", "kl")
    }
    alone = evaluate(sides[0], None, PROMPTS[:2], make_rule("longer"), models=models, **SHORT)["evaluation"]
    assert found["checkpoints"][0]["kl"]["per_answer"] == pytest.approx(alone["kl"]["per_answer"], abs=1e-4)
    # the reference answers once: two prompts for it, and two for each checkpoint
    assert max(done for stage, done, _ in told if stage == "answers") == 2 * (len(steps) + 1)
    assert told[-1] == ("judge", 2 * len(steps), 2 * len(steps))


def test_sides_of_other_tokens_have_no_kl_but_all_else(moved, tmp_path, models):
    tiny_model("llama").save_pretrained(tmp_path / "tiny")
    tiny_tokenizer().save_pretrained(tmp_path / "tiny")
    other = Side(new_run(KTOConfig(model=str(tmp_path / "tiny"), workspace=str(tmp_path)), {}), REFERENCE)
    evaluation = evaluate(moved, other, PROMPTS[:2], "longer", models=models, **SHORT)["evaluation"]
    kl = evaluation["kl"]
    assert (kl["per_answer"], kl["per_token"], evaluation["n"]) == (None, None, 2) and kl["missing"]
    assert evaluation["tuned"]["tokens"] and evaluation["reference"]["tokens"]


def test_what_can_not_be_evaluated_is_one_sentence(moved, tmp_path):
    with pytest.raises(ConfigError, match="^There is no prompt to evaluate on.$"):
        evaluate(moved, None, [])
    with pytest.raises(
        ConfigError, match="^Judge `exact` needs an `expected` or `answer` beside every prompt; prompt 2 "
    ):
        evaluate(moved, None, PROMPTS[:2], make_rule("exact"), expected=[("4",), ()])
    with pytest.raises(ConfigError, match="^Judge `endpoint` needs a name, "):
        evaluate(moved, None, PROMPTS, "endpoint")
    with pytest.raises(RunError, match="has kept no checkpoints"):
        evaluate_checkpoints(new_run(KTOConfig(workspace=str(tmp_path)), {}), PROMPTS)


# reward models -------------------------------------------------------------------------------------------------------


def reward_folder(folder, *, labels=1, template=True):
    from transformers import LlamaConfig, LlamaForSequenceClassification

    torch.manual_seed(3)
    left_out = ("architectures", "id2label", "label2id", "num_labels")
    shape = {key: value for key, value in tiny_model("llama").config.to_dict().items() if key not in left_out}
    config = LlamaConfig(**shape, num_labels=labels)
    model = LlamaForSequenceClassification(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.3)
    model.save_pretrained(folder)
    tokenizer = tiny_tokenizer() if template else tiny_tokenizer(None)
    tokenizer.save_pretrained(folder)
    return model.eval(), tokenizer


ASKED = ["what is red?", [{"role": "system", "content": "yes"}, {"role": "user", "content": "who sat?"}], "bye"]
ANSWERS = ["the sun is red", "a cat sat on a mat under the tree, and a dog ran", "no"]


@pytest.mark.parametrize("labels", [1, 2])
@pytest.mark.parametrize("template", [True, False])
def test_rewards_are_the_models_own_logits_also_in_a_batch(tmp_path, labels, template):
    model, tokenizer = reward_folder(tmp_path, labels=labels, template=template)
    want = []
    for prompt, answer in zip(ASKED, ANSWERS, strict=True):
        messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        if template:
            chat = [*messages, {"role": "assistant", "content": answer}]
            ids = tokenizer.apply_chat_template(chat, return_dict=False)
        else:
            ids = tokenizer("\n\n".join(m["content"] for m in messages), answer)["input_ids"]
        with torch.no_grad():
            logits = model(torch.tensor([ids])).logits[0]
        want.append((logits[0] if labels == 1 else logits.log_softmax(-1)[1] - logits.log_softmax(-1)[0]).item())
    judge = RewardModel(str(tmp_path), device="cpu")
    assert judge.scores(ASKED, ANSWERS) == pytest.approx(want, abs=1e-4)
    assert max(want) - min(want) > 0.05
    done = []
    case = Case(ASKED[0], ANSWERS[0], ANSWERS[2])
    winner = judge.verdicts(
        [case, Case(case.prompt, case.tuned, case.reference)], lambda *how_far: done.append(how_far)
    )
    first, second = judge.scores([ASKED[0]] * 2, [ANSWERS[0], ANSWERS[2]])
    assert winner.winners == (["tuned", "reference"] if second > first else ["reference", "tuned"]) and done[-1] == (
        4,
        4,
    )


def test_a_model_without_rewards_is_refused(tmp_path):
    reward_folder(tmp_path / "three", labels=3)
    with pytest.raises(ModelError, match="has one output or two; .* has 3 of them.$"):
        RewardModel(str(tmp_path / "three"))
    tiny_model("llama").save_pretrained(tmp_path / "causal")
    tiny_tokenizer().save_pretrained(tmp_path / "causal")
    with pytest.raises(ModelError, match="has no trained head to give rewards with.$"):
        RewardModel(str(tmp_path / "causal"))
    with pytest.raises(ModelError, match="^There is no model in ./none: no such folder.$"):
        RewardModel("./none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match="^Can't load the reward model "):
        RewardModel(str(tmp_path / "empty"))


# kto compare ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def prompts_file(tmp_path):
    path = tmp_path / "prompts.jsonl"
    rows = [{"prompt": "What is 7 plus 3?", "expected": 10}, {"prompt": "What does an owl eat?", "expected": "mice"}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_compare_adds_an_evaluation_and_keeps_it_with_the_run(moved, prompts_file, capfd):
    before = len(list_records(moved))
    options = ["--prompts", str(prompts_file), "--judge", "contains", "--max-new-tokens", "24", "--json"]
    assert main(["compare", str(moved.path), *options]) == 0
    result = json.loads(capfd.readouterr().out)
    assert (
        result["run"] == moved.id
        and [one.keys() for one in result["answers"]] == [{"prompt", "reference", "tuned"}] * 2
    )
    evaluation = result["evaluation"]
    assert evaluation["judge"] == "contains" and evaluation["n"] == 2 == sum(
        evaluation[k] for k in ("wins", "ties", "losses")
    )
    assert {"win_rate", "interval", "sign_test_p", "position_bias", "unparsed", "requests", "cached", "kl", "tuned",
            "reference", "length_ratio", "longer_won", "verdicts"} <= evaluation.keys()  # fmt: skip
    assert evaluation["tuned"].keys() == {"words", "tokens", "distinct_1", "distinct_2"}
    record = list_records(moved)[0]
    assert len(list_records(moved)) == before + 1 and str(record.path) == result["evaluation_file"]
    kept = record.read()
    assert kept["state"] == "finished" and kept["evaluation"] == evaluation and kept["answers"] == result["answers"]
    assert kept["about"]["judge"] == "contains" and kept["about"]["against"] == f"{moved.id}@reference"


def test_compare_by_an_endpoint_and_its_cost_before(moved, prompts_file, capfd, serve, tmp_path, monkeypatch):  # noqa: F811
    server = serve(prefers_please)
    monkeypatch.setenv("TEST_API_KEY", "sk-secret-in-the-environment")
    command = ["compare", str(moved.path), "--workspace", str(tmp_path), "--prompts", str(prompts_file)]
    command += ["--judge-url", server.url, "--judge-model", "j", "--judge-key-env", "TEST_API_KEY"]
    command += ["--max-new-tokens", "24"]
    assert main([*command, "--judge-cost", "--judge-prices", "1", "2", "--json"]) == 0
    cost = json.loads(capfd.readouterr().out)
    assert cost["requests"] == 4 and cost["tokens_written"] == 64 and not server.asked
    assert main([*command, "--judge-cost"]) == 0
    assert capfd.readouterr().out.startswith("At most 4 requests: ") and not server.asked
    results = []
    for _ in range(2):
        assert main([*command, "--json"]) == 0
        results.append(json.loads(capfd.readouterr().out)["evaluation"])
    asked = results[0]["requests"]
    assert 0 < asked == len(server.asked) <= cost["requests"]
    assert (results[1]["requests"], results[1]["cached"]) == (0, asked)
    everything = [path for folder in (tmp_path, moved.path) for path in folder.rglob("*") if path.is_file()]
    assert not [path for path in everything if b"sk-secret" in path.read_bytes()]


def test_a_failed_evaluation_is_kept_as_failed(moved, prompts_file, capsys, serve, tmp_path):  # noqa: F811
    server = serve(lambda body: (401, {}, "no"))
    words = ["compare", moved.path, "--workspace", tmp_path, "--prompts", prompts_file]
    words += ["--judge-url", server.url, "--judge-model", "j", "--max-new-tokens", "4"]
    sentence = refused(words, capsys)
    found = list_records(moved)[0].read()
    assert found["state"] == "failed" and found["error"] == sentence and "evaluation" not in found


def test_compare_in_words_and_one_checkpoint_against_another(moved, prompts_file, capfd):
    first, last = (side.name for side in checkpoints_of(moved)[:: len(checkpoints_of(moved)) - 1])
    workspace = str(moved.path.parent.parent)
    options = ["--workspace", workspace, "--prompts", str(prompts_file), "--judge", "longer", "--max-new-tokens", "24"]
    assert main(["compare", last, "--against", first, *options]) == 0
    out = capfd.readouterr().out
    assert "The tuned side wins " in out and "KL, in nats" in out and "Kept in " in out
    assert main(["compare", moved.id, "--checkpoints", *options]) == 0
    table = capfd.readouterr().out.split("    step  win rate")[1]
    assert len(table.split("\n\n")[0].splitlines()) == 1 + len(checkpoints_of(moved))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ("--judge polite", "There is no judge 'polite'; there are "),
        ("--judge endpoint", "Judge `endpoint` needs a name, `endpoint:NAME`, or an address, "),
        ("--judge-url http://127.0.0.1:9/v1", "An endpoint needs the name of its model, as the server calls it."),
        ("--judge-url http://127.0.0.1:9/v1 --judge-model m", "Nobody answers at http://127.0.0.1:9/v1; "),
        ("--judge-url x --judge json", "Option `judge-url` belongs to judge `endpoint`, not to `json`."),
        ("--judge exact --prompts none.txt", "There is no file none.txt."),
        ("--prompts demo --limit 0", "Option `limit` should be at least 1, not 0."),
        ("--judge reward:./none", "There is no model in ./none: no such folder."),
        ("--against none", "There is no run 'none' in "),
    ],
)
def test_compare_refuses_in_a_sentence(moved, options, sentence, capsys, tmp_path):
    command = ["compare", moved.path, "--workspace", tmp_path, *options.split()]
    assert refused(command, capsys).startswith(sentence)


def test_the_trained_demo_wins_by_its_own_judge_and_not_by_length(kto, tmp_path):
    from kto_workbench.shell.demonstration import demonstrate

    run_id = demonstrate(workspace=str(tmp_path / "workspace"))["run"]
    result = only_json(kto("compare", run_id, "--prompts", "demo", "--judge", "demo", "--limit", "96", "--json"))
    evaluation = result["evaluation"]
    # kind and brief goes from about a quarter to nearly all: most pairs are won, nearly none is lost
    assert evaluation["n"] == 96 and evaluation["interval"][0] > 0.7 and evaluation["sign_test_p"] < 1e-6
    assert evaluation["losses"] < evaluation["wins"] / 10
    assert evaluation["length_ratio"] < 1 and evaluation["longer_won"] < 0.5  # brief: not a win bought by length
    assert evaluation["kl"]["per_answer"] > 1
