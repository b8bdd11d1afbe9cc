"""The models behind the sides of a comparison, kept warm: bases with their adapters, switched as a side asks.

    models = Models()
    with models.use(Side(run)) as tuned:
        generate(tuned.model, tuned.tokenizer, prompts)
    with models.use(Side(run, "reference")) as reference:    # the same base, its adapter proven to be off
        ...

A side is loaded when it is first asked for.
"""

import contextlib
import gc
import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from kto_workbench.config import KTOConfig
from kto_workbench.engine.models import adapter_off, fill_in_adapter, load_adapter, load_model, pick_device, pick_dtype
from kto_workbench.engine.scoring import PaddedScorer, make_scorer
from kto_workbench.errors import ModelError, RunError
from kto_workbench.feedback.images import Images
from kto_workbench.feedback.rendering import load_tokenizer
from kto_workbench.feedback.sight import sight_of
from kto_workbench.runs.sides import REFERENCE, TUNED, AnySide, ModelSide, check_scored

log = logging.getLogger(__name__)

KEPT_BASES = 2  # the two of a comparison of full fine-tunings
KEPT_ADAPTERS = 4
PROBE = (3, 1, 4, 1, 5, 9, 2, 6)  # any tokens serve to tell two models apart


@dataclass(frozen=True)
class Source:
    """Where a side's model is: a base, and the folder of the adapter on it, if any.

    `sees`: its run trained it with images, so that it is loaded whole.
    """

    base: str
    adapter: Path | None
    config: KTOConfig
    sees: bool = False

    @property
    def key(self) -> tuple[object, ...]:
        """Equal for sides that share a loaded base."""
        config = self.config
        how = config.dtype, config.device, config.load_in_4bit, config.trusted, self.sees
        return self.base, _changed(Path(self.base)), *how


def source_of(side: AnySide) -> Source:
    """Find the files behind a side. Raises RunError if they are not there (yet), or elsewhere, at an endpoint."""
    check_scored(side)
    run, config = side.run, side.config()
    if isinstance(side, ModelSide):
        return Source(config.model, None, config)
    sees = run.trained_with_images()
    if side.part == REFERENCE:
        return Source(config.model, run.start_adapter if config.reference == "start" else None, config, sees)
    if side.part == TUNED and config.tuning == "lora":
        return Source(config.model, run.newest_adapter(), config, sees)
    folder = run.model if side.part == TUNED else run.path / "checkpoints" / side.part
    if not folder.is_dir():
        raise RunError(f"Run {run.id} has no {side.part} model; it is {run.status().state}.")
    full = config.tuning == "full"
    return Source(str(folder), None, config, sees) if full else Source(config.model, folder, config, sees)


@dataclass(frozen=True)
class Opened:
    """A side's model as it stands now, its tokenizer, its run's config, and a way to score with it."""

    model: nn.Module
    tokenizer: PreTrainedTokenizerBase
    config: KTOConfig
    scorer: PaddedScorer


@dataclass
class _Base:
    """A loaded base model, with a peft wrapper once an adapter was put on it."""

    model: nn.Module
    tokenizer: PreTrainedTokenizerBase
    fingerprint: Tensor
    scorer: PaddedScorer | None = None
    adapters: dict[str, str] = field(default_factory=dict)

    def put_on(self, folder: Path) -> None:
        """Switch to the adapter of a folder, loading it if it is new or has changed."""
        path = folder / "adapter_model.safetensors"
        name = f"{folder.resolve()}@{_changed(path)}"
        if not self.adapters:
            self.model = load_adapter(self.model, folder)
            self.scorer, self.adapters = None, {name: self.model.active_adapter}
        elif name not in self.adapters:
            while len(self.adapters) >= KEPT_ADAPTERS:
                self.model.delete_adapter(self.adapters.pop(next(iter(self.adapters))))
            label = f"adapter{time.monotonic_ns()}"
            self.model.load_adapter(str(folder), label)
            fill_in_adapter(self.model, folder, label)
            self.adapters[name] = label
        self.model.set_adapter(self.adapters[name])


class Models:
    """Loads what sides ask for and keeps the last few bases and adapters; not for several threads at once."""

    def __init__(self) -> None:
        self._bases: dict[tuple[object, ...], _Base] = {}

    @property
    def loaded(self) -> bool:
        """Whether any model is in memory."""
        return bool(self._bases)

    def unload(self) -> None:
        """Let go of all models."""
        self._bases.clear()
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    @contextlib.contextmanager
    def use(self, side: AnySide) -> Iterator[Opened]:
        """The model of a side, for as long as the block lasts.

        Raises ModelError or RunError; also where a side without an adapter does not compute what the base alone did.
        """
        source = source_of(side)
        base = self._base(source)
        if source.adapter is not None:
            base.put_on(source.adapter)
        off = adapter_off(base.model) if source.adapter is None and base.adapters else contextlib.nullcontext()
        with off:
            if source.adapter is None and base.adapters:
                _prove_off(base)
            if base.scorer is None:
                base.scorer = make_scorer(base.model, sight=sight_of(base.tokenizer))
            yield Opened(base.model.train(), base.tokenizer, source.config, base.scorer)

    def _base(self, source: Source) -> _Base:
        if source.key not in self._bases:
            while len(self._bases) >= KEPT_BASES:
                self._bases.pop(next(iter(self._bases)))
                gc.collect()
            model = load_base(source.config, source.base, source.sees)
            images, trust = Images(source.config.workspace), source.config.trusted
            tokenizer = load_tokenizer(source.config.model, images, trust=trust)
            base = _Base(model, tokenizer, fingerprint(model))
            self._bases[source.key] = base
        self._bases[source.key] = self._bases.pop(source.key)  # the last one used is the last one to go
        return self._bases[source.key]


def load_base(config: KTOConfig, model: str, sees: bool = False) -> nn.Module:
    """A base model, loaded as for the training of a config, with images or without."""
    transformers_logging.disable_progress_bar()  # it would stand before the answers
    device = pick_device(config.device)
    dtype = pick_dtype(config.dtype, device)
    how = {"load_in_4bit": config.load_in_4bit, "sees": sees, "trust": config.trusted}
    return load_model(model, device=device, dtype=dtype, **how)


@torch.no_grad()
def fingerprint(model: nn.Module) -> Tensor:
    """[V] log-probabilities of what follows a few fixed tokens: equal for equal models."""
    vocabulary = model.config.get_text_config().vocab_size
    ids = torch.tensor([[token % vocabulary for token in PROBE]], device=next(model.parameters()).device)
    return model(input_ids=ids, use_cache=False).logits[0, -1].float().log_softmax(-1)


def _prove_off(base: _Base) -> None:
    """Raise ModelError unless the model computes what its base did before it ever had an adapter."""
    difference = (fingerprint(base.model) - base.fingerprint).abs().max().item()
    exact = next(base.model.parameters()).dtype == torch.float32
    if not difference <= (1e-4 if exact else 1e-2):
        raise ModelError(
            f"The adapter is not off on the reference side: log-probabilities differ by {difference:.2g} from the base "
            "model's. This is a defect: please report it."
        )


def _changed(path: Path) -> int:
    """When a file or a folder's weights were written: a resumed run's new ones are loaded again."""
    files = [path, *path.glob("*.safetensors")] if path.is_dir() else [path]
    return max((file.stat().st_mtime_ns for file in files if file.exists()), default=0)
