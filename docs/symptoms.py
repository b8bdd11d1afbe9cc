"""Take the pictures of docs/curves.md anew: runs of the demo with one thing wrong in each, and a healthy one.

    python docs/symptoms.py [FOLDER]

Two minutes on a CPU.
"""

import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from kto_workbench import KTOConfig, plot, train  # noqa: E402

# What is done to the demo's settings to see a symptom.
SYMPTOMS = {
    "healthy": {},
    "still": {"learning_rate": 1e-6},
    "both-fall": {"learning_rate": 0.02, "undesirable_weight": 8.0, "desirable_weight": 1.0},
    "z0-zero": {"beta": 0.3},
    "overfit": {"num_train_epochs": 40.0, "lora_r": 64, "learning_rate": 4e-3, "beta": 0.3},
}


def main(folder: Path) -> None:
    """One picture a symptom."""
    with tempfile.TemporaryDirectory() as workspace:
        for name, changed in SYMPTOMS.items():
            run = train(KTOConfig(model="demo", data="demo", workspace=workspace, sample_steps=-1, **changed))
            path = folder / f"symptom-{name}.png"
            plot(run).savefig(path, dpi=80)
            last = run.metrics()[-1]
            print(path, {key: round(value, 3) for key, value in last.items() if isinstance(value, float)})


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "docs" / "pictures")
