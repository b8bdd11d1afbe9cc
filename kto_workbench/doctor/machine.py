"""The machine as the doctor sees it without torch: Python, libraries, cores, memory, the workspace's disk, the hub."""

import importlib.metadata
import os
import platform
import shutil
import sys
import tempfile
import time
from pathlib import Path

import psutil
from packaging.requirements import Requirement

import kto_workbench
from kto_workbench.doctor.results import BROKEN, FINE, LACKING, Result, Subject, amount
from kto_workbench.runs.machine import free_memory, processors

# What training stands on; the versions of these are said, those of all are looked at.
MAIN = ("torch", "transformers", "peft", "accelerate", "bitsandbytes", "gradio")
LITTLE_MEMORY = 2e9
# A checkpoint of a small adapter needs a few MB, one of a large model's adapter a GB, a merged export the whole model.
NO_ROOM, LITTLE_ROOM = 50e6, 5e9
WRITTEN = 64 * 2**20


def python(subject: Subject) -> Result:
    """Which Python, on which system."""
    version, system = platform.python_version(), f"{platform.system()} {platform.machine()}"
    figures = {"python": version, "system": platform.platform(), "executable": sys.executable}
    return Result(FINE, f"Python {version} on {system}; KTO Workbench {kto_workbench.__version__}.", figures)


def libraries(subject: Subject) -> Result:
    """Installed versions against what is required, and against what the tests pass with."""
    found, wrong, other, tested = {}, [], [], tested_versions()
    for requirement in requirements():
        try:
            version = found[requirement.name] = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            wrong.append(f"{requirement.name} is not installed")
            continue
        if not requirement.specifier.contains(version, prereleases=True):
            wrong.append(f"{requirement.name} {version} does not fit {requirement.specifier}")
        elif (known := tested.get(requirement.name)) and version.split("+")[0] != known:
            other.append(f"{requirement.name} {version} instead of {known}")
    figures = {"installed": found, "wrong": wrong, "other_than_tested": other}
    if wrong:
        wanted = "`pip install .` in its folder, or `make setup`, puts that right"
        return Result(BROKEN, f"{'; '.join(wrong)}: {wanted}.", figures)
    main = ", ".join(f"{name} {found[name]}" for name in MAIN if name in found)
    if other:
        return Result(FINE, f"{main}. Not the versions that the tests pass with: {', '.join(other)}.", figures)
    return Result(FINE, f"{main}: the versions that the tests pass with.", figures)


def requirements() -> list[Requirement]:
    """What the installed package says that it needs here; nothing where it runs without being installed."""
    try:
        lines = importlib.metadata.requires("kto-workbench") or []
    except importlib.metadata.PackageNotFoundError:
        return []
    needed = [Requirement(line) for line in lines]
    return [one for one in needed if one.marker is None or one.marker.evaluate({"extra": ""})]


def tested_versions() -> dict[str, str]:
    """The versions that the tests pass with, by name: constraints.txt, beside the package or inside it."""
    package = Path(kto_workbench.__file__).parent
    for path in (package.parent / "constraints.txt", package / "constraints.txt"):
        if path.is_file():
            lines = path.read_text(encoding="utf-8").splitlines()
            return dict(line.split("==") for line in lines if "==" in line and not line.startswith("#"))
    return {}


def processor(subject: Subject) -> Result:
    """Cores and memory, within the limits of a container."""
    cores, seen, free = processors(), os.cpu_count() or 1, free_memory()
    total = psutil.virtual_memory().total
    figures = {"cores": cores, "cores_of_the_machine": seen, "memory_free": free, "memory": total}
    limited = f" of {seen}, the rest being kept from this process" if cores < seen else ""
    said = f"{cores:g} cores{limited}; {amount(free)} of {amount(total)} memory free"
    if free < LITTLE_MEMORY:
        return Result(LACKING, f"{said}: little; end other programs, or give the container more.", figures)
    return Result(FINE, f"{said}.", figures)


def workspace(subject: Subject) -> Result:
    """Whether runs can be written, how fast, and how much room there is."""
    folder = subject.workspace.expanduser().resolve()
    # A workspace that is not there yet is made by the first run; until then its place is looked at.
    place = next(path for path in (folder, *folder.parents) if path.exists())
    advice = "name another folder with --workspace"
    if not place.is_dir():
        return Result(BROKEN, f"The workspace {folder} can't be: {place} is a file; {advice}.")
    try:
        free = shutil.disk_usage(place).free
        rate = write_rate(place, min(WRITTEN, max(2**16, free // 4)))
    except OSError as error:
        return Result(BROKEN, f"Can't write to the workspace {folder}: {error.strerror}; {advice}, or make room there.")
    figures = {"workspace": str(folder), "free": free, "bytes_per_second": rate}
    said = f"{amount(free)} free in {folder}, written at {amount(rate)}/s"
    if free < NO_ROOM:
        return Result(BROKEN, f"{said}: a run could not save what it learns; {advice}, or make room there.", figures)
    if free < LITTLE_ROOM:
        return Result(LACKING, f"{said}: checkpoints and exports of a large model may not fit.", figures)
    return Result(FINE, f"{said}.", figures)


def write_rate(folder: Path, size: int) -> float:
    """Bytes a second at which a file gets onto the disk. Raises OSError; leaves nothing behind."""
    block = os.urandom(2**16)
    with tempfile.TemporaryFile(dir=folder, prefix=".doctor-", buffering=0) as file:
        begun = time.perf_counter()
        for _ in range(max(1, size // len(block))):
            file.write(block)
        os.fsync(file.fileno())
        return max(1, size // len(block)) * len(block) / (time.perf_counter() - begun)


def hub(subject: Subject) -> Result:
    """Whether the hub may be asked, whether it would know who asks, and where its models are kept."""
    from huggingface_hub import constants, get_token

    known, offline, cache = get_token() is not None, constants.is_offline_mode(), Path(constants.HF_HUB_CACHE)
    place = next(path for path in (cache, *cache.parents) if path.exists())
    free = shutil.disk_usage(place).free
    figures = {"token": known, "offline": offline, "cache": str(cache), "free": free}
    where = f"models are kept in {cache} ({amount(free)} free)"
    if offline:
        return Result(LACKING, f"HF_HUB_OFFLINE is set, so nothing is fetched from the hub; {where}.", figures)
    if not known:
        said = "No token of the Hugging Face hub: `hf auth login` sets one, for gated models and for uploads"
        return Result(LACKING, f"{said}; {where}.", figures)
    return Result(FINE, f"A token of the Hugging Face hub is set; {where}.", figures)
