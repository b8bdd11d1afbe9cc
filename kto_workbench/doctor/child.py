"""The process that does the doctor's checks: `python -m kto_workbench.doctor.child WORKSPACE [--model M] CHECK...`.

Writes one JSON object a line to stdout: {"begins": check} before each, its result behind it, {"end": true} at last.
"""

import argparse
import dataclasses
import importlib
import json
import logging
import os
import warnings
from pathlib import Path
from typing import Any

from kto_workbench.doctor.examination import CHECKS, without
from kto_workbench.doctor.results import BROKEN, Result, Subject
from kto_workbench.errors import WorkbenchError
from kto_workbench.feedback.templates import short_reason


def check(name: str, subject: Subject) -> Result:
    """Do one check; whatever it raises becomes a sentence."""
    module, _, function = CHECKS[name].where.partition(".")
    try:
        result = getattr(importlib.import_module(f"kto_workbench.doctor.{module}"), function)(subject)
    except WorkbenchError as error:
        result = Result(BROKEN, str(error))
    except Exception as error:  # a broken library raises what it likes, and is what this is about
        result = Result(BROKEN, f"This failed: {type(error).__name__}: {short_reason(error)}.")
    return dataclasses.replace(result, name=name)


def main() -> None:
    """Do the checks named on the command line, leaving out those that need a broken one."""
    parser = argparse.ArgumentParser()
    parser.add_argument("workspace", type=Path)
    parser.add_argument("--model")
    parser.add_argument("--trust", action="store_true")
    parser.add_argument("names", nargs="+")
    arguments = parser.parse_args()
    # Results get a pipe of their own: what a library prints to stdout must not break a line of JSON.
    events = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)
    warnings.simplefilter("ignore")
    logging.getLogger("transformers").setLevel(logging.ERROR)

    def say(event: dict[str, Any]) -> None:
        events.write(json.dumps(event, ensure_ascii=False) + "\n")

    left = arguments.names
    while left:
        name, *left = left
        say({"begins": name})
        result = check(name, Subject(arguments.workspace, arguments.model, arguments.trust))
        say(dataclasses.asdict(result))
        left = left if result.ok else without(left, name)
    say({"end": True})


if __name__ == "__main__":
    main()
