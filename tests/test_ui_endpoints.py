"""Where the page may send the server's keys: to endpoints that the owner has named, and nowhere else."""

import json
import shutil

import httpx
import pytest
from browser import Served
from conftest import wait_for
from test_judging import prefers_please, serve  # noqa: F401

from kto_workbench.judging.records import list_records
from kto_workbench.runs import Run

KEY = "sk-of-this-server"


@pytest.fixture
def served(trained, tmp_path, monkeypatch):
    """A page with one run, whose server has a key in its environment."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    shutil.copytree(trained.path, tmp_path / "workspace" / "runs" / trained.id)
    served = Served(tmp_path / "workspace", tmp_path / "server.log")
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
