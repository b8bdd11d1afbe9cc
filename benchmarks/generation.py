"""A comparison of many prompts beside two plain `generate` calls of transformers over the same batch.

    python -m benchmarks.generation [--json] [--prompts 64] [--tokens 96] [--rounds 3] [--threads 1]

The demo model with an adapter of a short training, models loaded before, in both ways: the workbench answers as the
reference (whose adapter it proves to be off) and as the tuned model, told of growing texts as the page is; transformers
gets the same prompts in one left-padded batch, once with the adapter and once with it disabled. Sampling is the same:
with one seed both ways give the same tokens, which is checked first. `ratio` is ours ÷ plain, of CPU seconds and of
wall time, the best of the rounds, which take turns.

Ends with exit code 1 if it is above 1.3.
"""

import argparse
import json
import os
import sys
import tempfile
from typing import Any

from benchmarks.machine import clock, describe_machine, say, versions

SEED, TEMPERATURE = 7, 0.7
LIMIT = 1.3


class Plain:
    """What one would write by hand: base model, adapter, one padded batch, `generate` with and without the adapter."""

    def __init__(self, run: Any, prompts: list[Any], max_new_tokens: int) -> None:
        from peft import PeftModel
        from transformers import AutoModelForCausalLM, AutoTokenizer

        from kto_workbench.feedback.rendering import model_path
        from kto_workbench.feedback.templates import prompt_messages

        path = model_path(run.config().model)
        self.tokenizer = AutoTokenizer.from_pretrained(path, padding_side="left")
        base = AutoModelForCausalLM.from_pretrained(path)
        self.model = PeftModel.from_pretrained(base, run.adapter).eval()
        chats = [prompt_messages(prompt) for prompt in prompts]
        self.batch = self.tokenizer.apply_chat_template(
            chats, add_generation_prompt=True, padding=True, return_dict=True, return_tensors="pt"
        )
        self.settings = dict(do_sample=True, temperature=TEMPERATURE, top_k=0, top_p=1.0, max_new_tokens=max_new_tokens)

    def __call__(self) -> list[dict[str, str]]:
        """Both sides' answers."""
        with self.model.disable_adapter():
            reference = self.generate()
        return [{"reference": a, "tuned": b} for a, b in zip(reference, self.generate(), strict=True)]

    def generate(self) -> list[str]:
        """One side's answers."""
        import torch

        torch.manual_seed(SEED)
        with torch.no_grad():
            out = self.model.generate(**self.batch, **self.settings)
        width = self.batch["input_ids"].shape[1]
        return [text.strip() for text in self.tokenizer.batch_decode(out[:, width:], skip_special_tokens=True)]


class Ours:
    """The workbench's comparison with warm models."""

    def __init__(self, run: Any, prompts: list[Any], max_new_tokens: int) -> None:
        from kto_workbench.answers.sides import Models

        self.run, self.prompts, self.max_new_tokens, self.models = run, prompts, max_new_tokens, Models()

    def __call__(self) -> list[dict[str, str]]:
        """Both sides' answers, as the answering process gives them."""
        from kto_workbench.answers.comparison import answer_as
        from kto_workbench.runs.sides import REFERENCE, Side

        grown: dict[int, str] = {}
        settings = (SEED, TEMPERATURE, self.max_new_tokens)
        sides = (Side(self.run, REFERENCE), Side(self.run))
        found = [
            answer_as(
                self.models, side, self.prompts, *settings, on_text=grown.__setitem__, batch_size=len(self.prompts)
            )
            for side in sides
        ]
        return [{"reference": a, "tuned": b} for a, b in zip(*found, strict=True)]


def measure(n_prompts: int, max_new_tokens: int, rounds: int, threads: int) -> dict[str, Any]:
    """Train a little, check that both ways answer the same, and let them take turns."""
    import torch

    from kto_workbench.config import KTOConfig
    from kto_workbench.demo.measure import evaluation_prompts
    from kto_workbench.engine.training import train

    torch.set_num_threads(threads)
    prompts = [row["prompt"] for row in evaluation_prompts()][:n_prompts]
    with tempfile.TemporaryDirectory() as workspace:
        say("a short training")
        run = train(KTOConfig(workspace=workspace, max_steps=20, sample_steps=-1, threads=threads), progress=False)
        plain, ours = (way(run, prompts, max_new_tokens) for way in (Plain, Ours))
        same = sum(a == b for a, b in zip(plain(), ours(), strict=True))
        if same < 0.95 * len(prompts):  # rounding may part a text here and there
            raise SystemExit(f"Only {same} of {len(prompts)} answers are the same both ways; nothing was timed.")
        costs: dict[str, list[Any]] = {"plain": [], "ours": []}
        for number in range(rounds):
            say(f"round {number + 1} of {rounds}")
            for name, way in (("plain", plain), ("ours", ours)):
                costs[name].append(clock(way))
    best = {f"{name}_{kind}": min(getattr(c, kind) for c in costs[name]) for name in costs for kind in ("cpu", "wall")}
    return {
        "prompts": len(prompts),
        "max_new_tokens": max_new_tokens,
        "same_answers": same,
        **best,
        "ratio": best["ours_cpu"] / best["plain_cpu"],
        "ratio_wall": best["ours_wall"] / best["plain_wall"],
    }


def main(arguments: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.generation", description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=96, help="longest answer")
    parser.add_argument("--rounds", type=int, default=3, help="times that each way is timed")
    parser.add_argument("--threads", type=int, default=None, help="CPU threads (default: OMP_NUM_THREADS, else 1)")
    given = parser.parse_args(arguments)
    threads = given.threads or int(os.environ.get("OMP_NUM_THREADS", 0)) or 1
    row = measure(given.prompts, given.tokens, given.rounds, threads)
    if given.json:
        json.dump({"machine": describe_machine(threads), "versions": versions(), **row}, sys.stdout, indent=1)
        print()
    else:
        print(
            f"{row['prompts']} prompts × 2 sides: {row['ours_cpu']:.2f} CPU s, plain {row['plain_cpu']:.2f}; "
            f"ratio {row['ratio']:.2f} (wall time {row['ratio_wall']:.2f}); {row['same_answers']} answers the same."
        )
    if row["ratio"] > LIMIT:
        say(f"The comparison takes more than {LIMIT} times as long.")
        sys.exit(1)


if __name__ == "__main__":
    main()
