"""A page in this process, without a server or a browser: its events can be fired one by one."""

import asyncio
import types
from typing import Any

import gradio as gr
from gradio.state_holder import SessionState

from kto_workbench.ui import app
from kto_workbench.ui.workbench import Workbench


class Page:
    """The page of a workbench. `events` are those that the server answers."""

    def __init__(self, bench: Workbench) -> None:
        self.loop = asyncio.new_event_loop()
        self.blocks = self.loop.run_until_complete(self._lay_out(bench))
        self.state = SessionState(self.blocks)
        # A gallery of prompts tells which one was clicked, and here it is empty.
        told = [fn for fn in self.blocks.fns.values() if fn.fn is not None]
        self.events = [fn for fn in told if not any(isinstance(part, gr.Dataset) for part in fn.inputs)]

    async def _lay_out(self, bench: Workbench) -> gr.Blocks:
        return app.lay_out(bench)  # outside of a running loop gradio makes some of its own, and leaves them open

    def named(self, name: str) -> Any:
        """The event whose handler goes by the end of its name."""
        return next(fn for fn in self.events if f"{fn.fn.__module__}.{fn.fn.__qualname__}".endswith(name))

    def fire(self, event: Any, inputs: list[Any], seconds: float = 60.0) -> str:
        """All that an event sends; raises what its handler raises, and TimeoutError."""
        try:
            return self.loop.run_until_complete(asyncio.wait_for(self._fire(event, inputs), seconds))
        except Exception as error:
            error.add_note(f"in {event.fn.__module__}.{event.fn.__qualname__}")
            raise

    async def _fire(self, event: Any, inputs: list[Any]) -> str:
        request = gr.Request(username=None, headers={"accept-language": "en"})
        clicked = gr.EventData(types.SimpleNamespace(_id=1), {"index": [0, 1], "value": "x", "liked": True})
        sent, iterator = "", None
        while True:
            try:
                found = await self.blocks.process_api(
                    event, inputs, state=self.state, request=request, iterator=iterator, event_data=clicked
                )
            except gr.Error as said:  # a choice that this page does not offer
                return sent + str(said)
            sent += str(found["data"])
            iterator = found.get("iterator")
            if not found.get("is_generating"):
                return sent

    def close(self) -> None:
        """Let its loop go."""
        self.loop.run_until_complete(self.loop.shutdown_default_executor())
        self.loop.close()
