"""The process behind `runs.answering`: keeps the last base model and its adapters warm, and answers on request.

Reads one JSON request a line from stdin, writes one JSON event a line to stdout, until stdin ends.
"""

import json
import os
import sys
import time
from typing import Any

from torch import nn

from kto_workbench.engine.comparison import adapter_path, load_base
from kto_workbench.engine.generation import generate
from kto_workbench.engine.models import adapter_off, load_adapter
from kto_workbench.errors import WorkbenchError
from kto_workbench.feedback.rendering import load_tokenizer
from kto_workbench.runs.directory import Run

SECONDS_BETWEEN_EVENTS = 0.08  # more would only queue up on their way to a browser
KEPT_ADAPTERS = 4


class Warm:
    """The base model that was asked for last, with the adapters that were put on it."""

    def __init__(self) -> None:
        self.key: Any = None
        self.model: Any = None
        self.tokenizer: Any = None
        self.adapters: dict[str, str] = {}

    def open(self, run: Run) -> tuple[nn.Module, Any]:
        """The model with the run's adapter switched on, and the tokenizer."""
        config, path = run.config(), adapter_path(run)
        key = (config.model, config.dtype, config.device, config.load_in_4bit)
        # An adapter is known by its path and time, so that a resumed run's new one is loaded again.
        name = f"{path.resolve()}@{(path / 'adapter_model.safetensors').stat().st_mtime_ns}"
        if key != self.key:
            self.key = self.model = None  # let go of the old one first
            self.adapters = {}
            self.tokenizer = load_tokenizer(config.model)
            self.model = load_adapter(load_base(config), path)
            self.adapters = {name: self.model.active_adapter}
            self.key = key
        elif name not in self.adapters:
            while len(self.adapters) >= KEPT_ADAPTERS:
                self.model.delete_adapter(self.adapters.pop(next(iter(self.adapters))))
            label = f"adapter{time.monotonic_ns()}"
            self.model.load_adapter(str(path), label)
            self.adapters[name] = label
        self.model.set_adapter(self.adapters[name])
        return self.model.train(), self.tokenizer


def answer(warm: Warm, request: dict[str, Any], say: Any) -> None:
    """Answer one request, saying events as the answers grow."""
    run = Run(request["run"])
    model, tokenizer = warm.open(run)
    settings = {name: request[name] for name in ("seed", "temperature", "max_new_tokens")}
    for side in request["sides"]:
        last_said: dict[int, float] = {}

        def tell(i: int, text: str, side: str = side, last_said: dict[int, float] = last_said) -> None:
            if time.monotonic() - last_said.get(i, 0.0) > SECONDS_BETWEEN_EVENTS:
                last_said[i] = time.monotonic()
                say({"prompt": i, "side": side, "text": text, "done": False})

        template = run.config().template
        if side == "reference":
            with adapter_off(model):
                answers = generate(model, tokenizer, request["prompts"], on_text=tell, template=template, **settings)
        else:
            answers = generate(model, tokenizer, request["prompts"], on_text=tell, template=template, **settings)
        for i, text in enumerate(answers):
            say({"prompt": i, "side": side, "text": text, "done": True})
    say({"end": True})


def main() -> None:
    """Serve requests until stdin ends."""
    # Our events get a pipe of their own: what a library prints to stdout must not break a line of JSON.
    events = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)

    def say(event: dict[str, Any]) -> None:
        events.write(json.dumps(event, ensure_ascii=False) + "\n")

    warm = Warm()
    for line in sys.stdin:
        try:
            answer(warm, json.loads(line), say)
        except WorkbenchError as error:
            say({"error": str(error)})
        except Exception as error:
            import traceback

            traceback.print_exc()
            reason = str(error).splitlines()[0] if str(error) else ""
            say({"error": f"Answering failed: {type(error).__name__}: {reason}"})


if __name__ == "__main__":
    main()
