"""GGUF files: what another reader makes of them, and what is refused."""

import json
import re

import pytest
import torch
from gguf import GGUFReader
from tiny_models import CONFIGS, tiny_model
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig

from kto_workbench.answers.export import export, merged
from kto_workbench.answers.gguf_file import _rope_factors, cut_of, ollama_template, write_gguf
from kto_workbench.errors import RunError
from kto_workbench.feedback.rendering import load_tokenizer

CHAT = [
    {"role": "user", "content": "How many legs does a hedgehog have?"},
    {"role": "assistant", "content": "Dear friend! A hedgehog has four legs."},
]


def logps(model, ids):
    with torch.no_grad():
        return model.eval()(ids).logits[0, :-1].log_softmax(-1).gather(-1, ids[0, 1:, None])[:, 0]


@pytest.fixture(scope="module")
def exported(trained, tmp_path_factory):
    out = tmp_path_factory.mktemp("gguf") / "out"
    assert export(trained, "gguf", out) == out
    return out


def test_transformers_reads_the_file_as_the_merged_model(exported, trained):
    # Another reader of GGUF, with its own table of names and its own order of rows.
    assert sorted(path.name for path in exported.iterdir()) == ["Modelfile", "model.gguf"]
    tokenizer = load_tokenizer("demo")
    ids = tokenizer.apply_chat_template(CHAT, return_dict=True, return_tensors="pt")["input_ids"]
    again = AutoModelForCausalLM.from_pretrained(exported, gguf_file="model.gguf", dtype=torch.float32)
    want = logps(merged(trained), ids)
    torch.testing.assert_close(logps(again, ids), want, rtol=1e-4, atol=1e-4)
    read = AutoTokenizer.from_pretrained(exported, gguf_file="model.gguf")
    text = "A hedgehog's legs: four, né? 好 <|end|>"
    assert read(text)["input_ids"] == tokenizer(text)["input_ids"]


def test_the_file_says_what_the_model_is(exported):
    fields = GGUFReader(exported / "model.gguf").fields
    said = {name: field.contents() for name, field in fields.items()}
    assert said["general.architecture"] == "llama" and said["tokenizer.ggml.pre"] == "gpt-2"
    assert said["llama.attention.head_count"] == 4 and said["llama.attention.head_count_kv"] == 2
    assert said["llama.rope.dimension_count"] == 24 and said["llama.rope.freq_base"] == 10000
    assert said["tokenizer.ggml.tokens"][:2] == ["<|pad|>", "<|end|>"] and said["tokenizer.ggml.eos_token_id"] == 1
    assert said["tokenizer.ggml.token_type"][:6] == [3, 3, 3, 3, 3, 1]  # 3 is control, 1 is normal
    assert said["tokenizer.chat_template"] == load_tokenizer("demo").chat_template
    names = {tensor.name for tensor in GGUFReader(exported / "model.gguf").tensors}
    assert "output.weight" not in names and "token_embd.weight" in names and "blk.3.ffn_down.weight" in names


@pytest.mark.parametrize("kind", ["llama", "mistral-window", "qwen3"])
def test_random_models_of_other_shapes_come_back_whole(kind, tmp_path):
    config = CONFIGS[kind]()
    config.vocab_size = 1100  # larger than the tokenizer's 1024, as with padded vocabularies
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    write_gguf(model, load_tokenizer("demo"), tmp_path / "model.gguf", name="tiny")
    # transformers does not read Qwen3's head_dim from the file.
    given = {"config": config} if kind == "qwen3" else {}
    again = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="model.gguf", dtype=torch.float32, **given)
    ids = torch.randint(5, 1000, (1, 6), generator=torch.Generator().manual_seed(0))  # within the sliding window
    torch.testing.assert_close(logps(again, ids), logps(model, ids), rtol=1e-4, atol=1e-4)
    fields = GGUFReader(tmp_path / "model.gguf").fields
    (length,) = (field.contents() for name, field in fields.items() if name.endswith(".context_length"))
    assert length == (6 if kind == "mistral-window" else 256)


def test_sixteen_bit_models_stay_so(tmp_path):
    config = CONFIGS["llama"]()
    config.vocab_size = 1024
    model = AutoModelForCausalLM.from_config(config).to(torch.bfloat16)
    write_gguf(model, load_tokenizer("demo"), tmp_path / "model.gguf", name="tiny")
    kinds = {t.name: t.tensor_type.name for t in GGUFReader(tmp_path / "model.gguf").tensors}
    assert kinds["blk.0.attn_q.weight"] == "F16" and kinds["blk.0.attn_norm.weight"] == "F32"


def test_llama_3_slows_its_low_frequencies():
    rope = dict(
        rope_type="llama3",
        rope_theta=500000.0,
        factor=8.0,
        low_freq_factor=1.0,
        high_freq_factor=4.0,
        original_max_position_embeddings=8192,
    )
    config = LlamaConfig(**{**CONFIGS["llama"]().to_dict(), "rope_parameters": rope, "head_dim": 64})
    factors = _rope_factors(AutoModelForCausalLM.from_config(config), config)
    assert factors.shape == (32,)
    # Wavelength 2π · θ^(2i/64): those under 8192/4 tokens stay, those over 8192/1 tokens are 8 times slower.
    for i, factor in enumerate(factors.tolist()):
        wavelength = 2 * torch.pi * 500000 ** (2 * i / 64)
        if wavelength < 8192 / 4:
            assert factor == pytest.approx(1, rel=1e-5)
        elif wavelength > 8192:
            assert factor == pytest.approx(8, rel=1e-5)
        else:
            assert 1 < factor < 8


def test_what_can_not_be_written_is_one_sentence_with_a_way_out(tmp_path):
    way_out = "Export it as `merged`, and give that folder to llama.cpp's convert_hf_to_gguf.py."
    with pytest.raises(RunError) as caught:
        write_gguf(tiny_model("gpt2"), load_tokenizer("demo"), tmp_path / "a.gguf", name="a")
    assert str(caught.value).startswith("Can't write this model as GGUF: models of type 'gpt2' are not among")
    assert str(caught.value).endswith(way_out) and not list(tmp_path.iterdir())
    from tiny_models import tiny_tokenizer

    with pytest.raises(RunError, match="its tokenizer is none of the byte-level ones"):
        write_gguf(tiny_model("llama"), tiny_tokenizer(), tmp_path / "a.gguf", name="a")


def test_ways_to_cut_text_are_known_by_their_patterns():
    from tokenizers import Regex, pre_tokenizers

    tokenizer = load_tokenizer("demo")
    assert cut_of(tokenizer) == "gpt-2"
    words = (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
        r"|\s+(?!\S)|\s+"
    )
    for pattern, name in ((words, "llama-bpe"), (words.replace("{1,3}", ""), "qwen2"), (r"\d+", None)):
        split = pre_tokenizers.Split(Regex(pattern), "isolated")
        last = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, last])
        assert cut_of(tokenizer) == name


# Ollama


def spell(template, messages):
    """What Ollama makes of the few words of its template language that are used here: text between actions is kept."""
    assert "{{-" not in template and "-}}" not in template  # those trim white space
    beginning, rest = template.split("{{ range .Messages }}{{ ")
    body, ending = rest.rsplit("{{ end }}{{ end }}", 1)
    around = {}
    for branch in body.split("{{ else "):
        role, text = re.fullmatch(r'if eq .Role "(\w+)" }}(.*)', branch, re.DOTALL).groups()
        around[role] = text
    return beginning + "".join(around[m["role"]].replace("{{ .Content }}", m["content"]) for m in messages) + ending


@pytest.mark.parametrize(
    "jinja",
    [
        None,  # the demo's own
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
        "<s>{% for m in messages %}{% if m['role'] == 'assistant' %}A: {{ m['content'] }}</s>"
        "{% else %}[{{ m['role'] }}] {{ m['content'] }}\n{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}A: {% endif %}",
    ],
)
def test_a_chat_template_becomes_ollamas_own(jinja):
    tokenizer = load_tokenizer("demo")
    tokenizer.chat_template = jinja or tokenizer.chat_template
    template = ollama_template(tokenizer)
    chat = [{"role": "system", "content": "Be kind."}, *CHAT, {"role": "user", "content": "And\nan owl?"}]
    want = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    assert spell(template, chat) == want


def test_a_template_that_does_more_is_left_to_ollama(exported):
    tokenizer = load_tokenizer("demo")
    tokenizer.chat_template = (  # a system prompt of its own, as Qwen 2.5 has it
        "{% if messages[0]['role'] != 'system' %}<|system|>You are helpful.<|end|>{% endif %}" + tokenizer.chat_template
    )
    assert ollama_template(tokenizer) is None
    lines = (exported / "Modelfile").read_text().splitlines()
    assert lines[:3] == ["FROM ./model.gguf", "PARAMETER temperature 0.7", 'PARAMETER stop "<|end|>"']
    assert lines[3].startswith('TEMPLATE """{{ range .Messages }}{{ if eq .Role "system" }}<|system|>')
    assert json.loads(lines[2].split(" ", 2)[2]) == "<|end|>"
