"""Prompts to try: those on which the run's two models parted most while it trained; else a few of the demo's own."""

import functools
import json
from typing import Any

from kto_workbench import files
from kto_workbench.config import DEMO_MODEL
from kto_workbench.errors import WorkbenchError
from kto_workbench.feedback.prompts import load_prompts
from kto_workbench.feedback.rendering import asset
from kto_workbench.feedback.rows import told
from kto_workbench.runs import Run
from kto_workbench.runs.directory import SUGGESTIONS

SHOWN = 6


def prompts_for(run: Run | None) -> list[str]:
    """A handful of prompts that suit the run, each once; none if there is nothing to go by."""
    try:
        watched = [sample for sample in run.samples() if sample.get("reference") != sample.get("tuned")] if run else []
        asked = [*(parted_on(run) if run else ()), *(sample.get("prompt") for sample in reversed(watched))]
        if run is None or run.config().model == DEMO_MODEL:
            asked += demo_prompts()
        elif not asked:
            asked = list(run.config().sample_prompts) or [sample.get("prompt") for sample in run.samples()]
    except WorkbenchError:
        return []
    return list(dict.fromkeys(text for prompt in asked if (text := _only_turn(prompt))))[:SHOWN]


def parted_on(run: Run) -> list[Any]:
    """The prompts of a run whose sampled answers the tuned model found most likelier than the reference."""
    try:
        found = json.loads(files.read_text(run.path / SUGGESTIONS)[0])
        return [one["prompt"] for one in found]
    except (ValueError, TypeError, KeyError, RecursionError):  # of an earlier version, or written by another program
        return []


@functools.cache
def demo_prompts() -> list[str]:
    """Single questions of the demo's evaluation, one a topic."""
    lines = asset("evaluation.jsonl").read_text(encoding="utf-8").splitlines()
    topics = [json.loads(line).get("topic") for line in lines if line.strip()]
    first: dict[str, str] = {}
    for topic, prompt in zip(topics, load_prompts(asset("evaluation.jsonl")), strict=True):
        if text := _only_turn(prompt):
            first.setdefault(topic, text)
    return list(first.values())


def _only_turn(prompt: object) -> str:
    """The text of a prompt of one turn, nothing for a longer conversation."""
    if isinstance(prompt, str):
        return prompt
    if isinstance(prompt, list) and len(prompt) == 1:
        return told(prompt[0])
    return ""
