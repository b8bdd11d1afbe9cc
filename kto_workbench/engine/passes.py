"""The batch is statistics, the pass is memory: how many tokens go through the model at once.

Every quantity of a step is a sum over examples, so how a batch is split into passes changes memory and speed alone.
"""

import gc
import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch

from kto_workbench.errors import ModelError

log = logging.getLogger(__name__)


def split(lengths: Sequence[int], tokens_per_pass: int | None) -> list[list[int]]:
    """Divide sequences into passes of at most so many tokens, few and full; a longer sequence gets a pass of its own.

    Args:
        lengths: tokens of each sequence.
        tokens_per_pass: None puts all of them into one pass.

    Returns:
        Lists of sequence numbers, each ascending, every number once.
    """
    if tokens_per_pass is None or sum(lengths) <= tokens_per_pass:
        return [list(range(len(lengths)))] if lengths else []
    passes: list[list[int]] = []
    rooms: list[int] = []
    # First fit, the longest first: at most 11/9 of the fewest passes possible.
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        fitting = next((p for p, room in enumerate(rooms) if lengths[i] <= room), None)
        if fitting is None:
            passes.append([])
            rooms.append(tokens_per_pass)
            fitting = len(passes) - 1
        passes[fitting].append(i)
        rooms[fitting] -= lengths[i]
    return [sorted(p) for p in passes]


# A pass without gradient keeps no activations, so it takes about ten times the tokens in the same memory: 8 layers of
# hidden size 256 keep 28 KiB a token and layer for the backward pass, and 2.5 KiB of keys, values and one layer's work.
WITHOUT_GRADIENT = 10


def without_gradient(tokens_per_pass: int | None) -> int | None:
    """Tokens of a pass that keeps nothing for a backward pass, where one that does may take so many."""
    return None if tokens_per_pass is None else WITHOUT_GRADIENT * tokens_per_pass


class Budget:
    """How many tokens a pass with gradient may take, halved whenever the device runs out of memory.

    `tokens` None means no limit. `on_halved` is told the new number.
    """

    def __init__(self, tokens: int | None, on_halved: Callable[[int], None] = lambda tokens: None) -> None:
        self.tokens = tokens
        self.on_halved = on_halved

    def run(
        self, work: Callable[[int | None], Any], largest: int, longest: int, undo: Callable[[], None] = lambda: None
    ) -> Any:
        """Do `work(tokens)`; when memory runs out, `undo` what it left, halve the tokens and do it again.

        Args:
            work: called with the tokens a pass may take.
            largest: tokens that it needs in one pass, from which halving starts when there was no limit.
            longest: tokens of its longest sequence: below that, halving can't help.
            undo: takes back what half-done work left behind (gradients).

        Raises:
            ModelError: not even one sequence at a time fits.
        """
        while True:
            try:
                return work(self.tokens)
            except torch.OutOfMemoryError:
                now = min(self.tokens or largest, largest)
                if now <= longest:
                    raise ModelError(
                        f"Out of memory with a single sequence of {longest} tokens: lower max_length, "
                        "or turn on load_in_4bit or gradient_checkpointing."
                    ) from None
            # Outside of the handler, since the exception holds on to the frames, and they to their tensors.
            undo()
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            self.tokens = max(now // 2, 1)
            log.warning("Out of memory: going on with %d tokens a pass, with the same results.", self.tokens)
            self.on_halved(self.tokens)
