"""kto doctor: what a first run would otherwise find out."""

import argparse
from pathlib import Path

from kto_workbench.shell.common import as_json, workspace_of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Those of kto doctor."""
    parser.add_argument("--model", default=None, help="also look at this model: a folder, a hub id, or `demo`")
    parser.add_argument("--trust", nargs="+", default=[], metavar="MODEL", help="with --model: as kto train has it")


def doctor(arguments: argparse.Namespace) -> int:
    """Examine this machine, and a model; exit code 2 if training would not work."""
    from kto_workbench.doctor.examination import examine
    from kto_workbench.doctor.results import Subject, summary

    results = []
    subject = Subject(Path(workspace_of(arguments)), arguments.model, arguments.model in arguments.trust)
    for result in examine(subject):
        results.append(result)
        if not arguments.json:
            print(result.line(), flush=True)
    ok = all(result.ok for result in results)
    if arguments.json:
        print(as_json({"ok": ok, "said": summary(results), "checks": [result.to_dict() for result in results]}))
    else:
        print(f"\n{summary(results)}")
    return 0 if ok else 2
