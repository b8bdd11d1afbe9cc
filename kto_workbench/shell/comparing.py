"""kto compare: two sides on prompts, measured, and judged if asked."""

import argparse
import contextlib
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kto_workbench.config import DEMO_MODEL
from kto_workbench.errors import ConfigError, WorkbenchError
from kto_workbench.feedback.rows import told
from kto_workbench.runs.children import large_imports
from kto_workbench.runs.directory import Run
from kto_workbench.runs.turn import device_held
from kto_workbench.shell.common import as_json, workspace_of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The sides, the prompts, the sampling and the judge."""
    parser.add_argument(
        "run",
        metavar="SIDE",
        help="a run's id, a part of it, its directory, or `latest`; RUN@checkpoint-50 is one of its checkpoints; "
        "endpoint:NAME (see `kto endpoint`); model:MODEL for `demo`, a folder or a hub id",
    )
    parser.add_argument(
        "--against", metavar="SIDE", help="the other side, named likewise; default: the run's reference"
    )
    parser.add_argument(
        "--prompts",
        metavar="FILE",
        help="one prompt a line, or JSON; `held-out`: those that the run did not train on; `demo`: the demo's; "
        "default: the run's watched prompts",
    )
    parser.add_argument("--limit", type=int, default=None, metavar="N", help="at most so many prompts, spread evenly")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--temperature", type=float, default=None)
    parser.add_argument("--max-new-tokens", type=int, default=None)
    parser.add_argument(
        "--judge",
        metavar="JUDGE",
        help="who says which answer wins: regex:PATTERN, regex:!PATTERN, length:MIN-MAX (words), shorter, longer, "
        "json, exact, contains (the file's `expected`), demo, reward:MODEL, or endpoint:NAME (see `kto endpoint`)",
    )
    parser.add_argument("--judge-url", metavar="URL", help="of an endpoint without a name, up to /v1")
    parser.add_argument("--judge-model", metavar="NAME", default="", help="as the endpoint calls it")
    parser.add_argument(
        "--judge-key-env", metavar="VARIABLE", default="", help="the environment variable that holds the endpoint's key"
    )
    parser.add_argument("--judge-criteria", metavar="TEXT", default="", help="what makes an answer better")
    parser.add_argument(
        "--judge-max-tokens", type=int, default=16, metavar="N", help="longest reply; a judge that thinks needs more"
    )
    parser.add_argument(
        "--judge-prices", type=float, nargs=2, metavar=("READ", "WRITTEN"), help="of a million tokens, for the cost"
    )
    parser.add_argument("--judge-cost", action="store_true", help="only say what the endpoint would be asked at most")
    parser.add_argument(
        "--no-unrated", action="store_true", help="leave out the questions that show what nobody rated, such as sums"
    )
    parser.add_argument("--checkpoints", action="store_true", help="every checkpoint that the run has kept")
    parser.add_argument("--evaluation", help=argparse.SUPPRESS)  # the record that the page has begun


def compare(arguments: argparse.Namespace) -> None:
    """Answers of both sides; with a file of prompts, figures that are kept with the run."""
    from kto_workbench.runs.sides import EndpointSide, find_side, home_of, reference_of

    workspace = workspace_of(arguments)
    side = find_side(arguments.run, workspace)
    against = find_side(arguments.against, workspace) if arguments.against else reference_of(side)
    home = home_of(side, workspace)
    record = _begun_record(arguments, home)
    with _kept(record):
        if arguments.temperature is not None and not 0 <= arguments.temperature <= 5:
            raise ConfigError(f"Option `temperature` should be between 0 and 5, not {arguments.temperature}.")
        if arguments.max_new_tokens is not None and arguments.max_new_tokens < 1:
            raise ConfigError(f"Option `max_new_tokens` should be at least 1, not {arguments.max_new_tokens}.")
        if arguments.checkpoints and (side.run is None or side.name != side.run.id):
            raise ConfigError(f"Option `checkpoints` takes all of a run's: name the run alone, not {side.name}.")
        questions = _questions(arguments, side.run or against.run)
        if arguments.judge_cost:
            _say_cost(arguments, side, questions)
            return
        judge = _judge(arguments, workspace)
        if arguments.prompts and record is None:
            from kto_workbench.judging.records import new_record

            record = new_record(home, _about(arguments, side, against, len(questions)))
    with _kept(record):
        if record:
            record.claim()
        # On a GPU, one job at a time; a CPU shares well.
        with large_imports():
            from kto_workbench.engine.models import pick_device

        alone = contextlib.nullcontext()
        here = [one.config().device for one in (side, against) if not isinstance(one, EndpointSide)]
        if record and any(pick_device(device).type == "cuda" for device in here):
            alone = device_held(workspace, lambda: record.write(progress={"stage": "waiting"}))
        with alone:
            _compare_on(questions, judge, side, against, record, arguments)


def _compare_on(
    questions: list[Any], judge: Any, side: Any, against: Any, record: Any, arguments: argparse.Namespace
) -> None:
    """Ask, judge, keep and show; progress goes to the record and to a terminal."""
    from tqdm import tqdm

    with large_imports():
        from kto_workbench.answers.evaluation import evaluate, evaluate_checkpoints

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
            "probe": None if arguments.no_unrated else _probe(side),
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
        print(as_json({"run": side.name, "seed": arguments.seed, "seconds": seconds, **result, **kept}))
        return
    if judge is None:
        for answer in result["answers"]:
            prompt = answer["prompt"]
            prompt = prompt if isinstance(prompt, str) else "\n".join(map(told, prompt))
            print(f"\n{prompt}\n  reference  {_indent(answer['reference'])}\n  tuned      {_indent(answer['tuned'])}")
    from kto_workbench.judging.report import in_words

    print("\n" + in_words(result["evaluation"]))
    if record:
        print(f"\nKept in {record.path}.")


def _questions(arguments: argparse.Namespace, run: Run | None) -> list[Any]:
    from kto_workbench.judging.questions import find_questions

    if arguments.prompts:
        return find_questions(arguments.prompts, run, arguments.limit)
    if run is None:
        raise ConfigError("Only a run has prompts of its own: name a file of prompts with --prompts.")
    return [(prompt, ()) for prompt in watched_prompts(run)]


def _probe(side: Any) -> Any:
    """Questions with known answers for the side's model: the demo has its own."""
    run = getattr(side, "run", None)
    if (run.config().model if run else getattr(side, "model", None)) == DEMO_MODEL:
        from kto_workbench.demo.measure import demo_probe

        return demo_probe()
    from kto_workbench.judging.unrated import general_probe

    return general_probe()


def _judge(arguments: argparse.Namespace, workspace: str) -> Any:
    """The judge that the arguments name; None if there is none."""
    from kto_workbench.judging.endpoint import EndpointJudge
    from kto_workbench.judging.rules import parse_judge

    if not arguments.judge and not arguments.judge_url:
        return None
    kind, name = parse_judge(arguments.judge or "endpoint")
    if arguments.judge_url and (kind != "endpoint" or name):
        raise ConfigError(f"Option `judge-url` belongs to judge `endpoint`, not to `{arguments.judge}`.")
    with large_imports():
        from kto_workbench.engine.judges import endpoint_judge, find_judge
    from kto_workbench.runs.endpoints import Endpoint

    settings = {"criteria": arguments.judge_criteria, "max_tokens": arguments.judge_max_tokens}
    if arguments.judge_url:
        endpoint = Endpoint(arguments.judge_url, arguments.judge_model, arguments.judge_key_env)
        judge = endpoint_judge(endpoint, workspace, **settings)
    else:
        judge = find_judge(arguments.judge, workspace, **settings)
    if isinstance(judge, EndpointJudge):
        judge.reach()  # before hours of answers are made for it
    return judge


def _say_cost(arguments: argparse.Namespace, side: Any, questions: list[Any]) -> None:
    from kto_workbench.judging.endpoint import Prices, estimate_cost
    from kto_workbench.judging.steps import checkpoints_of

    cost = estimate_cost(
        [prompt for prompt, _ in questions],
        answer_tokens=arguments.max_new_tokens or side.config().sample_max_new_tokens,
        max_tokens=arguments.judge_max_tokens,
        criteria=arguments.judge_criteria,
        sides=len(checkpoints_of(side.run)) if arguments.checkpoints else 1,
        prices=Prices(*arguments.judge_prices) if arguments.judge_prices else None,
    )
    if arguments.json:
        print(as_json(cost))
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
        "against": against.name,
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


def _begun_record(arguments: argparse.Namespace, home: Any) -> Any:
    if not arguments.evaluation:
        return None
    from kto_workbench.judging.records import Record

    return Record(home, arguments.evaluation)


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
        if sample.get("prompt") and sample["prompt"] not in prompts:
            prompts.append(sample["prompt"])
    if not prompts:
        from kto_workbench.feedback import load_feedback

        config = run.config()
        rows = load_feedback(config.data, workspace=config.workspace, mapping=config.mapping).rows
        prompts = [rows[i].asked for i in range(min(4, len(rows)))]
    return prompts


def _indent(text: str) -> str:
    return text.replace("\n", "\n             ")
