"""KTO steps on a GPU: models of half a billion to eight billion parameters with random weights, LoRA and QLoRA.

python -m benchmarks.gpu [--json] [--shape llama-1b] [--lengths 1024/256] [--steps 50] [--seconds 300] [--out FILE]

The rows come in the order of what one wants to know first, so that they may be broken off: after `--seconds` no other
is begun, and `--out` has every row as soon as it is measured. A row that fails says why, and the others go on. Prints
for each shape, kind of adapter and lengths: milliseconds a step, examples a second, the floating-point rate that
was reached beside the card's measured rate of matrix products, and peak memory. `--device cpu --tiny` goes the same way
with a toy model, to see that the suite itself works; its figures mean nothing.
"""

import argparse
import json
import math
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.machine import describe_machine, versions
from benchmarks.workload import Example, Mix, floor_operations, make_batches
from kto_workbench.feedback.templates import short_reason
from kto_workbench.runs.jsonlines import write_atomically
from kto_workbench.runs.machine import free_memory

BATCH = 32
LENGTHS = ((1024, 256), (128, 512), (2048, 512))
SIGMA = 0.6
ADAPTERS = {False: "LoRA bf16", True: "QLoRA NF4"}
ROOM = 24e9  # bytes that the random weights of all shapes take, with some to spare


@dataclass(frozen=True)
class GpuShape:
    """A published model's sizes: with random weights it takes the same time and memory."""

    kind: str
    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    tied: bool

    @property
    def body_parameters(self) -> int:
        """N: parameters of all layers' matrices."""
        q, kv = self.heads * self.head_dim, self.kv_heads * self.head_dim
        return self.layers * (2 * self.hidden * q + 2 * self.hidden * kv + 3 * self.hidden * self.intermediate)


# From the config.json of Llama-3.2-1B, Qwen3-0.6B and Llama-3-8B.
SHAPES = {
    "llama-1b": GpuShape("llama", 16, 2048, 8192, 32, 8, 64, 128256, True),
    "qwen3-0.6b": GpuShape("qwen3", 28, 1024, 3072, 16, 8, 128, 151936, True),
    "llama-8b": GpuShape("llama", 32, 4096, 14336, 32, 8, 128, 128256, False),
}
TINY = {"tiny": GpuShape("llama", 2, 128, 256, 4, 2, 32, 512, True)}


def save_random_model(shape: GpuShape, folder: str, device: str) -> None:
    """Write a model with random bfloat16 weights to a folder, from which it is loaded like any other."""
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig, Qwen3Config

    config = {"llama": LlamaConfig, "qwen3": Qwen3Config}[shape.kind](
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        max_position_embeddings=32768,
        tie_word_embeddings=shape.tied,
    )
    torch.manual_seed(0)
    with torch.device(device):
        AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(folder)


def measure(
    shape: GpuShape,
    folder: str,
    prompt: int,
    completion: int,
    device: str,
    *,
    four_bit: bool,
    warm_up: int,
    steps: int,
    seconds: float = math.inf,
) -> dict[str, Any]:
    """Steps of one model, adapter and length mix, each a batch of 32 with optimizer; the median of them counts.

    As many steps as `seconds` allow, but three at least.
    """
    import torch

    from kto_workbench.config import KTOConfig
    from kto_workbench.engine.batches import Batch, Pair
    from kto_workbench.engine.memory import calibrate, peak_bytes, recompute_activations
    from kto_workbench.engine.models import add_lora, load_model
    from kto_workbench.engine.passes import Budget
    from kto_workbench.engine.scoring import make_scorer
    from kto_workbench.engine.step import kto_step

    place = torch.device(device)
    config = KTOConfig(
        model=folder, load_in_4bit=four_bit, lora_r=16, desirable_weight=1.0, undesirable_weight=1.0, batch_size=BATCH
    )
    model = add_lora(load_model(folder, device=place, dtype=torch.bfloat16, load_in_4bit=four_bit), config)
    scorer = make_scorer(model)
    drawn = make_batches(Mix(prompt, completion, SIGMA), 4 * BATCH, BATCH, shape.vocabulary, draws=5)
    batches = [_batch(examples, Batch, Pair, place) for examples in drawn]
    largest = max(batches, key=lambda batch: sum(map(len, batch.pairs)))
    make_room = lambda: recompute_activations(model)
    budget = Budget(calibrate(scorer, largest, config, make_room=make_room), make_room=make_room)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-9)

    def step(number: int) -> None:
        batch = batches[number % len(batches)]
        lengths = [max(map(len, pairs)) for pairs in zip(batch.pairs, batch.mismatched, strict=True)]
        work = lambda tokens: kto_step(scorer, batch, config, tokens, train=True)
        budget.run(work, sum(lengths), max(lengths), optimizer.zero_grad)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < warm_up + steps and (len(times) < 3 or time.perf_counter() < end):
        times.append(_seconds(lambda: step(len(times)), place))
    # Where time was short, the first step alone is the warm-up.
    counted = times[warm_up:] if len(times) > warm_up + 2 else times[1:] or times
    operations = floor_operations(shape, drawn) / len(drawn)
    median = statistics.median(counted)
    return {
        "layout": scorer.name,
        "tokens_per_pass": budget.tokens or "all",
        "recomputed": bool(model.is_activation_checkpointing),
        "steps": len(counted),
        "ms_per_step": 1e3 * median,
        "examples_per_second": BATCH / median,
        "tflops": operations / median / 1e12,
        "peak_gib": peak_bytes(lambda: step(0), place) / 2**30,
    }


def _batch(examples: list[Example], batch_type: Any, pair_type: Any, place: Any) -> Any:
    import torch

    partners = examples[1:] + examples[:1]
    zeros = torch.zeros(len(examples), device=place)
    return batch_type(
        pairs=[pair_type(e.prompt, e.completion) for e in examples],
        mismatched=[pair_type(a.prompt, b.completion) for a, b in zip(examples, partners, strict=True)],
        label=torch.tensor([e.label for e in examples]),
        reference_logps=zeros,
        reference_kl_logps=zeros,
    )


def _seconds(work: Callable[[], Any], place: Any) -> float:
    import torch

    wait = torch.cuda.synchronize if place.type == "cuda" else lambda: None
    wait()
    start = time.perf_counter()
    work()
    wait()
    return time.perf_counter() - start


def main(argv: list[str] | None = None) -> int:
    """Run the suite; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout instead of a table")
    parser.add_argument("--shape", choices=SHAPES, action="append", help="only this model; may be repeated")
    parser.add_argument("--lengths", action="append", metavar="PROMPT/COMPLETION", help="only these; may be repeated")
    parser.add_argument("--warm-up", type=int, default=20)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=math.inf, help="begin no other row after so many")
    parser.add_argument("--out", type=Path, help="a JSON file that has every row as soon as it is measured")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="a toy model, to see that the suite works")
    arguments = parser.parse_args(argv)

    import torch

    if arguments.device == "cuda" and not torch.cuda.is_available():
        print("There is no CUDA GPU on this machine, so there is nothing to measure.", file=sys.stderr)
        return 2
    found = measure_all(arguments)
    print(json.dumps(found) if arguments.json else table(found))
    return 0


def measure_all(arguments: argparse.Namespace) -> dict[str, Any]:
    """Every row that there is time for, with the machine and the versions that they were measured with."""
    import torch

    from kto_workbench.doctor.device import product_rate
    from kto_workbench.engine.passes import give_back

    begun = time.perf_counter()
    lengths = [tuple(map(int, text.split("/"))) for text in arguments.lengths or ()] or LENGTHS
    shapes = TINY if arguments.tiny else {name: SHAPES[name] for name in arguments.shape or SHAPES}
    place = torch.device(arguments.device)
    machine = describe_machine(torch.get_num_threads())
    machine["gpu"] = torch.cuda.get_device_name() if arguments.device == "cuda" else None
    machine["matmul_tflops"] = product_rate(place, torch.bfloat16, 512 if arguments.tiny else 8192) / 1e12
    found: dict[str, Any] = {"machine": machine, "versions": versions(), "rows": [], "left_out": []}
    order = in_order(shapes, lengths)
    with tempfile.TemporaryDirectory(dir=roomiest()) as folder:
        for number, (name, four_bit, (prompt, completion)) in enumerate(order):
            row = {
                "model": name,
                "adapter": ADAPTERS[four_bit],
                "prompt_tokens": prompt,
                "completion_tokens": completion,
            }
            left = arguments.seconds - (time.perf_counter() - begun)
            if left <= 0:
                found["left_out"].append(row)
                continue
            print(", ".join(map(str, row.values())), file=sys.stderr, flush=True)
            try:
                saved = Path(folder) / name
                if not saved.is_dir():
                    save_random_model(shapes[name], str(saved), arguments.device)
                row |= measure(
                    shapes[name],
                    str(saved),
                    prompt,
                    completion,
                    arguments.device,
                    four_bit=four_bit,
                    warm_up=arguments.warm_up,
                    steps=arguments.steps,
                    # A fair share of what is left, half of which goes into loading and into measuring memory.
                    seconds=max(5.0, left / (len(order) - number) / 2),
                )
                row["share_of_matmul"] = row["tflops"] / machine["matmul_tflops"]
            except Exception as error:  # a card that is too small, a disk that is full: the other rows are worth having
                row["failed"] = short_reason(error)
            found["rows"].append(row)
            give_back()
            if arguments.out:
                write_atomically(arguments.out, json.dumps(found))
    return found


def in_order(
    shapes: dict[str, GpuShape], lengths: Sequence[tuple[int, int]]
) -> list[tuple[str, bool, tuple[int, int]]]:
    """Model, 4 bits and lengths of each row, what one wants to know first before the rest."""
    rows = [(name, four_bit, pair) for pair in lengths for four_bit in (False, True) for name in shapes]
    # All models at the first lengths, each first with what it is mostly trained with: a large one in 4 bits.
    usual = lambda name, four_bit: four_bit == (shapes[name].body_parameters > 4e9)
    return sorted(rows, key=lambda row: (lengths.index(row[2]), not usual(row[0], row[1])))


def roomiest() -> str | None:
    """Where random weights are kept: in memory, where they are read fastest, if there is plenty; else as usual."""
    shared = Path("/dev/shm")
    if not shared.is_dir() or min(shutil.disk_usage(shared).free, free_memory() - ROOM) < ROOM:
        return None
    return str(shared)


def table(found: dict[str, Any]) -> str:
    """The rows as a table of Markdown."""
    machine = found["machine"]
    lines = [
        f"{machine['gpu'] or machine['cpu']}, matrix products at {machine['matmul_tflops']:.1f} TFLOP/s",
        "",
        "| model | adapter | lengths | ms a step | examples/s | TFLOP/s | of matmul | peak GiB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in found["rows"]:
        what = f"| {row['model']} | {row['adapter']} | {row['prompt_tokens']}/{row['completion_tokens']} |"
        if "failed" in row:
            lines.append(f"{what} {row['failed']} | | | | |")
            continue
        lines.append(
            f"{what} {row['ms_per_step']:.0f} | {row['examples_per_second']:.1f} | {row['tflops']:.2f} "
            f"| {row['share_of_matmul']:.0%} | {row['peak_gib']:.2f} |"
        )
    if found["left_out"]:
        lines += ["", f"Time was too short for {len(found['left_out'])} more rows."]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
