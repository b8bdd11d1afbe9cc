"""The whole round on the demo: thumbs in, KTO, and how answers to unseen prompts changed. What `kto demo` runs."""

import time
from typing import Any

from kto_workbench.config import KTOConfig
from kto_workbench.demo.measure import evaluation_prompts, measure
from kto_workbench.runs.children import large_imports

TEMPERATURE = 0.7  # greedy decoding misleads: a half-and-half model shows one side almost always


def demonstrate(workspace: str = "workspace", *, seed: int = 42, data: str = "demo") -> dict[str, Any]:
    """Train the demo model on one of the demo's feedback files in this process, and measure both sides.

    Returns:
        `run`, `rows`, `n_desirable`, `n_undesirable`, `desirable_weight`, `undesirable_weight`, `n_prompts`, `seconds`
        for all of it, `final` (the last logged metrics), and from before and after the training `trait_…` (kind and
        brief both), `facts_…`, `sums_…`, `honest_…`: shares of sampled answers to prompts of no feedback file.
    """
    started = time.perf_counter()
    with large_imports():
        from kto_workbench.answers.comparison import compare
        from kto_workbench.engine.training import train

    config = KTOConfig(model="demo", data=data, workspace=workspace, seed=seed, eval_fraction=0.0, sample_steps=-1)
    run = train(config)
    prompts = [row["prompt"] for row in evaluation_prompts()]
    answers = compare(run, prompts, seed=seed, temperature=TEMPERATURE)
    before = measure({"prompt": answer["prompt"], "answer": answer["reference"]} for answer in answers)
    after = measure({"prompt": answer["prompt"], "answer": answer["tuned"]} for answer in answers)
    settled, data_notes = run.config(), run.data()
    rates = {f"{name}_{when}": m[name] for when, m in (("before", before), ("after", after)) for name in RATES}
    return {
        "run": run.id,
        "rows": data_notes["rows"],
        "n_desirable": data_notes["n_desirable"],
        "n_undesirable": data_notes["n_undesirable"],
        "desirable_weight": settled.desirable_weight,
        "undesirable_weight": settled.undesirable_weight,
        "n_prompts": len(prompts),
        **rates,
        "final": next(record for record in reversed(run.metrics()) if "loss" in record),
        "seconds": time.perf_counter() - started,
    }


RATES = ("trait", "facts", "sums", "honest")
