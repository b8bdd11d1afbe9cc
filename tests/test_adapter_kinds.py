"""Start adapters of all kinds that peft makes: trained right, or refused in a sentence, before the first step."""

import pytest
import torch
from family_check import CPU, close, make_rows, oracle_logps, oracle_model
from peft import LoraConfig, PeftModel, get_peft_model
from tiny_models import tiny_model

from kto_workbench.config import KTOConfig
from kto_workbench.engine import proof
from kto_workbench.engine.models import adapter_off, load_adapter, load_model, make_trainable, merge_adapter
from kto_workbench.engine.scoring import make_scorer
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
    twin = PeftModel.from_pretrained(oracle_model(base), tmp_path / "start", is_trainable=True).eval()
    pairs, mismatched = make_rows()
    model, scorer = ours(base, tmp_path / "start")
    with torch.no_grad(), adapter_off(model):
        off, off_kl = scorer.score_both(pairs, mismatched)
    close(torch.cat([off.logps, off_kl]), oracle_logps(oracle_model(base), pairs + mismatched), "the reference")
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
    torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2).step()
    with torch.no_grad():
        tuned = scorer.score(pairs).logps
        assert (tuned - want).abs().max() > 1e-2
        model.save_pretrained(tmp_path / "tuned")
        again = load_adapter(load_model(str(base), device=CPU, dtype=torch.float32), tmp_path / "tuned")
        close(make_scorer(again).score(pairs).logps, tuned, "loaded again")
        if name == "bias in B" or (tied and name.startswith("on the")):
            with pytest.raises(ModelError, match="can't be merged|uses some of them in two places"):
                merge_adapter(again)
        else:
            merge_adapter(again).save_pretrained(tmp_path / "merged")
            close(oracle_logps(oracle_model(tmp_path / "merged"), pairs), tuned, "merged")


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
