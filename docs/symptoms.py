"""Take the pictures of docs/curves.md anew: runs of the demo with one thing wrong in each, and a healthy one.

    python docs/symptoms.py [FOLDER] [--only NAME]

Three minutes on a CPU.
"""

import argparse
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from kto_workbench import KTOConfig, plot, train  # noqa: E402
from kto_workbench.runs.shelf import describe_run  # noqa: E402

# What is done to the demo's settings to see a symptom; several runs are laid over each other.
SYMPTOMS = {
    "healthy": [{}],
    "still": [{"learning_rate": 1e-6}],
    "both-fall": [{"learning_rate": 0.02, "undesirable_weight": 8.0, "desirable_weight": 1.0}],
    "z0-zero": [{"beta": 0.3}],
    # Forty epochs over a fifth of the prompts; the others are held out, so that their loss is a smooth curve.
    "overfit": [{"eval_fraction": 0.8, "num_train_epochs": 40.0, "eval_steps": 10}],
    # What a step does when memory has run out: it goes on in smaller passes, here of a seventh of its tokens.
    "passes": [{"tokens_per_pass": 100_000}, {"tokens_per_pass": 256}],
}


def main() -> None:
    """One picture a symptom."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", nargs="?", type=Path, default=ROOT / "docs" / "pictures")
    parser.add_argument("--only", choices=SYMPTOMS)
    arguments = parser.parse_args()
    for name in [arguments.only] if arguments.only else SYMPTOMS:
        with tempfile.TemporaryDirectory() as workspace:
            settings = {"model": "demo", "data": "demo", "workspace": workspace, "sample_steps": -1}
            runs = [train(KTOConfig(**settings | changed), progress=False) for changed in SYMPTOMS[name]]
            for run, changed in zip(runs, SYMPTOMS[name], strict=True):
                if len(runs) > 1:
                    describe_run(run, ", ".join(f"{option} {value}" for option, value in changed.items()), "")
            path = arguments.folder / f"symptom-{name}.png"
            plot(runs if len(runs) > 1 else runs[0]).savefig(path, dpi=80)
            for run in runs:
                last = {key: round(value, 3) for key, value in run.metrics()[-1].items() if isinstance(value, float)}
                print(path, last)


if __name__ == "__main__":
    main()
