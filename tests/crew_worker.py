"""One of several processes: trains runs one after another, `python crew_worker.py RUN[:options] …` under torchrun.

Options, joined by `+`: `fsdp2` and `zero3` share the weights out; `scarce` lets rank 1 run out of memory amid its first
forward and its first backward pass over more than 30 tokens; `die7` ends the training in its 7th step as a kill would;
`stop4` asks for a stop at its 4th.
"""

import contextlib
import json
import sys

import torch

from kto_workbench.engine import training, zero
from kto_workbench.engine.crew import Crew, join
from kto_workbench.engine.trainer import KTOTrainer
from kto_workbench.errors import WorkbenchError
from kto_workbench.runs.directory import Run

TOKENS = 30


class Died(Exception):
    """What nobody tells the run of."""


class Scarce:
    """A device that runs out of memory where a layer has more tokens than it likes."""

    def __init__(self):
        self.failed = []

    def hook(self, layer):
        """Let a layer fail in its forward and in its backward pass, each once."""

        def forward(module, inputs, output):
            hidden = output[0] if isinstance(output, tuple) else output
            if hidden.shape[1] > TOKENS and hidden.requires_grad:
                self.fail("forward")
                hidden.register_hook(lambda gradient: self.fail("backward"))

        return layer.register_forward_hook(forward)

    def fail(self, where):
        if where not in self.failed:
            self.failed.append(where)
            raise torch.OutOfMemoryError("CUDA out of memory (played)")


@contextlib.contextmanager
def steps_as(around):
    """Training steps go through `around(trainer, step)`."""
    step = KTOTrainer.training_step

    def training_step(self, *args, **options):
        return around(self, lambda: step(self, *args, **options))

    KTOTrainer.training_step = training_step
    try:
        yield
    finally:
        KTOTrainer.training_step = step


@contextlib.contextmanager
def scarce(rank):
    device = Scarce()

    def around(trainer, step):
        layers = [m for m in trainer.scorer.model.modules() if type(m).__name__.endswith("DecoderLayer")]
        hook = device.hook(layers[1]) if rank == 1 else None
        try:
            return step()
        finally:
            if hook:
                hook.remove()

    with steps_as(around):
        yield
    assert rank == 0 or device.failed == ["forward", "backward"], device.failed


def dying(at):
    def around(trainer, step):
        if trainer.state.global_step + 1 == at:
            raise Died
        return step()

    return steps_as(around)


def asking_to_stop(run, rank, at):
    def around(trainer, step):
        if trainer.state.global_step + 1 == at and rank == 0:
            run.ask("stop")
        return step()

    return steps_as(around)


def noting_what_is_held(run, rank):
    """Each process's numbers of the weights, as it begins to train: its own, and all."""

    def around(trainer, step):
        if trainer.state.global_step == 0:
            held = [
                (p.to_local() if hasattr(p, "to_local") else getattr(p, "ds_tensor", p)).numel()
                for p in trainer.scorer.parameters()
            ]
            everything = sum(getattr(p, "ds_numel", p.numel()) for p in trainer.scorer.parameters())
            (run.path / f"held-{rank}.json").write_text(json.dumps([sum(held), everything]))
        return step()

    return steps_as(around)


def main():
    crew = join("cpu")
    assert crew.size == 2
    zero.KEPT_WHOLE = 0  # a tiny model has no weight that DeepSpeed would share out
    for argument in sys.argv[1:]:
        path, _, given = argument.partition(":")
        run, options = Run(path), given.split("+")
        sharding = next((way for way in ("fsdp2", "zero3") if way in options), "none")
        with contextlib.ExitStack() as stack:
            stack.enter_context(noting_what_is_held(run, crew.rank))
            for option in options:
                if option == "scarce":
                    stack.enter_context(scarce(crew.rank))
                elif option.startswith("die"):
                    stack.enter_context(contextlib.suppress(Died))
                    stack.enter_context(dying(int(option[3:])))
                elif option.startswith("stop"):
                    stack.enter_context(asking_to_stop(run, crew.rank, int(option[4:])))
            stack.enter_context(contextlib.suppress(WorkbenchError))  # a test looks at the status
            training.train_run(run, crew=Crew(crew.rank, crew.size, sharding))


if __name__ == "__main__":
    main()
