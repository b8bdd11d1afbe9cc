"""The batch is statistics, the pass is memory: how many tokens go through the model at once.

Every quantity of a step is a sum over examples, so how a batch is split into passes changes memory and speed alone.
"""

import gc
import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch

from kto_workbench.errors import ModelError
from kto_workbench.runs import machine

log = logging.getLogger(__name__)

# What torch, its libraries, bitsandbytes and Triton say in a plain RuntimeError when there is no memory left.
NO_MEMORY = ("out of memory", "alloc_failed", "can't allocate memory", "not enough memory", "cudaerrormemoryallocation")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory has run out, in whatever way."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in NO_MEMORY)


def free_memory(device: torch.device) -> int:
    """Bytes that a program may still take: of the GPU, or of this machine or container."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return machine.free_memory()


def give_back() -> None:
    """Let go of what an exception or a cycle still held, and of what the allocator keeps for itself."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


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

    `tokens` None means no limit. `on_halved` is told the new number. `make_room` is asked when not even one sequence
    fits; it says whether it found a way to do with less.
    """

    def __init__(
        self,
        tokens: int | None,
        on_halved: Callable[[int], None] = lambda tokens: None,
        make_room: Callable[[], bool] = lambda: False,
    ) -> None:
        self.tokens = tokens
        self.on_halved = on_halved
        self.make_room = make_room

    def run(
        self, work: Callable[[int | None], Any], largest: int, longest: int, undo: Callable[[], None] = lambda: None
    ) -> Any:
        """Do `work(tokens)`; when memory runs out, `undo` what it left, halve the tokens and do it again.

        Args:
            work: called with the tokens a pass may take.
            largest: tokens that it needs in one pass, from which halving starts when there was no limit.
            longest: tokens of its longest sequence: below that, halving helps passes without gradient alone.
            undo: takes back what half-done work left behind (gradients).

        Raises:
            ModelError: not even one sequence at a time fits.
        """
        at_first = self.tokens
        while True:
            try:
                return work(self.tokens)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
            # Outside of the handler, since the exception holds on to the frames, and they to their tensors.
            undo()
            give_back()
            now = min(self.tokens or largest, largest)
            if now <= longest and self.make_room():
                self.tokens = at_first
                continue
            # Passes without gradient take more, so halving may still help them.
            if without_gradient(now) <= longest:
                raise ModelError(
                    f"Out of memory with a single sequence of {longest} tokens: lower max_length, "
                    "or turn on load_in_4bit or gradient_checkpointing."
                )
            self.tokens = max(now // 2, 1)
            log.warning("Out of memory: going on with %d tokens a pass, with the same results.", self.tokens)
            self.on_halved(self.tokens)
