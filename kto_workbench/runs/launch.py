"""From a config to a run, from a run to a child process; follow it, resume it.

The child is a session of its own that writes to a file, so it outlives the page, the shell and the server that
started it, and nothing that it prints can block it.
"""

import contextlib
import hashlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from kto_workbench import files
from kto_workbench.config import DEMO_MODEL, REPORTERS, KTOConfig
from kto_workbench.errors import ConfigError, RunError
from kto_workbench.feedback import Feedback, load_feedback, suggest_weights
from kto_workbench.feedback.joins import BETWEEN, split_names
from kto_workbench.feedback.named import NAMES
from kto_workbench.feedback.pairs import require_pairs
from kto_workbench.feedback.rendering import check_model_folder
from kto_workbench.objectives import OBJECTIVES, unused_by
from kto_workbench.runs import schemas
from kto_workbench.runs.children import end, identity, reap, start_apart
from kto_workbench.runs.directory import COMMANDS, STALE_AFTER_SECONDS, Run, Status, find_run, new_run
from kto_workbench.runs.naming import suggest_name
from kto_workbench.runs.shelf import describe_run

START_SECONDS = 10.0  # for which another process may be starting the same run
END_SECONDS = 3.0  # between asking a run that does not answer, and ending it
ENDED = "Its process did not answer and was ended; it resumes from its latest checkpoint."


def create_run(config: KTOConfig, *, name: str = "", sweep: tuple[str, int] | None = None) -> Run:
    """Check the feedback, settle the weights, and write a new run's directory. Nothing is started.

    Args:
        config: of the run.
        name: what to call it; empty: by what differs from the run before it.
        sweep: the sweep that it is a trial of, and the trial's number.

    Raises DataError if the feedback can't be used, ModelError if the model is a folder that does not exist.
    """
    feedback = load_feedback(config.data, workspace=config.workspace, mapping=config.mapping)
    check_startable(config, feedback)
    balance = feedback.balance()
    weights = suggest_weights(balance.n_desirable, balance.n_undesirable)
    desirable = weights[0] if config.desirable_weight is None else config.desirable_weight
    undesirable = weights[1] if config.undesirable_weight is None else config.undesirable_weight
    if "desirable_weight" in unused_by(config.objective):  # no number that nothing would come of
        desirable = undesirable = None
    config = anchored(config)
    data = config.data
    start, of_start = (
        start_adapter(config.start_adapter, config.model, config.workspace) if config.start_adapter else (None, {})
    )
    settled = config.replace(**of_start, desirable_weight=desirable, undesirable_weight=undesirable)
    name = name or suggest_name(settled)
    run = new_run(
        settled,
        {
            "data": data,
            "rows": balance.n_desirable + balance.n_undesirable,
            "n_desirable": balance.n_desirable,
            "n_undesirable": balance.n_undesirable,
            **({"pairs": feedback.n_pairs} if OBJECTIVES[config.objective].paired else {}),
            "problems": len(feedback.problems),
            "sha256": _sha256(Path(data)) if Path(data).is_file() else None,
            **({"sweep": sweep[0], "trial": sweep[1]} if sweep else {}),
        },
        start,
    )
    describe_run(run, name, "")
    return run


def check_startable(config: KTOConfig, feedback: Feedback) -> None:
    """Raise ConfigError, ModelError or DataError for what no run could be made of."""
    unknown = next((name for name in config.reporters if name not in REPORTERS), None)
    if unknown is not None:
        raise ConfigError(f"Option `report_to` should name any of {', '.join(REPORTERS)}, not {unknown!r}.")
    check_model_folder(config.model)
    if OBJECTIVES[config.objective].paired:
        require_pairs(feedback.n_pairs, config.data, config.objective)


def anchored(config: KTOConfig) -> KTOConfig:
    """The config as it is understood from any folder: with whole paths; names stay names."""
    return config.replace(
        data=config.data if config.data in NAMES else _absolute(config.data),
        model=_absolute(config.model) if _is_folder(config.model) else config.model,
        workspace=str(Path(config.workspace).expanduser().resolve()),
    )


def start_adapter(name: str, model: str, workspace: str) -> tuple[Path, dict[str, Any]]:
    """The folder of the adapter that `start_adapter` names, and the options that follow from it.

    Args:
        name: a folder with an adapter, or a run as for `find_run`.
        model: of the new run; another one's adapter is refused where that can be told.
        workspace: where runs are looked for.

    Raises:
        ConfigError: there is no such adapter, it is no LoRA, or it belongs to another model.
    """
    folder = Path(name).expanduser()
    if not (folder / "adapter_config.json").is_file():
        run = find_run(name, workspace)
        folder, trained_on = run.newest_adapter(), run.config().model
        if trained_on != model:
            raise ConfigError(
                f"Run {run.id} was trained on model {trained_on!r}, so its adapter is no start for {model!r}."
            )
    lora, problem = files.read_json(folder / "adapter_config.json", schemas.LORA)
    if lora is None:
        raise ConfigError(f"The adapter in {folder} can't be read: its adapter_config.json is damaged: it {problem}.")
    if lora["peft_type"] != "LORA" or not files.is_plain(folder / "adapter_model.safetensors"):
        raise ConfigError(f"There is no LoRA adapter in {folder}; it needs an adapter_model.safetensors.")
    targets = lora.get("target_modules") or "all-linear"
    return folder.resolve(), {
        "start_adapter": str(folder.resolve()),
        "lora_r": lora.get("r", 8),  # what PEFT takes where nothing is said
        "lora_alpha": lora.get("lora_alpha", 8),
        "lora_targets": targets if isinstance(targets, str) else ",".join(sorted(targets)),
    }


def start(run: Run) -> int:
    """Start the training of a run in a child process and return its PID at once."""
    with alone(run.path, f"Run {run.id}"):
        return _start(run)


def _start(run: Run) -> int:
    if run.status().active and run.status().pid is not None:
        raise RunError(f"Run {run.id} is {run.status().state} already.")
    with files.open_to_append(run.log_path) as log:
        child = start_apart("kto_workbench.engine.child", [run.path.resolve()], log)
    # From here on the run is taken: a second start is refused, and a child that dies as it starts is seen at once.
    run.set_status(**identity(child.pid), message="Starting the training process.")
    return child.pid


@contextlib.contextmanager
def alone(path: Path, what: str) -> Iterator[None]:
    """Start what is in a directory while nobody else does: two pages, or two servers, may be asked to at once."""
    commands = path / "commands"
    try:
        commands.mkdir(exist_ok=True)
        with FileLock(commands / ".starting", timeout=START_SECONDS):
            yield
    except Timeout:
        raise RunError(f"{what} is being started by another process.") from None
    except OSError as error:
        raise RunError(f"{what} can't be started in {path}: {error.strerror}.") from None


def stop(run: Run, patience: float = END_SECONDS) -> bool:
    """Ask a run to stop, which it does at its next step. Returns whether it was ended instead.

    That is for one that does not answer, or that was asked before and has not come to its next step since, be it that
    its libraries wait for something that never comes. Raises RunError if nothing works on the run.
    """
    unheeded = run.unheeded("stop") > STALE_AFTER_SECONDS
    run.ask("stop")
    end_at = time.monotonic() + patience
    while (status := run.status()).state == "not answering" or unheeded and status.active:
        if time.monotonic() < end_at:
            time.sleep(0.1)
            continue
        end(status.pid, status.process_started, status.process_mark, patience=0.5)
        run.was_asked("stop", forget=True)
        run.set_status(state="stopped", ended=time.time(), message=ENDED)
        return True
    return False


def resume(run: Run) -> int:
    """Go on with a stopped, failed or crashed run from its latest checkpoint, in a child process."""
    with alone(run.path, f"Run {run.id}"):
        requeue(run)
        return _start(run)


def requeue(run: Run) -> None:
    """Let a stopped, failed or crashed run wait for its turn again. Raises RunError for any other."""
    status = run.status()
    if not status.resumable:
        raise RunError(f"Run {run.id} is {status.state}; only a stopped, failed or crashed run can be resumed.")
    for command in COMMANDS:
        run.was_asked(command, forget=True)
    none = {"pid": None, "process_started": None, "process_mark": ""}
    run.set_status(state="queued", **none, queued=time.time(), ended=None, error="", message="")


def follow(run: Run, every: float = 0.2) -> Iterator[Status]:
    """Yield the run's status until it has ended; the last one says how."""
    while True:
        reap()
        status = run.status()
        yield status
        if not status.active:
            return
        time.sleep(every)


def _is_folder(model: str) -> bool:
    return model != DEMO_MODEL and Path(model).expanduser().is_dir()


def _absolute(name: str) -> str:
    paths = [Path(one).expanduser() for one in split_names(name)]
    return BETWEEN.join(str(path.resolve()) for path in paths) if all(path.exists() for path in paths) else name


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
