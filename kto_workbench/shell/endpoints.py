"""kto endpoint: names for OpenAI-compatible servers, which then answer and judge under these names."""

import argparse
from dataclasses import asdict
from typing import Any

from kto_workbench.errors import ConfigError
from kto_workbench.runs.endpoints import FILE_NAME, Endpoint, add_endpoint, read_endpoints, read_key, remove_endpoint
from kto_workbench.shell.common import as_json, workspace_of


def add_arguments(parser: argparse.ArgumentParser, common: argparse.ArgumentParser) -> None:
    """The three things that can be done, each with what all verbs take."""
    done = parser.add_subparsers(title="what to do", metavar="WHAT", required=True)

    def add(name: str, command: Any, help: str) -> argparse.ArgumentParser:
        added = done.add_parser(name, help=help, description=help, parents=[common])
        added.set_defaults(command=command)
        return added

    named = add("add", _add, "Name an endpoint, or change one that has the name.")
    named.add_argument("name", metavar="NAME", help="what the page and `kto compare` will call it")
    named.add_argument("--url", required=True, help="its address up to /v1, such as http://127.0.0.1:8000/v1")
    named.add_argument("--model", required=True, help="the model, as the server calls it")
    named.add_argument(
        "--key-env", default="", metavar="VARIABLE", help="the environment variable that holds its key, never the key"
    )
    listed = add("list", _list, "List the endpoints of a workspace.")
    listed.add_argument("--json", action="store_true", help="print one JSON object")
    add("remove", _remove, "Forget an endpoint.").add_argument("name", metavar="NAME")


def _add(arguments: argparse.Namespace) -> None:
    endpoint = Endpoint(arguments.url.strip(), arguments.model.strip(), arguments.key_env.strip(), arguments.name)
    add_endpoint(endpoint, workspace_of(arguments))
    try:
        read_key(endpoint.key_env)
        then = ""
    except ConfigError:
        then = f" Set {endpoint.key_env} before you start the workbench: it is not set here."
    print(f"Endpoint {endpoint.name} is kept in {workspace_of(arguments)}/{FILE_NAME}.{then}")


def _list(arguments: argparse.Namespace) -> None:
    known = read_endpoints(workspace_of(arguments)).values()
    if arguments.json:
        print(as_json({"endpoints": [asdict(one) for one in known]}))
        return
    if not known:
        print(f"No endpoints in {workspace_of(arguments)} yet; `kto endpoint add` names one.")
    for one in known:
        print(f"{one.name:<20} {one.model:<30} {one.url}{f'  key in {one.key_env}' if one.key_env else ''}")


def _remove(arguments: argparse.Namespace) -> None:
    remove_endpoint(arguments.name, workspace_of(arguments))
    print(f"Endpoint {arguments.name} is forgotten.")
