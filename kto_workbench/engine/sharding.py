"""Weights, gradients and optimizer shared out among processes, layer by layer: torch's FSDP2.

A layer's weights are whole while it is gone through, and only then. Whatever goes through the model does so `within`
its root, and all processes do it together, equally often.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.utils._pytree import tree_leaves

from kto_workbench.engine.crew import Crew
from kto_workbench.errors import ConfigError

Within = Callable[[Callable[[], Any]], Any]


def at_once(work: Callable[[], Any]) -> Any:
    """Do what goes through a model whose weights are all here."""
    return work()


class Root(nn.Module):
    """A model whose weights are shared out. `within` does what goes through it, or through parts of it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self._inside = False

    def within(self, work: Callable[[], Any]) -> Any:
        """Do work with what belongs to no layer (embeddings, the head) whole; also inside of other such work."""
        if self._inside:
            return work()
        self._inside = True
        try:
            found = self.during(work)
        finally:
            self._inside = False
        if not any(isinstance(value, Tensor) and value.requires_grad for value in tree_leaves(found)):
            self.reshard()  # no backward pass will
        return found

    def during(self, work: Callable[[], Any]) -> Any:
        """What FSDP2 takes for a forward pass."""
        return work()


def shard(model: nn.Module, layers: Sequence[str], device: torch.device, crew: Crew) -> Root:
    """Share a model's weights out, in place; they may lie on the CPU, and come to the device a layer at a time.

    Args:
        model: with its adapter, if it has one.
        layers: names of the classes of its layers.
        device: where each process is to have its part.
        crew: all of its processes must come.
    """
    if not hasattr(FSDPModule, "reset_iter_state"):
        raise ConfigError(f"Option `sharding` fsdp2 needs PyTorch 2.13 or newer, and this is {torch.__version__}.")
    mesh = distributed.init_device_mesh(device.type, (crew.size,))
    for module in list(model.modules()):
        if type(module).__name__ in layers:
            fully_shard(module, mesh=mesh)
    root = fully_shard(Root(model), mesh=mesh)
    register_fsdp_forward_method(root, "during")
    for module in root.modules():
        if isinstance(module, FSDPModule):
            module.set_custom_all_gather(_AskingAllGather(crew))
            module.set_custom_reduce_scatter(_AskingReduceScatter(crew))
    crew.after_failure = root.reset_iter_state
    return root


class _Asking:
    """A collective that is not begun when a process has run out of memory, and won't come to it."""

    def __init__(self, crew: Crew) -> None:
        self.crew = crew

    def allocate(self, size: Sequence[int], *, dtype: torch.dtype, device: torch.device) -> Tensor:
        return torch.empty(*size, dtype=dtype, device=device)


class _AskingAllGather(_Asking):
    def __call__(self, output_tensor: Tensor, input_tensor: Tensor, group: Any, async_op: bool = False) -> Any:
        self.crew.ask()
        return distributed.all_gather_single(output_tensor, input_tensor, group=group, async_op=async_op)


class _AskingReduceScatter(_Asking):
    def __call__(self, output_tensor: Tensor, input_tensor: Tensor, group: Any, op: Any, async_op: bool = False) -> Any:
        self.crew.ask()
        return distributed.reduce_scatter_single(output_tensor, input_tensor, group=group, op=op, async_op=async_op)


def whole(tensor: Tensor) -> Tensor:
    """A tensor that may be shared out, as a whole; every process must ask for it."""
    if hasattr(tensor, "ds_id"):  # by DeepSpeed
        from deepspeed.runtime.zero import GatheredParameters

        with GatheredParameters([tensor]):
            return tensor.detach().clone()
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def shared_like(tensor: Tensor, parameter: Tensor) -> Tensor:
    """A whole tensor, which each process has, shared out as a parameter is."""
    if not hasattr(parameter, "full_tensor"):
        return tensor
    from torch.distributed.tensor import distribute_tensor

    here = tensor.to(parameter.device)
    return distribute_tensor(here, parameter.device_mesh, parameter.placements, src_data_rank=None)


def gradients(loss: Tensor, model: nn.Module, parameters: Sequence[Tensor]) -> list[Tensor | None]:
    """The gradient of a loss with respect to some of a model's parameters, whole; None where it does not depend on one.

    Gradients of shared-out weights come together behind a whole backward pass alone.
    """
    if not any(hasattr(p, "full_tensor") for p in parameters):
        return list(torch.autograd.grad(loss, parameters, allow_unused=True))
    loss.backward()
    found = [None if p.grad is None else whole(p.grad) for p in parameters]
    model.zero_grad(set_to_none=True)
    return found
