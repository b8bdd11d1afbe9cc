"""kto sweep: one config with several values of some options, its trials followed and compared."""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kto_workbench.errors import ConfigError, WorkbenchError
from kto_workbench.judging.rules import check_judge
from kto_workbench.runs.sweeps import (
    MEASURES,
    Plan,
    Sweep,
    create_sweep,
    find_sweep,
    follow,
    is_plan,
    list_sweeps,
    make_plan,
    read_plan,
    start,
    stop,
)
from kto_workbench.runs.trials import find_best, left_over, rows
from kto_workbench.shell.common import as_json, stop_on_signals, workspace_of
from kto_workbench.shell.training import CONFIG_SUFFIXES, add_options, config_from, given_options

NAMES = {"ranking": "ranking", "judge": "win rate", "eval_loss": "held-out loss"}
OVER = {"seeds": "seeds", "rows": "held-out rows", "prompts": "held-out prompts"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What to train, the grid, how to compare, and every option of a config."""
    parser.add_argument(
        "source",
        nargs="?",
        metavar="CONFIG_OR_SWEEP",
        help="a YAML config, a feedback file or its name, a sweep.yaml, or a sweep's id to go on with it; "
        "nothing lists the sweeps",
    )
    parser.add_argument(
        "--grid",
        action="append",
        default=[],
        metavar="OPTION=A,B,C",
        help="the values of an option; given several times, every combination is trained; seed=1,2,3 repeats each",
    )
    parser.add_argument(
        "--keep-best-by",
        choices=tuple(MEASURES),
        default=None,
        help="how trials are compared: `ranking` (how often a held-out thumb up gets a higher reward than a thumb "
        "down; fair for any β), `judge` (the win rate by option judge; the default where there is one), `eval_loss` "
        "(only where the loss is on one scale)",
    )
    parser.add_argument(
        "--halving",
        type=int,
        default=0,
        metavar="N",
        help="end hopeless trials early: only the best 1/N go on, each time for N times as many steps; 0: none",
    )
    parser.add_argument("--detach", action="store_true", help="start it and return at once")
    add_options(parser)


def sweep(arguments: argparse.Namespace) -> int:
    """Start a sweep, go on with one, or list those that there are."""
    workspace = workspace_of(arguments)
    if arguments.source is None and not arguments.grid:
        return _list(arguments)
    found = _existing(arguments.source, workspace)
    if found is None:
        found = create_sweep(_plan(arguments))
    elif arguments.grid or given_options(arguments).keys() - {"workspace"} or arguments.halving:
        raise ConfigError("A sweep keeps its options; to change some, sweep its sweep.yaml's config with them.")
    return go_on(found, detach=arguments.detach, json=arguments.json)


def go_on(found: Sweep, *, detach: bool = False, json: bool = False, again: bool = False) -> int:
    """Work on a sweep in a process of its own, unless one is at it, and follow it.

    One that has finished is shown; `again` has those of its runs trained that failed or are gone.
    """
    wanted = left_over(rows(found)) if again else found.state()["state"] != "finished"
    if wanted and not found.active:
        start(found)
    if detach:
        told = f"Sweep {found.id} is {found.state()['state']}."
        print(as_json({"sweep": found.id, "path": str(found.path)}) if json else told)
        return 0
    state = _follow(found)
    return _show(found, state, json)


def _existing(source: str | None, workspace: str) -> Sweep | None:
    if source is None or Path(source).suffix in CONFIG_SUFFIXES:
        return None
    return find_sweep(source, workspace)


def _plan(arguments: argparse.Namespace) -> Plan:
    given, source = given_options(arguments), arguments.source
    if source and Path(source).suffix in CONFIG_SUFFIXES and is_plan(source):
        if arguments.grid:
            raise ConfigError(f"{source} is a sweep and has its grid; leave --grid out.")
        plan = read_plan(Path(source))
        by, halving = arguments.keep_best_by or plan.by, arguments.halving or plan.halving
        plan = make_plan(plan.config.replace(**given), plan.grid, by, halving)
    else:
        plan = make_plan(
            config_from(source, given), read_grid(arguments.grid), arguments.keep_best_by, arguments.halving
        )
    check_judge(plan.config)
    return plan


def read_grid(texts: list[str]) -> dict[str, str]:
    """The grid of the shell, `beta=0.03,0.1`, by option. Raises ConfigError."""
    grid: dict[str, str] = {}
    for text in texts:
        name, equals, values = text.partition("=")
        name = name.strip().replace("-", "_")
        if not equals or not name:
            raise ConfigError(f"A grid is written OPTION=A,B,C, such as beta=0.03,0.1,0.3, not {text!r}.")
        if name in grid:
            raise ConfigError(f"Option `{name}` is in the grid twice.")
        grid[name] = values
    return grid


def _follow(found: Sweep) -> dict[str, Any]:
    """Show the trials as they end; Ctrl-C asks the sweep to stop, a second one leaves it alone."""
    from tqdm import tqdm

    print(f"Sweep {found.id}", file=sys.stderr)
    plan = found.plan()
    told: set[int] = set()
    quiet = not sys.stderr.isatty()
    with (
        stop_on_signals(lambda: found.active, lambda: stop(found), "the trial's adapter"),
        tqdm(total=len(plan.trials()), unit="trial", file=sys.stderr, leave=False, disable=quiet) as bar,
    ):
        for _ in follow(found, every=1.0):
            for row in rows(found, plan):
                if row["state"] in ("finished", "ended", "failed") and row["trial"] not in told:
                    told.add(row["trial"])
                    bar.write(_line(row, plan), file=sys.stderr)
                    bar.update()
                elif row["state"] in ("running", "starting"):
                    bar.set_description(f"Trial {row['trial']}, step {row['step']} of {row['total_steps'] or '?'}")
    return found.state()


def summary(found: Sweep, state: dict[str, Any] | None = None) -> dict[str, Any]:
    """A sweep as JSON has it."""
    plan, state = found.plan(), state or found.state()
    table = rows(found, plan)
    return {
        "sweep": found.id,
        "path": str(found.path),
        "state": state["state"],
        "error": state.get("error", ""),
        "by": plan.by,
        "halving": plan.halving,
        "grid": {name: list(values) for name, values in plan.grid.items()},
        "rows": table,
        "best": find_best(found, table, plan),
    }


def _show(found: Sweep, state: dict[str, Any], json: bool) -> int:
    told, plan = summary(found, state), found.plan()
    if json:
        print(as_json(told))
    else:
        for line in _table(told["rows"], plan):
            print(line)
        print(in_words(told))
        if left := left_over(told["rows"]) if state["state"] == "finished" else []:
            print(f"{len(left)} of its runs failed or are gone; `kto resume {found.id}` trains them again.")
    if state["state"] in ("failed", "crashed"):
        raise WorkbenchError(f"Sweep {found.id} {state['state']}: {state.get('error', '')} (log: {found.log_path})")
    return 0


def _table(table: list[dict[str, Any]], plan: Plan) -> Iterator[str]:
    wide = max(len(written(row["values"])) for row in table)
    head = f"{'trial':>5}  {'options':<{wide}}  {'state':<9} {'step':>11}  {NAMES[plan.by]:<15}"
    yield f"{head} {'loss':>7} {'computed':>8}  run"
    for row in table:
        computed, loss = row["reference"].get("computed"), row["loss"]
        numbers = f"{'' if loss is None else f'{loss:.3f}':>7} {'' if computed is None else computed:>8}"
        yield (
            f"{row['trial']:>5}  {written(row['values']):<{wide}}  {row['state']:<9} "
            f"{row['step']:>5}/{row['total_steps'] or '?':<5}  {measured(row):<15} "
            f"{numbers}  {row['run'] or ''}"
        ).rstrip()


def _line(row: dict[str, Any], plan: Plan) -> str:
    how = f"{NAMES[plan.by]} {measured(row)}" if row["value"] is not None else row["message"]
    return f"Trial {row['trial']} ({written(row['values'])}) {row['state']}: {how}"


def written(values: dict[str, Any]) -> str:
    """Options with their values, as people write them."""
    return ", ".join(
        f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}" for name, value in values.items()
    )


def measured(row: dict[str, Any]) -> str:
    """A trial's outcome with its standard error."""
    if row["value"] is None:
        return ""
    return f"{row['value']:.3f}" + ("" if row["error"] is None else f" ± {row['error']:.3f}")


def in_words(told: dict[str, Any]) -> str:
    """Who is best, how sure that is, and who can't be told apart from it."""
    best = told["best"]
    name = NAMES[told["by"]]
    if best is None and any(row["state"] == "finished" for row in told["rows"]):
        return f"Sweep {told['sweep']} is {told['state']}; no {name} was measured in a run that is trained to the end."
    if best is None:
        return f"Sweep {told['sweep']} is {told['state']}; no point of its grid is trained to the end yet."
    text = f"Best {name}: {measured(best)} with {written(best['values']) or 'its options'}"
    text += f" (standard error over {OVER[best['over']]})" if best["error"] is not None else ""
    if best["not_apart"]:
        others = "; ".join(written(values) for values in best["not_apart"])
        return f"{text}; not distinguishable from {others}: their 95 % intervals overlap."
    if not best["compared"]:
        return f"{text}; no other point of the grid is trained to its end, to compare it with."
    return f"{text}; its 95 % interval overlaps with no other's of those that are trained to the end."


def _list(arguments: argparse.Namespace) -> int:
    known, damaged = [], []
    for one in list_sweeps(workspace_of(arguments)):
        try:
            known.append(summary(one))
        except ConfigError as error:
            damaged.append(f"{one.id}  damaged   {error}")
    if arguments.json:
        print(as_json({"sweeps": known, "damaged": damaged}))
        return 0
    if not known and not damaged:
        print(f"No sweeps in {workspace_of(arguments)} yet; `kto sweep CONFIG --grid beta=0.03,0.1,0.3` makes one.")
    for line in damaged:
        print(line)
    for one in known:
        done = sum(row["state"] in ("finished", "ended") for row in one["rows"])
        print(f"{one['sweep']}  {one['state']:<9} {done} of {len(one['rows'])} trials  {in_words(one)}")
    return 0
