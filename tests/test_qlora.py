"""QLoRA with the real bitsandbytes on a CPU: NF4, double quantization, and a trap that corrupts training silently."""

import json
import warnings

import pytest
import torch
from bitsandbytes.nn import Linear4bit
from peft.tuners.lora.bnb import Linear4bit as Lora4bit
from safetensors.torch import load_file
from test_scoring import make_pairs
from tiny_models import VOCABULARY, tiny_tokenizer
from transformers import AutoModelForCausalLM, LlamaConfig

from kto_workbench import train
from kto_workbench.answers.export import export
from kto_workbench.config import KTOConfig
from kto_workbench.engine.fused_lora import FusedLora4bit
from kto_workbench.engine.generation import generate
from kto_workbench.engine.models import adapter_off, add_lora, check_not_repacked, load_model
from kto_workbench.engine.scoring import PackedScorer, PaddedScorer, make_scorer
from kto_workbench.errors import ConfigError, ModelError

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model whose layers are wide enough to be quantized in blocks of 64."""
    path = tmp_path_factory.mktemp("qlora")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=128, intermediate_size=256, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, bos_token_id=1, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.08)
    model.save_pretrained(path)
    tiny_tokenizer().save_pretrained(path)
    return path


@pytest.fixture
def model(folder):
    config = KTOConfig(model=str(folder), load_in_4bit=True, lora_r=4)
    model = add_lora(load_model(str(folder), device=CPU, dtype=torch.float32, load_in_4bit=True), config)
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.1)
    return model


def gradient(scorer):
    pairs, mismatched = make_pairs()
    scorer.model.zero_grad()
    scores, _ = scorer.score_both(pairs, mismatched)
    scores.logps.sum().backward()
    return torch.cat([p.grad.flatten() for p in scorer.model.parameters() if p.grad is not None])


def test_weights_are_nf4_with_double_quantization(model):
    states = [m.weight.quant_state for m in model.modules() if isinstance(m, Linear4bit)]
    assert len(states) == 2 * 7 and all(s.quant_type == "nf4" and s.nested for s in states)


def test_fused_equals_peft_in_4_bits(model):
    layers = [m for m in model.modules() if isinstance(m, FusedLora4bit)]
    assert len(layers) == 2 * 7
    got = gradient(make_scorer(model))
    for layer in layers:
        layer.__class__ = Lora4bit
    want = gradient(make_scorer(model))
    assert (got - want).norm() <= 1e-5 * want.norm()


def test_fused_in_bfloat16_keeps_float32_gradients(folder, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("peft's own forward was called")

    config = KTOConfig(model=str(folder), load_in_4bit=True, lora_r=4)
    model = add_lora(load_model(str(folder), device=CPU, dtype=torch.bfloat16, load_in_4bit=True), config)
    scorer = make_scorer(model)
    monkeypatch.setattr(Lora4bit, "forward", refuse)
    assert gradient(scorer).dtype == torch.float32


def test_packed_equals_padded_in_4_bits(model):
    packed = make_scorer(model)
    assert type(packed) is PackedScorer
    a, b = gradient(packed), gradient(PaddedScorer(model))
    assert (a - b).norm() <= 1e-5 * b.norm()


def test_passes_without_gradient_leave_training_as_it_was(model):
    # bitsandbytes 0.50 repacks a layer in eval mode that sees an input without gradient, on CPUs with AVX512-BF16; the
    # next backward then goes astray without an error (here: 60 % off). So everything runs in train mode.
    scorer = make_scorer(model)
    before = gradient(scorer)
    pairs, mismatched = make_pairs()
    with torch.no_grad():
        scorer.score_both(pairs, mismatched)
    generate(model, tiny_tokenizer(), ["the cat"], max_new_tokens=4)
    with adapter_off(model):
        generate(model, tiny_tokenizer(), ["the cat"], max_new_tokens=4)
    assert model.training
    check_not_repacked(model)
    assert torch.equal(gradient(scorer), before)


def test_the_trap_is_noticed(model):
    scorer = make_scorer(model)
    pairs, _ = make_pairs()
    model.eval()
    with torch.no_grad():
        scorer.score(pairs)
    model.train()
    repacked = any(
        getattr(m.quant_state, "packing_format_for_cpu", False) for m in model.modules() if isinstance(m, Linear4bit)
    )
    if not repacked:
        pytest.skip("this CPU has no AVX512-BF16, where bitsandbytes repacks")
    with pytest.raises(ModelError, match="repacked"):
        check_not_repacked(model)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_4_bit_run_learns(folder, tmp_path, dtype):
    data = tmp_path / "thumbs.jsonl"
    rows = [
        {"prompt": f"{who} {what}", "completion": "good yes" if up else "bad no", "label": up}
        for who in ("the cat", "the dog", "the sun", "a tree")
        for what in ("sat", "ran")
        for up in (True, False)
    ]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = KTOConfig(
        model=str(folder), data=str(data), workspace=str(tmp_path), load_in_4bit=True, dtype=dtype, batch_size=8,
        lora_r=4, learning_rate=5e-3, num_train_epochs=6, eval_fraction=0, sample_steps=-1, device="cpu", max_length=64,
    )  # fmt: skip
    run = train(config, progress=False)
    records = [r for r in run.metrics() if "loss" in r]
    assert records[-1]["rewards/margins"] > records[0]["rewards/margins"] + 0.05
    assert records[-1]["loss"] < records[0]["loss"]

    # Exported whole, the adapter is merged into the full weights, not into the rounded ones: W + alpha / r · B A.
    base = AutoModelForCausalLM.from_pretrained(folder).state_dict()
    got = AutoModelForCausalLM.from_pretrained(export(run, "merged")).state_dict()
    adapter = load_file(run.adapter / "adapter_model.safetensors")
    names = [name.split(".lora_A")[0] for name in adapter if "lora_A" in name]
    assert got.keys() == base.keys() and len(names) == 2 * 7
    for name in names:
        a, b = (adapter[f"{name}.lora_{side}.weight"].float() for side in "AB")
        key = name.removeprefix("base_model.model.") + ".weight"
        torch.testing.assert_close(got[key], base[key] + config.lora_alpha / 4 * b @ a, rtol=1e-5, atol=1e-6)
        assert not torch.equal(got[key], base[key])


def test_paged_optimizer_on_a_cpu_is_refused_in_one_sentence(folder, tmp_path):
    data = tmp_path / "thumbs.jsonl"
    data.write_text(
        '{"prompt": "the", "completion": "cat", "label": true}\n' * 2
        + '{"prompt": "a", "completion": "dog", "label": 0}\n'
    )
    config = KTOConfig(
        model=str(folder),
        data=str(data),
        workspace=str(tmp_path),
        optim="paged_adamw_8bit",
        device="cpu",
        sample_steps=-1,
    )
    with warnings.catch_warnings(), pytest.raises(ConfigError, match="needs a CUDA GPU"):
        train(config, progress=False)
