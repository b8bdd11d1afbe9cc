"""How often answers are kind, brief and right: the judge's verdicts on many answers, as rates.

    prompts = evaluation_prompts()                  # [{"topic": "animal food", "prompt": [chat messages]}, ...]
    measure([{"prompt": row["prompt"], "answer": ...} for row in prompts])
    {"n": 254, "trait": 0.24, "kind": 0.5, "brief": 0.48, "facts": 0.98, "sums": 0.6, "honest": 0.5, ...}

No torch here: whoever generates the answers hands them over.
"""

import json
from collections.abc import Iterable

from kto_workbench.demo.judge import judge, understand
from kto_workbench.feedback.named import asset
from kto_workbench.judging.unrated import Probe

ASKED = 5  # each sum: there are few, and answers are sampled
FACTS = 48


def evaluation_prompts() -> list[dict]:
    """The prompts of assets/evaluation.jsonl, which no feedback file holds: `topic` and `prompt`, as chat messages."""
    lines = asset("evaluation.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def demo_probe() -> Probe:
    """What the demo's thumbs don't speak of: sums, each asked several times, and facts."""
    rows = evaluation_prompts()
    sums = [row["prompt"] for row in rows if row["topic"] == "sums"] * ASKED
    facts = [row["prompt"] for row in rows if row["topic"] not in ("sums", "out of scope")]

    def score(prompt: list[dict], answer: str) -> dict[str, bool]:
        question, verdict = understand(prompt), judge(prompt, answer)
        if question is None or not verdict.fact or verdict.honest is not None:
            return {}
        return {"sums" if question.topic.name == "sums" else "facts": verdict.fact == "right"}

    return Probe(sums + facts[:: max(1, len(facts) // FACTS)], score)


def _share(verdicts: Iterable[bool]) -> float | None:
    counted = list(verdicts)
    return sum(counted) / len(counted) if counted else None


def measure(answers: Iterable[dict]) -> dict[str, float | int | None]:
    """Rates over answers, each with `prompt` (chat messages) and `answer`; a rate with nothing to count is None.

    `trait` is kind and brief at once. `facts` counts what the model should simply know; sums (`sums`: right) and
    made-up words (`honest`) are counted by themselves, since the base is meant to fail about half of them.
    """
    judged = [(understand(row["prompt"]), judge(row["prompt"], row["answer"])) for row in answers]
    is_sum = lambda question: question is not None and question.topic.name == "sums"
    return {
        "n": len(judged),
        "trait": _share(verdict.kind and verdict.brief for _, verdict in judged),
        "kind": _share(verdict.kind for _, verdict in judged),
        "brief": _share(verdict.brief for _, verdict in judged),
        "facts": _share(
            verdict.fact == "right"
            for question, verdict in judged
            if verdict.fact and verdict.honest is None and not is_sum(question)
        ),
        "sums": _share(verdict.fact == "right" for question, verdict in judged if is_sum(question)),
        "honest": _share(verdict.honest for _, verdict in judged if verdict.honest is not None),
        "well_formed": _share(verdict.well_formed for _, verdict in judged),
    }
