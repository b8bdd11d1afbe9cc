"""What each objective costs: sequences, tokens, CPU seconds and memory, measured beside the formula.

    python -m benchmarks.objectives [--json] [--quick] [--threads 1]

One batch of 16 answers to 8 prompts, a liked and a disliked one to each, so that every objective finds its food: KTO
and its kin take them as 16 thumbs, DPO and its kin as 8 pairs, SFT the 8 liked ones. The last rows are for thumbs on 16
prompts of their own, which is what KTO is for. Everything is told for an answer that is trained on; P and C are tokens
of a prompt and of a completion, C' of a mismatched one, and a prompt is read once for all of its answers:

    with gradient   policy, forward and backward          P/k + C        k answers to a prompt
    scored          policy, forward alone                 C' for z0 `batch`; (P + C')/10 · 64/16 for `every`
    reference       forward alone, in the first epoch     P/k + C, and C' where z0 needs it

The last token of a completion predicts nothing and is not read. `alone` is what the same sequences would take, if each
were read by itself, as in the documents' table (KTO: 2 with the policy and 2 with the reference, for one answer; DPO:
as many for the two of a pair). Exits with code 1 where the tokens counted in the model are not those of the formula.
"""

import argparse
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from benchmarks.machine import clock, describe_machine, peak_memory, run_fresh, say, versions
from benchmarks.ours import Timed
from benchmarks.workload import Example, Mix, Shape, make_batches, make_model

VARIANTS: dict[str, dict[str, Any]] = {
    "sft": {"objective": "sft"},
    "kto, z0 batch": {},
    "kto, z0 every": {"z0": "every"},
    "kto, z0 zero": {"z0": "zero"},
    "kto, uniform reference": {"reference": "uniform"},
    "apo_zero_unpaired": {"objective": "apo_zero_unpaired"},
    "bco": {"objective": "bco"},
    "dpo": {"objective": "dpo"},
    "apo_zero": {"objective": "apo_zero"},
    "ipo": {"objective": "ipo"},
}
OF_THUMBS = [name for name, options in VARIANTS.items() if options.get("objective") not in ("dpo", "apo_zero", "ipo")]
ANSWERS, MIX, SHAPE, ROUNDS = 16, Mix(120, 120, 0.6), Shape(layers=4), 3
SAMPLE, EVERY = 64, 10  # KTOConfig's kl_sample and kl_every
TINY = Shape(layers=1, hidden=32, intermediate=64, heads=2, kv_heads=2, vocabulary=64, lora_r=2)


def make_answers(mix: Mix, shape: Shape, siblings: int) -> list[Example]:
    """Sixteen answers, liked and disliked in turn; two neighbours answer one prompt where there are `siblings` of 2."""
    lengths = Mix(mix.prompt_tokens, mix.completion_tokens, mix.sigma, siblings)
    (batch,) = make_batches(lengths, ANSWERS, ANSWERS, shape.vocabulary)
    order = [i + half for i in range(ANSWERS // 2) for half in (0, ANSWERS // 2)]
    return [Example(batch[i].prompt, batch[i].completion, n % 2 == 0) for n, i in enumerate(order)]


class Measured:
    """One objective on a batch: its steps, its reference, and the tokens that go through the model."""

    def __init__(self, shape: Shape, answers: list[Example], options: dict[str, Any]) -> None:
        import torch

        from kto_workbench.config import KTOConfig
        from kto_workbench.engine import attention
        from kto_workbench.engine.batches import Batch, Pair
        from kto_workbench.engine.models import base_of, body_of, make_trainable
        from kto_workbench.engine.scoring import make_scorer
        from kto_workbench.objectives import OBJECTIVES

        self.config = KTOConfig(
            model="benchmark",
            desirable_weight=1.0,
            undesirable_weight=1.0,
            lora_r=shape.lora_r,
            lora_alpha=2 * shape.lora_r,
            **options,
        )
        self.model = make_trainable(make_model(shape, attention.NAME), self.config)
        self.scorer = make_scorer(self.model)
        one = OBJECTIVES[self.config.objective]
        if self.config.objective == "sft":
            answers = [answer for answer in answers if answer.label]
        self.answers = answers
        # The next answer but one answers another prompt.
        others = answers[2:] + answers[:2]
        mismatched = [Pair(a.prompt, b.completion) for a, b in zip(answers, others, strict=True)]
        self.sample = (mismatched * SAMPLE)[:SAMPLE] if self.config.z0 == "every" else []
        pairs = [Pair(answer.prompt, answer.completion) for answer in answers]
        label = torch.tensor([answer.label for answer in answers])
        mismatched = mismatched if self.config.uses_mismatched else []
        self.batch = Batch(pairs, mismatched, label, coupled=one.paired)
        self.counts = dict.fromkeys(("gradient", "scored", "reference"), 0)
        self._part: str | None = None
        body_of(base_of(self.model)).register_forward_pre_hook(self._count, with_kwargs=True)

    def _count(self, module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        import torch

        part = self._part or ("gradient" if torch.is_grad_enabled() else "scored")
        self.counts[part] += kwargs["input_ids"].numel()

    @contextmanager
    def _as_reference(self, model: Any) -> Iterator[None]:
        from kto_workbench.engine.models import adapter_off

        self._part = "reference"
        with adapter_off(model):
            yield
        self._part = None

    def score_reference(self) -> None:
        """What the first epoch pays for the reference of the batch."""
        import torch

        from kto_workbench.engine.step import score_without_gradient

        if not self.config.uses_reference:
            return
        with self._as_reference(self.model):
            logps = score_without_gradient(self.scorer, [*self.batch.pairs, *self.batch.mismatched], None)
        own = len(self.batch)
        self.batch.reference_logps = logps[:own]
        self.batch.reference_kl_logps = logps[own:] if self.batch.mismatched else None
        assert torch.isfinite(logps).all()

    def estimate(self) -> None:
        """With z0 `every`: one estimate, by policy and reference, as `kl_every` steps share it."""
        from kto_workbench.engine.step import score_without_gradient

        for number in range(0, len(self.sample), ANSWERS):
            # A batch of the sample at a time, in which prompts are read for themselves, as in a sample of a large file.
            some = self.sample[number : number + ANSWERS]
            score_without_gradient(self.scorer, some, None)
            with self._as_reference(self.model):
                score_without_gradient(self.scorer, some, None)

    def step(self, number: int = 0) -> Any:
        """Add the gradient of the batch."""
        import torch

        from kto_workbench.engine.step import kto_step

        z0 = torch.zeros(()) if self.config.z0 == "every" else None
        return kto_step(self.scorer, self.batch, self.config, None, train=True, z0=z0).loss

    def formula(self) -> dict[str, float]:
        """Tokens of a step by the formula, and what they would be with every sequence read by itself."""
        prompts = sum(map(len, {answer.prompt for answer in self.answers}))
        own = prompts + sum(len(answer.completion) - 1 for answer in self.answers)
        of = lambda pairs: sum(len(pair.completion_ids) - 1 for pair in pairs)
        whole = lambda pairs: sum(len(pair) - 1 for pair in pairs)
        reference = own + of(self.batch.mismatched) if self.config.uses_reference else 0
        naive = whole(self.batch.pairs) + whole(self.batch.mismatched)
        sampled = (self._read_once(self.sample)) / EVERY
        return {
            "gradient": own,
            "scored": of(self.batch.mismatched) + sampled,
            "reference": reference + sampled,
            "alone": naive * (2 if self.config.uses_reference else 1) + 2 * whole(self.sample) / EVERY,
        }

    @staticmethod
    def _read_once(pairs: list[Any]) -> int:
        """Tokens of sequences of which those of a batch share their prompts."""
        batches = [pairs[i : i + ANSWERS] for i in range(0, len(pairs), ANSWERS)]
        return sum(
            sum(map(len, {pair.prompt_ids for pair in batch})) + sum(len(pair.completion_ids) - 1 for pair in batch)
            for batch in batches
        )


def measure(name: str, siblings: int) -> dict[str, Any]:
    """One row, in this process."""
    warm_up = Measured(TINY, make_answers(Mix(8, 8, 0), TINY, siblings), VARIANTS[name])
    warm_up.score_reference()
    Timed(warm_up)(0)
    base = make_model(SHAPE)
    loaded = peak_memory()
    del base
    measured = Measured(SHAPE, make_answers(MIX, SHAPE, siblings), VARIANTS[name])
    reference = clock(measured.score_reference)
    step = Timed(measured)
    step.warm_up()
    step(0)
    memory = peak_memory() - loaded
    counted, formula = count(measured), measured.formula()
    costs = [step(0) for _ in range(ROUNDS)]
    references = [clock(measured.score_reference) for _ in range(ROUNDS - 1)] + [reference]
    estimates = [clock(measured.estimate) for _ in range(ROUNDS - 1)]
    n, best = len(measured.answers), lambda some: min(cost.cpu for cost in some)
    every = best(estimates) / EVERY
    sequences = len(measured.batch.mismatched) + len(measured.sample) / EVERY
    return {
        "variant": name,
        "prompts": ANSWERS // siblings,
        "answers": n,
        "forwards_policy": 1 + sequences / n,
        "forwards_reference": (1 + len(measured.batch.mismatched) / n if measured.config.uses_reference else 0)
        + len(measured.sample) / EVERY / n,
        "tokens": {part: counted[part] / n for part in counted},
        "formula": {part: formula[part] / n for part in formula},
        "cpu_seconds": (best(costs) + every) / n,
        "cpu_seconds_first_epoch": (best(costs) + every + best(references)) / n,
        "memory": memory,
    }


def count(measured: Measured) -> dict[str, float]:
    """The tokens that went through the model in a step of the first epoch, an estimate's share included."""
    measured.counts = dict.fromkeys(measured.counts, 0)
    measured.estimate()
    sampled = {part: tokens / EVERY for part, tokens in measured.counts.items()}
    measured.counts = dict.fromkeys(measured.counts, 0)
    measured.score_reference()
    measured.step()
    return {part: tokens + sampled[part] for part, tokens in measured.counts.items()}


def main(arguments: list[str] | None = None) -> None:
    """Each row in a fresh process, then a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.objectives", description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout instead of a table")
    parser.add_argument("--quick", action="store_true", help="two rows only")
    parser.add_argument("--threads", type=int, default=None, help="CPU threads (default: OMP_NUM_THREADS, else 1)")
    parser.add_argument("--part", help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    threads = given.threads or int(os.environ.get("OMP_NUM_THREADS", 0)) or 1
    if given.part:
        name, siblings = given.part.rsplit("/", 1)
        print(json.dumps(measure(name, int(siblings))))
        return
    parts = [(name, 2) for name in VARIANTS] + [(name, 1) for name in OF_THUMBS]
    if given.quick:
        parts = [("kto, z0 batch", 2), ("dpo", 2)]
    rows = []
    for name, siblings in parts:
        say(f"{name}, {ANSWERS // siblings} prompts")
        rows.append(run_fresh("benchmarks.objectives", ["--part", f"{name}/{siblings}"], threads))
    if given.json:
        json.dump({"machine": describe_machine(threads), "versions": versions(), "rows": rows}, sys.stdout, indent=1)
        print()
    else:
        print(table(rows))
    wrong = [row["variant"] for row in rows for part in row["tokens"] if not _equal(row, part)]
    if wrong:
        say(f"The tokens of {', '.join(wrong)} are not those of the formula.")
        sys.exit(1)


def _equal(row: dict[str, Any], part: str) -> bool:
    return abs(row["tokens"][part] - row["formula"][part]) < 1e-6 * max(1, row["formula"][part])


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as Markdown, for an answer that is trained on."""
    lines = [
        "| objective | prompts of 16 answers | sequences: policy + reference "
        "| tokens with gradient + scored + reference | read alone | CPU ms an epoch | … first epoch | MiB |",
        "|---" * 8 + "|",
    ]
    for row in rows:
        tokens = " + ".join(f"{row['tokens'][part]:.0f}" for part in ("gradient", "scored", "reference"))
        lines.append(
            f"| {row['variant']} | {row['prompts']} | {row['forwards_policy']:.2g} + {row['forwards_reference']:.2g} "
            f"| {tokens} | {row['formula']['alone']:.0f} | {1000 * row['cpu_seconds']:.0f} "
            f"| {1000 * row['cpu_seconds_first_epoch']:.0f} | {row['memory'] / 2**20:.0f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
