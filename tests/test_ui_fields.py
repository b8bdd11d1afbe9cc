"""Widgets from options and back; words in both languages; what the server writes is escaped."""

import inspect
import re
import shlex
import subprocess
import sys
from pathlib import Path

import gradio as gr
import pytest

from kto_workbench.__main__ import _parser
from kto_workbench.config import GROUPS, KTOConfig, options
from kto_workbench.errors import ConfigError
from kto_workbench.feedback import check, findings, load_feedback
from kto_workbench.feedback.store import ThumbStore
from kto_workbench.runs import Status
from kto_workbench.ui import feedback, fields, html, words
from kto_workbench.ui.presets import Presets
from kto_workbench.views.curves import CHARTS
from kto_workbench.views.notes import TEXTS as NOTES
from kto_workbench.views.notes import Note


@pytest.fixture(scope="module")
def widgets():
    values = fields.defaults("demo")
    return {name: fields.widget(name, value) for name, value in values.items() if name not in fields.ELSEWHERE}


def test_every_option_is_on_the_page_once():
    shown = fields.names(basic=True) + [name for group in fields.folded_groups().values() for name in group]
    assert sorted(shown) == sorted(set(options()) - set(fields.ELSEWHERE))


def test_widgets_carry_type_and_choices(widgets):
    assert isinstance(widgets["load_in_4bit"], gr.Checkbox)
    assert isinstance(widgets["z0"], gr.Dropdown) and [value for _, value in widgets["z0"].choices] == [
        "batch", "every", "zero",
    ]  # fmt: skip
    assert isinstance(widgets["batch_size"], gr.Number) and widgets["batch_size"].precision == 0
    assert isinstance(widgets["tokens_per_pass"], gr.Textbox)
    assert widgets["model"].elem_id == "train-model"


def test_values_go_there_and_back(widgets):
    config = KTOConfig(
        model="demo",
        sample_prompts=("Hello!", "Tell me a tale."),
        tokens_per_pass=4096,
        template_kwargs={"enable_thinking": False},
        desirable_weight=2.5,
        max_steps=7,
    )
    shown = {name: fields.to_widget(name, getattr(config, name)) for name in widgets}
    assert shown["sample_prompts"] == "Hello!\nTell me a tale." and shown["tokens_per_pass"] == "4096"
    assert fields.read({**shown, "data": config.data, "workspace": config.workspace}) == config


def test_a_value_out_of_bounds_is_one_sentence_that_names_its_option():
    with pytest.raises(ConfigError, match="`batch_size`.*at least 2"):
        fields.read({"batch_size": 1})
    with pytest.raises(ConfigError, match="`beta`"):
        fields.read({"beta": None})


def test_another_model_brings_its_defaults_and_leaves_what_was_changed():
    values = {**{name: fields.to_widget(name, value) for name, value in fields.defaults("demo").items()}, "lora_r": 4}
    changed = fields.follow(values, ("demo", "lora"), ("some/model", "lora"))
    assert changed["learning_rate"] == 5e-5 and changed["beta"] == 0.1
    assert "lora_r" not in changed and "model" not in changed
    assert fields.follow({**values, **changed}, ("some/model", "lora"), ("demo", "lora"))["learning_rate"] == 1.5e-3


def test_full_tuning_brings_its_learning_rate():
    values = fields.defaults("some/model")
    assert fields.follow(values, ("some/model", "lora"), ("some/model", "full")) == {"learning_rate": 5e-6}
    changed = {**values, "learning_rate": 1e-5}
    assert fields.follow(changed, ("some/model", "lora"), ("some/model", "full")) == {}


@pytest.mark.parametrize(
    "config",
    [
        KTOConfig(data="my thumbs.jsonl", load_in_4bit=True, sample_prompts=("a b", "c"), beta=0.3, warmup_ratio=0.05),
        KTOConfig(tuning="full", learning_rate=1.5e-3),  # what an adapter would have had
        KTOConfig(model="some/model", tuning="full", learning_rate=5e-5),
        KTOConfig(start_adapter="latest", reference="base"),
        KTOConfig(start_adapter="latest", reference="start"),
        KTOConfig(template_kwargs={"enable_thinking": False, "date_string": "1 Mai “2030”"}),
    ],
)
def test_the_command_shown_means_the_same_config(config):
    command = shlex.split(fields.command(config))
    assert command[:2] == ["kto", "train"]
    arguments = vars(_parser().parse_args(command[1:]))
    given = {name: arguments[name] for name in options() if arguments.get(name) is not None}
    assert KTOConfig(**given) == config


def test_every_word_exists_in_both_languages_with_the_same_places():
    for key, (english, chinese) in words.WORDS.items():
        assert english and chinese, key
        assert set(re.findall(r"\{(\w+)", english)) == set(re.findall(r"\{(\w+)", chinese)), key
    assert set(words.OPTION_HELP_ZH) == set(options())  # a new option needs its help in Chinese, in chinese.py
    assert set(words.NOTES_ZH) == set(NOTES)
    for kind, texts in NOTES.items():
        for english, chinese in zip(texts, words.NOTES_ZH[kind], strict=True):
            assert set(re.findall(r"\{(\w+)", chinese)) == set(re.findall(r"\{(\w+)", english)), kind
    for group in GROUPS:
        assert f"group.{group}" in words.WORDS
    for chart, curves in CHARTS.items():
        assert f"chart.{chart}" in words.WORDS and all(f"curve.{curve.name}" in words.WORDS for curve in curves)


def test_every_word_is_used_and_every_used_word_exists():
    folder = Path(words.__file__).parent
    code = "".join(path.read_text() for path in folder.glob("*.py") if path.name not in ("words.py", "chinese.py"))
    named = set(re.findall(r'(?:label\(|say\(\s*\w+,\s*)"([^"]+)"', code))
    assert named <= set(words._ALL), named - set(words._ALL)
    families = {match.split("{")[0] for match in re.findall(r'f["\']([a-z_.]+\{)', code)}
    unused = [key for key in words.WORDS if key not in code and not key.startswith(tuple(families))]
    assert not unused


def test_every_finding_is_told_in_chinese(tmp_path):
    source = inspect.getsource(findings)  # what a model makes of the rows is not asked for here
    names = set(re.findall(r'(?:Finding\(|_flagged\(\s*facts,)\s*"([a-z-]+)"', source)) - {"unusable"}
    assert names == set(words.FINDINGS_ZH)  # "unusable" is the list of skipped rows
    rows = [
        {"prompt": "Hello?", "completion": said, "label": up}
        for said, up in [
            ("", True), ("Yes", True), ("Yes", False), ("a@example.org is <|im_end|>", True), ("=SUM(A1)", False),
            ("sk-" + "a" * 30, True), ("cafÃ©", True), ("cafÃ©", True), ("Good day to you!", True),
            ("good day to you", False), ("Das ist nicht das Haus, und wir sind nicht da.", True),
        ]
    ]  # fmt: skip
    found = check(load_feedback(rows)).findings
    assert len(found) > 8
    for finding in found:
        assert words.finding_words("en", finding) == (finding.title, finding.advice, finding.fix or "")
        title, advice, fix = words.finding_words("zh", finding)
        assert "\u4e00" <= re.sub(r"[\W\da-zA-Z]", "", title)[0] <= "\u9fff", title
        assert bool(advice) == bool(finding.advice) and bool(fix) == bool(finding.fix), finding


@pytest.mark.parametrize(
    ("english", "chinese"),
    [
        ("Loading the model.", "正在加载模型。"),
        ("Computing the reference: 3 of 25 batches.", "正在计算参考模型：第 3 / 25 批。"),
        ("Option `batch_size` should be at least 2, not 1.", "选项 `batch_size` 至少应为 2，而不是 1。"),
        ("Run r1 is running; stop it before you delete it.", "训练 r1 正在进行；请先停止再删除。"),
        ("Can't load model '{evil}': gone.", "无法加载模型 '{evil}'：gone。"),
        ("Something new happened.", "Something new happened."),
    ],
)
def test_what_the_engine_says_is_retold(english, chinese):
    assert words.retell("zh", english) == chinese and words.retell("en", english) == english


def test_retold_sentences_are_still_those_that_are_said():
    folder = Path(words.__file__).parents[1]
    code = "".join(path.read_text() for path in folder.rglob("*.py") if path.name not in ("words.py", "chinese.py"))
    code = re.sub(r'"\s*f?"', "", code)  # sentences that go over two lines
    for pattern in words.SENTENCES_ZH:
        start = re.split(r"\(|\.\*", pattern.replace("\\.", "."))[0].rstrip(". '\\")
        assert start.removeprefix("Options ").removeprefix("Option ").strip() in code, (
            f"renew {pattern} in ui/chinese.py"
        )


@pytest.mark.parametrize(
    ("header", "language"),
    [("zh-CN,zh;q=0.9", "zh"), ("zh-TW", "zh"), ("en-US,en", "en"), ("de, zh", "en"), (None, "en")],
)
def test_language_of_a_request(header, language):
    request = gr.Request(headers={"accept-language": header} if header else {})
    assert words.language_of(request) == language


EVIL = "<img src=x onerror=alert(1)>\"'&"


def test_whatever_comes_from_outside_is_escaped(tmp_path):
    class Row:
        label, line, completion = True, 3, EVIL
        prompt = [{"role": EVIL, "content": EVIL}, {"role": "user", "content": None}]

    class Problem:
        line, field, reason = 1, EVIL, EVIL

    class Run:
        id = EVIL

    pieces = [
        html.rows("en", [Row()]),
        html.problems("en", [Problem()] * 60),
        html.message(EVIL),
        html.samples("en", [{"step": 1, "prompt": EVIL, "reference": EVIL, "tuned": EVIL}]),
        html.log_tail("en", EVIL),
        html.progress("en", Run(), Status(state="failed", error=EVIL)),
        html.chart_head(EVIL, [(EVIL, EVIL, 1.0)]),
        html.cards([(EVIL, EVIL, EVIL)]),
        html.notes("en", [Note("one_side", {"side": EVIL})]),
    ]
    for piece in pieces:
        assert "<img" not in piece and "&lt;img" in piece
        assert not re.search(r'="[^"]*<', piece)
    assert "10 more" in pieces[1]


def test_long_texts_are_cut():
    assert len(html.esc("x" * 100_000)) < 5_000


def test_presets_are_yaml_files_under_tame_names(tmp_path):
    presets = Presets(tmp_path)
    config = KTOConfig(beta=0.3, sample_prompts=("Hello!",))
    assert presets.save("  my  first ", config) == "my first"
    assert presets.names() == ["my first"] and presets.load("my first") == config
    for name in ("", None, "../evil", "a/b", ".hidden", "x" * 61):
        with pytest.raises(ConfigError, match="name"):
            presets.save(name, config)
    with pytest.raises(ConfigError, match="no config file"):
        presets.load("another")


def test_one_vote_an_answer_that_can_be_turned_and_taken_back(tmp_path):
    store, kept, prompt = ThumbStore(tmp_path), {}, [{"role": "user", "content": "Hello!"}]
    origin = {"model": "demo", "run": "r1", "adapter": "", "sampling": {"temperature": 0.9}}

    def vote(liked):
        feedback._keep(store, kept, (1, "Good day."), prompt, liked, origin)
        counts = store.balance()
        return counts.n_desirable, counts.n_undesirable

    assert [vote(True), vote("Like"), vote(False), vote(None), vote("Dislike")] == [
        (1, 0),
        (1, 0),
        (0, 1),
        (0, 0),
        (0, 1),
    ]
    (thumb,) = store.thumbs()
    assert thumb.prompt == prompt and thumb.completion == "Good day." and thumb.run == "r1"


def test_a_chat_becomes_plain_messages():
    parts = [{"role": "user", "content": [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo"}]}]
    assert feedback.conversation([*parts, {"role": "evil", "content": "x"}]) == [{"role": "user", "content": "Hello"}]
    assert feedback.conversation(None) == []


def test_gradio_is_imported_without_renewing_its_stubs():
    code = (
        "import sys, kto_workbench.ui, gradio\n"
        "meta = sys.modules['gradio.component_meta']\n"
        "assert meta.create_or_modify_pyi(None, None, None) is None\n"
        "assert not any(type(finder).__name__ == '_Finder' for finder in sys.meta_path)\n"
        "gradio.Button('still works').click\n"
    )
    assert subprocess.run([sys.executable, "-W", "error::ImportWarning", "-c", code], check=False).returncode == 0
