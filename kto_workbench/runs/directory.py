"""A run's directory: the only truth about a training, and its only reader and writer.

runs/<id>/  config.yaml     the complete config: running it again gives the same run
            data.json       what the feedback was: rows, balance, file, checksum
            status.json     replaced atomically, see Status
            metrics.jsonl   one record a logged step, appended; NaN is null
            rewards.jsonl   the reward of each row at some forty steps
            samples.jsonl   answers of the reference and the tuned model on the watched prompts, while training
            suggestions.json  prompts on which the two models part most, with their log-ratios
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
import errno
import itertools
import json
import os
import re
import secrets
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from kto_workbench import files
from kto_workbench.config import MOST_BYTES, KTOConfig, config_to_yaml, parse_config
from kto_workbench.errors import ConfigError, RunError
from kto_workbench.runs import jsonlines, schemas
from kto_workbench.runs.children import identity, is_alive

RUN_ID = re.compile(r"\d{8}-\d{6}-")  # how a run's id begins
COMMANDS = ("stop", "save-now", "sample-now")
EXPORT_FORMATS = ("adapter", "merged", "gguf")
SUGGESTIONS = "suggestions.json"
WITH_IMAGES = "with_images"  # an empty file: the prompts have some
ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")
CHECKPOINT = re.compile(r"checkpoint-\d{1,18}")
ACTIVE = ("queued", "starting", "running", "stopping", "not answering")
BLOCK = 4096  # bytes that even the smallest file has on a disk
LOG_BYTES = 64 * 1024  # of its end
METRICS_AT_ONCE = 4 * 2**20  # bytes
LAST_RECORDS = 100  # in which the newest number of a metric is looked for
HEARTBEAT_SECONDS = 2.0
# A process that lives and has not written for so long is not answering: it is stopped, swapped out, or hangs.
STALE_AFTER_SECONDS = 30.0
# Python needs this long, at worst, from its start to the first line of status.
GRACE_SECONDS = 30.0


@dataclass(frozen=True)
class Status:
    """What a run is doing.

    `state` is one of queued, starting, running, stopping, finished, stopped, failed, and, when read, also `crashed`:
    the recorded process is gone though it never said that it ended, and `not answering`: it lives and is silent.
    Times are seconds since the epoch, but for `beat`: the heartbeat on a clock that nobody sets.
    """

    state: schemas.State = "queued"
    step: schemas.Count = 0
    stepped: schemas.Time | None = None
    total_steps: schemas.Count = 0
    epoch: schemas.Number = 0.0
    pid: schemas.Pid | None = None
    process_started: schemas.Time | None = None
    process_mark: str = ""
    heartbeat: schemas.Time = 0.0
    beat: schemas.Number | None = None
    created: schemas.Time = 0.0
    queued: schemas.Time = 0.0
    training_started: schemas.Time | None = None
    first_step: schemas.Count = 0
    steps_an_epoch: schemas.Count = 0
    reference_seconds: schemas.Time = 0.0  # of those since training started, spent on the reference
    ended: schemas.Time | None = None
    best_step: schemas.Count | None = None  # that the model is of, where it is not the last
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

        Steps done before a resume don't count, so the estimate is right after it too. The reference of a row is
        computed when it first comes up, so what it takes is counted for the steps of the first epoch alone.
        """
        done = self.step - self.first_step
        if self.state not in ("running", "stopping") or not self.training_started or done < 1:
            return None
        # Counted from the last step, not from the heartbeat: in a long step the pace must not seem to fall.
        stepped = self.stepped or self.heartbeat
        of_the_first_epoch = max(0, min(self.total_steps, self.steps_an_epoch) - self.step)
        pace = (stepped - self.training_started - self.reference_seconds) / done
        reference = self.reference_seconds / max(1, min(self.step, self.steps_an_epoch) - self.first_step)
        left = pace * (self.total_steps - self.step) + reference * of_the_first_epoch
        return max(0.0, left - (time.time() - stepped))


_STATUS = TypeAdapter(Status)


class Run:
    """One run's directory, open for reading by anyone and for writing by the process that trains it.

    Reading never raises, but for `config()`: what can't be read is left out, and `problems()` says why.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._writing = threading.Lock()
        self._last_status: dict[str, Any] = {}  # what this process wrote, should the file be damaged
        if not any(files.is_there(self.path / name) for name in ("config.yaml", "status.json")):
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
        """The complete config. Raises ConfigError if it can't be read, or is of a version that knows other options."""
        path = self.path / "config.yaml"
        found = files.kept.get(path, "config", lambda: _config_or_error(path))
        if isinstance(found, ConfigError):
            raise found.with_traceback(None)
        return found

    def data(self) -> dict[str, Any]:
        """What the feedback was when the run was made: file, rows, n_desirable, n_undesirable, sha256."""
        return dict(self._read("data.json", schemas.DATA)[0] or {})

    def reference(self) -> dict[str, Any]:
        """How the reference's log-probabilities were come by: `reused`, `computed` (pairs) and `seconds`."""
        return dict(self._read("reference.json", schemas.REFERENCE)[0] or {})

    def about(self) -> dict[str, str]:
        """The `name` and the `note` that people gave the run; empty texts if none."""
        return {"name": "", "note": "", **(self._read("about.json", schemas.ABOUT)[0] or {})}

    def status(self) -> Status:
        """What the run is doing, checked against the process table."""
        status, problem = self._read("status.json", _STATUS)
        if status is None:
            return Status(state="crashed", error=f"Its status.json {problem}.")
        if not status.active:
            return status
        silent = _silence(status)
        if status.pid is None and silent < GRACE_SECONDS:
            return status
        if is_alive(status.pid, status.process_started, status.process_mark):
            if silent < STALE_AFTER_SECONDS:
                if (waits := self.unheeded("stop")) < STALE_AFTER_SECONDS:
                    return status
                told = f"It was asked to stop {waits:.0f} s ago, and has not come to its next step; Stop ends it now."
                return replace(status, message=told)
            told = f"Process {status.pid} has not answered for {silent:.0f} s; Stop ends it, and gives the device back."
            return replace(status, state="not answering", message=told)
        dead = "Its process ended without a word; the end of its log says more."
        return replace(status, state="crashed", error=status.error or dead)

    def problems(self) -> list[str]:
        """A sentence for each file of the run that can't be read; those that come with time may be missing."""
        found = []
        try:
            self.config()
        except ConfigError as error:
            found.append(str(error))
        wanted = {"status.json": _STATUS, "data.json": schemas.DATA}
        later = {"reference.json": schemas.REFERENCE, "about.json": schemas.ABOUT}
        told = {name: self._read(name, schema)[1] for name, schema in (wanted | later).items()}
        for name in ("metrics.jsonl", "samples.jsonl", "rewards.jsonl"):
            told[name] = files.read_bytes(self.path / name, at_most=0)[1]
        expected = [(name, problem) for name, problem in told.items() if problem != files.MISSING or name in wanted]
        return found + [f"Its {name} {problem}." for name, problem in expected if problem]

    def _read(self, name: str, schema: TypeAdapter[Any]) -> tuple[Any, str]:
        """What a file holds, or None, and why it can't be read; a file that stays as it is is read once."""
        path = self.path / name
        return files.kept.get(path, id(schema), lambda: files.read_json(path, schema))

    def metrics(self) -> list[dict[str, Any]]:
        """Every record, in order: `step`, `loss`, `kl`, `rewards/chosen` and the rest, or the same behind `eval_`."""
        return jsonlines.read(self.path / "metrics.jsonl", 0, schemas.take_metrics)[0]

    def metrics_since(self, offset: int) -> tuple[list[dict[str, Any]], int]:
        """Some records from a byte offset on, and the offset to go on from, the same when there are no more."""
        lines, offset = jsonlines.lines_from(self.path / "metrics.jsonl", offset, METRICS_AT_ONCE)
        return schemas.take_many_metrics(lines), offset

    def last_metrics(self) -> dict[str, Any]:
        """The last record of a training step, {} if there is none."""
        path = self.path / "metrics.jsonl"
        return next((one for one in jsonlines.backwards(path, schemas.take_metrics) if "loss" in one), {})

    def last_values(self, *names: str) -> dict[str, float | None]:
        """The newest number of each of these, None where the last records have none; a file that stays is read once."""
        path = self.path / "metrics.jsonl"
        return files.kept.get(path, names, lambda: _last_values(path, names))

    def samples(self) -> list[dict[str, Any]]:
        """Answers while training: `step`, `prompt`, `reference`, `tuned`."""
        return jsonlines.read(self.path / "samples.jsonl", 0, jsonlines.of_schema(schemas.SAMPLE))[0]

    def rewards(self) -> list[dict[str, Any]]:
        """Rewards row by row at some forty steps: `step`, `z0` in nats, `rewards` with β, `labels` (True is up)."""
        return jsonlines.read(self.path / "rewards.jsonl", 0, jsonlines.of_schema(schemas.REWARDS))[0]

    def log(self, lines: int = 40) -> str:
        """The last lines of what the training process printed."""
        text = files.read_end(self.log_path, LOG_BYTES)
        # A progress bar overwrites its line with carriage returns: its last state is the one to show.
        ended = text.replace("\r\n", "\n").removesuffix("\n").split("\n")
        return "\n".join(line.rstrip("\r").rsplit("\r", 1)[-1] for line in ended[-lines:])

    def checkpoint_folders(self) -> list[Path]:
        """The complete checkpoints, in the order of their steps."""
        found = [path for path in files.listed(self.path / "checkpoints") if CHECKPOINT.fullmatch(path.name)]
        # The state is the last file to be written; a kill may leave it away, or torn.
        return sorted(filter(_is_complete, found), key=lambda path: int(path.name[11:]))

    def latest_checkpoint(self) -> Path | None:
        """The newest complete checkpoint, None if there is none."""
        return next(reversed(self.checkpoint_folders()), None)

    def trained(self) -> bool:
        """Whether there is a final adapter, or a final model of a full fine-tuning."""
        return files.is_plain(self.adapter / "adapter_model.safetensors") or files.is_plain(self.model / "config.json")

    def newest_adapter(self) -> Path:
        """The folder of the final adapter, else of the latest checkpoint's. Raises RunError if there is none."""
        for path in (self.adapter, self.latest_checkpoint()):
            if path is not None and files.is_plain(path / "adapter_model.safetensors"):
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
        self.leave(command)

    def leave(self, command: str) -> None:
        """Leave a command for the training process, whatever the run is doing. Raises RunError if it can't be left."""
        path = self.path / "commands" / command
        try:
            path.parent.mkdir(exist_ok=True)
            with files.open_to_append(path) as file:
                if not file.tell():
                    file.write(repr(time.monotonic()).encode())
        except OSError as error:
            raise RunError(f"Can't write to {path.parent}: {error.strerror}.") from None

    def was_asked(self, command: str, *, forget: bool = False) -> bool:
        """Whether a command waits; `forget` takes it away."""
        path = self.path / "commands" / command
        asked = files.is_there(path)
        if asked and forget:
            with contextlib.suppress(OSError):  # a folder of that name asks for ever
                path.unlink()
        return asked

    def unheeded(self, command: str) -> float:
        """Seconds for which a command has been waiting, 0 if none is."""
        since, _ = files.read_text(self.path / "commands" / command, at_most=40)
        try:
            return max(0.0, time.monotonic() - float(since)) if since else 0.0
        except ValueError:  # something else goes by this name
            return 0.0

    # writing, by the training process

    def set_status(self, **changes: Any) -> None:
        """Replace some fields of status.json and renew the heartbeat, all at once."""
        with self._writing:  # the heartbeat has its own thread, and must not write an old state over a new one
            path = self.path / "status.json"
            readable = files.read_json(path, _STATUS)[0] is not None
            before = files.read_json(path, schemas.ANYTHING)[0] if readable else self._last_status
            now = {**(before or {}), **changes, "heartbeat": time.time(), "beat": time.monotonic()}
            if now.get("step") != before.get("step"):
                now["stepped"] = now["heartbeat"]
            self._last_status = now
            text = json.dumps(jsonlines.without_nan(now), indent=1) + "\n"
            try:
                jsonlines.write_atomically(path, text)
            except OSError as error:
                if not (error.errno in (errno.ENOSPC, errno.EDQUOT) and self._overwrite_status(text)):
                    raise RunError(f"Can't write to {self.path}: {error.strerror}.") from None

    def _overwrite_status(self, text: str) -> bool:
        """Write over the status in place, which takes no room on a full disk; whether that went well."""
        with contextlib.suppress(OSError), (self.path / "status.json").open("r+b", buffering=0) as file:
            data = text.encode("utf-8", "replace")
            if len(data) <= max(file.seek(0, 2), BLOCK):
                file.seek(0)
                whole = file.write(data) == len(data)
                file.truncate()
                return whole
        return False

    def claim(self) -> None:
        """Write this process down as the one that works on the run. Raises RunError if another one does."""
        status = self.status()
        me = os.getpid()
        # A child that wants several processes has become their launcher, and is the parent of the one that claims.
        if status.active and status.pid not in (None, me, os.getppid()):
            raise RunError(f"Run {self.id} is {status.state} already, in process {status.pid}.")
        self.set_status(state="queued", **identity(me), ended=None, error="", message="")

    def record(self, metrics: dict[str, Any]) -> None:
        """Append one logged step."""
        jsonlines.append(self.path / "metrics.jsonl", metrics)

    def record_rewards(self, rewards: dict[str, Any]) -> None:
        """Append the rewards of a logged step's rows."""
        jsonlines.append(self.path / "rewards.jsonl", rewards)

    def record_sample(self, sample: dict[str, Any]) -> None:
        """Append one watched prompt's answers."""
        jsonlines.append(self.path / "samples.jsonl", sample)

    def suggest(self, prompts: list[dict[str, Any]]) -> None:
        """Keep prompts that show what training changed: {"prompt", "log_ratio"}, the most telling first."""
        jsonlines.write_atomically(self.path / SUGGESTIONS, json.dumps(prompts, ensure_ascii=False) + "\n")

    def note_images(self) -> None:
        """Keep that the run is trained with images, for which its model is loaded whole."""
        (self.path / WITH_IMAGES).touch()

    def trained_with_images(self) -> bool:
        """Whether the run's prompts have images."""
        return (self.path / WITH_IMAGES).exists()

    def rewind(self, step: int) -> None:
        """Forget the records after a step: a resumed run writes them again."""
        for name in ("metrics.jsonl", "rewards.jsonl", "samples.jsonl"):
            if files.is_there(self.path / name):
                jsonlines.keep(self.path / name, lambda record: _step_of(record) <= step)

    def forget_samples(self, step: int) -> None:
        """Forget the answers of one step, which are about to be given again."""
        if any(sample["step"] == step for sample in self.samples()):
            jsonlines.keep(self.path / "samples.jsonl", lambda record: _step_of(record) != step)


def new_run(config: KTOConfig, data: dict[str, Any], start_adapter: Path | None = None) -> Run:
    """Make the directory of a new run, complete and queued, with a copy of the adapter that it goes on from."""
    while True:  # of a thousand runs of one second, some would share a name
        path = runs_folder(config.workspace) / f"{datetime.now():%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
        if not files.is_there(path):
            break
    beside = path.with_name(f".{path.name}")  # it becomes a run all at once
    now = time.time()
    status = asdict(Status(created=now, queued=now, heartbeat=now, beat=time.monotonic()))
    try:
        (beside / "commands").mkdir(parents=True)
        jsonlines.write_atomically(beside / "data.json", json.dumps(data, indent=1) + "\n")
        jsonlines.write_atomically(beside / "status.json", json.dumps(status, indent=1) + "\n")
        if start_adapter is not None:
            (beside / "start").mkdir()
            for name in ADAPTER_FILES:
                shutil.copy2(start_adapter / name, beside / "start" / name)
        jsonlines.write_atomically(beside / "config.yaml", config_to_yaml(config))
        beside.rename(path)
    except OSError as error:
        shutil.rmtree(beside, ignore_errors=True)
        raise RunError(f"Can't make a run in {path.parent}: {error.strerror}.") from None
    return Run(path)


def runs_folder(workspace: str | Path) -> Path:
    """Where a workspace keeps its runs."""
    return Path(workspace) / "runs"


def list_runs(workspace: str | Path = "workspace") -> list[Run]:
    """Every run of a workspace, the newest first."""
    folder = runs_folder(workspace)
    return list(files.kept.get(folder, "runs", lambda: _runs_in(folder)))


def _runs_in(folder: Path) -> list[Run]:
    found = []
    for path in files.listed(folder):
        with contextlib.suppress(OSError, RunError):  # deleted meanwhile, or no run
            run = Run(path)
            made = next(file for name in ("config.yaml", "status.json") if files.is_there(file := path / name))
            # An id tells the second; of two runs of one second, the order of writing tells.
            found.append((path.name.rsplit("-", 1)[0], made.lstat().st_mtime_ns, path.name, run))
    return [run for *_, run in sorted(found, key=lambda item: item[:3], reverse=True)]


def find_run(name: str | Path, workspace: str | Path = "workspace") -> Run:
    """Open a run by its path, its id, its name, an unambiguous part of either, or `latest`. Raises RunError."""
    with contextlib.suppress(RunError):
        if str(name):
            return Run(name)
    runs = list_runs(workspace)
    wanted = str(name)
    called = {run.id: run.about()["name"].casefold() for run in runs} if wanted else {}
    # From the surest on: an id before a name, the whole of it before a part.
    ways: list[Callable[[Run], bool]] = [
        lambda run: run.id == wanted,
        lambda run: called[run.id] == wanted.casefold(),
        lambda run: wanted in run.id,
        lambda run: wanted.casefold() in called[run.id],
    ]
    matches = runs[:1] if name == "latest" else []
    for way in ways if wanted and not matches else ():
        matches = matches or [run for run in runs if way(run)]
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise RunError(
            f"{len(matches)} runs in {workspace} go by {str(name)!r}: {', '.join(run.id for run in matches[:4])}."
        )
    raise RunError(f"There is no run {str(name)!r} in {runs_folder(workspace)}; `kto runs` lists those that exist.")


def _config_or_error(path: Path) -> KTOConfig | ConfigError:
    text, problem = files.read_text(path, at_most=MOST_BYTES)
    if problem:
        return ConfigError(f"Can't read the config file {path}: it {problem}.")
    try:
        return parse_config(text, path)
    except ConfigError as error:
        return error


def _last_values(path: Path, names: tuple[str, ...]) -> dict[str, float | None]:
    found: dict[str, float | None] = {}
    for record in itertools.islice(jsonlines.backwards(path, schemas.take_metrics), LAST_RECORDS):
        found = {name: value for name in names if (value := record.get(name)) is not None} | found
        if len(found) == len(names):
            break
    return {name: found.get(name) for name in names}


def _step_of(record: dict[str, Any]) -> float:
    step = record.get("step")
    return step if isinstance(step, int | float) else float("inf")


def _is_complete(checkpoint: Path) -> bool:
    state, _ = files.read_json(checkpoint / "trainer_state.json", schemas.ANYTHING)
    return bool(state)


def _silence(status: Status) -> float:
    """Seconds since the last heartbeat, by the clock that nobody sets if it was noted on that."""
    if status.beat is None:
        return time.time() - status.heartbeat
    silent = time.monotonic() - status.beat
    return silent if silent >= 0 else float("inf")  # it is from before the machine was started
