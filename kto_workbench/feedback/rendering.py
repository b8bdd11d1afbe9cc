"""A row as the model will see it: token ids, where the completion starts, what max_length cuts.

The engine, the check and the page all use this one definition, and answering feeds a model with the same prompts. It
needs a tokenizer and no torch. What a chat template makes of a row is in templates.py.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kto_workbench.config import DEMO_MODEL
from kto_workbench.errors import ModelError
from kto_workbench.feedback.images import ImageProblem, Images, keys_in
from kto_workbench.feedback.named import asset
from kto_workbench.feedback.rows import Problem
from kto_workbench.feedback.sight import Look, give_sight, sight_of
from kto_workbench.feedback.templates import Thought, Turn, render, short_reason, special_tokens, uses_template

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from kto_workbench.feedback.rows import Row


@dataclass(frozen=True, slots=True)
class Encoded:
    """One row as token ids.

    `prompt_ids` and `completion_ids` each hold at least one id; the completion ends in the end-of-turn token unless
    `completion_cut`. `prompt_cut` and `completion_cut` count the tokens that max_length took from the prompt's start
    and the completion's end. The prompt's last `lead` ids are not the generation prompt's: they stand between it and
    the answer; see Turn, also for `thought`. `look` is that of a prompt with images.
    """

    prompt_ids: tuple[int, ...]
    completion_ids: tuple[int, ...]
    prompt_cut: int = 0
    completion_cut: int = 0
    lead: int = 0
    thought: Thought = ""
    look: Look | None = None

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


def load_tokenizer(model: str, images: Images | None = None, *, trust: bool = False) -> "PreTrainedTokenizerBase":
    """Load the tokenizer of `demo`, a folder or a hub id, whose model sees the `images` of a workspace, if it sees.

    With `trust` it may run its own code.

    Raises ModelError with one sentence.
    """
    from transformers import AutoTokenizer

    path = model_path(model)
    check_model_folder(model)
    try:
        # A local folder needs no network, and a missing one must not wait for it.
        tokenizer = AutoTokenizer.from_pretrained(
            os.path.expanduser(path), local_files_only=Path(path).is_dir(), trust_remote_code=trust
        )
    except Exception as error:  # transformers raises a dozen kinds for the one thing that the user wants to know
        raise ModelError(f"Can't load the tokenizer of model {model!r}: {short_reason(error)}.") from None
    if tokenizer.eos_token_id is None:
        raise ModelError(f"The tokenizer of model {model!r} names no end-of-sequence token, so answers could not end.")
    # Long rows are cut here, and counted; transformers' own warning about them would only alarm.
    tokenizer.model_max_length = int(1e30)
    give_sight(tokenizer, path, images)
    return tokenizer


def encode(
    tokenizer: "PreTrainedTokenizerBase",
    row: "Row",
    max_length: int | None = None,
    *,
    template: str = "auto",
    template_kwargs: Mapping[str, Any] | None = None,
) -> Encoded:
    """Render and tokenize one row; a row over `max_length` tokens loses the start of its prompt first.

    Raises ModelError where the template refuses it.
    """
    (found,) = encode_rows(tokenizer, [row], max_length, template=template, template_kwargs=template_kwargs)
    if isinstance(found, Problem):
        raise ModelError(found.reason[0].upper() + found.reason[1:] + ".")
    return found


def encode_rows(
    tokenizer: "PreTrainedTokenizerBase",
    rows: Iterable["Row"],
    max_length: int | None = None,
    *,
    template: str = "auto",
    template_kwargs: Mapping[str, Any] | None = None,
) -> list[Encoded | Problem]:
    """`encode` for many rows at once, which the tokenizer does in parallel.

    A row that the chat template refuses, or with images that can't be looked at, is a Problem in its place.
    """
    found: list[Any] = []
    lines: list[int] = []
    for row in rows:
        lines.append(row.line)
        try:
            keys = keys_in(row.prompt)
            if keys:
                check_sight(tokenizer, template)
            turn = render(tokenizer, row, template=template, template_kwargs=template_kwargs)
            found.append(_encode_seen(tokenizer, turn, keys, max_length) if keys else turn)
        except (ModelError, ImageProblem) as error:
            found.append(_problem(row.line, error))
    turns = [one for one in found if isinstance(one, Turn)]
    encoded = iter(_encode_turns(tokenizer, turns, max_length, plain=not uses_template(tokenizer, template)))
    found = [next(encoded) if isinstance(one, Turn) else one for one in found]
    return [_without_strays(tokenizer, one, line) for one, line in zip(found, lines, strict=True)]


def _problem(line: int, error: Exception) -> Problem:
    sentence = str(error).rstrip(".")
    return Problem(line, "prompt", sentence[0].lower() + sentence[1:])


def check_sight(tokenizer: "PreTrainedTokenizerBase", template: str) -> None:
    """Raise ModelError if prompts with images can't be shown to a model."""
    sight = sight_of(tokenizer)
    if sight is None or sight.blind:
        raise ModelError(sight.blind if sight else "This model reads no images.")
    if not uses_template(tokenizer, template):
        raise ModelError("A prompt with images needs the model's chat template.")


def _without_strays(tokenizer: "PreTrainedTokenizerBase", one: Any, line: int) -> Any:
    """A row; a Problem where its text holds a token that stands for an image which is not there."""
    sight = sight_of(tokenizer)
    if isinstance(one, Problem) or sight is None or not sight.places:
        return one
    texts = one.completion_ids if one.look else (*one.prompt_ids, *one.completion_ids)
    if stray := sight.places.intersection(texts):
        token = tokenizer.convert_ids_to_tokens(min(stray))
        return Problem(line, "prompt", f"its text holds {token!r}, which stands for an image that is not there")
    return one


def _encode_seen(
    tokenizer: "PreTrainedTokenizerBase", turn: Turn, keys: tuple[str, ...], max_length: int | None
) -> Encoded:
    """A row whose prompt has images. Raises ModelError, ImageProblem."""
    # The answer begins where the text ends, however many tokens its images become.
    prompt, whole = _ids(tokenizer, [turn.prompt, turn.prompt + turn.answer + turn.end])
    lead, completion = _behind(tokenizer, turn, prompt, whole)
    completion = _ended(tokenizer, completion, set(special_tokens(tokenizer).values()))
    ids, look = sight_of(tokenizer).look(turn.prompt, keys)
    head = (*ids, *lead)
    # An image can't be cut: half of its tokens stand for nothing.
    least = len(completion) if max_length is None else min(len(completion), max(1, max_length // 4))
    if max_length is not None and len(head) + least > max_length:
        raise ModelError(
            f"A prompt takes {len(head):,} tokens with its images, which leaves its answer too few of {max_length:,}; "
            "raise max_length."
        )
    kept = completion if max_length is None else completion[: max_length - len(head)]
    cut = len(completion) - len(kept)
    return Encoded(head, tuple(kept), 0, cut, len(lead), turn.thought, look)


def decode(tokenizer: "PreTrainedTokenizerBase", encoded: Encoded) -> tuple[str, str, str]:
    """The text of a row's ids: the generation prompt, what stands between it and the answer, and what is scored."""
    ids, start = encoded.prompt_ids + encoded.completion_ids, len(encoded.prompt_ids)
    ends = (start - encoded.lead, start, len(ids))
    texts = [tokenizer.decode(ids[:end], clean_up_tokenization_spaces=False) for end in ends]
    # Not each by itself: some tokenizers leave out the blank that a text begins with.
    return texts[0], texts[1][len(texts[0]) :], texts[2][len(texts[1]) :]


def feed(tokenizer: "PreTrainedTokenizerBase", prompts: Sequence[str], *, template: str = "auto") -> list[list[int]]:
    """Rendered prompts as the ids that a model is fed with, to answer and to be scored; none is empty."""
    return [_begun(tokenizer, ids) for ids in _ids(tokenizer, prompts, plain=not uses_template(tokenizer, template))]


def look_at(
    tokenizer: "PreTrainedTokenizerBase",
    text: str,
    keys: Sequence[str],
    limit: int | None = None,
    *,
    template: str = "auto",
) -> tuple[tuple[int, ...], Look]:
    """A rendered prompt with images as the ids that a model is fed with, of no more than `limit`, and its look.

    Raises ModelError.
    """
    check_sight(tokenizer, template)
    try:
        ids, look = sight_of(tokenizer).look(text, keys)
    except ImageProblem as problem:
        raise ModelError(f"A prompt can't be shown: {problem}.") from None
    if limit and len(ids) > limit:
        raise ModelError(f"A prompt takes {len(ids):,} tokens with its images, more than the {limit:,} that it may.")
    return ids, look


def cut_start(tokenizer: "PreTrainedTokenizerBase", ids: Sequence[int], room: int) -> list[int]:
    """A prompt's last `room` ids."""
    cut = list(ids[-room:])
    if len(ids) > room > 1 and ids[0] == tokenizer.bos_token_id:
        cut[0] = ids[0]  # models lean on their first token
    return cut


def _begun(tokenizer: "PreTrainedTokenizerBase", ids: list[int]) -> list[int]:
    """Nothing predicts the first token of an empty prompt: begin as the model was taught to begin a text."""
    return ids or [tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id]


def _ids(tokenizer: "PreTrainedTokenizerBase", texts: Sequence[str], *, plain: bool = False) -> list[list[int]]:
    """Texts as ids. A template writes its own beginning-of-sequence token; plain text gets it from the tokenizer."""
    if not texts:
        return []
    found = tokenizer(list(texts), add_special_tokens=plain, return_attention_mask=False, verbose=False)["input_ids"]
    if plain:  # some tokenizers end every text
        found = [ids[:-1] if len(ids) > 1 and ids[-1] == tokenizer.eos_token_id else ids for ids in found]
    return found


def _encode_turns(
    tokenizer: "PreTrainedTokenizerBase", turns: Sequence[Turn], max_length: int | None, *, plain: bool
) -> list[Encoded]:
    prompts = _ids(tokenizer, [turn.prompt for turn in turns], plain=plain)
    wholes = _ids(tokenizer, [turn.prompt + turn.answer + turn.end for turn in turns], plain=plain)
    ends = set(special_tokens(tokenizer).values())
    encoded = []
    for turn, prompt, whole in zip(turns, prompts, wholes, strict=True):
        lead, completion = _behind(tokenizer, turn, prompt, whole)
        completion = _ended(tokenizer, completion, ends)
        context = _begun(tokenizer, [*prompt, *lead])
        encoded.append(_cut(tokenizer, context, completion, max_length, lead=len(lead), thought=turn.thought))
    return encoded


def _ended(tokenizer: "PreTrainedTokenizerBase", completion: list[int], ends: set[int]) -> list[int]:
    """A completion that ends with the end of a turn."""
    return completion if completion and completion[-1] in ends else [*completion, tokenizer.eos_token_id]


def _behind(
    tokenizer: "PreTrainedTokenizerBase", turn: Turn, prompt: list[int], whole: list[int]
) -> tuple[list[int], list[int]]:
    """The ids of the lead, and of the answer with its end, behind those of the prompt."""
    # White space at an answer's edge would merge with what stands beside it, or be swallowed by a special token.
    if turn.answer != turn.answer.strip():
        completion = _go_on(tokenizer, turn.answer) + _go_on(tokenizer, turn.end)
    elif whole[: len(prompt)] == prompt and not turn.lead:
        completion = whole[len(prompt) :]
    else:
        completion = _go_on(tokenizer, turn.answer + turn.end)
    return _go_on(tokenizer, turn.lead), completion


def _go_on(tokenizer: "PreTrainedTokenizerBase", text: str) -> list[int]:
    """A text's ids where it stands behind another: without the blank that some tokenizers put before a text."""
    if not text:
        return []
    for before in ("\n", "a"):  # one of them keeps to itself
        (short,), (long,) = _ids(tokenizer, [before]), _ids(tokenizer, [before + text])
        if long[: len(short)] == short:
            return long[len(short) :]
    return _ids(tokenizer, [text])[0]


def _cut(
    tokenizer: "PreTrainedTokenizerBase",
    head: list[int],
    completion: list[int],
    max_length: int | None,
    *,
    lead: int,
    thought: Thought,
) -> Encoded:
    if max_length is None or len(head) + len(completion) <= max_length:
        return Encoded(tuple(head), tuple(completion), lead=lead, thought=thought)
    # A quarter of the length is the prompt's, if it is that long; what the completion leaves is, too.
    room = min(len(head), max(max_length - len(completion), min(len(head), max(1, max_length // 4))))
    cut_head, cut_completion = cut_start(tokenizer, head, room), completion[: max_length - room]
    return Encoded(
        tuple(cut_head),
        tuple(cut_completion),
        prompt_cut=len(head) - len(cut_head),
        completion_cut=len(completion) - len(cut_completion),
        lead=min(lead, len(cut_head)),
        thought=thought,
    )
