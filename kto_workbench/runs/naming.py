"""Names that say what is particular about a run: its data, and what differs from the run before it.

    harmless-test · β 0.3          the data, and the one option that is different
    harmless-test · β 0.3 · 2      the same once more

A name is a suggestion like any other that people may change; a run's id stays what it is.
"""

from collections.abc import Iterable
from pathlib import Path

from kto_workbench.config import DEMO_MODEL, KTOConfig
from kto_workbench.errors import WorkbenchError
from kto_workbench.objectives import unused_by
from kto_workbench.runs.directory import list_runs
from kto_workbench.runs.shelf import LONGEST_NAME

# What people change from run to run, in the order in which it is told, and how it is written.
TOLD = {
    "objective": "{}",
    "tuning": "{}",
    "beta": "β {:g}",
    "learning_rate": "rate {:g}",
    "desirable_weight": "λ_D {:.3g}",
    "undesirable_weight": "λ_U {:.3g}",
    "z0": "z0 {}",
    "reference": "reference {}",
    "num_train_epochs": "{:g} epochs",
    "max_steps": "{} steps",
    "batch_size": "batch {}",
    "lora_r": "rank {}",
    "lora_alpha": "α {:g}",
    "sft_weight": "SFT {:g}",
    "load_in_4bit": "4 bits: {}",
    "max_length": "length {}",
    "eval_fraction": "held out {:g}",
    "seed": "seed {}",
}
DIFFERENCES = 3  # told of a run; more would be no name
LONGEST_PART = 28


def suggest_name(config: KTOConfig) -> str:
    """A name for a run of these settings, which no other run of its workspace has."""
    runs = list_runs(config.workspace)
    before = next((found for run in runs if (found := _config(run)) is not None), None)
    parts = [_end_of(config.data)]
    if config.model != (before.model if before else DEMO_MODEL):
        parts.append(_end_of(config.model))
    if config.start_adapter:
        parts.append("next round")
    unused = unused_by(config.objective)
    told = [
        form.format(value)
        for name, form in TOLD.items()
        if name not in unused
        and (value := getattr(config, name)) is not None
        and (getattr(before, name) != value if before else _particular(name, value))
    ]
    parts += told[:DIFFERENCES] or [config.objective if "beta" in unused else f"β {config.beta:g}"]
    name = " · ".join(parts)[: LONGEST_NAME - 6]
    taken = {run.about()["name"] for run in runs}
    return next(one for n in range(1, len(runs) + 3) if (one := name if n == 1 else f"{name} · {n}") not in taken)


def differences(config: KTOConfig, names: Iterable[str]) -> str:
    """Some options with their values, as they are told in a name."""
    return " · ".join(TOLD.get(name, f"{name} {{}}").format(getattr(config, name)) for name in names)


def _particular(name: str, value: object) -> bool:
    """Whether a first run is named by an option."""
    return name == "beta" or name == "objective" and value != "kto"


def _config(run) -> KTOConfig | None:
    try:
        return run.config()
    except WorkbenchError:
        return None


def _end_of(path: str) -> str:
    """A file without its folder and endings, or a model without its owner."""
    name = Path(path.rstrip("/")).name
    for ending in (".gz", ".zst", ".jsonl", ".json", ".csv", ".tsv", ".parquet", ".arrow", ".txt"):
        name = name.removesuffix(ending)
    return name[:LONGEST_PART]
