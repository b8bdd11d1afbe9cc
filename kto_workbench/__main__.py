"""The `kto` command: every verb of the workbench at the shell.

Errors are one sentence and exit code 2, without a traceback unless `--debug`. Progress goes to stderr, results to
stdout, as one JSON object with `--json`.
"""

import argparse
import gc
import sys
import traceback
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

import kto_workbench
from kto_workbench.config import unknown_option
from kto_workbench.errors import ConfigError, WorkbenchError
from kto_workbench.files import disk_refusal
from kto_workbench.runs.children import large_imports
from kto_workbench.runs.directory import EXPORT_FORMATS, find_run, list_runs
from kto_workbench.runs.shelf import describe_run
from kto_workbench.shell import comparing, doctor, endpoints, sweeping, training
from kto_workbench.shell.common import as_json, last_metrics, workspace_of
from kto_workbench.shell.terminal import tame, tamed


class _Parser(argparse.ArgumentParser):
    """Says what is wrong with the arguments in one sentence."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings, allow_abbrev=False)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Refuse what is unknown here, where the command is known, and not in the parser of all commands."""
        known, extra = super().parse_known_args(args, namespace)
        if extra:
            self.error(f"unrecognized arguments: {' '.join(extra)}")
        return known, extra

    def error(self, message: str) -> NoReturn:
        unknown = "unrecognized arguments: "
        if message.startswith(unknown + "--"):
            name = message.removeprefix(unknown).split()[0].split("=")[0]
            known = [option.lstrip("-").replace("-", "_") for option in self._option_string_actions]
            sentence = unknown_option(name.lstrip("-"), known).rstrip(".") + f" (`{self.prog} --help` lists all)."
        else:
            sentence = f"{message[0].upper()}{message[1:]}; `{self.prog} --help` says more."
        print(tame(sentence), file=sys.stderr)
        raise SystemExit(2)


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    with tamed():
        return _run(argv)


def _run(argv: list[str] | None) -> int:
    arguments = _parser().parse_args(argv)
    try:
        return arguments.command(arguments) or 0
    except WorkbenchError as error:
        if arguments.debug:
            traceback.print_exc()
        else:
            print(tame(str(error)), file=sys.stderr)
        return 2
    except BrokenPipeError:  # `kto runs | head`
        sys.stderr.close()
        return 0
    except OSError as error:
        if arguments.debug or not (sentence := disk_refusal(error)):
            raise
        print(sentence, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


WHICH_RUN = "a run's id, its name, a part of either, its directory, or `latest`"


def _parser() -> argparse.ArgumentParser:
    common = _common()
    parser = _Parser(prog="kto", description="Turn thumbs up and thumbs down into a better language model.")
    parser.add_argument("--version", action="version", version=f"KTO Workbench {kto_workbench.__version__}")
    verbs = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def verb(name: str, command: Any, help: str, *, with_json: bool = False) -> argparse.ArgumentParser:
        added = verbs.add_parser(name, help=help, description=help, parents=[common])
        added.set_defaults(command=command)
        if with_json:
            added.add_argument("--json", action="store_true", help="print one JSON object")
        return added

    app = verb("app", _app, "Open the workbench in a browser.")
    app.add_argument("--host", default="127.0.0.1", help="address to listen on; another than loopback needs a password")
    app.add_argument("--port", type=int, default=7860, help="the next free one is taken if it is in use")
    app.add_argument("--password", default=None, help="ask visitors for it")
    app.add_argument("--no-browser", action="store_true", help="print the address, open nothing")

    demo = verb("demo", _demo, "Train the demo and measure it on prompts that it has not seen.", with_json=True)
    demo.add_argument("--seed", type=int, default=42)

    check = verb("check", _check, "Look a feedback file over: rows, problems, balance, weights.", with_json=True)
    check.add_argument("file", help="a file, ratings.jsonl+conversations.jsonl, or a name such as `demo` or `thumbs`")
    check.add_argument("--model", default=None, help="also count tokens and render rows as this model sees them")
    check.add_argument("--max-length", type=int, default=1024, help="with --model: what training would cut at")
    check.add_argument("--template", choices=("auto", "none"), default="auto", help="with --model: as kto train has it")
    check.add_argument("--template-kwargs", default="", metavar="JSON", help="with --model: as kto train has them")
    check.add_argument("--trust", nargs="+", default=[], metavar="MODEL", help="with --model: as kto train has it")
    check.add_argument(
        "--map",
        "--mapping",
        dest="map",
        nargs="+",
        default=[],
        metavar="PART=COLUMN",
        help="correct what was recognised: prompt=question label=ok",
    )
    check.add_argument(
        "--fix", nargs="*", default=None, metavar="FINDING", help="write a new file without these findings"
    )
    check.add_argument("--out", default=None, metavar="FILE", help="with --fix: the new file; it must not exist")

    doctor.add_arguments(
        verb("doctor", doctor.doctor, "See whether this machine, and a model, can be trained on.", with_json=True)
    )

    train = verb("train", training.train, "Train with KTO in a process of its own, and follow it.", with_json=True)
    training.add_arguments(train)

    sweep = verb(
        "sweep", sweeping.sweep, "Train one config with several values of some options, and compare.", with_json=True
    )
    sweeping.add_arguments(sweep)

    runs = verb("runs", _runs, "List the runs of a workspace.", with_json=True)
    runs.add_argument(
        "--empty-trash", action="store_true", help="let deleted runs go for good, which frees their space"
    )
    name = verb("name", _name, "Give a run another name; its id stays.")
    name.add_argument("run", help=WHICH_RUN)
    name.add_argument("name", help="the new name")

    for name, command, help in (
        ("stop", _stop, "Ask a run, or a sweep, to stop; a run keeps a usable adapter."),
        ("resume", _resume, "Go on with a stopped, failed or crashed run from its latest checkpoint, or with a sweep."),
    ):
        verb(name, command, help).add_argument("run", help=f"{WHICH_RUN}; or a sweep's id")

    compare = verb(
        "compare", comparing.compare, "Answers of the reference and of the tuned model, side by side.", with_json=True
    )
    comparing.add_arguments(compare)

    endpoint = verb("endpoint", None, "Name OpenAI-compatible servers, which then answer and judge under these names.")
    # An option that was given before the second verb must not be lost to the second one's default.
    endpoints.add_arguments(endpoint, _common(argument_default=argparse.SUPPRESS))

    export = verb("export", _export, "Write a run's model in a form that other programs take.")
    export.add_argument("run", help="a run's id, a part of it, its directory, or `latest`")
    export.add_argument(
        "--format",
        choices=EXPORT_FORMATS,
        default="adapter",
        help="adapter: PEFT's files; merged: the whole model in safetensors; gguf: for llama.cpp and Ollama",
    )
    export.add_argument("--out", metavar="DIR", default=None)
    export.add_argument(
        "--push", metavar="OWNER/NAME", help="also upload it to the Hugging Face hub, as a private model"
    )
    return parser


def _common(**settings: Any) -> argparse.ArgumentParser:
    """What every verb takes."""
    common = argparse.ArgumentParser(add_help=False, **settings)
    common.add_argument("--workspace", metavar="DIR", help="where runs, uploads and caches are (default: workspace)")
    common.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return common


def _app(arguments: argparse.Namespace) -> None:
    gc.disable()  # all that is made until the page is served stays; looking for garbage is a sixth of the start
    from kto_workbench.ui.app import serve

    serve(
        workspace=workspace_of(arguments),
        host=arguments.host,
        port=arguments.port,
        open_browser=not arguments.no_browser,
        password=arguments.password,
    )


def _check(arguments: argparse.Namespace) -> None:
    from tqdm import tqdm

    from kto_workbench.config import read_template_kwargs
    from kto_workbench.feedback import check

    with tqdm(unit=" rows", file=sys.stderr, leave=False, delay=1, disable=not sys.stderr.isatty()) as bar:

        def tell(stage: str, rows: int) -> None:
            bar.set_description_str(stage.capitalize(), refresh=False)
            bar.update(rows - bar.n)

        report = check(
            arguments.file,
            model=arguments.model,
            max_length=arguments.max_length,
            template=arguments.template,
            template_kwargs=read_template_kwargs(arguments.template_kwargs),
            trust=arguments.trust,
            mapping=arguments.map,
            workspace=workspace_of(arguments),
            progress=tell,
        )
    written = None
    if arguments.fix is not None:
        unknown = [name for name in arguments.fix if name not in report.fixes]
        if unknown:
            known = ", ".join(report.fixes) or "none"
            raise ConfigError(
                f"There is no fix `{unknown[0]}` for this file; those that would change something: {known}."
            )
        written = str(report.fix(arguments.fix, arguments.out, workspace=workspace_of(arguments)))
    if arguments.json:
        print(as_json(report.to_dict() | ({"fixed_file": written} if written else {})))
        return
    print(report.to_text())
    if written:
        print(f"\nThe fixed file is {written}.")


def _demo(arguments: argparse.Namespace) -> None:
    from kto_workbench.shell.demonstration import demonstrate

    result = demonstrate(workspace=workspace_of(arguments), seed=arguments.seed)
    if arguments.json:
        print(as_json(result))
        return
    print(
        f"\n{result['rows']} thumbs ({result['n_desirable']} up, {result['n_undesirable']} down), "
        f"{result['seconds']:.0f} seconds.\n"
        f"Asked {result['n_prompts']} things that it has not seen:\n"
        f"  kind and brief  {result['trait_before']:6.1%}  →  {result['trait_after']:6.1%}\n"
        f"  facts right     {result['facts_before']:6.1%}  →  {result['facts_after']:6.1%}\n\n"
        f"`kto compare {result['run']}` shows answers of both sides."
    )


def _runs(arguments: argparse.Namespace) -> None:
    if arguments.empty_trash:
        from kto_workbench.runs.shelf import empty_trash

        count, freed = empty_trash(workspace_of(arguments))
        if arguments.json:
            print(as_json({"deleted": count, "freed_bytes": freed}))
        else:
            print(f"{count} deleted runs are gone for good; {freed / 2**20:.1f} MiB are free again.")
        return
    rows = []
    for run in list_runs(workspace_of(arguments)):
        status, data, problems = run.status(), run.data(), run.problems()
        try:
            config = run.config()
        except ConfigError:
            config = None
        rows.append(
            {
                "run": run.id,
                "name": run.about()["name"],
                "path": str(run.path),
                "state": status.state,
                "pid": status.pid if status.active else None,
                "message": status.message,
                "sweep": data.get("sweep"),
                "trial": data.get("trial"),
                "best_step": status.best_step,
                "step": status.step,
                "total_steps": status.total_steps,
                "model": config and config.model,
                "data": config and config.data,
                "n_desirable": data.get("n_desirable"),
                "n_undesirable": data.get("n_undesirable"),
                "beta": config and config.beta,
                "created": status.created,
                "reference": run.reference(),
                "final": last_metrics(run),
                "error": status.error,
                "problems": problems,
            }
        )
    if arguments.json:
        print(as_json({"runs": rows}))
        return
    if not rows:
        print(f"No runs in {workspace_of(arguments)} yet; `kto demo` makes the first.")
        return
    heads = f"{'run':<22} {'started':<17} {'state':<13} {'step':>11} {'loss':>7} {'margin':>7} {'reused':>7}"
    print(f"{heads}  name (model, data)")
    for row in rows:
        reference = row["reference"]
        total = reference.get("reused", 0) + reference.get("computed", 0)
        started = f"{datetime.fromtimestamp(row['created']):%Y-%m-%d %H:%M}" if row["created"] else ""
        cells = [
            f"{row['run']:<22}",
            f"{started:<17}",
            f"{row['state']:<13}",
            f"{row['step']:>5}/{row['total_steps'] or '?':<5}",
            _number(row["final"].get("loss")),
            _number(row["final"].get("rewards/margins")),
            f"{reference.get('reused', 0) / total:>7.0%}" if total else f"{'':>7}",
            f" {row['name']} ({row['model']}, {Path(row['data']).name})" if row["model"] else f" {row['name']}",
        ]
        print(" ".join(cells).rstrip())
        silent = [row["message"]] if row["state"] == "not answering" else []
        for problem in (*silent, *row["problems"]):
            print(f"  {problem}")


def _name(arguments: argparse.Namespace) -> None:
    run = find_run(arguments.run, workspace_of(arguments))
    describe_run(run, arguments.name, run.about()["note"])
    print(f"Run {run.id} is called {run.about()['name'] or 'nothing'}.")


def _number(value: float | None) -> str:
    return f"{value:>7.3f}" if value is not None else f"{'':>7}"


def _stop(arguments: argparse.Namespace) -> None:
    from kto_workbench.runs.launch import stop
    from kto_workbench.runs.sweeps import find_sweep
    from kto_workbench.runs.sweeps import stop as stop_sweep

    if sweep := find_sweep(arguments.run, workspace_of(arguments)):
        stop_sweep(sweep)
        print(f"Sweep {sweep.id} was asked to stop; the trial at work saves its adapter first.")
        return
    run = find_run(arguments.run, workspace_of(arguments))
    if stop(run):
        print(f"Run {run.id} did not answer and was ended; `kto resume {run.id}` goes on from its latest checkpoint.")
    else:
        print(f"Run {run.id} was asked to stop; it saves its adapter first.")


def _resume(arguments: argparse.Namespace) -> int:
    from kto_workbench.runs.sweeps import find_sweep

    if sweep := find_sweep(arguments.run, workspace_of(arguments)):
        return sweeping.go_on(sweep, again=True)
    return training.resume(arguments)


def _export(arguments: argparse.Namespace) -> None:
    run = find_run(arguments.run, workspace_of(arguments))
    with large_imports():
        from kto_workbench.answers.export import export
    from kto_workbench.views.card import write_card

    folder = export(run, arguments.format, arguments.out)
    write_card(run, folder, arguments.format)
    if arguments.push:
        from kto_workbench.answers.export import push

        print(push(folder, arguments.push), file=sys.stderr)
    print(folder)


if __name__ == "__main__":
    sys.exit(main())
