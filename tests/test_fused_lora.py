"""The fused LoRA layers against peft's own."""

import pytest
import torch
from peft.tuners.lora import Linear as LoraLinear
from test_scoring import make_pairs, score_and_backward
from tiny_models import tiny_lora, tiny_model

from kto_workbench.config import KTOConfig
from kto_workbench.engine.fused_lora import FusedLoraLinear, fuse, unfuse
from kto_workbench.engine.models import adapter_off, add_lora, checkpoint_activations
from kto_workbench.engine.scoring import PackedScorer, PaddedScorer, make_scorer


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("kind", ["llama", "qwen3", "gemma2"])
def test_fused_equals_peft(kind, checkpointing):
    model = tiny_lora(kind)
    if checkpointing:
        checkpoint_activations(model)
    pairs, mismatched = make_pairs()
    scorer = make_scorer(model)
    assert unfuse(model) == 3 * 7  # three layers: q, k, v, o, gate, up, down
    want, want_kl, want_gradients = score_and_backward(scorer, pairs, mismatched)
    assert fuse(model) == 3 * 7
    got, got_kl, got_gradients = score_and_backward(scorer, pairs, mismatched)
    torch.testing.assert_close(got.logps, want.logps, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(got_kl, want_kl, rtol=1e-5, atol=1e-5)
    assert got_gradients.keys() == want_gradients.keys()
    for name, gradient in want_gradients.items():
        assert (got_gradients[name] - gradient).norm() <= 1e-5 * gradient.norm(), name


def test_bias_and_gradient_against_autograd():
    from kto_workbench.engine.fused_lora import _FusedLora

    torch.manual_seed(0)
    x, w, bias, a, b = (torch.randn(*s, dtype=torch.float64) for s in ((2, 5, 4), (3, 4), (3,), (2, 4), (3, 2)))
    x, a, b = (t.requires_grad_() for t in (x, a, b))
    assert torch.autograd.gradcheck(lambda x, a, b: _FusedLora.apply(x, w, bias, a, b, 0.7), (x, a, b))
    torch.testing.assert_close(_FusedLora.apply(x, w, bias, a, b, 0.7), x @ w.T + bias + 0.7 * x @ a.T @ b.T)


@pytest.mark.parametrize("scorer_type", [PackedScorer, PaddedScorer])
@pytest.mark.parametrize("adapter_dtype", [torch.float32, torch.bfloat16])
def test_on_a_bfloat16_model_the_adapter_computes_in_bfloat16(monkeypatch, adapter_dtype, scorer_type):
    def score(dtype):
        model = tiny_lora("llama").bfloat16()
        for p in model.parameters():
            if p.requires_grad:
                p.data = p.data.to(dtype)  # what they hold fits into bfloat16
        fuse(model)
        pairs, _ = make_pairs()
        logps = scorer_type(model).score(pairs).logps
        logps.sum().backward()
        return logps, {name: p.grad for name, p in model.named_parameters() if p.requires_grad}

    def refuse(*_, **__):
        raise AssertionError("peft's own forward was called")

    monkeypatch.setattr(LoraLinear, "forward", refuse)
    want, want_gradients = score(torch.bfloat16)
    got, gradients = score(adapter_dtype)
    assert torch.equal(got, want)
    assert {g.dtype for g in gradients.values()} == {adapter_dtype}
    assert all(torch.equal(g, want_gradients[name].to(g.dtype)) for name, g in gradients.items())


def test_what_a_layer_keeps_of_its_input_is_one_copy_in_the_model_s_dtype():
    model = add_lora(tiny_model("llama").bfloat16(), KTOConfig(model="tiny", lora_r=4))
    (layer,) = [m for name, m in model.named_modules() if name.endswith("layers.0.mlp.up_proj")]
    x = torch.randn(5, 32, dtype=torch.bfloat16, requires_grad=True)
    kept = []
    with (
        torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t),
        torch.autocast("cpu", torch.bfloat16),
    ):
        layer(x)
    inputs = [t for t in kept if t.shape == x.shape]
    assert [t.data_ptr() for t in inputs] == [x.data_ptr()] and inputs[0].dtype == torch.bfloat16


def test_adapter_off_is_the_base_and_dropout_is_peft_s():
    model, base = tiny_lora("llama"), tiny_model("llama")
    fuse(model)
    pairs, _ = make_pairs()
    with torch.no_grad():
        with adapter_off(model):
            torch.testing.assert_close(make_scorer(model).score(pairs).logps, make_scorer(base).score(pairs).logps)
        dropping = tiny_lora("llama", lora_dropout=0.5)
        fuse(dropping)
        scorer = make_scorer(dropping)
        assert not torch.equal(scorer.score(pairs).logps, scorer.score(pairs).logps)


def test_every_new_adapter_is_fused_and_still_peft_s_to_save_and_merge(tmp_path):
    model = add_lora(tiny_model("llama"), KTOConfig(model="tiny", lora_r=4))
    assert sum(isinstance(m, FusedLoraLinear) for m in model.modules()) == 3 * 7
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.1)
    pairs, _ = make_pairs()
    with torch.no_grad():
        want = make_scorer(model).score(pairs).logps
    model.save_pretrained(tmp_path)

    from peft import PeftModel

    again = PeftModel.from_pretrained(tiny_model("llama"), str(tmp_path)).train()
    with torch.no_grad():
        torch.testing.assert_close(make_scorer(again).score(pairs).logps, want, rtol=1e-5, atol=1e-5)
        merged = make_scorer(model.merge_and_unload()).score(pairs).logps
    torch.testing.assert_close(merged, want, rtol=1e-5, atol=1e-5)
