"""liger-kernel's place in a model: tried against the model's own layers, taken back where it is wrong, never on a CPU.

Its kernels need a GPU, so a stand-in puts layers in plain torch where liger puts its own; tests/gpu has the real ones.
"""

import importlib.util
import sys
from types import MethodType, ModuleType

import pytest
import torch
from family_check import make_rows, oracle_logps
from tiny_models import tiny_lora
from transformers.models.llama import modeling_llama

from kto_workbench.engine.fused_kernels import find_kernels
from kto_workbench.engine.models import base_of
from kto_workbench.engine.scoring import make_scorer

GPU = torch.device("cuda")


def rotate(counted, q, k, cos, sin, unsqueeze_dim=1):
    counted.append("rotary")
    turned = []
    for x in (q, k):
        half = x.shape[-1] // 2
        other = torch.cat([-x[..., half:], x[..., :half]], dim=-1)
        turned.append(x * cos.unsqueeze(unsqueeze_dim) + other * sin.unsqueeze(unsqueeze_dim))
    return tuple(turned)


@pytest.fixture
def liger(monkeypatch):
    """A stand-in for liger: `scale` is what its norm is wrong by, `fails` where it gives up; `counted` its calls."""
    stand_in = ModuleType("liger_kernel.transformers.monkey_patch")
    stand_in.counted, stand_in.scale, stand_in.fails = [], 1.0, ""

    def norm(self, hidden):
        stand_in.counted.append("norm")
        out = hidden * (hidden.pow(2).mean(-1, keepdim=True) + self.variance_epsilon).rsqrt()
        if stand_in.fails == "backward" and out.requires_grad:
            out.register_hook(lambda grad: grad * 1.1)
        return out * self.weight * stand_in.scale

    def mlp(self, hidden):
        stand_in.counted.append("swiglu")
        return self.down_proj(torch.nn.functional.silu(self.gate_proj(hidden)) * self.up_proj(hidden))

    def apply(model, cross_entropy, fused_linear_cross_entropy):
        assert not cross_entropy and not fused_linear_cross_entropy
        if model.config.model_type != "llama":
            return
        monkeypatch.setattr(modeling_llama, "LlamaRMSNorm", object)
        modeling_llama.apply_rotary_pos_emb = lambda *args, **kwargs: rotate(stand_in.counted, *args, **kwargs)
        if stand_in.fails == "half way":
            raise AttributeError("'LlamaModel' has no such layer\nand more")
        for layer in model.model.layers:
            layer.mlp.forward = MethodType(mlp, layer.mlp)
            layer.input_layernorm.offset = 0.0
            for module in (layer.input_layernorm, layer.post_attention_layernorm):
                module.forward = MethodType(norm, module)

    stand_in._apply_liger_kernel_to_instance = apply
    for name in ("liger_kernel", "liger_kernel.transformers"):
        package = ModuleType(name)
        package.__path__, package.__spec__ = [], object()
        monkeypatch.setitem(sys.modules, name, package)
    monkeypatch.setitem(sys.modules, "liger_kernel.transformers.monkey_patch", stand_in)
    return stand_in


def left_of_it(model):
    """What there is of liger in a model."""
    own = [modeling_llama.apply_rotary_pos_emb, modeling_llama.LlamaRMSNorm]
    methods = [n for n, m in model.named_modules() if {"forward", "offset"} & vars(m).keys() and "lora" not in n]
    return [one for one in own if one.__module__ != modeling_llama.__name__], methods


def scores_of(scorer):
    pairs, mismatched = make_rows()
    scorer.model.zero_grad()
    scores, other = scorer.score_both(pairs, mismatched)
    scores.logps.sum().backward()
    return torch.cat([scores.logps.detach(), other]), {
        n: p.grad for n, p in scorer.model.named_parameters() if p.grad is not None
    }


def test_right_kernels_are_used_in_training_and_can_be_taken_back(liger):
    model = tiny_lora("llama")
    own, own_gradients = scores_of(make_scorer(model))
    kernels = find_kernels(base_of(model), GPU)
    assert left_of_it(model) == ([], []) and not liger.counted
    scorer = make_scorer(model, kernels)
    assert scorer.way == "packed, fused kernels" and kernels.on
    liger.counted.clear()
    got, gradients = scores_of(scorer)
    # Two passes (rows, and mismatched answers behind their prompts) over three layers.
    assert sorted(liger.counted) == ["norm"] * 12 + ["rotary"] * 6 + ["swiglu"] * 6
    assert torch.allclose(got, own, atol=1e-4)
    assert gradients.keys() == own_gradients.keys()
    for name, gradient in own_gradients.items():
        assert (gradients[name] - gradient).norm() <= 1e-4 * gradient.norm().clamp(min=1e-2), name
    kernels.turn(False)
    assert left_of_it(model) == ([], [])
    assert torch.equal(scores_of(scorer)[0], own)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [({"scale": 1.01}, "its log-probabilities come out"), ({"fails": "backward"}, "its gradients come out")],
)
def test_wrong_kernels_are_not_their_own_witness(liger, caplog, wrong, said):
    vars(liger).update(wrong)
    model = tiny_lora("llama")
    scorer = make_scorer(model, find_kernels(base_of(model), GPU))
    assert liger.counted  # they have been tried
    assert scorer.way == "packed" and left_of_it(model) == ([], [])
    assert f"liger-kernel is not used: packed, {said}" in caplog.text
    pairs, _ = make_rows()
    assert torch.allclose(scorer.score(pairs).logps, oracle_logps(model.eval(), pairs), atol=1e-4)


def test_kernels_that_fail_half_way_change_nothing(liger, caplog):
    liger.fails = "half way"
    model = tiny_lora("llama")
    assert find_kernels(base_of(model), GPU) is None and left_of_it(model) == ([], [])
    assert "liger-kernel is not used: 'LlamaModel' has no such layer." in caplog.text


def test_a_family_that_liger_does_not_know_and_a_cpu_go_without_a_word(liger, caplog):
    assert find_kernels(base_of(tiny_lora("gpt2")), GPU) is None
    liger.fails = "half way"
    assert find_kernels(base_of(tiny_lora("llama")), torch.device("cpu")) is None and not caplog.text


def test_without_liger_a_gpu_goes_without_a_word(monkeypatch, caplog):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert find_kernels(base_of(tiny_lora("llama")), GPU) is None and not caplog.text
