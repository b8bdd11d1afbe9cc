"""The reference's log-probabilities, computed once and kept on disk.

The reference is the base model, or that with the adapter that training starts from, so what it gives a completion never
changes while training, nor from run to run: a second run with another β, λ, learning rate or number of epochs computes
nothing again.

One file holds what one model gives, keyed by the model's weights, dtype, quantization and way of scoring; inside it a
row is found by the token ids of its prompt and completion, so that another template, truncation or partner never hits.
"""

import contextlib
import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
import xxhash
from safetensors import safe_open
from safetensors.numpy import save_file
from torch import Tensor, nn

from kto_workbench.engine.batches import Batch, Pair
from kto_workbench.engine.models import adapter_off, dropout_off
from kto_workbench.engine.passes import Budget, split
from kto_workbench.engine.scoring import PaddedScorer
from kto_workbench.runs.jsonlines import write_atomically

log = logging.getLogger(__name__)

AsReference = Callable[[nn.Module], contextlib.AbstractContextManager[None]]


class ReferenceCache:
    """Log-probabilities by pair, on disk."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._known: dict[bytes, float] = {}
        self._read()

    def __len__(self) -> int:
        return len(self._known)

    def look_up(self, pairs: Sequence[Pair]) -> np.ndarray:
        """[n] float32 log-probabilities; NaN where a pair is not known."""
        return np.array([self._known.get(pair_key(pair), np.nan) for pair in pairs], dtype=np.float32)

    def add(self, pairs: Sequence[Pair], logps: Sequence[float]) -> None:
        """Remember pairs; `save` puts them on disk."""
        self._known.update(zip(map(pair_key, pairs), map(float, logps), strict=True))

    def save(self) -> None:
        """Write everything known, replacing the file all at once."""
        keys = np.frombuffer(b"".join(self._known), dtype=np.uint8).reshape(-1, 16)
        logps = np.fromiter(self._known.values(), dtype=np.float32, count=len(self._known))
        self.path.parent.mkdir(parents=True, exist_ok=True)
        beside = self.path.with_suffix(".part")
        save_file({"keys": keys, "logps": logps}, beside, metadata={"checksum": _checksum(keys, logps)})
        beside.replace(self.path)

    def _read(self) -> None:
        if not self.path.exists():
            return
        try:
            with safe_open(self.path, "numpy") as file:
                keys, logps = file.get_tensor("keys"), file.get_tensor("logps")
                if (file.metadata() or {}).get("checksum") != _checksum(keys, logps):
                    raise ValueError("its checksum is wrong")
        except Exception as error:  # a damaged file fails in as many ways as it can be damaged
            log.warning("The reference cache %s is damaged (%s); computing it again.", self.path, error)
            return
        data = np.ascontiguousarray(keys).tobytes()
        self._known = {data[16 * i : 16 * i + 16]: logp for i, logp in enumerate(logps.tolist())}


def pair_key(pair: Pair) -> bytes:
    """16 bytes that stand for the token ids of a prompt and a completion and for where they part."""
    ids = np.array([len(pair.prompt_ids), *pair.prompt_ids, *pair.completion_ids], dtype=np.int64)
    return xxhash.xxh3_128_digest(ids.tobytes())


def cache_for(
    model: nn.Module,
    scorer: PaddedScorer,
    source: str,
    dtype: torch.dtype,
    load_in_4bit: bool,
    cache: Path,
    start_adapter: Path | None = None,
) -> ReferenceCache:
    """Open the cache file of one model as it is scored here.

    Args:
        model: the loaded model.
        scorer: its way of scoring is part of the key.
        source: the folder or hub id that the model was loaded from.
        dtype: of weights and activations.
        load_in_4bit: whether the weights were quantized.
        cache: the workspace's cache folder.
        start_adapter: of a reference that has one.
    """
    parts = [
        weights_key(model, source, cache),
        *([weights_key(model, str(start_adapter), cache)] if start_adapter else []),
        str(dtype),
        load_in_4bit,
        scorer.name,
        scorer.device.type,
        torch.__version__,
    ]
    name = xxhash.xxh3_64_hexdigest(json.dumps(parts).encode())
    return ReferenceCache(cache / "reference" / f"{name}.safetensors")


def weights_key(model: nn.Module, source: str, cache: Path) -> str:
    """What identifies a model's weights: the hub's commit, or a hash of the folder's weight files.

    A file's hash is kept beside its size and time of change, so that gigabytes are read once.
    """
    if not Path(source).is_dir():
        return f"{source}@{getattr(model.config, '_commit_hash', None)}"
    notes = cache / "weights.json"
    try:
        known = json.loads(notes.read_text())
    except (OSError, ValueError):
        known = {}
    hashes = []
    patterns = ("*.safetensors", "*.bin", "config.json", "adapter_config.json")
    for path in sorted(path for pattern in patterns for path in Path(source).glob(pattern)):
        stat = path.stat()
        key = f"{path.resolve()}:{stat.st_size}:{stat.st_mtime_ns}"
        if key not in known:
            digest = xxhash.xxh3_128()
            with path.open("rb") as file:
                while block := file.read(2**24):
                    digest.update(block)
            known[key] = digest.hexdigest()
        hashes.append(known[key])
    cache.mkdir(parents=True, exist_ok=True)
    write_atomically(notes, json.dumps(known, indent=1))
    return xxhash.xxh3_128_hexdigest("".join(hashes).encode())


def fill_in(
    batches: Sequence[Batch],
    scorer: PaddedScorer,
    cache: ReferenceCache,
    budget: Budget,
    *,
    mismatched: bool,
    as_reference: AsReference = adapter_off,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[int, int]:
    """Set the reference's log-probabilities of every batch, from the cache or by a pass.

    Args:
        batches: to be completed.
        scorer: of the model that is trained.
        cache: looked up first; what is computed is added and saved, every so often too.
        budget: tokens a pass.
        mismatched: also score the batches' mismatched pairs.
        as_reference: makes the model the reference for a while: `adapter_off`, or `as_it_is` before the first step.
        on_progress: told (done, total) in batches.

    Returns:
        How many pairs were (reused, computed).
    """
    reused = computed = 0
    for number, batch in enumerate(batches):
        kinds = [batch.pairs, batch.mismatched] if mismatched else [batch.pairs]
        found = [cache.look_up(pairs) for pairs in kinds]
        missing = sum(int(np.isnan(values).sum()) for values in found)
        if missing:
            found = _compute(batch, scorer, budget, mismatched, as_reference)
            for pairs, values in zip(kinds, found, strict=True):
                cache.add(pairs, values)
            if number % 64 == 63:
                cache.save()
        computed += missing
        reused += sum(map(len, found)) - missing
        tensors = [torch.from_numpy(values).to(scorer.device) for values in found]
        batch.reference_logps = tensors[0]
        batch.reference_kl_logps = tensors[1] if mismatched else None
        on_progress(number + 1, len(batches))
    if computed:
        cache.save()
    return reused, computed


@torch.no_grad()
def _compute(
    batch: Batch, scorer: PaddedScorer, budget: Budget, mismatched: bool, as_reference: AsReference
) -> list[np.ndarray]:
    lengths = [len(pair) for pair in batch.pairs]

    def work(tokens: int | None) -> list[np.ndarray]:
        out = [np.empty(len(batch), dtype=np.float32) for _ in range(2 if mismatched else 1)]
        for part in split(lengths, tokens):
            pairs = [batch.pairs[i] for i in part]
            if mismatched:
                scores, kl_logps = scorer.score_both(pairs, [batch.mismatched[i] for i in part])
                out[1][part] = kl_logps.cpu().numpy()
            else:
                scores = scorer.score(pairs)
            out[0][part] = scores.logps.cpu().numpy()
        return out

    with as_reference(scorer.model), dropout_off(scorer.model):
        return budget.run(work, sum(lengths), max(lengths))


def reference_logps(pairs: Sequence[Pair], scorer: PaddedScorer, tokens_per_pass: int | None) -> Tensor:
    """[n] the reference's log-probabilities of pairs, without a cache."""
    from kto_workbench.engine.step import score_without_gradient

    with adapter_off(scorer.model):
        return score_without_gradient(scorer, pairs, tokens_per_pass)


def _checksum(keys: np.ndarray, logps: np.ndarray) -> str:
    return xxhash.xxh3_64_hexdigest(np.ascontiguousarray(keys).tobytes() + np.ascontiguousarray(logps).tobytes())
