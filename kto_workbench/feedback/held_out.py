"""Which rows a training holds out to evaluate on: whole prompts, drawn by a seed."""

import json
import random
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
import orjson
import xxhash

from kto_workbench.feedback.rows import Rows
from kto_workbench.feedback.templates import part_tools, prompt_messages

# A mean over so many rows is as good as over all of them, and an evaluation of a hundred thousand would never end.
MOST = 1000


def prompt_key(prompt: Any) -> str:
    """Equal for rows that answer the same prompt, be it a text or the messages that it stands for."""
    return json.dumps(prompt_messages(part_tools(prompt)[0]), sort_keys=True)


def prompt_numbers(rows: Rows) -> np.ndarray:
    """[n] int64, equal for rows that answer the same prompt, as `prompt_key` is; in little memory at a million rows."""
    numbers = np.empty(len(rows), dtype=np.uint64)
    done = 0
    for batch in rows.batches():
        for prompt, chat in zip(batch.column("prompt").to_pylist(), batch.column("chat").to_pylist(), strict=True):
            text = prompt.encode("utf-8", "surrogatepass")
            if chat:
                messages = orjson.loads(text)
                alone = len(messages) == 1 and messages[0].keys() == {"role", "content"}
                if alone and messages[0]["role"] == "user" and isinstance(messages[0]["content"], str):
                    text = messages[0]["content"].encode("utf-8", "surrogatepass")
                else:
                    text = b"[" + orjson.dumps(messages, option=orjson.OPT_SORT_KEYS)
            numbers[done] = xxhash.xxh3_64_intdigest(text)
            done += 1
    return numbers.view(np.int64)


def hold_out(prompts: Sequence[Hashable] | np.ndarray, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Split rows into (train, held out) by prompt, so that no prompt is in both; row numbers, ascending.

    About `fraction` of the rows are held out, at least two and about MOST at the most; none if that would leave fewer
    than two to train on.
    """
    n = len(prompts)
    everything, nothing = np.arange(n), np.arange(0)
    if not n or fraction <= 0:
        return everything, nothing
    if not isinstance(prompts, np.ndarray):
        known: dict[Hashable, int] = {}
        prompts = np.array([known.setdefault(prompt, len(known)) for prompt in prompts])
    _, first, group = np.unique(prompts, return_index=True, return_inverse=True)
    # Groups are numbered as they first come up, so that the draw does not depend on what stands for a prompt.
    number = np.argsort(np.argsort(first))
    group = number[group]
    sizes = np.bincount(group)
    order = list(range(len(sizes)))
    random.Random(seed).shuffle(order)
    wanted = min(max(2, round(fraction * n)), MOST)
    held, chosen = 0, np.zeros(len(sizes), dtype=bool)
    for key in order:
        if held >= wanted:
            break
        if held + sizes[key] <= wanted * 1.5:
            held += int(sizes[key])
            chosen[key] = True
    if held < 2 or n - held < 2:
        return everything, nothing
    return np.flatnonzero(~chosen[group]), np.flatnonzero(chosen[group])


def held_out_prompts(prompts: Sequence[Any], fraction: float, seed: int) -> list[Any]:
    """Of the rows' prompts, those that a training with this fraction and seed holds out, each once."""
    keys = [prompt_key(prompt) for prompt in prompts]
    _, held = hold_out(keys, fraction, seed)
    return list({keys[row]: prompts[row] for row in held}.values())
