"""One of several processes: trains runs one after another, `python crew_worker.py RUN[:option] …` under torchrun.

Options: `fsdp2` shares the weights out; `scarce` lets rank 1 run out of memory where a pass has more than 30 tokens.
"""

import sys

import torch

from kto_workbench.engine.crew import Crew, join
from kto_workbench.engine.scoring import PackedScorer, PaddedScorer
from kto_workbench.engine.training import train_run
from kto_workbench.runs.directory import Run


def scarce(rank, forward=PackedScorer.forward):
    """A forward pass that runs out of memory on rank 1 when a pass of training is larger than it likes."""

    def failing(self, pairs, mismatched=(), entropy=False):
        if rank == 1 and self._wrapped and torch.is_grad_enabled() and self.tokens(pairs) > 30:
            raise torch.OutOfMemoryError("CUDA out of memory (played)")
        return forward(self, pairs, mismatched, entropy)

    return failing


def main():
    crew = join("cpu")
    assert crew.size == 2 and PackedScorer.forward is not PaddedScorer.forward
    for argument in sys.argv[1:]:
        path, _, option = argument.partition(":")
        forward = PackedScorer.forward
        if option == "scarce":
            PackedScorer.forward = scarce(crew.rank)
        train_run(Run(path), crew=Crew(crew.rank, crew.size, in_step=option == "fsdp2"))
        PackedScorer.forward = forward


if __name__ == "__main__":
    main()
