"""Options: one definition each, from which come YAML keys, keywords and flags; what is refused, and how."""

import json
import math
from pathlib import Path

import pytest
import yaml

from kto_workbench.__main__ import _parser
from kto_workbench.config import (
    DEMO_DEFAULTS,
    GROUPS,
    KTOConfig,
    config_to_yaml,
    load_config,
    option_bounds,
    option_choices,
    options,
    save_config,
    unknown_option,
)
from kto_workbench.errors import ConfigError
from kto_workbench.objectives import OBJECTIVES, OPTIONS, as_markdown, unused_by, users_of
from kto_workbench.shell.training import config_from

# Scripts and outside checks hold on to these names.
PROMISED = (
    "model data workspace objective batch_size tokens_per_pass max_steps num_train_epochs max_length learning_rate "
    "beta desirable_weight undesirable_weight lora_r lora_alpha lora_dropout load_in_4bit save_steps eval_steps seed"
).split()

# A value for every option that is nobody's default; those that have to go together are chosen, the rest are made.
CHOSEN = dict(
    model="some/model",
    mapping=("prompt=the question", "up=ok,fine"),
    trust=("some/model",),
    template_kwargs={"enable_thinking": False, "date": "1 May"},
    objective="kto",  # the others use fewer options
    tuning="lora",  # full goes with none of the adapter's options
    lora_dropout=0.0,
    tokens_per_pass=4096,
    processes=3,
    sample_prompts=("Hello!", 'A "quoted": line\nand another — 👍'),
    desirable_weight=3.0,
    undesirable_weight=1.5,
)


def another(field):
    """A value that an option may take, other than its default."""
    if choices := option_choices(field):
        return choices[-1] if choices[-1] != field.default else choices[-2]
    if isinstance(field.default, bool):
        return not field.default
    if isinstance(field.default, int) and field.annotation is int:
        return field.default + 3
    return "other" if isinstance(field.default, str) else field.default * 0.75 or 0.25


OTHER = {name: CHOSEN[name] if name in CHOSEN else another(field) for name, field in options().items()}


def refusal(**values):
    with pytest.raises(ConfigError) as caught:
        KTOConfig(**values)
    return str(caught.value)


# one definition ------------------------------------------------------------------------------------------------------


def test_the_promised_names_are_options():
    assert set(PROMISED) <= options().keys()


def test_every_option_has_help_and_a_group():
    for name, field in options().items():
        assert field.description.endswith((".", ")")) and field.json_schema_extra["group"] in GROUPS, name


def test_one_table_says_which_objective_uses_what():
    of_group = {name for name, field in options().items() if field.json_schema_extra["group"] == "kto"}
    assert {"objective", *OPTIONS} == of_group
    assert users_of("z0") == ("kto",) and users_of("desirable_weight") == ("kto", "apo_zero_unpaired", "bco")
    assert users_of("learning_rate") == tuple(OBJECTIVES) and not unused_by("kto") and unused_by("sft") == set(OPTIONS)
    document = (Path(__file__).parents[1] / "docs" / "objectives.md").read_text(encoding="utf-8")
    assert as_markdown() in document
    (commands,) = _parser()._subparsers._group_actions
    assert "(Objectives: kto, apo_zero_unpaired, bco.)" in " ".join(commands.choices["train"].format_help().split())


@pytest.mark.parametrize("dash", [True, False], ids=["--batch-size", "--batch_size"])
def test_every_option_is_a_flag_of_kto_train(dash):
    arguments = ["train"]
    for name, value in OTHER.items():
        flag = "--" + (name.replace("_", "-") if dash else name)
        text = json.dumps(value) if isinstance(value, dict) else str(value)
        arguments += [flag, *(value if isinstance(value, tuple) else [text])]
    parsed = vars(_parser().parse_args(arguments))
    given = {name: parsed[name] for name in OTHER}
    assert KTOConfig(**given) == KTOConfig(**OTHER)


def test_a_flag_of_true_or_false_needs_no_value():
    parsed = _parser().parse_args(["train", "--load-in-4bit"])
    assert KTOConfig(load_in_4bit=parsed.load_in_4bit).load_in_4bit is True
    assert KTOConfig(load_in_4bit="false").load_in_4bit is False


@pytest.mark.parametrize("values", [{}, {"model": "some/model"}, OTHER], ids=["demo", "model", "other"])
def test_yaml_there_and_back(values, tmp_path):
    config = KTOConfig(**values)
    save_config(config, tmp_path / "c.yaml")
    assert load_config(tmp_path / "c.yaml") == config
    # It is complete: not one option is left to a default that may change.
    assert yaml.safe_load(config_to_yaml(config)).keys() == options().keys()


def test_a_keyword_and_a_flag_win_over_the_file(tmp_path):
    (tmp_path / "c.yaml").write_text("beta: 0.3\nseed: 5\n")
    assert load_config(tmp_path / "c.yaml", beta=0.2) == KTOConfig(beta=0.2, seed=5)
    assert config_from(str(tmp_path / "c.yaml"), {"beta": "0.2"}) == KTOConfig(beta=0.2, seed=5)
    assert config_from("thumbs.csv", {"beta": "0.2"}) == KTOConfig(data="thumbs.csv", beta=0.2)


def test_an_empty_file_is_all_defaults_and_5e_5_is_a_number_without_a_point(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("")
    assert load_config(path) == KTOConfig()
    # YAML 1.1 takes 5e-5 for a text; people write it all the time.
    path.write_text("learning_rate: 5e-5\nmodel: some/model\n")
    assert load_config(path).learning_rate == 0.00005


def test_a_path_is_as_good_as_its_text():
    assert KTOConfig(data=Path("a/b.jsonl"), workspace=Path("w")).data == "a/b.jsonl"


def test_replace_checks_again_and_a_config_can_not_be_changed():
    config = KTOConfig(beta=0.5)
    assert config.replace(seed=1) == KTOConfig(beta=0.5, seed=1)
    with pytest.raises(ConfigError, match="`beta` should be greater than 0, not -1"):
        config.replace(beta=-1)
    with pytest.raises(ValueError, match="frozen"):
        config.beta = 1.0


# the demo's defaults -------------------------------------------------------------------------------------------------


def test_the_demo_model_has_its_own_defaults():
    config = KTOConfig(model="demo")
    assert {name: getattr(config, name) for name in DEMO_DEFAULTS} == DEMO_DEFAULTS
    assert KTOConfig() == config  # demo is the default model


def test_other_models_never_see_them():
    config = KTOConfig(model="some/model")
    assert all(getattr(config, name) == options()[name].default for name in DEMO_DEFAULTS)


@pytest.mark.parametrize("name", DEMO_DEFAULTS)
def test_they_never_win_over_what_the_user_said(name):
    said = OTHER[name]
    assert said != DEMO_DEFAULTS[name]
    assert getattr(KTOConfig(model="demo", **{name: said}), name) == said
    default = options()[name].default  # also when what was said happens to be the default of other models
    assert getattr(KTOConfig(**{name: default}), name) == default


# what is refused, in one plain sentence ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"learning_rat": 1}, "There is no option `learning_rat`; did you mean `learning_rate`?"),
        ({"batch-size": 1}, "There is no option `batch-size`; did you mean `batch_size`?"),
        ({"zzz": 1}, "There is no option `zzz`."),
        # pydantic: "should be a valid number, unable to parse string as a number"
        ({"beta": "high"}, "Option `beta` should be a number, not 'high'."),
        ({"beta": None}, "Option `beta` should be a number, not empty."),
        ({"beta": math.nan}, "Option `beta` should be a finite number, not nan."),
        ({"desirable_weight": math.inf}, "Option `desirable_weight` should be a finite number, not inf."),
        ({"batch_size": 2.5}, "Option `batch_size` should be a whole number, not 2.5."),
        ({"batch_size": "many"}, "Option `batch_size` should be a whole number, not 'many'."),
        ({"batch_size": 1}, "Option `batch_size` should be at least 2, not 1."),
        ({"batch_size": "1"}, "Option `batch_size` should be at least 2, not 1."),
        ({"lora_dropout": 1}, "Option `lora_dropout` should be less than 1, not 1."),
        ({"learning_rate": 2}, "Option `learning_rate` should be at most 1, not 2."),
        ({"desirable_weight": 1e300}, "Option `desirable_weight` should be at most 1000000, not 1e+300."),
        ({"seed": 2**32}, "Option `seed` should be at most 4294967295, not 4294967296."),
        ({"load_in_4bit": "maybe"}, "Option `load_in_4bit` should be true or false, not 'maybe'."),
        (
            {"objective": "orpo"},
            "Option `objective` should be `kto`, `sft`, `dpo`, `apo_zero`, `apo_zero_unpaired`, `bco` or `ipo`, not "
            "'orpo'.",
        ),
        ({"z0": "never"}, "Option `z0` should be `batch`, `every` or `zero`, not 'never'."),
        ({"tokens_per_pass": "all"}, "Option `tokens_per_pass` should be `auto` or a whole number, not 'all'."),
        ({"tokens_per_pass": 0}, "Option `tokens_per_pass` must be `auto` or at least 1."),
        ({"max_steps": 0}, "Option `max_steps` must be at least 1, or -1 to leave it to `num_train_epochs`."),
        ({"model": ""}, "Option `model` should be text, not empty."),
        (
            {"template_kwargs": "thinking"},
            "Option `template_kwargs` should be a JSON object such as {\"enable_thinking\": false}, not 'thinking'.",
        ),
        (
            {"template_kwargs": [1]},
            'Option `template_kwargs` should be a JSON object such as {"enable_thinking": false}, not [1].',
        ),
        (
            {"template_kwargs": {"date": math.nan}},
            "Option `template_kwargs` should be made of texts, numbers, lists and objects alone, not nan.",
        ),
        (
            {"template_kwargs": {"enable-thinking": False}},
            "Option `template_kwargs` can't set `enable-thinking`, which is no name in a template.",
        ),
        (
            {"template_kwargs": {"tools": []}},
            "Option `template_kwargs` can't set `tools`, which the workbench itself sets.",
        ),
        ({"data": ["a", "b"]}, "Option `data` should be text, not ['a', 'b']."),
        ({"sample_prompts": "Hello!"}, "Option `sample_prompts` should be a list of texts, not 'Hello!'."),
        ({"sample_prompts": [1]}, "Option `sample_prompts` should be a list of texts, not 1."),
        (
            {"desirable_weight": 0, "undesirable_weight": 0},
            "Options `desirable_weight` and `undesirable_weight` are both 0, so nothing would be learned.",
        ),
        (
            {"objective": "sft", "sft_weight": 0.1},
            "Option `sft_weight` has no effect with objective `sft`; leave it at 0.",
        ),
        (
            {"objective": "dpo", "z0": "zero"},
            "Option `z0` has no effect with objective `dpo`; leave it at batch.",
        ),
        (
            {"objective": "bco", "reference": "uniform"},
            "Option `reference` `uniform` goes with objective `kto`, not with `bco`.",
        ),
        ({"lora_dropout": 0.1, "reference": "uniform"}, "Option `reference` `uniform` needs lora_dropout 0."),
    ],
)
def test_refusals(values, sentence):
    assert refusal(**values) == sentence


@pytest.mark.parametrize("name", [name for name, field in options().items() if option_bounds(field)])
def test_every_bound_holds_on_both_sides(name):
    bounds = option_bounds(options()[name])
    step = 1 if options()[name].annotation is int else 1e-6
    for word, inside, outside in (("ge", 0, -step), ("gt", step, 0), ("le", 0, step), ("lt", -step, 0)):
        if word in bounds and (name, bounds[word] + inside) != ("max_steps", -1):
            assert getattr(KTOConfig(**{name: bounds[word] + inside}), name) == bounds[word] + inside
        if word in bounds:
            assert f"`{name}` should be" in refusal(**{name: bounds[word] + outside})


def test_a_long_value_does_not_flood_the_sentence():
    assert len(refusal(objective="x" * 10_000)) < 200


def test_choices_are_known_to_flags_and_widgets():
    assert option_choices(options()["objective"]) == tuple(OBJECTIVES)
    assert option_choices(options()["beta"]) == ()
    assert unknown_option("tempature") == "There is no option `tempature`; did you mean `temperature`?"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (
            "beta: 0.1\nseed: [1",
            "Can't read the config file c.yaml: expected ',' or ']', but got '<stream end>' in line 2.",
        ),
        ("a: b: c", "Can't read the config file c.yaml: mapping values are not allowed here in line 1."),
        ("- beta", "The config file c.yaml should hold lines of `option: value`."),
        ("just words", "The config file c.yaml should hold lines of `option: value`."),
        ("bta: 1", "There is no option `bta`; did you mean `beta`?"),
    ],
)
def test_files_that_are_refused(text, sentence, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("c.yaml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_config("c.yaml")
    assert str(caught.value) == sentence


def test_files_that_can_not_be_read(tmp_path):
    with pytest.raises(ConfigError, match="There is no config file"):
        load_config(tmp_path / "c.yaml")
    with pytest.raises(ConfigError, match="it is a folder"):
        load_config(tmp_path)
    (tmp_path / "c.yaml").write_bytes(b"\xff\xfe\x00a")
    with pytest.raises(ConfigError, match="it is not UTF-8 text"):
        load_config(tmp_path / "c.yaml")
    # YAML that would run code is only a file that can't be read.
    (tmp_path / "c.yaml").write_text("beta: !!python/object/apply:os.getcwd []")
    with pytest.raises(ConfigError, match="could not determine a constructor"):
        load_config(tmp_path / "c.yaml")
