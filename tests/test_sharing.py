"""Prompts read once: steps with siblings, in any split and any order, against rows one at a time through plain peft."""

import random

import pytest
import torch
from test_step import make_config
from tiny_models import VOCABULARY, tiny_lora, tiny_model

from kto_workbench.engine.batches import Batch, Pair
from kto_workbench.engine.models import checkpoint_activations
from kto_workbench.engine.scoring import Layout, PackedScorer, make_scorer
from kto_workbench.engine.step import kto_step


def draw_batch(siblings, groups=3, seed=0):
    """Groups of answers to one prompt; an answer of one token among them, and partners of other groups."""
    draw = random.Random(seed)
    ids = lambda n: tuple(draw.randrange(3, VOCABULARY) for _ in range(n))
    prompts = [ids(draw.randint(2, 12)) for _ in range(groups)]
    pairs = [Pair(prompt, ids(1 if i == 1 else draw.randint(2, 9))) for prompt in prompts for i in range(siblings)]
    n = len(pairs)
    mismatched = [Pair(p.prompt_ids, pairs[(i + siblings) % n].completion_ids) for i, p in enumerate(pairs)]
    labels = torch.tensor([i % 3 != 0 for i in range(n)])
    return pairs, mismatched, labels


def plain_twin(ours, kind):
    """The same weights in transformers' eager attention and peft's own layers, nothing of ours in between."""
    from peft import LoraConfig, get_peft_model

    lora = LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=8, target_modules="all-linear")
    twin = get_peft_model(tiny_model(kind, attn_implementation="eager"), lora)
    theirs = dict(twin.named_parameters())
    with torch.no_grad():
        for name, parameter in ours.named_parameters():
            theirs[name].copy_(parameter)
    return twin


def logp(model, pair):
    ids = torch.tensor([pair.prompt_ids + pair.completion_ids])
    logits = model(input_ids=ids).logits[0].log_softmax(-1)
    start = len(pair.prompt_ids)
    return sum(logits[start + t - 1, token] for t, token in enumerate(pair.completion_ids))


def step_by_hand(model, pairs, mismatched, labels, config):
    """Loss, z0 before clamping and gradients of Eq. 8, a row at a time."""
    with torch.no_grad(), model.disable_adapter():
        reference = torch.stack([logp(model, p) for p in pairs])
        reference_kl = torch.stack([logp(model, p) for p in mismatched])
    with torch.no_grad():
        raw = (torch.stack([logp(model, p) for p in mismatched]) - reference_kl).mean()
    z0 = raw.clamp(min=0)
    r = torch.stack([logp(model, p) for p in pairs]) - reference
    weight = torch.where(labels, config.desirable_weight, config.undesirable_weight)
    value = torch.where(labels, torch.sigmoid(config.beta * (r - z0)), torch.sigmoid(config.beta * (z0 - r)))
    loss = (weight * (1 - value)).mean()
    loss.backward()
    return loss.item(), raw.item(), gradients(model), reference, reference_kl


def gradients(model):
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_near(got, want, share=1e-5):
    assert got.keys() == want.keys() and got
    apart = sum((got[n] - want[n]).square().sum() for n in want).sqrt()
    assert apart <= share * sum(w.square().sum() for w in want.values()).sqrt()


@pytest.mark.parametrize("kind", ["llama", "qwen3", "mistral-window"])
@pytest.mark.parametrize("siblings", [1, 2, 4])
def test_shared_prompts_in_any_split_and_order_equal_rows_one_at_a_time(kind, siblings):
    ours = tiny_lora(kind)
    pairs, mismatched, labels = draw_batch(siblings)
    config = make_config()
    loss, raw, want, reference, reference_kl = step_by_hand(plain_twin(ours, kind), pairs, mismatched, labels, config)
    scorer = make_scorer(ours)
    assert type(scorer) is PackedScorer
    for tokens, shuffle in ((None, 0), (None, 1), (45, 2), (20, 3), (1, 4)):
        order = list(range(len(pairs)))
        if shuffle:
            random.Random(shuffle).shuffle(order)
        batch = Batch(pairs, mismatched, labels, reference, reference_kl).take(order)
        ours.zero_grad(set_to_none=True)
        sums = kto_step(scorer, batch, config, tokens, train=True)
        assert sums.loss.item() == pytest.approx(loss, rel=1e-5) and sums.z0_raw.item() == pytest.approx(raw, rel=1e-4)
        assert_near(gradients(ours), want)


def test_checkpointing_recomputes_shared_prompts():
    ours = tiny_lora("llama")
    pairs, mismatched, labels = draw_batch(3)
    config = make_config()
    _, _, want, reference, reference_kl = step_by_hand(plain_twin(ours, "llama"), pairs, mismatched, labels, config)
    checkpoint_activations(ours)
    kto_step(make_scorer(ours), Batch(pairs, mismatched, labels, reference, reference_kl), config, None, train=True)
    assert_near(gradients(ours), want)


def test_a_prompt_goes_through_the_model_once():
    pairs = [Pair((5, 6, 7), (8, 9)), Pair((1, 2), (3,)), Pair((5, 6, 7), (4,)), Pair((5, 6, 7), (9, 9, 9))]
    layout = Layout.of(pairs)
    # Each answer without its last token; the third has nothing left, and its only token is predicted by the prompt.
    assert layout.tokens == [(5, 6, 7, 8), (1, 2), (9, 9)]
    assert layout.starts == [0, 0, 3] and layout.before == [None, None, (0, 3)]
    assert layout.prompts == [(0, 3), (1, 2)] and layout.prompt_of == [0, 1, 0, 0]
    # Places: 0–3 the first sequence, 4–5 the second, 6–7 the third; prompts end at 2 and 5.
    assert layout.states == [[2, 3], [5], [2], [2, 6, 7]]


def test_siblings_stay_together_where_they_fit():
    scorer = make_scorer(tiny_lora("llama"))
    a, b = tuple(range(10)), tuple(range(10, 20))
    pairs = [Pair(a, (1,) * 5), Pair(b, (1,) * 5), Pair(a, (2,) * 5), Pair(b, (2,) * 5)]
    assert scorer.tokens(pairs) == 2 * (10 + 5 + 5)
    assert scorer.split(pairs, 40) == [[0, 1, 2, 3]]
    assert scorer.split(pairs, 20) == [[0, 2], [1, 3]]  # 20 tokens each, with their prompt once
    assert sorted(scorer.split(pairs, 19)) == [[0], [1], [2], [3]]


def test_tokens_read_by_a_step(monkeypatch):
    # Two prompts of 100 tokens with two answers of 50 each, in one pass: 2·100 + 4·49 of the policy, and 4·49 of the
    # mismatched ones; rows of their own would read 4·149 and, in two passes, the prompts twice.
    ours = tiny_lora("llama")
    scorer = make_scorer(ours)
    draw = random.Random(0)
    ids = lambda n: tuple(draw.randrange(3, VOCABULARY) for _ in range(n))
    x, y = ids(100), ids(100)
    pairs = [Pair(x, ids(50)), Pair(x, ids(50)), Pair(y, ids(50)), Pair(y, ids(50))]
    mismatched = [Pair(p.prompt_ids, pairs[(i + 2) % 4].completion_ids) for i, p in enumerate(pairs)]
    batch = Batch(pairs, mismatched, torch.tensor([True, False] * 2), torch.zeros(4), torch.zeros(4))
    read = []
    hidden = scorer._hidden
    monkeypatch.setattr(
        scorer,
        "_hidden",
        lambda tokens, starts, ragged: read.append(sum(map(len, tokens))) or hidden(tokens, starts, ragged),
    )
    kto_step(scorer, batch, make_config(), None, train=True)
    assert read == [2 * 100 + 4 * 49, 4 * 49]
    read.clear()
    kto_step(scorer, batch, make_config(), 200, train=True)
    # Two passes: the first one's mismatched go without gradient, with their prompt; the last shares its own.
    assert read == [100 + 2 * 49, 100 + 2 * 49, 2 * 49, 100 + 2 * 49]


def count_tokens_through(layers):
    """How many tokens each layer's feed-forward block is given, filled in as passes are made."""
    read = [[] for _ in layers]
    for layer, tokens in zip(layers, read, strict=True):
        layer.mlp.gate_proj.register_forward_hook(lambda _, args, __, tokens=tokens: tokens.append(args[0].shape[1]))
    return read


def test_the_last_layer_is_given_what_is_read_of_it_alone():
    ours = tiny_lora("llama")
    scorer = make_scorer(ours)
    read = count_tokens_through(ours.get_base_model().model.layers)
    # Prompts of 10 and 4 tokens, the first with two answers of 5 and 3, the other with one of 1 and one of 6: the last
    # tokens predict nothing, 10 + 4 + (5 + 3 + 1 + 6 − 4) = 25 go in. Of the prompts each one's last is read: 2 + 11.
    x, y = tuple(range(5, 15)), tuple(range(20, 24))
    pairs = [Pair(x, (1,) * 5), Pair(x, (2,) * 3), Pair(y, (1,)), Pair(y, (3,) * 6)]
    scorer.score(pairs)
    assert read == [[25], [25], [13]]
    # The mismatched go on from the prompts, and all of their 2 + 4 + 4 + 1 tokens are read.
    mismatched = [Pair(x, (3,) * 3), Pair(x, (1,) * 5), Pair(y, (2,) * 5), Pair(y, (3,) * 2)]
    scorer.score_both(pairs, mismatched)
    assert read == [[25, 25, 11], [25, 25, 11], [13, 13, 11]]


def test_a_last_layer_that_wants_all_tokens_gets_them(caplog):
    ours, twin = tiny_lora("llama"), tiny_lora("llama")
    for model in (ours, twin):  # a block that adds what came into the layer: right when packed, and of no other shape
        layer = model.get_base_model().model.layers[-1]
        came: list[torch.Tensor] = []
        layer.register_forward_pre_hook(lambda _, args, came=came: came.append(args[0]))
        layer.mlp.register_forward_hook(lambda _, __, out, came=came: out + came[-1])
    scorer = make_scorer(ours)
    read = count_tokens_through(ours.get_base_model().model.layers)
    pairs, mismatched, _ = draw_batch(2)
    scores, _ = scorer.score_both(pairs, mismatched)
    assert type(scorer) is PackedScorer and read[-1] == read[0] and not caplog.records
    assert scores.logps.tolist() == pytest.approx([logp(twin, pair).item() for pair in pairs], rel=1e-5)
