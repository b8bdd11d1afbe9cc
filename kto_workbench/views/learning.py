"""KTO's value function and its pull on an answer, as curves to play with; DPO's and SFT's beside it.

r is an answer's log-ratio log π(y|x) − log π_ref(y|x) in nats, without β. A thumb up is worth v = λ σ(β (r − z0)),
a thumb down v = λ σ(β (z0 − r)). The loss is λ − v, and its pull on log π(y|x) is λ β σ(βu) (1 − σ(βu)) with
u = r − z0: up for a thumb up, down for a thumb down.
"""

import numpy as np

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


def faded_beyond(beta: float) -> float:
    """How many nats from z0 KTO's pull is down to a tenth of its strongest."""
    return FADED / beta
