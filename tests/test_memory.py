"""The memory estimate's arithmetic, the count of live bytes, and what the dry step makes of them."""

import pytest
import torch
from tiny_models import tiny_lora

from kto_workbench.config import KTOConfig
from kto_workbench.engine.batches import Batch, Pair
from kto_workbench.engine.fused_lora import fuse
from kto_workbench.engine.head import fitting
from kto_workbench.engine.memory import LiveBytes, calibrate, peak_bytes, recompute_activations
from kto_workbench.engine.models import checkpoint_activations
from kto_workbench.engine.scoring import make_scorer
from kto_workbench.engine.step import kto_step
from kto_workbench.runs.memory import KEPT_FREE, ModelShape, Tokens, estimate_memory, fragments

LLAMA = {
    "model_type": "llama",
    "num_hidden_layers": 2,
    "hidden_size": 8,
    "intermediate_size": 32,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 100,
    "tie_word_embeddings": False,
}
CONFIG = KTOConfig(model="some", lora_r=2, lora_alpha=4, desirable_weight=1.0, undesirable_weight=1.0, sample_steps=-1)
TOKENS = Tokens(prompt=30, completion=20, longest=15)


def test_a_shape_is_read_by_whichever_names_a_config_uses():
    shape = ModelShape.of(LLAMA)
    assert (shape.head_dim, shape.q, shape.kv) == (2, 8, 4)
    nested = ModelShape.of({"model_type": "gemma3", "text_config": LLAMA})
    assert nested.layers == 2
    gpt2 = ModelShape.of({"model_type": "gpt2", "n_layer": 3, "n_embd": 12, "n_head": 2, "vocab_size": 50})
    assert (gpt2.intermediate, gpt2.kv, gpt2.tied, gpt2.gated) == (48, 12, True, False)
    assert ModelShape.of({"model_type": "mystery"}) is None


def test_parameters_are_counted_by_matrix():
    shape = ModelShape.of(LLAMA)
    # q 8·8, k and v 8·4 each, o 8·8, gate and up 8·32 each, down 32·8
    assert shape.body == 2 * (64 + 2 * 32 + 64 + 3 * 256)
    assert shape.embedding == 2 * 100 * 8
    # r (in + out): 2·16, twice 2·12, 2·16, three times 2·40
    assert shape.adapter(2) == 2 * (32 + 2 * 24 + 32 + 3 * 80)


def test_what_lasts_is_exact():
    shape = ModelShape.of(LLAMA)
    estimate = estimate_memory(CONFIG, shape, TOKENS)
    assert estimate.weights == 4 * (shape.body + shape.embedding)
    assert estimate.adapter == estimate.gradients == 4 * shape.adapter(2)
    assert estimate.optimizer == 8 * shape.adapter(2)
    half = estimate_memory(CONFIG.replace(load_in_4bit=True), shape, TOKENS, dtype_bytes=2)
    assert half.weights == round(shape.body * (0.5 + 1 / 64 + 1 / 4096) + 2 * shape.embedding)
    assert estimate_memory(CONFIG.replace(optim="paged_adamw_8bit"), shape, TOKENS).optimizer == 2 * shape.adapter(2)


def test_activations_are_what_each_layer_keeps_of_each_token():
    shape = ModelShape.of(LLAMA)
    # hidden states 4·8, attention 3·8 + 2·4 + 4 log-sums, feed-forward 4·32, seven low ranks of 2, two norms' scales
    layer = 4 * (4 * 8 + 3 * 8 + 2 * 4 + 4 + 4 * 32 + 7 * 2 + 2)
    assert estimate_memory(CONFIG, shape, TOKENS).activations == 50 * 2 * layer
    checkpointed = estimate_memory(CONFIG.replace(gradient_checkpointing=True), shape, TOKENS)
    assert checkpointed.activations == 50 * 2 * 8 * 4
    assert checkpointed.kept_kv == 50 * 2 * 2 * 4 * 4
    assert checkpointed.total < estimate_memory(CONFIG, shape, TOKENS).total


def test_smaller_passes_take_less_down_to_the_longest_sequence():
    shape = ModelShape.of(LLAMA)
    sizes = [estimate_memory(CONFIG.replace(tokens_per_pass=n), shape, TOKENS) for n in (100, 25, 15, 1)]
    assert [estimate.tokens for estimate in sizes] == [50, 25, 15, 15]
    assert sizes[0].total > sizes[1].total > sizes[2].total == sizes[3].total
    assert all(estimate.low < estimate.total < estimate.high for estimate in sizes)


def test_live_bytes_follow_tensors_as_they_come_and_go():
    with LiveBytes() as live:
        a = torch.ones(1000)  # 4000 bytes
        b = a.view(10, 100) + 1  # and 4000 more; the view is none
        del a
        c = torch.ones(250)  # 1000 in place of the 4000 that went
        del b
    assert (live.peak, live.live) == (8000, c.nbytes)


def _scorer(checkpointed: bool = False):
    model = tiny_lora("llama")
    fuse(model)
    if checkpointed:
        checkpoint_activations(model)
    return make_scorer(model)


def _batch(lengths):
    """Pairs whose prompts and completions have these lengths; the prompts differ in their last token."""
    pairs = [Pair((*range(3, 2 + n), 3 + i), tuple(range(5, 5 + n))) for i, n in enumerate(lengths)]
    other = [Pair(a.prompt_ids, b.completion_ids) for a, b in zip(pairs, pairs[1:] + pairs[:1], strict=True)]
    zeros = torch.zeros(len(pairs))
    return Batch(pairs, other, torch.tensor([i % 2 == 0 for i in range(len(pairs))]), zeros, zeros)


@pytest.mark.parametrize("checkpointed", [False, True])
def test_the_estimate_is_near_the_tensors_that_a_step_really_has(checkpointed):
    scorer = _scorer(checkpointed)
    batch = _batch([40] * 8)
    config = CONFIG.replace(lora_r=4, gradient_checkpointing=checkpointed)
    shape = ModelShape.of(scorer.model.config.to_dict())
    estimate = estimate_memory(config, shape, Tokens(320, 320, 80))
    measured = peak_bytes(lambda: kto_step(scorer, batch, config, None, train=True), scorer.device)
    assert estimate.training == pytest.approx(measured, rel=0.2)


def test_the_dry_step_lets_in_what_fits():
    scorer, batch = _scorer(), _batch([30] * 6)
    assert calibrate(scorer, batch, CONFIG, free=10**9) is None
    assert calibrate(scorer, batch, CONFIG, free=0) == 60
    whole = peak_bytes(lambda: kto_step(scorer, batch, CONFIG, None, train=True), scorer.device)
    half = calibrate(scorer, batch, CONFIG, free=int(whole / 2 * fragments(CONFIG, "cpu") / (1 - KEPT_FREE)))
    # Six sequences of 60 tokens need `whole`, so half of it has room for about 180 tokens.
    assert 140 < half < 220


def test_the_dry_step_leaves_room_for_the_optimizer():
    scorer, batch = _scorer(), _batch([30] * 6)
    trained = sum(p.numel() for p in scorer.model.parameters() if p.requires_grad)
    paged = CONFIG.replace(optim="paged_adamw_8bit")
    whole = peak_bytes(lambda: kto_step(scorer, batch, CONFIG, None, train=True), scorer.device)
    free = whole / 2 * fragments(CONFIG, "cpu") / (1 - KEPT_FREE)
    # Two moments take 8 bytes a weight in float32 and 2 in 8 bits: 6 less to leave.
    assert calibrate(scorer, batch, CONFIG, free=int(free + 6 * trained / (1 - KEPT_FREE))) == pytest.approx(
        calibrate(scorer, batch, paged, free=int(free)), abs=1
    )
    assert 6 * trained > 3 * whole / 360  # more than three of the 360 tokens take, so that it shows


def test_activations_are_recomputed_where_not_even_one_row_fits_otherwise(caplog):
    def gradients(scorer):
        kto_step(scorer, batch, CONFIG, None, train=True)
        return torch.cat([p.grad.flatten() for p in scorer.model.parameters() if p.grad is not None])

    scorer, batch = _scorer(), _batch([30] * 6)
    want = gradients(scorer)
    scorer.model.zero_grad()
    one = calibrate(scorer, batch, CONFIG, free=0)
    assert one == 60 and not scorer.model.is_activation_checkpointing  # whoever calls must want it
    room = lambda: recompute_activations(scorer.model)
    assert calibrate(scorer, batch, CONFIG, make_room=room) is None and not caplog.text
    assert calibrate(scorer, batch, CONFIG, free=0, make_room=room) == 60
    assert scorer.model.is_activation_checkpointing and "made again in the backward pass" in caplog.text
    torch.testing.assert_close(gradients(scorer), want)
    assert not room()  # there is no more to be made


def test_one_row_that_fits_alone_is_taken_alone(monkeypatch):
    from kto_workbench.engine import memory

    def dry_step(scorer, batch, config, numbers, crew):
        if len(numbers) > 1:
            raise RuntimeError("CUDA error: out of memory")
        return 60, 1000

    monkeypatch.setattr(memory, "_dry_step", dry_step)
    refuse = lambda: pytest.fail("one row fits as it is")
    assert calibrate(_scorer(), _batch([30] * 6), CONFIG, free=10**9, make_room=refuse) == 60


def test_the_estimate_knows_when_activations_will_be_recomputed():
    # An 8B model in 4 bits with rows of 2,500 tokens on a card of 24 GB: weights take 5.7 GB; a row keeps 2,500 · 32 ·
    # 188 KiB = 15.4 GB, with what passes 17.3 GB, which is more than 85 % of the 18.3 GB left.
    shape = ModelShape(32, 4096, 14336, 32, 8, 128, 128256)
    config = CONFIG.replace(load_in_4bit=True, max_length=2500, lora_r=16)
    of = lambda config, **options: estimate_memory(config, shape, device="cuda", dtype_bytes=2, **options)
    alone = config.replace(tokens_per_pass=1)
    assert of(alone).high > 24 * 10**9 > of(alone, free=24 * 10**9).high
    assert of(alone, free=24 * 10**9) == of(alone.replace(gradient_checkpointing=True))
    assert of(config, free=24 * 10**9).recomputed and not of(config, free=80 * 10**9).recomputed


def test_a_run_that_would_not_fit_recomputes_and_learns_the_same(small_data, tmp_path, monkeypatch, caplog):
    from kto_workbench import train
    from kto_workbench.engine import memory

    config = KTOConfig(
        data=str(small_data), workspace=str(tmp_path), max_steps=2, sample_steps=-1, batch_size=8, threads=1
    )
    plain = train(config, progress=False)
    assert "made again" not in caplog.text
    monkeypatch.setattr(memory, "free_memory", lambda device: 0)
    tight = train(config, progress=False)
    assert "made again in the backward pass" in caplog.text
    losses = [[record["loss"] for record in run.metrics() if "loss" in record] for run in (plain, tight)]
    assert len(losses[0]) == 2 and losses[1] == pytest.approx(losses[0], rel=1e-5)


def test_full_tuning_in_bfloat16_steps_in_parts():
    shape = ModelShape.of(LLAMA | {"vocab_size": 10**6, "hidden_size": 80})  # an embedding of 80 million
    full = CONFIG.replace(tuning="full")
    trained = shape.body + shape.embedding
    estimate = estimate_memory(full, shape, TOKENS, dtype_bytes=2)
    # Weights and gradients 2 bytes, masters 4, moments 8; and for a while 8 for the embedding, which is stepped whole.
    assert estimate.weights + estimate.gradients + estimate.optimizer == 16 * trained
    assert estimate.stepping == 8 * 80 * 10**6
    assert estimate_memory(full, shape, TOKENS).stepping == 0  # float32 weights have no masters


def test_the_head_takes_less_of_a_gpu_that_is_nearly_full():
    # 12 bytes an element, of a quarter of what is free; the 2^27 of an empty card, and never less than 2^22.
    assert [fitting(2**27, free) for free in (80 * 10**9, 48 * 10**8, 10**6)] == [2**27, 10**8, 2**22]


def test_the_dry_step_leaves_no_trace():
    scorer, batch = _scorer(), _batch([10, 12, 14])
    batch.reference_logps = batch.reference_kl_logps = None
    before = torch.random.get_rng_state()
    calibrate(scorer, batch, CONFIG)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(p.grad is None for p in scorer.model.parameters())
