"""Answers of any sides, without torch: from a child process that keeps models warm, and from endpoints.

    answerer = Answerer("workspace")
    for event in answerer.stream(run.path, ["Hello!"], seed=0, temperature=0.7, max_new_tokens=96):
        print(event["side"], event["text"], event["done"])
    answerer.close()

The child is started when it is first needed. It speaks one JSON object a line over its own pipes; what libraries print
goes to `answering.log` in the workspace. When it dies, the request that was under way raises, and the next one starts a
new child. While it works it says so every other second: one that falls silent hangs, and is ended.
"""

import contextlib
import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from kto_workbench import files
from kto_workbench.errors import WorkbenchError
from kto_workbench.runs.completions import answers
from kto_workbench.runs.directory import Run
from kto_workbench.runs.sides import (
    REFERENCE,
    TUNED,
    AnySide,
    EndpointSide,
    ModelSide,
    Side,
    check_scored,
    reference_of,
)

SIDES = (REFERENCE, TUNED)
BEAT_SECONDS = 2.0  # between two signs of life of a child that works
SILENT_SECONDS = 30.0  # after which it is taken to hang
WAKING_SECONDS = 180.0  # until its libraries are imported, on a machine that has much else to do
CLOSING_SECONDS = 5.0


class SideError(WorkbenchError):
    """Why one side does not answer; the others may."""


class Answerer:
    """Asks a warm child process for answers; safe to share between threads, which take turns."""

    def __init__(self, workspace: str | Path = "workspace") -> None:
        self.workspace = Path(workspace)
        self._turn = threading.Lock()
        self._child: subprocess.Popen[str] | None = None
        self._heard: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._listener = threading.Thread()
        self._awake = self._closed = False

    @property
    def warm(self) -> bool:
        """Whether a child process is alive."""
        return self._child is not None and self._child.poll() is None

    def stream(
        self,
        who: str | Path | Mapping[str, AnySide],
        prompts: Sequence[Any],
        *,
        seed: int,
        temperature: float,
        max_new_tokens: int,
        sides: Sequence[str] = SIDES,
        system: str | None = None,
    ) -> Iterator[dict[str, Any]]:
        """Yield answers as they grow.

        Sides of this machine answer in the order in which they are given; endpoints, which may keep us waiting, after
        them. A side that fails is told by an event with `error` as soon as it does; the others answer all the same,
        and the failure is raised in the end.

        Args:
            who: any sides, by a name for each; or the directory of a run.
            prompts: texts, or lists of chat messages.
            seed: same for both sides.
            temperature: 0 is greedy.
            max_new_tokens: longest answer.
            sides: parts of the run (`reference`, `tuned`, `checkpoint-N`), where one was given.
            system: a system prompt put before each prompt that has none.

        Yields:
            {"prompt": number, "side": its part or name, "text": all of it so far, "done": bool}.

        Raises:
            WorkbenchError: the run has no adapter, the model can't be loaded, the endpoint does not answer, or the
                child has died.
        """
        if not isinstance(who, Mapping):
            who = {part: Side(Run(who), part) for part in sides}
        prompts = [with_system(prompt, system) for prompt in prompts]
        sampling = {"seed": seed, "temperature": temperature, "max_new_tokens": max_new_tokens}
        failed: SideError | None = None
        for name, side in sorted(who.items(), key=lambda item: isinstance(item[1], EndpointSide)):
            try:
                for event in self._answers_of(side, prompts, sampling):
                    yield {**event, "side": name}
            except SideError as error:
                failed = failed or error
                yield {"prompt": 0, "side": name, "text": "", "done": False, "error": str(error)}
        if failed:
            raise failed

    def _answers_of(self, side: AnySide, prompts: Sequence[Any], sampling: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """The events of one side. Raises SideError if it can't answer, any other WorkbenchError if the child died."""
        if isinstance(side, EndpointSide):
            try:
                yield from answers(side.endpoint, prompts, **sampling)
            except WorkbenchError as error:
                raise SideError(str(error)) from None
        else:
            yield from self._ask({"kind": "answer", "prompts": prompts, "side": _named(side), **sampling})

    def explain(self, side: AnySide, prompt: Any, answer: str, *, against: AnySide | None = None) -> dict[str, Any]:
        """Why two sides differ on an answer, token by token; see `comparison.explain`. Raises WorkbenchError."""
        against = against or reference_of(side)
        request = {
            "kind": "explain",
            "side": _named(side),
            "against": _named(against),
            "prompt": prompt,
            "answer": answer,
        }
        (event,) = self._ask(request)
        return event["explained"]

    def _ask(self, request: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Send a request to the child and yield its events until it has no more."""
        with self._turn:
            child = self._warm_child()
            finished = False
            try:
                child.stdin.write(json.dumps(request) + "\n")
                child.stdin.flush()
                while event := self._heard.get(timeout=SILENT_SECONDS if self._awake else WAKING_SECONDS):
                    self._awake = True
                    if "error" in event:
                        finished = True
                        raise SideError(event["error"])
                    if event.get("end"):
                        finished = True
                        return
                    if "beat" not in event:
                        yield event
                raise BrokenPipeError
            except queue.Empty:
                raise WorkbenchError(
                    "The process that answers did not answer any more and was ended. Ask again to start a new one."
                ) from None
            except (BrokenPipeError, OSError, ValueError):
                log = self.workspace / "answering.log"
                raise WorkbenchError(
                    f"The process that answers has died; the end of {log} says more. Ask again to start a new one."
                ) from None
            finally:
                # Whoever stopped listening half-way must not leave the rest of the answers to the next one.
                if not finished:
                    self._end_child()

    def close(self, *, for_good: bool = False) -> None:
        """End the child process, which gives its memory back; at once, also amid an answer or when it hangs.

        `for_good`: none is started for those who wait for their turn.
        """
        self._closed = self._closed or for_good
        if (child := self._child) is not None:
            child.kill()  # whoever listens to it is told, and lets its turn go
        if self._turn.acquire(timeout=CLOSING_SECONDS):
            try:
                self._end_child()
            finally:
                self._turn.release()

    def _warm_child(self) -> "subprocess.Popen[str]":
        if self._closed:
            raise WorkbenchError("The server is being ended.")
        if not self.warm:
            self._end_child()
            try:
                self.workspace.mkdir(parents=True, exist_ok=True)
                log = files.open_to_append(self.workspace / "answering.log")
            except OSError as error:
                raise WorkbenchError(f"Can't write to the workspace {self.workspace}: {error.strerror}.") from None
            with log:
                self._child = subprocess.Popen(
                    [sys.executable, "-m", "kto_workbench.answers.child", str(self.workspace.resolve())],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    text=True,
                    encoding="utf-8",
                    env={**os.environ, "PYTHONUNBUFFERED": "1"},
                )
            self._awake, self._heard = False, queue.SimpleQueue()
            self._listener = threading.Thread(target=_listen, args=(self._child.stdout, self._heard), daemon=True)
            self._listener.start()
        return self._child

    def _end_child(self) -> None:
        child, self._child = self._child, None
        if child is None:
            return
        child.kill()
        child.wait()
        self._listener.join()  # its pipe has ended
        for pipe in (child.stdin, child.stdout):
            with contextlib.suppress(OSError):
                pipe.close()


def _listen(pipe: TextIO, heard: "queue.SimpleQueue[dict[str, Any] | None]") -> None:
    """Put each event of a child where it is waited for, and None when there will be no more."""
    with contextlib.suppress(ValueError, OSError):
        for line in pipe:
            heard.put(json.loads(line))
    heard.put(None)


def _named(side: AnySide) -> dict[str, str]:
    """A side as the child knows it. Raises RunError for one that it can't load."""
    check_scored(side)
    if isinstance(side, ModelSide):
        return {"model": side.model}
    return {"run": str(side.run.path.resolve()), "part": side.part}


def with_system(prompt: Any, system: str | None) -> Any:
    """A prompt with a system prompt before it, unless it has one of its own or there is none to put there."""
    if not system:
        return prompt
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
    if messages and messages[0]["role"] == "system":
        return messages
    return [{"role": "system", "content": system}, *messages]
