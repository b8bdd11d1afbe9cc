"""Endpoints: who names them, what their file may hold, and one client against servers that mean well and ill."""

import concurrent.futures
import contextlib
import json
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import yaml
from conftest import only_json

from kto_workbench.errors import ConfigError, WorkbenchError
from kto_workbench.runs import completions
from kto_workbench.runs.completions import Client, answers
from kto_workbench.runs.endpoints import (
    Endpoint,
    add_endpoint,
    completions_url,
    find_endpoint,
    is_loopback,
    read_endpoints,
    remove_endpoint,
)

pytestmark = pytest.mark.reliability("An endpoint is asked at its own address alone, and no longer than its time")

KEY = "sk-very-secret-123"
SAMPLING = dict(seed=5, temperature=0.5, max_new_tokens=32)


class Chatty:
    """An OpenAI-compatible server on this machine; `do(handler, body)` writes the answer to a question."""

    def __init__(self, do):
        self.do, self.asked, self.headers = do, [], []
        chatty = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                whole(self, {"data": []})

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                chatty.asked.append(body)
                chatty.headers.append(dict(self.headers))
                chatty.do(self, body)

            def log_message(self, *_):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"
        self.thread = threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()

    def close(self):
        self.http.shutdown()
        self.http.server_close()
        self.thread.join()


@pytest.fixture
def chatty():
    """Start such a server: `chatty(do)`."""
    servers = []

    def started(do):
        servers.append(Chatty(do))
        return servers[-1]

    yield started
    for server in servers:
        server.close()


def whole(handler, value, status=200, **headers):
    """A JSON answer in one piece."""
    text = value if isinstance(value, bytes) else json.dumps(value).encode()
    handler.send_response(status)
    for name, one in {"content-type": "application/json", "content-length": str(len(text)), **headers}.items():
        handler.send_header(name, one)
    handler.end_headers()
    handler.wfile.write(text)


def begin_stream(handler):
    handler.send_response(200)
    handler.send_header("content-type", "text/event-stream")
    handler.send_header("connection", "close")
    handler.end_headers()


def piece(handler, text):
    """One event of a stream."""
    event = {"choices": [{"index": 0, "delta": {"content": text}}]}
    handler.wfile.write(f"data: {json.dumps(event)}\n\n".encode())
    handler.wfile.flush()


def echo(handler, body):
    """Say back the last message, word by word."""
    begin_stream(handler)
    for word in body["messages"][-1]["content"].split():
        piece(handler, f" {word}")
    handler.wfile.write(b'data: {"choices": [], "usage": {"total_tokens": 9}}\n\ndata: [DONE]\n\n')


def final(events):
    done = {event["prompt"]: event["text"] for event in events if event["done"]}
    return [done[number] for number in sorted(done)]


# names ---------------------------------------------------------------------------------------------------------------


def test_the_owner_names_lists_and_forgets_endpoints_at_the_shell(kto, tmp_path, monkeypatch):
    monkeypatch.setenv("HERE_API_KEY", KEY)
    add = ["endpoint", "add", "--url", "http://127.0.0.1:8000/v1", "--model", "Qwen/Qwen3-8B"]
    assert "is not set here" in kto(*add, "local", "--key-env", "NOT_HERE_API_KEY").stdout
    assert "not set" not in kto(*add, "local", "--key-env", "HERE_API_KEY").stdout
    kto("endpoint", "--workspace", "elsewhere", *add[1:], "other")  # before the second verb or behind it
    kto(*add, "third", "--workspace", "elsewhere")
    text = (tmp_path / "workspace" / "endpoints.yaml").read_text()
    fields = {"url": "http://127.0.0.1:8000/v1", "model": "Qwen/Qwen3-8B", "key_env": "HERE_API_KEY"}
    assert yaml.safe_load(text) == {"local": fields} and KEY not in text
    assert only_json(kto("endpoint", "list", "--json")) == {"endpoints": [{**fields, "name": "local"}]}
    assert list(read_endpoints(tmp_path / "elsewhere")) == ["other", "third"]
    for refused, sentence in [
        (("remove", "loca"), "There is no endpoint 'loca' in this workspace, which has local; see `kto endpoint add`."),
        (("add", "x", "--url", "http://h/v1", "--model", "m", "--key-env", KEY), "Name the environment variable "),
        (("add", "a b", "--url", "http://h/v1", "--model", "m"), "An endpoint's name consists of letters, "),
        (("add", "x", "--url", "http://h/v1", "--model", " "), "An endpoint needs the name of its model, "),
        (("add", "x", "--url", "http://h/v1"), "The following arguments are required: --model; "),
    ]:
        done = kto("endpoint", *refused, code=2)
        assert done.stderr.startswith(sentence) and KEY not in done.stderr
    kto("endpoint", "remove", "local")
    assert "No endpoints in workspace yet" in kto("endpoint", "list").stdout


def test_a_file_written_by_hand_is_read_or_refused_in_one_sentence(tmp_path):
    path = tmp_path / "endpoints.yaml"
    assert read_endpoints(tmp_path) == {}
    path.write_text("vllm:\n  url: http://gpu:8000/v1\n  model: m\n")
    assert find_endpoint("vllm", tmp_path) == Endpoint("http://gpu:8000/v1", "m", name="vllm")
    add_endpoint(Endpoint("https://x/v1", "n", name="second"), tmp_path)
    remove_endpoint("vllm", tmp_path)
    assert list(read_endpoints(tmp_path)) == ["second"]
    for text in (
        f"a: {{url: 'http://x/v1', model: m, key: {KEY}}}",
        f"a: {{url: 'http://x/v1', model: m, key_env: {KEY}}}",
        f"a: {{url: 'http://me:{KEY}@x/v1', model: m}}",
        "a: {url: 'http://x/v1'}",
        "a: {url: 'http://x/v1', model: 7}",
        "a: {url: 'file:///etc/passwd', model: m}",
        "a: 3",
        "a/b: {url: 'http://x/v1', model: m}",
        "[1, 2]",
        "a: [",
        "a: !!python/object/apply:os.system ['true']",
        "[" * 5000,
        "\x00",
    ):
        path.write_text(text)
        with pytest.raises(ConfigError) as caught:
            read_endpoints(tmp_path)
        assert str(caught.value).startswith("Can't read ") and KEY not in str(caught.value), text
        with pytest.raises(ConfigError):  # a file that can't be read is not written over
            add_endpoint(Endpoint("https://x/v1", "n", name="second"), tmp_path)
        assert path.read_text() == text


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "ftp://a", "127.0.0.1:80", "http://", "", "http://a:b", "gopher://x"]
)
def test_only_http_addresses_are_asked(url):
    with pytest.raises(ConfigError, match="address"):
        Endpoint(url, "m")


@pytest.mark.parametrize(
    "host",
    [
        "169.254.169.254", "169.254.0.1:80", "2852039166", "0xA9FEA9FE", "169.254.43518", "0251.254.169.254",
        "[fe80::1]", "[fe80::1%25eth0]", "[::ffff:169.254.169.254]", "[64:ff9b::a9fe:a9fe]", "[2002:a9fe:a9fe::]",
        "[fd00:ec2::254]", "100.100.100.200", "224.0.0.1", "[ff02::1]",
    ],
)  # fmt: skip
def test_where_clouds_keep_credentials_no_endpoint_is(host):
    with pytest.raises(ConfigError, match="No endpoint is at"):
        Endpoint(f"http://{host}/latest", "m")


def test_addresses():
    assert (
        completions_url(" https://x/v1/ ")
        == completions_url("https://x/v1/chat/completions")
        == "https://x/v1/chat/completions"
    )
    for url in ("http://me:secret@x/v1", "http://x/v1?key=secret"):
        with pytest.raises(ConfigError) as caught:
            completions_url(url)
        assert "secret" not in str(caught.value)
    for variable in (KEY, "gsk_written_here"):
        with pytest.raises(ConfigError, match="^Name the environment variable that holds the key, .*, not the key.$"):
            Endpoint("http://x/v1", "m", variable)
    assert is_loopback("http://127.0.0.1:8/v1") and is_loopback("http://[::1]/v1")
    for host in ("10.0.0.1", "192.168.1.1", "100.64.0.7", "[fd12::1]", "[::1]", "8.8.8.8", "metadata", "0.0.0.0", "1"):
        Endpoint(f"http://{host}/v1", "m")  # a machine of one's own network
    assert is_loopback("http://localhost/v1") and not is_loopback("http://127.0.0.1.example/v1")


# the client ----------------------------------------------------------------------------------------------------------


def test_answers_grow_as_they_are_streamed_and_come_in_order(chatty):
    server = chatty(echo)
    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "one two"}]
    tools = [{"type": "function", "function": {"name": "look"}}]
    asked = ["Hello good world", [chat[0] | {"tools": tools}, chat[1]], "a b"]
    events = list(answers(Endpoint(server.url, "m"), asked, **SAMPLING))
    assert final(events) == ["Hello good world", "one two", "a b"]
    mine = [event["text"] for event in events if event["prompt"] == 0]
    assert mine == ["Hello", "Hello good", "Hello good world", "Hello good world"]
    by_seed = {body["seed"]: body for body in server.asked}
    assert sorted(by_seed) == [5, 6, 7]  # the same prompt twice would get two answers
    assert by_seed[6]["messages"] == chat and by_seed[5]["messages"] == [
        {"role": "user", "content": "Hello good world"}
    ]
    assert by_seed[6]["tools"] == tools and "tools" not in by_seed[5]
    for body in server.asked:
        assert (body["model"], body["temperature"], body["max_tokens"], body["stream"]) == ("m", 0.5, 32, True)


def test_a_server_that_does_not_stream_answers_whole(chatty):
    reply = {"choices": [{"message": {"role": "assistant", "content": " All at once. "}}]}
    server = chatty(lambda handler, body: whole(handler, reply))
    assert list(answers(Endpoint(server.url, "m"), ["Hi"], **SAMPLING)) == [
        {"prompt": 0, "text": "All at once.", "done": True}
    ]

    def picky(handler, body):
        for name in ("stream", "seed"):
            if name in body:
                return whole(handler, {"detail": f"extra field {name}"}, 422)
        whole(handler, reply)

    server.do = picky
    assert final(answers(Endpoint(server.url, "m"), ["Hi"], **SAMPLING)) == ["All at once."]


def test_characters_cut_by_the_line_are_put_together(chatty):
    def cut(handler, body):
        begin_stream(handler)
        event = {"choices": [{"delta": {"content": "é好😀"}}]}
        for byte in f"data: {json.dumps(event, ensure_ascii=False)}\r\n\r\ndata: [DONE]\n".encode():
            handler.wfile.write(bytes([byte]))
            handler.wfile.flush()

    assert final(answers(Endpoint(chatty(cut).url, "m"), ["Hi \ud800"], **SAMPLING)) == ["é好😀"]


def test_a_redirect_does_not_carry_the_key_to_another_host(chatty, monkeypatch):
    monkeypatch.setenv("OWN_API_KEY", KEY)
    thief = chatty(echo)
    for status in (301, 302, 303, 307, 308):
        server = chatty(lambda handler, body, s=status: whole(handler, {}, s, location=f"{thief.url}/chat/completions"))
        server.http.RequestHandlerClass.do_GET = lambda handler: whole(handler, {}, 307, location=f"{thief.url}/models")
        with Client(Endpoint(server.url, "m", "OWN_API_KEY", "mine")) as client:
            client.reach()
        with pytest.raises(WorkbenchError, match=f"^The endpoint mine refused: HTTP {status}.$"):
            list(answers(Endpoint(server.url, "m", "OWN_API_KEY", "mine"), ["Hi"], **SAMPLING))
        assert server.headers[0]["Authorization"] == f"Bearer {KEY}"
    assert not thief.headers


def test_what_breaks_off_is_one_sentence(chatty):
    def half(handler, body):
        begin_stream(handler)
        piece(handler, "Well,")
        handler.wfile.write(b'data: {"error": {"message": "out of memory"}}\n\n')

    server = chatty(half)
    named = Endpoint(server.url, "m", name="local")
    events = []
    with pytest.raises(WorkbenchError) as caught:
        events.extend(answers(named, ["Hi"], **SAMPLING))
    assert str(caught.value) == "The endpoint local refused: it broke off (out of memory)."
    server.do = lambda handler, body: whole(handler, b"<html>hello</html>")
    with pytest.raises(WorkbenchError, match="^What is at local does not answer like an OpenAI-compatible endpoint.$"):
        list(answers(named, ["Hi"], **SAMPLING))
    server.do = lambda handler, body: whole(handler, b"[" * 100_000)
    with pytest.raises(WorkbenchError, match="does not answer like"):
        list(answers(named, ["Hi"], **SAMPLING))


def test_a_reply_without_end_and_one_that_drips_are_cut_off(chatty, monkeypatch):
    monkeypatch.setattr(completions, "LONGEST_REPLY", 200_000)
    written = []

    def endless(handler, body):
        begin_stream(handler)
        try:
            while True:
                piece(handler, "x" * 1000)
                written.append(1000)
        except OSError:  # the client has gone
            pass

    server = chatty(endless)
    with pytest.raises(WorkbenchError, match=r"^The endpoint .* failed: it broke off \(DecodingError\).$"):
        list(answers(Endpoint(server.url, "m"), ["Hi"], **SAMPLING))
    monkeypatch.setattr(completions, "LONGEST_REPLY", 2**30)
    monkeypatch.setattr(completions, "REPLY_SECONDS", 0.2)
    with pytest.raises(WorkbenchError, match=r"^The endpoint .* failed: it broke off \(ReadTimeout\).$"):
        list(answers(Endpoint(server.url, "m"), ["Hi"], **SAMPLING))


@pytest.fixture
def dripping():
    """A server that begins to answer, and goes on with one of `drops` again and again: `dripping(first, drop)`."""
    ended, listeners = threading.Event(), []

    def pour(listener, first, drop):
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                with connection, contextlib.suppress(OSError):
                    connection.sendall(first)
                    while drop and not ended.wait(0.005):
                        connection.sendall(drop)
                    ended.wait(30)

    def started(first, drop):
        listener = socket.create_server(("127.0.0.1", 0))
        listeners.append((listener, threading.Thread(target=pour, args=(listener, first, drop), daemon=True)))
        listeners[-1][1].start()
        return f"http://127.0.0.1:{listener.getsockname()[1]}/v1"

    yield started
    ended.set()
    for listener, thread in listeners:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"


@pytest.mark.parametrize(
    ("first", "drop"),
    [
        (b"", b""),
        (HEAD[:9], b""),
        (HEAD + b"x-slow: ", b"z"),
        (HEAD, b"x: y\r\n"),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        (HEAD + b"\r\ndata: ", b" "),
        (HEAD + b"\r\n", b": alive\n\n"),
        (HEAD + b"transfer-encoding: chunked\r\n\r\n", b"1\r\n\n\r\n"),
        (HEAD + b"transfer-encoding: chunked\r\n\r\n1", b"0"),
    ],
)
def test_an_exchange_ends_in_time_whatever_drips(dripping, first, drop, monkeypatch):
    monkeypatch.setattr(completions, "REPLY_SECONDS", 0.3)
    url = dripping(first, drop)
    began = time.monotonic()
    with pytest.raises(WorkbenchError, match=r"failed.*: it broke off \((ReadTimeout|RemoteProtocolError)\)\.$"):
        list(answers(Endpoint(url, "m"), ["Hi"], **SAMPLING))
    with Client(Endpoint(url, "m")) as client, pytest.raises(WorkbenchError):
        client.ask([{"role": "user", "content": "Hi"}], max_tokens=1)
    monkeypatch.setattr(completions, "SILENT_SECONDS", 0.3)
    with Client(Endpoint(url, "m")) as client:
        with contextlib.suppress(WorkbenchError):  # whoever begins to answer is there
            client.reach()
    assert time.monotonic() - began < 30  # a thousand times less than it would drip


def test_who_leaves_waits_for_no_answer(dripping):
    said = []

    def ask(client):
        try:
            client.ask([{"role": "user", "content": "Hi"}], max_tokens=1)
        except concurrent.futures.CancelledError as error:
            said.append(error)

    with Client(Endpoint(dripping(b"", b""), "m")) as client:
        asking = [threading.Thread(target=ask, args=(client,)) for _ in range(3)]
        for thread in asking:
            thread.start()
    for thread in asking:
        thread.join(30)
    assert len(said) == 3
    with pytest.raises(concurrent.futures.CancelledError):
        client.reach()


def test_a_name_that_leads_where_no_endpoint_is_gets_nothing(chatty, monkeypatch):
    """The address is looked at when the line stands, so no second lookup can lead elsewhere."""
    monkeypatch.setenv("OWN_API_KEY", KEY)
    server = chatty(echo)
    named = Endpoint(server.url.replace("127.0.0.1", "localhost"), "m", "OWN_API_KEY", "mine")
    monkeypatch.setattr(completions, "is_off_limits", lambda host: host == "127.0.0.1")
    sentence = r"^The endpoint mine refused: it is at 127\.0\.0\.1, where no endpoint is\.$"
    with pytest.raises(WorkbenchError, match=sentence):
        list(answers(named, ["Hi"], **SAMPLING))
    with Client(named) as client, pytest.raises(WorkbenchError, match=sentence):
        client.reach()
    assert not server.headers


def test_a_bomb_is_not_unpacked(chatty):
    import gzip

    bomb = gzip.compress(b'{"choices": [{"message": {"content": "' + b"x" * 50_000_000 + b'"}}]}')
    server = chatty(lambda handler, body: whole(handler, bomb, **{"content-encoding": "gzip"}))
    with pytest.raises(WorkbenchError, match="does not answer like"):
        list(answers(Endpoint(server.url, "m"), ["Hi"], **SAMPLING))
    assert server.headers[0]["Accept-Encoding"] == "identity"


def test_whoever_stops_listening_ends_the_asking(chatty):
    gone = threading.Event()

    def endless(handler, body):
        begin_stream(handler)
        try:
            while True:
                piece(handler, "on and ")
        except OSError:
            gone.set()

    asked = answers(Endpoint(chatty(endless).url, "m"), ["Hi"], **SAMPLING)
    assert next(asked)["text"]
    asked.close()
    assert gone.wait(30)
