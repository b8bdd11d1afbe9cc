"""KTO's value function and its pull on an answer, as curves to play with; DPO's and SFT's beside it.

r is an answer's log-ratio log π(y|x) − log π_ref(y|x) in nats, without β. A thumb up is worth v = λ σ(β (r − z0)),
a thumb down v = λ σ(β (z0 − r)). The loss is λ − v, and its pull on log π(y|x) is λ β σ(βu) (1 − σ(βu)) with
u = r − z0: up for a thumb up, down for a thumb down.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from kto_workbench.feedback.named import asset
from kto_workbench.runs import Run
from kto_workbench.views.records import records_of

# σ(u)(1 − σ(u)) has its maximum 1/4 at u = 0; a tenth of that is left at |u| = ln(19 + 6√10) = 3.64.
FADED = float(np.log(19 + 6 * np.sqrt(10)))


def sigmoid(u: np.ndarray | float) -> np.ndarray:
    """1 / (1 + e^−u), without overflow."""
    return 0.5 * (1.0 + np.tanh(0.5 * np.asarray(u, float)))


def value(r: np.ndarray | float, *, up: bool, beta: float, weight: float, z0: float) -> np.ndarray:
    """What KTO thinks an answer of log-ratio r is worth, between 0 and λ."""
    return weight * sigmoid(beta * (np.asarray(r, float) - z0) * (1 if up else -1))


def pull(r: np.ndarray | float, *, up: bool, beta: float, weight: float, z0: float) -> np.ndarray:
    """The gradient of −loss by log π(y|x): above 0 makes the answer likelier, below 0 less likely."""
    s = sigmoid(beta * (np.asarray(r, float) - z0))
    return (1 if up else -1) * weight * beta * s * (1 - s)


def pull_of_dpo(margin: np.ndarray | float, *, beta: float) -> np.ndarray:
    """DPO's pull on the chosen answer: β σ(−β · margin); the rejected one gets the same downwards."""
    return beta * sigmoid(-beta * np.asarray(margin, float))


def descend(steps: int, rate: float, start: float = -2.0) -> float:
    """Where gradient descent on a liked answer's loss 1 − σ(r) has come to: r after so many steps."""
    r = start
    for _ in range(steps):
        r += rate * float(pull(r, up=True, beta=1.0, weight=1.0, z0=0.0))
    return r


def load_lessons() -> dict[str, Any]:
    """The runs that kto_workbench/shell/lessons.py has recorded, by name: `steps`, `up` and `down` in nats, `kl`."""
    return json.loads(asset("lessons.json").read_text(encoding="utf-8"))


def faded_beyond(beta: float) -> float:
    """How many nats from z0 KTO's pull is down to a tenth of its strongest."""
    return FADED / beta


@dataclass(frozen=True)
class Dots:
    """Where answers of a run lie: log-ratios in nats, those with thumbs up and those with thumbs down.

    `step` is the training step whose rows they are, with its `z0`; None where they are the newest batch means instead.
    """

    up: np.ndarray
    down: np.ndarray
    step: int | None = None
    z0: float | None = None


MEANS = 40  # batch means that are shown of a run without rows


def recorded_steps(run: Run) -> list[int]:
    """The steps at which a run has noted its rows' rewards down, in order; none in a run of an earlier version."""
    return sorted({record["step"] for record in run.rewards() if _is_whole(record)})


def dots_of(run: Run, step: float | None = None) -> Dots:
    """A run's rows at the recorded step that is nearest to `step` (the last one for None), else its batch means."""
    beta = run.config().beta
    recorded = [record for record in run.rewards() if _is_whole(record)]
    if not recorded:
        train = records_of(run).train
        return Dots(*(_finite(train[f"rewards/{side}"] / beta)[-MEANS:] for side in ("chosen", "rejected")))
    last = recorded[-1]["step"]
    nearest = min(recorded, key=lambda record: abs(record["step"] - (last if step is None else step)))
    ratios = np.array(nearest["rewards"], float) / beta
    label = np.array(nearest["labels"], bool)
    z0 = nearest.get("z0")
    return Dots(_finite(ratios[label]), _finite(ratios[~label]), nearest["step"], None if z0 is None else float(z0))


def _is_whole(record: Any) -> bool:
    """Whether a line of rewards.jsonl has what it should: other programs may have written into the folder."""
    if not isinstance(record, Mapping) or not isinstance(record.get("step"), int):
        return False
    rewards, labels, z0 = record.get("rewards"), record.get("labels"), record.get("z0")
    return (
        isinstance(rewards, list)
        and isinstance(labels, list)
        and len(rewards) == len(labels)
        and all(value is None or isinstance(value, int | float) for value in (z0, *rewards))
    )


def _finite(values: np.ndarray) -> np.ndarray:
    return values[np.isfinite(values)]
