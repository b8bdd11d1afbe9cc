"""The packed scorer against its obvious twin, the padded one, over architectures."""

import random

import pytest
import torch
from tiny_models import CONFIGS, VOCABULARY, tiny_lora, tiny_model

from kto_workbench.engine.batches import Pair
from kto_workbench.engine.head import Head, has_float32_product, token_logps
from kto_workbench.engine.models import checkpoint_activations
from kto_workbench.engine.scoring import PackedScorer, PaddedScorer, make_scorer


def make_pairs(seed=0, lengths=((12, 5), (3, 9), (7, 1), (1, 4))):
    draw = random.Random(seed)
    ids = lambda n: tuple(draw.randrange(3, VOCABULARY) for _ in range(n))
    pairs = [Pair(ids(p), ids(c)) for p, c in lengths]
    return pairs, [Pair(p.prompt_ids, pairs[(i + 1) % len(pairs)].completion_ids) for i, p in enumerate(pairs)]


def score_and_backward(scorer, pairs, mismatched):
    scorer.model.zero_grad()
    scores, kl_logps = scorer.score_both(pairs, mismatched, entropy=True)
    (scores.logps * torch.linspace(-1, 2, len(pairs))).sum().backward()
    return scores, kl_logps, {n: p.grad.clone() for n, p in scorer.model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("kind", CONFIGS)
def test_packed_equals_padded(kind, checkpointing):
    model = tiny_lora(kind)
    if checkpointing:
        checkpoint_activations(model)
    pairs, mismatched = make_pairs()
    packed = make_scorer(model)
    assert type(packed) is PackedScorer
    got, got_kl, got_gradients = score_and_backward(packed, pairs, mismatched)
    want, want_kl, want_gradients = score_and_backward(PaddedScorer(model), pairs, mismatched)
    torch.testing.assert_close(got.logps, want.logps, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(got.entropy, want.entropy, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(got_kl, want_kl, rtol=1e-5, atol=1e-5)
    assert got_gradients.keys() == want_gradients.keys() and got_gradients
    for name, gradient in want_gradients.items():
        assert (got_gradients[name] - gradient).norm() <= 1e-5 * gradient.norm(), name


def test_padded_equals_one_sequence_at_a_time():
    # The twin's own twin: log-softmax of the whole model's logits, row by row, no padding anywhere.
    model = tiny_model("llama", attn_implementation="eager")
    pairs, _ = make_pairs()
    got = PaddedScorer(model).score(pairs).logps
    for pair, logp in zip(pairs, got, strict=True):
        ids = torch.tensor([pair.prompt_ids + pair.completion_ids])
        logits = model(input_ids=ids).logits[0].log_softmax(-1)
        start = len(pair.prompt_ids)
        want = sum(logits[start + t - 1, token] for t, token in enumerate(pair.completion_ids))
        torch.testing.assert_close(logp, want, rtol=1e-5, atol=1e-5)


def test_packed_sequences_do_not_see_each_other():
    model = tiny_lora("llama")
    scorer = make_scorer(model)
    pairs, _ = make_pairs()
    with torch.no_grad():
        together = scorer.score(pairs).logps
        alone = torch.cat([scorer.score([pair]).logps for pair in pairs])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", CONFIGS)
def test_every_weight_of_a_fully_tuned_model_gets_the_gradient_of_the_padded_way(monkeypatch, kind):
    from kto_workbench.engine import head as module

    monkeypatch.setitem(module.HEAD_CHUNK, "cpu", 7 * VOCABULARY)  # a few tokens a chunk
    model = tiny_model(kind).requires_grad_(True)
    pairs, _ = make_pairs()
    factors = torch.randn(len(pairs), generator=torch.Generator().manual_seed(1))
    found = []
    for scorer in (make_scorer(model), PaddedScorer(model)):
        model.zero_grad(set_to_none=True)
        scores = scorer.score(pairs)
        (scores.logps * factors).sum().backward()
        found.append((type(scorer), scores.logps.detach(), {n: p.grad for n, p in model.named_parameters()}))
    (kind_a, logps_a, got), (kind_b, logps_b, want) = found
    assert (kind_a, kind_b) == (PackedScorer, PaddedScorer)
    torch.testing.assert_close(logps_a, logps_b, rtol=1e-5, atol=1e-5)
    scale = max(g.norm() for g in want.values())
    assert got.keys() == want.keys() and any("lm_head" in n or "embed" in n or "wte" in n for n in got)
    for name, gradient in want.items():
        assert gradient is not None and got[name] is not None, name
        assert (got[name] - gradient).norm() <= 1e-5 * max(gradient.norm(), 1e-2 * scale), name


@pytest.mark.parametrize(
    "scale, softcap, bias", [(1.0, None, False), (0.25, None, True), (1.0, 3.0, False), (2.0, 5.0, True)]
)
def test_head_in_chunks_equals_log_softmax(monkeypatch, scale, softcap, bias):
    from kto_workbench.engine import head as module

    monkeypatch.setitem(module.HEAD_CHUNK, "cpu", 3 * 11)  # 3 tokens a chunk of a vocabulary of 11
    torch.manual_seed(0)
    weight = torch.randn(11, 6)
    head = Head(weight, torch.randn(11) if bias else None, scale, softcap)
    hidden, targets = torch.randn(8, 6, requires_grad=True), torch.randint(0, 11, (8,))
    logps, entropies = token_logps(head, hidden, targets, entropy=True)
    factors = torch.randn(8)
    (logps * factors).sum().backward()
    got, hidden.grad = hidden.grad, None

    distribution = head.logits(hidden).log_softmax(-1)
    want = distribution.gather(-1, targets[:, None]).squeeze(-1)
    (want * factors).sum().backward()
    torch.testing.assert_close(logps, want)
    torch.testing.assert_close(entropies, -(distribution.exp() * distribution).sum(-1))
    torch.testing.assert_close(got, hidden.grad)
    assert not entropies.requires_grad


def test_a_head_that_is_trained_says_to_the_bit_what_a_frozen_one_says():
    # So the reward before the first step is 0, and not rounding, when every weight is tuned.
    draw = torch.Generator().manual_seed(0)
    weight, hidden = torch.randn(50, 64, generator=draw), torch.randn(200, 64, generator=draw)
    targets = torch.randint(0, 50, (200,), generator=draw)
    frozen, _ = token_logps(Head(weight), hidden, targets)
    trained, _ = token_logps(Head(weight.clone().requires_grad_()), hidden, targets)
    assert trained.requires_grad and not frozen.requires_grad and torch.equal(frozen, trained)


def bfloat16_head():
    """A head and hidden states whose logits lie between −30 and 30, where bfloat16's steps are an eighth."""
    draw = torch.Generator().manual_seed(0)
    weight = torch.randn(50, 64, generator=draw).bfloat16()
    hidden = (torch.randn(200, 64, generator=draw) * 1.2).bfloat16()
    return weight, hidden, torch.randint(0, 50, (200,), generator=draw)


def logps_in_float64(weight, hidden, targets):
    logits = hidden.double() @ weight.double().T
    return logits.log_softmax(-1).gather(-1, targets[:, None]).squeeze(-1)


@pytest.fixture
def float32_product():
    """What a GPU's torch has: a product of bfloat16 matrices that is not rounded; made here of float32 ones."""
    library = torch.library.Library("aten", "IMPL")
    library.impl("mm.dtype", lambda a, b, dtype: torch.mm(a.to(dtype), b.to(dtype)), "CPU")
    has_float32_product.cache_clear()
    yield
    library._destroy()
    has_float32_product.cache_clear()


def test_where_torch_can_logits_are_not_rounded_to_bfloat16(float32_product):
    assert has_float32_product("cpu")
    weight, hidden, targets = bfloat16_head()
    want = logps_in_float64(weight, hidden, targets)
    rounded = (hidden @ weight.T).float().log_softmax(-1).gather(-1, targets[:, None]).squeeze(-1)
    got, _ = token_logps(Head(weight), hidden, targets)
    assert (rounded - want).abs().max() > 0.02 and (got - want).abs().max() < 1e-4
    with_bias, _ = token_logps(Head(weight, torch.full((50,), 0.5).bfloat16()), hidden, targets)
    torch.testing.assert_close(with_bias, got)  # the same for all tokens: no change


def test_without_rounding_the_head_s_own_gradient_is_right(float32_product):
    """Where the head is trained, too; against float64, within what bfloat16 gradients hold."""
    weight, hidden, targets = bfloat16_head()
    factors = torch.linspace(-1, 2, len(targets))
    exact = [tensor.double().requires_grad_() for tensor in (weight, hidden)]
    (logps_in_float64(*exact, targets) * factors).sum().backward()
    tried = [tensor.clone().requires_grad_() for tensor in (weight, hidden)]
    logps, _ = token_logps(Head(tried[0]), tried[1], targets)
    (logps * factors).sum().backward()
    for mine, its in zip(tried, exact, strict=True):
        assert (mine.grad.double() - its.grad).norm() < 0.01 * its.grad.norm()


def test_reference_side_is_the_base_model():
    # The adapter is off there: log-probabilities equal those of a model that never had one.
    from kto_workbench.engine.models import adapter_off

    model, base = tiny_lora("llama"), tiny_model("llama")
    pairs, _ = make_pairs()
    with torch.no_grad():
        tuned = make_scorer(model).score(pairs).logps
        with adapter_off(model):
            reference = make_scorer(model).score(pairs).logps
        want = make_scorer(base).score(pairs).logps
    torch.testing.assert_close(reference, want)
    assert (tuned - reference).abs().min() > 1e-2
