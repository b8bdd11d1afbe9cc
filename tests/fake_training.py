"""Writes a run's directory as the engine would, without a model: drives the live page in tests and by hand.

python tests/fake_training.py RUN_DIRECTORY --steps 60 --pause 0.05 [--first 0] [--trouble nan|zero|mismatch]
"""

import argparse
import math
import random
import time
from pathlib import Path

from kto_workbench.runs import Run


def record_at(step: int, total: int, trouble: str = "") -> dict:
    """One plausible record: rewards part, z0 hovers near 0, the loss falls."""
    noise = random.Random(step).gauss
    progress = step / total
    chosen, rejected = 1.0 * progress + noise(0, 0.12), -4.5 * progress**1.2 + noise(0, 0.35)
    raw = 0.25 - 2.4 * progress + noise(0, 0.35)
    if trouble == "mismatch":
        chosen, rejected, raw = 9 * progress, 8.5 * progress, 8 * progress
    if trouble == "zero":
        raw = -1.0
    loss = math.nan if trouble == "nan" and progress > 0.5 else 0.5 - 0.3 * progress + noise(0, 0.02)
    return {
        "step": step, "epoch": 6 * progress, "loss": loss, "kl": max(0.0, raw), "kl_raw": raw,
        "rewards/chosen": None if step % 11 == 0 else chosen, "rewards/rejected": rejected,
        "rewards/margins": None if step % 11 == 0 else chosen - rejected,
        "logps/chosen": -30 + chosen, "logps/rejected": -32 + rejected, "grad_norm": 1.5 + abs(noise(0, 0.4)),
        "learning_rate": 1.5e-3 * min(1, step / (0.1 * total)) * (1 - progress), "tokens_per_second": 2800.0,
        "memory_bytes": 640 * 2**20, "seconds": step * 0.12,
    }  # fmt: skip


def train(run: Run, steps: int, pause: float, first: int = 0, trouble: str = "") -> None:
    """Go through the states of a run, logging every step, heeding commands."""
    run.claim()
    run.set_status(state="starting", step=first, total_steps=steps, first_step=first)
    time.sleep(pause)
    run.set_status(state="running", training_started=time.time())
    for step in range(first + 1, steps + 1):
        time.sleep(pause)
        record = record_at(step, steps, trouble)
        run.record(record)
        if step % max(1, steps // 6) == 0:
            skipped = ("step", "epoch", "seconds", "grad_norm", "learning_rate", "memory_bytes", "tokens_per_second")
            run.record({"step": step, **{f"eval_{k}": v for k, v in record.items() if k not in skipped}})
        if step == first + 1 or step % max(1, steps // 5) == 0 or run.was_asked("sample-now", forget=True):
            for prompt in ("What does a cow say?", "Tell me about <b>pears</b>."):
                answer = "Moo, of course! Happy to help." if step > steps // 2 else "Hmph. Moo. What did you expect?"
                run.record_sample({"step": step, "prompt": prompt, "reference": "Hmph. Moo.", "tuned": answer})
        run.set_status(step=step, epoch=6 * step / steps)
        if run.was_asked("stop", forget=True):
            run.set_status(state="stopped", ended=time.time(), message=f"Stopped at step {step}.")
            return
    run.set_status(state="finished", ended=time.time())


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("run", type=Path)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--pause", type=float, default=0.05)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--trouble", default="")
    arguments = parser.parse_args()
    train(Run(arguments.run), arguments.steps, arguments.pause, arguments.first, arguments.trouble)
