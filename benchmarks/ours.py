"""Our engine on the benchmark's batches, and a training step to time on whichever side."""

import tempfile
from pathlib import Path
from typing import Any

from benchmarks.machine import Cost, clock
from benchmarks.workload import Example, Shape, make_model


class Ours:
    """Our engine on the benchmark's batches, driven a step at a time like its peer."""

    def __init__(self, shape: Shape, batches: list[list[Example]], variant: str, *, beta: float = 0.1) -> None:
        import torch

        from kto_workbench.config import KTOConfig
        from kto_workbench.engine import attention
        from kto_workbench.engine.batches import Batch, Pair
        from kto_workbench.engine.models import adapter_off, as_it_is, checkpoint_activations, make_trainable
        from kto_workbench.engine.scoring import make_scorer

        self.config = KTOConfig(
            model="benchmark",
            beta=beta,
            desirable_weight=1.0,
            undesirable_weight=1.0,
            lora_r=shape.lora_r,
            lora_alpha=2 * shape.lora_r,
            tuning="full" if variant == "full" else "lora",
        )
        base = make_model(shape, attention.NAME)
        self.model = make_trainable(base.bfloat16() if variant == "bfloat16" else base, self.config)
        self.as_reference = as_it_is if variant == "full" else adapter_off
        if variant == "checkpointed":
            checkpoint_activations(self.model)
        self.scorer = make_scorer(self.model)
        assert self.scorer.name == "packed", self.scorer.name
        self.tokens_per_pass = longest(batches) if variant == "lean" else None
        self.batches = [
            Batch(
                pairs=[Pair(e.prompt, e.completion) for e in batch],
                mismatched=[
                    Pair(e.prompt, other.completion) for e, other in zip(batch, batch[1:] + batch[:1], strict=True)
                ],
                label=torch.tensor([e.label for e in batch]),
            )
            for batch in batches
        ]

    def score_reference(self, number: int | None = None) -> None:
        """Fill in the reference of one batch or of all, nothing of it known before."""
        from kto_workbench.engine.passes import Budget
        from kto_workbench.engine.reference import Reference, ReferenceCache

        some = self.batches if number is None else [self.batches[number]]
        with tempfile.TemporaryDirectory() as folder:
            cache = ReferenceCache(Path(folder) / "reference.sqlite")
            reference = Reference(self.scorer, cache, Budget(self.tokens_per_pass), as_reference=self.as_reference)
            for batch in some:
                batch.reference_logps = None
                reference.fill_in(batch)

    def step(self, number: int) -> Any:
        """Add the gradient of a batch; returns its loss."""
        from kto_workbench.engine.step import kto_step

        self._last = kto_step(self.scorer, self.batches[number], self.config, self.tokens_per_pass, train=True)
        return self._last.loss

    def z0(self) -> float:
        """The reference point of the last step, in nats."""
        return float(self._last.z0)


def longest(batches: list[list[Example]]) -> int:
    """Tokens of the longest sequence, mismatched ones included: the least that a pass can hold."""
    pairs = [(a, b) for batch in batches for a, b in zip(batch, batch[1:] + batch[:1], strict=True)]
    return max(max(len(a), len(a.prompt) + len(b.completion)) for a, b in pairs)


def trainable(model: Any) -> list[tuple[str, Any]]:
    """What is trained, by name."""
    return [(name, p) for name, p in model.named_parameters() if p.requires_grad]


class Timed:
    """A variant with its optimizer: what one training step takes."""

    def __init__(self, engine: Any) -> None:
        import torch

        self.engine = engine
        self.parameters = [p for _, p in trainable(engine.model)]
        # So small that all variants stay where they are.
        self.optimizer = torch.optim.AdamW(self.parameters, lr=1e-9, weight_decay=0.0)

    def warm_up(self) -> None:
        """Make the optimizer's moments, which the first step would; the model itself has run in the comparison."""
        import torch

        for parameter in self.parameters:
            parameter.grad = torch.zeros_like(parameter)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def __call__(self, number: int) -> Cost:
        """Do a step on a batch."""
        return clock(lambda: self._step(number))

    def _step(self, number: int) -> None:
        import torch

        self.engine.step(number)
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
