"""Every objective that TRL has, beside TRL's own trainer: the same batch, the same adapter; loss, gradient, log."""

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from test_step import make_config, run_step
from tiny_models import tiny_lora, tiny_model, tiny_tokenizer
from trl import DPOConfig, DPOTrainer
from trl import KTOConfig as TrlConfig
from trl import KTOTrainer as TrlTrainer

from kto_workbench.engine.batches import Batch, Pair, mismatched_pair
from kto_workbench.engine.models import adapter_off
from kto_workbench.engine.scoring import make_scorer
from kto_workbench.engine.trainer import mean_metrics
from kto_workbench.feedback import Row
from kto_workbench.feedback.rendering import encode_rows

ANSWERS = [
    ("the cat sat", " on the mat"),
    ("what is red", " the sun is red yes"),
    ("hello", " bye bye"),
    ("who ran under the tree", " the dog"),
]
OTHER_ANSWERS = [" under a tree", " no", " hello the cat", " a cat ran on the mat"]
OPTIONS = dict(
    per_device_train_batch_size=4, beta=0.3, max_length=64, report_to="none", use_cpu=True, bf16=False,
    activation_checkpointing=False,
)  # fmt: skip
LORA = dict(task_type="CAUSAL_LM", r=4, lora_alpha=8, target_modules="all-linear")


def make_peer(trainer_type, config, rows):
    """A trainer of TRL's over a tiny model, and our model with the same adapter."""
    trainer = trainer_type(
        model=tiny_model("llama", attn_implementation="eager"),
        args=config,
        train_dataset=Dataset.from_list(rows),
        processing_class=tiny_tokenizer(),
        peft_config=LoraConfig(**LORA),
    )
    ours, theirs = tiny_lora("llama"), dict(trainer.model.named_parameters())
    with torch.no_grad():
        for name, parameter in ours.named_parameters():
            if parameter.requires_grad:
                theirs[name].copy_(parameter)
    return trainer, ours


def theirs_of(trainer, examples):
    """TRL's loss, gradient and log of a batch."""
    trainer.model.zero_grad()
    trainer._metrics["train"].clear()
    loss = trainer.compute_loss(trainer.model, trainer.data_collator(examples))
    loss.backward()
    gradient = torch.cat([p.grad.flatten() for p in trainer.model.parameters() if p.grad is not None])
    return loss.item(), gradient, {name: values[-1] for name, values in trainer._metrics["train"].items()}


def pairs_of(answers):
    encoded = encode_rows(tiny_tokenizer(template=None), [Row(*answer, label=True, line=1) for answer in answers])
    return [Pair(one.prompt_ids, one.completion_ids) for one in encoded]


def reference_of(model, pairs):
    with torch.no_grad(), adapter_off(model):
        return make_scorer(model).score(pairs).logps


def assert_equal(ours, gradient, objective, loss, their_gradient, log):
    assert ours.loss.item() == pytest.approx(loss, rel=1e-5)
    assert (gradient - their_gradient).norm() <= 1e-4 * their_gradient.norm()
    found = mean_metrics([ours], objective)
    shared = found.keys() & log.keys()
    assert shared >= {"rewards/chosen", "logps/chosen"} or not ours.label.any()
    for name in shared:
        assert found[name] == pytest.approx(float(log[name]), rel=1e-4, abs=1e-6), name
    return shared


@pytest.mark.parametrize("objective", ["kto", "apo_zero_unpaired"])
@pytest.mark.parametrize("labels", [(True, False, False, True), (True,) * 4, (False,) * 4])
def test_an_objective_of_thumbs(objective, labels, tmp_path):
    rows = [{"prompt": p, "completion": c, "label": up} for (p, c), up in zip(ANSWERS, labels, strict=True)]
    # TRL pairs x_i with y_(i−1), we with y_(i+1): reversed rows make them the same pairs.
    config = TrlConfig(
        output_dir=str(tmp_path), loss_type=objective, desirable_weight=1.2, undesirable_weight=0.8, **OPTIONS
    )
    trainer, model = make_peer(TrlTrainer, config, rows[::-1])
    examples = [trainer.train_dataset[i] for i in range(4)]
    pairs = pairs_of(ANSWERS)
    for pair, example in zip(pairs, examples[::-1], strict=True):
        assert list(pair.prompt_ids) == example["prompt_ids"]
        assert list(pair.completion_ids) == example["completion_ids"]
    partners = pairs[1:] + pairs[:1]
    kl = [mismatched_pair(a.prompt_ids, b.completion_ids, 64) for a, b in zip(pairs, partners, strict=True)]
    references = [reference_of(model, some) for some in (pairs, kl)]
    batch = Batch(pairs, kl if objective == "kto" else [], torch.tensor(labels), *references)
    sums, gradient = run_step(model, batch, make_config(objective=objective))
    shared = assert_equal(sums, gradient, objective, *theirs_of(trainer, examples))
    assert ("kl" in shared) == (objective == "kto")


@pytest.fixture(scope="module")
def of_pairs(tmp_path_factory):
    """TRL's DPOTrainer, our model, and the same pairs for either; `loss_types` is looked up at each batch."""
    rows = [{"prompt": p, "chosen": c, "rejected": r} for (p, c), r in zip(ANSWERS, OTHER_ANSWERS, strict=True)]
    folder = str(tmp_path_factory.mktemp("trl"))
    trainer, model = make_peer(DPOTrainer, DPOConfig(output_dir=folder, **OPTIONS), rows)
    examples = [trainer.train_dataset[i] for i in range(4)]
    couples = [two for (p, c), r in zip(ANSWERS, OTHER_ANSWERS, strict=True) for two in ((p, c), (p, r))]
    pairs = pairs_of(couples)
    for liked, disliked, example in zip(pairs[::2], pairs[1::2], examples, strict=True):
        assert list(liked.prompt_ids) == list(disliked.prompt_ids) == example["prompt_ids"]
        assert list(liked.completion_ids) == example["chosen_ids"]
        assert list(disliked.completion_ids) == example["rejected_ids"]
    batch = Batch(pairs, [], torch.tensor([True, False] * 4), reference_of(model, pairs), coupled=True)
    return trainer, examples, model, batch


@pytest.mark.parametrize("objective, loss_type", [("dpo", "sigmoid"), ("apo_zero", "apo_zero"), ("ipo", "ipo")])
def test_an_objective_of_pairs(objective, loss_type, of_pairs):
    trainer, examples, model, batch = of_pairs
    trainer.loss_types = [loss_type]
    sums, gradient = run_step(model, batch, make_config(objective=objective))
    shared = assert_equal(sums, gradient, objective, *theirs_of(trainer, examples))
    assert shared >= {"rewards/accuracies", "rewards/margins", "rewards/rejected", "logps/rejected"}


def test_sft_beside_dpo(of_pairs):
    # TRL's DPOTrainer mixes losses: −log σ(…) + 0.7 · the next-token loss of the chosen, which is sft_weight 0.7 here.
    trainer, examples, model, batch = of_pairs
    trainer.loss_types, trainer.loss_weights = ["sigmoid", "sft"], [1.0, 0.7]
    theirs = theirs_of(trainer, examples)
    trainer.loss_weights = [1.0]
    sums, gradient = run_step(model, batch, make_config(objective="dpo", sft_weight=0.7))
    assert_equal(sums, gradient, "dpo", *theirs)


def test_bco_without_a_shift_is_half_of_trls_for_pairs(of_pairs):
    # TRL 1.16 has BCO for pairs alone, without δ: its loss adds the two answers of a pair, ours means over answers.
    # The mean of all rewards, δ, is 0 where those seen before make up for this batch's: their count is 8, their sum −Σ.
    from kto_workbench.engine.objective import RunningMean

    trainer, examples, model, batch = of_pairs
    trainer.loss_types = ["bco_pair"]
    loss, their_gradient, log = theirs_of(trainer, examples)
    thumbs = Batch(batch.pairs, [], batch.label, batch.reference_logps)
    total = 4 * (log["rewards/chosen"] + log["rewards/rejected"])
    config = make_config(objective="bco", desirable_weight=1.0, undesirable_weight=1.0)
    sums, gradient = run_step(model, thumbs, config, mean=RunningMean(torch.tensor(-total / 8), 8))
    assert sums.mean.value.item() == pytest.approx(0, abs=1e-5) and sums.mean.count == 16
    assert sums.loss.item() == pytest.approx(loss / 2, rel=1e-5)
    assert (2 * gradient - their_gradient).norm() <= 1e-4 * their_gradient.norm()
