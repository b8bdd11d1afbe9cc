"""Every route and every event of the page, with what no page sends: refused in a line, by a server that goes on."""

import json
import random
import re
import socket
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import fake_training
import httpx
import pytest
from browser import Served

from kto_workbench.config import KTOConfig
from kto_workbench.runs import list_runs
from kto_workbench.runs.directory import new_run
from kto_workbench.ui import security
from kto_workbench.ui.events import in_one_line

pytestmark = pytest.mark.reliability("What no page sends is refused in a line, and does nothing")

SECRET = "the content of a file that is nobody's business"
QUICK, LONG = 1, 60  # rounds through all events
# Answers that go on for ever: only their beginning is looked at.
PATHS = [
    "..%2f..%2fsecret.txt", "%2e%2e/secret.txt", "/etc/passwd", "0", "-1", "x" * 3000, "%00", "http:%2f%2f127.0.0.1:1/",
    "predict", "main", "%ff%fe", "{}", "..", "%0d%0aset-cookie:%20a=b",
]  # fmt: skip


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    folder = tmp_path_factory.mktemp("events")
    (folder / "secret.txt").write_text(SECRET)
    config = KTOConfig(workspace=str(folder / "workspace"), desirable_weight=1, undesirable_weight=1)
    run = new_run(config, {"data": "demo", "rows": 4, "n_desirable": 2, "n_undesirable": 2})
    fake_training.train(run, 12, 0)
    served = Served(folder / "workspace", folder / "server.log")
    yield served
    served.stop()


@pytest.fixture
def witness():
    """A server of this machine that nobody has a reason to ask."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_error(404)

        do_POST = do_HEAD = do_GET

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/secret", asked
    server.shutdown()
    server.server_close()


def forged_files(url, secret):
    """What a page sends of an uploaded file, of files that were never uploaded."""
    forged = {"meta": {"_type": "gradio.FileData"}, "orig_name": "a.jsonl"}
    return [
        {"path": secret, **forged}, [{"path": secret, **forged}], {"path": url, "url": url, **forged}, secret, [secret],
        {"path": "", "url": f"file://{secret}", **forged}, {"path": secret, "is_stream": True, **forged},
        {"file": {"path": secret, **forged}}, {"path": f"cache/page/../../../{secret.rsplit('/', 1)[1]}", **forged},
        {"path": "/proc/self/environ", **forged}, {**forged, "path": secret, "orig_name": "../../../evil.jsonl"},
    ]  # fmt: skip


def junk(run, url, secret):
    """Values of every type, and files, addresses and updates that somebody would like to have."""
    forged = {"meta": {"_type": "gradio.FileData"}, "orig_name": "a.jsonl"}
    return [
        *forged_files(url, secret),
        None, True, -1, 0, 2**70, 1e308, float("nan"), "", "x" * 50_000, "\ud800", "a\nb\r\n\0c", secret, url, run, [],
        [[]], {}, [None], {"a": [1]}, ["a", 1], "../" + run, run + "@checkpoint-1", {"__type__": "update", "value": 1},
        {"path": "", "url": url, **forged}, [{"role": "user", "content": [{"type": "text", "text": "x"}]}],
        [{"role": "user", "content": [{"type": "file", "file": {"path": secret, **forged}}]}],
        [{"role": "assistant", "content": [{"type": "component", "component": "image", "value": url, "props": {},
                                            "constructor_args": {"value": secret}}]}],
        "a" + "\u202e" * 100, '{"a": 1}', "1e999", "[" * 2000,
    ]  # fmt: skip


def send_events(served, url, rounds, seed, cases, forge=False):
    """All events of the page, `rounds` times each; returns how many answers there were of each status.

    With `forge`, each round puts one kind of forged file wherever an event takes a value.
    """
    chance, statuses = random.Random(seed), {}
    run = list_runs(served.workspace)[-1].id  # the first; events may have begun others
    secret = str(served.workspace.parent / "secret.txt")
    values, forged = junk(run, url, secret), forged_files(url, secret)
    events = [None, {}, [], 5, {"index": 5, "value": 1}, {"index": [1, "x"], "value": {}, "liked": 3}, {"index": None}]
    with httpx.Client(base_url=served.url, timeout=60) as client:
        known = client.get("/config").json()["dependencies"]
        for number, event in enumerate(known * rounds):
            count = len(event["inputs"]) + (0 if forge else chance.choice([0] * 8 + [1, -1]))
            picked = [forged[(seed + number // len(known)) % len(forged)]] if forge else values
            body = {
                "fn_index": event["id"],
                "data": [chance.choice(picked) for _ in range(count)],
                "event_data": chance.choice(events),
                "session_hash": chance.choice(["one", "two", "", "../x", None]),
            }
            path = "/gradio_api/queue/join" if event["queue"] else "/gradio_api/run/predict"
            content = json.dumps(body).encode()
            answer = client.post(path, content=content, headers={"content-type": "application/json"})
            statuses[answer.status_code] = statuses.get(answer.status_code, 0) + 1
            assert answer.status_code < 500, (path, body, answer.text[:500])
            assert SECRET not in answer.text and "Traceback" not in answer.text and "root:" not in answer.text
        assert client.get("/config").status_code == 200
        for session in ("one", "two") if forge else ():  # others may have begun what takes its time
            check_what_was_told(client, session)
    cases(rounds * len(known))
    return statuses


def check_what_was_told(client, session):
    """Read to its end what the server has to tell a visitor, whose events have been waiting for that."""
    with client.stream("GET", "/gradio_api/queue/data", params={"session_hash": session}) as stream:
        if stream.status_code == 200:
            for line in stream.iter_lines():
                assert SECRET not in line and "Traceback" not in line and "root:x:" not in line, line[:500]
                if '"close_stream"' in line:
                    break


def check_nothing_happened(served, asked):
    log = served.log.read_text()
    assert served.process.poll() is None
    assert "Traceback" not in log and "Exception in ASGI" not in log, log[log.find("Traceback") - 500 :][:3000]
    assert not asked, asked
    assert SECRET not in log
    for path in served.workspace.rglob("*"):
        assert not path.is_file() or SECRET.encode() not in path.read_bytes(), path


def test_events_that_no_page_sends_are_refused(served, witness, cases):
    url, asked = witness
    statuses = send_events(served, url, QUICK, 0, cases)
    assert statuses[400] > 30 and statuses[200] > 20
    send_events(served, url, QUICK, 0, cases, forge=True)
    check_nothing_happened(served, asked)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 4))
def test_many_more_events_that_no_page_sends(served, witness, seed, cases):
    url, asked = witness
    send_events(served, url, LONG // 3, seed, cases)
    send_events(served, url, 4, 4 * seed - 3, cases, forge=True)  # the eleven kinds among the three seeds
    check_nothing_happened(served, asked)


ROUTES = """
import json, sys
from starlette.routing import Mount
from kto_workbench.ui.app import build
app = build(sys.argv[1])
known = [*app.routes, *next(route.app for route in app.routes if isinstance(route, Mount)).routes]
known += [inner for one in known if hasattr(one, "original_router") for inner in one.original_router.routes]
print(json.dumps(sorted({(method, one.path) for one in known for method in getattr(one, "methods", None) or ()})))
"""


def routes(workspace):
    """Every method and path that the app knows, gradio's and ours."""
    done = subprocess.run([sys.executable, "-c", ROUTES, str(workspace)], capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("password", [None, "open sesame"])
def test_no_route_gives_or_does_what_it_should_not(tmp_path_factory, witness, password, cases):
    folder = tmp_path_factory.mktemp("routes")
    (folder / "secret.txt").write_text(SECRET)
    known = routes(folder / "other")
    assert len(known) > 40
    url, asked = witness
    options = {"host": "0.0.0.0", "password": password} if password else {}
    served = Served(folder / "workspace", folder / "server.log", **options)
    bodies = [b"", b"{", b"[" * 50_000, b'{"data": 5}', json.dumps({"session_hash": [], "fn_index": "x"}).encode()]
    chance = random.Random(0)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{served.port}", timeout=30) as client:
            for method, path in known:
                if method not in security.READING:  # also one that holds a session
                    for headers in (
                        {"origin": "http://evil.example"},
                        {"origin": "null"},
                        {"sec-fetch-site": "cross-site"},
                    ):
                        target = path.replace("{", "").replace("}", "")
                        assert client.request(method, target, headers=headers, json={}).status_code == 403, (
                            method,
                            target,
                        )
                        cases(1)
                for value in chance.sample([*PATHS, url.replace(":", "%3A")], 1 if password else 2):
                    target = re.sub(r"\{[^}]*\}", lambda _, value=value: value, path)
                    query = {
                        "session_hash": "x",
                        "upload_id": "../x",
                        "event_id": "x",
                        "url": url,
                        "path": "/etc/passwd",
                    }
                    content = None if method in ("GET", "HEAD") else chance.choice(bodies)
                    with client.stream(
                        method, target, params=query, content=content, headers={"content-type": "application/json"}
                    ) as answer:
                        text = b""
                        if "event-stream" not in answer.headers.get("content-type", ""):
                            text = answer.read()
                        assert answer.status_code < 500, (method, target, content, text[:500])
                        cases(1)
                        assert SECRET.encode() not in text and b"Traceback" not in text and b"root:x:" not in text
                        assert "a=b" not in answer.headers.get("set-cookie", "")
                        if password and answer.status_code == 200 and "/gradio_api/" in target:
                            assert (
                                len(text) < 2000
                                or b"theme" in answer.headers["content-type"].encode()
                                or (b"--" in text[:200] or text.startswith((b":root", b"@import", b".")))
                            ), (method, target, text[:200])
        check_nothing_happened(served, asked)
    finally:
        served.stop()


def test_a_line_of_the_log_is_one_line():
    try:
        raise ValueError("first\nA request failed: forged\r\x1b[31m\u2028" + "x" * 100_000)
    except ValueError as error:
        line = in_one_line(error)
    assert line.isprintable() and len(line) < 500 and line.startswith("A request failed: ValueError: first")


def test_an_event_is_small(served):
    with httpx.Client(base_url=served.url, timeout=30) as client:
        with socket.create_connection(("127.0.0.1", served.port)) as told:
            told.sendall(f"POST /config HTTP/1.1\r\nHost: localhost\r\nContent-Length: {2**40}\r\n\r\n".encode())
            assert b" 413 " in told.recv(1000)
        pieces = (b" " * 2**20 for _ in range(40))  # of no length that it says
        try:
            answer = client.post(
                "/gradio_api/run/predict", content=pieces, headers={"content-type": "application/json"}
            )
            assert answer.status_code >= 400
        except httpx.TransportError:
            pass  # it was broken off
        assert client.get("/config").status_code == 200
