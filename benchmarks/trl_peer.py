"""TRL's KTOTrainer on exactly our batches: same base weights, same adapter tensors, same mismatched pairs.

Two configurations: as it comes (gradient checkpointing on, the reference computed anew at each step), and tuned
(reference precomputed, no checkpointing). Both get float32, β and weights of ours, and one patch in their favour: on a
CPU TRL's fused head scores every position, on a GPU those of the completion only; here it does the latter.

TRL pairs x_i with y_{i−1}, we pair x_i with y_{i+1}: with the rows of each batch reversed, the pairs are the same.
"""

import contextlib
import os
import tempfile
from typing import Any

import torch

from benchmarks.workload import END, PAD, Example, Shape, lora_config, make_model

os.environ.setdefault("TQDM_DISABLE", "1")


class TrlPeer:
    """One of TRL's configurations, driven a step at a time.

    Args:
        shape: of the model.
        batches: all batches of the epoch, equally long.
        tuned: reference precomputed and no checkpointing, rather than as it comes.
        beta: β; λ_D = λ_U = 1.
    """

    def __init__(self, shape: Shape, batches: list[list[Example]], *, tuned: bool, beta: float) -> None:
        import datasets
        from trl import KTOConfig, KTOTrainer

        datasets.disable_progress_bars()
        score_completions_only()
        rows = [_row(example) for batch in batches for example in reversed(batch)]
        self.folder = tempfile.TemporaryDirectory()
        options = {"precompute_ref_log_probs": True, "gradient_checkpointing": False} if tuned else {}
        arguments = KTOConfig(
            output_dir=self.folder.name,
            per_device_train_batch_size=len(batches[0]),
            max_length=None,
            beta=beta,
            bf16=False,
            use_cpu=True,
            report_to="none",
            disable_tqdm=True,
            **options,
        )
        with contextlib.redirect_stdout(None):
            self.trainer = KTOTrainer(
                model=make_model(shape),
                args=arguments,
                train_dataset=datasets.Dataset.from_list(rows),
                processing_class=_tokenizer(shape.vocabulary),
                peft_config=lora_config(shape),
            )
        self.model = self.trainer.model
        # What Trainer.train() sets up when it starts; it is not started here.
        self.trainer.current_gradient_accumulation_steps = 1
        if arguments.gradient_checkpointing:
            self.model.activation_checkpointing_enable(arguments.activation_checkpointing_kwargs)
        m = len(batches[0])
        prepared = self.trainer.train_dataset
        assert [row["prompt_ids"] + row["completion_ids"] for row in prepared] == [
            [*example.prompt, *example.completion] for batch in batches for example in reversed(batch)
        ]
        self.batches = [[prepared[i] for i in range(b * m, (b + 1) * m)] for b in range(len(batches))]

    def inputs(self, number: int) -> dict[str, torch.Tensor]:
        """A batch, padded by TRL's collator."""
        return self.trainer.data_collator(self.batches[number])

    def step(self, number: int) -> torch.Tensor:
        """Add the gradient of a batch; returns its loss."""
        return self.trainer.training_step(self.model, self.inputs(number))

    def z0(self) -> float:
        """The reference point of the last step, in nats."""
        return self.trainer._metrics["train"]["kl"][-1]

    def score_reference(self, number: int) -> None:
        """What precomputing the reference takes for one batch."""
        self.trainer.compute_ref_log_probs(self.model, self.inputs(number))


def score_completions_only() -> None:
    """Have TRL's fused head take completion positions only on a CPU too.

    `trl.trainer.utils.add_fused_lm_head` does so where `_use_triton(device)` holds. That name is replaced in this one
    module; the kernel module keeps its own and goes on with its torch tiles.
    """
    from trl.trainer import utils

    if not hasattr(utils, "_use_triton"):
        raise SystemExit("This benchmark's patch of the CPU head is for TRL 1.16: another version is installed.")
    utils._use_triton = lambda device: True


def _row(example: Example) -> dict[str, Any]:
    words = lambda ids: "".join(f"{_word(i)} " for i in ids)
    return {"prompt": words(example.prompt), "completion": words(example.completion).strip(), "label": example.label}


def _word(i: int) -> str:
    # Special tokens are looked for inside of words too, so they must not look like numbers.
    return {PAD: "<pad>", END: "<end>"}.get(i, str(i))


def _tokenizer(vocabulary: int) -> Any:
    """Each word is a token's number, so that TRL's own preparation gives back exactly our ids."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordLevel({_word(i): i for i in range(vocabulary)}, unk_token=_word(PAD)))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=_word(PAD), eos_token=_word(END))
