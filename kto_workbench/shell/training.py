"""kto train and kto resume: start a run in a process of its own, and follow it."""

import argparse
import sys
from pathlib import Path
from typing import Any

from kto_workbench import files
from kto_workbench.config import KTOConfig, load_config, option_choices, options
from kto_workbench.errors import ConfigError, WorkbenchError
from kto_workbench.feedback.named import NAMES
from kto_workbench.objectives import OPTIONS, users_of
from kto_workbench.runs.children import launched
from kto_workbench.runs.directory import Run, find_run
from kto_workbench.shell.common import as_json, last_metrics, stop_on_signals, workspace_of

CONFIG_SUFFIXES = (".yaml", ".yml")
DATA_SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".parquet", ".arrow", ".gz", ".zst")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Those of kto train: every option of a config, and what to train."""
    parser.add_argument(
        "source",
        nargs="?",
        metavar="CONFIG_OR_RUN",
        help="a YAML config, a feedback file or its name, or a run that waits to be trained",
    )
    parser.add_argument("--suggest", action="store_true", help="only say which settings suit the model and the data")
    parser.add_argument("--detach", action="store_true", help="start it and return at once")
    add_options(parser)


def add_options(parser: argparse.ArgumentParser) -> None:
    """A flag for every option of a config."""
    for name, field in options().items():
        if name != "workspace":
            flags = dict.fromkeys(("--" + name.replace("_", "-"), "--" + name))
            if name == "mapping":
                flags["--map"] = None  # as kto check has it
            many = {"nargs": "*"} if "tuple" in str(field.annotation) else {}
            if field.annotation is bool:
                many = {"nargs": "?", "const": "true"}
            metavar = "|".join(option_choices(field)) or name.rsplit("_", 1)[-1].upper()
            used = f" (Objectives: {', '.join(users_of(name))}.)" if name in OPTIONS else ""
            help = field.description.replace("%", "%%") + used
            parser.add_argument(*flags, dest=name, default=None, metavar=metavar, help=help, **many)


def train(arguments: argparse.Namespace) -> int:
    """Start a run from a config, a feedback file or options alone, or one that waits, and follow it."""
    from kto_workbench.runs.launch import start

    given = given_options(arguments)
    if arguments.suggest:
        return _suggest(config_from(arguments.source, given), arguments)
    if launched():
        return _train_as_one_of_many(arguments.source, given, workspace_of(arguments))
    run = _run_to_train(arguments.source, given, workspace_of(arguments))
    start(run)
    return _follow(run, arguments)


def given_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """The options that the flags of a command have set."""
    given = {name: value for name in options() if (value := getattr(arguments, name, None)) is not None}
    return {name: value for name, value in given.items() if name != "workspace" or value}


def _suggest(config: KTOConfig, arguments: argparse.Namespace) -> int:
    """Say which settings suit the model and the data, each with its reason."""
    from kto_workbench.feedback import load_feedback
    from kto_workbench.runs.settings import row_lengths, suggest_settings

    feedback = load_feedback(config.data, workspace=config.workspace)
    found = suggest_settings(config.model, config.tuning, lengths=row_lengths(feedback, config.model, config.template))
    if arguments.json:
        settings = [{"option": one.option, "value": one.value, "reason": one.text} for one in found]
        print(as_json({"model": config.model, "suggested": settings}))
        return 0
    for one in found:
        shown = f"{one.value:g}" if isinstance(one.value, float) else str(one.value).lower()
        print(f"--{one.option.replace('_', '-'):<16} {shown:<8} {one.text}")
    return 0


def _run_to_train(source: str | None, given: dict[str, Any], workspace: str) -> Run:
    """A new run of a config or of feedback, or one that can go on, waiting to be started."""
    from kto_workbench.judging.rules import check_judge
    from kto_workbench.runs.launch import create_run, requeue

    run = _existing_run(source, workspace)
    if run is None:
        config = config_from(source, given)
        check_judge(config)
        return create_run(config)
    if given.keys() - {"workspace"}:
        raise ConfigError("A run keeps its options; to change some, train its config.yaml with them.")
    status = run.status()
    if status.resumable:
        requeue(run)
    elif status.state != "queued" or status.pid is not None:
        raise ConfigError(f"Run {run.id} is {status.state} already; `kto train {run.path}/config.yaml` trains it anew.")
    return run


def _train_as_one_of_many(source: str | None, given: dict[str, Any], workspace: str) -> int:
    """Train here, as one of the processes that `accelerate launch -m kto_workbench train …` has started."""
    from kto_workbench.engine import child
    from kto_workbench.engine.crew import join

    existing = _existing_run(source, workspace)
    wanted = existing.config() if existing else config_from(source, given)
    crew = join(wanted.device, wanted.sharding)
    path, refused = "", ""
    if crew.leads:
        try:
            path = str(_run_to_train(source, given, workspace).path)
        except WorkbenchError as error:
            refused = str(error)
    path, refused = crew.from_first((path, refused))
    if refused:
        raise WorkbenchError(refused)
    return child.work(Run(path), crew)


def _existing_run(source: str | None, workspace: str) -> Run | None:
    if source is None or source in NAMES or Path(source).suffix in (*CONFIG_SUFFIXES, *DATA_SUFFIXES):
        return None
    if files.is_there(Path(source)) and not files.is_there(Path(source) / "config.yaml"):
        return None  # a file, or a folder of datasets
    return find_run(source, workspace)


def config_from(source: str | None, given: dict[str, Any]) -> KTOConfig:
    """The config of a YAML file, of a feedback file, or of options alone; `given` overrides. Raises ConfigError."""
    if source is None:
        return KTOConfig(**given)
    if Path(source).suffix in CONFIG_SUFFIXES:
        return load_config(source, **given)
    if given.get("data", source) != source:
        raise ConfigError(f"Train on {source}, or on --data {given['data']}? Name one of them.")
    return KTOConfig(**{**given, "data": source})


def _follow(run: Run, arguments: argparse.Namespace) -> int:
    """Show a run's progress until it ends; Ctrl-C asks it to stop, a second one leaves it alone."""
    from tqdm import tqdm

    from kto_workbench.runs.launch import follow

    if arguments.detach:
        started = {"run": run.id, "path": str(run.path)}
        print(as_json(started) if arguments.json else f"Run {run.id} has started: {run.path}")
        return 0
    print(f"Run {run.id}", file=sys.stderr)
    offset, status, shown = 0, run.status(), ""
    # On a terminal the bar moves smoothly; in a log file a line now and then is enough.
    interval = 0.1 if sys.stderr.isatty() else 10.0
    asking = stop_on_signals(lambda: run.status().active, lambda: run.ask("stop"), "the adapter")
    with asking, tqdm(file=sys.stderr, bar_format=_BAR, mininterval=interval) as bar:
        for status in follow(run):
            records, offset = run.metrics_since(offset)
            last = next((record for record in reversed(records) if "loss" in record), None)
            bar.total = status.total_steps or None
            bar.set_description_str(status.message.rstrip(".") or status.state.capitalize(), refresh=False)
            if last:
                names = {"loss": "loss", "z0": "kl", "up": "rewards/chosen", "down": "rewards/rejected"}
                values = {k: f"{last[v]:.3g}" for k, v in names.items() if last.get(v) is not None}
                bar.set_postfix(values, refresh=False)
            bar.update(status.step - bar.n)
            if bar.desc != shown and sys.stderr.isatty():
                shown = bar.desc
                bar.refresh()
    final = last_metrics(run)
    if arguments.json:
        print(
            as_json(
                {
                    "run": run.id,
                    "path": str(run.path),
                    "state": status.state,
                    "step": status.step,
                    "error": status.error,
                    "final": final,
                }
            )
        )
    elif status.state in ("finished", "stopped"):
        print(f"Run {run.id} has {'finished' if status.state == 'finished' else 'stopped'} at step {status.step}.")
        if run.adapter.exists():
            print(f"Its adapter is in {run.adapter}; `kto compare {run.id}` shows what it changed.")
    else:
        raise WorkbenchError(f"Run {run.id} {status.state}: {status.error} (log: {run.log_path})")
    return 0 if status.state in ("finished", "stopped") else 2


_BAR = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}{postfix}]"


def resume(arguments: argparse.Namespace) -> int:
    """Go on with a run from its latest checkpoint, and follow it."""
    from kto_workbench.runs.launch import resume

    run = find_run(arguments.run, workspace_of(arguments))
    resume(run)
    arguments.detach = arguments.json = False
    return _follow(run, arguments)
