"""The memory estimate beside the measured peak of training steps on the CPU, for three model shapes.

    python -m benchmarks.memory [--json] [--quick] [--threads 1]

Each measurement has a fresh process: reference and steps over one batch of mixed lengths, peak resident memory beyond
that of the loaded base model. glibc keeps freed blocks of up to 32 MiB in its heap, where they lie between live ones,
so what a process holds depends on the order of allocations; the estimate is of tensors, so `measured` gives every
block back at once (MALLOC_MMAP_THRESHOLD_), and `default_heap` is the same without that, which the estimate's upper
end should cover. `ratio` is estimate ÷ measured.

Ends with exit code 1 if an estimate is more than 20 % off.
"""

import argparse
import json
import os
import sys
from typing import Any

from benchmarks.machine import describe_machine, peak_memory, run_fresh, say, versions
from benchmarks.ours import Ours, Timed
from benchmarks.workload import Mix, Shape, lengths_of, make_batches, make_model

SHAPES = {
    "8x256": Shape(),
    "4x512": Shape(layers=4, hidden=512, intermediate=1408, heads=8, kv_heads=4, vocabulary=16384),
    "12x384": Shape(layers=12, hidden=384, intermediate=1536, heads=6, kv_heads=6, vocabulary=4096, lora_r=32),
}
TINY = Shape(layers=1, hidden=32, intermediate=64, heads=2, kv_heads=2, vocabulary=64, lora_r=2)
SETTINGS = {
    "ours": "one pass",
    "checkpointed": "checkpointed",
    "lean": "one sequence a pass",
    "full": "every weight, one pass",
    "bfloat16": "bfloat16, one pass",
}
GIVE_BACK = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_MMAP_MAX_": "10000000"}
MIX, BATCH_SIZE = Mix(120, 120, 0.5), 16
TOLERANCE = 0.2


def measure(name: str, variant: str) -> dict[str, Any]:
    """Estimate and peak of one shape in one setting, in this process."""
    from kto_workbench.runs.memory import ModelShape, Tokens, estimate_memory

    shape = SHAPES[name]
    (batch,) = batches = make_batches(MIX, BATCH_SIZE, BATCH_SIZE, shape.vocabulary)
    # Libraries come into memory when first used: that is no part of what a model needs.
    warm_up = Ours(TINY, make_batches(Mix(8, 8, 0), 4, 4, TINY.vocabulary), "ours")
    warm_up.score_reference()
    Timed(warm_up)(0)
    base = make_model(shape)
    if variant == "bfloat16":
        base.bfloat16()
    dimensions = ModelShape.of(base.config.to_dict())
    assert dimensions.body == shape.body_parameters
    loaded = peak_memory()
    del base

    ours = Ours(shape, batches, variant)
    ours.score_reference()
    step = Timed(ours)
    for _ in range(3):
        step(0)
    measured = peak_memory() - loaded

    config = ours.config.replace(
        batch_size=BATCH_SIZE,
        tokens_per_pass=ours.tokens_per_pass or "auto",
        gradient_checkpointing=variant == "checkpointed",
        sample_steps=-1,
    )
    (lengths,) = lengths_of(batches)
    tokens = Tokens(
        prompt=sum(p for p, _ in lengths), completion=sum(c for _, c in lengths), longest=max(map(len, batch))
    )
    estimate = estimate_memory(config, dimensions, tokens, dtype_bytes=2 if variant == "bfloat16" else 4)
    return {
        "shape": name,
        "setting": SETTINGS[variant],
        "measured": measured,
        "estimate": estimate.incremental,
        "low": estimate.low - estimate.weights,
        "high": estimate.high - estimate.weights,
        "ratio": estimate.incremental / measured,
        "tokens": tokens.prompt + tokens.completion,
    }


def main(arguments: list[str] | None = None) -> None:
    """Each shape and setting in a fresh process, then a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory", description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout instead of a table")
    parser.add_argument("--quick", action="store_true", help="one shape only")
    parser.add_argument("--threads", type=int, default=None, help="CPU threads (default: OMP_NUM_THREADS, else 1)")
    parser.add_argument("--part", help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    threads = given.threads or int(os.environ.get("OMP_NUM_THREADS", 0)) or 1
    if given.part:
        print(json.dumps(measure(*given.part.split("/"))))
        return
    rows = []
    for name in list(SHAPES)[: 1 if given.quick else None]:
        for variant in SETTINGS:
            say(f"{name}, {SETTINGS[variant]}")
            part = ["--part", f"{name}/{variant}"]
            row = run_fresh("benchmarks.memory", part, threads, **GIVE_BACK)
            if not given.quick:
                row["default_heap"] = run_fresh("benchmarks.memory", part, threads)["measured"]
            rows.append(row)
    if given.json:
        json.dump({"machine": describe_machine(threads), "versions": versions(), "rows": rows}, sys.stdout, indent=1)
        print()
    else:
        print("| shape | setting | measured MiB | estimate MiB (range) | estimate ÷ measured | default heap MiB |")
        print("|---" * 6 + "|")
        for row in rows:
            low, high, measured, middle = (row[key] / 2**20 for key in ("low", "high", "measured", "estimate"))
            print(
                f"| {row['shape']} | {row['setting']} | {measured:.0f} | {middle:.0f} ({low:.0f}–{high:.0f}) "
                f"| {row['ratio']:.2f} | {row.get('default_heap', 0) / 2**20:.0f} |"
            )
    if any(abs(row["ratio"] - 1) > TOLERANCE for row in rows):
        say("An estimate is more than 20 % off.")
        sys.exit(1)


if __name__ == "__main__":
    main()
