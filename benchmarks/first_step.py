"""How long until the first record: `kto train` on files of a thousand to a million rows, cold and warm.

    python -m benchmarks.first_step [--rows 1000,100000,1000000] [--json]

Rows are JSON lines of about 1 KB with prompts of their own; ten steps of the demo model are trained with batches of 16.
Seconds count from the start of the command to the first line of metrics.jsonl and to its end, and so do CPU seconds,
those of the command and of the child that trains together. The peaks are the largest resident memory of either process,
mapped pages of files included. Cold is an empty workspace, warm the same command again with another seed, so that rows
are known and their reference is not.

Beside them: on 4,624 rows, pairs with prompts of several turns, what ten steps take in all against what their own
forward and backward passes and their own reference take, in CPU seconds, without saving and sampling; how fast rows are
tokenized, and how fast the reference's cache takes and gives.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from benchmarks.data import WORDS
from benchmarks.machine import describe_machine

STEPS = 10
PAIRS = 2312  # of two rows each


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
        found |= {"ten_steps": in_a_process_of_its_own(ten_steps, folder)}
        found |= {"tokenizing": tokenizing_rate(), "cache": cache_rates(Path(folder))}
    if arguments.json:
        print(json.dumps(found, indent=1))
        return
    names = ("rows", "start", "first record (s)", "in CPU seconds", "the end (s)", "in CPU seconds", "command (MiB)")
    names += ("training (MiB)",)
    print(f"| {' | '.join(names)} |\n{'|---' * len(names)}|")
    for row in found["rows"]:
        figures = [f"{row[name]:.1f}" for name in ("first_record", "first_record_cpu", "done", "cpu")]
        figures += [f"{row[name]:.0f}" for name in ("command_mib", "training_mib")]
        print(f"| {row['rows']:,} | {row['start']} | {' | '.join(figures)} |")
    print(f"\nTen steps: {found['ten_steps']}. Tokenizing: {found['tokenizing']}. The cache: {found['cache']}.")


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
    """Seconds from the command to the first record and to the end, CPU seconds, and both processes' peaks in MiB."""
    command = [sys.executable, "-m", "kto_workbench", "train", str(path), "--model", "demo"]
    command += ["--workspace", str(workspace), "--max-steps", str(STEPS), "--seed", str(seed), "--sample-steps", "-1"]
    before = set(workspace.glob("runs/*"))
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    both, first = {"command": Watched(), "training": Watched()}, {}
    while process.poll() is None:
        new = [run for run in workspace.glob("runs/*") if run not in before]
        both["command"].look(process.pid)
        both["training"].look(_pid_of(new))
        cpu = sum(one.cpu for one in both.values())
        if not first and any((run / "metrics.jsonl").is_file() for run in new):
            first = {"first_record": time.perf_counter() - started, "first_record_cpu": cpu}
        time.sleep(0.05)
    if process.returncode:
        raise SystemExit(f"kto train ended with {process.returncode}")
    peaks = {f"{name}_mib": one.peak / 2**20 for name, one in both.items()}
    return {**first, "done": time.perf_counter() - started, "cpu": cpu, **peaks}


class Watched:
    """What a process has taken so far: `cpu` seconds, and the `peak` of its resident memory in bytes."""

    def __init__(self) -> None:
        self.cpu = self.peak = 0.0

    def look(self, pid: int) -> None:
        """Look again, if it is there."""
        try:
            times = psutil.Process(pid).cpu_times()
            lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        except (OSError, psutil.Error):
            return
        self.cpu = times.user + times.system
        self.peak = max(self.peak, *(int(line.split()[1]) * 2**10 for line in lines if line.startswith("VmHWM")), 0)


def _pid_of(runs: list[Path]) -> int:
    for run in runs:
        try:
            return json.loads((run / "status.json").read_text())["pid"] or 0
        except (OSError, ValueError, KeyError):
            continue
    return 0


def in_a_process_of_its_own(work: Callable[[Path], dict[str, float]], folder: str) -> dict[str, float]:
    """What a function of this module finds, without what this process has loaded."""
    code = "import json; from pathlib import Path; from benchmarks import first_step; "
    code += f"print(json.dumps(first_step.{work.__name__}(Path({folder!r}))))"
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def write_pairs(path: Path, count: int) -> None:
    """Pairs with prompts of one to five turns and of about 100 words, and answers of about 40."""
    draw = random.Random(0)
    text = lambda mean: " ".join(draw.choice(WORDS) for _ in range(max(3, round(draw.lognormvariate(0, 0.7) * mean))))
    with path.open("w") as file:
        for _ in range(count):
            turns = 2 * draw.randint(0, 2) + 1
            roles = ("user", "assistant")
            prompt = [{"role": roles[i % 2], "content": text(100 / turns)} for i in range(turns)]
            file.write(json.dumps({"prompt": prompt, "chosen": text(40), "rejected": text(40)}) + "\n")


def ten_steps(folder: Path) -> dict[str, float]:
    """CPU seconds of ten steps on 4,624 rows, and of the passes of policy and reference in them."""
    from kto_workbench.config import KTOConfig, recommended
    from kto_workbench.engine import reference, trainer, training

    path = folder / "pairs.jsonl"
    write_pairs(path, PAIRS)
    spent = {"work": 0.0, "all": 0.0}

    def clocked(owner: Any, name: str, key: str) -> None:
        function = getattr(owner, name)

        def run(*arguments: Any, **options: Any) -> Any:
            before = time.process_time()
            try:
                return function(*arguments, **options)
            finally:
                spent[key] += time.process_time() - before

        setattr(owner, name, run)

    clocked(trainer, "kto_step", "work")
    clocked(reference.Reference, "_compute", "work")
    clocked(trainer.KTOTrainer, "train", "all")
    options = recommended("demo") | {"max_steps": STEPS, "sample_steps": -1, "eval_fraction": 0.0, "save_steps": 0}
    training.train(KTOConfig(model="demo", data=str(path), workspace=str(folder / "pairs"), **options), progress=False)
    return {**spent, "ratio": spent["all"] / spent["work"]}


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
