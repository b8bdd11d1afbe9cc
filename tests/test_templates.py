"""Every chat template that TRL ships: what was rated is what is scored, where answering would have written it.

The oracle is transformers' own rendering of the conversation, of which the expected text is put together here; TRL's
training templates, which mark what an assistant writes, say once more where its turn ends.
"""

import functools
import json
import logging
import re
from dataclasses import replace
from html import unescape
from pathlib import Path

import pytest
import torch
import trl
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from kto_workbench import KTOConfig, compare, evaluate, train
from kto_workbench.answers.export import export
from kto_workbench.engine.generation import generate
from kto_workbench.errors import ModelError
from kto_workbench.feedback import Row, check, load_feedback
from kto_workbench.feedback.prompts import load_prompts
from kto_workbench.feedback.rendering import encode, encode_rows
from kto_workbench.feedback.rows import Problem
from kto_workbench.feedback.templates import told
from kto_workbench.ui import estimate
from kto_workbench.ui.check import rendered_rows
from kto_workbench.ui.data import refused_rows

TEMPLATES = {path.stem: path.read_text("utf-8") for path in Path(trl.__file__).parent.glob("chat_templates/*.jinja")}
NAMES = sorted(TEMPLATES)

# The end of an answer's turn, read off the templates by eye; glm4moe ends none, and its model begins the next one.
ENDS = {
    "cohere2": "<|END_RESPONSE|><|END_OF_TURN_TOKEN|>", "cohere": "<|END_OF_TURN_TOKEN|>", "gptoss": "<|return|>",
    "diffusion_gemma": "<turn|>", "gemma4": "<turn|>", "gemma": "<end_of_turn>", "deepseek": "<｜end▁of▁sentence｜>",
    "idefics3": "<end_of_utterance>", "smolvlm": "<end_of_utterance>", "llama3": "<|eot_id|>", "llava_next": "</s>",
    "glm4moe": "<|user|>",
    "muse": "<|eot|>", "phi3": "<|end|>", "lfm2": "<|im_end|>", "nemotron": "<|im_end|>", "qwen": "<|im_end|>",
}  # fmt: skip
# What these write before every answer, and how those that open a thought close it.
LEADS = {"gptoss": "<|channel|>final<|message|>", "muse": " to=user<|message|>", "glm4moe": "\n"}
CLOSED = {"nemotron": "</think>", "deepseek": "\n</think>\n\n", "qwen3": "\n</think>\n\n"}
BLANK = ("idefics3", "smolvlm", "llava_next")  # a blank before the answer; they take texts in blocks alone
WITHOUT_SYSTEM = ("gemma", "gemma_training")
WITHOUT_TOOL_ROLE = ("cohere", "cohere_training", "gemma", "gemma3", "llava_next")


def of(table, name):
    """The entry for the longest beginning of a template's name."""
    return table[max((key for key in table if name.startswith(key)), key=len)]


# tokenizers ----------------------------------------------------------------------------------------------------------

SPECIAL = re.compile(r"<[|｜][^<>|｜\s]*[|｜]>|<\|[a-z_]+>|<[a-z_]+\|>|<(?:start|end)_of_[a-z]+>|</s>|\[gMASK\]|<sop>")
SAMPLE = "Hello, Paris is the capital.\n\n It is. \n The answer: Paris\nWhich country? hm"


@functools.cache
def tokenizer_for(name, kind="bytes", thinks=True):
    """A tokenizer with a template and its special tokens; with `blanks`, words begin with ▁, as SentencePiece's."""
    byte = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=kind == "blanks"))
    special = ["<unk>", "<BOS>", "<EOS>"]
    if kind == "bytes":
        tokenizer.pre_tokenizer, tokenizer.decoder, alphabet = byte, decoders.ByteLevel(), byte.alphabet()
    else:
        tokenizer.pre_tokenizer, alphabet = pre_tokenizers.Metaspace(prepend_scheme="first"), []
        steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
        tokenizer.decoder = decoders.Sequence(steps)
        special += [f"<0x{number:02X}>" for number in range(256)]
    trainer = trainers.BpeTrainer(
        vocab_size=700, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([SAMPLE] * 20, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<BOS>", eos_token="<EOS>", padding_side="left"
    )
    template = TEMPLATES.get(name, name)
    fast.add_special_tokens({"additional_special_tokens": sorted(set(SPECIAL.findall(template)))})
    fast.add_tokens(["<think>", "</think>"] if thinks else [])
    fast.chat_template = template
    return fast


def texts_of(tokenizer, encoded):
    """Context, the lead in it, and what is scored, from the ids alone."""
    ids, start = [*encoded.prompt_ids, *encoded.completion_ids], len(encoded.prompt_ids)
    read = [tokenizer.decode(ids[:end]) for end in (start - encoded.lead, start, len(ids))]
    return read[0], read[1].removeprefix(read[0]), read[2].removeprefix(read[1])


# conversations -------------------------------------------------------------------------------------------------------


def say(role, content, **more):
    return {"role": role, "content": content, **more}


ASK, COUNTRY, FRANCE = say("user", "What is the capital?"), say("assistant", "Which country?"), say("user", "France.")
TOOL = {
    "type": "function",
    "function": {
        "name": "look_up",
        "description": "Looks up.",
        "parameters": {"type": "object", "properties": {"q": {"type": "string", "description": "what"}}},
    },
}
CALL = {"id": "123456789", "type": "function", "function": {"name": "look_up", "arguments": '{"q": "France"}'}}
CHATS = {
    "one turn": [ASK],
    "many turns": [ASK, COUNTRY, FRANCE],
    "system": [say("system", "Be brief."), ASK],
    "an earlier thought": [ASK, say("assistant", "<think>\nhm\n</think>\n\nWhich country?"), FRANCE],
    "tools": [ASK],
    "a call": [
        ASK, say("assistant", None, tool_calls=[CALL]), say("tool", "Paris", name="look_up", tool_call_id=CALL["id"])
    ],
    "Chinese": [say("user", "法国的首都？")],
}  # fmt: skip
THOUGHT = "<think>\nhm\n</think>\n\n"
ANSWERS = [
    "Paris.",
    "  Paris",
    "Paris. \n",
    "\nParis\n\n",
    "巴黎。",
    THOUGHT + "Paris.",
    THOUGHT.split("\n", 1)[1] + "Paris.",
]


def oracle(tokenizer, name, chat, tools):
    """The generation prompt and its ids, by transformers, of a conversation spelled as the template wants it."""
    chat = [{**one, "content": one["content"] or ""} for one in chat]
    if name in WITHOUT_SYSTEM and chat[0]["role"] == "system":
        chat = [say("user", f"{chat[0]['content']}\n\n{chat[1]['content']}"), *chat[2:]]
    if name.startswith(BLANK):
        chat = [{**one, "content": [{"type": "text", "text": one["content"]}]} for one in chat]
    if name != "deepseekv3":  # it alone wants the arguments of a call as text, as logs have them
        call = {**CALL, "function": {**CALL["function"], "arguments": json.loads(CALL["function"]["arguments"])}}
        chat = [{**one, "tool_calls": [call]} if "tool_calls" in one else one for one in chat]
    how = {"tools": tools, "add_generation_prompt": True}
    return tokenizer.apply_chat_template(chat, tokenize=False, **how), tokenizer.apply_chat_template(
        chat, return_dict=False, **how
    )


def expected(name, prompt, answer):
    """What stands between a prompt and what is scored, what is scored, and the kind of thought."""
    if prompt.endswith("<think>\n"):
        if answer.startswith("<think>\n"):
            return "", answer.removeprefix("<think>\n"), "whole"
        return ("", answer, "inside") if "</think>" in answer else (of(CLOSED, name), answer, "closed")
    brings, skips = answer.startswith("<think>"), name.startswith("glm4moe") or name in ("qwen3", "qwen3_training")
    thought = "skipped" if skips else ""
    if "</think>" in answer and not brings and skips:
        return "\n<think>" if name.startswith("glm4moe") else "<think>\n", answer, "inside"
    if brings:
        thought = "doubled" if prompt.endswith("</think>\n\n") else "whole"
    if name.startswith(BLANK):
        return "", answer if answer[0].isspace() else " " + answer, thought
    lead = next((lead for start, lead in LEADS.items() if name.startswith(start)), "")
    return "" if lead.isspace() and answer[0].isspace() else lead, answer, thought


def check_all(name, kind):
    tokenizer, end = tokenizer_for(name, kind), of(ENDS, name)
    for shape, chat in CHATS.items():
        tools = [TOOL] if shape in ("tools", "a call") else None
        found = encode_rows(tokenizer, [Row(chat, answer, True, 7, tools) for answer in ANSWERS])
        if shape == "a call" and name.removesuffix("_training") in WITHOUT_TOOL_ROLE:
            assert all(isinstance(one, Problem) and (one.line, one.field) == (7, "prompt") for one in found)
            assert all("refuses messages of roles user, assistant, tool" in one.reason for one in found)
            continue
        prompt, ids = oracle(tokenizer, name, chat, tools)
        for answer, encoded in zip(ANSWERS, found, strict=True):
            lead, scored, thought = expected(name, prompt, answer)
            said = (name, shape, answer)
            assert list(encoded.prompt_ids[: len(ids)]) == ids and len(ids) == len(encoded.prompt_ids) - encoded.lead, (
                said
            )
            context, between, completion = texts_of(tokenizer, encoded)
            if kind == "blanks":  # its ▁ is a blank, and it has no other
                prompt, end, scored = (text.replace("▁", " ") for text in (prompt, end, scored))
            assert (context, between, completion) == (prompt, lead, scored + end), said
            assert encoded.thought == thought, said


@pytest.mark.parametrize("name", NAMES)
def test_what_was_rated_is_what_is_scored(name):
    check_all(name, "bytes")


@pytest.mark.parametrize("name", [pytest.param(n, marks=[] if n in ("llama3", "qwen3_5_think", "smolvlm", "gptoss")
                                               else pytest.mark.slow) for n in NAMES])  # fmt: skip
def test_and_with_a_tokenizer_that_writes_blanks_as_part_of_words(name):
    check_all(name, "blanks")


def test_there_are_as_many_templates_as_are_known_here():
    # A new one is covered by itself; where its end is not in the table above, of() fails.
    assert len(NAMES) >= 60 and {of(ENDS, name) for name in NAMES} == set(ENDS.values())


@pytest.mark.parametrize("name", [name for name in NAMES if "{% generation %}" in TEMPLATES[name].replace("-", "")])
def test_trl_trains_on_the_same_end_of_the_turn(name):
    # Its training templates mark what an assistant writes, at times with a header or an empty thought before it. Phi's
    # <EOS> ends the conversation, not the turn: between turns there is none, and answering stops before it.
    tokenizer = tokenizer_for(name)
    chat = [ASK, say("assistant", "Paris.")]
    if name.startswith(BLANK):
        chat = [{**one, "content": [{"type": "text", "text": one["content"]}]} for one in chat]
    marked = tokenizer.apply_chat_template(chat, return_assistant_tokens_mask=True)
    ids = [token for token, mine in zip(marked["input_ids"], marked["assistant_masks"], strict=True) if mine]
    _, _, scored = texts_of(tokenizer, encode(tokenizer, Row([ASK], "Paris.", True)))
    assert tokenizer.decode(ids).removesuffix("<EOS>").rstrip().endswith(scored.strip()), name


@pytest.mark.parametrize("kind", ["bytes", "blanks"])
def test_an_answer_is_tokenized_as_the_whole_text_is_where_nothing_grows_together(kind):
    # The model has learned texts, not pieces: "Paris." behind a prompt has the ids that it has in the whole text.
    for name in ("qwen2_5", "gemma3", "phi3", "lfm2", "cohere"):
        tokenizer = tokenizer_for(name, kind)
        whole = tokenizer.apply_chat_template([ASK, say("assistant", "Paris. It is")], return_dict=False)
        encoded = encode(tokenizer, Row([ASK], "Paris. It is", True))
        mine = [*encoded.prompt_ids, *encoded.completion_ids]
        assert mine == whole[: len(mine)], name


def test_special_tokens_that_swallow_white_space_leave_the_answers_its_own():
    # Phi 3's do: behind <|assistant|> and before <|end|> white space vanishes, and with it that of the answer.
    tokenizer = tokenizer_for.__wrapped__("phi3")
    for token in ("<|assistant|>", "<|end|>"):
        tokenizer.add_tokens([AddedToken(token + "2", special=True, rstrip=True, lstrip=True)])
    tokenizer.chat_template = (
        TEMPLATES["phi3"].replace("<|assistant|>", "<|assistant|>2").replace("<|end|>", "<|end|>2")
    )
    assert tokenizer.decode(tokenizer("<|assistant|>2 a <|end|>2")["input_ids"]) == "<|assistant|>2a<|end|>2"
    for answer in ANSWERS:
        _, _, scored = texts_of(tokenizer, encode(tokenizer, Row([ASK], answer, True)))
        assert scored == answer + "<|end|>2"


# thoughts that a server has put aside ---------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["reasoning_content", "reasoning", "thinking"])
def test_a_thought_beside_an_answer_is_part_of_what_was_rated(tmp_path, key):
    told, other = say("assistant", "Paris.", **{key: "hm"}), say("assistant", "Rome.", **{key: " ho\n"})
    rows = {
        "conversation": [{"messages": [ASK, told], "label": True}],
        "messages": [{"prompt": [ASK], "completion": [told], "label": True}],
        "pair": [{"prompt": [ASK], "chosen": [told], "rejected": [other]}],
        "log": [{"messages": [ASK], "choices": [{"message": told}], "label": True}],
        "list": [{"prompt": "What?", "responses": [told, other], "ratings": [5, 1]}],
        "judged": [{"messages": [{**ASK, "id": "a"}, {**told, "id": "b"}], "judged": "b", "label": True}],
    }
    for name, some in rows.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(some * 2))
        mapping = ["answers=responses", "scores=ratings", "threshold=3"] if name == "list" else None
        loaded = load_feedback(str(tmp_path / f"{name}.json"), workspace=str(tmp_path), mapping=mapping).rows
        answers = {"Paris." if row.label else "Rome.": row.completion for row in loaded}
        assert answers["Paris."] == THOUGHT + "Paris.", name
        assert answers.get("Rome.") in (None, "<think>\nho\n</think>\n\nRome."), name


# What this builds is written for templates that take texts.
@pytest.mark.parametrize("name", [name for name in NAMES if not name.startswith(BLANK)])
def test_an_earlier_thought_reaches_the_template_by_its_own_name(name):
    tokenizer, all_names = tokenizer_for(name), {"reasoning_content": "hm", "reasoning": "hm", "thinking": "hm"}
    calls = {} if name.removesuffix("_training") in WITHOUT_TOOL_ROLE else {"tool_calls": [CALL]}
    for more in ({}, calls):
        # gpt-oss takes no text beside a call's thought.
        chat = [ASK, say("assistant", "" if more else "Which country?", reasoning_content="hm", **more), FRANCE]
        found = encode_rows(tokenizer, [Row(chat, "Paris.", True)])[0]
        prompt, ids = oracle(tokenizer, name, [ASK, {**chat[1], **all_names}, FRANCE], None)
        assert list(found.prompt_ids[: len(ids)]) == ids, more


# How they write a thought that is not in <think>…</think>, read off the templates by eye.
OTHER_MARKS = {
    "gemma4": "<|channel>thought\nhm\n<channel|>Paris.<turn|>",
    "{# [THINK] #}" + TEMPLATES["llama3"]: "[THINK]hm[/THINK]Paris.<|eot_id|>",
    TEMPLATES["llama3"]: THOUGHT + "Paris.<|eot_id|>",  # it knows none
}


@pytest.mark.parametrize("name", OTHER_MARKS)
def test_a_thought_put_aside_stands_in_the_marks_of_a_model_that_knows_no_others(name):
    tokenizer = tokenizer_for(name, thinks=False)
    encoded = encode(tokenizer, Row([ASK], THOUGHT + "Paris.", True))
    assert texts_of(tokenizer, encoded)[2] == OTHER_MARKS[name] and encoded.thought == "whole"


# what the template is told -------------------------------------------------------------------------------------------

KWARGS = [
    {"enable_thinking": False}, {"enable_thinking": True}, {"reasoning_effort": "low"}, {"reasoning_strength": "low"},
    {"date_string": "1 May “30”\n\"x\" %} }} 'y'"}, {"preserve_thinking": True, "truncate_history_thinking": False},
    {"tool_namespace_descriptions": {"look_up": "d", "n": None, "l": [1, True]}},
]  # fmt: skip


@pytest.mark.parametrize("name", [pytest.param(n, marks=[] if n in ("qwen3", "glm4moe", "muse_glimmer", "llama3_1")
                                               else pytest.mark.slow) for n in NAMES])  # fmt: skip
def test_a_template_with_its_arguments_written_in_renders_as_with_them_given(name):
    tokenizer, differs = tokenizer_for.__wrapped__(name), set()

    def render(template, chat, **kwargs):
        tokenizer.chat_template = template
        try:
            return tokenizer.apply_chat_template(
                chat, tools=[TOOL], tokenize=False, add_generation_prompt=True, **kwargs
            )
        except Exception as error:
            return str(error)

    for kwargs in KWARGS:
        for chat in (CHATS["one turn"], CHATS["an earlier thought"], CHATS["a call"]):
            given = render(TEMPLATES[name], chat, **kwargs)
            assert render(told(TEMPLATES[name], kwargs), chat) == given
            differs |= {*kwargs} if given != render(TEMPLATES[name], chat) else set()
    other = {"enable_thinking": "enable_thinking" in differs}  # what is given still wins over what is written in
    with_other = render(told(TEMPLATES[name], {"enable_thinking": not other["enable_thinking"]}), [ASK], **other)
    assert with_other == render(TEMPLATES[name], [ASK], **other)
    changed = {"qwen3": "enable_thinking", "glm4moe": "enable_thinking", "llama3_1": "date_string"}
    assert changed.get(name, "reasoning_strength" if name.startswith("muse") else None) in {*differs, None}


@pytest.mark.parametrize(
    ("name", "kwargs", "answer", "parts"),
    [
        ("qwen3", {}, "Paris.", ("", "Paris.", "skipped")),
        ("qwen3", {"enable_thinking": False}, "Paris.", ("", "Paris.", "")),
        ("qwen3", {"enable_thinking": False}, "<think>\n\n</think>\n\nParis.", ("", "Paris.", "")),
        ("qwen3", {"enable_thinking": False}, THOUGHT + "Paris.", ("", THOUGHT + "Paris.", "doubled")),
        ("qwen3_5_think", {}, "<think>hm</think>Paris.", ("", "hm</think>Paris.", "whole")),
        ("qwen3_5_think", {}, "\n <think>\nhm</think>Paris.", ("", "hm</think>Paris.", "whole")),
        ("qwen3_5_think", {"enable_thinking": False}, "Paris.", ("", "Paris.", "")),
        ("gptoss", {}, "<|channel|>final<|message|>Paris.", ("", "<|channel|>final<|message|>Paris.", "")),
        ("gemma4", {"enable_thinking": True}, "Paris.", ("", "Paris.", "")),
        ("deepseek_r1_distill", {}, "", ("\n</think>\n\n", "", "closed")),
    ],
)
def test_thoughts_and_headers_that_stand_there_once(name, kwargs, answer, parts):
    tokenizer = tokenizer_for(name)
    encoded = encode(tokenizer, Row([ASK], answer, True), template_kwargs=kwargs)
    prompt, lead, scored = texts_of(tokenizer, encoded)
    assert prompt == tokenizer.apply_chat_template([ASK], tokenize=False, add_generation_prompt=True, **kwargs)
    assert (lead, scored.removesuffix(of(ENDS, name)), encoded.thought) == parts


# answers are asked the same way --------------------------------------------------------------------------------------


def small_model(tokenizer):
    torch.manual_seed(0)
    shape = dict(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)
    return LlamaForCausalLM(
        LlamaConfig(vocab_size=len(tokenizer), **shape, bos_token_id=1, eos_token_id=2, max_position_embeddings=8192)
    )


@pytest.mark.parametrize("name", [pytest.param(n, marks=[] if n in ("qwen3_5_think", "gptoss", "gemma", "llava_next")
                                               else pytest.mark.slow) for n in NAMES])  # fmt: skip
def test_answering_is_fed_what_training_puts_before_answers(name):
    tokenizer, kwargs = tokenizer_for(name), {"enable_thinking": False}
    rows = [Row(CHATS[shape], "Paris.", True, tools=[TOOL]) for shape in ("one turn", "system", "many turns")]
    encoded = encode_rows(tokenizer, rows, template_kwargs=kwargs)
    fed = []
    generate(
        small_model(tokenizer), tokenizer, [row.asked for row in rows], max_new_tokens=1, template_kwargs=kwargs,
        on_tokens=lambda pair: fed.append(pair.prompt_ids),
    )  # fmt: skip
    assert fed == [one.prompt_ids[: len(one.prompt_ids) - one.lead] for one in encoded]
    if "tools" in TEMPLATES[name] and not name.startswith(("deepseek", "cohere")):
        assert "look_up" in tokenizer.decode(fed[0])


def test_an_answer_carries_the_thought_that_its_prompt_has_begun_and_ends_where_the_template_says():
    tokenizer = tokenizer_for("qwen3_5_think")
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert end != tokenizer.eos_token_id
    written = tokenizer("hm\n</think>\n\nParis.")["input_ids"]
    model = small_model(tokenizer)
    prompt = tokenizer.apply_chat_template([ASK], add_generation_prompt=True, return_dict=False)
    play_back(model, len(prompt), [*written, end, *written])
    (answer,) = generate(model, tokenizer, [[ASK]], temperature=0, max_new_tokens=40)
    assert answer == THOUGHT + "Paris."
    encoded = encode(tokenizer, Row([ASK], answer, True))
    assert [*encoded.prompt_ids] == prompt and [*encoded.completion_ids] == [*written, end]


def play_back(model, start, ids):
    """Have a model answer with these ids, whatever its weights are: position start + i − 1 predicts ids[i]."""
    plain = model.forward

    def forward(*arguments, position_ids=None, **named):
        out = plain(*arguments, position_ids=position_ids, **named)
        seen = named["past_key_values"].get_seq_length()
        out.logits[:, -1] = 0
        out.logits[:, -1, ids[seen - start]] = 1
        return out

    model.forward = forward


# from a file to an export --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder with a tiny model that thinks, and thumbs: plain, with tools, with a system text, one refused."""
    folder, tokenizer = tmp_path_factory.mktemp("world"), tokenizer_for("qwen3")
    small_model(tokenizer).save_pretrained(folder / "model")
    refuses = "{% if messages[-1].role == 'tool' %}{{ raise_exception('No tools today') }}{% endif %}"
    tokenizer = tokenizer_for.__wrapped__("qwen3")
    tokenizer.chat_template = refuses + TEMPLATES["qwen3"]
    tokenizer.save_pretrained(folder / "model")
    rows = [{"messages": [ASK, say("assistant", f"Paris {i}.")], "label": i % 2 == 0} for i in range(8)]
    rows[3]["tools"] = [TOOL]
    rows[5]["messages"] = [*CHATS["a call"], say("assistant", "Paris.")]
    rows += [
        {"messages": [say("user", f"Hello {i}"), say("assistant", "Hello")], "label": i % 2 == 0} for i in range(4)
    ]
    (folder / "thumbs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_a_refused_row_costs_a_row_and_what_the_template_is_told_reaches_answers_and_exports(world, tmp_path, caplog):
    told_off = {"enable_thinking": False}
    config = KTOConfig(
        model=str(world / "model"), data=str(world / "thumbs.jsonl"), workspace=str(tmp_path), template_kwargs=told_off,
        max_steps=2, batch_size=4, max_length=512, sample_steps=1, sample_max_new_tokens=2, device="cpu", seed=1,
    )  # fmt: skip
    with caplog.at_level(logging.INFO, "kto_workbench"):
        run = train(config, progress=False)
    assert run.status().state == "finished" and run.config().template_kwargs == told_off
    assert "1 of 12 rows can't be used. line 6: the model's chat template refuses" in caplog.text
    (tmp_path / "ask.jsonl").write_text(json.dumps({"messages": [ASK], "tools": [TOOL]}) + "\n")
    prompts = load_prompts(tmp_path / "ask.jsonl")
    assert prompts == [[{**ASK, "tools": [TOOL]}]]
    assert compare(run, prompts, max_new_tokens=2)[0]["prompt"] == prompts[0]
    # An evaluation, too, goes on without a prompt that is refused.
    with caplog.at_level(logging.WARNING, "kto_workbench"):
        found = evaluate(run, None, [*prompts, CHATS["a call"]], max_new_tokens=2)
    assert [one["prompt"] for one in found["answers"]] == prompts
    assert "1 of 2 prompts are left out: The model's chat template refuses" in caplog.text
    with pytest.raises(ModelError, match="No tools today"):
        evaluate(run, None, [CHATS["a call"]])
    export(run, "adapter", tmp_path / "out")
    read = AutoTokenizer.from_pretrained(tmp_path / "out")
    original = AutoTokenizer.from_pretrained(world / "model")
    how = {"tokenize": False, "add_generation_prompt": True}
    assert read.apply_chat_template([ASK], **how) == original.apply_chat_template([ASK], **how, **told_off)
    assert read.apply_chat_template([ASK], **how).endswith("<think>\n\n</think>\n\n")


def test_the_check_says_what_a_template_makes_of_the_rows(world):
    report = check(world / "thumbs.jsonl", model=str(world / "model"))
    said = report.tokens.to_dict()
    assert said["refused"] == [
        {
            "line": 6,
            "field": "prompt",
            "reason": "the model's chat template refuses messages of roles user, assistant, tool: No tools today",
        }
    ]
    assert said["thoughts"] == {"skipped": 11} and said["rendered"]["lead"] == ""
    names = [finding.name for finding in report.findings]
    assert names[0] == "refused" and report.findings[0].lines == [6] and "thought-skipped" in names
    without = check(world / "thumbs.jsonl", model=str(world / "model"), template_kwargs={"enable_thinking": False})
    assert without.tokens.to_dict()["thoughts"] == {}
    rendered = without.tokens.to_dict()["rendered"]
    assert rendered["prompt"].endswith("assistant\n<think>\n\n</think>\n\n")
    assert rendered["completion"] == "Paris 0.<|im_end|>"
    trained = "".join(token["text"] for token in rendered["tokens"] if token["trained"])
    context = "".join(token["text"] for token in rendered["tokens"] if not token["trained"])
    assert (context, trained) == (rendered["prompt"], rendered["completion"])


def test_the_page_marks_what_is_scored_and_says_how_answers_stand_to_thoughts(world):
    rows = [Row([ASK], "Paris.", True), Row(CHATS["a call"], "Paris.", False), Row([ASK], THOUGHT + "Paris.", True)]
    drawn = rendered_rows("en", rows, str(world / "model"), 512, "auto")
    assert re.findall("<mark>(.*?)</mark>", drawn, re.DOTALL) == [
        "Paris.&lt;|im_end|&gt;",
        "&lt;think&gt;\nhm\n&lt;/think&gt;\n\nParis.&lt;|im_end|&gt;",
    ]
    assert drawn.index("without the thought that the model begins with") < drawn.index("No tools today")
    assert drawn.index("No tools today") < drawn.index("with its thought")
    drawn = rendered_rows("zh", rows[:1], str(world / "model"), 512, "auto", '{"enable_thinking": false}')
    assert "&lt;think&gt;\n\n&lt;/think&gt;\n\n<mark>Paris." in drawn and "思考" not in drawn


def test_the_page_counts_what_the_template_refuses(world):
    look = estimate.look(load_feedback(str(world / "thumbs.jsonl"), workspace=world), str(world / "model"), 512, "auto")
    assert look.rows == 12 and [row.line for row in look.refused] == [6] and len(look.lengths.prompt) == 11
    said = unescape(refused_rows("en", "M", look))
    assert "1 of 12 rows looked at can't be used with model M; line 6: the model" in said and "No tools today." in said
    assert "第 6 行：模型的对话模板" in refused_rows("zh", "M", look)
    assert refused_rows("en", "M", None) == "" == refused_rows("en", "M", replace(look, refused=()))


def test_the_check_says_where_the_system_text_goes(tmp_path):
    tokenizer_for("gemma").save_pretrained(tmp_path)
    rows = [
        {"prompt": [say("system", "Be brief."), ASK], "completion": "Paris.", "label": True},
        {"prompt": [ASK], "completion": "Paris.", "label": False},
    ]
    report = check(rows, model=str(tmp_path))
    drawn = rendered_rows("en", [Row(rows[0]["prompt"], "Paris.", True)], str(tmp_path), 512, "auto")
    assert "Be brief.\n\nWhat is" in drawn and "the system text goes before the first user text" in drawn
    (finding,) = [one for one in report.findings if one.name == "no-system-role"]
    assert finding.lines == [1] and "goes before the first user text" in finding.advice
    assert report.tokens.rendered["prompt"].startswith("<BOS><start_of_turn>user\nBe brief.\n\nWhat is the capital?")
