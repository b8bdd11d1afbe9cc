"""A model as one GGUF file for llama.cpp, LM Studio and Ollama, and Ollama's Modelfile beside it.

Held are decoders of the Llama shape (Llama, Mistral, Qwen2, Qwen3) with a byte-level BPE tokenizer whose way of cutting
text llama.cpp knows by name; for all others its own converter (convert_hf_to_gguf.py) takes an exported merged model.

Layout and names: the GGUF specification and the gguf package's tables.
"""

import contextlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, PretrainedConfig, PreTrainedTokenizerBase

from kto_workbench.errors import RunError
from kto_workbench.feedback.rendering import model_path
from kto_workbench.feedback.templates import turn_end

# transformers' model_type → llama.cpp's architecture.
ARCHITECTURES = {"llama": "llama", "mistral": "llama", "qwen2": "qwen2", "qwen3": "qwen3"}
# llama.cpp's name for a way of cutting text into words, by the pattern in tokenizer.json ("" for ByteLevel's own).
_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
CUTS = {"": "gpt-2", _WORDS % r"\p{N}{1,3}": "llama-bpe", _WORDS % r"\p{N}": "qwen2"}


def check_supported(model: str, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise RunError, which names another way, if this module can't write a model; loads its config alone."""
    _check(AutoConfig.from_pretrained(model_path(model), trust_remote_code=False).get_text_config(), tokenizer)


def _check(config: PretrainedConfig, tokenizer: PreTrainedTokenizerBase) -> None:
    reason = ""
    if config.model_type not in ARCHITECTURES:
        reason = f"models of type {config.model_type!r} are not among those written here ({', '.join(ARCHITECTURES)})"
    elif _rope(config)["rope_type"] not in ("default", "linear", "llama3"):
        reason = f"its rotary embedding is scaled in a way ({_rope(config)['rope_type']}) that is not written here"
    elif cut_of(tokenizer) is None:
        reason = "its tokenizer is none of the byte-level ones that are written here"
    if reason:
        raise RunError(
            f"Can't write this model as GGUF: {reason}. Export it as `merged`, and give that folder to llama.cpp's "
            "convert_hf_to_gguf.py."
        )


def cut_of(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """llama.cpp's name for how a tokenizer cuts text into words; None if it is no byte-level BPE that it knows."""
    described = _described(tokenizer)
    steps = described.get("pre_tokenizer") or {}
    steps = steps.get("pretokenizers", [steps])
    if described.get("model", {}).get("type") != "BPE" or described.get("normalizer") not in (None, {"type": "NFC"}):
        return None
    if not steps or steps[-1].get("type") != "ByteLevel" or steps[-1].get("add_prefix_space"):
        return None
    if len(steps) == 1 and steps[0].get("use_regex", True):
        return CUTS[""]
    if len(steps) == 2 and steps[0].get("type") == "Split" and not steps[1].get("use_regex", True):
        return CUTS.get(steps[0]["pattern"].get("Regex"))
    return None


def write_gguf(model: nn.Module, tokenizer: PreTrainedTokenizerBase, path: Path, *, name: str) -> None:
    """Write a whole model, without an adapter, and its tokenizer.

    Args:
        model: a causal language model on the CPU; matrices are kept in float32 if it is in float32, else in float16.
        tokenizer: of the model.
        path: the file to write.
        name: what the file calls the model.

    Raises:
        RunError: this model can't be written here.
    """
    from gguf import GGUFWriter, LlamaFileType

    config = model.config.get_text_config()
    _check(config, tokenizer)
    whole = model.dtype == torch.float32
    writer = GGUFWriter(path, ARCHITECTURES[config.model_type], use_temp_file=True)
    try:
        writer.add_name(name)
        writer.add_file_type(LlamaFileType.ALL_F32 if whole else LlamaFileType.MOSTLY_F16)
        _add_sizes(writer, config)
        _add_tokenizer(writer, tokenizer, config.vocab_size)
        for tensor_name, tensor in _tensors(model, config):
            matrix = tensor.ndim > 1 and not whole
            writer.add_tensor(tensor_name, tensor.to(torch.float16 if matrix else torch.float32).numpy())
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    finally:  # a full disk leaves both files open, with something in them that can't be written
        for file in (writer.temp_file, *(writer.fout or ())):
            with contextlib.suppress(OSError):
                if file:
                    file.close()


def _rope(config: PretrainedConfig) -> dict[str, Any]:
    found = dict(getattr(config, "rope_parameters", None) or {})
    return {"rope_type": "default", "rope_theta": 10000.0} | found


def _head_dim(config: PretrainedConfig) -> int:
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def _add_sizes(writer: Any, config: PretrainedConfig) -> None:
    from gguf import RopeScalingType

    rope = _rope(config)
    writer.add_block_count(config.num_hidden_layers)
    # llama.cpp's `llama` knows no sliding window: up to its length the two compute the same.
    window = getattr(config, "sliding_window", None) or config.max_position_embeddings
    writer.add_context_length(min(window, config.max_position_embeddings))
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(_head_dim(config))
    writer.add_value_length(_head_dim(config))
    writer.add_rope_dimension_count(_head_dim(config))
    writer.add_rope_freq_base(rope["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    if rope["rope_type"] == "linear":
        writer.add_rope_scaling_type(RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(rope["factor"])


def _add_tokenizer(writer: Any, tokenizer: PreTrainedTokenizerBase, vocabulary: int) -> None:
    from gguf import TokenType

    described = _described(tokenizer)
    tokens = [f"[PAD{i}]".encode() for i in range(vocabulary)]
    types = [TokenType.UNUSED] * vocabulary
    for token, number in described["model"]["vocab"].items():
        tokens[number], types[number] = token.encode(), TokenType.NORMAL
    for added in described.get("added_tokens", ()):
        tokens[added["id"]] = added["content"].encode()
        types[added["id"]] = TokenType.CONTROL if added["special"] else TokenType.USER_DEFINED
    merges = [m if isinstance(m, str) else " ".join(m) for m in described["model"]["merges"]]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(cut_of(tokenizer))
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges(merges)
    for kind in ("bos", "eos", "pad", "unk"):
        number = getattr(tokenizer, f"{kind}_token_id")
        if number is not None:
            getattr(writer, f"add_{kind}_token_id")(number)
    first = tokenizer("a")["input_ids"][0]
    writer.add_add_bos_token(tokenizer.bos_token_id is not None and first == tokenizer.bos_token_id)
    if isinstance(tokenizer.chat_template, str):
        writer.add_chat_template(tokenizer.chat_template)


def _tensors(model: nn.Module, config: PretrainedConfig) -> Sequence[tuple[str, Tensor]]:
    """Every tensor under its name in the file."""
    from gguf import MODEL_ARCH, get_tensor_name_map

    architecture = ARCHITECTURES[config.model_type]
    kind = next(number for number in MODEL_ARCH if number.name.lower() == architecture)
    names = get_tensor_name_map(kind, config.num_hidden_layers)
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    found = []
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue  # llama.cpp takes the embedding
        there = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if there is None:
            raise RunError(f"Can't write this model as GGUF: nobody has named a place for its tensor {name}.")
        projection = name.split(".")[-2]
        if architecture == "llama" and projection in heads:
            tensor = _pairs_beside_each_other(tensor, heads[projection])
        found.append((there, tensor.detach()))
    if _rope(config)["rope_type"] == "llama3":
        found.append(("rope_freqs.weight", _rope_factors(model, config)))
    return found


def _pairs_beside_each_other(weight: Tensor, heads: int) -> Tensor:
    """[heads · d, …] rows of queries or keys in the order of llama.cpp's rotation.

    transformers rotates element i of a head with i + d / 2, llama.cpp's `llama` turns neighbours.
    """
    halves = weight.reshape(heads, 2, weight.shape[0] // heads // 2, *weight.shape[1:])
    return halves.swapaxes(1, 2).reshape(weight.shape).contiguous()


def _rope_factors(model: nn.Module, config: PretrainedConfig) -> Tensor:
    """[d / 2] by how much Llama 3 slows each frequency down."""
    exponents = torch.arange(0, _head_dim(config), 2, dtype=torch.float32) / _head_dim(config)
    return _rope(config)["rope_theta"] ** -exponents / model.get_decoder().rotary_emb.inv_freq.float()


def _described(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """What tokenizer.json says."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    return json.loads(backend.to_str()) if backend is not None else {}


# Ollama


def write_modelfile(tokenizer: PreTrainedTokenizerBase, path: Path, *, temperature: float) -> None:
    """Write a Modelfile for model.gguf beside it: `ollama create NAME -f Modelfile`."""
    lines = ["FROM ./model.gguf", f"PARAMETER temperature {temperature:g}"]
    stops = dict.fromkeys(filter(None, (tokenizer.eos_token, turn_end(tokenizer) if tokenizer.chat_template else "")))
    lines += [f"PARAMETER stop {json.dumps(stop, ensure_ascii=False)}" for stop in stops]
    template = ollama_template(tokenizer)
    if template:
        lines.append(f'TEMPLATE """{template}"""')
    elif tokenizer.chat_template:
        lines.append("# The chat template is more than roles and texts in a row; Ollama goes by the one in model.gguf.")
    else:
        lines.append('TEMPLATE """{{ .Prompt }}"""')
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def ollama_template(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """The chat template in Ollama's words, if all that it does is to put something before and behind each message.

    Found by rendering messages of one letter, and checked on whole conversations; None where those come out otherwise.
    """
    if not tokenizer.chat_template:
        return None
    roles = ("system", "user", "assistant")

    def render(turns: Sequence[tuple[str, str]], answer: bool = False) -> str:
        messages = [{"role": role, "content": text} for role, text in turns]
        return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=answer)

    mark = "\u2402"  # in nobody's template
    try:
        # What a role puts around its text is what one more message of it adds.
        asked, answered = (render([("user", mark), ("assistant", mark)][:n]) for n in (1, 2))
        again = render([("user", mark), ("assistant", mark), ("user", mark)])
        around = {"user": again.removeprefix(answered), "assistant": answered.removeprefix(asked)}
        beginning = asked.removesuffix(around["user"])
        with_system = render([("system", mark), ("user", mark)])
        around["system"] = with_system.removeprefix(beginning).removesuffix(around["user"])
        ending = render([("user", mark)], answer=True).removeprefix(asked)
    except Exception:  # a template may refuse any of these, in its author's words
        return None
    if any(around[role].count(mark) != 1 for role in roles) or mark in beginning + ending:
        return None

    def spelled(turns: Sequence[tuple[str, str]]) -> str:
        return beginning + "".join(around[role].replace(mark, text) for role, text in turns) + ending

    checks = [[("user", "a b")], [("system", "x"), ("user", "y")]]
    checks.append([("system", "x"), ("user", "y"), ("assistant", "z"), ("user", "w\nv")])
    try:
        if any(spelled(turns) != render(turns, answer=True) for turns in checks):
            return None
    except Exception:
        return None
    # Texts that Ollama would obey: the end of the template, and what follows it in the file; an action of its own.
    texts = [beginning, ending, *(text for role in roles for text in around[role].split(mark))]
    if any('"""' in text or "{{" in text or text.endswith("{") for text in texts):
        return None
    # No "{{-": it would take the white space before it away, which belongs to the template.
    each = "{{ else ".join(f'if eq .Role "{role}" }}}}{around[role].replace(mark, "{{ .Content }}")}' for role in roles)
    return f"{beginning}{{{{ range .Messages }}}}{{{{ {each}{{{{ end }}}}{{{{ end }}}}{ending}"
