"""How long until the first record: `kto train` on files of a thousand to a million rows, cold and warm.

    python -m benchmarks.first_step [--rows 1000,100000,1000000] [--json]

Rows are JSON lines of about 1 KB with prompts of their own; ten steps of the demo model are trained with batches of 16.
Seconds count from the start of the command to the first line of metrics.jsonl and to its end; the peak is the resident
memory of the training process, mapped pages of files included. Cold is an empty workspace, warm the same command again
with another seed, so that rows are known and their reference is not. Beside them: how fast rows are tokenized, and how
fast the reference's cache takes and gives.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from benchmarks.machine import describe_machine

STEPS = 10


def main() -> None:
    """Measure and print a table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", default="1000,100000,1000000")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    found: dict[str, Any] = {"machine": describe_machine(os.cpu_count() or 1), "rows": []}
    with tempfile.TemporaryDirectory() as folder:
        for count in map(int, arguments.rows.split(",")):
            path = Path(folder) / f"{count}.jsonl"
            write_rows(path, count)
            for name, seed in (("cold", 1), ("warm", 2)):
                row = {"rows": count, "start": name, **first_step(path, Path(folder) / f"w{count}", seed)}
                found["rows"].append(row)
                print(row, file=sys.stderr)
            path.unlink()
        found |= {"tokenizing": tokenizing_rate(), "cache": cache_rates(Path(folder))}
    if arguments.json:
        print(json.dumps(found, indent=1))
        return
    print("| rows | start | first record (s) | ten steps (s) | peak (MiB) |\n|---|---|---|---|---|")
    for row in found["rows"]:
        print("| {rows:,} | {start} | {first_record:.1f} | {done:.1f} | {peak_mib:.0f} |".format(**row))
    print(f"\nTokenizing: {found['tokenizing']}. The reference's cache: {found['cache']}.")


def write_rows(path: Path, count: int) -> None:
    """JSON lines of about 1 KB."""
    draw = random.Random(0)
    words = ["".join(draw.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(draw.randint(2, 9))) for _ in range(3000)]
    texts = [" ".join(draw.choice(words) for _ in range(70)) for _ in range(4000)]
    with path.open("w") as file:
        for i in range(count):
            row = {"prompt": f"{i} {draw.choice(texts)}", "completion": draw.choice(texts), "label": i % 3 == 0}
            file.write(json.dumps(row) + "\n")


def first_step(path: Path, workspace: Path, seed: int) -> dict[str, float]:
    """Seconds from the command to the first record and to the end, and the training process's peak in MiB."""
    command = [
        sys.executable,
        "-m",
        "kto_workbench",
        "train",
        str(path),
        "--model",
        "demo",
        "--workspace",
        str(workspace),
    ]
    command += ["--max-steps", str(STEPS), "--seed", str(seed), "--sample-steps", "-1", "--json"]
    before = set(workspace.glob("runs/*"))
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    first, peak = 0.0, 0
    while process.poll() is None:
        new = set(workspace.glob("runs/*/metrics.jsonl")) - {run / "metrics.jsonl" for run in before}
        if not first and any(one.stat().st_size for one in new):
            first = time.perf_counter() - started
        for child in psutil.process_iter(["cmdline"]):
            if "kto_workbench.engine.child" in (child.info["cmdline"] or []):
                try:
                    peak = max(peak, child.memory_info().rss)
                except psutil.Error:
                    continue
        time.sleep(0.1)
    if process.returncode:
        raise SystemExit(f"kto train ended with {process.returncode}")
    return {"first_record": first, "done": time.perf_counter() - started, "peak_mib": peak / 2**20}


def tokenizing_rate() -> dict[str, float]:
    """Rows and tokens a second through the demo's template and tokenizer."""
    from kto_workbench.feedback import Row
    from kto_workbench.feedback.rendering import encode_rows, load_tokenizer

    tokenizer = load_tokenizer("demo")
    text = "What does a cow say when the sun goes down? " * 10
    rows = [Row(f"{i} {text}", text, True, line=i) for i in range(4000)]
    encode_rows(tokenizer, rows[:100])
    started = time.perf_counter()
    tokens = sum(len(one) for start in range(0, 4000, 32) for one in encode_rows(tokenizer, rows[start : start + 32]))
    took = time.perf_counter() - started
    return {"rows_per_second": round(len(rows) / took), "tokens_per_second": round(tokens / took)}


def cache_rates(folder: Path) -> dict[str, float]:
    """Records a second that the reference's cache takes and gives, 64 at a time, and its size on disk a record."""
    from kto_workbench.engine.batches import Pair
    from kto_workbench.engine.reference import ReferenceCache

    cache, count = ReferenceCache(folder / "reference.sqlite"), 100_000
    batches = [[Pair((i, k, *range(200)), (7,) * 100) for k in range(64)] for i in range(count // 64)]
    started = time.perf_counter()
    for batch in batches:
        cache.add(batch, [0.5] * len(batch))
    added = time.perf_counter() - started
    started = time.perf_counter()
    for batch in batches:
        cache.look_up(batch)
    looked = time.perf_counter() - started
    size = (folder / "reference.sqlite").stat().st_size
    return {
        "added_per_second": round(count / added),
        "looked_up_per_second": round(count / looked),
        "bytes_per_record": round(size / count),
    }


if __name__ == "__main__":
    main()
