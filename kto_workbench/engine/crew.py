"""The processes that share each batch: who takes which examples, and what they tell each other.

The global batch is the statistics, processes are memory: z0, the loss and every logged number are those of the whole
batch, however it is shared out.
"""

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, distributed

Backward = Callable[[Tensor, bool], None]


class Crew:
    """One process alone, or one of several that torch.distributed has brought together.

    `rank` of `size` processes. `in_step`: whether every process must go through the model equally often, since its
    weights lie on all of them (FSDP, ZeRO-3).
    """

    def __init__(self, rank: int = 0, size: int = 1, *, in_step: bool = False) -> None:
        self.rank, self.size, self.in_step = rank, size, in_step

    @property
    def leads(self) -> bool:
        """Whether this is the process that writes files."""
        return self.rank == 0

    def backward(self, loss: Tensor, last: bool) -> None:
        """Add the gradient of a loss; `last` in a step."""
        loss.backward()

    def share(self, lengths: Sequence[int]) -> list[list[int]]:
        """Share examples of these lengths out, each rank's tokens about equal: a list of numbers for each rank.

        The longest first, each to whoever has the least: at most 4/3 of the best possible.
        """
        shares: list[list[int]] = [[] for _ in range(self.size)]
        loads = [0] * self.size
        for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
            least = loads.index(min(loads))
            shares[least].append(i)
            loads[least] += lengths[i]
        return [sorted(share) for share in shares]

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over all processes."""
        if self.size > 1:
            distributed.all_reduce(tensor)
        return tensor

    def most(self, number: int, device: torch.device) -> int:
        """The largest of a number that each process has."""
        if self.size == 1:
            return number
        tensor = torch.tensor(number, device=device)
        distributed.all_reduce(tensor, op=distributed.ReduceOp.MAX)
        return int(tensor)

    def gather(self, value: Any) -> list[Any]:
        """What each process has, on each of them, in the order of ranks."""
        if self.size == 1:
            return [value]
        everyone: list[Any] = [None] * self.size
        distributed.all_gather_object(everyone, value)
        return everyone

    def from_first(self, value: Any) -> Any:
        """The first process's value, on each of them."""
        if self.size == 1:
            return value
        values = [value]
        distributed.broadcast_object_list(values, src=0)
        return values[0]

    @contextlib.contextmanager
    def first_one_first(self):
        """Let the first process go through a block before the others."""
        if not self.leads:
            self.wait()
        yield
        if self.leads:
            self.wait()

    def wait(self) -> None:
        """Wait for each other."""
        if self.size > 1:
            distributed.barrier()


ALONE = Crew()
