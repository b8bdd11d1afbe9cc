"""Which rows a training holds out to evaluate on: whole prompts, drawn by a seed."""

import json
import random
from collections.abc import Hashable, Sequence
from typing import Any

from kto_workbench.feedback.templates import prompt_messages


def prompt_key(prompt: Any) -> str:
    """Equal for rows that answer the same prompt, be it a text or the messages that it stands for."""
    return json.dumps(prompt_messages(prompt), sort_keys=True)


def hold_out(prompts: Sequence[Hashable], fraction: float, seed: int) -> tuple[list[int], list[int]]:
    """Split rows into (train, held out) by prompt, so that no prompt is in both.

    About `fraction` of the rows are held out, at least two; none if that would leave fewer than two to train on.
    """
    groups: dict[Hashable, list[int]] = {}
    for row, prompt in enumerate(prompts):
        groups.setdefault(prompt, []).append(row)
    keys = list(groups)
    random.Random(seed).shuffle(keys)
    wanted = max(2, round(fraction * len(prompts))) if fraction > 0 else 0
    held: list[int] = []
    for key in keys:
        if len(held) >= wanted:
            break
        if len(held) + len(groups[key]) <= max(wanted, 1) * 1.5:
            held += groups[key]
    if len(held) < 2 or len(prompts) - len(held) < 2:
        return list(range(len(prompts))), []
    chosen = set(held)
    return [row for row in range(len(prompts)) if row not in chosen], sorted(held)


def held_out_prompts(prompts: Sequence[Any], fraction: float, seed: int) -> list[Any]:
    """Of the rows' prompts, those that a training with this fraction and seed holds out, each once."""
    keys = [prompt_key(prompt) for prompt in prompts]
    _, held = hold_out(keys, fraction, seed)
    return list({keys[row]: prompts[row] for row in held}.values())
