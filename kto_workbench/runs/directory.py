"""A run's directory: the only truth about a training, and its only reader and writer.

runs/<id>/  config.yaml     the complete config: running it again gives the same run
            data.json       what the feedback was: rows, balance, file, checksum
            status.json     replaced atomically, see Status
            metrics.jsonl   one record a logged step, appended; NaN is null
            rewards.jsonl   the reward of each row at some forty steps
            samples.jsonl   answers of the reference and the tuned model on the watched prompts, while training
            evaluations/    what judges said of its answers (kto_workbench/judging/records.py)
            votes.jsonl     blind votes on its answers (kto_workbench/judging/votes.py)
            log.txt         what the training process printed
            commands/       files that ask: stop, save-now, sample-now
            checkpoints/    to resume from
            start/          a copy of the adapter that it went on from, if any
            adapter/        the final adapter (PEFT)
            model/          instead of it, the whole model of a full fine-tuning

run = Run("workspace/runs/20260101-120000-ab12")
run.status().state, run.metrics()[-1]["rewards/margins"]
"""

import contextlib
import json
import os
import secrets
import shutil
import threading
import time
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil

from kto_workbench.config import KTOConfig, config_to_yaml, load_config
from kto_workbench.errors import RunError
from kto_workbench.runs import jsonlines

COMMANDS = ("stop", "save-now", "sample-now")
EXPORT_FORMATS = ("adapter", "merged", "gguf")
ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")
ACTIVE = ("queued", "starting", "running", "stopping")
HEARTBEAT_SECONDS = 2.0
# A process that has not written for so long is taken for dead even if its PID lives on: swapped out, or hung.
STALE_AFTER_SECONDS = 60.0
# Python needs this long, at worst, from its start to the first line of status.
GRACE_SECONDS = 30.0
# The kernel counts a start from a boot time that it knows to the second, and that a clock's correction may move by one.
SAME_START_SECONDS = 2.0


@dataclass(frozen=True)
class Status:
    """What a run is doing.

    `state` is one of queued, starting, running, stopping, finished, stopped, failed, and, when read, also `crashed`:
    the recorded process is gone (or silent) though it never said that it ended. Times are seconds since the epoch.
    """

    state: str = "queued"
    step: int = 0
    stepped: float | None = None
    total_steps: int = 0
    epoch: float = 0.0
    pid: int | None = None
    process_started: float | None = None
    heartbeat: float = 0.0
    created: float = 0.0
    queued: float = 0.0
    training_started: float | None = None
    first_step: int = 0
    ended: float | None = None
    message: str = ""
    error: str = ""

    @property
    def active(self) -> bool:
        """Whether a living process works on the run or waits for its turn."""
        return self.state in ACTIVE

    @property
    def resumable(self) -> bool:
        """Whether `kto resume` makes sense."""
        return self.state in ("crashed", "stopped", "failed")

    @property
    def seconds_left(self) -> float | None:
        """Time to the last step at the pace since this process began to train; None when that is not known yet.

        Steps done before a resume don't count, so the estimate is right after it too.
        """
        done = self.step - self.first_step
        if self.state not in ("running", "stopping") or not self.training_started or done < 1:
            return None
        # Counted from the last step, not from the heartbeat: in a long step the pace must not seem to fall.
        stepped = self.stepped or self.heartbeat
        pace = (stepped - self.training_started) / done
        return max(0.0, pace * (self.total_steps - self.step) - (time.time() - stepped))


class Run:
    """One run's directory, open for reading by anyone and for writing by the process that trains it."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._writing = threading.Lock()
        if not (self.path / "config.yaml").is_file():
            raise RunError(f"There is no run in {self.path}; `kto runs` lists those that exist.")

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"

    @property
    def id(self) -> str:
        """The directory's name."""
        return self.path.name

    @property
    def adapter(self) -> Path:
        """The folder of the final adapter, which exists once the run has ended with one."""
        return self.path / "adapter"

    @property
    def model(self) -> Path:
        """The folder of the final model of a full fine-tuning."""
        return self.path / "model"

    @property
    def start_adapter(self) -> Path:
        """The folder with a copy of the adapter that the training went on from, if it went on from one."""
        return self.path / "start"

    @property
    def log_path(self) -> Path:
        """The file that the training process prints to."""
        return self.path / "log.txt"

    # reading

    def config(self) -> KTOConfig:
        """The complete config."""
        return load_config(self.path / "config.yaml")

    def data(self) -> dict[str, Any]:
        """What the feedback was when the run was made: file, rows, n_desirable, n_undesirable, sha256."""
        return _read_json(self.path / "data.json")

    def reference(self) -> dict[str, Any]:
        """How the reference's log-probabilities were come by: `reused`, `computed` (pairs) and `seconds`."""
        return _read_json(self.path / "reference.json")

    def status(self) -> Status:
        """What the run is doing, checked against the process table."""
        known = {field.name for field in fields(Status)}
        status = Status(**{key: value for key, value in _read_json(self.path / "status.json").items() if key in known})
        if not status.active or _is_working(status):
            return status
        dead = "Its process ended without a word; the end of its log says more."
        return Status(**{**asdict(status), "state": "crashed", "error": status.error or dead})

    def metrics(self) -> list[dict[str, Any]]:
        """Every record, in order: `step`, `loss`, `kl`, `rewards/chosen` and the rest, or the same behind `eval_`."""
        return self.metrics_since(0)[0]

    def metrics_since(self, offset: int) -> tuple[list[dict[str, Any]], int]:
        """The records from a byte offset on, and the offset to go on from: a page's tick costs what is new."""
        return jsonlines.read(self.path / "metrics.jsonl", offset)

    def samples(self) -> list[dict[str, Any]]:
        """Answers while training: `step`, `prompt`, `reference`, `tuned`."""
        return jsonlines.read(self.path / "samples.jsonl")[0]

    def rewards(self) -> list[dict[str, Any]]:
        """Rewards row by row at some forty steps: `step`, `z0` in nats, `rewards` with β, `labels` (True is up)."""
        return jsonlines.read(self.path / "rewards.jsonl")[0]

    def log(self, lines: int = 40) -> str:
        """The last lines of what the training process printed."""
        try:
            with self.log_path.open("rb") as file:
                file.seek(max(0, self.log_path.stat().st_size - 64 * 1024))
                text = file.read().decode("utf-8", errors="replace")
        except FileNotFoundError:
            return ""
        # A progress bar overwrites its line with carriage returns: its last state is the one to show.
        ended = text.replace("\r\n", "\n").removesuffix("\n").split("\n")
        return "\n".join(line.rstrip("\r").rsplit("\r", 1)[-1] for line in ended[-lines:])

    def checkpoint_folders(self) -> list[Path]:
        """The complete checkpoints, in the order of their steps."""
        found = [path for path in (self.path / "checkpoints").glob("checkpoint-*") if path.name[11:].isdigit()]
        # The state is the last file to be written; a kill may leave it away, or torn.
        return sorted(filter(_is_complete, found), key=lambda path: int(path.name[11:]))

    def latest_checkpoint(self) -> Path | None:
        """The newest complete checkpoint, None if there is none."""
        return next(reversed(self.checkpoint_folders()), None)

    def trained(self) -> bool:
        """Whether there is a final adapter, or a final model of a full fine-tuning."""
        return (self.adapter / "adapter_model.safetensors").is_file() or (self.model / "config.json").is_file()

    def newest_adapter(self) -> Path:
        """The folder of the final adapter, else of the latest checkpoint's. Raises RunError if there is none."""
        for path in (self.adapter, self.latest_checkpoint()):
            if path is not None and (path / "adapter_model.safetensors").is_file():
                return path
        if self.config().tuning == "full":
            raise RunError(f"Run {self.id} tuned the whole model, so it has no adapter; use its model in {self.model}.")
        raise RunError(f"Run {self.id} has no adapter yet; it is {self.status().state}.")

    # asking

    def ask(self, command: str) -> None:
        """Ask the training process for something: stop, save-now or sample-now. It answers at its next step."""
        if command not in COMMANDS:
            raise RunError(f"A run can be asked to {', '.join(COMMANDS)}; not to {command!r}.")
        state = self.status().state
        if state not in ACTIVE:
            raise RunError(f"Run {self.id} is {state}, so it can't be asked to {command.replace('-', ' ')}.")
        (self.path / "commands" / command).touch()

    def was_asked(self, command: str, *, forget: bool = False) -> bool:
        """Whether a command waits; `forget` takes it away."""
        path = self.path / "commands" / command
        asked = path.exists()
        if asked and forget:
            path.unlink(missing_ok=True)
        return asked

    # writing, by the training process

    def set_status(self, **changes: Any) -> None:
        """Replace some fields of status.json and renew the heartbeat, all at once."""
        with self._writing:  # the heartbeat has its own thread, and must not write an old state over a new one
            before = _read_json(self.path / "status.json")
            now = {**before, **changes, "heartbeat": time.time()}
            if now.get("step") != before.get("step"):
                now["stepped"] = now["heartbeat"]
            text = json.dumps(jsonlines.without_nan(now), indent=1) + "\n"
            jsonlines.write_atomically(self.path / "status.json", text)

    def claim(self) -> None:
        """Write this process down as the one that works on the run. Raises RunError if another one does."""
        status = self.status()
        me = os.getpid()
        if status.active and status.pid not in (None, me):
            raise RunError(f"Run {self.id} is {status.state} already, in process {status.pid}.")
        self.set_status(
            state="queued", pid=me, process_started=psutil.Process(me).create_time(), ended=None, error="", message=""
        )

    def record(self, metrics: dict[str, Any]) -> None:
        """Append one logged step."""
        jsonlines.append(self.path / "metrics.jsonl", metrics)

    def record_rewards(self, rewards: dict[str, Any]) -> None:
        """Append the rewards of a logged step's rows."""
        jsonlines.append(self.path / "rewards.jsonl", rewards)

    def record_sample(self, sample: dict[str, Any]) -> None:
        """Append one watched prompt's answers."""
        jsonlines.append(self.path / "samples.jsonl", sample)

    def rewind(self, step: int) -> None:
        """Forget the records after a step: a resumed run writes them again."""
        for name in ("metrics.jsonl", "rewards.jsonl", "samples.jsonl"):
            if (self.path / name).exists():
                jsonlines.keep(self.path / name, lambda record: record.get("step", 0) <= step)


def new_run(config: KTOConfig, data: dict[str, Any], start_adapter: Path | None = None) -> Run:
    """Make the directory of a new run, complete and queued, with a copy of the adapter that it goes on from."""
    path = runs_folder(config.workspace) / f"{datetime.now():%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
    now = time.time()
    status = asdict(Status(created=now, queued=now, heartbeat=now))
    try:
        (path / "commands").mkdir(parents=True)
        (path / "data.json").write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
        jsonlines.write_atomically(path / "status.json", json.dumps(status, indent=1) + "\n")
        if start_adapter is not None:
            (path / "start").mkdir()
            for name in ADAPTER_FILES:
                shutil.copy2(start_adapter / name, path / "start" / name)
        # last, since a folder is a run from here on
        jsonlines.write_atomically(path / "config.yaml", config_to_yaml(config))
    except OSError as error:
        raise RunError(f"Can't make a run in {path.parent}: {error.strerror}.") from None
    return Run(path)


def runs_folder(workspace: str | Path) -> Path:
    """Where a workspace keeps its runs."""
    return Path(workspace) / "runs"


def list_runs(workspace: str | Path = "workspace") -> list[Run]:
    """Every run of a workspace, the newest first."""
    found = []
    for path in runs_folder(workspace).glob("*/config.yaml"):
        with contextlib.suppress(OSError, RunError):  # deleted meanwhile
            # An id tells the second; of two runs of one second, the order of writing tells.
            found.append(
                (path.parent.name.rsplit("-", 1)[0], path.stat().st_mtime_ns, path.parent.name, Run(path.parent))
            )
    return [run for *_, run in sorted(found, key=lambda item: item[:3], reverse=True)]


def find_run(name: str | Path, workspace: str | Path = "workspace") -> Run:
    """Open a run by its path, its id, an unambiguous part of its id, or `latest`. Raises RunError."""
    if (Path(name) / "config.yaml").is_file():
        return Run(name)
    runs = list_runs(workspace)
    matches = runs[:1] if name == "latest" else [run for run in runs if str(name) and str(name) in run.id]
    exact = [run for run in matches if run.id == str(name)]
    if len(exact or matches) == 1:
        return (exact or matches)[0]
    if matches:
        raise RunError(
            f"{len(matches)} runs in {workspace} go by {str(name)!r}: {', '.join(run.id for run in matches[:4])}."
        )
    raise RunError(f"There is no run {str(name)!r} in {runs_folder(workspace)}; `kto runs` lists those that exist.")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _is_complete(checkpoint: Path) -> bool:
    return bool(_read_json(checkpoint / "trainer_state.json"))


def _is_working(status: Status) -> bool:
    silent = time.time() - status.heartbeat
    if status.pid is None:
        return silent < GRACE_SECONDS
    try:
        process = psutil.Process(status.pid)
        same = abs(process.create_time() - (status.process_started or 0)) < SAME_START_SECONDS
        return same and process.status() != psutil.STATUS_ZOMBIE and silent < STALE_AFTER_SECONDS
    except psutil.Error:
        return False
