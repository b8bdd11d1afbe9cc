"""The fused LoRA layers against peft's own."""

import pytest
import torch
from test_scoring import make_pairs, score_and_backward
from tiny_models import tiny_lora, tiny_model

from kto_workbench.config import KTOConfig
from kto_workbench.engine.fused_lora import FusedLoraLinear, fuse
from kto_workbench.engine.models import adapter_off, add_lora, checkpoint_activations
from kto_workbench.engine.scoring import make_scorer


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("kind", ["llama", "qwen3", "gemma2"])
def test_fused_equals_peft(kind, checkpointing):
    model = tiny_lora(kind)
    if checkpointing:
        checkpoint_activations(model)
    pairs, mismatched = make_pairs()
    want, want_kl, want_gradients = score_and_backward(make_scorer(model), pairs, mismatched)
    assert fuse(model) == 3 * 7  # three layers: q, k, v, o, gate, up, down
    got, got_kl, got_gradients = score_and_backward(make_scorer(model), pairs, mismatched)
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


def test_under_autocast_in_its_own_dtype_it_stays_fused():
    # A bfloat16 adapter on a bfloat16 model, as on a GPU: autocast has nothing to change there.
    model = add_lora(tiny_model("llama").bfloat16(), KTOConfig(model="tiny", lora_r=4, adapter_dtype="bfloat16"))
    pairs, _ = make_pairs()
    calls = []
    original = FusedLoraLinear.__bases__[0].forward
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FusedLoraLinear.__bases__[0], "forward", lambda *a, **k: (calls.append(1), original(*a, **k))[1])
        with torch.autocast("cpu", torch.bfloat16):
            make_scorer(model).score(pairs).logps.sum().backward()
    assert not calls
    trained = [p for p in model.parameters() if p.requires_grad]
    assert all(p.grad is not None and p.grad.dtype == torch.bfloat16 for p in trained)


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
