"""A row as the model sees it: where the completion starts, how it ends, what max_length cuts."""

import hashlib
import itertools
import json

import pytest
from tiny_models import TEMPLATE, tiny_tokenizer
from tokenizers import AddedToken

from kto_workbench.errors import DataError, ModelError
from kto_workbench.feedback import Row, load_feedback
from kto_workbench.feedback.prompts import load_prompts
from kto_workbench.feedback.rendering import encode, encode_rows, load_tokenizer, model_path
from kto_workbench.feedback.rows import Problem
from kto_workbench.feedback.templates import Turn, render

# Words that the tiny tokenizer keeps whole, one token each: arithmetic can be done by counting words.
TEN = "the cat sat on a mat yes no good bad"
END = "<|end|>"


@pytest.fixture(scope="module")
def tiny():
    return tiny_tokenizer()


@pytest.fixture(scope="module")
def plain():
    return tiny_tokenizer(template=None)


@pytest.fixture(scope="module")
def demo():
    return load_tokenizer("demo")


def words(tokenizer, ids):
    return [tokenizer.decode([i]).strip() for i in ids]


# where the completion starts, and how it ends ------------------------------------------------------------------------


def test_the_completion_starts_behind_the_generation_prompt(tiny):
    encoded = encode(tiny, Row("the cat", "sat on", True))
    assert words(tiny, encoded.prompt_ids) == ["<|user|>", "the", "cat", END, "<|assistant|>"]
    assert words(tiny, encoded.completion_ids) == ["sat", "on", END]
    assert (encoded.prompt_cut, encoded.completion_cut, encoded.lead, len(encoded)) == (0, 0, 0, 8)


def test_every_row_of_the_demo_has_its_prompt_as_an_exact_prefix_and_ends_its_turn(demo):
    rows = load_feedback("demo").rows[:100]
    for row, encoded in zip(rows, encode_rows(demo, rows), strict=True):
        ids = demo.apply_chat_template(row.prompt, add_generation_prompt=True, return_dict=False)
        prompt = demo.apply_chat_template(row.prompt, add_generation_prompt=True, tokenize=False)
        whole = [*row.prompt, {"role": "assistant", "content": row.completion}]
        assert list(encoded.prompt_ids) == ids
        assert list(encoded.prompt_ids + encoded.completion_ids) == demo.apply_chat_template(whole, return_dict=False)
        assert demo.decode(encoded.prompt_ids + encoded.completion_ids) == prompt + row.completion + END
        assert encoded.completion_ids[-1] == demo.eos_token_id


def test_the_demo_is_read_as_it_always_was(demo):
    # The demo's figures rest on these ids, which were taken when its templates were rendered in another way.
    ids = hashlib.sha256()
    for encoded in encode_rows(demo, load_feedback("demo").rows, 512):
        ids.update(json.dumps([encoded.prompt_ids, encoded.completion_ids]).encode())
    assert ids.hexdigest() == "8e4a784cffabcf30cb5f45d6f6745e2e4d9766cc6d1e47db0b4d666caf5ae31f"
    first = encode(demo, load_feedback("demo").rows[0])
    assert first.prompt_ids == (3, 595, 728, 367, 359, 664, 455, 35, 1, 4)
    assert first.completion_ids == (721, 310, 403, 5, 480, 83, 664, 271, 969, 18, 895, 893, 16, 894, 411, 5, 1)


def test_many_rows_at_once_are_the_same_as_one_by_one(tiny):
    rows = [Row(TEN[: i * 5], TEN[i:], i % 2 == 0) for i in range(1, 8)]
    assert encode_rows(tiny, rows, 9) == [encode(tiny, row, 9) for row in rows]
    assert encode_rows(tiny, []) == []


def test_white_space_behind_the_end_of_the_turn_is_dropped():
    # Many templates put a line break there: learned, it would come after the end, where nobody looks.
    tokenizer = tiny_tokenizer(TEMPLATE.replace("<|end|>{% endfor %}", "<|end|>\n{% endfor %}"))
    tokenizer.add_tokens(["\n"])
    encoded = encode(tokenizer, Row("the cat", "sat on", True))
    assert encoded.prompt_ids[-2] == tokenizer.convert_tokens_to_ids("\n")  # the prompt's own stays
    assert words(tokenizer, encoded.completion_ids) == ["sat", "on", END]


def test_a_template_that_ends_no_turn_gets_the_end_added():
    tokenizer = tiny_tokenizer("{% for m in messages %}{{ m['content'] }} {% endfor %}")
    assert words(tokenizer, encode(tokenizer, Row("the cat", "sat on", True)).completion_ids) == ["sat", "on", END]


def test_an_end_of_turn_that_the_tokenizer_gives_no_role_is_one_all_the_same():
    # Gemma's <end_of_turn> and Phi's <|end|> are special tokens, but not the tokenizer's eos: a second end was added.
    tokenizer = tiny_tokenizer(TEMPLATE.replace("<|end|>", "<|stop|>"))
    tokenizer.add_tokens([AddedToken("<|stop|>", special=True)])
    assert tokenizer.convert_tokens_to_ids("<|stop|>") not in tokenizer.all_special_ids
    assert words(tokenizer, encode(tokenizer, Row("the", "cat", True)).completion_ids) == ["cat", "<|stop|>"]


def test_an_unknown_character_at_the_end_is_no_end(plain):
    # <unk> is among the special tokens: an answer that closed with an emoji never learned to stop.
    plain = tiny_tokenizer(template=None)
    plain.unk_token = "<pad>"  # any id will do
    encoded = encode(plain, Row("the cat", "sat <pad>", True))
    assert encoded.completion_ids[-2:] == (plain.unk_token_id, plain.eos_token_id)


def test_an_empty_completion_is_still_an_end_of_turn(tiny):
    assert words(tiny, encode(tiny, Row("the cat", "", True)).completion_ids) == [END]


def test_messages_and_a_system_prompt(tiny):
    chat = [
        {"role": "system", "content": "good"},
        {"role": "user", "content": "the cat"},
        {"role": "assistant", "content": "sat"},
        {"role": "user", "content": "on"},
    ]
    encoded = encode(tiny, Row(chat, "a mat", False))
    shown = (
        "<|system|> good <|end|> <|user|> the cat <|end|> <|assistant|> sat <|end|> <|user|> on <|end|> <|assistant|>"
    )
    assert words(tiny, encoded.prompt_ids) == shown.split()
    assert words(tiny, encoded.completion_ids) == ["a", "mat", END]


# without a template --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["the tokenizer has none", "the option says none"])
def test_plain_text_without_a_template(how, plain, tiny):
    tokenizer, template = (plain, "auto") if "tokenizer" in how else (tiny, "none")
    encoded = encode(tokenizer, Row("the cat ", "sat on", True), template=template)
    assert words(tokenizer, encoded.prompt_ids) == ["the", "cat"]
    assert words(tokenizer, encoded.completion_ids) == ["sat", "on", END]
    chat = [{"role": "user", "content": "the"}, {"role": "user", "content": "cat\n"}]
    assert render(tokenizer, Row(chat, "sat", True), template=template) == Turn("the\n\ncat\n", "", "sat", "")


@pytest.mark.parametrize("template", ["auto", "none"])
def test_messages_without_text_and_tools_are_no_error_without_a_template(template, plain):
    call = {"type": "function", "function": {"name": "moon", "arguments": {}}}
    chat = [
        {"role": "user", "content": "the cat"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": [{"type": "text", "text": "sat "}, {"type": "text", "text": "on"}]},
        {"role": "assistant"},
    ]
    turn = render(plain, Row(chat, "a mat", True, tools=[{"type": "function"}]), template=template)
    said = json.dumps([call])
    assert turn == Turn(f"the cat\n\n{said}\n\nsat on\n\n", "", "a mat", "")
    assert isinstance(encode(plain, Row(chat, "a mat", True), template=template).prompt_ids, tuple)


def test_an_empty_prompt_begins_as_texts_begin(plain):
    encoded = encode(plain, Row("", "sat on", True))
    assert encoded.prompt_ids == (plain.bos_token_id,) and words(plain, encoded.completion_ids) == ["sat", "on", END]


def test_tokens_never_grow_together_across_the_end_of_the_prompt(plain):
    # "c" + "at" is one token, but answering is fed with "the", "c": what follows begins with "at".
    encoded = encode(plain, Row("the c", "at sat", True))
    assert plain("the c")["input_ids"] == list(encoded.prompt_ids)
    assert words(plain, encoded.prompt_ids) == ["the", "c"]
    assert words(plain, encoded.completion_ids) == [*words(plain, plain("at")["input_ids"]), "sat", END]


# templates with minds of their own -----------------------------------------------------------------------------------


def test_a_template_that_renders_the_prompt_differently_before_an_answer():
    # Some leave out of finished turns what the generation prompt has: the answer still stands behind all of it.
    thinks = TEMPLATE.replace("<|assistant|>{% endif %}", "<|assistant|> good <|system|>{% endif %}")
    tokenizer = tiny_tokenizer(thinks)
    encoded = encode(tokenizer, Row("the cat", "sat on", True))
    assert words(tokenizer, encoded.prompt_ids)[-3:] == ["<|assistant|>", "good", "<|system|>"]
    assert words(tokenizer, encoded.completion_ids) == ["sat", "on", END]


def test_a_template_that_refuses_a_role_is_one_sentence():
    refuses = "{% for m in messages %}{% if m['role'] == 'tool' %}{{ raise_exception('Tool role not supported') }}"
    tokenizer = tiny_tokenizer(refuses + "{% endif %}" + TEMPLATE.removeprefix("{% for m in messages %}"))
    chat = [{"role": "user", "content": "the cat"}, {"role": "tool", "content": "good"}]
    said = "he model's chat template refuses messages of roles user, tool: Tool role not supported"
    with pytest.raises(ModelError) as caught:
        encode(tokenizer, Row(chat, "sat", True))
    assert str(caught.value) == f"T{said}."
    # It costs this row, and no other.
    rows = [Row("the cat", "sat", True, line=1), Row(chat, "sat", True, line=2), Row("a mat", "on", False, line=3)]
    first, refused, last = encode_rows(tokenizer, rows, 64)
    assert refused == Problem(2, "prompt", f"t{said}")
    assert [first, last] == [encode(tokenizer, rows[0], 64), encode(tokenizer, rows[2], 64)]


def test_a_template_without_a_system_role_has_the_system_text_before_the_first_user_text():
    refuses = "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('System role not supported') }}"
    system = [{"role": "system", "content": "good"}, {"role": "user", "content": "the cat"}]
    drops = TEMPLATE.replace("{% for m in messages %}", "{% for m in messages if m['role'] != 'system' %}")
    for template in (refuses + "{% endif %}" + TEMPLATE.removeprefix("{% for m in messages %}"), drops):
        encoded = encode(tiny_tokenizer(template), Row(system, "sat", True))
        tiny = tiny_tokenizer()
        assert words(tiny, encoded.prompt_ids) == ["<|user|>", "good", "the", "cat", END, "<|assistant|>"]


# what max_length cuts ------------------------------------------------------------------------------------------------


def test_a_long_row_loses_the_start_of_its_prompt_first(tiny):
    # prompt: 1 role + 10 words + end + role = 13 tokens; completion: 3 words + end = 4; together 17, 5 over 12.
    row = Row(TEN, "sat on mat", True)
    whole, cut = encode(tiny, row), encode(tiny, row, 12)
    assert (len(whole), len(whole.prompt_ids), len(whole.completion_ids)) == (17, 13, 4)
    assert cut.prompt_ids == whole.prompt_ids[5:] and cut.completion_ids == whole.completion_ids
    assert (cut.prompt_cut, cut.completion_cut) == (5, 0)
    assert encode(tiny, row, 17) == whole and encode(tiny, row, 16).prompt_cut == 1


def test_a_completion_is_cut_when_the_prompt_is_down_to_a_quarter_and_never_dropped(tiny):
    # max_length 8: the prompt keeps 8 // 4 = 2 of its 13 tokens, the completion the first 6 of its 11.
    row = Row(TEN, TEN, True)
    whole, cut = encode(tiny, row), encode(tiny, row, 8)
    assert cut.prompt_ids == whole.prompt_ids[-2:] and cut.completion_ids == whole.completion_ids[:6]
    assert (cut.prompt_cut, cut.completion_cut) == (11, 5)
    # A prompt shorter than its quarter is not cut at all: 100 tokens · 1/4 = 25 > 5, and 95 are left.
    row = Row("the cat", " ".join([TEN] * 20), True)
    cut = encode(tiny, row, 100)
    assert (len(cut.prompt_ids), len(cut.completion_ids)) == (5, 95)
    assert (cut.prompt_cut, cut.completion_cut) == (0, 201 - 95)


def test_what_is_cut_and_what_is_kept_add_up_for_every_length(tiny, plain):
    for tokenizer, n, m, limit in itertools.product((tiny, plain), (1, 4, 10), (0, 3, 10), range(8, 26)):
        row = Row(" ".join(TEN.split()[:n]) + " ", " ".join(TEN.split()[:m]), True)
        whole, cut = encode(tokenizer, row), encode(tokenizer, row, limit)
        assert len(cut) == min(limit, len(whole)) and cut.prompt_ids and cut.completion_ids
        assert len(cut.prompt_ids) + cut.prompt_cut == len(whole.prompt_ids)
        assert len(cut.completion_ids) + cut.completion_cut == len(whole.completion_ids)
        assert whole.prompt_ids[-len(cut.prompt_ids) :] == cut.prompt_ids
        assert whole.completion_ids[: len(cut.completion_ids)] == cut.completion_ids
        if cut.completion_cut:
            assert len(cut.prompt_ids) <= max(1, limit // 4)


def test_the_beginning_of_text_stays_when_the_start_of_a_prompt_goes():
    tokenizer = tiny_tokenizer("<s>" + TEMPLATE)
    whole = encode(tokenizer, Row(TEN, "sat", True))
    cut = encode(tokenizer, Row(TEN, "sat", True), 10)
    # 1 + 13 + 2 = 16 tokens, 10 are wanted: <s>, the prompt's last 7, the completion's 2.
    assert len(whole) == 16 and cut.prompt_ids == whole.prompt_ids[:1] + whole.prompt_ids[-7:]
    assert cut.prompt_ids[0] == tokenizer.bos_token_id and (cut.prompt_cut, len(cut)) == (6, 10)


# models and prompts that are not there -------------------------------------------------------------------------------


def test_a_tokenizer_that_can_not_be_loaded_is_one_sentence(tmp_path):
    with pytest.raises(ModelError, match=r"^There is no model in \./none: no such folder\.$"):
        load_tokenizer("./none")
    with pytest.raises(ModelError, match=r"^Can't load the tokenizer of model '.*': [^\n]*\.$"):
        load_tokenizer(str(tmp_path))
    without_end = tiny_tokenizer()
    without_end.eos_token = None
    without_end.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="names no end-of-sequence token"):
        load_tokenizer(str(tmp_path))


def test_demo_is_a_name_and_all_else_is_a_place():
    assert model_path("demo").endswith("model") and model_path("some/model") == "some/model"


@pytest.mark.parametrize(
    ("name", "text", "prompts"),
    [
        ("a.txt", "\ufeffHello!\n\n  How are you?  \r\n", ["Hello!", "How are you?"]),
        ("a.jsonl", '"Hello!"\n\n{"prompt": "How\u2028are you?"}\n', ["Hello!", "How\u2028are you?"]),
        ("a.json", '[{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]}]',
         [[{"role": "user", "content": "Hi"}]]),
    ],
)  # fmt: skip
def test_prompts_from_files(name, text, prompts, tmp_path):
    (tmp_path / name).write_text(text, encoding="utf-8")
    assert load_prompts(tmp_path / name) == prompts


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("a.txt", " \n", "There is no prompt in a.txt."),
        ("a.json", "{}", "There is no prompt in a.json."),
        ("a.json", "[\n1,\n", "a.json is not JSON: Expecting value in line 3."),
        ("a.jsonl", '"Hello!"\n\nHello!\n', "a.jsonl is not JSON: Expecting value in line 3."),
        ("a.jsonl", '"Hello!"\n{"text": 1}\n', "Prompt 2 of a.jsonl is neither a text nor a list of messages."),
        ("a.jsonl", "[]\n", "Prompt 1 of a.jsonl is neither a text nor a list of messages."),
    ],
)
def test_prompts_that_are_none(name, text, sentence, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError) as caught:
        load_prompts(name)
    assert str(caught.value) == sentence
