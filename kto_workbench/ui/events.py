"""Events that the page could not have sent, and those that fail: one sentence for the visitor, one line for the owner.

Gradio answers both with a 500 and prints a traceback: any visitor could fill the server's log with them.
"""

import logging
import traceback
from html import escape
from typing import Any

import gradio as gr
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from kto_workbench.files import disk_refusal
from kto_workbench.ui.words import language_of, say

LOG = logging.getLogger(__name__)
LONGEST_LINE = 300
LONGEST_NAME = 255
UPLOAD = "/gradio_api/upload"
EVENTS = tuple(f"/gradio_api/{name}/" for name in ("run", "api", "call"))


def tell_failures(page: gr.Blocks) -> None:
    """Have whatever goes wrong with an event of the page end in a sentence there and a line of the log."""
    process = page.process_api

    async def told(*args: Any, **settings: Any) -> dict[str, Any]:
        try:
            return await process(*args, **settings)
        except Exception as error:
            LOG.warning(in_one_line(error))
            said = say(language_of(settings.get("request")), "page.odd")
            if isinstance(error, gr.Error):  # a number out of its range, say; gradio shows it as HTML
                said = escape(_tame(str(error.message))[:LONGEST_LINE])
            raise gr.Error(said, print_exception=False) from None

    page.process_api = told
    push = page._queue.push

    async def named(body: Any, *args: Any, **settings: Any) -> Any:
        body.session_hash = body.session_hash or None  # gradio names those that have none, but not an empty one
        return await push(body, *args, **settings)

    page._queue.push = named


def in_one_line(error: BaseException) -> str:
    """What went wrong and where in our own files, without the line breaks and control characters of its message."""
    frames = traceback.extract_tb(error.__traceback__)
    places = [f", {one.filename.rpartition('kto_workbench')[2][1:]}:{one.lineno}" for one in frames if _is_ours(one)]
    where = places[-1] if places else ""
    return f"A request failed: {type(error).__name__}: {_tame(str(error))[:LONGEST_LINE]}{where}"


def _is_ours(frame: traceback.FrameSummary) -> bool:
    return "kto_workbench" in frame.filename and frame.filename != __file__


def _tame(text: str) -> str:
    return "".join(one if one.isprintable() else ascii(one)[1:-1] for one in text[: 2 * LONGEST_LINE])


class Unbroken:
    """Whatever a request does to the app is a line of the log; an odd event is answered 400, where gradio says 500."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if max(map(len, scope["path"].split("/"))) > LONGEST_NAME:  # no file system knows such a file
            await PlainTextResponse("There is no such page.", 404)(scope, receive, send)
            return
        bench, begun, failed = scope["app"].state.workbench, False, False

        async def send_refusal(message: Message) -> None:
            nonlocal begun, failed
            if message.get("status") == 500 and scope["path"] == UPLOAD:
                failed = True
            if failed:  # what is said instead depends on the error, which follows
                return
            begun = True
            if message.get("status") == 500 and scope["path"].startswith(EVENTS):
                message["status"] = 400
            await send(message)

        try:
            await self.app(scope, receive, send_refusal)
        except Exception as error:
            LOG.warning(in_one_line(error))
            said = disk_refusal(error)
            if said and scope["path"] == UPLOAD:
                bench.drop_partial()
            if not begun:
                answer = PlainTextResponse(said or "This request could not be answered.", 507 if said else 500)
                await answer(scope, receive, send)
