"""What each file of a run's directory holds, as a schema; whatever else is found in it is not believed.

A field that a newer version has added is left out; a value that no version writes spoils its file, or its line.
"""

from typing import Annotated, Any, Literal, NotRequired

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict

MOST = 2**53  # what a float still counts one by one
BLOCK = 500  # lines
LATEST = 253_000_000_000.0  # seconds, in the year 9987: dates end in 9999

Count = Annotated[int, Field(ge=0, le=MOST)]
Number = Annotated[float, Field(allow_inf_nan=False)]
Time = Annotated[float, Field(ge=0, le=LATEST)]
Pid = Annotated[int, Field(gt=0, lt=2**31)]
State = Literal[
    "queued", "starting", "running", "stopping", "finished", "stopped", "failed", "crashed", "not answering"
]
# A prompt: a text, or messages whose values are left as they are.
Prompt = str | list[dict[str, Any]]


class DataFacts(TypedDict, total=False):
    """data.json: what the feedback was."""

    data: str
    rows: Count
    n_desirable: Count
    n_undesirable: Count
    pairs: Count
    problems: Count
    sha256: str
    sweep: str
    trial: Count


class ReferenceNote(TypedDict, total=False):
    """reference.json: how the reference's log-probabilities were come by."""

    reused: Count
    computed: Count
    seconds: Number


class Sample(TypedDict):
    """A line of samples.jsonl."""

    step: Count
    prompt: NotRequired[Prompt]
    reference: NotRequired[str]
    tuned: NotRequired[str]


class Rewards(TypedDict):
    """A line of rewards.jsonl; z0 is null where it is none."""

    step: Count
    z0: NotRequired[Number | None]
    rewards: list[Number | None]
    labels: list[bool]


class About(TypedDict, total=False):
    """about.json: what people call the run, and what they noted down."""

    name: str
    note: str


class Lora(TypedDict):
    """adapter_config.json of PEFT, as far as a training goes on from it."""

    peft_type: str
    r: NotRequired[Annotated[int, Field(gt=0)]]
    lora_alpha: NotRequired[Annotated[float, Field(gt=0, allow_inf_nan=False)]]
    target_modules: NotRequired[str | list[str]]
    init_lora_weights: NotRequired[Any]
    alora_invocation_tokens: NotRequired[Any]


LORA = TypeAdapter(Lora)
DATA, REFERENCE, ABOUT = TypeAdapter(DataFacts), TypeAdapter(ReferenceNote), TypeAdapter(About)
SAMPLE, REWARDS = TypeAdapter(Sample), TypeAdapter(Rewards)
_Whole = Annotated[int, Field(ge=-MOST, le=MOST)]
_NUMBERS = TypeAdapter(dict[str, bool | _Whole | Number | None], config=ConfigDict(strict=True))
_MANY_NUMBERS = TypeAdapter(list[dict[str, Number | None]], config=ConfigDict(strict=True))
ANYTHING = TypeAdapter(dict[str, Any])


def take_metrics(line: bytes) -> dict[str, Any] | None:
    """A line of metrics.jsonl: its numbers, and None where one was not finite; None unless it has a step."""
    try:
        record = _NUMBERS.validate_json(line)
    except ValidationError:
        try:
            record = _numbers_of(ANYTHING.validate_json(line))
        except ValidationError:
            return None
    step = record.get("step")
    return record if type(step) is int and step >= 0 else None


def take_many_metrics(lines: list[bytes]) -> list[dict[str, float | None]]:
    """As `take_metrics` of each line, whole numbers as floats, too: blocks of sound lines are read at once."""
    found: list[dict[str, float | None]] = []
    for start in range(0, len(lines), BLOCK):
        block = lines[start : start + BLOCK]
        try:
            records = _MANY_NUMBERS.validate_json(b"[%b]" % b",".join(block))
        except ValidationError:
            records = []
        if len(records) != len(block) or not all(_has_step(record) for record in records):
            records = [record for line in block if (record := take_metrics(line)) is not None]
        found += records
    return found


def _has_step(record: dict[str, float | None]) -> bool:
    step = record.get("step")
    return step is not None and step >= 0


def _numbers_of(record: dict[str, Any]) -> dict[str, Any]:
    found = {}
    for key, value in record.items():
        try:
            found |= _NUMBERS.validate_python({key: value})
        except ValidationError:
            if isinstance(value, float):
                found[key] = None
    return found
