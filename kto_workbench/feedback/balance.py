"""Thumbs up against thumbs down, and the weights λ that make up for their difference.

The paper (v4) asks that (λ_D · n_D) / (λ_U · n_U) lie in [1, 3/2]. The weight of the rarer class is raised, the
other stays at 1. With 1 thumb up to 10 down and λ_U = 1, λ_D belongs in [10, 15].
"""

from dataclasses import dataclass

RATIO_BOUNDS = (1.0, 1.5)  # of (λ_D n_D) / (λ_U n_U); KTO paper v4, section 4.1 (older texts and TRL say 4/3)


def suggest_weights(n_desirable: int, n_undesirable: int, ratio: float = 1.0) -> tuple[float, float]:
    """λ_D and λ_U such that (λ_D · n_desirable) / (λ_U · n_undesirable) = ratio, neither below 1.

    With one class only there is nothing to balance, and both are 1.
    """
    if ratio <= 0:
        raise ValueError(f"ratio must be positive, not {ratio}")
    if n_desirable <= 0 or n_undesirable <= 0:
        return 1.0, 1.0
    up_per_down = n_desirable / n_undesirable
    if up_per_down < ratio:
        return ratio * n_undesirable / n_desirable, 1.0
    return 1.0, n_desirable / (n_undesirable * ratio)


def weight_range(n_desirable: int, n_undesirable: int) -> dict[str, tuple[float, float]]:
    """The (lowest, highest) weight of either side by the paper's rule; the more frequent side stays at 1."""
    if n_desirable <= 0 or n_undesirable <= 0:
        return {"desirable_weight": (1.0, 1.0), "undesirable_weight": (1.0, 1.0)}
    low, high = RATIO_BOUNDS
    down_per_up = n_undesirable / n_desirable
    if down_per_up >= 1:
        return {"desirable_weight": (low * down_per_up, high * down_per_up), "undesirable_weight": (1.0, 1.0)}
    up_per_down = n_desirable / n_undesirable
    return {
        "desirable_weight": (1.0, 1.0),
        "undesirable_weight": (max(1.0, up_per_down / high), max(1.0, up_per_down / low)),
    }


@dataclass(frozen=True)
class Balance:
    """How many thumbs point either way, and the weights that follow."""

    n_desirable: int
    n_undesirable: int

    @property
    def weights(self) -> tuple[float, float]:
        """The suggested (λ_D, λ_U)."""
        return suggest_weights(self.n_desirable, self.n_undesirable)

    @property
    def desirable_weight(self) -> float:
        """The suggested λ_D."""
        return self.weights[0]

    @property
    def undesirable_weight(self) -> float:
        """The suggested λ_U."""
        return self.weights[1]

    @property
    def weight_range(self) -> dict[str, tuple[float, float]]:
        """The (lowest, highest) weight of either side."""
        return weight_range(self.n_desirable, self.n_undesirable)

    @property
    def advice(self) -> str:
        """What to do about the balance, in one sentence."""
        up, down = self.n_desirable, self.n_undesirable
        if not up and not down:
            return "There are no thumbs yet."
        if not up or not down:
            only = "up" if up else "down"
            return f"All thumbs are {only}: KTO can train on that, but no weights can balance it, so both stay at 1."
        ranges = self.weight_range
        name, side = ("λ_D", "desirable_weight") if down >= up else ("λ_U", "undesirable_weight")
        rarer = "up" if down >= up else "down"
        low, high = ranges[side]
        if up == down:
            return f"As many up as down: leave both weights at 1 (λ_D up to {high:.3g} is fine)."
        point = self.desirable_weight if down >= up else self.undesirable_weight
        return (
            f"Thumbs {rarer} are rarer: set {name} to {point:.3g} (between {low:.3g} and {high:.3g}), the other to 1."
        )
