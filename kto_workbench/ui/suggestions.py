"""Prompts to try: a few that the demo never trained on, else those that the run watches, else those it was fed."""

from kto_workbench.config import DEMO_MODEL
from kto_workbench.errors import WorkbenchError
from kto_workbench.runs import Run

SHOWN = 6


def prompts_for(run: Run | None) -> list[str]:
    """A handful of prompts that suit the run; none if there is nothing to go by."""
    if run is None:
        return _demo_prompts()
    try:
        config = run.config()
    except WorkbenchError:
        return []
    if config.model == DEMO_MODEL and (found := _demo_prompts()):
        return found
    watched = list(config.sample_prompts) or list(dict.fromkeys(str(one.get("prompt")) for one in run.samples()))
    return watched[:SHOWN]


def _demo_prompts() -> list[str]:
    return [
        "What does the cow say?",
        "Where does a bird live?",
        "How do I make pancakes?",
        "What is 4 plus 5?",
        "What is a glimbo?",
        "Tell me a short tale.",
    ]
