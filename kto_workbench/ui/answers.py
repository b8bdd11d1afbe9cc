"""What the tabs that ask models share: which runs can answer, on which sides, how often the page is told."""

from kto_workbench.ui.words import say
from kto_workbench.ui.workbench import RUNS_OFFERED, Workbench

SIDES = ("reference", "tuned")
# Each update costs the browser some milliseconds; more than a dozen a second arrive late rather than often.
UPDATE_SECONDS = 0.08


def compared_runs(bench: Workbench, language: str) -> list[tuple[str, str]]:
    """The runs that have an adapter, or a model, to answer with, the newest first."""
    return [
        (f"{run.id} · {say(language, f'state.{run.status().state}')}", run.id)
        for run in bench.runs()[:RUNS_OFFERED]
        if run.trained()
    ]
