"""Where the page may send the server's keys: to endpoints that the owner has named, and nowhere else."""

import json
import shutil
import threading

import httpx
import pytest
from browser import Served
from conftest import wait_for
from test_endpoints import chatty, echo  # noqa: F401
from test_judging import prefers_please, serve  # noqa: F401

from kto_workbench.judging.records import list_records
from kto_workbench.runs import Run
from kto_workbench.runs.endpoints import Endpoint, add_endpoint
from kto_workbench.ui.answers import ASKED_AT_ONCE

pytestmark = pytest.mark.reliability("An endpoint is asked at its own address alone, and no longer than its time")

KEY = "sk-of-this-server"


@pytest.fixture(scope="module")
def served(trained, tmp_path_factory):
    """A page with one run, whose server has a key in its environment."""
    folder = tmp_path_factory.mktemp("endpoints")
    shutil.copytree(trained.path, folder / "workspace" / "runs" / trained.id)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPENAI_API_KEY", KEY)
        served = Served(folder / "workspace", folder / "server.log")
    yield served
    served.stop()


def send(client, event, data):
    """What comes of an event with the data of a visitor's choice."""
    client.post("/gradio_api/queue/join", json={"data": data, "fn_index": event["id"], "session_hash": "visitor"})
    with client.stream("GET", "/gradio_api/queue/data?session_hash=visitor") as stream:
        for line in stream.iter_lines():
            if line.startswith("data:") and json.loads(line[5:])["msg"] in ("process_completed", "close_stream"):
                return json.loads(line[5:])


def test_a_visitor_can_not_have_the_servers_key_sent_to_an_address_of_their_own(served, trained, serve):  # noqa: F811
    theirs = serve(prefers_please)
    run = Run(served.workspace / "runs" / trained.id)
    with httpx.Client(base_url=served.url, timeout=20) as client:
        config = client.get("/config").json()
        parts = {part["id"]: part["props"] for part in config["components"]}
        names = {number: props.get("elem_id") for number, props in parts.items()}
        events = config["dependencies"]
        # Gradio takes a choice only if it was offered to this visitor before.
        offers = next(
            one for one in events if {names[part] for part in one["outputs"]} > {"evaluate-run", "evaluate-prompts"}
        )
        assert send(client, offers, [None for _ in offers["inputs"]])["success"]
        event = next(one for one in events if "evaluate-start" in [names.get(part) for part, _ in one["targets"]])
        wanted = {
            "evaluate-run": run.id, "evaluate-against": "reference", "evaluate-prompts": "demo", "evaluate-limit": 2,
            "evaluate-judge": "endpoint", "evaluate-url": theirs.url, "evaluate-model": "m",
            "evaluate-key": "OPENAI_API_KEY", "evaluate-endpoint": theirs.url,
        }  # fmt: skip
        fields = [parts[number] for number in event["inputs"]]
        data = [wanted.get(field.get("elem_id"), field.get("value")) for field in fields]
        # as the page asks, with the address where a name belongs, and as one asks who knows an older page
        for sent in (data, [theirs.url if value == "endpoint" else value for value in data], [*data, theirs.url]):
            send(client, event, sent)
        older = {
            "run": run.id, "against": "reference", "checkpoints": False, "prompts": "demo", "limit": 2,
            "kind": "endpoint", "argument": "", "url": theirs.url, "model": "m", "key": "OPENAI_API_KEY",
            "criteria": "", "max_tokens": 16, "price_read": None, "price_written": None,
        }  # fmt: skip
        send(client, event, list(older.values()))
    for record in list_records(run):  # whatever was begun has come to its end
        wait_for(lambda record=record: record.read()["state"] not in ("starting", "running"))
    assert not theirs.headers and KEY not in json.dumps(theirs.asked)


def test_who_waits_for_a_slow_endpoint_holds_up_nobody_else(served, chatty):  # noqa: F811
    asked, enough = threading.Semaphore(0), threading.Event()

    def never(handler, body):
        asked.release()
        enough.wait(60)

    slow, quick = chatty(never), chatty(echo)
    for name, server in (("slow", slow), ("quick", quick)):
        add_endpoint(Endpoint(server.url, "m", name=name), served.workspace)
    try:
        with httpx.Client(base_url=served.url, timeout=20) as client:
            config = client.get("/config").json()
            parts = {part["id"]: part["props"] for part in config["components"]}
            of = lambda one, side: {parts[number].get("elem_id") for number in one[side]}
            event = next(
                one
                for one in config["dependencies"]
                if one["queue"] and {"feedback-chat", "feedback-run"} <= of(one, "inputs")
            )

            def say(session, name):
                chat = [{"role": "user", "content": [{"type": "text", "text": "one two"}]}]
                wanted = {"feedback-chat": chat, "feedback-run": f"endpoint:{name}"}
                data = [
                    wanted.get(parts[number].get("elem_id"), parts[number].get("value")) for number in event["inputs"]
                ]
                body = {"data": data, "fn_index": event["id"], "session_hash": session}
                assert client.post("/gradio_api/queue/join", json=body).status_code == 200

            for number in range(ASKED_AT_ONCE - 1):
                say(f"waiting {number}", "slow")
            for _ in range(ASKED_AT_ONCE - 1):
                assert asked.acquire(timeout=20)
            say("served", "quick")
            with client.stream("GET", "/gradio_api/queue/data?session_hash=served") as stream:
                said = next(line for line in stream.iter_lines() if '"process_completed"' in line)
            assert json.loads(said[5:])["success"] and "one two" in quick.asked[0]["messages"][-1]["content"]
    finally:
        enough.set()
