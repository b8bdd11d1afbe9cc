"""What only a GPU can show, what matters most first; `make gpu` runs it, and the usual test runs leave it out.

KTO_PLACE=cpu pytest tests/gpu -m "not gpu" rehearses on a CPU what can be rehearsed there.
"""

import gc
import importlib.util
import json
import os

import pytest
import torch
from test_scoring import bfloat16_head, logps_in_float64, make_pairs
from test_step import LENGTHS, gradients, make_batch, make_config
from tiny_models import VOCABULARY, tiny_lora, tiny_model, tiny_tokenizer

from kto_workbench.config import KTOConfig
from kto_workbench.doctor.device import TOLERANCE, apart, kernel_error
from kto_workbench.engine import attention
from kto_workbench.engine.batches import Batch, Pair
from kto_workbench.engine.fused_kernels import find_kernels
from kto_workbench.engine.generation import generate
from kto_workbench.engine.head import Head, has_float32_product, token_logps
from kto_workbench.engine.masters import master_optimizer
from kto_workbench.engine.memory import calibrate, peak_bytes, recompute_activations
from kto_workbench.engine.models import add_lora, base_of, load_model
from kto_workbench.engine.passes import Budget
from kto_workbench.engine.scoring import PaddedScorer, make_scorer
from kto_workbench.engine.step import kto_step
from kto_workbench.runs.memory import ModelShape, Tokens, estimate_memory

PLACE = torch.device(os.environ.get("KTO_PLACE", "cuda"))
DTYPES = [torch.float32, torch.bfloat16]
on_a_gpu = pytest.mark.gpu


@pytest.fixture(autouse=True)
def clean():
    """Leave the card to the next test as it was."""
    yield
    gc.collect()
    if PLACE.type == "cuda":
        torch.cuda.set_per_process_memory_fraction(1.0)
        torch.cuda.empty_cache()


def adapted(kind="llama", dtype=torch.float32):
    """A tiny model with an adapter that is not zero, on the device."""
    return tiny_lora(kind).to(PLACE, dtype)


def middling(layers=8, hidden=512, vocabulary=32_000, dtype=torch.bfloat16):
    """A model of some tens of millions of weights, large enough to be measured in memory."""
    from transformers import AutoModelForCausalLM, LlamaConfig

    config = LlamaConfig(
        vocab_size=vocabulary, hidden_size=hidden, intermediate_size=4 * hidden, num_hidden_layers=layers,
        num_attention_heads=8, num_key_value_heads=4, max_position_embeddings=8192,
    )  # fmt: skip
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation=attention.NAME).to(PLACE).train()


def batch_of(length, rows, vocabulary=32_000):
    draw = torch.Generator().manual_seed(0)
    ids = lambda n: tuple(torch.randint(3, vocabulary, (n,), generator=draw).tolist())
    pairs = [Pair(ids(length - length // 4), ids(length // 4)) for _ in range(rows)]
    other = [Pair(a.prompt_ids, b.completion_ids) for a, b in zip(pairs, pairs[1:] + pairs[:1], strict=True)]
    zeros = torch.zeros(rows, device=PLACE)
    return Batch(pairs, other, torch.arange(rows) % 2 == 0, zeros, zeros)


# is it right?


@on_a_gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_kernel_for_all_sequences_is_right_with_windows_and_with_fewer_queries_than_keys(dtype):
    from torch.nn.attention.varlen import varlen_attn

    assert kernel_error(varlen_attn, PLACE, dtype) < TOLERANCE[torch.bfloat16]


@on_a_gpu
def test_in_bfloat16_the_kernel_is_taken_and_in_float32_it_is_not_asked():
    from torch.nn.attention import varlen

    asked, plain = [], varlen.varlen_attn
    varlen.varlen_attn = lambda *args, **options: asked.append(1) or plain(*args, **options)
    try:
        for dtype, wanted in ((torch.bfloat16, True), (torch.float32, False)):
            scorer = make_scorer(adapted(dtype=dtype))
            asked.clear()
            scorer.score(make_pairs()[0])
            assert scorer.name == "packed" and bool(asked) == wanted, dtype
    finally:
        varlen.varlen_attn = plain


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", ["llama", "qwen3", "mistral-window", "gemma2", "gpt2"])
def test_packed_equals_padded_kept_keys_and_values_too(kind, dtype):
    model = adapted(kind, dtype)
    pairs, mismatched = make_pairs(lengths=LENGTHS)
    packed = make_scorer(model)
    assert packed.name == "packed"

    def told(scorer):
        scorer.model.zero_grad()
        scores, kl_logps = scorer.score_both(pairs, mismatched)
        (scores.logps * torch.linspace(-1, 2, len(pairs), device=PLACE)).sum().backward()
        return [scores.logps.detach().float(), kl_logps.float(), gradients(model).float()]

    for got, want in zip(told(packed), told(PaddedScorer(model)), strict=True):
        assert apart(got, want) < 3 * TOLERANCE[dtype]


@on_a_gpu
@pytest.mark.parametrize("options", [{}, {"sft_weight": 0.5}, {"reference": "uniform"}, {"z0": "zero"}])
def test_a_step_is_the_cpu_s(options):
    here, there = tiny_lora(), adapted()
    batch = make_batch(here)
    want = kto_step(make_scorer(here), batch, make_config(**options), None, train=True)
    far = Batch(
        batch.pairs, batch.mismatched, batch.label, batch.reference_logps.to(PLACE), batch.reference_kl_logps.to(PLACE)
    )
    got = kto_step(make_scorer(there), far, make_config(**options), 40, train=True)
    assert got.loss.item() == pytest.approx(want.loss.item(), rel=1e-4)
    assert apart(gradients(there).cpu(), gradients(here)) < 1e-3


@on_a_gpu
def test_logits_are_not_rounded_to_bfloat16():
    weight, hidden, targets = (tensor.to(PLACE) for tensor in bfloat16_head())
    got, _ = token_logps(Head(weight), hidden, targets)
    assert has_float32_product("cuda")
    assert (got - logps_in_float64(weight, hidden, targets)).abs().max() < 1e-3


@on_a_gpu
@pytest.mark.skipif(importlib.util.find_spec("liger_kernel") is None, reason="needs liger-kernel")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", ["llama", "qwen3", "mistral-window", "gemma2"])
def test_fused_kernels_are_taken_and_right(kind, dtype):
    model, (pairs, mismatched) = adapted(kind, dtype), make_pairs()
    found = []
    for kernels in (None, find_kernels(base_of(model), PLACE)):
        scorer = make_scorer(model, kernels)
        model.zero_grad()
        scores, other = scorer.score_both(pairs, mismatched)
        scores.logps.sum().backward()
        found.append((scorer.way, torch.cat([scores.logps.detach(), other]), gradients(model).clone()))
    (own, want, want_gradient), (way, got, gradient) = found
    assert (own, way) == ("packed", "packed, fused kernels")
    assert apart(got, want) < TOLERANCE[dtype] and apart(gradient, want_gradient) < 10 * TOLERANCE[dtype]


def test_four_bits_compute_what_their_weights_say(tmp_path):
    middling(layers=2, hidden=256, vocabulary=VOCABULARY, dtype=torch.float32).save_pretrained(tmp_path)
    config = KTOConfig(model=str(tmp_path), load_in_4bit=True, lora_r=8)
    model = add_lora(load_model(str(tmp_path), device=PLACE, dtype=torch.bfloat16, load_in_4bit=True), config)
    scorer, (pairs, mismatched) = make_scorer(model), make_pairs()
    scores, kl_logps, found = score_and_backward_here(scorer, pairs, mismatched)
    # The same with every 4-bit weight unpacked.
    from bitsandbytes.functional import dequantize_4bit
    from bitsandbytes.nn import Linear4bit

    plain = load_model(str(tmp_path), device=PLACE, dtype=torch.bfloat16)
    layers = {name: m for name, m in model.get_base_model().named_modules() if isinstance(m, Linear4bit)}
    assert len(layers) == 2 * 7
    with torch.no_grad():
        for name, layer in layers.items():
            weight = dequantize_4bit(layer.weight.data, layer.weight.quant_state)
            plain.get_submodule(name.removesuffix(".base_layer")).weight.copy_(weight)
    unpacked = add_lora(plain, config)
    scores_, kl_logps_, wanted = score_and_backward_here(make_scorer(unpacked), pairs, mismatched)
    for got, want in ((scores, scores_), (kl_logps, kl_logps_), (found, wanted)):
        assert apart(got, want.float()) < 3 * TOLERANCE[torch.bfloat16]


def score_and_backward_here(scorer, pairs, mismatched):
    scorer.model.zero_grad()
    scores, kl_logps = scorer.score_both(pairs, mismatched)
    scores.logps.sum().backward()
    return scores.logps.detach().float(), kl_logps.float(), gradients(scorer.model).float()


# does memory that runs out do no harm?


@on_a_gpu
def test_memory_that_runs_out_halves_the_pass_with_the_same_result():
    config = make_config(lora_r=8)
    model = add_lora(middling(), KTOConfig(model="m", lora_r=8))
    scorer, batch = make_scorer(model), batch_of(512, 16)
    work = lambda tokens: kto_step(scorer, batch, config, tokens, train=True)
    one = peak_bytes(lambda: work(512), PLACE)
    model.zero_grad()
    whole = peak_bytes(lambda: work(None), PLACE)
    want = gradients(model).clone()
    model.zero_grad()
    gc.collect(), torch.cuda.empty_cache()
    _, total = torch.cuda.mem_get_info()
    room = torch.cuda.memory_allocated() + (one + whole) / 2
    torch.cuda.set_per_process_memory_fraction(room / total)
    told = []
    Budget(None, told.append).run(work, 16 * 512, 512, lambda: model.zero_grad(set_to_none=True))
    assert told and told[-1] < 16 * 512
    assert apart(gradients(model).float(), want.float()) < TOLERANCE[torch.bfloat16]


@on_a_gpu
def test_where_one_row_does_not_fit_activations_are_recomputed():
    config = make_config(lora_r=8)
    model = add_lora(middling(), KTOConfig(model="m", lora_r=8))
    scorer, batch = make_scorer(model), batch_of(4096, 2)
    work = lambda tokens: kto_step(scorer, batch, config, tokens, train=True)
    before = peak_bytes(lambda: work(4096), PLACE)
    model.zero_grad()
    assert calibrate(scorer, batch, config, make_room=lambda: recompute_activations(model)) is None
    assert not model.is_activation_checkpointing
    _, total = torch.cuda.mem_get_info()
    gc.collect(), torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_allocated() + before / 2) / total)
    Budget(None, make_room=lambda: recompute_activations(model)).run(
        work, 2 * 4096, 4096, lambda: model.zero_grad(set_to_none=True)
    )
    assert model.is_activation_checkpointing and torch.isfinite(gradients(model)).all()


@on_a_gpu
@pytest.mark.parametrize("way", ["grouped heads in float32", "a prefix in bfloat16", "softcap"])
def test_attention_never_has_all_scores_at_once(way):
    dtype, length = (torch.float32 if "float32" in way else torch.bfloat16), 8192
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, n, length, 64, device=PLACE, dtype=dtype, requires_grad=True) for n in (8, 2, 2))
    mask = None
    if "prefix" in way:
        mask = torch.ones(length, length, dtype=torch.bool, device=PLACE).tril()
    softcap = 20.0 if way == "softcap" else None
    attend = lambda: attention._attend(q, k, v, mask, mask is None, None, softcap, None)
    peak = peak_bytes(lambda: torch.autograd.grad(attend().sum(), (q, k, v)), PLACE)
    assert peak < 8 * length**2 * dtype.itemsize / 2  # half of one tensor of scores, of which there would be several


# do optimizers and checkpoints work?


@on_a_gpu
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_paged_optimizer_learns(dtype):
    model = adapted(dtype=dtype)
    trained = [p for p in model.parameters() if p.requires_grad]
    if dtype == torch.bfloat16:
        optimizer = master_optimizer("paged_adamw_8bit")(trained, lr=1e-2)
    else:
        from bitsandbytes.optim import PagedAdamW8bit

        optimizer = PagedAdamW8bit(trained, lr=1e-2)
    scorer, losses = make_scorer(model), []
    pairs, mismatched = make_pairs(lengths=LENGTHS)
    zeros = torch.zeros(len(pairs), device=PLACE)
    batch = Batch(pairs, mismatched, torch.arange(len(pairs)) % 2 == 0, zeros - 30, zeros - 30)
    for _ in range(12):
        losses.append(kto_step(scorer, batch, make_config(), None, train=True).loss.item())
        optimizer.step()
        optimizer.zero_grad()
    assert losses[-1] < losses[0]


@on_a_gpu
def test_full_tuning_in_bfloat16_takes_what_the_estimate_says_while_it_steps():
    model = middling(layers=4, hidden=1024).requires_grad_(True)
    trained = sum(p.numel() for p in model.parameters())
    optimizer = master_optimizer("adamw")(model.parameters(), lr=1e-6)
    for _ in range(2):
        for p in model.parameters():
            p.grad = torch.ones_like(p)
        peak = peak_bytes(optimizer.step, PLACE)
        optimizer.zero_grad()
    shape = ModelShape.of(model.config.to_dict())
    stepping = estimate_memory(KTOConfig(model="m", tuning="full"), shape, device="cuda", dtype_bytes=2).stepping
    assert peak <= 1.1 * stepping and trained > 8e7


@pytest.mark.parametrize("four_bit", [False, True])
def test_a_run_resumes_to_the_same_adapter(tmp_path, four_bit):
    from test_training import adapter_of, crash_at

    from kto_workbench import train
    from kto_workbench.engine.training import train_run
    from kto_workbench.runs import create_run

    folder = tmp_path / "model"
    middling(layers=2, hidden=128, vocabulary=VOCABULARY, dtype=torch.float32).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    both = [(a, b) for a in ("cat", "dog", "sun") for b in ("bad", "ran", "sat", "was")]
    rows = [{"prompt": f"the {a} {b}", "completion": f"{b} {a}", "label": a < b} for a, b in both]
    (tmp_path / "thumbs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = KTOConfig(
        model=str(folder), data=str(tmp_path / "thumbs.jsonl"), workspace=str(tmp_path), device=PLACE.type,
        batch_size=4, max_steps=6, save_steps=2, sample_steps=-1, eval_fraction=0, lora_r=4, learning_rate=1e-3,
        load_in_4bit=four_bit, max_length=64,
    )  # fmt: skip
    whole = train(config, progress=False)
    run = create_run(config)
    crash_at(run, step=5)
    run.set_status(state="queued", pid=None)
    train_run(run)
    one, other = adapter_of(whole), adapter_of(run)
    assert one.keys() == other.keys()
    for name in one:
        assert (one[name] - other[name]).norm() <= 1e-2 * one[name].norm() + 1e-6, name


# what else?


@on_a_gpu
def test_the_host_never_waits_within_a_step():
    model = adapted(dtype=torch.bfloat16)
    scorer, (pairs, mismatched) = make_scorer(model), make_pairs(lengths=LENGTHS)
    zeros = torch.zeros(len(pairs), device=PLACE)
    batch = Batch(pairs, mismatched, torch.arange(len(pairs)) % 2 == 0, zeros, zeros)
    kto_step(scorer, batch, make_config(), None, train=True)
    torch.cuda.set_sync_debug_mode("error")
    try:
        kto_step(scorer, batch, make_config(), None, train=True)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@on_a_gpu
@pytest.mark.parametrize("checkpointed", [False, True])
def test_the_estimate_of_memory_is_near_what_a_step_takes(checkpointed):
    model = add_lora(middling(), KTOConfig(model="m", lora_r=16))
    if checkpointed:
        recompute_activations(model)
    scorer, batch = make_scorer(model), batch_of(512, 8)
    config = KTOConfig(model="m", gradient_checkpointing=checkpointed, sample_steps=-1)
    kto_step(scorer, batch, make_config(), None, train=True)
    model.zero_grad()
    measured = peak_bytes(lambda: kto_step(scorer, batch, make_config(), None, train=True), PLACE)
    shape, tokens = ModelShape.of(model.config.to_dict()), Tokens(8 * 384, 8 * 128, 512)
    estimate = estimate_memory(config, shape, tokens, device="cuda", dtype_bytes=2)
    assert estimate.training + estimate.gradients == pytest.approx(measured, rel=0.3)


def test_answers_are_the_cpu_s():
    ask = lambda model: generate(model, tiny_tokenizer(), ["the cat sat", "who"], max_new_tokens=12, temperature=0)
    assert ask(tiny_model().to(PLACE)) == ask(tiny_model())


@on_a_gpu
def test_the_demo_trains(tmp_path):
    from kto_workbench.shell.demonstration import demonstrate

    told = demonstrate(workspace=str(tmp_path), seed=42)
    assert told["trait_after"] > told["trait_before"] + 0.2
