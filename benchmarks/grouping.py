"""What it changes statistically which rows are taken together: a simulation over many seeds.

    python -m benchmarks.grouping [--seeds 192] [--batch-size 32] [--json]

A policy with a dozen weights over a handful of answers, π(y|x) ∝ π_ref(y|x) exp(θ·φ(x, y)), learns from thumbs by the
package's own loss, partners and batches, all seeds at once. Of one data set the seeds differ in the shuffle alone, so
the spread of the learned weights over them is what the drawing of batches leaves to chance; figures are means over a
few data sets.
Rows are drawn in three ways:

    fixed       batches are made once, only their order changes; a row's partner is the next one of its batch
    scattered   rows are shuffled anew each epoch, each keeps its own partner; answers to a prompt fall where they may
    together    the same, with the answers to a prompt behind one another (`group_prompts`)
"""

import argparse
import json
import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kto_workbench.engine.batches import Batches, partners
from kto_workbench.engine.objective import kto_loss

WAYS = ("fixed", "scattered", "together")
SIBLINGS = (1, 2, 4, 8)
WEIGHTS, ANSWERS, ROWS, UNSEEN = 12, 16, 512, 512
EPOCHS, RATE, BETA, DATA_SETS = 4, 0.05, 0.5, 4


class World:
    """Prompts with features of each answer, what people think of them, and rows with thumbs."""

    def __init__(self, seed: int, siblings: int) -> None:
        draw = torch.Generator().manual_seed(seed)
        count = ROWS // siblings
        # What a prompt's answers have in common, beside what each has of its own.
        own = torch.randn(count + UNSEEN, ANSWERS, WEIGHTS, generator=draw)
        self.features = (own + torch.randn(count + UNSEEN, 1, WEIGHTS, generator=draw)) / math.sqrt(2)
        self.taste = torch.randn(WEIGHTS, generator=draw)
        self.liked = torch.sigmoid(self.features @ self.taste)
        self.reference = torch.randn(count + UNSEEN, ANSWERS, generator=draw).log_softmax(-1)
        self.prompt = torch.arange(ROWS) // siblings
        chance = self.reference[:count].exp()
        self.answer = torch.multinomial(chance, siblings, replacement=False, generator=draw).flatten()
        self.label = torch.rand(ROWS, generator=draw) < self.liked[self.prompt, self.answer]
        self.seen = count

    def log_ratios(self, theta: Tensor, prompt: Tensor, answer: Tensor) -> Tensor:
        """[S, m] log π_θ(y|x) − log π_ref(y|x) under the weights [S, W] of each seed."""
        scores = torch.einsum("smaw,sw->sma", self.features[prompt], theta) + self.reference[prompt]
        picked = scores.log_softmax(-1).gather(-1, answer[..., None]).squeeze(-1)
        return picked - self.reference[prompt, answer]

    def outcome(self, theta: Tensor) -> Tensor:
        """[S] how probably an answer of the learned policy to a prompt that it has not seen is liked."""
        scores = torch.einsum("paw,sw->spa", self.features[self.seen :], theta) + self.reference[self.seen :]
        return (scores.softmax(-1) * self.liked[self.seen :]).sum(-1).mean(-1)


def draws(world: World, way: str, seed: int, batch_size: int) -> tuple[np.ndarray, np.ndarray]:
    """[steps, m] rows of each step and their partners."""
    prompts = world.prompt.numpy()
    batches = Batches(np.arange(ROWS), prompts, batch_size, seed, together=way == "together")
    partner, steps = partners(prompts, seed), []
    order = np.random.default_rng(seed)
    for epoch in range(EPOCHS):
        batches.set_epoch(0 if way == "fixed" else epoch)
        drawn = np.array(list(batches))
        steps.append(drawn[order.permutation(len(drawn))] if way == "fixed" else drawn)
    rows = np.concatenate(steps)
    return rows, np.roll(rows, -1, axis=1) if way == "fixed" else partner[rows]


def learn(world: World, way: str, seeds: int, batch_size: int) -> tuple[Tensor, Tensor]:
    """The weights [S, W] that each seed learns, and z0 [S, steps] before it is clamped."""
    drawn = [draws(world, way, seed, batch_size) for seed in range(seeds)]
    rows, others = (torch.from_numpy(np.stack(some)).transpose(0, 1) for some in zip(*drawn, strict=True))
    theta = torch.zeros(seeds, WEIGHTS, requires_grad=True)
    optimizer, z0s = torch.optim.AdamW([theta], lr=RATE, weight_decay=0.0), []
    for own, partner in zip(rows, others, strict=True):
        with torch.no_grad():
            z0s.append(world.log_ratios(theta, world.prompt[own], world.answer[partner]).mean(-1))
        ratios = world.log_ratios(theta, world.prompt[own], world.answer[own])
        z0 = z0s[-1].clamp(min=0)[:, None].expand_as(ratios)
        weights = {"desirable_weight": 1.0, "undesirable_weight": 1.0}
        losses, _ = kto_loss(ratios, torch.zeros_like(ratios), world.label[own], z0, beta=BETA, **weights)
        optimizer.zero_grad()
        losses.mean(-1).sum().backward()  # the seeds know nothing of each other
        optimizer.step()
    return theta.detach(), torch.stack(z0s, dim=1)


def measure(siblings: int, way: str, seeds: int, batch_size: int) -> dict[str, Any]:
    """Means over a few data sets: what is learned, and how much of it the shuffle decides."""
    found = []
    for data_set in range(DATA_SETS):
        world = World(data_set, siblings)
        theta, z0 = learn(world, way, seeds, batch_size)
        liked = world.outcome(theta)
        spread = theta.var(0).mean().sqrt()
        found.append([theta.mean(0).norm(), spread, liked.mean(), liked.std(), z0[:, -8:].std(0).mean()])
    names = ("weights", "weights_spread", "liked", "liked_spread", "z0_spread")
    means = torch.tensor(found).mean(0).tolist()
    return {"siblings": siblings, "way": way, **dict(zip(names, means, strict=True))}


def main() -> None:
    """Print a table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=192)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows = [
        measure(siblings, way, given.seeds, given.batch_size)
        for siblings in SIBLINGS
        for way in WAYS
        if siblings > 1 or way != "together"
    ]
    if given.json:
        print(json.dumps({"seeds": given.seeds, "batch_size": given.batch_size, "rows": rows}, indent=1))
        return
    print("| answers to a prompt | batches | length of weights | their spread | liked | its spread | spread of z0 |")
    print("|---|---|---|---|---|---|---|")
    for row in rows:
        print(
            "| {siblings} | {way} | {weights:.3f} | {weights_spread:.4f} | {liked:.4f} | {liked_spread:.4f} "
            "| {z0_spread:.4f} |".format(**row)
        )


if __name__ == "__main__":
    main()
