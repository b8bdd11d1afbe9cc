"""Build the page and serve it.

serve("workspace") opens http://127.0.0.1:7860; `build` makes the FastAPI app alone, for tests and for other servers.
"""

import asyncio
import gc
import os
import signal
import socket
import sys
import threading
import webbrowser
from pathlib import Path
from typing import Any

# Read by gradio when it is imported: it shall not look anything up, nor keep a history of what was typed.
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
os.environ.setdefault("GRADIO_RUN_HISTORY", "False")

import gradio as gr  # noqa: E402
import gradio_client.utils  # noqa: E402
import uvicorn  # noqa: E402
from fastapi import FastAPI  # noqa: E402

from kto_workbench.errors import WorkbenchError  # noqa: E402
from kto_workbench.runs.servers import noted, others  # noqa: E402
from kto_workbench.ui import compare, data, feedback, html, learn, runs, train  # noqa: E402
from kto_workbench.ui.events import tell_failures
from kto_workbench.ui.folder import has_screen  # noqa: E402
from kto_workbench.ui.glossary import SCRIPT as GLOSSARY  # noqa: E402
from kto_workbench.ui.invite import Invitation  # noqa: E402
from kto_workbench.ui.markdown import SCRIPT as READING  # noqa: E402
from kto_workbench.ui.security import LOOPBACK, add_logout, checker, is_loopback, protect  # noqa: E402
from kto_workbench.ui.style import CSS, theme  # noqa: E402
from kto_workbench.ui.words import TRANSLATIONS, label, language_of, say  # noqa: E402
from kto_workbench.ui.workbench import IDLE_SECONDS, Workbench  # noqa: E402

MAX_UPLOAD = "2gb"
PORTS_TRIED = 20
# Between two looks for a click, and for a progress to tell; gradio looks a thousand times a second, with nobody there.
QUEUE_SECONDS = 0.1
# Pages whose state is remembered, 1.6 to 2.5 MB each; gradio would forget none of those that were closed, up to 10,000.
SESSIONS = 100
OTHERS_SECONDS = 30.0  # between two looks for other servers
TABS = ("data", "train", "compare", "feedback", "runs", "learn")
# The first tab selects itself while the page loads, so the one that was asked for must be noted before; and whoever
# chooses a tab meanwhile means it. The address says what is open, not what an event tells: on a slow machine gradio
# tells of a tab when another one has been chosen since.
HEAD = f"""<script>
(() => {{
  const names = {list(TABS)}
  let asked = location.hash.slice(1)
  addEventListener("click", event => {{
    if (event.isTrusted && event.target.closest?.("[role=tab]")) asked = ""
  }}, true)
  const open = () => {{
    const lists = [...document.querySelectorAll("[role=tablist]")].map(list => [...list.querySelectorAll("[role=tab]")])
    return names[lists.find(tabs => tabs.length === names.length)?.findIndex(tab => tab.ariaSelected === "true")]
  }}
  const note = () => {{
    if (open()) history.replaceState(null, "", "#" + open())
  }}
  window.ktoTab = {{
    asked: () => names.includes(asked) && asked,
    open: name => document.querySelectorAll("[role=tablist]").forEach(list => {{
      const tabs = list.querySelectorAll("[role=tab]")
      if (tabs.length === names.length) tabs[names.indexOf(name)].click()
    }}),
    note: () => setTimeout(note, 50),  // the page marks the open tab a moment after gradio tells of it
  }}
}})()
</script>"""
# Within the browser: an answer of the server would come too late, and take the page from a tab chosen since.
OPEN_TAB = """() => {
  document.body.classList.add("kto-listens")  // see style.py
  const selected = ktoTab.asked()
  if (!selected) ktoTab.note()  // chosen before gradio listened
  return selected ? {__type__: "update", selected} : {__type__: "update"}
}"""


def build(
    workspace: str | Path = "workspace",
    *,
    host: str = "127.0.0.1",
    password: str | None = None,
    idle_seconds: float = IDLE_SECONDS,
) -> FastAPI:
    """The page of a workspace as a FastAPI app, guarded as it is when served."""
    refuse_open_door(host, password)
    bench = Workbench(workspace, idle_seconds=idle_seconds)
    _private_uploads(bench)
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.state.workbench = bench
    add_logout(app)
    page = lay_out(bench, at_screen=is_loopback(host))
    page.state_session_capacity = SESSIONS
    gr.mount_gradio_app(
        app,
        page,
        path="/",
        server_name=host,
        auth=checker(password) if password else None,
        allowed_paths=[],
        max_file_size=MAX_UPLOAD,
        show_error=False,
        ssr_mode=False,
        run_history=False,
        enable_monitoring=False,
        footer_links=[],
        mcp_server=False,
        pwa=False,
        i18n=gr.I18n(**TRANSLATIONS),
        theme=theme(),
        css=CSS,
        head=HEAD + GLOSSARY + READING,
    )
    # Gradio 6.31 does not check that an "uploaded" file was uploaded while it takes a page for unlaunched, and it takes
    # every mounted page for that: a forged event could name any file of this machine.
    page.has_launched = page.is_running = True
    page._queue.sleep_when_free = page._queue.progress_update_sleep_when_free = QUEUE_SECONDS
    tell_failures(page)
    protect(app, None if password else [*LOOPBACK, host])
    return app


def lay_out(bench: Workbench, *, at_screen: bool = False) -> gr.Blocks:
    """All tabs, in the order in which the work goes; `at_screen`: no other machine reaches the page."""
    with gr.Blocks(title="KTO Workbench", analytics_enabled=False, fill_width=True) as page:
        gr.HTML(label("app.header"), elem_classes="kto-bare")
        _tell_of_others(bench, page)
        with gr.Tabs(overflow_behavior="wrap") as tabs:
            opened = {name: gr.Tab(label(f"tab.{name}"), id=name) for name in TABS}
            with opened["data"]:
                data_tab = data.build(bench, page)
            with opened["train"]:
                train_tab = train.build(bench, page, data_tab)
            invited = []
            with opened["compare"]:
                invited.append(Invitation(bench, page, opened["compare"], "compare"))
                compare.build(bench, page, opened["compare"])
            with opened["feedback"]:
                invited.append(Invitation(bench, page, opened["feedback"], "feedback"))
                train_on_thumbs = feedback.build(bench, page, opened["feedback"], data_tab, train_tab)
            with opened["runs"]:
                runs.build(bench, page, opened["runs"], train_tab, at_screen=at_screen)
            with opened["learn"]:
                invited.append(learn.build(bench, page, opened["learn"], train_tab.run))
        go_to_train = [data_tab.train.click, train_on_thumbs.click]
        gr.on(go_to_train, lambda: gr.Tabs(selected="train"), None, [tabs], queue=False, show_progress="hidden")
        for invitation in invited:
            invitation.wire(tabs, train_tab.run)
        _remember_tab(page, tabs)
    return page


def _remember_tab(page: gr.Blocks, tabs: gr.Tabs) -> None:
    """Keep the open tab in the address: a reload, also gradio's own after a lost server, comes back to it."""
    tabs.change(None, None, None, js="() => ktoTab.note()")
    page.load(None, None, [tabs], js=OPEN_TAB)


def _tell_of_others(bench: Workbench, page: gr.Blocks) -> None:
    """Say on the page which other servers the workspace has, as they come and go."""
    told = gr.HTML(elem_id="page-beside", elem_classes="kto-bare kto-told")

    def look(before: str, request: gr.Request) -> tuple[Any, str]:
        addresses = ", ".join(server.address for server in others(bench.workspace))
        if addresses == before:
            return gr.skip(), before
        said = say(language_of(request), "page.beside", addresses=addresses) if addresses else ""
        return html.message(said, "info"), addresses

    known, timer = gr.State(""), gr.Timer(OTHERS_SECONDS)
    gr.on([page.load, timer.tick], look, [known], [told, known], show_progress="hidden", queue=False)


def serve(
    workspace: str | Path = "workspace",
    host: str = "127.0.0.1",
    port: int = 7860,
    open_browser: bool = True,
    password: str | None = None,
    idle_seconds: float = IDLE_SECONDS,
) -> None:
    """Serve the page until interrupted. A taken port makes way for the next free one. Raises WorkbenchError.

    Args:
        workspace: the folder with runs, uploads and thumbs.
        host: the address to listen on; one that other machines reach needs a password.
        port: to listen on; 0 takes any.
        open_browser: show the page.
        password: asked of visitors.
        idle_seconds: how often an open page looks whether anything has begun while nothing runs.
    """
    host = host.strip("[]")
    refuse_open_door(host, password)
    leave_torch_out()
    listener, found = _listen(host, port)
    if port and found != port:
        print(f"Port {port} is taken, so the page is on {found}.", file=sys.stderr)
    shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
    address = f"http://{shown}:{found}"
    app = build(workspace, host=host, password=password, idle_seconds=idle_seconds)
    # Uvicorn would believe any program of this machine that says for whom it asks; a proxy in front is to be named.
    proxied = bool(os.environ.get("FORWARDED_ALLOW_IPS"))
    config = uvicorn.Config(
        app, log_level="warning", use_colors=False, timeout_graceful_shutdown=2, proxy_headers=proxied
    )
    server = _Server(config, app.state.workbench)
    print(f"KTO Workbench is on {address} (Ctrl+C stops the page; training goes on).", flush=True)
    for other in others(workspace):
        print(f"The page on {other.address} (process {other.pid}) shows this workspace, too.", file=sys.stderr)
    if open_browser:
        threading.Thread(target=_open_browser, args=(address,), daemon=True).start()
    gc.freeze()
    gc.enable()  # see `kto app`
    if threading.current_thread() is threading.main_thread():
        # Uvicorn ends well on a polite kill, and then has it do what it would have done: kill, with all else undone.
        signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        with listener, noted(workspace, address):
            server.run(sockets=[listener])
    finally:
        app.state.workbench.close()


class _Server(uvicorn.Server):
    """One that looks twice a second whether it is to end, not ten times: an idle machine should sleep."""

    def __init__(self, config: uvicorn.Config, bench: Workbench) -> None:
        super().__init__(config)
        self.bench = bench

    async def main_loop(self) -> None:
        """Wait for the end; what is counted are tenths of a second, as uvicorn does."""
        tenths = 0
        while not await self.on_tick(tenths):
            tenths += 5
            await asyncio.sleep(0.5)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End what answers first: whoever waits for its answer would be waited for, be it hanging."""
        await asyncio.to_thread(self.bench.close)
        await super().shutdown(sockets)


def leave_torch_out() -> None:
    """Have no library import torch into this process: transformers would, only to load a tokenizer.

    To Python, a module that is None is one that is not installed.
    """
    sys.modules.setdefault("torch", None)  # type: ignore[arg-type]
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")


def refuse_open_door(host: str, password: str | None) -> None:
    """Raise WorkbenchError if other machines could reach the page without a password."""
    if not is_loopback(host) and not password:
        raise WorkbenchError(
            f"Host {host} can be reached from other machines, so the page needs a password: add --password."
        )


_gradios_name = gradio_client.utils.strip_invalid_filename_characters


def _visible_name(name: str, *limit: int) -> str:
    """A file's name without the dots at its beginning: gradio takes such files, and then calls each an "Error"."""
    return _gradios_name(name.lstrip(".") or "file", *limit)


def _private_uploads(bench: Workbench) -> None:
    """Have gradio keep what the browser sends inside the workspace, in a folder that only its owner can open."""
    folder = bench.received
    try:
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)
        bench.sweep()
    except OSError as error:
        raise WorkbenchError(f"Can't write to the workspace {bench.workspace}: {error.strerror}.") from None
    os.environ["GRADIO_TEMP_DIR"] = str(folder.resolve())
    gradio_client.utils.strip_invalid_filename_characters = _visible_name


def _listen(host: str, port: int) -> tuple[socket.socket, int]:
    """A socket that listens on the port or on the next free one; port 0 takes any."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for candidate in range(port, port + PORTS_TRIED) if port else [0]:
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, candidate))
            listener.listen(128)
        except OSError as error:
            listener.close()
            reason = error.strerror
            continue
        return listener, listener.getsockname()[1]
    raise WorkbenchError(f"Can't listen on {host}, ports {port} to {port + PORTS_TRIED - 1}: {reason}.")


def _open_browser(address: str) -> None:
    """Show the page; a machine without a browser or a screen is no reason to fail."""
    if not has_screen():
        return  # what webbrowser finds without a screen would take over the terminal
    try:
        webbrowser.open(address)
    except Exception:  # webbrowser runs whatever the system has registered
        pass
