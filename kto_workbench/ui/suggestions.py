"""Prompts to try: some that no feedback of the demo contains, one a topic; else those that the run watches."""

import functools

from kto_workbench.config import DEMO_MODEL
from kto_workbench.errors import WorkbenchError
from kto_workbench.feedback.prompts import load_prompts
from kto_workbench.feedback.rendering import asset
from kto_workbench.runs import Run

SHOWN = 6


def prompts_for(run: Run | None) -> list[str]:
    """A handful of prompts that suit the run; none if there is nothing to go by."""
    try:
        if run is None or run.config().model == DEMO_MODEL:
            return demo_prompts()
        watched = list(run.config().sample_prompts) or [sample.get("prompt") for sample in run.samples()]
    except WorkbenchError:
        return []
    asked = [text for prompt in watched if (text := _only_turn(prompt))]
    return list(dict.fromkeys(asked))[:SHOWN]


@functools.cache
def demo_prompts() -> list[str]:
    """Single questions spread over the demo's evaluation."""
    asked = [text for prompt in load_prompts(asset("evaluation.jsonl")) if (text := _only_turn(prompt))]
    return asked[:: max(1, len(asked) // SHOWN)][:SHOWN]


def _only_turn(prompt: object) -> str:
    """The text of a prompt of one turn, nothing for a longer conversation."""
    if isinstance(prompt, str):
        return prompt
    if isinstance(prompt, list) and len(prompt) == 1:
        return str(prompt[0].get("content") or "")
    return ""
