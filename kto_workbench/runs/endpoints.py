"""Endpoints: OpenAI-compatible servers, to which the owner of a workspace has given names.

    workspace/endpoints.yaml    local:
                                  url: http://127.0.0.1:8000/v1
                                  model: Qwen/Qwen3-8B
                                  key_env: LOCAL_API_KEY      (left out where the server wants no key)

Whoever has the shell, or the file, says where a workspace may send its keys; visitors of the page choose among names.
The key itself is read from the environment when it is needed (runs/completions.py), and never written.
"""

import contextlib
import os
import re
import socket
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address, ip_network
from pathlib import Path
from urllib.parse import urlsplit

import yaml

from kto_workbench import files
from kto_workbench.errors import ConfigError
from kto_workbench.runs.jsonlines import write_atomically

FILE_NAME = "endpoints.yaml"
FIELDS = ("url", "model", "key_env")
_NAME = re.compile(r"[A-Za-z0-9][\w.\-]{0,59}", re.ASCII)
_VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]*")
# Where machines of a cloud are told their credentials, beside the link-local addresses (169.254.169.254 and fe80::).
_METADATA = [
    ip_address(one) for one in ("100.100.100.200", "168.63.129.16", "192.0.0.192", "fd00:ec2::254", "fd20:ce::254")
]
_NAT64 = ip_network("64:ff9b::/96")


@dataclass(frozen=True)
class Endpoint:
    """A server's address up to `/v1`, its name for the model, and the environment variable that holds the key, if any.

    `name` is what the workspace calls it; one that was only typed at a shell has none. Raises ConfigError.
    """

    url: str
    model: str
    key_env: str = ""
    name: str = ""

    def __post_init__(self) -> None:
        completions_url(self.url)
        if not self.model.strip():
            raise ConfigError("An endpoint needs the name of its model, as the server calls it.")
        if self.key_env and not _VARIABLE.fullmatch(self.key_env):
            # Whoever writes the key itself here must not find it in a log.
            raise ConfigError("Name the environment variable that holds the key, such as OPENAI_API_KEY, not the key.")

    @property
    def label(self) -> str:
        """What it is called in a sentence: its name, else its address."""
        return self.name or self.url


def read_endpoints(workspace: str | Path) -> dict[str, Endpoint]:
    """The workspace's endpoints by name, in the order of its file. Raises ConfigError for a file that can't be read."""
    path = Path(workspace) / FILE_NAME
    text, problem = files.read_text(path)
    if problem == files.MISSING:
        return {}
    try:
        found = None if problem else yaml.safe_load(text)
    except (ValueError, RecursionError, yaml.YAMLError):
        problem = "is not YAML"
    if problem:
        raise ConfigError(f"Can't read the endpoints in {path}: it {problem}.")
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise ConfigError(f"Can't read the endpoints in {path}: they are not given by name.")
    return {str(name): _endpoint(path, str(name), fields) for name, fields in found.items()}


def find_endpoint(name: str, workspace: str | Path) -> Endpoint:
    """One endpoint by its name. Raises ConfigError."""
    known = read_endpoints(workspace)
    if name not in known:
        has = ", ".join(known) or "none yet"
        raise ConfigError(f"There is no endpoint {name!r} in this workspace, which has {has}; see `kto endpoint add`.")
    return known[name]


def add_endpoint(endpoint: Endpoint, workspace: str | Path) -> None:
    """Keep an endpoint under its name, instead of one that had the name before. Raises ConfigError."""
    _check_name(endpoint.name)
    _write(workspace, {**read_endpoints(workspace), endpoint.name: endpoint})


def remove_endpoint(name: str, workspace: str | Path) -> None:
    """Forget an endpoint. Raises ConfigError if there is none of this name."""
    find_endpoint(name, workspace)
    _write(workspace, {key: one for key, one in read_endpoints(workspace).items() if key != name})


def completions_url(url: str) -> str:
    """The address that is asked. Raises ConfigError for anything but http and https, and for one that holds a key."""
    url = url.strip()
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        raise ConfigError(f"{url!r} is not the address of an endpoint.") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(
            "An endpoint's address should begin with http:// or https://, such as http://127.0.0.1:8000/v1, "
            f"not {url!r}."
        )
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ConfigError("An endpoint's address should hold no name, password or query; name the key's variable.")
    if is_off_limits(parts.hostname):
        raise ConfigError(
            f"No endpoint is at {parts.hostname}: machines are told there what they are, and their secrets."
        )
    return url.rstrip("/").removesuffix("/chat/completions") + "/chat/completions"


def read_key(variable: str) -> str:
    """The key in an environment variable, "" if none is named. Raises ConfigError if it is not set."""
    if not variable:
        return ""
    key = os.environ.get(variable, "").strip()
    if not key:
        raise ConfigError(f"The environment variable {variable} is not set, so there is no key for it.")
    if not key.isascii() or not key.isprintable() or " " in key:
        raise ConfigError(f"What the environment variable {variable} holds can't be a key.")
    return key


def is_loopback(url: str) -> bool:
    """Whether an address is this machine's own."""
    host = urlsplit(url).hostname or ""
    with contextlib.suppress(ValueError):
        return ip_address(host).is_loopback
    return host == "localhost"


def is_off_limits(host: str) -> bool:
    """Whether this is an address that no endpoint has, but that others would like to have asked; False for a name."""
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        try:
            address = ip_address(socket.inet_aton(host))  # in old spellings: 2852039166, 0xa9.254.43518
        except (OSError, ValueError):
            return False
    if isinstance(address, IPv6Address):  # those that only wrap an older one
        packed = ip_address(int(address) & 0xFFFFFFFF) if address in _NAT64 else None
        address = address.ipv4_mapped or address.sixtofour or packed or address
    return address.is_link_local or address.is_multicast or address in _METADATA


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"An endpoint's name consists of letters, digits, dots, dashes and underscores, at most 60; not {name!r}."
        )


def _endpoint(path: Path, name: str, fields: object) -> Endpoint:
    """One entry of the file, with exactly its fields."""
    try:
        _check_name(name)
        if not isinstance(fields, dict) or not {"url", "model"} <= set(fields) <= set(FIELDS):
            # Their values are not repeated: one of them may be a key that should not stand there.
            raise ConfigError("It has `url`, `model` and, if the server wants a key, `key_env`, and nothing else.")
        if not all(isinstance(value, str) for value in fields.values()):
            raise ConfigError("Its fields are texts.")
        return Endpoint(**fields, name=name)
    except ConfigError as error:
        raise ConfigError(f"Can't read endpoint {name!r} in {path}: {error}") from None


def _write(workspace: str | Path, endpoints: dict[str, Endpoint]) -> None:
    path = Path(workspace) / FILE_NAME
    entries = {
        name: {field: value for field in FIELDS if (value := getattr(one, field))} for name, one in endpoints.items()
    }
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, yaml.safe_dump(entries, sort_keys=False, allow_unicode=True) if entries else "")
    except OSError as error:
        raise ConfigError(f"Can't write {path}: {error.strerror}.") from None
