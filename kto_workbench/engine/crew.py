"""The processes that share each batch: who takes which examples, and what they tell each other.

The global batch is the statistics, processes are memory: z0, the loss and every logged number are those of the whole
batch, however it is shared out. Processes are started by Accelerate's launcher (or torchrun); here they find together.
"""

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor, distributed, nn

from kto_workbench.engine.passes import is_out_of_memory
from kto_workbench.errors import ConfigError, ModelError
from kto_workbench.runs.children import end_with_parent, launched

# A process may wait that long for another one: for its turn on the device, or while it loads and checks the model.
PATIENCE = timedelta(days=1)


class Crew:
    """One process alone, or one of several that torch.distributed has brought together.

    `rank` of `size` processes. `sharding`: how they hold the weights, as in a config; where they share them out, every
    process must go through the model equally often (`in_step`).
    """

    def __init__(self, rank: int = 0, size: int = 1, sharding: str = "none") -> None:
        self.rank, self.size, self.sharding = rank, size, sharding
        # What a step's passes go through: the module that the scorer was wrapped into, where it was.
        self.wrapped: nn.Module | None = None
        # Over CPUs, whatever the devices are: what processes tell each other amid a pass.
        self._aside = distributed.new_group(backend="gloo") if self.in_step else None
        self._at_work = self._told = False
        self.after_failure: Callable[[], None] = lambda: None

    @property
    def in_step(self) -> bool:
        """Whether weights are shared out, so that going through the model is something that all do together."""
        return self.size > 1 and self.sharding != "none"

    @property
    def leads(self) -> bool:
        """Whether this is the process that writes files."""
        return self.rank == 0

    # sharing out

    def share(self, costs: Sequence[int]) -> list[list[int]]:
        """Share examples of these costs out, about equal amounts to each rank: a list of numbers for each.

        The costliest first, each to whoever has the least: at most 4/3 of the best possible.
        """
        shares: list[list[int]] = [[] for _ in range(self.size)]
        loads = [0] * self.size
        for i in sorted(range(len(costs)), key=lambda i: -costs[i]):
            least = loads.index(min(loads))
            shares[least].append(i)
            loads[least] += costs[i]
        return [sorted(share) for share in shares]

    # telling each other

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over all processes, in place."""
        if self.size > 1:
            self.ask()
            distributed.all_reduce(tensor)
        return tensor

    def most(self, number: int, device: torch.device) -> int:
        """The largest of a number that each process has."""
        if self.size == 1:
            return number
        self.ask()
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
    def first_one_first(self) -> Iterator[None]:
        """Let the first process go through a block before the others."""
        if not self.leads:
            self.wait()
        try:
            yield
        finally:
            if self.leads:
                self.wait()

    def wait(self) -> None:
        """Wait for each other."""
        if self.size > 1:
            distributed.barrier()

    # going through the model

    def agreed(self, work: Callable[[], Any], device: torch.device) -> Any:
        """Do work; where one process runs out of memory, all of them raise OutOfMemoryError.

        Work is without collectives, or all of its collectives `ask` before they begin (`in_step`): so whoever has
        failed is heard of where the others would wait for it.
        """
        if self.size == 1:
            return work()
        if self.sharding == "zero3":
            return self._or_nobody(work)
        result, failed = None, 0
        self._at_work, self._told = self.in_step, False
        try:
            result = work()
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            failed = 1
        finally:
            self._at_work = False
        # Outside of the handler, since the exception holds on to the frames, and they to their tensors.
        if self.in_step:
            someone = self._told or self._anyone(failed)
        else:
            someone = self.most(failed, device)
        if someone:
            self.after_failure()
            raise torch.OutOfMemoryError("out of memory in one of the processes")
        return result

    def _or_nobody(self, work: Callable[[], Any]) -> Any:
        """Do work whose collectives do not ask: whoever runs out of memory ends the run, or others would wait."""
        try:
            return work()
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise ModelError(
                f"Out of memory in process {self.rank}: resume with fewer tokens_per_pass, or use `sharding: fsdp2`, "
                "which goes on in smaller passes by itself."
            ) from error

    def ask(self) -> None:
        """Before a collective amid work: raise OutOfMemoryError if another process has run out, and won't come."""
        if self._at_work and self._anyone(0):
            self._told = True
            raise torch.OutOfMemoryError("out of memory in another process")

    def _anyone(self, failed: int) -> bool:
        """Whether any process has failed, as each must ask of all."""
        tensor = torch.tensor(failed)
        distributed.all_reduce(tensor, op=distributed.ReduceOp.MAX, group=self._aside)
        return bool(tensor)

    @contextlib.contextmanager
    def keeping_gradients(self) -> Iterator[None]:
        """Passes in this block add gradients to this process's own, and do not average them, where each has all."""
        if self.size == 1 or self.in_step:
            yield
        else:
            with self.wrapped.no_sync():
                yield


ALONE = Crew()


def join(device: str, sharding: str = "none") -> Crew:
    """Meet the other processes of a launch, each on a device of its own. Raises ConfigError.

    Args:
        device: as in a config.
        sharding: as in a config; Accelerate's own configuration may say so, too.
    """
    if not launched():
        return Crew()
    end_with_parent()
    from accelerate import PartialState

    # Sharding is done here, the same way on every device; Accelerate knows it on GPUs alone.
    if os.environ.pop("ACCELERATE_USE_FSDP", "false").lower() == "true":
        sharding = "fsdp2"
    if os.environ.pop("ACCELERATE_USE_DEEPSPEED", "false").lower() == "true":
        sharding = "zero3"
    here = int(os.environ.get("LOCAL_WORLD_SIZE", os.environ["WORLD_SIZE"]))
    there_are = torch.cuda.device_count()
    cpu = device == "cpu" or device == "auto" and not there_are
    if not cpu and here > there_are:
        raise ConfigError(too_many(here, there_are))
    state = PartialState(cpu=cpu, timeout=PATIENCE)
    return Crew(state.process_index, state.num_processes, sharding)


def too_many(processes: int, gpus: int) -> str:
    """The sentence on more processes than GPUs."""
    there = "one GPU" if gpus == 1 else f"{gpus} GPUs"
    return f"{processes} processes need {processes} GPUs, and this machine has {there}; use `processes: {gpus}`."
