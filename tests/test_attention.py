"""Attention that no kernel computes, a part of the queries at a time; grouped heads that a kernel has no place for."""

import pytest
import torch
from test_scoring import make_pairs, score_and_backward
from tiny_models import tiny_lora

from kto_workbench.engine import attention
from kto_workbench.engine.memory import peak_bytes
from kto_workbench.engine.scoring import PaddedScorer, make_scorer

CPU = torch.device("cpu")


def one_head_at_a_time(q, k, v, mask, softcap, sinks):
    """Softmax attention by its definition, in float64."""
    out = torch.empty_like(q, dtype=torch.float64)
    for b in range(q.shape[0]):
        for h in range(q.shape[1]):
            group = h * k.shape[1] // q.shape[1]
            scores = q[b, h].double() @ k[b, group].double().T / q.shape[-1] ** 0.5
            if softcap is not None:
                scores = softcap * torch.tanh(scores / softcap)
            weights = torch.where(mask, scores, -torch.inf).exp()
            nothing = 0 if sinks is None else sinks[h].double().exp()
            out[b, h] = weights / (weights.sum(-1, keepdim=True) + nothing) @ v[b, group].double()
    return out


@pytest.mark.parametrize(("softcap", "sinks"), [(2.0, False), (None, True), (2.0, True)])
@pytest.mark.parametrize("n_q", [11, 4])
@pytest.mark.parametrize(("scores", "kept"), [(1, 10**6), (100, 10**6), (10**6, 10**6), (10**6, 0)])
def test_parts_of_the_queries_make_the_whole(monkeypatch, scores, kept, n_q, softcap, sinks):
    monkeypatch.setattr(attention, "SCORES", scores)
    monkeypatch.setattr(attention, "KEPT_SCORES", kept)
    torch.manual_seed(0)
    q, k, v = torch.randn(2, 4, n_q, 8), torch.randn(2, 2, 11, 8), torch.randn(2, 2, 11, 8)
    sink = torch.randn(4) if sinks else None
    mask = torch.ones(n_q, 11, dtype=torch.bool).tril(11 - n_q)
    given = [t.requires_grad_() for t in (q, k, v, *([sink] if sinks else []))]
    causal = n_q == 11
    got = attention._attend(q, k, v, None if causal else mask, causal, None, softcap, sink)
    want = one_head_at_a_time(q, k, v, mask, softcap, sink)
    torch.testing.assert_close(got, want.float(), rtol=1e-5, atol=1e-5)
    weights = torch.randn(got.shape)
    found, wanted = torch.autograd.grad(got, given, weights), torch.autograd.grad(want, given, weights.double())
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b.float(), rtol=1e-4, atol=1e-5)


def test_a_model_scores_the_same_in_parts(monkeypatch):
    pairs, mismatched = make_pairs()
    results = []
    for scores in (2**22, 16):
        monkeypatch.setattr(attention, "SCORES", scores)
        model = tiny_lora("gemma2")
        scorer = make_scorer(model)
        assert scorer.name == "packed"
        results.append(score_and_backward(scorer, pairs, mismatched))
        results.append(score_and_backward(PaddedScorer(model), pairs, mismatched))
    (want, want_kl, gradients), *others = results
    for got, got_kl, found in others:
        torch.testing.assert_close(got.logps, want.logps, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(got_kl, want_kl, rtol=1e-5, atol=1e-5)
        assert all((found[name] - g).norm() <= 1e-4 * g.norm() for name, g in gradients.items())


def test_memory_no_longer_grows_with_the_square_of_the_length(monkeypatch):
    def peak(length):
        q, k, v = (torch.randn(1, 4, length, 8, requires_grad=True) for _ in range(3))
        return peak_bytes(lambda: attention._attend(q, k, v, None, True, None, 5.0, None).sum().backward(), CPU)

    monkeypatch.setattr(attention, "SCORES", 2**13)
    assert peak(512) < 2.5 * peak(256)
    monkeypatch.setattr(attention, "SCORES", 2**30)
    monkeypatch.setattr(attention, "KEPT_SCORES", 2**30)
    assert peak(512) > 3.5 * peak(256)


def test_scores_of_many_sequences_are_not_kept_for_the_backward_pass():
    # 4 heads, 512 tokens: 2^20 scores of 4 bytes, which are computed at once, but not kept. Kept are 3 · 4 · 512 · 8
    # numbers of 4 bytes of queries, keys and values, and a mask of 512² bytes.
    q, k, v = (torch.randn(1, 4, 512, 8, requires_grad=True) for _ in range(3))
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.nbytes) or t, lambda t: t):
        attention._attend(q, k, v, None, True, None, 5.0, None)
    assert sum(kept) == 3 * 4 * 512 * 8 * 4 + 512**2


def test_grouped_heads_are_repeated_where_a_gpu_would_have_all_scores_at_once(monkeypatch):
    half, single = torch.bfloat16, torch.float32
    takes = attention._takes_groups
    assert takes("cpu", single, masked=True) and takes("cuda", half, masked=False)
    assert not takes("cuda", single, masked=False) and not takes("cuda", half, masked=True)

    pairs, mismatched = make_pairs()
    model = tiny_lora("mistral-window")
    want, want_kl, gradients = score_and_backward(make_scorer(model), pairs, mismatched)
    asked = []
    monkeypatch.setattr(attention, "_takes_groups", lambda *_, **__: asked.append(1))
    got, got_kl, found = score_and_backward(make_scorer(model), pairs, mismatched)
    assert asked
    torch.testing.assert_close(got.logps, want.logps, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(got_kl, want_kl, rtol=1e-5, atol=1e-5)
    assert all((found[name] - g).norm() <= 1e-4 * g.norm() for name, g in gradients.items())
