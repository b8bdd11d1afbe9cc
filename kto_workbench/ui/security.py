"""Who may talk to the page: this machine's browser, showing this page, and nobody else.

Gradio alone accepts any Host header (so that another site's name can be pointed at 127.0.0.1) and posts from other
sites; both end here. The headers keep the browser itself from loading or sending anything elsewhere, whatever a
feedback file or a model's answer contains.
"""

import asyncio
import hmac
import ipaddress
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from contextvars import ContextVar
from urllib.parse import unquote, urlsplit

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse
from starlette.routing import Mount
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from kto_workbench.ui.events import Unbroken

LOOPBACK = ["127.0.0.1", "localhost", "::1"]
READING = ("GET", "HEAD", "OPTIONS")
FREE_TRIES = 5  # wrong passwords in a row that are answered at once
TRIES = 32  # passwords that one address may have tried side by side
MOST_PATIENCE = 10.0
FORGIVEN_SECONDS = 300.0
MOST_WAITING = 16
MOST_VISITORS = 4096
MOST_BODY = 32 * 2**20
UPLOAD = "/gradio_api/upload"
BRAKED: ContextVar[bool] = ContextVar("braked", default=False)

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
    """Makes guessing slow for each address by itself: a wrong password's answer waits 1, 2, 4, … seconds.

    The right password is answered at once, from wherever it comes. So that guesses sent side by side win nothing, an
    address has TRIES of them, and one more every MOST_PATIENCE seconds; further ones wait for theirs, and while many
    wait, others are sent away. Who comes by a path that this guard does not know is let through without BRAKED, and
    without that no password is right.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self.visitors: OrderedDict[str, _Visitor] = OrderedDict()

    def visitor(self, scope: Scope) -> "_Visitor":
        """What is known of the address that asks; the one that was silent longest is forgotten."""
        name = _neighbourhood(scope.get("client"))
        visitor = self.visitors.setdefault(name, _Visitor())
        self.visitors.move_to_end(name)
        while len(self.visitors) > MOST_VISITORS:
            self.visitors.popitem(last=False)
        return visitor

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass everything but a login on at once."""
        if scope["type"] != "http" or scope["method"] in READING or plain_path(scope["path"]) != "/login":
            await self.app(scope, receive, send)
            return
        visitor = self.visitor(scope)
        if not await visitor.may_try():
            await PlainTextResponse("Too many try to log in; wait a minute.", 429)(scope, receive, send)
            return

        async def send_late(message: Message) -> None:
            if message["type"] == "http.response.start":
                await asyncio.sleep(visitor.answered(message["status"] == 200))
            await send(message)

        passed = BRAKED.set(True)
        try:
            await self.app(scope, receive, send_late)
        finally:
            BRAKED.reset(passed)


class _Visitor:
    """One address at the login: how often it was wrong in a row, and how many tries it has left."""

    def __init__(self) -> None:
        self.failures, self.last = 0, 0.0
        self.tries, self.counted = float(TRIES), time.monotonic()
        self.waiting, self._turn = 0, asyncio.Lock()

    async def may_try(self) -> bool:
        """Wait for a try if none is left; False, at once, if too many wait already."""
        if self.waiting >= MOST_WAITING:
            return False
        self.waiting += 1
        try:
            async with self._turn:
                now = time.monotonic()
                self.tries = min(self.tries + (now - self.counted) / MOST_PATIENCE, float(TRIES))
                self.counted = now
                if self.tries < 1:
                    await asyncio.sleep((1 - self.tries) * MOST_PATIENCE)
                    self.tries, self.counted = 1.0, time.monotonic()
                self.tries -= 1
        finally:
            self.waiting -= 1
        return True

    def answered(self, right: bool) -> float:
        """Note how a try ended; returns how many seconds its answer waits."""
        now = time.monotonic()
        if right or now - self.last > FORGIVEN_SECONDS:
            self.failures = 0
        self.last = now
        if right:
            return 0.0
        self.failures += 1
        return 0.0 if self.failures <= FREE_TRIES else min(2.0 ** (self.failures - FREE_TRIES - 1), MOST_PATIENCE)


def checker(password: str) -> Callable[[str, str], bool]:
    """Whoever knows the password may come in, under any name, past the brake only."""
    salt = secrets.token_bytes(32)

    def digest(text: str) -> bytes:  # of one length, so that the time tells nothing of the password's
        return hmac.digest(salt, text.encode("utf-8", "surrogatepass"), "sha256")

    expected = digest(password)
    return lambda name, given: hmac.compare_digest(digest(str(given)), expected) and BRAKED.get()


class MarkedCookies:
    """Cookies that no script reads, that no other site's page sends, and that behind TLS never go out in the open."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on; mark what its answer sets."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_marked(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [
                    (name, _marked(value, _is_tls(scope)) if name.lower() == b"set-cookie" else value)
                    for name, value in message["headers"]
                ]
            await send(message)

        await self.app(scope, receive, send_marked)


def _marked(cookie: bytes, tls: bool) -> bytes:
    name, *attributes = [part.strip() for part in cookie.split(b";")]
    ours = (b"httponly", b"secure", b"samesite")
    kept = [part for part in attributes if part.partition(b"=")[0].strip().lower() not in ours]
    return b"; ".join([name, *kept, b"HttpOnly", b"SameSite=Lax", *([b"Secure"] if tls else [])])


def _is_tls(scope: Scope) -> bool:
    # A proxy in front may speak TLS for us. Who forges this header marks cookies of their own.
    forwarded = [value for name, value in scope["headers"] if name.lower() == b"x-forwarded-proto"]
    return scope["scheme"] == "https" or any(b"https" in value for value in forwarded)


def plain_path(path: str) -> str:
    """The path in its plainest spelling, so that //Login/ and /%6cogin are the login, too."""
    for _ in range(3):
        path = unquote(path)
    parts = [part for part in path.replace("\\", "/").lower().split("/") if part not in ("", ".")]
    return "/" + "/".join(parts)


def _neighbourhood(client: tuple[str, int] | None) -> str:
    """Who shares a brake: an address, or the IPv6 addresses that one household or company gets."""
    try:
        address = ipaddress.ip_address((client or ("", 0))[0])
    except ValueError:
        return ""
    if address.version == 6 and address.ipv4_mapped:
        address = address.ipv4_mapped
    return str(address) if address.version == 4 else str(ipaddress.ip_network((address, 56), strict=False))


LOGGING_OUT = """<!doctype html><title>KTO Workbench</title><form method="post" action="/logout">
<p>End this session?</p><button>Log out</button></form>"""


def add_logout(app: FastAPI) -> None:
    """Log out by a form only: gradio's GET would do so for any picture of that address, and for all sessions.

    To be called before gradio's page is mounted, whose route this one covers.
    """

    @app.get("/logout")
    def ask() -> HTMLResponse:
        return HTMLResponse(LOGGING_OUT)

    @app.post("/logout")
    def leave(request: Request) -> RedirectResponse:
        response = RedirectResponse("/", status_code=303)
        page = next(route.app for route in app.routes if isinstance(route, Mount))
        for name in (f"access-token-{page.cookie_id}", f"access-token-unsecure-{page.cookie_id}"):
            page.tokens.pop(request.cookies.get(name), None)
            response.delete_cookie(name)
        return response


class SmallBodies:
    """Refuses bodies larger than any event's, which gradio holds in memory; uploads have a limit of their own."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, answer 413, or break off."""
        if scope["type"] != "http" or scope["method"] in READING or scope["path"].rstrip("/") == UPLOAD:
            await self.app(scope, receive, send)
            return
        lengths = [value for name, value in scope["headers"] if name.lower() == b"content-length"]
        if any(value.isdigit() and int(value[:12]) > MOST_BODY for value in lengths):
            await PlainTextResponse("This request is too long.", 413)(scope, receive, send)
            return
        taken = 0

        async def receive_some() -> Message:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            return message if taken <= MOST_BODY else {"type": "http.disconnect"}

        await self.app(scope, receive_some, send)


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
    reads = scope["type"] == "http" and scope["method"] in READING
    origin = headers.get(b"origin")
    if origin is not None and urlsplit(origin).netloc != headers.get(b"host"):
        return True
    return not reads and headers.get(b"sec-fetch-site", "same-origin") not in ("same-origin", "none")


def protect(app: FastAPI, hosts: list[str] | None) -> None:
    """Put the guards in front of the app. `hosts` are the names it answers to; None: any, behind a password."""
    app.add_middleware(Unbroken)
    app.add_middleware(SmallBodies)
    app.add_middleware(PatientLogin)
    app.add_middleware(MarkedCookies)
    app.add_middleware(SameOrigin)
    if hosts is not None:
        app.add_middleware(KnownHost, hosts=hosts)
