"""Record the runs that answer Learn's questions: the demo, and the demo with one thing changed.

python -m kto_workbench.shell.lessons       # writes assets/lessons.json, a few minutes on a CPU

Of each run the file keeps a few dozen points: how far liked and disliked answers have moved, in nats (rewards ÷ β), and
the KL that was measured on its own samples. Nothing in it is written by hand.
"""

import json
import tempfile
from pathlib import Path
from typing import Any

from kto_workbench.config import KTOConfig
from kto_workbench.feedback.named import asset
from kto_workbench.runs import Run
from kto_workbench.runs.jsonlines import write_atomically

FILE = "lessons.json"
WINDOWS = 30  # points of a curve, each the mean of its window
# Each with what differs from the first.
LESSONS: dict[str, dict[str, Any]] = {
    "demo": {},
    "beta": {"beta": 10.0},
    "rate": {"learning_rate": 1.5e-4},
    "rare": {"data": "demo-rare"},
    "rare_unweighted": {"data": "demo-rare", "desirable_weight": 1.0, "undesirable_weight": 1.0},
}


def record(workspace: Path) -> dict[str, Any]:
    """Train them all, and keep what the pictures show."""
    from kto_workbench.engine.training import train

    first = {"data": "demo", "workspace": str(workspace)}
    return {name: _kept(train(KTOConfig(**first | changed), progress=False)) for name, changed in LESSONS.items()}


def _kept(run: Run) -> dict[str, Any]:
    config, records = run.config(), run.metrics()
    steps = [one for one in records if "loss" in one]
    kept: dict[str, Any] = {
        "beta": config.beta,
        "steps": [],
        "up": [],
        "down": [],
    }
    for i in range(WINDOWS):
        window = steps[i * len(steps) // WINDOWS : (i + 1) * len(steps) // WINDOWS]
        kept["steps"].append(window[-1]["step"])
        for name, key in (("up", "rewards/chosen"), ("down", "rewards/rejected")):
            found = [one[key] / config.beta for one in window if one.get(key) is not None]
            kept[name].append(round(sum(found) / len(found), 3) if found else None)
    kl = [one for one in records if "kl_sampled" in one]
    kept["kl"] = [[one["step"], round(one["kl_sampled"], 3), round(one["kl_sampled_error"], 3)] for one in kl]
    return kept


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="kto-") as scratch:
        found = record(Path(scratch))
    lines = [f"  {json.dumps(name)}: {json.dumps(one)}" for name, one in found.items()]
    write_atomically(asset("feedback").parent / FILE, "{\n" + ",\n".join(lines) + "\n}\n")
