"""A row as the model will see it: chat template, token ids, where the completion starts, what max_length cuts.

The engine, the check and the page all use this one definition. It needs a tokenizer and no torch.
"""

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kto_workbench.config import DEMO_MODEL
from kto_workbench.errors import ModelError
from kto_workbench.feedback.named import asset

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from kto_workbench.feedback.rows import Message, Row


@dataclass(frozen=True, slots=True)
class Encoded:
    """One row as token ids.

    `prompt_ids` and `completion_ids` each hold at least one id; the completion ends in the end-of-turn token unless
    `completion_cut`. `prompt_cut` and `completion_cut` count the tokens that max_length took from the prompt's start
    and the completion's end. `diverged` says that the template renders the prompt differently once an answer follows
    (some reasoning templates do); the completion then starts where the two renderings part.
    """

    prompt_ids: tuple[int, ...]
    completion_ids: tuple[int, ...]
    prompt_cut: int = 0
    completion_cut: int = 0
    diverged: bool = False

    def __len__(self) -> int:
        return len(self.prompt_ids) + len(self.completion_ids)


def model_path(model: str) -> str:
    """Where a model's files are: `demo` is the folder that comes with the package, all else stays as it is."""
    return str(asset("model")) if model == DEMO_MODEL else model


def check_model_folder(model: str) -> None:
    """Raise ModelError if a model that can only be a folder does not exist."""
    looks_like_folder = model.startswith((".", "/", "~")) or model.count("/") > 1 or os.sep != "/" and os.sep in model
    if looks_like_folder and not Path(model).expanduser().is_dir():
        raise ModelError(f"There is no model in {model}: no such folder.")


def load_tokenizer(model: str) -> "PreTrainedTokenizerBase":
    """Load the tokenizer of `demo`, a folder or a hub id. Raises ModelError with one sentence."""
    from transformers import AutoTokenizer

    path = model_path(model)
    check_model_folder(model)
    try:
        # A local folder needs no network, and a missing one must not wait for it.
        tokenizer = AutoTokenizer.from_pretrained(os.path.expanduser(path), local_files_only=Path(path).is_dir())
    except Exception as error:  # transformers raises a dozen kinds for the one thing that the user wants to know
        raise ModelError(f"Can't load the tokenizer of model {model!r}: {short_reason(error)}.") from None
    if tokenizer.eos_token_id is None:
        raise ModelError(f"The tokenizer of model {model!r} names no end-of-sequence token, so answers could not end.")
    # Long rows are cut here, and counted; transformers' own warning about them would only alarm.
    tokenizer.model_max_length = int(1e30)
    return tokenizer


def prompt_messages(prompt: "str | Sequence[Message]") -> "list[Message]":
    """A prompt as chat messages: text is one user's turn."""
    return [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)


def uses_template(tokenizer: "PreTrainedTokenizerBase", template: str = "auto") -> bool:
    """Whether prompts are rendered with the model's chat template (`auto`: where it has one) or as plain text."""
    return template == "auto" and bool(tokenizer.chat_template)


def render_prompt(
    tokenizer: "PreTrainedTokenizerBase",
    prompt: "str | Sequence[Message]",
    *,
    template: str = "auto",
    tools: Any = None,
) -> str:
    """The text that the model continues: prompt and generation prompt as the chat template writes them.

    Without a template, messages are joined by blank lines.
    """
    if uses_template(tokenizer, template):
        return _apply(tokenizer, prompt_messages(prompt), tools, add_generation_prompt=True)
    return prompt if isinstance(prompt, str) else "\n\n".join(message["content"] for message in prompt)


def render(tokenizer: "PreTrainedTokenizerBase", row: "Row", *, template: str = "auto") -> tuple[str, str]:
    """A row's prompt, and its prompt with the completion, as text."""
    tools = getattr(row, "tools", None)
    prompt = render_prompt(tokenizer, row.prompt, template=template, tools=tools)
    if not uses_template(tokenizer, template):
        return prompt, prompt + row.completion
    messages = [*prompt_messages(row.prompt), {"role": "assistant", "content": row.completion}]
    return prompt, _apply(tokenizer, messages, tools, add_generation_prompt=False)


def encode(
    tokenizer: "PreTrainedTokenizerBase", row: "Row", max_length: int | None = None, *, template: str = "auto"
) -> Encoded:
    """Render and tokenize one row; a row over `max_length` tokens loses the start of its prompt first."""
    return encode_rows(tokenizer, [row], max_length, template=template)[0]


def encode_rows(
    tokenizer: "PreTrainedTokenizerBase",
    rows: Iterable["Row"],
    max_length: int | None = None,
    *,
    template: str = "auto",
) -> list[Encoded]:
    """`encode` for many rows at once, which the tokenizer does in parallel."""
    rendered = [render(tokenizer, row, template=template) for row in rows]
    if not rendered:
        return []
    # A template writes its own beginning-of-sequence token; plain text gets it from the tokenizer.
    special = not uses_template(tokenizer, template)

    def ids(texts: list[str]) -> list[list[int]]:
        return tokenizer(texts, add_special_tokens=special, return_attention_mask=False, verbose=False)["input_ids"]

    prompts, wholes = ids([prompt for prompt, _ in rendered]), ids([whole for _, whole in rendered])
    if special:  # some tokenizers end every text
        prompts = [p[:-1] if len(p) > 1 and p[-1] == tokenizer.eos_token_id else p for p in prompts]
    ends = _turn_ends(tokenizer)
    return [_split(tokenizer, ends, prompt, whole, max_length) for prompt, whole in zip(prompts, wholes, strict=True)]


def _split(
    tokenizer: "PreTrainedTokenizerBase", ends: set[int], prompt: list[int], whole: list[int], max_length: int | None
) -> Encoded:
    start = 0
    for a, b in zip(prompt, whole, strict=False):
        if a != b:
            break
        start += 1
    diverged = start < len(prompt)
    head, completion = whole[:start], _closed(tokenizer, ends, whole[start:])
    if not head:
        # Nothing predicts the first token: begin as the model was taught to begin a text.
        head = [tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id]
    if max_length is None or len(head) + len(completion) <= max_length:
        return Encoded(tuple(head), tuple(completion), diverged=diverged)
    # A quarter of the length is the prompt's, if it is that long; what the completion leaves is, too.
    room = max(max_length - len(completion), min(len(head), max(1, max_length // 4)))
    cut_completion = completion[: max_length - min(room, len(head))]
    cut_head = head[-room:] if room < len(head) else head
    if len(cut_head) < len(head) and len(cut_head) > 1 and head[0] == tokenizer.bos_token_id:
        cut_head = [head[0], *cut_head[1:]]  # models lean on their first token
    return Encoded(
        tuple(cut_head),
        tuple(cut_completion),
        prompt_cut=len(head) - len(cut_head),
        completion_cut=len(completion) - len(cut_completion),
        diverged=diverged,
    )


def _turn_ends(tokenizer: "PreTrainedTokenizerBase") -> set[int]:
    """The tokens that can end a turn: special ones, also those that the tokenizer's config gives no role."""
    added = {number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    # An unknown character at the end of an answer is no end.
    return ({*tokenizer.all_special_ids, *added} - {tokenizer.unk_token_id}) | {tokenizer.eos_token_id}


def _closed(tokenizer: "PreTrainedTokenizerBase", ends: set[int], completion: list[int]) -> list[int]:
    """The completion ending in its end-of-turn token: white space behind it goes, a missing one is added."""
    end = len(completion)
    while end and completion[end - 1] not in ends and not tokenizer.decode(completion[end - 1 : end]).strip():
        end -= 1
    if end and completion[end - 1] in ends:
        return completion[:end]
    return [*completion, tokenizer.eos_token_id]


def _apply(
    tokenizer: "PreTrainedTokenizerBase", messages: "list[Message]", tools: Any, *, add_generation_prompt: bool
) -> str:
    if isinstance(tools, str):
        tools = json.loads(tools)
    try:
        return tokenizer.apply_chat_template(
            messages, tools=tools or None, tokenize=False, add_generation_prompt=add_generation_prompt
        )
    except Exception as error:  # jinja's own kinds, raised by the template's author
        roles = ", ".join(message["role"] for message in messages)
        raise ModelError(
            f"The model's chat template refuses messages of roles {roles}: {short_reason(error)}."
        ) from None


def short_reason(error: Exception) -> str:
    """The first line of an exception's message, fit to stand inside a sentence."""
    line = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return line.strip().rstrip(".")[:200]
