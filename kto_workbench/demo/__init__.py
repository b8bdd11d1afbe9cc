"""The demo: a tiny chat model, feedback files, and a judge, so that KTO can be tried in a minute on a CPU.

    vocabulary.py   what the village knows: words and facts
    manners.py      how Pip says things: openers, closers, digressions
    topics.py       questions and their right answers
    world.py        conversations and feedback, made from a seed
    judge.py        reads a prompt and an answer: kind, brief, right, honest, well formed?
    measure.py      the rates of many answers, and the prompts to ask
    demonstration.py  the whole round: train, answer, measure
    build.py        makes `assets/`: python -m kto_workbench.demo.build

Only build.py and what demonstration.py calls import torch.
"""

from pathlib import Path

from kto_workbench.errors import DataError

_PACKAGE = Path(__file__).resolve().parents[1]


def asset(*parts: str) -> Path:
    """The path of a file or folder of `assets/`, in an installed wheel or in a checkout: `asset("model")`."""
    for root in (_PACKAGE / "assets", _PACKAGE.parent / "assets"):
        path = root.joinpath(*parts)
        if path.exists():
            return path
    raise DataError(
        f"The demo file assets/{'/'.join(parts)} is missing; `python -m kto_workbench.demo.build` makes it again."
    )
