"""The process behind `runs.answering`: keeps models warm, and answers on request.

Reads one JSON request a line from stdin, writes one JSON event a line to stdout, until stdin ends. When a training in
the workspace begins, the models are let go, since it may need the memory; the next request loads them again.
"""

import json
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kto_workbench.errors import WorkbenchError
from kto_workbench.runs.answering import BEAT_SECONDS
from kto_workbench.runs.children import large_imports
from kto_workbench.runs.directory import Run
from kto_workbench.runs.sides import ModelSide, Side
from kto_workbench.runs.turn import AnsweringTurn, device_is_taken

with large_imports():
    from kto_workbench.answers.comparison import answer_as, explain
    from kto_workbench.answers.sides import Models

SECONDS_BETWEEN_EVENTS = 0.08  # more would only queue up on their way to a browser
SECONDS_BETWEEN_LOOKS = 1.0

Say = Callable[[dict[str, Any]], None]


def respond(models: Models, request: dict[str, Any], say: Say) -> None:
    """Do what one request asks for, saying events as results come."""
    if request["kind"] == "explain":
        sides = [_side(request[name]) for name in ("side", "against")]
        say({"explained": explain(models, sides[0], request["prompt"], request["answer"], against=sides[1])})
    else:
        _answer(models, request, say)
    say({"end": True})


def _answer(models: Models, request: dict[str, Any], say: Say) -> None:
    settings = [request[name] for name in ("seed", "temperature", "max_new_tokens")]
    last_said: dict[int, float] = {}

    def tell(i: int, text: str) -> None:
        if time.monotonic() - last_said.get(i, 0.0) > SECONDS_BETWEEN_EVENTS:
            last_said[i] = time.monotonic()
            say({"prompt": i, "text": text, "done": False})

    for i, text in enumerate(answer_as(models, _side(request["side"]), request["prompts"], *settings, on_text=tell)):
        say({"prompt": i, "text": text, "done": True})


def _side(named: dict[str, str]) -> Side | ModelSide:
    return ModelSide(named["model"]) if "model" in named else Side(Run(named["run"]), named["part"])


def give_way(models: Models, busy: threading.Lock, workspace: Path, turn: AnsweringTurn) -> None:
    """Let the models go when a training takes the device, or another server wants to answer; never returns."""
    taken = device_is_taken(workspace)
    while True:
        time.sleep(SECONDS_BETWEEN_LOOKS)
        before, taken = taken, device_is_taken(workspace)
        training = taken and not before and models.loaded
        if training or turn.wanted():
            with busy:  # what is under way is answered first
                models.unload()
                turn.give()
            who = "A training begins" if training else "Another server is asked"
            print(f"{who}: the models are let go.", file=sys.stderr, flush=True)


def beat(at_work: threading.Event, say: Say) -> None:
    """Give signs of life while a request is worked on, however long a model takes to load; never returns."""
    while True:
        at_work.wait()
        say({"beat": True})
        time.sleep(BEAT_SECONDS)


def hold(turn: AnsweringTurn) -> None:
    """Show other servers' processes that this one lives, as long as it holds models; never returns."""
    while True:
        time.sleep(BEAT_SECONDS)
        turn.beat()


def main() -> None:
    """Serve requests until stdin ends."""
    # Our events get a pipe of their own: what a library prints to stdout must not break a line of JSON.
    events = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)

    speaking = threading.Lock()

    def say(event: dict[str, Any]) -> None:
        with speaking:
            events.write(json.dumps(event) + "\n")

    models, busy, at_work = Models(), threading.Lock(), threading.Event()
    turn = AnsweringTurn(sys.argv[1])
    threading.Thread(target=beat, args=(at_work, say), daemon=True).start()
    threading.Thread(target=hold, args=(turn,), daemon=True).start()
    threading.Thread(target=give_way, args=(models, busy, Path(sys.argv[1]), turn), daemon=True).start()
    for line in sys.stdin:
        at_work.set()
        try:
            with busy:
                turn.take()
                respond(models, json.loads(line), say)
        except WorkbenchError as error:
            say({"error": str(error)})
        except Exception as error:
            import traceback

            traceback.print_exc()
            reason = str(error).splitlines()[0] if str(error) else ""
            say({"error": f"Answering failed: {type(error).__name__}: {reason}"})
        finally:
            at_work.clear()


if __name__ == "__main__":
    main()
