"""The page against other sites, other machines, and files that are none of its business."""

import json
import socket
from pathlib import Path

import httpx
import pytest
from browser import Served

from kto_workbench.errors import WorkbenchError
from kto_workbench.ui import app
from kto_workbench.ui.security import LOOPBACK, _host_name, is_loopback
from kto_workbench.ui.workbench import Workbench

pytestmark = pytest.mark.reliability("Other sites, names and machines get nothing, and no file but what is offered")


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    folder = tmp_path_factory.mktemp("security")
    (folder / "secret.txt").write_text("the secret")
    served = Served(folder / "workspace", folder / "server.log")
    yield served
    served.stop()


@pytest.fixture(scope="module")
def client(served):
    with httpx.Client(base_url=served.url, timeout=20) as client:
        yield client


def upload(client, name="rows.jsonl", content=b"{}", headers=None):
    return client.post("/gradio_api/upload", files={"files": (name, content)}, headers=headers or {})


def test_it_answers_its_own_names_only(client, served):
    assert client.get("/").status_code == 200
    assert client.get("/", headers={"host": f"localhost:{served.port}"}).status_code == 200
    for host in ("evil.example", "127.0.0.1.evil.example", f"evil.example:{served.port}"):
        assert client.get("/", headers={"host": host}).status_code == 400


@pytest.mark.parametrize("host", ["", "@127.0.0.1", "127.0.0.1@evil.example", "[::1", "127.0.0.1:x", "a b", "::1:80"])
def test_what_is_no_host_is_none_of_ours(host):
    assert _host_name({"headers": [(b"host", host.encode())]}) not in LOOPBACK


def test_it_can_be_reached_by_ipv6(tmp_path):
    try:
        with socket.socket(socket.AF_INET6) as free:
            free.bind(("::1", 0))
    except OSError:
        pytest.skip("this machine has no IPv6")
    served = Served(tmp_path / "workspace", tmp_path / "server.log", host="::1")
    try:
        assert served.url == f"http://[::1]:{served.port}"
        with httpx.Client(base_url=served.url, timeout=20) as client:
            assert client.get("/config").status_code == 200
            assert upload(client, headers={"origin": served.url}).status_code == 200
            assert client.get("/", headers={"host": "evil.example"}).status_code == 400
    finally:
        served.stop()


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "http://127.0.0.1:1", "https://localhost.evil.example"]
)
def test_other_sites_may_neither_upload_nor_call(client, origin):
    headers = {"origin": origin}
    assert upload(client, headers=headers).status_code == 403
    assert client.post("/gradio_api/queue/join", json={"data": [], "fn_index": 0}, headers=headers).status_code == 403
    answer = client.get("/config", headers=headers)
    assert answer.status_code == 403 and "access-control-allow-origin" not in answer.headers


def test_a_form_posted_by_another_site_is_refused_even_without_an_origin(client):
    assert upload(client, headers={"sec-fetch-site": "cross-site"}).status_code == 403
    assert upload(client, headers={"sec-fetch-site": "same-origin"}).status_code == 200


def test_the_page_itself_may_upload(client, served):
    assert upload(client, headers={"origin": served.url}).status_code == 200


def test_every_answer_forbids_other_origins_frames_and_sniffing(client):
    for path in ("/", "/config", "/no-such-page"):
        headers = client.get(path).headers
        assert "default-src 'self'" in headers["content-security-policy"]
        assert "frame-ancestors 'self'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff" and headers["referrer-policy"] == "no-referrer"


def test_files_outside_stay_outside(client, served):
    folder = served.workspace.parent
    (served.workspace / "runs").mkdir(exist_ok=True)
    (served.workspace / "runs" / "note.txt").write_text("private")
    (served.workspace / "link.txt").symlink_to(folder / "secret.txt")
    targets = [
        "/etc/passwd",
        "/ETC/passwd",
        "//etc/passwd",
        str(folder / "secret.txt"),
        str(served.workspace / "link.txt"),
        str(served.workspace / "runs" / "note.txt"),
        "app.py",
        "pyproject.toml",
        "../../../../etc/passwd",
        "..%2f..%2f..%2f..%2fetc%2fpasswd",
        "http://127.0.0.1:1/",
        "http%3A%2F%2F169.254.169.254%2Flatest%2Fmeta-data",
        f"{served.workspace}/cache/page/../../../secret.txt",
        ".git/config",
    ]
    for target in targets:
        for route in ("/gradio_api/file=", "/file=", "/gradio_api/file/", "/static/", "/assets/", "/theme.css/../"):
            answer = client.get(route + target)
            assert answer.status_code >= 400 or b"<!doctype html>" in answer.content.lower(), (route, target)
            assert b"root:" not in answer.content and b"the secret" not in answer.content


def test_an_uploaded_page_is_not_run_on_this_origin(client):
    for name in ("page.html", "picture.svg", "page.xhtml", "data.xml"):
        content = b"<script>parent.document.title='stolen'</script>"
        path = upload(client, name, content).json()[0]
        answer = client.get(f"/gradio_api/file={path}")
        if answer.status_code == 200:
            assert "attachment" in answer.headers.get("content-disposition", ""), name


def test_upload_names_can_not_leave_their_folder(client, served):
    for name in ("../../evil.jsonl", "..\\..\\evil.jsonl", "/etc/cron.d/evil", ".bashrc", "a\x00b.jsonl"):
        answer = upload(client, name)
        if answer.status_code == 200:
            path = answer.json()[0]
            assert path.startswith(str(served.workspace / "cache" / "page")) and ".." not in Path(path).parts
    assert not list(served.workspace.parent.glob("evil*"))


def test_a_file_whose_name_begins_with_dots_is_like_any_other(client):
    """Inside of the working directory, gradio takes such a file and then answers its event with "Error"."""
    for name, kept in ((".bashrc", "bashrc"), ("..rows.jsonl", "rows.jsonl"), ("...", "file"), (".a.b", "a.b")):
        answer = upload(client, name)
        assert answer.status_code == 200 and Path(answer.json()[0]).name == kept


def test_a_forged_file_is_not_copied_into_the_workspace(client, served):
    """The upload event with a path of the attacker's choice instead of an uploaded file."""
    config = client.get("/config").json()
    ids = {part["id"]: (part["props"].get("elem_id") or "") for part in config["components"]}
    event = next(
        one for one in config["dependencies"] if any(ids.get(target[0]) == "data-upload" for target in one["targets"])
    )
    forged = {"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}, "orig_name": "rows.jsonl"}
    for data in (forged, {**forged, "url": "http://127.0.0.1:1/", "path": ""}, "/etc/passwd"):
        joined = client.post(
            "/gradio_api/queue/join", json={"data": [data], "fn_index": event["id"], "session_hash": "attack"}
        )
        if joined.status_code == 200:
            with client.stream("GET", "/gradio_api/queue/data?session_hash=attack") as stream:
                for line in stream.iter_lines():
                    if line.startswith("data:") and json.loads(line[5:])["msg"] in (
                        "process_completed",
                        "close_stream",
                    ):
                        break
    assert not list(served.workspace.glob("uploads/*"))


def test_feedback_comes_from_what_is_offered_only(tmp_path):
    bench = Workbench(tmp_path / "workspace")
    secret = tmp_path / "secret.jsonl"
    secret.write_text('{"prompt": "p", "completion": "c", "label": true}\n')
    for source in (str(secret), "/etc/passwd", "../secret.jsonl", "", None, "demo/../demo", ["demo"]):
        with pytest.raises(WorkbenchError):
            bench.feedback(source)
    with pytest.raises(WorkbenchError, match="received"):
        bench.keep_upload(secret)
    bench.received.mkdir(parents=True)
    kept = bench.keep_upload(secret.rename(bench.received / "rows.jsonl"))
    assert len(bench.feedback(kept).rows) == 1


def test_uploads_get_tame_names_and_do_not_overwrite_each_other(tmp_path):
    bench = Workbench(tmp_path / "workspace")
    for folder, content in (("a", "1"), ("b", "2"), ("c", "1")):
        (bench.received / folder).mkdir(parents=True)
        (bench.received / folder / ".. $(rm) x;y.jsonl").write_text(content)
    names = [bench.keep_upload(bench.received / folder / ".. $(rm) x;y.jsonl") for folder in "abc"]
    assert names[0] == names[2] != names[1]  # the same bytes are kept once
    for path in bench.uploaded():
        assert path.parent == bench.uploads and not set(path.name) & set(" $();") and not path.name.startswith(".")


def test_runs_are_named_not_reached_by_path(tmp_path):
    bench = Workbench(tmp_path)
    for name in ("../../etc", "/etc", "..", ".", "a/b", "", None, "x\x00y"):
        with pytest.raises(WorkbenchError):
            bench.run(name)


def test_other_machines_need_a_password():
    for host in ("0.0.0.0", "::", "192.168.1.5", "example.org"):
        with pytest.raises(WorkbenchError, match="password"):
            app.serve("workspace", host=host, open_browser=False)
        with pytest.raises(WorkbenchError, match="password"):
            app.build("workspace", host=host)
    assert is_loopback("127.0.0.1") and is_loopback("localhost") and is_loopback("127.1.2.3") and is_loopback("::1")
    assert not is_loopback("127.0.0.1.evil.example")


def test_the_password_is_asked_for(tmp_path):
    served = Served(tmp_path / "workspace", tmp_path / "server.log", host="0.0.0.0", password="open sesame")
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{served.port}", timeout=20) as client:
            assert client.get("/config").status_code == 401
            assert upload(client).status_code == 401
            wrong = client.post("/login", data={"username": "me", "password": "open"})
            assert wrong.status_code == 400
            assert client.get("/config").status_code == 401
            right = client.post("/login", data={"username": "me", "password": "open sesame"})
            assert right.status_code == 200
            assert client.get("/config").status_code == 200
    finally:
        served.stop()


def test_a_taken_port_makes_way_for_the_next(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        listener, found = app._listen("127.0.0.1", port)
        with listener:
            assert port < found < port + app.PORTS_TRIED


def test_a_workspace_that_can_not_be_written_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(WorkbenchError, match="Can't write to the workspace"):
        app.build(tmp_path / "file")
