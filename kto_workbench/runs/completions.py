"""Asking an OpenAI-compatible endpoint: one client, for sides of a comparison and for judges.

    with Client(find_endpoint("local", "workspace")) as client:
        text = client.ask([{"role": "user", "content": "Hello!"}], max_tokens=128, temperature=0.7)

    for event in answers(endpoint, ["Hello!"], seed=0, temperature=0.7, max_new_tokens=128):
        print(event["prompt"], event["text"], event["done"])

Nobody is trusted here: redirects are not followed, so that the key stays with the address it was named for; wherever a
name leads to, link-local addresses and those where clouds keep credentials are not asked; a reply has a longest size,
and an exchange a longest time on the clock, from the name's lookup to the last byte, however any of it trickles; what
is no answer is a sentence. Exchanges run on an event loop in a thread of its own, where they can be ended from outside.
"""

import asyncio
import concurrent.futures
import contextlib
import json
import queue
import random
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from typing import Any, TypeVar

import httpx

from kto_workbench.errors import ConfigError, WorkbenchError
from kto_workbench.feedback.images import keys_in
from kto_workbench.feedback.templates import part_tools, prompt_messages
from kto_workbench.runs.endpoints import Endpoint, completions_url, is_loopback, is_off_limits, read_key

WORKERS = 4
ATTEMPTS = 5
CONNECT_SECONDS = 10.0
SILENT_SECONDS = 120.0  # a server may have to load its model first
REPLY_SECONDS = 600.0
LONGEST_REPLY = 8 * 2**20  # bytes; a streamed token takes some 300
LONGEST_WAIT = 30.0
# Some models take only some of these; what a server complains of is sent no more.
OPTIONAL = ("max_tokens", "temperature", "seed", "stream")

Chat = Sequence[dict[str, Any]]
T = TypeVar("T")


class Client:
    """Asks one endpoint, inside of a `with`; safe to share between threads."""

    def __init__(self, endpoint: Endpoint, *, attempts: int = ATTEMPTS, backoff: float = 0.5) -> None:
        """Read the key; nothing is asked yet.

        Args:
            endpoint: whom to ask.
            attempts: how often in all, while the server is busy or broken.
            backoff: seconds before the first repetition, doubled with each.

        Raises:
            ConfigError: the variable of the key is not set, or the address is none.
        """
        self.endpoint, self.attempts, self.backoff = endpoint, attempts, backoff
        self.url = completions_url(endpoint.url)
        try:
            httpx.URL(self.url)
        except httpx.InvalidURL:
            raise ConfigError(f"{endpoint.url!r} is not the address of an endpoint.") from None
        self._key = read_key(endpoint.key_env)
        self._left_out: set[str] = set()
        self._ended = threading.Event()
        self._starting = threading.Lock()
        self._under_way: set[asyncio.Task[Any]] = set()

    def __enter__(self) -> "Client":
        self._ended.clear()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        headers = {"Accept-Encoding": "identity", "Content-Type": "application/json"}
        self._http = httpx.AsyncClient(
            timeout=httpx.Timeout(SILENT_SECONDS, connect=CONNECT_SECONDS),
            headers=headers | ({"Authorization": f"Bearer {self._key}"} if self._key else {}),
            follow_redirects=False,  # they would lead the key elsewhere
            trust_env=not is_loopback(self.url),  # a server on this machine is not to be looked for behind a proxy
        )
        return self

    def __exit__(self, *_: object) -> None:
        with self._starting:
            self._ended.set()
        asyncio.run_coroutine_threadsafe(self._leave(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _leave(self) -> None:
        """End what is still under way: whoever asked for it is not waited for."""
        for one in self._under_way:
            one.cancel()
        await asyncio.gather(*self._under_way, return_exceptions=True)
        await self._http.aclose()

    def _by(self, until: float, exchange: Coroutine[Any, Any, T]) -> T:
        """What comes of an exchange, which ends by then. Raises httpx.HTTPError, and CancelledError from `_leave`."""

        async def bounded() -> T:
            self._under_way.add(asyncio.current_task())
            try:
                async with asyncio.timeout(until - time.monotonic()):
                    return await exchange
            except TimeoutError:
                raise httpx.ReadTimeout("The reply takes too long.") from None
            finally:
                self._under_way.discard(asyncio.current_task())

        with self._starting:
            if self._ended.is_set():
                exchange.close()
                raise concurrent.futures.CancelledError
            waiting = asyncio.run_coroutine_threadsafe(bounded(), self._loop)
        return waiting.result()

    def _stream(self, method: str, url: str, **settings: Any) -> Any:
        return self._http.stream(method, url, extensions={"trace": self._look}, **settings)

    async def _look(self, event: str, about: dict[str, Any]) -> None:
        """Leave an address that nobody means, once its name has led there and before anything is sent."""
        if event == "connection.connect_tcp.complete":
            found = about["return_value"].get_extra_info("server_addr")
            if is_off_limits(found[0]):
                await about["return_value"].aclose()
                raise self._refused(f"it is at {found[0]}, where no endpoint is")

    def reach(self) -> None:
        """Raise WorkbenchError if nobody answers at the address, or the key is refused; costs no tokens."""

        async def asked() -> None:
            async with self._stream("GET", self.url.removesuffix("chat/completions") + "models") as response:
                if response.status_code in (401, 403):
                    raise self._refused(f"HTTP {response.status_code}{self._told(await _read(response))}")

        try:
            self._by(time.monotonic() + SILENT_SECONDS, asked())
        except httpx.HTTPError:
            raise self._nobody() from None

    def ask(
        self,
        chat: Chat,
        *,
        max_tokens: int,
        temperature: float = 0.0,
        seed: int | None = None,
        tools: Sequence[Any] | None = None,
        on_text: Callable[[str], None] | None = None,
    ) -> str:
        """One reply, asked for again while the server is busy or broken and has said nothing yet.

        Args:
            chat: the messages.
            max_tokens: longest reply.
            temperature: 0 is greedy.
            seed: for servers that take one.
            tools: offered to the model.
            on_text: told all of the text so far while it grows; None asks for the whole at once.

        Raises:
            WorkbenchError: the server can't be reached, refuses, or keeps failing.
        """
        wanted = {"max_tokens": max_tokens, "temperature": temperature, "seed": seed, "tools": tools}
        wanted["stream"] = on_text is not None
        until = time.monotonic() + REPLY_SECONDS
        failed, reason = 0, ""
        while failed < self.attempts and time.monotonic() < until:
            wait = min(self.backoff * 2**failed, LONGEST_WAIT) * random.uniform(0.5, 1)
            body = self._body(chat, wanted)
            said = _Said(on_text)
            try:
                status, told, after = self._by(until, self._exchange(body, said))
                if status == 200:
                    return said.text
                reason = f"HTTP {status}{told}"
            except httpx.ConnectError:
                raise self._nobody() from None
            except httpx.HTTPError as error:
                reason = f"it broke off ({type(error).__name__})"
                # Whoever has seen half an answer, or waited for the first word in vain, is told at once.
                if said.text or (on_text and isinstance(error, httpx.TimeoutException)):
                    raise WorkbenchError(f"The endpoint {self.endpoint.label} failed: {reason}.") from None
            else:
                if status in (400, 422) and self._leave_out(reason, body):
                    continue  # at most once for each parameter
                if status not in (408, 409, 425, 429) and status < 500:
                    raise self._refused(reason)
                with contextlib.suppress(ValueError):
                    wait = min(max(wait, float(after)), LONGEST_WAIT)
            failed += 1
            if failed < self.attempts:
                self._ended.wait(min(wait, until - time.monotonic()))
        raise WorkbenchError(f"The endpoint {self.endpoint.label} failed {failed} times: {reason}.")

    def _body(self, chat: Chat, wanted: dict[str, Any]) -> dict[str, Any]:
        sent = {name: value for name, value in wanted.items() if name not in self._left_out}
        if "max_tokens" in self._left_out:
            sent["max_completion_tokens"] = wanted["max_tokens"]
        # Neither "seed": null nor "stream": false, which are what a server does without them.
        sent = {name: value for name, value in sent.items() if value is not None and value is not False}
        return {"model": self.endpoint.model, "messages": list(chat), **sent}

    def _leave_out(self, reason: str, body: dict[str, Any]) -> bool:
        """Whether the server complains of a parameter that some models don't take, which is then sent no more."""
        unwanted = {name for name in OPTIONAL if name in reason and name in body}
        self._left_out |= unwanted
        return bool(unwanted)

    async def _exchange(self, body: dict[str, Any], said: "_Said") -> tuple[int, str, str]:
        """Ask once: the status, and of a refusal what the server says about it, and when to ask again."""
        async with self._stream("POST", self.url, content=json.dumps(body)) as response:
            if response.status_code == 200:
                await self._take(response, said)
                return 200, "", ""
            after = response.headers.get("retry-after", "")
            return response.status_code, self._told(await _read(response)), after

    async def _take(self, response: httpx.Response, said: "_Said") -> None:
        """A reply, streamed or whole; a server may send it whole though a stream was asked for."""
        if response.headers.get("content-type", "").startswith("text/event-stream"):
            async for event in _events(response):
                if isinstance(event, dict) and event.get("error"):
                    raise self._refused(f"it broke off{self._told(json.dumps(event).encode())}")
                said.add(event)
        else:
            said.take_whole(await _read(response))
        if not said.understood:
            raise WorkbenchError(
                f"What is at {self.endpoint.label} does not answer like an OpenAI-compatible endpoint."
            )

    def _told(self, body: bytes) -> str:
        """What the server says about its refusal, without the key, should it repeat that."""
        try:
            found = json.loads(body)
            error = next(found[name] for name in ("error", "message", "detail") if name in found)
            told = str(error.get("message", error) if isinstance(error, dict) else error)
        except (ValueError, TypeError, StopIteration, RecursionError):
            return ""
        told = " ".join(told.split()).rstrip(".")
        told = told.replace(self._key, "***") if self._key else told
        return f" ({told[:200]})"

    def _nobody(self) -> WorkbenchError:
        return WorkbenchError(f"Nobody answers at {self.endpoint.label}; is its server running?")

    def _refused(self, reason: str) -> WorkbenchError:
        return WorkbenchError(f"The endpoint {self.endpoint.label} refused: {reason}.")


def answers(
    endpoint: Endpoint, prompts: Sequence[Any], *, seed: int, temperature: float, max_new_tokens: int
) -> Iterator[dict[str, Any]]:
    """Answers of an endpoint as they grow, several prompts at once.

    Each prompt's seed is one more than that of the prompt before it: the same prompt twice gets two answers.

    Yields:
        {"prompt": number, "text": all of it so far, "done": bool}.

    Raises:
        WorkbenchError: at the first prompt that is not answered; for prompts with images, which stay here.
    """
    if any(keys_in(prompt) for prompt in prompts):
        raise WorkbenchError(f"Prompts with images are not sent to endpoints such as {endpoint.label}.")
    events: queue.SimpleQueue[dict[str, Any] | Exception] = queue.SimpleQueue()
    waiting = queue.SimpleQueue()
    for numbered in enumerate(prompts):
        waiting.put(numbered)
    abandoned = threading.Event()

    def work(client: Client) -> None:
        try:
            while not abandoned.is_set():
                number, prompt = waiting.get_nowait()

                def tell(text: str, number: int = number) -> None:
                    if abandoned.is_set():
                        raise _Abandoned
                    events.put({"prompt": number, "text": text.strip(), "done": False})

                prompt, tools = part_tools(prompt)
                text = client.ask(
                    prompt_messages(prompt),
                    tools=tools,
                    max_tokens=max_new_tokens,
                    temperature=temperature,
                    seed=(seed + number) % 2**31,
                    on_text=tell,
                )
                events.put({"prompt": number, "text": text.strip(), "done": True})
        except (queue.Empty, _Abandoned):
            pass
        except Exception as error:  # raised where somebody listens
            events.put(error)

    with Client(endpoint, attempts=3) as client:
        try:
            for _ in range(min(WORKERS, len(prompts))):
                # Daemons: a server that says nothing must not keep ours from ending.
                threading.Thread(target=work, args=(client,), daemon=True).start()
            left = len(prompts)
            while left:
                event = events.get()
                if isinstance(event, Exception):
                    raise event
                left -= event["done"]
                yield event
        finally:
            abandoned.set()


class _Abandoned(Exception):
    """Nobody listens any more."""


class _Said:
    """The text of a reply as it comes in."""

    def __init__(self, on_text: Callable[[str], None] | None) -> None:
        self.on_text, self.text, self.understood = on_text, "", False

    def add(self, event: Any) -> None:
        """Take one event of a stream; those of other kinds (usage, a role, a model's thoughts) say nothing."""
        try:
            choices = event["choices"]
            content = choices[0]["delta"].get("content") if choices else None
        except (KeyError, IndexError, TypeError, AttributeError):
            return
        self.understood = True
        if isinstance(content, str) and content:
            self.text += content
            if self.on_text:
                self.on_text(self.text)

    def take_whole(self, body: bytes) -> None:
        """Take a reply that was not streamed."""
        try:
            content = json.loads(body)["choices"][0]["message"]["content"]
        except (ValueError, KeyError, IndexError, TypeError, RecursionError):
            return
        self.understood = True
        self.text = content if isinstance(content, str) else ""


async def _events(response: httpx.Response) -> AsyncIterator[Any]:
    """The JSON values of a stream of server-sent events, up to its [DONE]."""
    async for line in _lines(response):
        data = line.removeprefix(b"data:").strip()
        if not line.startswith(b"data:") or not data:
            continue
        if data == b"[DONE]":
            return
        with contextlib.suppress(ValueError, RecursionError):
            yield json.loads(data)


async def _lines(response: httpx.Response) -> AsyncIterator[bytes]:
    rest = bytearray()
    async for piece in _pieces(response):
        rest += piece
        if b"\n" in piece:
            *lines, last = bytes(rest).split(b"\n")
            rest = bytearray(last)
            for line in lines:
                yield line
    yield bytes(rest)


async def _read(response: httpx.Response) -> bytes:
    return b"".join([piece async for piece in _pieces(response)])


async def _pieces(response: httpx.Response) -> AsyncIterator[bytes]:
    """What comes over the line, as it is: nothing is unpacked that could be a bomb. Raises httpx.HTTPError."""
    size = 0
    async for piece in response.aiter_raw():
        size += len(piece)
        if size > LONGEST_REPLY:
            raise httpx.DecodingError("The reply is too long.")
        yield piece
