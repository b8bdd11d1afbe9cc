"""Why: an answer as a heat map of log π_θ − log π_ref, token by token, which adds up to its reward."""

import math
from collections.abc import Sequence
from typing import Any

from kto_workbench.ui.html import esc
from kto_workbench.ui.words import say

# Where colours are full: one odd token must not leave the others white.
FULL_AT = 0.95
STRONGEST = 3  # named on either side, for those who can't point at a token
DEEPEST = 58  # per cent of colour in the background, which leaves the letters clear in light and in dark


def heat_map(language: str, explained: dict[str, Any]) -> str:
    """The answer with each token's share, its sum and reward, the scale, and the strongest tokens.

    Args:
        language: of the page.
        explained: what `Answerer.explain` says.
    """
    pieces = visible_pieces(explained["tokens"], explained["log_ratios"])
    full = scale_of([ratio for _, ratio in pieces])
    spans = "".join(_span(text, ratio, full) for text, ratio in pieces)
    total = sum(explained["log_ratios"])
    reward = say(language, "why.reward", beta=explained["beta"], total=total, reward=explained["reward"])
    return (
        f'<div class="kto-answer-box kto-heat" aria-busy="false">{spans}</div>'
        f'<p class="kto-reward"><b>{esc(reward)}</b></p>{_legend(language, full)}{_strongest(language, pieces)}'
    )


def visible_pieces(tokens: Sequence[str], ratios: Sequence[float]) -> list[tuple[str, float]]:
    """Tokens with their log-ratios; those without a text of their own count with the one that completes them."""
    pieces, waiting = [], 0.0
    for text, ratio in zip(tokens, ratios, strict=True):
        waiting += ratio
        if text:
            pieces.append((text, waiting))
            waiting = 0.0
    return [*pieces, ("\N{REPLACEMENT CHARACTER}", waiting)] if waiting else pieces


def scale_of(ratios: Sequence[float]) -> float:
    """The size, in nats, at which colours are full: the nearest-rank 95th percentile of all sizes; 1 if all are 0."""
    sizes = sorted(map(abs, ratios))
    return (sizes[math.ceil(FULL_AT * len(sizes)) - 1] if sizes else 0.0) or 1.0


def _span(text: str, ratio: float, full: float) -> str:
    side = "up" if ratio > 0 else "down"
    depth = min(1.0, abs(ratio) / full) * DEEPEST
    return f'<span class="kto-{side}" style="--depth:{depth:.0f}%" title="{ratio:+.5f} nats">{esc(text)}</span>'


def _legend(language: str, full: float) -> str:
    low, high = (say(language, f"why.{side}", full=full) for side in ("less", "more"))
    return (
        f'<div class="kto-heat-scale"><span>{esc(low)}</span><i aria-hidden="true"></i><span>{esc(high)}</span></div>'
    )


def _strongest(language: str, pieces: Sequence[tuple[str, float]]) -> str:
    ordered = sorted(pieces, key=lambda piece: piece[1])
    parts = [piece for piece in reversed(ordered[-STRONGEST:]) if piece[1] > 0]
    parts += [piece for piece in ordered[:STRONGEST] if piece[1] < 0]
    named = " · ".join(f"<code>{esc(text.strip() or '␣')}</code> {ratio:+.2f}" for text, ratio in parts)
    return f'<p class="kto-plain">{esc(say(language, "why.strongest"))} {named}</p>' if parts else ""
