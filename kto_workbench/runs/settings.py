"""Settings that follow from the model, as λ follows from the data: each with its reason, and where that is from.

    for one in suggest_settings("Qwen/Qwen3-0.6B", lengths=row_lengths(feedback, "Qwen/Qwen3-0.6B")):
        print(one.option, one.value, one.text)

What is known of a model is read from its files on this machine: config.json, the headers of its safetensors files,
its tokenizer's template and its card. Of a model that is not here, nothing is known but its name, and what would need
more is left out. Nothing is fetched, and no torch is needed.
"""

import functools
import json
import math
import re
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from kto_workbench import files
from kto_workbench.config import DEMO_DEFAULTS, DEMO_MODEL, KTOConfig
from kto_workbench.feedback import Feedback
from kto_workbench.feedback.images import Images
from kto_workbench.feedback.rendering import encode_rows, load_tokenizer, model_path
from kto_workbench.runs.machine import ask_driver, free_memory
from kto_workbench.runs.memory import ModelShape, Tokens, estimate_memory
from kto_workbench.runs.schemas import ANYTHING

LARGE = 7e9  # parameters: below about as many, the documents call a model small
SAMPLE, SEEN_SAMPLE = 400, 40  # rows whose lengths are looked at; of such with images, each of which is decoded
COVERED = 0.99  # of the rows that max_length should hold whole
MULTIPLE = 64
LONGEST_HEADER = 100 * 2**20  # of a safetensors file, as its format allows
TUNED_NAME = re.compile(r"instruct|chat|[-_.]it\b|sft|dpo|rlhf|assistant", re.IGNORECASE)
BASE_NAME = re.compile(r"[-_.]base\b|[-_.]pt\b|pretrain", re.IGNORECASE)

# kind → why, and the source. The Chinese is in ui/chinese.py.
TEXTS: dict[str, str] = {
    "demo": "found by trying on the demo model",
    "beta_tuned_large": "{size} parameters, tuned for chat: 0.01 to 0.1 (KTO paper)",
    "beta_tuned": "tuned for chat ({sign}), {size} parameters: the upper end of 0.01 to 0.1 (KTO paper)",
    "beta_large": "{size} parameters: the upper end of 0.01 to 0.1 (KTO paper)",
    "beta_base": "{size} parameters, not tuned for chat: 0.1 to 1 (KTO paper)",
    "rate_full": "every weight is tuned: 5e-6 with AdamW (KTO paper)",
    "rate_lora": "an adapter takes about ten times the 5e-6 of full tuning (usual for LoRA)",
    "rank": "enough for a change of behaviour (usual for LoRA)",
    "rank_tight": "less than usual, since memory is tight ({need} of {free} GB)",
    "length": "holds {share:.0%} of the rows whole; the longest of the sample has {longest:,} tokens (your data)",
    "length_model": "the most that the model reads; {share:.0%} of the rows fit (config.json)",
    "bits_on": "in 16 bits it would take {need} GB, and {free} GB are free; in 4 bits {less} GB (memory estimate)",
    "bits_off": "it fits as it is: {need} of {free} GB (memory estimate)",
}


@dataclass(frozen=True)
class Suggestion:
    """One option's value, and why: a kind (a key of TEXTS) and what its sentence names."""

    option: str
    value: Any
    kind: str
    values: dict[str, Any] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """The reason with its source, in English."""
        return TEXTS[self.kind].format(**self.values)


@dataclass(frozen=True)
class About:
    """What a model's files say: parameters, its shape, the longest text it reads, and what shows it tuned for chat.

    `sign` is `name`, `card` or `template`, or "" for a model that was not tuned for chat.
    """

    parameters: int | None = None
    shape: ModelShape | None = None
    longest: int | None = None
    sign: str = ""


def model_folder(model: str) -> Path | None:
    """Where a model's files lie on this machine: a folder, or the hub's cache; None if nowhere."""
    folder = Path(model_path(model)).expanduser()
    if folder.is_dir():
        return folder
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(model, "config.json")
    except HFValidationError:
        return None
    return Path(found).parent if isinstance(found, str) else None


def about_model(model: str) -> About:
    """What can be known of a model without loading it."""
    folder = model_folder(model)
    if folder is None:
        return About(sign="name" if _tuned_by_name(model) else "")
    config = _read_json(folder / "config.json")
    shape = ModelShape.of(config)
    counted = sum(map(_parameters_in, folder.glob("*.safetensors")))
    parameters = counted or (shape.body + shape.embedding if shape else None)
    text = {**config, **(config.get("text_config") or {})}
    longest = next(
        (text[key] for key in ("max_position_embeddings", "n_positions") if isinstance(text.get(key), int)), None
    )
    return About(parameters, shape, longest, _sign_of_tuning(model, folder))


def row_lengths(feedback: Feedback, model: str, template: str = "auto") -> np.ndarray | None:
    """Tokens of a sample of rows, prompt and answer together; None without rows or without the model's files."""
    folder = model_folder(model)
    if folder is None or not len(feedback.rows):
        return None
    count = len(feedback.rows)
    sample = min(SEEN_SAMPLE if feedback.n_with_images else SAMPLE, count)
    chosen = np.sort(np.random.default_rng(0).choice(count, sample, replace=False))
    encoded = encode_rows(
        _tokenizer(str(folder), feedback.images), feedback.rows.take(chosen), 10**9, template=template
    )
    lengths = [len(row.prompt_ids) + len(row.completion_ids) for row in encoded if hasattr(row, "prompt_ids")]
    return np.array(lengths) if lengths else None


def suggest_settings(model: str, tuning: str = "lora", *, lengths: np.ndarray | None = None) -> list[Suggestion]:
    """β, learning rate, rank, max_length and 4 bits for a model; what nothing is known for is left out.

    Args:
        model: as the option of this name.
        tuning: `lora` or `full`.
        lengths: of rows, in the model's tokens; see `row_lengths`.
    """
    if model == DEMO_MODEL:
        options = ("beta", "learning_rate", "lora_r") if tuning == "lora" else ("beta",)
        return [Suggestion(option, DEMO_DEFAULTS[option], "demo") for option in options]
    about = about_model(model)
    found = [_beta(about), _rate(tuning)]
    length = _length(about, lengths)
    memory = _memory(model, tuning, about, length.value if length else None)
    found += [one for one in (length, *memory) if one]
    return [one for one in found if one]


def _beta(about: About) -> Suggestion | None:
    if about.parameters is None and not about.sign:
        return None
    size = "unknown" if about.parameters is None else _size(about.parameters)
    large = (about.parameters or 0) >= LARGE
    values = {"size": size, "sign": about.sign}
    if about.sign:
        return Suggestion("beta", 0.05 if large else 0.1, "beta_tuned_large" if large else "beta_tuned", values)
    return Suggestion("beta", 0.1 if large else 0.5, "beta_large" if large else "beta_base", values)


def _rate(tuning: str) -> Suggestion:
    if tuning == "full":
        return Suggestion("learning_rate", 5e-6, "rate_full")
    return Suggestion("learning_rate", 5e-5, "rate_lora")


def _length(about: About, lengths: np.ndarray | None) -> Suggestion | None:
    if lengths is None:
        return None
    longest = int(lengths.max())
    wanted = MULTIPLE * math.ceil(float(np.quantile(lengths, COVERED)) / MULTIPLE)
    if about.longest and wanted > about.longest:
        share = float((lengths <= about.longest).mean())
        return Suggestion("max_length", about.longest, "length_model", {"share": share})
    share = float((lengths <= wanted).mean())
    return Suggestion("max_length", wanted, "length", {"share": share, "longest": longest})


def _memory(model: str, tuning: str, about: About, max_length: int | None) -> list[Suggestion]:
    """4 bits where the model would not fit otherwise, and a smaller rank where even that is tight."""
    if about.shape is None or tuning == "full":
        return []
    gpus = ask_driver("memory.free")
    free = int(gpus[0][0]) * 2**20 if gpus and gpus[0][0].isdigit() else free_memory()
    device = "cuda" if gpus else "cpu"

    def need(**options: Any) -> int:
        """The least that a training takes: passes are cut to what there is, down to the longest row alone."""
        longest = max_length or KTOConfig(model=model).max_length
        config = KTOConfig(model=model, max_length=longest, tokens_per_pass=longest, **options)
        size = 2 if device == "cuda" else 4
        return estimate_memory(config, about.shape, Tokens.at_most(config), device=device, dtype_bytes=size).high

    whole, small = need(), need(load_in_4bit=True)
    values = {"need": _gigabytes(whole), "free": _gigabytes(free), "less": _gigabytes(small)}
    if whole <= free or device == "cpu":
        found = [Suggestion("load_in_4bit", False, "bits_off", values)] if whole <= free else []
        return [*found, Suggestion("lora_r", 16, "rank")]
    found = [Suggestion("load_in_4bit", True, "bits_on", values)]
    if small > free:
        return [*found, Suggestion("lora_r", 8, "rank_tight", {**values, "need": values["less"]})]
    return [*found, Suggestion("lora_r", 16, "rank")]


def _sign_of_tuning(model: str, folder: Path) -> str:
    if BASE_NAME.search(Path(model).name):
        return ""
    if _tuned_by_name(model):
        return "name"
    card = files.read_bytes(folder / "README.md", at_most=20_000, links=True)[0].decode("utf-8", errors="replace")
    head = card.split("---")[1] if card.startswith("---") and card.count("---") > 1 else ""
    if re.search(r"^\s*-\s*(conversational|chat|sft|instruct\w*)\s*$", head, re.MULTILINE | re.IGNORECASE):
        return "card"
    beside = _read_json(folder / "tokenizer_config.json").get("chat_template")
    return "template" if beside or (folder / "chat_template.jinja").is_file() else ""


def _tuned_by_name(model: str) -> bool:
    name = Path(model).name
    return bool(TUNED_NAME.search(name)) and not BASE_NAME.search(name)


def _parameters_in(path: Path) -> int:
    """Elements of all tensors of a safetensors file, by its header; 0 for a file that has none to read."""
    try:
        with path.open("rb") as file:
            (size,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(size)) if size <= LONGEST_HEADER else {}
        return sum(math.prod(one["shape"]) for name, one in header.items() if name != "__metadata__")
    except (OSError, ValueError, struct.error, KeyError, TypeError, AttributeError):
        return 0


def _read_json(path: Path) -> dict[str, Any]:
    return files.read_json(path, ANYTHING, links=True)[0] or {}  # a hub's folder is full of links


@functools.lru_cache(maxsize=2)
def _tokenizer(folder: str, images: Images):
    return load_tokenizer(folder, images)


def _size(parameters: int) -> str:
    return f"{parameters / 1e9:.1f} billion" if parameters >= 0.95e9 else f"{parameters / 1e6:.3g} million"


def _gigabytes(size: float) -> str:
    return f"{size / 1e9:.1f}" if size < 9.95e9 else f"{size / 1e9:.0f}"
