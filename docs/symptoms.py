"""Take the pictures of docs/curves.md anew: runs of the demo with one thing wrong in each, and a healthy one.

    python docs/symptoms.py [FOLDER] [--only NAME]

Three minutes on a CPU.
"""

import argparse
import contextlib
import logging
import resource
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from kto_workbench import KTOConfig, Run, plot, train  # noqa: E402

# What is done to the demo's settings to see a symptom.
SYMPTOMS = {
    "healthy": {},
    "still": {"learning_rate": 1e-6},
    "both-fall": {"learning_rate": 0.02, "undesirable_weight": 8.0, "desirable_weight": 1.0},
    "z0-zero": {"beta": 0.3},
    # Forty epochs over a fifth of the prompts; the others are held out, so that their loss is a smooth curve.
    "overfit": {"eval_fraction": 0.8, "num_train_epochs": 40.0, "eval_steps": 10},
}
# Twice the same run: with all the memory that a step would like, and with less than that.
LARGE_STEPS = {"batch_size": 128, "tokens_per_pass": 100_000, "max_steps": 30, "eval_fraction": 0.0, "z0": "batch"}
LEFT_OVER = 150 * 2**20  # bytes beyond what the process has


@contextlib.contextmanager
def little_memory() -> Iterator[None]:
    """The system refuses what goes much beyond what this process has already."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (psutil.Process().memory_info().vms + LEFT_OVER, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def runs(name: str, workspace: str) -> Iterator[Run]:
    """Train what a picture shows."""
    settings = {"model": "demo", "data": "demo", "workspace": workspace, "sample_steps": -1}
    if name == "memory":
        for limit in (contextlib.nullcontext(), little_memory()):
            with limit:
                yield train(KTOConfig(**settings | LARGE_STEPS))
    else:
        yield train(KTOConfig(**settings | SYMPTOMS[name]))


def main() -> None:
    """One picture a symptom."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", nargs="?", type=Path, default=ROOT / "docs" / "pictures")
    parser.add_argument("--only", choices=(*SYMPTOMS, "memory"))
    arguments = parser.parse_args()
    logging.basicConfig(format="%(message)s")
    with tempfile.TemporaryDirectory() as workspace:
        for name in [arguments.only] if arguments.only else (*SYMPTOMS, "memory"):
            shown = list(runs(name, workspace))
            path = arguments.folder / f"symptom-{name}.png"
            plot(shown if len(shown) > 1 else shown[0]).savefig(path, dpi=80)
            for run in shown:
                last = {key: round(value, 3) for key, value in run.metrics()[-1].items() if isinstance(value, float)}
                print(path, last)


if __name__ == "__main__":
    main()
