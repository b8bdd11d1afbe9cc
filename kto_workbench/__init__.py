"""KTO Workbench: turn thumbs up and thumbs down into a better language model.

    from kto_workbench import KTOConfig, load_feedback, suggest_weights, train, compare, plot, Run

    feedback = load_feedback("thumbs.jsonl")                    # .rows, .problems, .balance()
    run = train(KTOConfig(model="demo", data="thumbs.jsonl"))   # in this process
    plot(run)                                                   # rewards, z0, loss as a figure
    compare(run, ["Hello!"])                                    # reference and tuned, same seed

The rooms, each of which imports only from those above it:

    config, errors   every option once (objectives: who uses which); every message to the user is a WorkbenchError
    feedback         thumbs in: any file becomes rows; checks, balance and weights; the store of collected thumbs
    runs             a run's directory, the queue, child processes
    judging          who wins: rules, a judge behind an endpoint, win rates, evaluations kept with a run
    demo             the small world of the demo: its text, its judge, its figures
    engine           what trains, KTO itself: objective, batches, scoring, reference, trainer, generation
    answers          what answers: two sides compared, why they differ, judged; a run's model as files
    doctor           what a first run on a new machine would otherwise find out
    views            figures and reports from records
    notebook         what notebooks begin with: one look, tables, coloured tokens, curves that move
    ui               the page
    shell            the longer verbs of the `kto` command

`ui`, `runs`, `judging` and `feedback` never import torch; `engine` and `answers` never import gradio. What needs torch
loads when first used.
"""

from importlib import import_module
from typing import Any

_WHERE = {
    "KTOConfig": "kto_workbench.config",
    "ModelShape": "kto_workbench.runs.memory",
    "Models": "kto_workbench.answers.sides",
    "Run": "kto_workbench.runs.directory",
    "Side": "kto_workbench.runs.sides",
    "WorkbenchError": "kto_workbench.errors",
    "compare": "kto_workbench.answers.comparison",
    "completion_stats": "kto_workbench.answers.comparison",
    "estimate_memory": "kto_workbench.runs.memory",
    "estimate_z0": "kto_workbench.engine.objective",
    "evaluate": "kto_workbench.answers.evaluation",
    "explain": "kto_workbench.answers.comparison",
    "find_notes": "kto_workbench.views.notes",
    "find_side": "kto_workbench.runs.sides",
    "kto_loss": "kto_workbench.engine.objective",
    "load_config": "kto_workbench.config",
    "load_feedback": "kto_workbench.feedback",
    "options": "kto_workbench.config",
    "plot": "kto_workbench.views.figure",
    "suggest_weights": "kto_workbench.feedback",
    "train": "kto_workbench.engine.training",
    "uniform_reference_logps": "kto_workbench.engine.objective",
    "wilson_interval": "kto_workbench.judging.statistics",
}

__all__ = sorted(_WHERE)
__version__ = "1.0.0"


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_WHERE[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
