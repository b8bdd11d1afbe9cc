"""What is asked of a family of models, from its folder to a merged model.

The oracle shares nothing with the engine: transformers' model with its eager attention in eval mode, peft's adapter,
log-softmax over all logits; one row at a time, and all rows in one batch, filled up at their ends.
"""

import contextlib
import logging
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import get_peft_model
from tiny_families import tiny_family
from transformers import AutoModelForCausalLM, GenerationConfig

from kto_workbench.config import KTOConfig
from kto_workbench.engine import proof
from kto_workbench.engine.batches import Pair
from kto_workbench.engine.models import adapter_off, add_lora, load_adapter, load_model, merge_adapter
from kto_workbench.engine.objective import estimate_z0, kto_loss
from kto_workbench.engine.scoring import make_scorer
from kto_workbench.errors import ModelError

CPU = torch.device("cpu")
TOLERANCE = 1e-4
CONFIG = KTOConfig(model="family", lora_r=2, lora_alpha=4)


@dataclass(frozen=True)
class Outcome:
    """How a family is scored (packed, padded, one by one) or that it is refused, and why it is not packed."""

    way: str
    reason: str = ""


def make_rows(seed: int = 1) -> tuple[list[Pair], list[Pair]]:
    """Pairs of 8 to 30 tokens, two of them after one prompt, and mismatched ones; ordinary tokens of 97."""
    draw = torch.Generator().manual_seed(seed)
    ids = lambda n: tuple(torch.randint(5, 60, (n,), generator=draw).tolist())
    prompts = [ids(12), ids(3), ids(21)]
    pairs = [Pair(prompts[i], ids(n)) for i, n in ((0, 5), (1, 9), (2, 8), (0, 7))]
    return pairs, [Pair(p.prompt_ids, q.completion_ids) for p, q in zip(pairs, pairs[1:] + pairs[:1], strict=True)]


def oracle_logps(model, pairs):
    """[n] log-probabilities of completions, one row at a time, by all logits of the model."""
    found = []
    for pair in pairs:
        ids = torch.tensor([pair.prompt_ids + pair.completion_ids])
        logits = model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits[0].float()
        rows = logits[len(pair.prompt_ids) - 1 : -1].log_softmax(-1)
        found.append(rows.gather(-1, ids[0, len(pair.prompt_ids) :, None]).sum())
    return torch.stack(found)


def oracle_padded(model, pairs):
    """The same by one batch of all rows."""
    width = max(map(len, pairs))
    ids, mask = torch.zeros(2, len(pairs), width, dtype=torch.long)
    for i, pair in enumerate(pairs):
        ids[i, : len(pair)], mask[i, : len(pair)] = torch.tensor(pair.prompt_ids + pair.completion_ids), 1
    logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits.float()
    found = []
    for i, pair in enumerate(pairs):
        rows = logits[i, len(pair.prompt_ids) - 1 : len(pair) - 1].log_softmax(-1)
        found.append(rows.gather(-1, ids[i, len(pair.prompt_ids) : len(pair), None]).sum())
    return torch.stack(found)


def oracle_model(folder: Path, attention: str = "eager"):
    """The family's own model from a folder with its own attention, in eval mode."""
    return AutoModelForCausalLM.from_pretrained(folder, attn_implementation=attention, dtype=torch.float32).eval()


def close(got, want, what):
    """Fails unless two tensors are the same within the tolerance, relative to the larger of the wanted ones and 1."""
    worst = ((got - want).abs().max() / want.abs().max().clamp(min=1)).item()
    assert worst <= TOLERANCE, f"{what}: {worst:.1e} apart"


@contextlib.contextmanager
def listening():
    """What the engine logs for a while."""
    told: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: told.append(record.getMessage())
    logger = logging.getLogger("kto_workbench.engine.trial")
    logger.addHandler(handler)
    try:
        yield told
    finally:
        logger.removeHandler(handler)


def answers(model):
    """[2, 4] greedy tokens after two prompts of other lengths, filled up on the left."""
    ids = torch.tensor([[0, 0, 0, 11, 12, 13, 14, 15, 16], [21, 22, 23, 24, 25, 26, 27, 28, 29]])
    mask = (ids != 0).long()
    how = GenerationConfig(max_new_tokens=4, do_sample=False, use_cache=True, pad_token_id=0, eos_token_id=2)
    with torch.no_grad():
        return model.generate(input_ids=ids, attention_mask=mask, generation_config=how)[:, ids.shape[1] :]


def check_family(family: str, folder: Path) -> Outcome:
    """Load, try, step, save, reload, merge; returns how it is scored. Fails an assertion where anything differs."""
    tiny_family(family).save_pretrained(folder / "base")
    try:
        with listening() as told:
            base = load_model(str(folder / "base"), device=CPU, dtype=torch.float32)
            witness = proof.ask(base)
            model = add_lora(base, CONFIG)
            scorer = make_scorer(model)
        proof.prove(model, witness)
    except ModelError as error:
        return Outcome("refused", str(error).replace(str(folder), "folder"))
    assert bool(told) == (scorer.name != "packed"), told

    pairs, mismatched = make_rows()
    label = torch.tensor([True, False, True, False])
    with torch.no_grad():
        fresh, fresh_kl = scorer.score_both(pairs, mismatched)
        with adapter_off(model):
            reference, reference_kl = scorer.score_both(pairs, mismatched)
    close(fresh.logps, reference.logps, "rewards before the first step")
    want = oracle_logps(oracle_model(folder / "base"), pairs + mismatched).detach()
    close(torch.cat([reference.logps, reference_kl]), want, "the reference against the family's own model")

    # Gradients where no factor of the adapter is zero.
    draw = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.copy_(torch.randn(parameter.shape, generator=draw) * 0.1)
    twin = get_peft_model(oracle_model(folder / "base"), model.peft_config["default"]).eval()
    values = dict(model.named_parameters())
    with torch.no_grad():
        for name, parameter in twin.named_parameters():
            if parameter.requires_grad:
                parameter.copy_(values[name])
    factors = torch.linspace(-1, 2, len(pairs))
    logps = scorer.score(pairs).logps
    with torch.no_grad():
        want = oracle_logps(twin, pairs)
    close(logps, want, "the tuned model")
    batch = oracle_padded(twin, pairs)
    if scorer.name == "one by one":  # since its own batch says something else
        assert (batch - want).abs().max() > 1e-3
        batch = oracle_logps(twin, pairs)
    close(batch, want, "the family's own padded batch against its own rows")
    for values in (logps, batch):
        (values * factors).sum().backward()
    ours = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    theirs = {name: p.grad for name, p in twin.named_parameters() if p.requires_grad}
    assert ours.keys() == theirs.keys() and ours
    scale = max(g.norm() for g in theirs.values() if g is not None)
    for name, gradient in theirs.items():
        if gradient is None:
            assert ours[name] is None or not ours[name].any(), name
            continue
        apart = (ours[name] - gradient).norm() / max(gradient.norm(), 1e-2 * scale)
        assert apart <= TOLERANCE, f"gradient of {name}: {apart:.1e} apart"

    reasons = [told[0].split(": ", 1)[1].rstrip(".")] if told else []
    try:
        said = answers(twin)
    except Exception:
        reasons.append("transformers itself can't have it answer")
    else:
        assert torch.equal(answers(model), said), "other answers"
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(3):
        optimizer.zero_grad()
        scores, kl_logps = scorer.score_both(pairs, mismatched)
        z0 = estimate_z0(kl_logps, reference_kl)
        losses, _ = kto_loss(
            scores.logps, reference.logps, label, z0, beta=0.1, desirable_weight=1.0, undesirable_weight=1.0
        )
        losses.mean().backward()
        optimizer.step()
    with torch.no_grad():
        tuned = scorer.score(pairs).logps
    assert (tuned - want).abs().max() > 1e-3, "three steps changed nothing"
    model.save_pretrained(folder / "adapter")
    again = load_adapter(load_model(str(folder / "base"), device=CPU, dtype=torch.float32), folder / "adapter")
    with torch.no_grad():
        close(make_scorer(again).score(pairs).logps, tuned, "the adapter loaded again")
        try:
            merge_adapter(again).save_pretrained(folder / "merged")
        except ModelError as error:
            assert "because it uses some of them in two places; export the adapter instead" in str(error)
            reasons.append("an adapter can't be merged into weights that it uses in several places")
        else:
            close(oracle_logps(oracle_model(folder / "merged"), pairs), tuned, "the merged model")
    return Outcome(scorer.name, "; ".join(reasons))
