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

from kto_workbench.errors import ConfigError

# A process may wait that long for another one: for its turn on the device, or while it loads and checks the model.
PATIENCE = timedelta(days=1)


class Crew:
    """One process alone, or one of several that torch.distributed has brought together.

    `rank` of `size` processes. `in_step`: whether every process must go through the model equally often, since its
    weights are shared out among them (FSDP2).
    """

    def __init__(self, rank: int = 0, size: int = 1, *, in_step: bool = False) -> None:
        self.rank, self.size, self.in_step = rank, size, in_step
        # What a step's passes go through: the module that the scorer was wrapped into, where it was.
        self.wrapped: nn.Module | None = None

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
        """Do work without collectives; where one process runs out of memory, all of them raise OutOfMemoryError.

        With weights shared out (`in_step`) the work itself is collective, and whoever runs out ends the run.
        """
        if self.size == 1 or self.in_step:
            return work()
        result, failed = None, 0
        try:
            result = work()
        except torch.OutOfMemoryError:
            failed = 1
        if self.most(failed, device):
            raise torch.OutOfMemoryError("out of memory in one of the processes")
        return result

    @contextlib.contextmanager
    def keeping_gradients(self) -> Iterator[None]:
        """Passes in this block add gradients to this process's own, and do not average them."""
        if self.size == 1:
            yield
        elif hasattr(self.wrapped, "set_requires_gradient_sync"):
            self.wrapped.set_requires_gradient_sync(False)
            try:
                yield
            finally:
                self.wrapped.set_requires_gradient_sync(True)
        else:
            with self.wrapped.no_sync():
                yield


ALONE = Crew()


def launched() -> bool:
    """Whether this process is one of several that a launcher has started."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def join(device: str, *, sharded: bool = False) -> Crew:
    """Meet the other processes of a launch, each on a device of its own. Raises ConfigError.

    Args:
        device: as in a config.
        sharded: whether they share the weights out; also where Accelerate's own configuration says so.
    """
    if not launched():
        return Crew()
    from accelerate import PartialState

    # Sharding is done here, the same way on every device; Accelerate knows it on GPUs alone.
    sharded |= os.environ.pop("ACCELERATE_USE_FSDP", "false").lower() == "true"
    if os.environ.get("ACCELERATE_USE_DEEPSPEED", "false").lower() == "true":
        raise ConfigError("DeepSpeed is not supported; FSDP2 shares a model out likewise: use configs/fsdp2.yaml.")
    here = int(os.environ.get("LOCAL_WORLD_SIZE", os.environ["WORLD_SIZE"]))
    there_are = torch.cuda.device_count()
    cpu = device == "cpu" or device == "auto" and not there_are
    if not cpu and here > there_are:
        raise ConfigError(too_many(here, there_are))
    state = PartialState(cpu=cpu, timeout=PATIENCE)
    return Crew(state.process_index, state.num_processes, in_step=sharded)


def too_many(processes: int, gpus: int) -> str:
    """The sentence on more processes than GPUs."""
    there = "one GPU" if gpus == 1 else f"{gpus} GPUs"
    return f"{processes} processes need {processes} GPUs, and this machine has {there}; use `processes: {gpus}`."


def shard(scorer: nn.Module, causal_lm: nn.Module) -> nn.Module:
    """Share a scorer's weights out among the processes with FSDP2, layer by layer, in place."""
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    names = set(causal_lm._no_split_modules or ())
    for module in list(causal_lm.modules()):
        if type(module).__name__ in names:
            fully_shard(module)
    fully_shard(scorer)
    register_fsdp_forward_method(scorer, "during")
    return scorer


def whole(tensor: Tensor) -> Tensor:
    """A tensor that may be shared out, as a whole; every process must ask for it."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def shared_like(tensor: Tensor, parameter: Tensor) -> Tensor:
    """A whole tensor, shared out as a parameter is."""
    if not hasattr(parameter, "full_tensor"):
        return tensor
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(tensor.to(parameter.device), parameter.device_mesh, parameter.placements)
