"""Rows as the trainer draws them: rendered and tokenized when they are visited, so that no step waits for the last row.

Tokenizing a batch takes a hundredth of a training step, so nothing of it is kept on disk; the ids of the rows visited
stay in memory while there is room.
"""

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from torch.utils.data import Dataset

from kto_workbench.engine.batches import Batch, Pair, behind_one_prompt, mismatched_pair
from kto_workbench.feedback.rendering import Encoded
from kto_workbench.feedback.rows import Problem, Row
from kto_workbench.feedback.sight import Look

KEPT_TOKENS = 2**24  # 64 MiB of ids


class Examples(Dataset):
    """Rows of feedback, or couples of them, as batches of token ids.

    Args:
        rows: all of them.
        partner: [n] the row whose completion is mismatched to each one's prompt; None where no z0 is estimated from
            mismatched pairs.
        encode: token ids of rows, or what is wrong with a row.
        max_length: of prompt and completion together, in tokens.
        on_problem: told of each row that can't be used; it is left out of its batch, and the other of its couple, too.
        couples: [k, 2] rows, the liked and the disliked answer to a prompt; the examples are then couples, not rows.
    """

    def __init__(
        self,
        rows: Sequence[Row],
        partner: np.ndarray | None,
        encode: Callable[[Sequence[Row]], Sequence[Encoded | Problem]],
        max_length: int,
        on_problem: Callable[[Problem], None] = lambda problem: None,
        couples: np.ndarray | None = None,
    ) -> None:
        self.rows, self.partner, self.encode, self.max_length = rows, partner, encode, max_length
        self.on_problem, self.couples = on_problem, couples
        self._ids: dict[int, tuple[np.ndarray, np.ndarray, Look | None] | None] = {}
        self._kept = 0

    def __len__(self) -> int:
        return len(self.rows if self.couples is None else self.couples)

    def __getitems__(self, numbers: Sequence[int]) -> Batch:
        return self.batch(numbers)

    def batch(self, numbers: Sequence[int]) -> Batch:
        """The examples of these numbers, without those that can't be used."""
        if self.couples is not None:
            return self._batch_of_couples(self.couples[list(numbers)].tolist())
        others = [] if self.partner is None else self.partner[list(numbers)].tolist()
        self._visit([*numbers, *others])
        usable = [number for number in numbers if self._ids[number] is not None]
        pairs = [self._pair(number) for number in usable]
        mismatched = []
        if self.partner is not None:
            mismatched = self._mismatched([(number, self._usable_partner(number)) for number in usable])
        label = torch.tensor([self.rows[number].label for number in usable], dtype=torch.bool)
        self._forget()
        return Batch(pairs, mismatched, label)

    def _batch_of_couples(self, couples: Sequence[tuple[int, int]]) -> Batch:
        self._visit([number for couple in couples for number in couple])
        pairs: list[Pair] = []
        for liked, disliked in couples:
            if self._ids[liked] is not None and self._ids[disliked] is not None:
                pairs += behind_one_prompt(self._pair(liked), self._pair(disliked))
        self._forget()
        label = torch.tensor([True, False] * (len(pairs) // 2), dtype=torch.bool)
        return Batch(pairs, [], label, coupled=True)

    def mismatched(self, numbers: Sequence[tuple[int, int]]) -> list[Pair]:
        """The prompt of one row with the completion of another, for each two that can be used."""
        self._visit([number for two in numbers for number in two])
        return self._mismatched([(a, b) for a, b in numbers if self._ids[a] is not None and self._ids[b] is not None])

    def _mismatched(self, numbers: Sequence[tuple[int, int]]) -> list[Pair]:
        both = [(self._pair(a), self._pair(b)) for a, b in numbers]
        return [mismatched_pair(a.prompt_ids, b.completion_ids, self.max_length, a.look) for a, b in both]

    def _pair(self, number: int) -> Pair:
        prompt, completion, look = self._ids[number]
        return Pair(tuple(prompt.tolist()), tuple(completion.tolist()), look)

    def _usable_partner(self, number: int) -> int:
        """The row's partner, or the first usable one behind it on the circle."""
        partner = int(self.partner[number])
        while partner != number:
            self._visit([partner])
            if self._ids[partner] is not None:
                break
            partner = int(self.partner[partner])
        return partner

    def _visit(self, numbers: Iterable[int]) -> None:
        """Have the ids of these rows at hand."""
        new = [number for number in dict.fromkeys(numbers) if number not in self._ids]
        encoded_rows = self.encode([self.rows[number] for number in new]) if new else []
        for number, encoded in zip(new, encoded_rows, strict=True):
            if isinstance(encoded, Problem):
                self._ids[number] = None
                self.on_problem(encoded)
                continue
            prompt, completion = (np.asarray(p, dtype=np.int32) for p in (encoded.prompt_ids, encoded.completion_ids))
            self._ids[number] = prompt, completion, encoded.look
            self._kept += len(prompt) + len(completion)

    def _forget(self) -> None:
        """Let go of the ids of the rows visited when there are too many; problems are few, and told once."""
        if self._kept > KEPT_TOKENS:
            self._ids = {number: ids for number, ids in self._ids.items() if ids is None}
            self._kept = 0
