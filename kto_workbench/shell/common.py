"""What the verbs share."""

import argparse
import json
from typing import Any

from kto_workbench.runs.directory import Run
from kto_workbench.runs.jsonlines import without_nan


def workspace_of(arguments: argparse.Namespace) -> str:
    """The workspace that was named, or the usual one."""
    return arguments.workspace or "workspace"


def as_json(value: Any) -> str:
    """One line of JSON; NaN is null."""
    return json.dumps(without_nan(value), ensure_ascii=False)


def last_metrics(run: Run) -> dict[str, Any]:
    """The last training record of a run, {} if there is none."""
    return run.last_metrics()
