"""Start adapters of all kinds that peft makes: trained right, or refused in a sentence, before the first step."""

import json

import pytest
import torch
from bitsandbytes.functional import dequantize_4bit, quantize_4bit
from family_check import CPU, close, make_rows, oracle_logps, oracle_model
from peft import LoraConfig, PeftModel, get_peft_model
from tiny_models import tiny_model, tiny_tokenizer

from kto_workbench.config import KTOConfig
from kto_workbench.engine import proof
from kto_workbench.engine.models import (
    REFERENCE,
    adapter_off,
    keep_as_reference,
    load_adapter,
    load_model,
    make_trainable,
    merge_adapter,
    start_adapter_on,
)
from kto_workbench.engine.scoring import make_scorer
from kto_workbench.engine.training import train
from kto_workbench.errors import ModelError

# What peft says to whoever makes such adapters; here they are made on purpose.
pytestmark = [pytest.mark.filterwarnings("ignore::UserWarning"), pytest.mark.filterwarnings("ignore::RuntimeWarning")]

MOVES = "Without its adapter this model is not its base"
RIGHT = {
    "plain": {},
    "rslora": {"use_rslora": True},
    "dora": {"use_dora": True},
    "bias in B": {"lora_bias": True},
    "a head of its own": {"modules_to_save": ["lm_head"]},
    "embeddings of its own": {"modules_to_save": ["embed_tokens"]},
    "some tokens": {"trainable_token_indices": [5, 6, 7, 8]},
    "on the head": {"target_modules": ["q_proj", "lm_head"]},
    "on the embeddings": {"target_modules": ["q_proj", "embed_tokens"]},
}
REFUSED = {
    "biases": ({"bias": "all", "fan_in_fan_out": True}, MOVES),
    "pissa": ({"init_lora_weights": "pissa"}, MOVES),
    "olora": ({"init_lora_weights": "olora"}, MOVES),
    "activated": ({"alora_invocation_tokens": [5, 6]}, "acts only behind certain tokens"),
}


def start_adapter(folder, model, options):
    """A trained adapter of a kind, as someone else's peft has saved it, and what that says of the rows."""
    torch.manual_seed(4)
    options = {"target_modules": "all-linear", **options}
    adapted = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=8, **options))
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter += torch.randn(parameter.shape) * 0.05
    adapted.save_pretrained(folder)
    return adapted.eval()


def make_base(folder, kind):
    tiny_model(kind).save_pretrained(folder)
    return folder


def ours(base, start):
    loaded = load_model(str(base), device=CPU, dtype=torch.float32)
    witness = proof.ask(loaded)
    model = make_trainable(loaded, KTOConfig(model="tiny", lora_r=4), start)
    scorer = make_scorer(model)
    proof.prove(model, witness)
    return model, scorer


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("name", RIGHT)
def test_a_start_adapter_is_trained_as_peft_itself_would(tmp_path, name, tied):
    base = make_base(tmp_path / "base", "llama-tied" if tied else "llama")
    start_adapter(tmp_path / "start", oracle_model(base), RIGHT[name])
    check_right(tmp_path, merges=name != "bias in B" and not (tied and name.startswith("on the")))


def check_right(folder, *, merges=True, attention="eager"):
    """The adapter in `start` on the model in `base`: proven, rewards from 0, peft's gradients, saved, merged."""
    base, start = folder / "base", folder / "start"
    twin = PeftModel.from_pretrained(oracle_model(base, attention), start, is_trainable=True).eval()
    pairs, mismatched = make_rows()
    model, scorer = ours(base, start)
    with torch.no_grad(), adapter_off(model):
        off, off_kl = scorer.score_both(pairs, mismatched)
    close(
        torch.cat([off.logps, off_kl]), oracle_logps(oracle_model(base, attention), pairs + mismatched), "the reference"
    )
    scores, kl_logps = scorer.score_both(pairs, mismatched)
    want = oracle_logps(twin, pairs)
    close(scores.logps, want, "the policy")
    close(kl_logps, oracle_logps(twin, mismatched), "mismatched completions")
    for values in (scores.logps, want):
        (values * torch.linspace(-1, 2, len(pairs))).sum().backward()
    theirs = {name: p.grad for name, p in twin.named_parameters() if p.requires_grad and p.grad is not None}
    got = {name: p.grad for name, p in model.named_parameters() if p.requires_grad and p.grad is not None}
    assert theirs.keys() == got.keys() and theirs
    scale = max(g.norm() for g in theirs.values())
    for parameter, gradient in theirs.items():
        apart = (got[parameter] - gradient).norm() / max(gradient.norm(), 1e-2 * scale)
        assert apart < 1e-4, (parameter, apart)
    # Against the adapter that it starts from, frozen beside it, every reward is 0.
    keep_as_reference(model, start)
    with torch.no_grad(), start_adapter_on(model):
        close(scorer.score(pairs).logps, scores.logps.detach(), "the start as the reference")
    model.delete_adapter(REFERENCE)
    torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2).step()
    with torch.no_grad():
        tuned = scorer.score(pairs).logps
        assert (tuned - want).abs().max() > 1e-2
        model.save_pretrained(folder / "tuned")
        again = load_adapter(load_model(str(base), device=CPU, dtype=torch.float32), folder / "tuned")
        close(make_scorer(again).score(pairs).logps, tuned, "loaded again")
        if merges:
            merge_adapter(again).save_pretrained(folder / "merged")
            close(oracle_logps(oracle_model(folder / "merged", attention), pairs), tuned, "merged")
        else:
            with pytest.raises(ModelError, match="can't be merged|uses some of them in two places"):
                merge_adapter(again)


@pytest.mark.parametrize("name", REFUSED)
def test_an_adapter_that_moves_the_base_is_refused(tmp_path, name):
    options, sentence = REFUSED[name]
    base = make_base(tmp_path / "base", "gpt2" if name == "biases" else "llama")
    start_adapter(tmp_path / "start", oracle_model(base), options)
    with pytest.raises(ModelError, match=sentence):
        ours(base, tmp_path / "start")


def test_biases_that_will_move_are_refused_before_they_do(tmp_path):
    # As saved before its first step: without it the model is the base still, and would not be for long.
    base = make_base(tmp_path / "base", "gpt2")
    lora = LoraConfig(task_type="CAUSAL_LM", r=4, target_modules="all-linear", bias="all", fan_in_fan_out=True)
    get_peft_model(oracle_model(base), lora).save_pretrained(tmp_path / "start")
    with pytest.raises(ModelError, match="The reference would change while this adapter learns"):
        ours(base, tmp_path / "start")


def loftq(folder, base):
    """Weights rounded to 4 bits, saved as `base`, and the adapter that LoftQ makes of the rest.

    By the paper, since peft does it on a GPU alone: Q is W in NF4, and B A the best of W - Q in rank r.
    """
    adapted = get_peft_model(
        oracle_model(base), LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=4, target_modules="all-linear")
    )
    whole = oracle_model(base)
    with torch.no_grad():
        for name, module in adapted.get_base_model().named_modules():
            if not hasattr(module, "lora_A"):
                continue
            weight = module.get_base_layer().weight
            packed, state = quantize_4bit(whole.get_parameter(f"{name}.weight").detach(), quant_type="nf4")
            rounded = dequantize_4bit(packed, state)
            u, s, v = torch.linalg.svd(weight - rounded, full_matrices=False)
            module.lora_B["default"].weight.copy_(u[:, :4] * s[:4].sqrt())
            module.lora_A["default"].weight.copy_(s[:4].sqrt()[:, None] * v[:4])
            weight.copy_(rounded)
    adapted.save_pretrained(folder)
    return adapted.unload()


def test_a_loftq_adapter_is_right_on_the_weights_that_were_rounded_for_it(tmp_path):
    make_base(tmp_path / "whole", "llama")
    loftq(tmp_path / "start", tmp_path / "whole").save_pretrained(tmp_path / "base")
    check_right(tmp_path)


def test_a_loftq_adapter_that_rounds_its_base_is_refused(tmp_path):
    """As it is saved with the weights that it was made from: loading it rounds them."""
    base = make_base(tmp_path / "base", "llama")
    loftq(tmp_path / "start", base)
    change_config(tmp_path / "start", init_lora_weights="loftq", loftq_config={"loftq_bits": 4, "loftq_iter": 1})
    with pytest.raises(ModelError, match=f"{MOVES}.*LoftQ"):
        ours(base, tmp_path / "start")


def change_config(folder, **fields):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def resized(folder, base, options, *, teach=False):
    """An adapter for three more tokens than the base has, as peft saves it; what it was trained on, as a folder."""
    more = oracle_model(base)
    torch.manual_seed(5)
    more.resize_token_embeddings(100, mean_resizing=False)
    more.save_pretrained(folder / "more")
    if teach:
        with torch.no_grad():
            more.get_input_embeddings().weight[97:] += 0.3
    more.name_or_path = str(base)
    start_adapter(folder / "start", more, options)
    return folder / "more"


RESIZED = {
    "saved beside the adapter": {},
    "as parts of the adapter": {"modules_to_save": ["embed_tokens", "lm_head"]},
}


@pytest.mark.parametrize("name", RESIZED)
def test_embeddings_of_more_tokens_are_refused_on_a_base_of_fewer(tmp_path, name):
    base = make_base(tmp_path / "base", "llama")
    resized(tmp_path, base, RESIZED[name])
    with pytest.raises(ModelError, match="for 100 tokens, and this model has 97"):
        ours(base, tmp_path / "start")


@pytest.mark.parametrize("name", RESIZED)
def test_embeddings_of_more_tokens_are_right_on_the_base_that_has_them(tmp_path, name):
    make_base(tmp_path / "less", "llama")
    resized(tmp_path, tmp_path / "less", RESIZED[name]).rename(tmp_path / "base")
    check_right(tmp_path)


def test_embeddings_that_were_trained_outside_of_the_adapter_are_refused(tmp_path):
    less = make_base(tmp_path / "less", "llama")
    more = resized(tmp_path, less, {}, teach=True)
    with pytest.raises(ModelError, match=MOVES):
        ours(more, tmp_path / "start")


def test_an_adapter_that_can_t_be_kept_beside_itself_is_no_reference(tmp_path):
    """Its embeddings are the head's, too, of which peft keeps one beside another on the embeddings alone."""
    base = make_base(tmp_path / "base", "llama-tied")
    tied = {"modules_to_save": ["embed_tokens"], "ensure_weight_tying": True}
    start_adapter(tmp_path / "start", oracle_model(base), tied)
    loaded = load_model(str(base), device=CPU, dtype=torch.float32)
    witness = proof.ask(loaded)
    model = make_trainable(loaded, KTOConfig(model="tiny", lora_r=4), tmp_path / "start")
    proof.prove(model, witness)
    keep_as_reference(model, tmp_path / "start")
    with pytest.raises(ModelError, match="can't be kept as the reference beside the one that learns"):
        proof.prove(model, witness, start_adapter_on)


def test_what_is_refused_leaves_nothing_cached(tmp_path):
    """A whole run: it fails with the sentence, before the reference has computed anything."""
    make_base(tmp_path / "base", "llama")
    tiny_tokenizer().save_pretrained(tmp_path / "base")
    loftq(tmp_path / "start", tmp_path / "base")
    change_config(tmp_path / "start", init_lora_weights="loftq", loftq_config={"loftq_bits": 4, "loftq_iter": 1})
    rows = [
        {"prompt": "the cat", "completion": "sat", "label": True},
        {"prompt": "a dog", "completion": "ran", "label": 0},
    ]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    config = KTOConfig(
        model=str(tmp_path / "base"), data=str(tmp_path / "rows.json"), workspace=str(tmp_path / "workspace"),
        start_adapter=str(tmp_path / "start"), reference="base", eval_fraction=0, max_length=32, device="cpu",
    )  # fmt: skip
    with pytest.raises(ModelError, match=MOVES):
        train(config, progress=False)
    assert not [path for path in (tmp_path / "workspace" / "cache").rglob("*") if path.is_file()]
