"""How many tokens may go through the model at once: measured by a short dry step, for `tokens_per_pass: auto`.

The estimate that needs no model, and no torch, is in `kto_workbench.runs.memory`.
"""

import logging
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from kto_workbench.config import KTOConfig
from kto_workbench.engine.batches import Batch, Pair
from kto_workbench.engine.crew import ALONE, Crew
from kto_workbench.engine.models import checkpoint_activations
from kto_workbench.engine.passes import free_memory, give_back, is_out_of_memory
from kto_workbench.engine.scoring import PaddedScorer
from kto_workbench.engine.step import kto_step
from kto_workbench.runs.memory import KEPT_FREE, fragments, optimizer_bytes

log = logging.getLogger(__name__)


def calibrate(
    scorer: PaddedScorer,
    batch: Batch,
    config: KTOConfig,
    *,
    free: int | None = None,
    make_room: Callable[[], bool] = lambda: False,
    crew: Crew = ALONE,
) -> int | None:
    """Measure what a token takes and say how many fit.

    Two dry steps without optimizer, on the batch's longest sequence and on its two longest; their difference is what
    a token takes, the rest what any pass takes. Gradients are cleared afterwards, the random state is put back.

    Args:
        scorer: of the policy.
        batch: the largest one; references need not be filled in.
        config: of the run.
        free: bytes that may be used, the optimizer's among them; None asks the device.
        make_room: asked when not even the longest sequence fits; says whether it found a way to do with less.
        crew: the processes that share each batch; what fits is what fits in each of them.

    Returns:
        Tokens a pass, at least those of the longest sequence; None where the whole batch fits into one.
    """
    longer = _longer(batch)
    longest = max(_lengths(scorer, batch))
    fits = _fitting(scorer, batch, config, free, crew)
    if fits < longest and make_room():
        fits = _fitting(scorer, batch, config.replace(gradient_checkpointing=True), free, crew)
    return None if fits >= scorer.tokens(longer) else max(fits, longest)


def recompute_activations(model: nn.Module) -> bool:
    """Have less to keep for the backward pass, at a third more time; False where that is so already, or can't be."""
    if getattr(model, "is_activation_checkpointing", False):
        return False
    try:
        checkpoint_activations(model)
    except ValueError:  # an architecture that has no place for it
        return False
    log.warning("Not even one row fits: activations are made again in the backward pass, at about a third more time.")
    return True


def _fitting(scorer: PaddedScorer, batch: Batch, config: KTOConfig, free: int | None, crew: Crew) -> int:
    """How many tokens fit into a pass of any process."""
    return min(crew.gather(_fitting_here(scorer, batch, config, free, crew)))


def _fitting_here(scorer: PaddedScorer, batch: Batch, config: KTOConfig, free: int | None, crew: Crew) -> int:
    """How many tokens fit into a pass, going by its longest sequence and its two longest; 0 where not even one does."""
    lengths = _lengths(scorer, batch)
    trained = [p for p in scorer.model.parameters() if p.requires_grad]
    parts = crew.size if crew.in_step else 1
    to_come = optimizer_bytes(config, sum(p.numel() for p in trained) // parts, trained[0].element_size())
    available = (free_memory(scorer.device) if free is None else free) * (1 - KEPT_FREE) - to_come
    available /= fragments(config, scorer.device.type)
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    measured: list[tuple[int, int]] = []
    try:
        for n in (1, 2)[: len(order)]:
            some = [i for example in order[:n] for i in batch.examples[example]]
            measured.append(_dry_step(scorer, batch, config, some, crew if crew.sharding == "fsdp2" else ALONE))
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
    if len(measured) < 2:
        give_back()
        return next((tokens for tokens, peak in measured if peak <= available), 0)
    (few, small), (many, large) = measured
    per_token = max(large - small, 1) / (many - few)
    always = max(0.0, small - few * per_token)
    fits = int((available - always) / per_token)
    log.info("A token takes %.1f KiB and any pass %.1f MiB; %d tokens fit.", per_token / 2**10, always / 2**20, fits)
    return fits


def _dry_step(scorer: PaddedScorer, batch: Batch, config: KTOConfig, numbers: list[int], crew: Crew) -> tuple[int, int]:
    """Tokens and peak bytes of a step over some of a batch's pairs."""
    some = batch.take(numbers)
    some.reference_logps = some.reference_kl_logps = torch.zeros(len(numbers), device=scorer.device)
    devices = [scorer.device] if scorer.device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices):
            peak = peak_bytes(lambda: kto_step(scorer, some, config, None, train=True, crew=crew), scorer.device)
    finally:
        scorer.model.zero_grad(set_to_none=True)
    return scorer.tokens(_longer(some)), peak


def _lengths(scorer: PaddedScorer, batch: Batch) -> list[int]:
    """Tokens of each example, all of which must go through the model at once."""
    longer = _longer(batch)
    return [scorer.tokens([longer[i] for i in example]) for example in batch.examples]


def _longer(batch: Batch) -> list[Pair]:
    """Each example's own completion or its mismatched one, whichever is longer."""
    return [max(two, key=len) for two in zip(batch.pairs, batch.mismatched or batch.pairs, strict=True)]


def peak_bytes(work: Callable[[], Any], device: torch.device) -> int:
    """Bytes of tensors that the work has at once, beyond those that were there."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        return torch.cuda.max_memory_allocated(device) - before
    with LiveBytes() as live:
        work()
    return live.peak


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of the tensors that are made while it is on, where the allocator keeps no count.

    `peak` is the most that lived at once. Scratch space inside of an operator is not seen.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = function(*args, **(kwargs or {}))
        inputs = {t.untyped_storage()._cdata for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor) and tensor.untyped_storage()._cdata not in inputs:
                self._add(tensor.untyped_storage())
        return out

    def _add(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._known:
            return
        self._known.add(key)
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._remove, key, size).atexit = False

    def _remove(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.live -= size
