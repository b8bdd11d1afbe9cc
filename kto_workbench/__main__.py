"""The `kto` command: every verb of the workbench at the shell.

Errors are one sentence and exit code 2, without a traceback unless `--debug`. Progress goes to stderr, results to
stdout, as one JSON object with `--json`.
"""

import argparse
import contextlib
import gc
import json
import signal
import sys
import time
import traceback
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

from kto_workbench.config import KTOConfig, load_config, option_choices, options, unknown_option
from kto_workbench.errors import ConfigError, WorkbenchError
from kto_workbench.feedback.named import NAMES
from kto_workbench.runs.directory import Run, find_run, list_runs

CONFIG_SUFFIXES = (".yaml", ".yml")
DATA_SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".parquet", ".arrow", ".gz", ".zst")


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
        print(sentence, file=sys.stderr)
        raise SystemExit(2)


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    arguments = _parser().parse_args(argv)
    try:
        return arguments.command(arguments) or 0
    except WorkbenchError as error:
        if arguments.debug:
            traceback.print_exc()
        else:
            print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `kto runs | head`
        sys.stderr.close()
        return 0


def _parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--workspace", default=None, metavar="DIR", help="where runs, uploads and caches are (default: workspace)"
    )
    common.add_argument("--debug", action="store_true", help="show the traceback of an error")
    parser = _Parser(prog="kto", description="Turn thumbs up and thumbs down into a better language model.")
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
    check.add_argument("file", help="a file, or a name such as `demo` or `thumbs`")
    check.add_argument("--model", default=None, help="also count tokens and render rows as this model sees them")
    check.add_argument("--max-length", type=int, default=1024, help="with --model: what training would cut at")
    check.add_argument(
        "--map",
        nargs="+",
        default=[],
        metavar="PART=COLUMN",
        help="correct what was recognised: prompt=question label=ok",
    )
    check.add_argument(
        "--fix", nargs="*", default=None, metavar="FINDING", help="write a new file without these findings"
    )
    check.add_argument("--out", default=None, metavar="FILE", help="with --fix: the new file; it must not exist")

    train = verb("train", _train, "Train with KTO in a process of its own, and follow it.", with_json=True)
    train.add_argument(
        "source",
        nargs="?",
        metavar="CONFIG_OR_RUN",
        help="a YAML config, a feedback file or its name, or a run that waits to be trained",
    )
    train.add_argument("--detach", action="store_true", help="start it and return at once")
    for name, field in options().items():
        if name != "workspace":
            flags = dict.fromkeys(("--" + name.replace("_", "-"), "--" + name))
            many = {"nargs": "*"} if "tuple" in str(field.annotation) else {}
            if field.annotation is bool:
                many = {"nargs": "?", "const": "true"}
            metavar = "|".join(option_choices(field)) or name.rsplit("_", 1)[-1].upper()
            train.add_argument(
                *flags, dest=name, default=None, metavar=metavar, help=field.description.replace("%", "%%"), **many
            )

    verb("runs", _runs, "List the runs of a workspace.", with_json=True)

    for name, command, help in (
        ("stop", _stop, "Ask a run to stop; it keeps a usable adapter."),
        ("resume", _resume, "Go on with a stopped, failed or crashed run from its latest checkpoint."),
    ):
        verb(name, command, help).add_argument("run", help="a run's id, a part of it, its directory, or `latest`")

    compare = verb(
        "compare", _compare, "Answers of the reference and of the tuned model, side by side.", with_json=True
    )
    compare.add_argument(
        "run", help="a run's id, a part of it, its directory, or `latest`; RUN@checkpoint-50 is one of its checkpoints"
    )
    compare.add_argument("--against", metavar="SIDE", help="the other side: a run, RUN@checkpoint-50 or RUN@reference")
    compare.add_argument(
        "--prompts",
        metavar="FILE",
        help="one prompt a line, or JSON; `held-out`: those that the run did not train on; `demo`: the demo's; "
        "default: the run's watched prompts",
    )
    compare.add_argument("--limit", type=int, default=None, metavar="N", help="at most so many prompts, spread evenly")
    compare.add_argument("--seed", type=int, default=0)
    compare.add_argument("--temperature", type=float, default=None)
    compare.add_argument("--max-new-tokens", type=int, default=None)
    compare.add_argument(
        "--judge",
        metavar="JUDGE",
        help="who says which answer wins: regex:PATTERN, regex:!PATTERN, length:MIN-MAX (words), shorter, longer, "
        "json, exact, contains (the file's `expected`), demo, reward:MODEL, or endpoint",
    )
    compare.add_argument("--judge-url", metavar="URL", help="of an OpenAI-compatible endpoint, up to /v1")
    compare.add_argument("--judge-model", metavar="NAME", default="", help="as the endpoint calls it")
    compare.add_argument(
        "--judge-key-env", metavar="VARIABLE", default="", help="the environment variable that holds the endpoint's key"
    )
    compare.add_argument("--judge-criteria", metavar="TEXT", default="", help="what makes an answer better")
    compare.add_argument(
        "--judge-max-tokens", type=int, default=16, metavar="N", help="longest reply; a judge that thinks needs more"
    )
    compare.add_argument(
        "--judge-prices", type=float, nargs=2, metavar=("READ", "WRITTEN"), help="of a million tokens, for the cost"
    )
    compare.add_argument("--judge-cost", action="store_true", help="only say what the endpoint would be asked at most")
    compare.add_argument("--checkpoints", action="store_true", help="every checkpoint that the run has kept")
    compare.add_argument("--evaluation", help=argparse.SUPPRESS)  # the record that the page has begun

    export = verb("export", _export, "Write a run's model in a form that other programs take.")
    export.add_argument("run", help="a run's id, a part of it, its directory, or `latest`")
    export.add_argument(
        "--format",
        choices=("adapter", "merged", "gguf"),
        default="adapter",
        help="adapter: PEFT's files; merged: the whole model in safetensors; gguf: for llama.cpp and Ollama",
    )
    export.add_argument("--out", metavar="DIR", default=None)
    export.add_argument(
        "--push", metavar="OWNER/NAME", help="also upload it to the Hugging Face hub, as a private model"
    )
    return parser


def _workspace(arguments: argparse.Namespace) -> str:
    return arguments.workspace or "workspace"


def _app(arguments: argparse.Namespace) -> None:
    gc.disable()  # all that is made until the page is served stays; looking for garbage is a sixth of the start
    from kto_workbench.ui.app import serve

    serve(
        workspace=_workspace(arguments),
        host=arguments.host,
        port=arguments.port,
        open_browser=not arguments.no_browser,
        password=arguments.password,
    )


def _check(arguments: argparse.Namespace) -> None:
    from tqdm import tqdm

    from kto_workbench.feedback import check
    from kto_workbench.feedback.formats import parse_mapping

    with tqdm(unit=" rows", file=sys.stderr, leave=False, delay=1, disable=not sys.stderr.isatty()) as bar:

        def tell(stage: str, rows: int) -> None:
            bar.set_description_str(stage.capitalize(), refresh=False)
            bar.update(rows - bar.n)

        report = check(
            arguments.file,
            model=arguments.model,
            max_length=arguments.max_length,
            mapping=parse_mapping(arguments.map) or None,
            workspace=_workspace(arguments),
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
        written = str(report.fix(arguments.fix, arguments.out, workspace=_workspace(arguments)))
    if arguments.json:
        print(_json(report.to_dict() | ({"fixed_file": written} if written else {})))
        return
    print(report.to_text())
    if written:
        print(f"\nThe fixed file is {written}.")


def _demo(arguments: argparse.Namespace) -> None:
    from kto_workbench.demo.demonstration import demonstrate

    result = demonstrate(workspace=_workspace(arguments), seed=arguments.seed)
    if arguments.json:
        print(_json(result))
        return
    print(
        f"\n{result['rows']} thumbs ({result['n_desirable']} up, {result['n_undesirable']} down), "
        f"{result['seconds']:.0f} seconds.\n"
        f"Asked {result['n_prompts']} things that it has not seen:\n"
        f"  kind and brief  {result['trait_before']:6.1%}  →  {result['trait_after']:6.1%}\n"
        f"  facts right     {result['facts_before']:6.1%}  →  {result['facts_after']:6.1%}\n\n"
        f"`kto compare {result['run']}` shows answers of both sides."
    )


def _train(arguments: argparse.Namespace) -> int:
    from kto_workbench.runs.launch import create_run, resume, start

    given = {
        name: getattr(arguments, name)
        for name in options()
        if name != "workspace" and getattr(arguments, name) is not None
    }
    if arguments.workspace:
        given["workspace"] = arguments.workspace
    source = arguments.source
    run = _existing_run(source, _workspace(arguments))
    if run is not None:
        if given.keys() - {"workspace"}:
            raise ConfigError("A run keeps its options; to change some, train its config.yaml with them.")
        if run.status().resumable:
            resume(run)
        elif run.status().state == "queued" and run.status().pid is None:
            start(run)
        else:
            raise ConfigError(
                f"Run {run.id} is {run.status().state} already; `kto train {run.path}/config.yaml` trains it anew."
            )
    else:
        run = create_run(_config(source, given))
        start(run)
    return _follow(run, arguments)


def _existing_run(source: str | None, workspace: str) -> Run | None:
    if source is None or source in NAMES or Path(source).suffix in (*CONFIG_SUFFIXES, *DATA_SUFFIXES):
        return None
    if Path(source).exists() and not (Path(source) / "config.yaml").is_file():
        return None  # a file, or a folder of datasets
    return find_run(source, workspace)


def _config(source: str | None, given: dict[str, Any]) -> KTOConfig:
    if source is None:
        return KTOConfig(**given)
    if Path(source).suffix in CONFIG_SUFFIXES:
        return load_config(source, **given)
    return KTOConfig(**{"data": source, **given})


def _follow(run: Run, arguments: argparse.Namespace) -> int:
    """Show a run's progress until it ends; Ctrl-C asks it to stop, a second one leaves it alone."""
    from tqdm import tqdm

    from kto_workbench.runs.launch import follow

    if arguments.detach:
        print(
            _json({"run": run.id, "path": str(run.path)}) if arguments.json else f"Run {run.id} has started: {run.path}"
        )
        return 0
    print(f"Run {run.id}", file=sys.stderr)
    offset, status, shown = 0, run.status(), ""
    # On a terminal the bar moves smoothly; in a log file a line now and then is enough.
    interval = 0.1 if sys.stderr.isatty() else 10.0
    with _stop_on_signals(run), tqdm(file=sys.stderr, bar_format=_BAR, mininterval=interval) as bar:
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
            _json(
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


@contextlib.contextmanager
def _stop_on_signals(run: Run) -> Iterator[None]:
    asked = False

    def handle(number: int, frame: Any) -> None:
        nonlocal asked
        if asked or not run.status().active:
            raise KeyboardInterrupt
        asked = True
        run.ask("stop")
        print("\nStopping, and saving the adapter; once more leaves it running.", file=sys.stderr)

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def last_metrics(run: Run) -> dict[str, Any]:
    """The last training record of a run, {} if there is none."""
    return next((record for record in reversed(run.metrics()) if "loss" in record), {})


def _runs(arguments: argparse.Namespace) -> None:
    rows = []
    for run in list_runs(_workspace(arguments)):
        status, config, data, final = run.status(), run.config(), run.data(), last_metrics(run)
        rows.append(
            {
                "run": run.id,
                "path": str(run.path),
                "state": status.state,
                "step": status.step,
                "total_steps": status.total_steps,
                "model": config.model,
                "data": config.data,
                "n_desirable": data.get("n_desirable"),
                "n_undesirable": data.get("n_undesirable"),
                "beta": config.beta,
                "created": status.created,
                "reference": run.reference(),
                "final": final,
                "error": status.error,
            }
        )
    if arguments.json:
        print(_json({"runs": rows}))
        return
    if not rows:
        print(f"No runs in {_workspace(arguments)} yet; `kto demo` makes the first.")
        return
    print(f"{'run':<22} {'started':<17} {'state':<9} {'step':>11} {'loss':>7} {'margin':>7} {'reused':>7}  model, data")
    for row in rows:
        reference = row["reference"]
        total = reference.get("reused", 0) + reference.get("computed", 0)
        cells = [
            f"{row['run']:<22}",
            f"{datetime.fromtimestamp(row['created']):%Y-%m-%d %H:%M} ",
            f"{row['state']:<9}",
            f"{row['step']:>5}/{row['total_steps'] or '?':<5}",
            _number(row["final"].get("loss")),
            _number(row["final"].get("rewards/margins")),
            f"{reference['reused'] / total:>7.0%}" if total else f"{'':>7}",
            f" {row['model']}, {Path(row['data']).name}",
        ]
        print(" ".join(cells))


def _number(value: float | None) -> str:
    return f"{value:>7.3f}" if value is not None else f"{'':>7}"


def _stop(arguments: argparse.Namespace) -> None:
    run = find_run(arguments.run, _workspace(arguments))
    run.ask("stop")
    print(f"Run {run.id} was asked to stop; it saves its adapter first.")


def _resume(arguments: argparse.Namespace) -> int:
    from kto_workbench.runs.launch import resume

    run = find_run(arguments.run, _workspace(arguments))
    resume(run)
    arguments.detach = arguments.json = False
    return _follow(run, arguments)


def _compare(arguments: argparse.Namespace) -> None:
    from kto_workbench.runs.sides import TUNED, find_side

    workspace = _workspace(arguments)
    side = find_side(arguments.run, workspace)
    against = find_side(arguments.against, workspace) if arguments.against else None
    record = _begun_record(arguments, side.run)
    with _kept(record):
        if arguments.temperature is not None and not 0 <= arguments.temperature <= 5:
            raise ConfigError(f"Option `temperature` should be between 0 and 5, not {arguments.temperature}.")
        if arguments.max_new_tokens is not None and arguments.max_new_tokens < 1:
            raise ConfigError(f"Option `max_new_tokens` should be at least 1, not {arguments.max_new_tokens}.")
        if arguments.checkpoints and side.part != TUNED:
            raise ConfigError(f"Option `checkpoints` takes all of a run's: name the run alone, not {side.name}.")
        questions = _questions(arguments, side.run)
        if arguments.judge_cost:
            _say_cost(arguments, side, questions)
            return
        judge = _judge(arguments, workspace)
        if arguments.prompts and record is None:
            from kto_workbench.judging.records import new_record

            record = new_record(side.run, _about(arguments, side, against, len(questions)))
    with _kept(record):
        _compare_on(questions, judge, side, against, record, arguments)


def _compare_on(
    questions: list[Any], judge: Any, side: Any, against: Any, record: Any, arguments: argparse.Namespace
) -> None:
    """Ask, judge, keep and show; progress goes to the record and to a terminal."""
    from tqdm import tqdm

    if record:
        record.claim()
    from kto_workbench.engine.evaluation import evaluate, evaluate_checkpoints

    started = time.time()
    with tqdm(file=sys.stderr, leave=False, disable=not sys.stderr.isatty()) as bar:
        written = 0.0

        def tell(stage: str, done: int, total: int) -> None:
            nonlocal written
            bar.set_description_str(stage.capitalize(), refresh=False)
            bar.total = total
            bar.update(done - bar.n)
            if record and (time.monotonic() - written > 0.5 or done == total):
                written = time.monotonic()
                record.write(progress={"stage": stage, "done": done, "total": total})

        settings = {
            "expected": [expected for _, expected in questions],
            "seed": arguments.seed,
            "temperature": arguments.temperature,
            "max_new_tokens": arguments.max_new_tokens,
            "on_progress": tell,
        }
        prompts = [prompt for prompt, _ in questions]
        if arguments.checkpoints:
            result = evaluate_checkpoints(side.run, prompts, judge, against=against, **settings)
        else:
            result = evaluate(side, against, prompts, judge, **settings)
    seconds = time.time() - started
    if record:
        record.write(state="finished", seconds=seconds, **result)
    if arguments.json:
        kept = {"evaluation_file": str(record.path)} if record else {}
        print(_json({"run": side.name, "seed": arguments.seed, "seconds": seconds, **result, **kept}))
        return
    if judge is None:
        for answer in result["answers"]:
            prompt = (
                answer["prompt"]
                if isinstance(answer["prompt"], str)
                else "\n".join(m.get("content") or "" for m in answer["prompt"])
            )
            print(f"\n{prompt}\n  reference  {_indent(answer['reference'])}\n  tuned      {_indent(answer['tuned'])}")
    from kto_workbench.judging.report import in_words

    print("\n" + in_words(result["evaluation"]))
    if record:
        print(f"\nKept in {record.path}.")


def _questions(arguments: argparse.Namespace, run: Run) -> list[Any]:
    from kto_workbench.judging.questions import find_questions

    if arguments.prompts:
        return find_questions(arguments.prompts, run, arguments.limit)
    return [(prompt, ()) for prompt in watched_prompts(run)]


def _judge(arguments: argparse.Namespace, workspace: str) -> Any:
    """The judge that the arguments name; None if there is none."""
    from kto_workbench.judging.rules import Rule, parse_judge

    if not arguments.judge and not arguments.judge_url:
        return None
    kind, _ = parse_judge(arguments.judge or "endpoint")
    if arguments.judge_url and kind != "endpoint":
        raise ConfigError(f"Option `judge-url` belongs to judge `endpoint`, not to `{kind}`.")
    if kind == "demo":
        from kto_workbench.demo.judge import judge as verdict_of
        from kto_workbench.feedback.rendering import prompt_messages

        def kind_and_brief(prompt: Any, answer: str, expected: Any) -> bool:
            verdict = verdict_of(prompt_messages(prompt), answer)
            return verdict.kind and verdict.brief

        return Rule("demo", kind_and_brief)
    if kind == "endpoint":
        from kto_workbench.judging.endpoint import EndpointJudge

        if not arguments.judge_url:
            raise ConfigError("Judge `endpoint` needs an address, such as --judge-url http://127.0.0.1:8000/v1.")
        endpoint = EndpointJudge(
            arguments.judge_url,
            arguments.judge_model,
            key_variable=arguments.judge_key_env,
            criteria=arguments.judge_criteria,
            max_tokens=arguments.judge_max_tokens,
            cache=Path(workspace) / "cache" / "judgments",
        )
        endpoint.reach()  # before hours of answers are made for it
        return endpoint
    from kto_workbench.engine.evaluation import named_judge

    return named_judge(arguments.judge)


def _say_cost(arguments: argparse.Namespace, side: Any, questions: list[Any]) -> None:
    from kto_workbench.judging.endpoint import Prices, estimate_cost
    from kto_workbench.judging.steps import checkpoints_of

    cost = estimate_cost(
        [prompt for prompt, _ in questions],
        answer_tokens=arguments.max_new_tokens or side.run.config().sample_max_new_tokens,
        max_tokens=arguments.judge_max_tokens,
        criteria=arguments.judge_criteria,
        sides=len(checkpoints_of(side.run)) if arguments.checkpoints else 1,
        prices=Prices(*arguments.judge_prices) if arguments.judge_prices else None,
    )
    if arguments.json:
        print(_json(cost))
        return
    price = f", {cost['price']:.2f} at these prices" if cost["price"] is not None else ""
    print(
        f"At most {cost['requests']:,} requests: {cost['tokens_read']:,} tokens to read and {cost['tokens_written']:,} "
        f"to write{price}. Texts are counted as characters / 4, answers as the longest allowed; what was asked before "
        "is not asked again."
    )


def _about(arguments: argparse.Namespace, side: Any, against: Any, n_prompts: int) -> dict[str, Any]:
    """What was asked for, as the record keeps it."""
    return {
        "tuned": side.name,
        "against": against.name if against else f"{side.run.id}@reference",
        "prompts": Path(arguments.prompts).name,
        "n_prompts": n_prompts,
        "judge": arguments.judge or ("endpoint" if arguments.judge_url else None),
        "judge_model": arguments.judge_model or None,
        "judge_url": arguments.judge_url,
        "checkpoints": arguments.checkpoints,
        "seed": arguments.seed,
        "temperature": arguments.temperature,
        "max_new_tokens": arguments.max_new_tokens,
    }


def _begun_record(arguments: argparse.Namespace, run: Run) -> Any:
    if not arguments.evaluation:
        return None
    from kto_workbench.judging.records import Record

    return Record(run, arguments.evaluation)


@contextlib.contextmanager
def _kept(record: Any) -> Iterator[None]:
    """Write down why an evaluation broke off."""
    try:
        yield
    except KeyboardInterrupt:
        if record:
            record.write(state="stopped")
        raise
    except Exception as error:
        if record:
            sentence = str(error) if isinstance(error, WorkbenchError) else f"{type(error).__name__}: {error}"
            record.write(state="failed", error=sentence)
        raise


def watched_prompts(run: Run) -> list[Any]:
    """The prompts that a run was watched with, or else a few of its data's."""
    prompts: list[Any] = []
    for sample in run.samples():
        if sample["prompt"] not in prompts:
            prompts.append(sample["prompt"])
    if not prompts:
        from kto_workbench.feedback import load_feedback

        config = run.config()
        rows = load_feedback(config.data, workspace=config.workspace).rows
        prompts = [rows[i].prompt for i in range(min(4, len(rows)))]
    return prompts


def _indent(text: str) -> str:
    return text.replace("\n", "\n             ")


def _export(arguments: argparse.Namespace) -> None:
    run = find_run(arguments.run, _workspace(arguments))
    from kto_workbench.engine.export import export
    from kto_workbench.views.card import write_card

    folder = export(run, arguments.format, arguments.out)
    write_card(run, folder, arguments.format)
    if arguments.push:
        from kto_workbench.engine.export import push

        print(push(folder, arguments.push), file=sys.stderr)
    print(folder)


def _json(value: Any) -> str:
    from kto_workbench.runs.jsonlines import without_nan

    return json.dumps(without_nan(value), ensure_ascii=False)


if __name__ == "__main__":
    sys.exit(main())
