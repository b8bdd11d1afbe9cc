"""A training step here and in TRL's KTOTrainer, on the same weights, adapter, batches and mismatched pairs.

    python -m benchmarks.vs_trl [--json] [--quick] [--rows 32] [--rounds 2] [--threads 1]

Before anything is timed, gradients (1e-4 relative), loss and z0 of every variant are compared with TRL's. Then the
variants take turns, batch by batch, in one process; a step is padding or packing, forward, backward, clipping and
AdamW. Peak memory comes from a fresh process for each variant. The variants:

    default      TRL as it comes: checkpointing, reference computed anew at each step
    tuned        TRL with precomputed reference and without checkpointing
    ours         the fastest setting: the whole batch in one pass
    checkpointed the same with gradient_checkpointing
    lean         tokens_per_pass as small as the longest sequence allows
    scattered    where prompts have several answers: tuned, over the same rows as TRL would draw them, which knows
                 nothing of siblings; its batches are others, so only its time is compared

In the rows, speeds are ratios of examples per CPU second (the best of each batch's rounds, added up), memory is peak
resident memory beyond that of the loaded model, and `share_of_floor` is the time that exact KTO needs at least, at the
measured rate of a large matrix product, divided by the time it took.
"""

import argparse
import json
import os
import statistics
import sys
from typing import Any

from benchmarks.machine import Cost, clock, describe_machine, matmul_rate, peak_memory, run_fresh, say, versions
from benchmarks.ours import Ours, Timed, trainable
from benchmarks.workload import (
    MIXES,
    Example,
    Mix,
    Shape,
    floor_operations,
    lengths_of,
    make_batches,
    make_model,
    move_adapter,
    padding,
    scattered,
)

BETA = 0.1
BATCH_SIZE = 8
TRL = ("default", "tuned")
OURS = ("ours", "checkpointed", "lean")
VARIANTS = (*TRL, *OURS)
TOLERANCE = 1e-4


def build(variant: str, shape: Shape, batches: list[list[Example]]) -> Any:
    """One variant with the benchmark's weights and adapter, and with its reference where that comes first."""
    if variant in TRL:
        from benchmarks.trl_peer import TrlPeer

        return TrlPeer(shape, batches, tuned=variant == "tuned", beta=BETA)
    engine = Ours(shape, batches, variant, beta=BETA)
    engine.score_reference()
    return engine


def compare(engines: dict[str, Any], number: int = 0) -> float:
    """The largest relative distance of a variant's gradient to tuned TRL's; stops where gradient, loss or z0 differ."""
    import torch

    found = {}
    for variant, engine in engines.items():
        engine.model.zero_grad(set_to_none=True)
        loss = float(engine.step(number))
        gradient = torch.cat([p.grad.flatten() for _, p in sorted(trainable(engine.model))])
        found[variant] = loss, engine.z0(), gradient
        engine.model.zero_grad(set_to_none=True)
    want_loss, want_z0, want = found["tuned"]
    worst = 0.0
    for variant, (loss, z0, gradient) in found.items():
        difference = float((gradient - want).norm() / want.norm())
        # log-probabilities of thousands of nats in float32 leave z0 a few units in the fourth digit after the point
        near = abs(loss - want_loss) < 1e-4 * want_loss and abs(z0 - want_z0) < 1e-3 * max(1.0, want_z0)
        if not (difference < TOLERANCE and near):
            raise SystemExit(
                f"{variant} computes something else than tuned TRL: gradients are {difference:.1e} apart, "
                f"losses {loss:.6f} and {want_loss:.6f}, z0 {z0:.6f} and {want_z0:.6f}. Nothing was timed."
            )
        worst = max(worst, difference)
    return worst


def measure_speed(mix: Mix, shape: Shape, rows: int, rounds: int) -> dict[str, Any]:
    """Costs of every variant on one mix, taken in turns, after the comparison."""
    import torch

    batches = make_batches(mix, rows, BATCH_SIZE, shape.vocabulary)
    engines = {variant: build(variant, shape, batches) for variant in VARIANTS}
    difference = 0.0
    for sign in (1, -1):
        for engine in engines.values():
            move_adapter(engine.model, sign)
        difference = max(difference, compare(engines))
        # z0 is clamped at 0, which would hide a difference: at first order the adapter or its negative has it above.
        if engines["tuned"].z0() > 0:
            break
    others = {}
    if mix.siblings > 1:
        others["scattered"] = build("tuned", shape, scattered(batches))
        move_adapter(others["scattered"].model)
    timed = {variant: Timed(engine) for variant, engine in (engines | others).items()}
    costs: dict[str, list[list[Cost]]] = {variant: [[] for _ in batches] for variant in timed}
    reference: dict[str, list[list[Cost]]] = {variant: [[] for _ in batches] for variant in ("tuned", "ours")}
    for work in timed.values():
        work.warm_up()
    rates = [matmul_rate()]
    for round_ in range(rounds):
        say(f"  {mix}: round {round_ + 1} of {rounds}")
        for number in range(len(batches)):
            for variant, work in timed.items():
                costs[variant][number].append(work(number))
            for variant, kept in reference.items():
                score = engines[variant].score_reference
                kept[number].append(clock(lambda score=score, number=number: score(number)))
        rates.append(matmul_rate())
    return {
        "padding": padding(lengths_of(batches)),
        "padding_scattered": padding(lengths_of(scattered(batches))),
        "gradient_difference": difference,
        "steps": {variant: summarize(kept) for variant, kept in costs.items()},
        "reference": {variant: summarize(kept) for variant, kept in reference.items()},
        "floor": floor_operations(shape, batches),
        "rate_wall": max(r.wall for r in rates),
        "rate_cpu": max(r.cpu for r in rates),
        "threads": torch.get_num_threads(),
    }


def summarize(costs: list[list[Cost]]) -> dict[str, float]:
    """Seconds of one round over all batches: of each batch the best, and the median, of its rounds."""
    return {
        f"{kind}_{name}": sum(pick(getattr(c, kind) for c in kept) for kept in costs)
        for kind in ("wall", "cpu")
        for name, pick in (("min", min), ("median", statistics.median))
    }


def measure_memory(mix: Mix, shape: Shape, rows: int, variant: str) -> dict[str, float]:
    """Bytes of peak memory beyond those of the loaded model, over the batches that are largest in some way."""
    import torch  # noqa: F401

    batches = make_batches(mix, rows, BATCH_SIZE, shape.vocabulary)
    # The padded size decides for TRL, the number of tokens for us: take both, and only these, to be quick.
    widest, fullest = max(batches, key=lambda b: max(map(len, b))), max(batches, key=lambda b: sum(map(len, b)))
    batches = [widest, fullest]
    if variant in TRL:
        import datasets  # noqa: F401
        from trl import KTOTrainer  # noqa: F401
    else:
        import kto_workbench.engine.reference
        import kto_workbench.engine.step  # noqa: F401
    make_model(shape)
    loaded = peak_memory()
    engine = build(variant, shape, batches)
    move_adapter(engine.model)
    step = Timed(engine)
    for number in (0, 1, 0, 1):
        step(number)
    return {"loaded": loaded, "peak": peak_memory(), "incremental": peak_memory() - loaded}


def make_row(mix: Mix, speed: dict[str, Any], memory: dict[str, dict[str, float]], rows: int) -> dict[str, Any]:
    """The figures of one mix."""
    steps, n = speed["steps"], -(-rows // BATCH_SIZE)
    ours = steps["ours"]

    def ratio(peer: str, key: str = "cpu_min") -> float:
        return steps[peer][key] / ours[key]

    first_epoch = ours["cpu_min"] + speed["reference"]["ours"]["cpu_min"]
    tuned_first = steps["tuned"]["cpu_min"] + speed["reference"]["tuned"]["cpu_min"]
    row = {
        "prompt_tokens": mix.prompt_tokens,
        "completion_tokens": mix.completion_tokens,
        "sigma": mix.sigma,
        "siblings": mix.siblings,
        "rows": rows,
        "padding": speed["padding"],
        "gradient_difference": speed["gradient_difference"],
        "vs_tuned": ratio("tuned"),
        "vs_default": ratio("default"),
        "vs_tuned_median": ratio("tuned", "cpu_median"),
        "vs_default_median": ratio("default", "cpu_median"),
        "vs_tuned_wall": ratio("tuned", "wall_min"),
        "vs_default_wall": ratio("default", "wall_min"),
        "vs_default_first_epoch": steps["default"]["cpu_min"] / first_epoch,
        "vs_tuned_first_epoch": tuned_first / first_epoch,
        "checkpointed_vs_default": steps["default"]["cpu_min"] / steps["checkpointed"]["cpu_min"],
        "lean_slowdown": steps["lean"]["cpu_min"] / ours["cpu_min"],
        "share_of_floor": speed["floor"] / speed["rate_cpu"] / ours["cpu_min"],
        "share_of_floor_wall": speed["floor"] / speed["rate_wall"] / ours["wall_min"],
        "matmul_gflops_per_cpu_second": speed["rate_cpu"] / 1e9,
        "achieved_gflops_per_cpu_second": speed["floor"] / ours["cpu_min"] / 1e9,
        "ms_per_step": {v: 1e3 * s["wall_min"] / n for v, s in steps.items()},
        "ms_per_step_median": {v: 1e3 * s["wall_median"] / n for v, s in steps.items()},
        "cpu_seconds_per_step": {v: s["cpu_min"] / n for v, s in steps.items()},
        "examples_per_cpu_second": {v: rows / s["cpu_min"] for v, s in steps.items()},
        "reference_ms_per_batch": {v: 1e3 * s["wall_min"] / n for v, s in speed["reference"].items()},
    }
    if "scattered" in steps:
        row |= {"vs_tuned_scattered": ratio("scattered"), "padding_scattered": speed["padding_scattered"]}
    if memory:
        tuned = memory["tuned"]["incremental"]
        row |= {f"memory_vs_tuned_{v}": memory[v]["incremental"] / tuned for v in memory if v not in ("tuned", "ours")}
        row["memory_vs_tuned"] = memory["ours"]["incremental"] / tuned
        row["memory_mib"] = {v: m["incremental"] / 2**20 for v, m in memory.items()}
    return row


def print_table(result: dict[str, Any]) -> None:
    """The rows for people."""
    columns = (
        ("vs tuned", "vs_tuned"),
        ("vs tuned, scattered", "vs_tuned_scattered"),
        ("vs default", "vs_default"),
        ("first epoch", "vs_default_first_epoch"),
        ("memory", "memory_vs_tuned"),
        ("lean memory", "memory_vs_tuned_lean"),
        ("lean slowdown", "lean_slowdown"),
        ("of floor", "share_of_floor"),
    )
    print("| lengths, σ (padding) | " + " | ".join(title for title, _ in columns) + " |")
    print("|---" * (len(columns) + 1) + "|")
    for row in result["rows"]:
        several = f" × {row['siblings']}" if row["siblings"] > 1 else ""
        name = f"{row['prompt_tokens']}/{row['completion_tokens']}{several}, σ {row['sigma']:g} ({row['padding']:.2f}×)"
        print(f"| {name} | " + " | ".join(f"{row[key]:.2f}" if key in row else "–" for _, key in columns) + " |")
    for what, unit in (
        ("ms_per_step", "ms a step"),
        ("cpu_seconds_per_step", "CPU seconds a step"),
        ("memory_mib", "MiB of memory"),
    ):
        print(f"\n| {unit} | " + " | ".join(VARIANTS) + " |\n" + "|---" * (len(VARIANTS) + 1) + "|")
        for row in result["rows"]:
            name = f"{row['prompt_tokens']}/{row['completion_tokens']}, σ {row['sigma']:g}"
            values = [row.get(what, {}).get(v) for v in VARIANTS]
            print(f"| {name} | " + " | ".join("–" if x is None else f"{x:.3g}" for x in values) + " |")


def main(arguments: list[str] | None = None) -> None:
    """Orchestrate: this process stays small, each measurement has its own."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.vs_trl", description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout instead of tables")
    parser.add_argument("--quick", action="store_true", help="a smaller model, fewer rows: under two minutes")
    parser.add_argument("--rows", type=int, default=None, help="examples in an epoch, a multiple of 8")
    parser.add_argument("--rounds", type=int, default=None, help="times that every batch is timed")
    parser.add_argument("--threads", type=int, default=None, help="CPU threads (default: OMP_NUM_THREADS, else 1)")
    parser.add_argument(
        "--mix", type=Mix.parse, action="append", help="prompt/completion/sigma, perhaps /siblings; may be repeated"
    )
    parser.add_argument("--part", choices=("speed", "memory"), help=argparse.SUPPRESS)
    parser.add_argument("--variant", choices=VARIANTS, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    shape = Shape(layers=2) if given.quick else Shape()
    rows = given.rows or (8 if given.quick else 32)
    rounds = given.rounds or (1 if given.quick else 2)
    # One thread unless asked for more: threads that wait for each other on a busy machine spin, and that is CPU time.
    threads = given.threads or int(os.environ.get("OMP_NUM_THREADS", 0)) or 1
    if rows % BATCH_SIZE or rows < BATCH_SIZE:
        parser.error(f"--rows must be a multiple of {BATCH_SIZE}")
    mixes = given.mix or list(MIXES)

    if given.part:
        import torch

        torch.set_num_threads(threads)
        speed = given.part == "speed"
        (mix,) = mixes
        found = measure_speed(mix, shape, rows, rounds) if speed else measure_memory(mix, shape, rows, given.variant)
        print(json.dumps(found))
        return

    result: dict[str, Any] = {"machine": describe_machine(threads), "versions": versions(), "rows": []}
    result["model"] = vars(shape) | {"body_parameters": shape.body_parameters, "batch_size": BATCH_SIZE}
    common = ["--rows", str(rows), "--rounds", str(rounds), "--threads", str(threads)]
    common += ["--quick"] if given.quick else []
    for mix in mixes:
        say(f"{mix}: comparing, then timing")
        part = [*common, "--mix", str(mix)]
        speed = run_fresh("benchmarks.vs_trl", [*part, "--part", "speed"], threads)
        memory = {}
        for variant in VARIANTS if not given.quick else ("tuned", "ours", "lean") if mix == mixes[0] else ():
            say(f"  {mix}: memory of {variant}")
            memory[variant] = run_fresh("benchmarks.vs_trl", [*part, "--part", "memory", "--variant", variant], threads)
        result["rows"].append(make_row(mix, speed, memory, rows))
    result["machine"]["matmul_gflops"] = max(r["matmul_gflops_per_cpu_second"] for r in result["rows"])
    if given.json:
        json.dump(result, sys.stdout, indent=1)
        print()
    else:
        print_table(result)


if __name__ == "__main__":
    main()
