"""What a model that sees makes of prompts with images: its processor, on the images of a workspace.

A processor turns the place of an image in a rendered prompt into as many tokens as the model will put features of the
image, and the image into numbers. How many there are is asked when a row is visited; the numbers are made again for
each pass, by the processor for all prompts of the pass together, so that how they are laid out is its business alone.

It needs transformers and no torch.
"""

import functools
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xxhash

from kto_workbench.errors import ModelError
from kto_workbench.feedback.images import Images
from kto_workbench.feedback.templates import short_reason

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, ProcessorMixin

PROCESSOR_FILES = (
    "processor_config.json",
    "preprocessor_config.json",
    "video_preprocessor_config.json",
    "chat_template.json",
)
# What configs call the tokens that stand for images and videos.
_PLACES = ("image_token_id", "image_token_index", "video_token_id", "video_token_index")


@dataclass(frozen=True, slots=True)
class Look:
    """A prompt with images: its text as the template has it, the images' keys, and its tokens.

    `digest` stands for all that the processor makes of it, pixels included: prompts with other images differ in it.
    """

    text: str
    keys: tuple[str, ...]
    size: int
    digest: bytes


class Sight:
    """A model's eyes: its processor, loaded when the first image comes up.

    Args:
        model: a folder or a hub id.
        tokenizer: of the model.
        images: of the workspace; None where nothing is to be looked at.
    """

    def __init__(self, model: str, tokenizer: "PreTrainedTokenizerBase", images: Images | None = None) -> None:
        self.model, self.tokenizer, self.images = model, tokenizer, images

    @functools.cached_property
    def config(self) -> Any:
        """The model's config. Raises ModelError."""
        from transformers import AutoConfig

        try:
            return AutoConfig.from_pretrained(
                os.path.expanduser(self.model), local_files_only=Path(self.model).is_dir(), trust_remote_code=False
            )
        except Exception as error:  # transformers raises a dozen kinds for the one thing that the user wants to know
            raise ModelError(f"Can't load the config of model {self.model!r}: {short_reason(error)}.") from None

    @functools.cached_property
    def blind(self) -> str:
        """Why the model sees nothing, to stand in a sentence; "" if it sees."""
        from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

        try:
            kind = self.config.model_type
        except ModelError as error:
            return str(error).rstrip(".")
        if kind not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES:
            return "this model reads no images"
        try:
            self.processor  # noqa: B018
        except Exception as error:  # as many kinds as there are processors
            return f"this model's processor can't be loaded ({short_reason(error)})"
        return ""

    @functools.cached_property
    def processor(self) -> "ProcessorMixin":
        """The model's processor, for text and images alone: its videos may need libraries that are not here."""
        path = os.path.expanduser(self.model)
        local = Path(path).is_dir()
        kind = _processor_class(path, local, self.config.model_type)
        processor = _without_videos(kind).from_pretrained(path, local_files_only=local, trust_remote_code=False)
        processor.tokenizer = self.tokenizer
        return processor

    @functools.cached_property
    def places(self) -> frozenset[int]:
        """The ids of tokens that stand for images or videos: none may be in a text."""
        try:
            found = [getattr(self.config, name, None) for name in _PLACES]
        except ModelError:  # said elsewhere
            found = []
        return frozenset(number for number in found if isinstance(number, int))

    def look(self, text: str, keys: Sequence[str]) -> tuple[tuple[int, ...], Look]:
        """The ids of a rendered prompt with these images. Raises ModelError, and ImageProblem for an image."""
        made = self._process([text], [keys])
        ids = tuple(int(token) for token in made.pop("input_ids")[0])
        digest = xxhash.xxh3_128()
        for name in sorted(made):
            digest.update(f"{name} {made[name].dtype} {made[name].shape}".encode())
            digest.update(np.ascontiguousarray(made[name]).tobytes())
        return ids, Look(text, tuple(keys), len(ids), digest.digest())

    def numbers(self, looks: Sequence[Look]) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """What the model is given beside ids and mask for these prompts. Raises ModelError, ImageProblem.

        First what is said of each token, such as that it is part of an image: [prompts, tokens], filled up on the
        right. Then all else, as the model wants it.
        """
        made = self._process([look.text for look in looks], [look.keys for look in looks])
        ids, mask = made.pop("input_ids"), made.pop("attention_mask")
        if any(int(row.sum()) != look.size for row, look in zip(mask, looks, strict=True)):
            raise ModelError("An image is another one than it was when its row was read; load the feedback again.")
        of_tokens = {name: value for name, value in made.items() if value.shape == ids.shape}
        return of_tokens, {name: value for name, value in made.items() if name not in of_tokens}

    def _process(self, texts: list[str], keys: Sequence[Sequence[str]]) -> dict[str, np.ndarray]:
        if self.blind:
            raise ModelError(f"{self.blind[0].upper()}{self.blind[1:]}.")
        if self.images is None:
            raise ModelError("There is no workspace here in which images could be looked up.")
        images = [[self.images.open(key) for key in some] for some in keys]
        try:
            made = self.processor(
                text=texts,
                images=images,
                padding=True,
                padding_side="right",
                add_special_tokens=False,
                return_tensors="np",
            )
            return {name: np.asarray(value) for name, value in made.items()}
        except Exception as error:  # as many kinds as there are processors
            raise ModelError(f"The model's processor refuses a prompt with images: {short_reason(error)}.") from None


def give_sight(tokenizer: "PreTrainedTokenizerBase", model: str, images: Images | None) -> None:
    """Let a tokenizer's model look at the images of a workspace."""
    tokenizer.sight = Sight(model, tokenizer, images)


def sight_of(tokenizer: "PreTrainedTokenizerBase") -> Sight | None:
    """The eyes of a tokenizer's model, which may see nothing; None for a tokenizer that was not loaded for a model."""
    return getattr(tokenizer, "sight", None)


def copy_processor(model: str, folder: Path) -> None:
    """Put the files of a model's processor, if it has one, beside other files that were made of it."""
    from transformers.utils import cached_file

    path = os.path.expanduser(model)
    for name in PROCESSOR_FILES:
        found = cached_file(
            path, name, local_files_only=Path(path).is_dir(), _raise_exceptions_for_missing_entries=False
        )
        if found and not (folder / name).exists():
            shutil.copy2(found, folder / name)


def _processor_class(path: str, local: bool, kind: str) -> Any:
    """The class that a model's files name, or that its kind of model has."""
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING_NAMES, processor_class_from_name
    from transformers.utils import cached_file

    names = []
    for file in ("processor_config.json", "preprocessor_config.json"):
        found = cached_file(path, file, local_files_only=local, _raise_exceptions_for_missing_entries=False)
        if found:
            names.append(_named(json.loads(Path(found).read_text(encoding="utf-8"))))
    name = next(filter(None, [*names, PROCESSOR_MAPPING_NAMES.get(kind)]), None)
    found = processor_class_from_name(name) if name else None
    if found is None:
        raise ModelError(f"its class {name or ''} is not known here")
    return found


def _named(config: Any) -> str | None:
    name = config.get("processor_class") if isinstance(config, Mapping) else None
    return name if isinstance(name, str) else None


def _without_videos(kind: Any) -> Any:
    """A processor's class without the part that reads videos."""

    def get_attributes(cls: Any) -> list[str]:
        return [name for name in kind.get_attributes() if "video" not in name]

    return type(kind.__name__, (kind,), {"get_attributes": classmethod(get_attributes)})
