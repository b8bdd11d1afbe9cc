"""The reference's log-probabilities, computed when a row first comes up and kept on disk.

The reference is the base model, or that with the adapter that training starts from, so what it gives a completion never
changes while training, nor from run to run: a second epoch, or a second run with another β, λ or learning rate,
computes nothing again; and a run of ten steps pays for ten batches.

One file holds what one model gives, keyed by the model's weights, dtype, quantization, way of scoring and the libraries
whose versions change numbers; inside it a row is found by the token ids of its prompt and completion, and by what the
processor makes of its images, so that another template, truncation, partner or picture never hits.
"""

import contextlib
import json
import logging
import sqlite3
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
import transformers
import xxhash
from torch import Tensor, nn

from kto_workbench.engine.batches import Batch, Pair
from kto_workbench.engine.crew import ALONE, Crew
from kto_workbench.engine.models import adapter_off
from kto_workbench.engine.passes import Budget
from kto_workbench.engine.scoring import PaddedScorer
from kto_workbench.engine.step import score_without_gradient
from kto_workbench.runs.jsonlines import write_atomically

log = logging.getLogger(__name__)

AsReference = Callable[[nn.Module], contextlib.AbstractContextManager[None]]

# Part of every cache's key: to be raised when our own arithmetic changes numbers beyond rounding.
REVISION = 2
# Files of a model that its log-probabilities follow from, and those that its answers follow from as well.
WEIGHTS = ("*.safetensors", "*.bin", "*.py", "config.json", "adapter_config.json")
SPEECH = ("*.json", "*.jinja", "*.model", "*.txt")
PATIENCE = 30.0  # seconds to wait for another process's write
KEYS_AT_ONCE = 500  # SQLite takes 999 parameters on old systems


class ReferenceCache:
    """Log-probabilities by pair, in an SQLite file that several processes may read and append to.

    A record is 8 bytes behind its 16-byte key: a float32 and a checksum of key and value, so a damaged one is not
    known instead of wrong. Nothing of it is kept in memory. Where the disk fails (full, read-only, damaged) a line in
    the log says so, and what is computed is remembered until the process ends.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._remembered: dict[bytes, float] = {}
        self._database: sqlite3.Connection | None = None
        self._renewed = False
        self._open()

    def __len__(self) -> int:
        with self._or_without_disk():
            if self._database is not None:
                return self._database.execute("SELECT count(*) FROM known").fetchone()[0] + len(self._remembered)
        return len(self._remembered)

    def look_up(self, pairs: Sequence[Pair]) -> np.ndarray:
        """[n] float32 log-probabilities; NaN where a pair is not known."""
        keys = [pair_key(pair) for pair in pairs]
        found = dict(self._remembered)
        with self._or_without_disk():
            for start in range(0, len(keys) if self._database is not None else 0, KEYS_AT_ONCE):
                some = keys[start : start + KEYS_AT_ONCE]
                marks = ",".join("?" * len(some))
                rows = self._database.execute(f"SELECT key, record FROM known WHERE key IN ({marks})", some)
                found |= {key: logp for key, record in rows if (logp := _value_of(key, record)) is not None}
        return np.array([found.get(key, np.nan) for key in keys], dtype=np.float32)

    def add(self, pairs: Sequence[Pair], logps: Sequence[float]) -> None:
        """Keep pairs, all or none of them."""
        values = np.asarray(logps, dtype=np.float32).tolist()
        records = {pair_key(pair): value for pair, value in zip(pairs, values, strict=True)}
        with self._or_without_disk():
            if self._database is not None:
                with self._database:
                    self._database.executemany(
                        "INSERT OR REPLACE INTO known VALUES (?, ?)",
                        [(key, _record_of(key, value)) for key, value in records.items()],
                    )
                return
        self._remembered |= records

    def _open(self) -> None:
        with self._or_without_disk():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            database = sqlite3.connect(self.path, timeout=PATIENCE, check_same_thread=False)
            # What a kill leaves is whole; what a power cut leaves is checked by the records' own sums.
            database.execute("PRAGMA synchronous = OFF")
            database.execute(
                "CREATE TABLE IF NOT EXISTS known (key BLOB PRIMARY KEY, record BLOB NOT NULL) WITHOUT ROWID"
            )
            self._database = database

    @contextlib.contextmanager
    def _or_without_disk(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            self._database = None
            damaged = isinstance(error, sqlite3.DatabaseError) and not isinstance(error, sqlite3.OperationalError)
            if damaged and not self._renewed:
                self._renewed = True
                log.warning("The reference cache %s is damaged (%s); computing it again.", self.path, error)
                with contextlib.suppress(OSError):
                    self.path.unlink(missing_ok=True)
                    self._open()
            else:
                log.warning("The reference can't be kept in %s (%s); this run goes on without.", self.path, error)


def pair_key(pair: Pair) -> bytes:
    """16 bytes that stand for the token ids of a prompt and a completion, for where they part, and for all images."""
    ids = np.array([len(pair.prompt_ids), *pair.prompt_ids, *pair.completion_ids], dtype=np.int64)
    return xxhash.xxh3_128_digest(ids.tobytes() + (pair.look.digest if pair.look else b""))


def _record_of(key: bytes, logp: float) -> bytes:
    value = struct.pack("<f", logp)
    return value + xxhash.xxh32_digest(key + value)


def _value_of(key: bytes, record: bytes) -> float | None:
    if len(record) != 8 or xxhash.xxh32_digest(key + record[:4]) != record[4:]:
        return None
    return struct.unpack("<f", record[:4])[0]


def reference_key(
    model: nn.Module,
    scorer: PaddedScorer,
    source: str,
    dtype: torch.dtype,
    load_in_4bit: bool,
    cache: Path,
    start_adapter: Path | None = None,
    *,
    answering: bool = False,
) -> str:
    """What stands for a reference as it is computed here: another key where its numbers may be other ones.

    Args:
        model: the loaded model.
        scorer: its way of scoring is part of the key.
        source: the folder or hub id that the model was loaded from.
        dtype: of weights and activations.
        load_in_4bit: whether the weights were quantized.
        cache: the workspace's cache folder.
        start_adapter: of a reference that has one.
        answering: whether it is answers that are kept, which go by the files of the tokenizer and the processor, too.
    """
    parts = [
        files_key(model, source, cache, WEIGHTS + (SPEECH if answering else ())),
        *([files_key(model, str(start_adapter), cache)] if start_adapter else []),
        str(dtype),
        load_in_4bit,
        scorer.way,
        scorer.device.type,
        torch.__version__,
        transformers.__version__,
        REVISION,
    ]
    return xxhash.xxh3_64_hexdigest(json.dumps(parts).encode())


def files_key(model: nn.Module, source: str, cache: Path, patterns: Sequence[str] = WEIGHTS) -> str:
    """What identifies a model's files: the hub's commit, or a hash of those in its folder that match a pattern.

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
    for path in sorted({path for pattern in patterns for path in Path(source).glob(pattern)}):
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


class Reference:
    """Fills the reference's log-probabilities into batches as they come up.

    Args:
        scorer: of the model that is trained.
        cache: looked up first; what is computed is added.
        budget: tokens a pass.
        as_reference: makes the model the reference for a while.
        crew: the processes that share the batches.

    `reused` and `computed` count what batches asked for, `seconds` is what computing took.
    """

    def __init__(
        self,
        scorer: PaddedScorer,
        cache: ReferenceCache,
        budget: Budget,
        *,
        as_reference: AsReference = adapter_off,
        crew: Crew = ALONE,
    ) -> None:
        self.scorer, self.cache, self.budget, self.as_reference, self.crew = scorer, cache, budget, as_reference, crew
        self.reused = self.computed = 0
        self.seconds = 0.0

    def fill_in(self, batch: Batch) -> None:
        """Set a batch's log-probabilities, those of its mismatched pairs too where it has any."""
        if batch.reference_logps is None:
            logps = self.logps([*batch.pairs, *batch.mismatched])
            batch.reference_logps = logps[: len(batch)]
            batch.reference_kl_logps = logps[len(batch) :] if batch.mismatched else None

    def logps(self, pairs: Sequence[Pair]) -> Tensor:
        """[n] log-probabilities of pairs, on the model's device."""
        values = self.cache.look_up(pairs)
        missing = np.flatnonzero(np.isnan(values)).tolist()
        if self.crew.most(len(missing), self.scorer.device):
            started = time.perf_counter()
            values[missing] = self._compute([pairs[i] for i in missing])
            self.seconds += time.perf_counter() - started
        self.computed += len(missing)
        self.reused += len(pairs) - len(missing)
        tensor = torch.from_numpy(values)
        device = self.scorer.device
        return tensor if device.type == "cpu" else tensor.pin_memory().to(device, non_blocking=True)

    def _compute(self, pairs: Sequence[Pair]) -> np.ndarray:
        def score(tokens: int | None) -> np.ndarray:
            with self.as_reference(self.scorer.model):
                return score_without_gradient(self.scorer, pairs, tokens, self.crew).cpu().numpy()

        def work(tokens: int | None) -> np.ndarray:
            return self.crew.agreed(lambda: score(tokens), self.scorer.device)

        lengths = self.crew.gather([len(pair) for pair in pairs])
        longest = max((n for some in lengths for n in some), default=1)
        values = self.budget.run(work, max(sum(map(sum, lengths)), longest), longest)
        # One process keeps what all have found.
        for some, found in self.crew.gather((pairs, values)) if self.crew.size > 1 else [(pairs, values)]:
            if some and self.crew.leads:
                self.cache.add(some, found)
        return values
