"""Build the wheel, and try it as its users will: in a fresh environment of each Python, from an empty folder.

    python .ci/release.py [PYTHON ...] [--keep]

Without names it takes those of python3.11, 3.12 and 3.13 that are there. Each environment gets the wheel by pip, with
what it stands on in the versions of constraints.txt; nothing of the repository is on its path. Tried are the version,
`kto doctor`, `kto check demo`, `kto demo`, an export of what that trained, and the page. The wheel is left in dist/.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import urllib.request
import zipfile
from email.parser import Parser
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PYTHONS = ("python3.11", "python3.12", "python3.13")
# What would let an environment see more than was installed into it, or warn less than for users.
FOREIGN = ("PYTHONPATH", "PYTHONHOME", "PYTHONWARNINGS", "VIRTUAL_ENV")


def say(*words: object) -> None:
    """One line, at once."""
    print(*words, flush=True)


def build(folder: Path) -> Path:
    """The wheel, alone in its folder, named after the version that the package itself gives."""
    shutil.rmtree(folder, ignore_errors=True)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check", "--no-deps"]
    subprocess.run([*command, "--wheel-dir", folder, ROOT], check=True)
    (wheel,) = folder.glob("*.whl")
    return wheel


def version_of(wheel: Path) -> str:
    """The version in a wheel's metadata."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        return Parser().parsestr(archive.read(name).decode())["Version"]


class Installed:
    """The wheel in an environment of its own, beside an empty folder to call `kto` from."""

    def __init__(self, python: str, wheel: Path, scratch: Path) -> None:
        self.here = scratch / "empty"
        self.here.mkdir(parents=True)
        self.bin = scratch / "venv" / ("Scripts" if os.name == "nt" else "bin")
        self.environment = {name: value for name, value in os.environ.items() if name not in FOREIGN}
        self.environment |= {"HF_HUB_OFFLINE": "1"}  # the demo needs no network
        subprocess.run([python, "-m", "venv", scratch / "venv"], check=True)
        install = [self.bin / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*install, "--constraint", ROOT / "constraints.txt", wheel], check=True, cwd=self.here)

    def kto(self, *arguments: str) -> str:
        """What a command prints; fails where it fails, or warns of anything."""
        command = [self.bin / "kto", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, cwd=self.here, env=self.environment)
        if done.returncode or re.search(r"Warning|Traceback", done.stderr):
            raise SystemExit(f"kto {' '.join(arguments)} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}")
        return done.stdout

    def page(self) -> str:
        """The page's first answer, from a server that is then ended."""
        command = [self.bin / "kto", "app", "--no-browser", "--port", "0"]
        server = subprocess.Popen(
            command, cwd=self.here, env=self.environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        end = threading.Timer(120, server.kill)  # one that never says where it is
        end.start()
        said = []
        try:
            for line in server.stdout:
                said.append(line)
                if address := re.search(r"http://\S+", line):
                    with urllib.request.urlopen(address[0], timeout=60) as answer:
                        return answer.read().decode()
            raise SystemExit(f"The page did not start:\n{''.join(said)}")
        finally:
            end.cancel()
            server.terminate()
            server.wait()


def check(installed: Installed, version: str) -> str:
    """Try what a user does first; returns a line on what was seen."""

    def hold(what: str, holds: bool, seen: object) -> None:
        if not holds:
            raise SystemExit(f"{what}: {seen}")

    said = installed.kto("--version")
    hold("kto --version", said.split()[-1] == version, said)
    installed.kto("doctor")
    report = json.loads(installed.kto("check", "demo", "--json"))
    hold("kto check demo", report["rows_in"] == report["rows_kept"] == 400 and not report["problems"], report)
    demo = json.loads(installed.kto("demo", "--json"))
    hold("kto demo", demo["trait_before"] < 0.4 and demo["trait_after"] > 0.8 and demo["facts_after"] > 0.8, demo)
    installed.kto("export", "latest", "--format", "gguf", "--out", "tuned")
    hold("kto export", any((installed.here / "tuned").glob("*.gguf")), list((installed.here / "tuned").iterdir()))
    page = installed.page()
    hold("the page", "KTO Workbench" in page and "gradio" in page, page[:500])
    return (
        f"kind and brief {demo['trait_before']:.0%} → {demo['trait_after']:.0%}, facts right "
        f"{demo['facts_before']:.0%} → {demo['facts_after']:.0%}, {demo['seconds']:.0f} s; exported; the page answers"
    )


def main() -> int:
    """Build, and try on each Python; 1 where none was there."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("pythons", nargs="*", metavar="PYTHON", help=f"interpreters to try; without, {PYTHONS}")
    parser.add_argument("--keep", metavar="DIR", type=Path, help="leave the environments there")
    arguments = parser.parse_args()
    wheel = build(ROOT / "dist")
    version = version_of(wheel)
    say(f"{wheel.relative_to(ROOT)}: version {version}, {wheel.stat().st_size / 1e6:.1f} MB")
    tried = 0
    for python in arguments.pythons or PYTHONS:
        here = shutil.which(python) and subprocess.run([python, "-V"], capture_output=True, text=True)
        if not here or here.returncode:  # a shim of pyenv may be there for a Python that is not
            say(f"{python}: not there, not tried")
            if arguments.pythons:
                return 1
            continue
        with tempfile.TemporaryDirectory(prefix="kto-release-") as scratch:
            folder = (arguments.keep or Path(scratch)).resolve() / Path(here.stdout.split()[-1]).name
            say(f"{here.stdout.strip()}: {check(Installed(python, wheel, folder), version)}")
        tried += 1
    return 0 if tried else 1


if __name__ == "__main__":
    raise SystemExit(main())
