"""What several GPUs take: memory a process, bytes over the wire a step, and what bounds it, by arithmetic.

    python -m benchmarks.several_gpus                # tables for 8B and 70B on 8 and 64 GPUs
    python -m benchmarks.several_gpus --check        # two CPU processes: bytes counted against the same arithmetic

A tensor of b bytes among P processes costs each of them, on a ring, (P − 1)/P · b to gather or to scatter, and twice
that to reduce to all. Frozen weights are bfloat16; an adapter is float32, with as many gradients and two moments; all
weights trained are bfloat16, with gradients of theirs, float32 masters and two moments.
"""

import argparse
import json
import math
import os
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from typing import Any

from kto_workbench.runs.memory import ModelShape

SHAPES = {
    "8B": ModelShape(32, 4096, 14336, 32, 8, 128, 128256),
    "70B": ModelShape(80, 8192, 28672, 64, 8, 128, 128256),
}
RANK = 16
TOKENS = 32 * 1024  # of a step: 32 rows of 1,024
FLOPS = 4e14  # of a GPU that computes well in bfloat16; an assumption, like the two below
WIRE = {8: 4e11, 64: 5e10}  # bytes a second and process: within a machine, between machines
LATENCY = {8: 2e-5, 64: 1e-4}  # seconds of an all-reduce of a few bytes


@dataclass(frozen=True)
class Way:
    """How `processes` hold a model: all of it (`sharded` False) or their parts, and what of it is trained."""

    shape: ModelShape
    full: bool
    sharded: bool
    processes: int

    @property
    def weights(self) -> int:
        """Frozen and trained parameters."""
        return self.shape.body + self.shape.embedding + self.adapter

    @property
    def adapter(self) -> int:
        """Parameters of LoRA."""
        return 0 if self.full else self.shape.adapter(RANK)

    @property
    def trained(self) -> int:
        """Parameters that move."""
        return self.weights if self.full else self.adapter

    def memory(self) -> float:
        """Bytes a process holds of weights, gradients and optimizer; activations come on top."""
        if self.full:
            all_of_it = self.weights * (2 + 2 + 4 + 8)  # weight, gradient, master, two moments
        else:
            all_of_it = 2 * (self.weights - self.adapter) + self.adapter * (4 + 4 + 8)
        if not self.sharded:
            return all_of_it
        # One layer is whole at a time, another on its way, and what belongs to no layer.
        layer = self.shape.body / self.shape.layers
        return all_of_it / self.processes + 2 * (2 * layer + self.shape.embedding)

    def collectives(self, passes: int) -> dict[str, int]:
        """Numbers in the tensors that are gathered, scattered and reduced in a step of so many passes with gradient."""
        if not self.sharded:
            return {"reduced": self.trained}
        # Layers for the forward pass and again for the backward pass; what belongs to no layer, once.
        twice, once = self.shape.body + self.adapter, self.shape.embedding
        return {"gathered": passes * (2 * twice + once), "scattered": passes * self.trained}

    def wire(self, passes: int) -> float:
        """Bytes that a process sends in a step, on a ring."""
        share = (self.processes - 1) / self.processes
        gradient = 2 if self.full else 4  # bytes
        cost = {"reduced": 2 * share * gradient, "gathered": share * 2, "scattered": share * gradient}
        return sum(cost[kind] * numbers for kind, numbers in self.collectives(passes).items())

    def compute(self) -> float:
        """Seconds that a process computes in a step.

        2 operations a weight and token forward, as many for each gradient, of activations and of trained weights, and
        the mismatched completions, half of the tokens, forward.
        """
        operations = 2 * self.weights * TOKENS * (1 + 1 + (1 if self.full else 0) + 0.5)
        return operations / self.processes / FLOPS


def table(passes: int) -> list[dict[str, Any]]:
    """A row for each model, way and number of GPUs."""
    rows = []
    for name, shape in SHAPES.items():
        for full, sharded in ((False, False), (False, True), (True, True)):
            for processes in (8, 64):
                way = Way(shape, full, sharded, processes)
                wire = way.wire(passes) / WIRE[processes]
                rows.append(
                    {
                        "model": name,
                        "trained": "all" if full else f"LoRA r={RANK}",
                        "sharding": "fsdp2, zero3" if sharded else "none",
                        "gpus": processes,
                        "memory_gb": way.memory() / 1e9,
                        "wire_gb": way.wire(passes) / 1e9,
                        "wire_s": wire,
                        "compute_s": way.compute(),
                        "z0_s": LATENCY[processes],
                        "bound_by": "wire" if wire > way.compute() else "compute",
                    }
                )
    return rows


def main() -> None:
    """Print the table, or count."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--passes", type=int, default=1, help="passes with gradient of a process in a step")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if arguments.check and "RANK" in os.environ:
        return _count(arguments.passes)
    rows = check(arguments.passes) if arguments.check else table(arguments.passes)
    if arguments.json:
        print(json.dumps({"rows": rows}))
        return
    print(" | ".join(rows[0]))
    for row in rows:
        print(" | ".join(f"{value:.3g}" if isinstance(value, float) else str(value) for value in row.values()))


# counted


STEPS = 12
SMALL = ModelShape(3, 64, 96, 4, 4, 16, 128)


def check(passes: int) -> list[dict[str, Any]]:
    """Numbers that two processes on a CPU gather, scatter, reduce in twelve steps, and hold, beside the arithmetic."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    command += ["-m", "benchmarks.several_gpus", "--check", "--passes", str(passes)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr[-3000:])
    return json.loads(done.stdout.splitlines()[-1])


def _count(passes: int) -> None:
    """One of the two processes."""
    import torch
    from torch.profiler import ProfilerActivity, profile
    from transformers import AutoModelForCausalLM, LlamaConfig

    from kto_workbench.config import KTOConfig
    from kto_workbench.engine.batches import Batch, Pair
    from kto_workbench.engine.crew import Crew, join
    from kto_workbench.engine.models import add_lora
    from kto_workbench.engine.scoring import make_scorer
    from kto_workbench.engine.sharding import at_once, shard
    from kto_workbench.engine.step import kto_step

    rank = join("cpu").rank
    config = KTOConfig(lora_r=RANK, objective="sft")  # of which each step is its gradient passes alone
    small = LlamaConfig(
        vocab_size=SMALL.vocabulary, hidden_size=SMALL.hidden, intermediate_size=SMALL.intermediate,
        num_hidden_layers=SMALL.layers, num_attention_heads=SMALL.heads, num_key_value_heads=SMALL.kv_heads,
        tie_word_embeddings=False,
    )  # fmt: skip
    pairs = [Pair((5,) * 8, (i,) * 8) for i in range(6, 6 + passes)]  # a pass of 16 tokens each
    batch = Batch(pairs, [], torch.tensor([True] * passes))
    rows: list[dict[str, Any]] = []
    for sharded in (False, True):
        torch.manual_seed(0)
        crew = Crew(rank, 2, "fsdp2" if sharded else "none")
        model = add_lora(AutoModelForCausalLM.from_config(small), config)
        within = shard(model, ["LlamaDecoderLayer"], torch.device("cpu"), crew).within if sharded else at_once
        scorer = make_scorer(model, within=within)
        if not sharded:
            crew.wrapped = torch.nn.parallel.DistributedDataParallel(scorer, broadcast_buffers=False)
            scorer.go_through(crew.wrapped)
        with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as found:
            for _ in range(STEPS):
                kto_step(scorer, batch, config, 16, train=True, crew=crew, at_least=passes)
                model.zero_grad()
        counted = Counter()
        for event in found.events():
            if event.name in NAMES:
                kind, which = NAMES[event.name]
                counted[kind] += math.prod(event.input_shapes[which])
        if sharded:
            del counted["reduced"]  # by which gloo scatters, and what processes ask each other
        held = sum(p.to_local().numel() if sharded else p.numel() for p in model.parameters())
        way = Way(SMALL, full=False, sharded=sharded, processes=2)
        expected = {kind: STEPS * numbers for kind, numbers in way.collectives(passes).items()}
        expected["held"], counted["held"] = way.weights // (2 if sharded else 1), held
        rows += [
            {"sharding": crew.sharding, "what": what, "counted": counted[what], "expected": expected[what]}
            for what in expected
        ]
    if rank == 0:
        print(json.dumps(rows))


# How torch's profiler calls them, and which of their tensors is the whole.
NAMES = {"c10d::_allgather_base_": ("gathered", 0), "c10d::_reduce_scatter_base_": ("scattered", 1)}
NAMES["gloo:all_reduce"] = ("reduced", 0)

if __name__ == "__main__":
    main()
