"""KTO steps on a GPU: models of half a billion to eight billion parameters with random weights, LoRA and QLoRA.

python -m benchmarks.gpu [--json] [--shape llama-1b] [--lengths 1024/256] [--steps 50]

Prints for each shape, kind of adapter and lengths: milliseconds a step, examples a second, the floating-point rate that
was reached beside the card's measured rate of matrix products, and peak memory. `--device cpu --tiny` goes the same way
with a toy model, to see that the suite itself works; its figures mean nothing.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from benchmarks.machine import describe_machine, versions
from benchmarks.workload import Example, Mix, floor_operations, make_batches

BATCH = 32
LENGTHS = ((128, 512), (1024, 256), (2048, 512))
SIGMA = 0.6


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
    shape: GpuShape, folder: str, prompt: int, completion: int, device: str, *, four_bit: bool, warm_up: int, steps: int
) -> dict[str, Any]:
    """Steps of one model, adapter and length mix, each a batch of 32 with optimizer; the median of them counts."""
    import torch

    from kto_workbench.config import KTOConfig
    from kto_workbench.engine.batches import Batch, Pair
    from kto_workbench.engine.memory import calibrate, peak_bytes
    from kto_workbench.engine.models import add_lora, load_model
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
    tokens = calibrate(scorer, largest, config)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-9)

    def step(number: int) -> None:
        kto_step(scorer, batches[number % len(batches)], config, tokens, train=True)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    seconds = [_seconds(lambda n=n: step(n), place) for n in range(warm_up + steps)][warm_up:]
    operations = floor_operations(shape, drawn) / len(drawn)
    median = statistics.median(seconds)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "adapter": "QLoRA NF4" if four_bit else "LoRA bf16",
        "layout": scorer.name,
        "tokens_per_pass": tokens or "all",
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


def matmul_tflops(device: str, size: int) -> float:
    """The rate of square bfloat16 matrix products of this size, best of 20."""
    import torch

    place = torch.device(device)
    a, b = (torch.randn(size, size, dtype=torch.bfloat16, device=place) for _ in range(2))
    best = min(_seconds(lambda: a @ b, place) for _ in range(20))
    return 2 * size**3 / best / 1e12


def main(argv: list[str] | None = None) -> int:
    """Run the suite; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout instead of a table")
    parser.add_argument("--shape", choices=SHAPES, action="append", help="only this model; may be repeated")
    parser.add_argument("--lengths", action="append", metavar="PROMPT/COMPLETION", help="only these; may be repeated")
    parser.add_argument("--warm-up", type=int, default=20)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="a toy model, to see that the suite works")
    arguments = parser.parse_args(argv)

    import torch

    if arguments.device == "cuda" and not torch.cuda.is_available():
        print("There is no CUDA GPU on this machine, so there is nothing to measure.", file=sys.stderr)
        return 2
    lengths = [tuple(map(int, text.split("/"))) for text in arguments.lengths or ()] or LENGTHS
    shapes = TINY if arguments.tiny else {name: SHAPES[name] for name in arguments.shape or SHAPES}
    machine = describe_machine(torch.get_num_threads())
    machine["gpu"] = torch.cuda.get_device_name() if arguments.device == "cuda" else None
    machine["matmul_tflops"] = matmul_tflops(arguments.device, 512 if arguments.tiny else 8192)
    rows = []
    for name, shape in shapes.items():
        with tempfile.TemporaryDirectory() as folder:
            save_random_model(shape, folder, arguments.device)
            for four_bit in (False, True):
                for prompt, completion in lengths:
                    print(f"{name}, {'NF4' if four_bit else 'bf16'}, {prompt}/{completion}", file=sys.stderr)
                    row = measure(
                        shape,
                        folder,
                        prompt,
                        completion,
                        arguments.device,
                        four_bit=four_bit,
                        warm_up=arguments.warm_up,
                        steps=arguments.steps,
                    )
                    rows.append({"model": name, **row, "share_of_matmul": row["tflops"] / machine["matmul_tflops"]})
    if arguments.json:
        print(json.dumps({"machine": machine, "versions": versions(), "rows": rows}))
        return 0
    print(f"{machine['gpu'] or machine['cpu']}, matrix products at {machine['matmul_tflops']:.1f} TFLOP/s\n")
    print("| model | adapter | lengths | ms a step | examples/s | TFLOP/s | of matmul | peak GiB |")
    print("|---|---|---|---|---|---|---|---|")
    for row in rows:
        print(
            f"| {row['model']} | {row['adapter']} | {row['prompt_tokens']}/{row['completion_tokens']} "
            f"| {row['ms_per_step']:.0f} | {row['examples_per_second']:.1f} | {row['tflops']:.2f} "
            f"| {row['share_of_matmul']:.0%} | {row['peak_gib']:.2f} |"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
