"""What each objective does to the demo's model: behaviour, facts, distance and length, on good and on bad thumbs.

    python -m benchmarks.effects                # trains what is missing in benchmarks/effects.jsonl, and says the table
    python -m benchmarks.effects --table        # the table alone
    python -m benchmarks.effects --figure docs/pictures/effects.png

Every run has the demo's own settings (found for KTO; nothing was tuned for the others), six epochs, 16 answers a step.
What varies is the feedback, all of it made from the 200 pairs of `demo-pairs`:

    pairs      both answers of each prompt, 200 thumbs up and 200 down
    flip20     the same with the thumbs of a fifth of the prompts exchanged; flip40: of two fifths
    rare       all disliked answers and 22 liked ones, 1 in 10; the 22 pairs are all that pair objectives can use
    unpaired   one answer of each prompt, 100 thumbs up and 100 down: no pairs, so no pair objectives

Measured on 261 prompts of no feedback file, answers sampled at temperature 0.7: `trait` (kind and brief), `facts`
(right), `words` an answer. `kl` is the mean of log π_tuned − log π_base over answers to a third of them at temperature
1, in nats. A run takes about 20 seconds of one CPU thread; each is a line of the file, so that the rest can follow
later. Seeds decide the adapter, the batches, which thumbs are exchanged and the sampling.
"""

import argparse
import json
import random
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.machine import clock, describe_machine, say

FILE = Path(__file__).with_name("effects.jsonl")
SEEDS = (1, 2, 3)
PAIRED, THUMBS = ("dpo", "apo_zero", "ipo"), ("kto", "apo_zero_unpaired", "bco", "sft")
RATES = ("trait", "facts", "kl", "words")
NAMES = {
    "trait": "kind and brief",
    "facts": "facts right",
    "kl": "KL to the base, nats",
    "words": "words an answer",
}
RARE = 22  # of 200 liked answers, beside 200 disliked ones
ANSWERS_A_STEP = 16


def flipped(share: float) -> Callable[[list[dict], random.Random], list[dict]]:
    """The pairs with the thumbs of a share of them exchanged."""

    def made(pairs: list[dict], draw: random.Random) -> list[dict]:
        wrong = set(draw.sample(range(len(pairs)), round(share * len(pairs))))
        turned = lambda pair: {"prompt": pair["prompt"], "chosen": pair["rejected"], "rejected": pair["chosen"]}
        return [turned(pair) if i in wrong else pair for i, pair in enumerate(pairs)]

    return made


def _row(pair: dict, side: str) -> dict:
    return {"prompt": pair["prompt"], "completion": pair[side], "label": side == "chosen"}


def rare(pairs: list[dict], draw: random.Random) -> list[dict]:
    """All disliked answers, and few liked ones."""
    kept = set(draw.sample(range(len(pairs)), RARE))
    return [_row(pair, side) for i, pair in enumerate(pairs) for side in ("chosen", "rejected")[i not in kept :]]


def unpaired(pairs: list[dict], draw: random.Random) -> list[dict]:
    """One answer of each pair, liked and disliked ones as often."""
    liked = set(draw.sample(range(len(pairs)), len(pairs) // 2))
    return [_row(pair, "chosen" if i in liked else "rejected") for i, pair in enumerate(pairs)]


CONDITIONS = {
    "pairs": flipped(0.0),
    "flip20": flipped(0.2),
    "flip40": flipped(0.4),
    "rare": rare,
    "unpaired": unpaired,
}


def wanted() -> Iterator[tuple[str, str, int]]:
    """(condition, objective, seed) of every run, one seed after the other."""
    for seed in SEEDS:
        for condition in CONDITIONS:
            yield condition, "base", seed
            for objective in (*THUMBS, *(() if condition == "unpaired" else PAIRED)):
                yield condition, objective, seed


class Laboratory:
    """Trains and measures one run at a time, the base's answers being asked for once a seed."""

    def __init__(self, folder: Path) -> None:
        from kto_workbench.answers.sides import Models
        from kto_workbench.demo.measure import evaluation_prompts
        from kto_workbench.feedback.named import find_demo_file

        self.folder, self.models = folder, Models()
        self.prompts = [row["prompt"] for row in evaluation_prompts()]
        self.pairs = [json.loads(line) for line in find_demo_file("demo-pairs").read_text("utf-8").splitlines()]

    def run(self, condition: str, objective: str, seed: int) -> dict[str, Any]:
        """Train and measure."""
        from kto_workbench.config import KTOConfig
        from kto_workbench.engine.training import train
        from kto_workbench.objectives import OBJECTIVES
        from kto_workbench.runs.sides import Side, find_side, reference_of

        if objective == "base":
            return self._measured(find_side("model:demo", str(self.folder)), None, seed)
        data = self.folder / f"{condition}-{seed}.jsonl"
        rows = CONDITIONS[condition](self.pairs, random.Random(f"{condition}/{seed}"))
        data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        config = KTOConfig(
            model="demo",
            data=str(data),
            workspace=str(self.folder),
            objective=objective,
            batch_size=ANSWERS_A_STEP // (2 if OBJECTIVES[objective].paired else 1),
            eval_fraction=0.0,
            sample_steps=-1,
            save_steps=0,
            seed=seed,
        )
        made = []
        cost = clock(lambda: made.append(train(config, progress=False)))
        (trained,) = made
        last = next(record for record in reversed(trained.metrics()) if "loss" in record)
        found = self._measured(Side(trained), reference_of(Side(trained)), seed)
        margin = last.get("rewards/margins")
        return found | {"steps": trained.status().step, "margin": margin, "seconds": round(cost.cpu, 1)}

    def _measured(self, side: Any, base: Any, seed: int) -> dict[str, Any]:
        from kto_workbench.answers.comparison import answer_as, completion_stats
        from kto_workbench.demo.measure import measure

        answers = answer_as(self.models, side, self.prompts, seed, 0.7, 96)
        rates = measure({"prompt": p, "answer": a} for p, a in zip(self.prompts, answers, strict=True))
        kl = 0.0
        if base is not None:
            some = self.prompts[::3]
            free = answer_as(self.models, side, some, seed, 1.0, 96)
            stats = completion_stats(self.models, side, base, some, free)
            kl = fmean(one["tuned_logp"] - one["reference_logp"] for one in stats)
        words = fmean(len(answer.split()) for answer in answers)
        return {**{name: rates[name] for name in ("trait", "facts", "sums", "honest")}, "kl": kl, "words": words}


def results() -> list[dict[str, Any]]:
    """The runs that have been made."""
    return [json.loads(line) for line in FILE.read_text(encoding="utf-8").splitlines()] if FILE.exists() else []


def make_missing() -> None:
    """Train what is not there yet, and add it to the file, a line a run."""
    import torch

    torch.set_num_threads(1)
    known = {(one["condition"], one["objective"], one["seed"]) for one in results()}
    base: dict[int, dict[str, Any]] = {one["seed"]: one for one in results() if one["objective"] == "base"}
    with tempfile.TemporaryDirectory(prefix="kto-effects-") as scratch:
        laboratory = Laboratory(Path(scratch))
        for condition, objective, seed in wanted():
            if (condition, objective, seed) in known or objective == "base" and seed in base:
                continue
            found = laboratory.run(condition, objective, seed)
            if objective == "base":
                base[seed] = found
            line = {"condition": condition, "objective": objective, "seed": seed, **found}
            say(json.dumps(line))
            with FILE.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")


def summary() -> dict[tuple[str, str], dict[str, tuple[float, float, float, int]]]:
    """By condition and objective, of each rate: mean, lowest and highest of the seeds, and how many there were."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for condition in CONDITIONS:
        for objective in ("base", *THUMBS, *PAIRED):
            runs = [
                one
                for one in results()
                if one["objective"] == objective and (objective == "base" or one["condition"] == condition)
            ]
            if runs:
                values = {name: [one[name] for one in runs] for name in RATES}
                found[condition, objective] = {name: (fmean(v), min(v), max(v), len(v)) for name, v in values.items()}
    return found


def table() -> str:
    """The means of the seeds as Markdown, the lowest and the highest in brackets."""
    lines = ["| feedback | objective | " + " | ".join(NAMES.values()) + " | seeds |", "|---" * (len(RATES) + 3) + "|"]
    for (condition, objective), rates in summary().items():
        if objective == "base" and condition != "pairs":
            continue
        cells = []
        for name in RATES:
            mean, low, high, count = rates[name]
            digits = 2 if name in ("trait", "facts") else 1
            around = f" ({low:.{digits}f}–{high:.{digits}f})" if count > 1 else ""
            cells.append(f"{mean:.{digits}f}{around}")
        where = "" if objective == "base" else condition
        lines.append(f"| {where} | {objective} | {' | '.join(cells)} | {rates['trait'][3]} |")
    return "\n".join(lines)


def figure(path: Path) -> None:
    """Draw the table: a panel for each rate, a group for each kind of feedback, a mark for each objective."""
    from matplotlib.figure import Figure

    from kto_workbench.views.figure import PLAIN, SEVERAL

    found = summary()
    objectives = [*THUMBS, *PAIRED]
    colors = dict(zip(objectives, (*SEVERAL, PLAIN), strict=True))
    drawn = Figure(figsize=(10, 9.2), layout="constrained")
    axes = drawn.subplots(len(RATES), 1, sharex=True)
    for axis, rate in zip(axes, RATES, strict=True):
        for place, condition in enumerate(CONDITIONS):
            for number, objective in enumerate(objectives):
                if (condition, objective) not in found:
                    continue
                mean, low, high, _ = found[condition, objective][rate]
                x = place + (number - (len(objectives) - 1) / 2) * 0.11
                marker = "s" if objective in PAIRED else "o"
                axis.plot([x, x], [low, high], color=colors[objective], linewidth=1.6)
                axis.plot(x, mean, marker, color=colors[objective], markersize=5.5)
        if ("pairs", "base") in found:
            axis.axhline(found["pairs", "base"][rate][0], color=PLAIN, linewidth=0.8, linestyle="--")
        axis.set_title(NAMES[rate], fontsize=10, loc="left")
        axis.tick_params(labelsize=8)
        axis.grid(axis="y", color="#8884", linewidth=0.6)
        axis.spines[["top", "right"]].set_visible(False)
    titles = ("pairs, 200 : 200", "a fifth exchanged", "two fifths exchanged", "1 liked in 10", "no pairs, 100 : 100")
    axes[-1].set_xticks(range(len(CONDITIONS)), titles, fontsize=9)
    for objective in objectives:
        marker = "s" if objective in PAIRED else "o"
        axes[0].plot([], [], marker, color=colors[objective], markersize=5.5, label=objective)
    axes[0].plot([], [], "--", color=PLAIN, linewidth=0.8, label="base model")
    axes[0].legend(fontsize=8, frameon=False, ncols=4, loc="lower left")
    drawn.suptitle(
        "What each objective does to the demo: means, and the lowest to the highest of the seeds", fontsize=11
    )
    drawn.savefig(path, dpi=110)


def main(arguments: list[str] | None = None) -> None:
    """Train what is missing, then say the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.effects", description=__doc__.splitlines()[0])
    parser.add_argument("--table", action="store_true", help="train nothing")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout instead of a table")
    parser.add_argument("--figure", type=Path, help="train nothing, and draw the table into this file")
    given = parser.parse_args(arguments)
    if given.figure:
        figure(given.figure)
        return
    if not given.table:
        make_missing()
    print(json.dumps({"machine": describe_machine(1), "rows": results()}) if given.json else table())


if __name__ == "__main__":
    main()
