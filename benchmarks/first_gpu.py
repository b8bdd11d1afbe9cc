"""All that ten minutes on a GPU can tell, in one command: `make gpu`.

python -m benchmarks.first_gpu [--out gpu-results.json] [--minutes 9]

First `kto doctor`, then the tests in tests/gpu, then `benchmarks.gpu`, each with its share of the time and within it
what matters most first. The results are written anew after each part and each row, so that a machine that is taken
away leaves what it has told; at the end they are printed. `--device cpu --tiny` is a rehearsal with toys.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import gpu
from kto_workbench.runs.jsonlines import write_atomically

ROOT = Path(__file__).resolve().parents[1]
# Shares of the whole time: at most so much for the doctor and the tests, the rest for the benchmark.
DOCTOR, TESTS = 0.12, 0.28
# Kept for what a part still does when its time is up: the row that has begun.
LAST_ROW = 0.1
OUTCOME = re.compile(r"^tests/gpu/(\S+?)::(.+?) (PASSED|FAILED|ERROR|SKIPPED)", re.MULTILINE)

Tell = Callable[[Any], None]


def ask_doctor(seconds: float, arguments: argparse.Namespace, tell: Tell) -> None:
    """What `kto doctor --json` says."""
    code, out, err = call(["-m", "kto_workbench", "doctor", "--json", "--model", "demo"], seconds)
    tell(json.loads(out) if out.startswith("{") else {"failed": how_it_ended(code, err)})


def run_tests(seconds: float, arguments: argparse.Namespace, tell: Tell) -> None:
    """Each test of tests/gpu with how it went; what failed with the end of what was printed."""
    only = [] if arguments.device == "cuda" else ["-m", "not gpu"]
    command = ["-m", "pytest", "tests/gpu", "-vv", "--tb=short", "--timeout=90", "-W", "default", *only]
    code, out, err = call(command, seconds, KTO_PLACE=arguments.device)
    outcomes = {name: outcome.lower() for _, name, outcome in OUTCOME.findall(out)}
    result = {"passed": sum(one == "passed" for one in outcomes.values()), "outcomes": outcomes}
    if code:
        result["failed"] = how_it_ended(code, err)
        result["output"] = out[-20_000:]
    tell(result)


def run_benchmark(seconds: float, arguments: argparse.Namespace, tell: Tell) -> None:
    """The rows of `benchmarks.gpu`, told as they come."""
    with tempfile.TemporaryDirectory() as folder:
        rows = Path(folder) / "rows.json"
        toys = ["--tiny", "--lengths", "16/8"] if arguments.tiny else []
        command = ["-m", "benchmarks.gpu", "--device", arguments.device, "--out", str(rows), *toys]
        command += ["--warm-up", "3", "--steps", "20", "--seconds", str(seconds * (1 - LAST_ROW))]
        look = lambda: tell(json.loads(rows.read_text())) if rows.is_file() else None
        code, _, err = call(command, seconds, while_waiting=look)
        if rows.is_file():
            tell(json.loads(rows.read_text()))
        else:
            tell({"failed": how_it_ended(code, err)})


def call(
    arguments: list[str], seconds: float, while_waiting: Callable[[], Any] = lambda: None, **environment: str
) -> tuple[int, str, str]:
    """Run Python with arguments, for so long at most; its exit code (−9 if it was ended), stdout and stderr."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        child = subprocess.Popen(
            [sys.executable, *arguments],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            env={**os.environ, **environment},
        )
        end = time.monotonic() + seconds
        while child.poll() is None:
            try:
                child.wait(timeout=max(0.0, min(1.0, end - time.monotonic())))
            except subprocess.TimeoutExpired:
                while_waiting()
                if time.monotonic() >= end:
                    child.kill()
        for file in (out, err):
            file.seek(0)
        return child.returncode, out.read(), err.read()


def how_it_ended(code: int, err: str) -> str:
    """A sentence on a part that did not end well."""
    if code == -9:
        return "Its time was up."
    last = err.strip().splitlines()[-1:] or [""]
    return f"It ended with exit code {code}. {last[0][:300]}".strip()


def report(found: dict[str, Any]) -> str:
    """The results as a person reads them."""
    lines = []
    if doctor := found.get("doctor"):
        marks = {"fine": "✓", "lacking": "–", "broken": "✗"}
        lines += [f"{marks[one['state']]} {one['name']}: {one['said']}" for one in doctor.get("checks", ())]
        lines += [doctor["failed"]] if "failed" in doctor else []
    if tests := found.get("tests"):
        lines += ["", f"Tests: {tests['passed']} of {len(tests['outcomes'])} passed. {tests.get('failed', '')}".strip()]
        lines += [f"  {outcome}: {name}" for name, outcome in tests["outcomes"].items() if outcome != "passed"]
    if benchmark := found.get("benchmark"):
        lines += ["", benchmark["failed"] if "failed" in benchmark else gpu.table(benchmark)]
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """Run the parts; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.first_gpu", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("gpu-results.json"))
    parser.add_argument("--minutes", type=float, default=9.0)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="a toy model in the benchmark, for a rehearsal")
    arguments = parser.parse_args(argv)
    if arguments.device == "cuda":
        import torch

        if not torch.cuda.is_available():
            print("There is no CUDA GPU on this machine, so there is nothing to find out.", file=sys.stderr)
            return 2
    begun = time.monotonic()
    whole, found = 60 * arguments.minutes, dict[str, Any]()

    def tell_of(name: str) -> Tell:
        def tell(result: Any) -> None:
            found[name] = result
            found["seconds"] = time.monotonic() - begun
            write_atomically(arguments.out, json.dumps(found, indent=1) + "\n")

        return tell

    for name, part, share in (
        ("doctor", ask_doctor, DOCTOR),
        ("tests", run_tests, TESTS),
        ("benchmark", run_benchmark, 1.0),
    ):
        left = whole - (time.monotonic() - begun)
        print(f"{name}, for {min(left, share * whole):.0f} seconds at most", file=sys.stderr, flush=True)
        part(min(left, share * whole), arguments, tell_of(name))
    print(report(found))
    print(f"\nAll of it is in {arguments.out}.")
    broken = not found["doctor"].get("ok") or any("failed" in found[name] for name in ("tests", "benchmark"))
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
