"""The reference's answers to the prompts that a training watches or has judged, kept on disk: they never change, so the
trials of a sweep, and whoever trains the same model again, have them made once.

A file holds the answers to one list of prompts, since what is drawn depends on what is answered together. It is named
by all that changes them: the reference as it is computed here, its tokenizer's and processor's files, how answers are
drawn, and the prompts with the bytes of their images.
"""

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import xxhash
from pydantic import TypeAdapter
from typing_extensions import TypedDict

from kto_workbench import files
from kto_workbench.engine.crew import ALONE, Crew
from kto_workbench.feedback.images import Images, keys_in
from kto_workbench.runs.jsonlines import write_atomically

log = logging.getLogger(__name__)


class _Answers(TypedDict):
    answers: list[str]
    sum: str


_ANSWERS = TypeAdapter(_Answers)


class ReferenceAnswers:
    """Answers by what was asked, in a folder that several processes may read and write.

    Args:
        folder: of the files.
        reference: stands for the model and its files, see `reference_key`.
        images: of the workspace, which prompts may name.
        crew: the processes that answer together; the first one reads and writes.
    """

    def __init__(self, folder: Path, reference: str, images: Images, crew: Crew = ALONE) -> None:
        self.folder, self.reference, self.images, self.crew = folder, reference, images, crew

    def get(self, prompts: Sequence[Any], settings: Mapping[str, Any], make: Callable[[], list[str]]) -> list[str]:
        """The answers to prompts with these settings, from the disk or else made and kept.

        Where the disk fails they are made, and a line in the log says so. Raises what `make` raises.
        """
        path = self._path(prompts, settings) if self.crew.leads else None
        known = self.crew.from_first(_read(path, len(prompts)) if path else None)
        if known is not None:
            log.info("The reference's answers to %d prompts are known.", len(known))
            return known
        made = make()
        if path:
            _keep(path, made)
        return made

    def _path(self, prompts: Sequence[Any], settings: Mapping[str, Any]) -> Path:
        looked_at = [xxhash.xxh3_128_hexdigest(self.images.read(key)) for one in prompts for key in keys_in(one)]
        asked = json.dumps([self.reference, settings, list(prompts), looked_at], sort_keys=True)
        return self.folder / f"{xxhash.xxh3_128_hexdigest(asked.encode())}.json"


def _read(path: Path, count: int) -> list[str] | None:
    found, _ = files.read_json(path, _ANSWERS)
    if found is None or len(found["answers"]) != count or found["sum"] != _sum(found["answers"]):
        return None
    return found["answers"]


def _keep(path: Path, answers: list[str]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps({"answers": answers, "sum": _sum(answers)}) + "\n")
    except OSError as error:
        log.warning("The reference's answers can't be kept in %s (%s).", path.parent, error)


def _sum(answers: list[str]) -> str:
    return xxhash.xxh3_64_hexdigest(json.dumps(answers).encode())
