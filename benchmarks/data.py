"""How fast a feedback file is checked, and in how much memory: 10 thousand, 100 thousand, a million rows of JSON lines.

    python -m benchmarks.data [--json] [--quick]

Each size is checked in a process of its own; `seconds` is the check from the first byte to the finished report,
`cpu_seconds` what it kept cores busy (on a shared machine the steadier figure), and `peak_mib` that process's largest
resident set, which counts mapped file pages too. The files are generated, about 1 KB a row, with a few duplicates,
conflicts and broken lines among them.
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

SIZES = (10_000, 100_000, 1_000_000)
QUICK_SIZES = (10_000,)
SHAPES = ("text", "messages", "two", "list", "joined", "flat")
# A thumb a row as text and as a conversation; two answers and which won; two rated answers; ratings in one file and
# what they rate in another; messages in rows of their own that name their parent, of which two in three are ranked.
WORDS = (
    "the a of to and in that it is was for on are with as at be this have from or one had by word but not what all "
    "were we when your can said there use an each which she do how their if will up other about out many then them "
    "these so some her would make like him into time has look two more write go see number no way could people my than "
    "first water been call who oil its now find long down day did get come made may part river garden lantern copper"
).split()


def row_of(shape: str, i: int, prompt: str, completion: str, up: bool) -> dict:
    """A row of this shape; where it holds two answers these are the halves of one."""
    if shape == "text":
        return {"prompt": prompt, "completion": completion, "label": up}
    if shape == "messages":
        turns = [{"role": "user", "content": prompt}, {"role": "assistant", "content": completion}]
        return {"messages": turns, "label": up}
    if shape == "joined":
        return {"id": f"trace-{i}", "name": "chat", "input": prompt, "output": {"answer": completion}}
    if shape == "flat":
        tree, place = divmod(i, 3)  # a question, and two answers to it
        role = ("prompter", "assistant", "assistant")[place]
        parent, rank = (f"message-{3 * tree}", place - 1) if place else (None, None)
        text = f"{prompt} {completion}"
        return {"message_id": f"message-{i}", "parent_id": parent, "text": text, "role": role, "rank": rank}
    one, other = completion[: len(completion) // 2], completion[len(completion) // 2 :]
    if shape == "two":
        winner = "model_a" if up else "tie" if i % 10 == 0 else "model_b"
        return {"prompt": prompt, "response_a": one, "response_b": other, "winner": winner}
    return {"instruction": prompt, "generations": [one, other], "ratings": [5, 1] if up else [2, 4]}


def write_ratings(path: Path, rows: int, seed: int = 1) -> None:
    """One rating for each trace of the shape "joined", in another order."""
    order = np.random.default_rng(seed).permutation(rows)
    with path.open("w", encoding="utf-8") as file:
        for i in order.tolist():
            rating = {"id": f"score-{i}", "traceId": f"trace-{i}", "name": "user-feedback", "value": int(i % 3 == 0)}
            file.write(json.dumps(rating) + "\n")


def write_feedback(path: Path, rows: int, shape: str, seed: int = 0) -> None:
    """A file of about 1 KB a row: one thumb up to two down, 1 % duplicates, 1 ‰ conflicts, 1 in 10,000 lines broken."""
    chance = np.random.default_rng(seed)
    words = np.array(WORDS)
    with path.open("w", encoding="utf-8") as file:
        previous = ("", "")
        for start in range(0, rows, 10_000):
            count = min(10_000, rows - start)
            asked = chance.integers(0, len(words), (count, 40))
            told = chance.integers(0, len(words), (count, 230))
            lengths = chance.integers(80, 230, count)
            kinds, thumbs = chance.random(count), chance.random(count) < 1 / 3
            for i in range(count):
                prompt, completion = " ".join(words[asked[i]]), " ".join(words[told[i, : lengths[i]]])
                if kinds[i] < 0.01 and previous[0]:
                    prompt, completion = previous
                previous = prompt, completion
                row = row_of(shape, start + i, prompt, completion, bool(thumbs[i]))
                line = json.dumps(row)
                file.write(line[:-30] + "\n" if kinds[i] > 0.9999 else line + "\n")


def measure(source: str) -> dict:
    """Check one file, or two, in this process."""
    began = time.perf_counter()
    from kto_workbench.feedback import check

    imported, cpu = time.perf_counter(), time.process_time()
    paths = [Path(name) for name in source.split("+")]
    report = check(source, workspace=paths[0].parent)
    found = report.to_dict()
    text = report.to_text()
    done = time.perf_counter()
    return {
        "rows_in": found["rows_in"],
        "rows_kept": found["rows_kept"],
        "megabytes": round(sum(path.stat().st_size for path in paths) / 1e6, 1),
        "import_seconds": round(imported - began, 2),
        "seconds": round(done - imported, 2),
        "cpu_seconds": round(time.process_time() - cpu, 2),
        "peak_mib": round(
            resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
        ),
        "findings": len(found["findings"]),
        "report_lines": text.count("\n") + 1,
    }


def main() -> None:
    """Write the files, check each in a process of its own, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--quick", action="store_true", help="10 thousand rows only")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure(arguments.measure)))
        return
    results = []
    with tempfile.TemporaryDirectory(dir=os.environ.get("KTO_BENCH_DIR")) as folder:
        for size in QUICK_SIZES if arguments.quick else SIZES:
            for shape in SHAPES:
                path = Path(folder) / f"{shape}-{size}.jsonl"
                write_feedback(path, size, shape)
                ratings = Path(folder) / "ratings.jsonl"
                if shape == "joined":
                    write_ratings(ratings, size)
                source = f"{ratings}+{path}" if shape == "joined" else str(path)
                command = [sys.executable, "-m", "benchmarks.data", "--measure", source]
                done = subprocess.run(command, capture_output=True, text=True, check=True)
                results.append({"shape": shape, "rows": size, **json.loads(done.stdout)})
                path.unlink()
    machine = f"{os.cpu_count()} cores, Python {platform.python_version()}"
    if arguments.json:
        print(json.dumps({"machine": machine, "rows": results}))
        return
    print(f"{'shape':<10}{'rows':>10}{'MB':>9}{'seconds':>9}{'CPU s':>8}{'peak MiB':>10}")
    for row in results:
        figures = f"{row['megabytes']:>9}{row['seconds']:>9}{row['cpu_seconds']:>8}{row['peak_mib']:>10,}"
        print(f"{row['shape']:<10}{row['rows']:>10,}{figures}")
    print(machine)


if __name__ == "__main__":
    main()
