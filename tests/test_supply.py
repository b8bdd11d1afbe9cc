"""What the workbench stands on is pinned, and what the environment holds in secret goes nowhere."""

import ast
import json
import re
import sys
import threading
import tomllib
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib.metadata import packages_distributions
from pathlib import Path

import httpx
import pytest
from browser import Served
from conftest import SMALL, call_kto
from packaging.requirements import Requirement

from kto_workbench.runs import list_runs
from kto_workbench.views.card import card
from kto_workbench.views.report import write_report

ROOT = Path(__file__).resolve().parents[1]
# Imported where it is found, and done without where it is not; or brought by one that is required, as a part of it.
OPTIONAL = {"IPython", "flash_attn", "deepspeed", "liger_kernel", "triton", "kernels"}
PIN = re.compile(r"^([\w.\-]+)==(\S+)", re.MULTILINE)


def plain(name):
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.mark.reliability("What the workbench stands on is pinned, file by file")
def test_every_pin_but_torch_has_the_hashes_of_its_files():
    pins = {plain(name): version for name, version in PIN.findall((ROOT / "constraints.txt").read_text())}
    text = (ROOT / "constraints-hashes.txt").read_text()
    hashed = {plain(name): version for name, version in PIN.findall(text)}
    assert pins.pop("torch") and hashed == pins
    for block in re.split(r"\n(?=\S)", text)[1:]:
        if not block.startswith("#"):
            assert re.fullmatch(r"\S+==\S+( \\\n    --hash=sha256:[0-9a-f]{64})+\n?", block), block[:200]


@pytest.mark.reliability("What the workbench stands on is pinned, file by file")
def test_every_requirement_has_a_pin_that_it_allows():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pins = {plain(name): version for name, version in PIN.findall((ROOT / "constraints.txt").read_text())}
    groups = {"": project["dependencies"], **project["optional-dependencies"]}
    for group, lines in groups.items():
        for one in map(Requirement, lines):
            if group in ("", "test") and one.name != project["name"]:  # others are tools
                assert pins[plain(one.name)] in one.specifier, one
            assert one.specifier or one.name == project["name"], one
    imported = {
        name.split(".")[0]
        for path in (ROOT / "kto_workbench").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        for name in (
            [alias.name for alias in node.names] if isinstance(node, ast.Import)
            else [node.module] if isinstance(node, ast.ImportFrom) and not node.level else []
        )
    }  # fmt: skip
    known = {plain(Requirement(line).name) for line in project["dependencies"]}
    brought = packages_distributions()
    for name in imported - set(sys.stdlib_module_names) - {"kto_workbench", *OPTIONAL}:
        assert known & {plain(one) for one in brought[name]}, f"{name} is imported, and not among the dependencies"


SECRETS = {
    "HF_TOKEN": "hf_PlantedTokenOfTheHub00000000000",
    "OPENAI_API_KEY": "sk-PlantedKeyOfAProvider0000000000",
    "WANDB_API_KEY": "0123456789plantedkeyofwandb0123456789abcd",
    "AWS_SECRET_ACCESS_KEY": "PlantedSecretOfAmazon000000000000000000",
}
PASSWORD = "planted-password-of-the-page"


@pytest.fixture
def echo():
    """An endpoint that refuses, and repeats the key it was given in every way that it knows."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            key = self.headers.get("authorization", "")
            body = json.dumps({"error": {"message": f"Incorrect API key {key}, {key!r}", "key": key}}).encode()
            self.send_response(401, key)
            self.send_header("x-key", key)
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    server.server_close()


@pytest.mark.reliability("No secret is in what is shown or written")
@pytest.mark.slow
def test_no_secret_is_in_what_is_printed_or_written(tmp_path, small_data, echo, monkeypatch):
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    workspace, said = tmp_path / "workspace", []
    options = {**SMALL, "max_steps": 4, "data": str(small_data), "workspace": str(workspace)}
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in options.items() if name != "data"]

    def kto(*arguments, code=0):
        done = call_kto(*arguments, "--workspace", workspace, code=code, cwd=tmp_path)
        said.append(done.stdout + done.stderr)

    kto("train", small_data, *flags)
    kto("runs", "--json")
    kto("export", "latest", "--out", tmp_path / "out")
    kto("check", small_data)
    kto("train", small_data, *flags, "--model", tmp_path / "none", code=2)
    asked = ["--prompts", "held-out", "--limit", 1, "--max-new-tokens", 2]
    judge = ["--judge=endpoint", f"--judge-url={echo}", "--judge-model=m", "--judge-key-env=OPENAI_API_KEY"]
    kto("compare", "latest", *asked, *judge, "--debug", code=2)
    kto("compare", "latest", *asked, *judge[:3], f"--judge-key-env={SECRETS['OPENAI_API_KEY']}", code=2)
    kto("endpoint", "add", "mine", "--url", echo, "--model", "m", "--key-env", "OPENAI_API_KEY")
    kto("endpoint", "list", "--json")
    served = Served(workspace, tmp_path / "server.log", host="0.0.0.0", password=PASSWORD)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{served.port}", timeout=30) as client:
            client.post("/login", data={"username": PASSWORD + "x", "password": PASSWORD + "x"})
            client.post("/login", data={"username": "me", "password": PASSWORD})
            said += [client.get(path).text for path in ("/", "/config", "/gradio_api/info", "/gradio_api/app_id")]
    finally:
        served.stop()
    (run,) = (one for one in list_runs(workspace) if one.trained())
    said += [write_report(run, "A name"), card(run, "adapter"), run.log(1000)]
    assert "refused" in "".join(said)
    written = {str(path): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert any(path.endswith("log.txt") for path in written) and any(path.endswith("README.md") for path in written)
    for secret in (*SECRETS.values(), PASSWORD):
        for text in said:
            assert secret not in text, text[max(0, text.find(secret) - 500) :][:1500]
        for path, content in written.items():
            assert secret.encode() not in content, path
