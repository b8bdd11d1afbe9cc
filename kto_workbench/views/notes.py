"""What looks wrong in a training, found in its records and said in plain words, with what to try.

for note in find_notes(run): print(note.text)

Each rule is a pure function from numbers to a note or None. Thresholds are in units of the reward (which contains β);
they are set where the demo's healthy runs stay silent and its broken ones speak.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from kto_workbench.config import KTOConfig
from kto_workbench.objectives import OBJECTIVES
from kto_workbench.runs import Run
from kto_workbench.views.records import Columns, records_of

# kind → what is the matter, what to try.
TEXTS: dict[str, tuple[str, str]] = {
    "nan": (
        "The loss has not been a number since step {step}.",
        "Stop, and try a lower learning rate or dtype float32.",
    ),
    "mismatch": (
        "Both rewards and z0 shoot up together (thumbs up {chosen:.2g}, thumbs down {rejected:.2g}, z0 {z0:.2g}): "
        "the model learns something that all answers share, such as a template or prefix that it did not expect.",
        "Look at the rendered rows: is the chat template the model's own, does the answer begin where the prompt ends?",
    ),
    "both_fall": (
        "Both rewards fall (thumbs up {chosen:.2g}, thumbs down {rejected:.2g}): "
        "what people liked becomes less likely, too.",
        "Try a lower learning rate, a larger λ_D, or some sft_weight.",
    ),
    "both_fall_pairs": (
        "Both rewards fall (liked answers {chosen:.2g}, disliked ones {rejected:.2g}), the disliked ones faster: only "
        "their difference counts for `dpo` and `ipo`, so this is common.",
        "Where what people liked should not become less likely, try objective `apo_zero`, or some sft_weight.",
    ),
    "rejected_only": (
        "The margin of {margin:.2g} comes almost only from the rejected side; thumbs up have gained {chosen:.2g}.",
        "That is sound where liked answers were likely from the start; else try a larger λ_D or some sft_weight.",
    ),
    "far": (
        "z0 is {z0:.2g} nats: the model has moved far from the reference.",
        "Look at the watched answers; if they are damaged, try a larger β or a lower learning rate.",
    ),
    "still": (
        "After {step} steps the rewards have hardly moved (margin {margin:.2g}).",
        "Try a learning rate 3 to 10 times higher; small models want one far above the default.",
    ),
    "z0_zero": (
        "z0 has been 0 for {count} steps: answers to other prompts become less likely, so nothing is subtracted.",
        "That is usual where the thumbs judge style; the grey curve, before clamping, shows how far below 0 it is.",
    ),
    "overfit": (
        "On held-out rows the loss has risen since step {step}, while it falls on the training rows.",
        "The model begins to memorise: stop earlier, or give it more feedback.",
    ),
    "one_side": (
        "No row with a thumb {side} has been seen yet, so only the other side is learned.",
        "Check the data: KTO can train on one side, but nothing then holds the model back.",
    ),
}
WARNINGS = ("nan", "mismatch", "both_fall", "far", "overfit")


@dataclass(frozen=True)
class Note:
    """One finding: its kind (a key of TEXTS) and the numbers that its sentences name."""

    kind: str
    values: dict[str, Any] = field(default_factory=dict)

    @property
    def level(self) -> str:
        """`warning`, or `info` where it may be just so."""
        return "warning" if self.kind in WARNINGS else "info"

    @property
    def text(self) -> str:
        """What is the matter and what to try, in English."""
        what, hint = TEXTS[self.kind]
        return f"{what.format(**self.values)} {hint}"


def find_notes(run: Run) -> list[Note]:
    """What looks wrong in a run up to now, the gravest first."""
    records = records_of(run)
    return notes_on(records.train, records.eval, run.config())


def notes_on(train: Columns, held_out: Columns, config: KTOConfig) -> list[Note]:
    """The notes on a run's columns. Where numbers are missing altogether, what they would say is left out."""
    if not len(train):
        return []
    if note := _nan(train, config):
        return [note]
    # A mismatch makes rewards and z0 large: saying that on top would only blur it.
    rules: list[Callable[[Columns, KTOConfig], Note | None]] = [_mismatch, _both_fall, _far, _rejected_only]
    grave = next((note for rule in rules if (note := rule(train, config))), None)
    rest = [_overfit(train, held_out), _one_side(train), None if grave else _still(train), _z0_zero(train, config)]
    return [note for note in (grave, *rest) if note]


def recent(columns: Columns, key: str) -> float:
    """The mean over the last tenth of the records, at least 8 of them; NaN if there are fewer than 8."""
    values = columns[key]
    window = values[-max(8, len(values) // 10) :]
    window = window[np.isfinite(window)]
    return float(window.mean()) if len(values) >= 8 and len(window) else np.nan


def _rewards(train: Columns) -> tuple[float, float]:
    return recent(train, "rewards/chosen"), recent(train, "rewards/rejected")


def _nan(train: Columns, config: KTOConfig) -> Note | None:
    loss = train["loss"]
    if "loss" not in train or np.isfinite(loss[-1]):
        return None
    finite = np.flatnonzero(np.isfinite(loss))
    first = finite[-1] + 1 if len(finite) else 0
    return Note("nan", {"step": int(train["step"][first])})


def _mismatch(train: Columns, config: KTOConfig) -> Note | None:
    chosen, rejected = _rewards(train)
    z0 = recent(train, "kl")
    if np.min([chosen, rejected, config.beta * z0]) > 1.5 and abs(chosen - rejected) < 0.5 * (chosen + rejected):
        return Note("mismatch", {"chosen": chosen, "rejected": rejected, "z0": z0})
    return None


def _both_fall(train: Columns, config: KTOConfig) -> Note | None:
    chosen, rejected = _rewards(train)
    if chosen < -0.5 and rejected < -0.5:
        kind = "both_fall_pairs" if OBJECTIVES[config.objective].paired else "both_fall"
        return Note(kind, {"chosen": chosen, "rejected": rejected})
    return None


def _far(train: Columns, config: KTOConfig) -> Note | None:
    z0 = recent(train, "kl")
    return Note("far", {"z0": z0}) if z0 > 15 else None


def _rejected_only(train: Columns, config: KTOConfig) -> Note | None:
    chosen, rejected = _rewards(train)
    margin = chosen - rejected
    if margin > 1.0 and chosen < 0.05 * margin and not OBJECTIVES[config.objective].paired:
        return Note("rejected_only", {"margin": margin, "chosen": chosen})
    return None


def _still(train: Columns) -> Note | None:
    chosen, rejected = _rewards(train)
    if len(train) >= 50 and abs(chosen) < 0.05 and abs(rejected) < 0.05:
        return Note("still", {"step": int(train["step"][-1]), "margin": chosen - rejected})
    return None


def _z0_zero(train: Columns, config: KTOConfig) -> Note | None:
    z0 = train["kl"]
    if config.z0 == "zero" or "kl" not in train:
        return None
    above = np.flatnonzero(~(z0 <= 0))
    since = above[-1] + 1 if len(above) else 0
    if since >= len(z0):
        return None
    steps = train["step"]
    count = int(steps[-1] - steps[since]) + 1
    return Note("z0_zero", {"count": count}) if count >= 50 else None


def _overfit(train: Columns, held_out: Columns) -> Note | None:
    """The held-out loss is clearly above its lowest value and did not come down in the last three evaluations."""
    loss, steps = held_out["loss"], held_out["step"]
    known = np.isfinite(loss)
    loss, steps = loss[known], steps[known]
    if len(loss) < 4:
        return None
    lowest = int(loss.argmin())
    if lowest > len(loss) - 4 or loss[-3:].min() < loss[lowest] * 1.1 or recent(train, "loss") > loss[lowest]:
        return None
    return Note("overfit", {"step": int(steps[lowest])})


def _one_side(train: Columns) -> Note | None:
    if len(train) < 8:
        return None
    seen = {side: np.isfinite(train[f"rewards/{key}"]).any() for side, key in (("up", "chosen"), ("down", "rejected"))}
    missing = [side for side, any_seen in seen.items() if not any_seen]
    return Note("one_side", {"side": missing[0]}) if len(missing) == 1 else None
