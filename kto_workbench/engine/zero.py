"""Weights, gradients and optimizer shared out among processes by DeepSpeed's engine: its ZeRO-3.

What uses a weight without calling the module that holds it (the head in chunks, LoRA's fused layers) finds it whole:
the engine gathers what is asked for in a forward pass, and remembers who asked, for the backward pass. It keeps float32
masters of bfloat16 weights itself, and clips gradients where it has them.
"""

import logging
import os
import warnings
from typing import Any

import torch
from torch import Tensor, distributed, nn

from kto_workbench.errors import ConfigError

# Parameters of fewer numbers stay whole on every process; DeepSpeed's own default.
KEPT_WHOLE = 100_000


class ZeroOptimizer:
    """DeepSpeed's engine around a scorer, and the optimizer that it steps with parts of the parameters.

    Args:
        scorer: a module whose forward is scoring; `engine` is what wraps it.
        plain: an optimizer of its trained parameters, which the engine takes over.
        max_grad_norm: larger gradients are scaled down to it; 0 leaves them.
    """

    def __init__(self, scorer: nn.Module, plain: torch.optim.Optimizer, max_grad_norm: float) -> None:
        deepspeed = load_deepspeed(next(scorer.parameters()).device)
        self.plain = plain
        self.groups = [list(group["params"]) for group in plain.param_groups]
        self.parameters = [p for group in self.groups for p in group]
        all_groups = list(plain.param_groups)
        plain.param_groups[:] = [group for group in all_groups if group["params"]]  # it takes no empty ones
        self.rounded = any(p.dtype == torch.bfloat16 for p in self.parameters)
        settings = {
            # Of the engine's own bookkeeping; batches and passes are ours.
            "train_micro_batch_size_per_gpu": 1,
            "managed_gradient_accumulation": False,
            "gradient_clipping": max_grad_norm,
            "zero_optimization": {"stage": 3, "stage3_param_persistence_threshold": KEPT_WHOLE},
            "zero_allow_untested_optimizer": True,
            "bf16": {"enabled": self.rounded},
        }
        if self.rounded:
            settings["data_types"] = {"grad_accum_dtype": "fp32"}
        self.engine, *_ = deepspeed.initialize(model=scorer, optimizer=plain, config=settings)
        plain.param_groups[:] = all_groups
        self.zero = self.engine.optimizer
        self._forgotten = True
        self.engine.register_forward_pre_hook(self._expect)

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The options of each group; a scheduler sets their learning rate."""
        return self.plain.param_groups

    def norm(self) -> Tensor:
        """The norm of all gradients; every process must ask."""
        if self._forgotten:
            return torch.zeros((), device=self.parameters[0].device)
        parts = [part for group in self.zero.get_fp32_grad_partitions().values() for part in group.values()]
        squares = torch.stack([part.square().sum() for part in parts]).sum()
        distributed.all_reduce(squares)
        return squares.sqrt()

    def step(self) -> None:
        """One step, where there are gradients."""
        if not self._forgotten:
            self.engine.step()
        self._forgotten = True

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients."""
        self.zero.zero_grad(set_to_none)
        self._forgotten = True

    def _expect(self, *_: Any) -> None:
        """A forward pass: gradients may follow."""
        if torch.is_grad_enabled():
            self._forgotten = False

    def state_dict(self) -> dict[str, Any]:
        """The state as one process has it; every process must ask."""
        from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

        step = next(iter(self.plain.state.values()))["step"]  # each parameter has its own, to count up
        state = {
            number: {"step": step.clone(), **{name: safe_get_full_optimizer_state(p, name).cpu() for name in MOMENTS}}
            for number, p in enumerate(self.parameters)
        }
        numbers = iter(range(len(self.parameters)))
        groups = [
            {**options, "params": [next(numbers) for _ in group]}
            for options, group in zip(self.plain.param_groups, self.groups, strict=True)
        ]
        found: dict[str, Any] = {"state": state, "param_groups": groups}
        if self.rounded:
            found["masters"] = [safe_get_full_fp32_param(p).cpu() for p in self.parameters]
        return found

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up a state as one process has it, each its part."""
        from deepspeed.utils import safe_set_full_fp32_param, safe_set_full_optimizer_state

        for flat in self.zero.fp32_partitioned_groups_flat:
            moments = {name: torch.zeros_like(flat) for name in MOMENTS}
            self.plain.state[flat] = {"step": state["state"][0]["step"].clone().cpu(), **moments}
        for number, p in enumerate(self.parameters):
            for name in MOMENTS:
                safe_set_full_optimizer_state(p, state["state"][number][name].to(p.device), name)
            if self.rounded:
                safe_set_full_fp32_param(p, state["masters"][number].to(p.device))
        for group, options in zip(self.plain.param_groups, state["param_groups"], strict=True):
            group.update({name: value for name, value in options.items() if name != "params"})


MOMENTS = ("exp_avg", "exp_avg_sq")


def load_deepspeed(device: torch.device) -> Any:
    """The library, quiet. Raises ConfigError where it is not installed."""
    if device.type == "cpu":
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    try:
        import deepspeed
    except ImportError:
        raise ConfigError(
            "Option `sharding` zero3 needs DeepSpeed (`pip install --no-build-isolation deepspeed`); `sharding: fsdp2` "
            "shares a model out likewise."
        ) from None
    if device.type == "cpu":
        deepspeed.ops.__compatible_ops__ = {}  # gloo does, where DeepSpeed would compile something faster
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message="`torch.distributed.* is deprecated", category=FutureWarning)
    return deepspeed
