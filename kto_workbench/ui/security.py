"""Who may talk to the page: this machine's browser, showing this page, and nobody else.

Gradio alone accepts any Host header (so that another site's name can be pointed at 127.0.0.1) and posts from other
sites; both end here. The headers keep the browser itself from loading or sending anything elsewhere, whatever a
feedback file or a model's answer contains.
"""

import asyncio
import ipaddress
import time
from urllib.parse import urlsplit

from fastapi import FastAPI
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOOPBACK = ["127.0.0.1", "localhost", "::1"]
FREE_TRIES = 5
MOST_PATIENCE = 10.0
FORGIVEN_SECONDS = 300.0
MOST_WAITING = 16

# Gradio's charts compile their expressions, hence unsafe-eval; nothing but this origin is ever loaded or called.
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; media-src 'self' data: blob:; font-src 'self' data:; worker-src 'self' blob:; "
    "connect-src 'self'; object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'self'"
)
HEADERS = {
    b"content-security-policy": POLICY.encode(),
    b"x-content-type-options": b"nosniff",
    b"referrer-policy": b"no-referrer",
    b"x-frame-options": b"SAMEORIGIN",
}


def is_loopback(host: str) -> bool:
    """Whether a server bound to this address can be reached from this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


class SameOrigin:
    """Refuses requests that another site's page sends, and adds the headers above to every answer.

    A browser names the sending page in `Origin`; programs that name none (curl, gradio's client) can't be made to act
    on a person's behalf by a web page and may pass.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer 403."""
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        if _is_foreign(scope):
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1008})
                return
            await PlainTextResponse("This request came from another site.", 403)(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                kept = [(name, value) for name, value in message["headers"] if name.lower() not in HEADERS]
                message["headers"] = [*kept, *HEADERS.items()]
            await send(message)

        await self.app(scope, receive, send_with_headers)


class KnownHost:
    """Answers to the page's own names only, so that no other site's name can be pointed at it.

    Starlette's guard cuts a host at its first colon, and so refuses [::1].
    """

    def __init__(self, app: ASGIApp, hosts: list[str]) -> None:
        self.app, self.hosts = app, {host.strip("[]").lower() for host in hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer 400."""
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
        elif _host_name(scope) in self.hosts:
            await self.app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            await PlainTextResponse("This page has no such name.", 400)(scope, receive, send)


class PatientLogin:
    """Makes guessing slow: after some wrong passwords in a row, each further try waits, one behind the other.

    The right password comes through as well, only later: nobody is locked out. While many wait, others are sent away.
    """

    def __init__(self, app: ASGIApp, path: str = "/login") -> None:
        self.app, self.path = app, path
        self.failures, self.last, self.waiting = 0, 0.0, 0
        self._turn = asyncio.Lock()

    @property
    def delay(self) -> float:
        """Seconds that the next try waits: 1, 2, 4, … up to MOST_PATIENCE."""
        if time.monotonic() - self.last > FORGIVEN_SECONDS:
            self.failures = 0
        beyond = self.failures - FREE_TRIES
        return 0.0 if beyond < 0 else min(2.0**beyond, MOST_PATIENCE)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass everything but a login on at once."""
        login = scope["type"] == "http" and scope["method"] == "POST" and scope["path"].rstrip("/") == self.path
        if not login:
            await self.app(scope, receive, send)
            return
        if self.waiting >= MOST_WAITING:
            await PlainTextResponse("Too many try to log in; wait a minute.", 429)(scope, receive, send)
            return

        async def listen(message: Message) -> None:
            if message["type"] == "http.response.start":
                failed = message["status"] >= 400
                self.failures, self.last = (self.failures + 1 if failed else 0), time.monotonic()
            await send(message)

        self.waiting += 1
        try:
            async with self._turn:
                await asyncio.sleep(self.delay)
                await self.app(scope, receive, listen)
        finally:
            self.waiting -= 1


def _host_name(scope: Scope) -> str:
    """The Host header's name, without port and brackets; nothing for what is no host."""
    host = next((value.decode("latin-1") for name, value in scope["headers"] if name.lower() == b"host"), "")
    try:
        parts = urlsplit(f"//{host}")
        parts.port  # noqa: B018 - raises for a port that is none
        return parts.hostname or "" if parts.netloc == host and "@" not in host else ""
    except ValueError:
        return ""


def _is_foreign(scope: Scope) -> bool:
    headers = {name.lower(): value.decode("latin-1") for name, value in scope["headers"]}
    reads = scope["type"] == "http" and scope["method"] in ("GET", "HEAD", "OPTIONS")
    origin = headers.get(b"origin")
    if origin is not None and urlsplit(origin).netloc != headers.get(b"host"):
        return True
    return not reads and headers.get(b"sec-fetch-site", "same-origin") not in ("same-origin", "none")


def protect(app: FastAPI, hosts: list[str] | None) -> None:
    """Put the guards in front of the app. `hosts` are the names it answers to; None: any, behind a password."""
    app.add_middleware(PatientLogin)
    app.add_middleware(SameOrigin)
    if hosts is not None:
        app.add_middleware(KnownHost, hosts=hosts)
