"""Models, lengths and batches that the measurements share. Everything is seeded: two processes build the same."""

import math
import random
from dataclasses import dataclass
from typing import Any

PAD, END = 0, 1


@dataclass(frozen=True)
class Mix:
    """Mean lengths in tokens and the spread σ of their log-normal distribution; σ 0 makes all equal.

    `siblings`: how many answers each prompt has.
    """

    prompt_tokens: int
    completion_tokens: int
    sigma: float
    siblings: int = 1

    def __str__(self) -> str:
        siblings = f"/{self.siblings}" if self.siblings > 1 else ""
        return f"{self.prompt_tokens}/{self.completion_tokens}/{self.sigma:g}{siblings}"

    @classmethod
    def parse(cls, text: str) -> "Mix":
        """The inverse of str()."""
        prompt, completion, sigma, *siblings = text.split("/")
        return cls(int(prompt), int(completion), float(sigma), *map(int, siblings))


MIXES = (
    Mix(120, 120, 0.6),
    Mix(240, 60, 0.6),
    Mix(120, 120, 0.0),
    Mix(240, 60, 0.6, siblings=2),
    Mix(240, 60, 0.6, siblings=4),
    Mix(900, 100, 0.6, siblings=2),
)


@dataclass(frozen=True)
class Shape:
    """A Llama-shaped model."""

    layers: int = 8
    hidden: int = 256
    intermediate: int = 1024
    heads: int = 4
    kv_heads: int = 2
    vocabulary: int = 8192
    lora_r: int = 16

    @property
    def body_parameters(self) -> int:
        """N: parameters of all layers' matrices, without embeddings, head and adapter."""
        kv = self.hidden * self.kv_heads // self.heads
        return self.layers * (2 * self.hidden * (self.hidden + kv) + 3 * self.hidden * self.intermediate)


@dataclass(frozen=True)
class Example:
    """One row as token ids, the completion with its end token."""

    prompt: tuple[int, ...]
    completion: tuple[int, ...]
    label: bool

    def __len__(self) -> int:
        return len(self.prompt) + len(self.completion)


def make_batches(mix: Mix, rows: int, batch_size: int, vocabulary: int, draws: int = 100) -> list[list[Example]]:
    """Batches of random tokens with the mix's lengths, about as many thumbs up as down.

    A few batches may by chance hold far more or less padding than usual; of so many draws of lengths the one is taken
    whose padding is nearest to the mean of them all.
    """
    lengths = [_draw_lengths(mix, rows, batch_size, random.Random(f"{seed}/{mix}")) for seed in range(draws)]
    paddings = [padding(_split(some, batch_size)) for some in lengths]
    usual = sum(paddings) / draws
    chosen = min(range(draws), key=lambda i: abs(paddings[i] - usual))
    draw = random.Random(chosen)
    prompts: dict[int, tuple[int, ...]] = {}
    examples = []
    for i, (p, c) in enumerate(lengths[chosen]):
        group = _group(i, batch_size, mix.siblings)
        if group not in prompts:
            prompts[group] = tuple(draw.randrange(2, vocabulary) for _ in range(p))
        completion = (*(draw.randrange(2, vocabulary) for _ in range(c - 1)), END)
        examples.append(Example(prompts[group], completion, i % 2 == 0))
    return _split(examples, batch_size)


def scattered(batches: list[list[Example]], draws: int = 100) -> list[list[Example]]:
    """The same rows in batches as a draw makes them that knows nothing of siblings, with the padding that is usual."""
    size, rows = len(batches[0]), [example for batch in batches for example in batch]
    drawn = [_split(random.Random(seed).sample(rows, len(rows)), size) for seed in range(draws)]
    paddings = [padding(lengths_of(some)) for some in drawn]
    usual = sum(paddings) / draws
    return drawn[min(range(draws), key=lambda i: abs(paddings[i] - usual))]


def _group(row: int, batch_size: int, siblings: int) -> int:
    """The prompt of a row: siblings are in one batch, as far from each other as can be, so that none is a partner."""
    batch, place = divmod(row, batch_size)
    prompts = batch_size // siblings
    return batch * prompts + place % prompts


def _draw_lengths(mix: Mix, rows: int, batch_size: int, draw: random.Random) -> list[tuple[int, int]]:
    def length(mean: int) -> int:
        # exp of a normal with mean log(mean) − σ²/2 has the wanted mean.
        return max(2, round(draw.lognormvariate(math.log(mean) - mix.sigma**2 / 2, mix.sigma)))

    drawn = [(length(mix.prompt_tokens), length(mix.completion_tokens)) for _ in range(rows)]
    return [(drawn[_group(i, batch_size, mix.siblings)][0], c) for i, (_, c) in enumerate(drawn)]


def _split(items: list, size: int) -> list[list]:
    return [items[i : i + size] for i in range(0, len(items), size)]


def padding(batches: list[list[tuple[int, int]]]) -> float:
    """Tokens of padded batches of (prompt, completion) lengths, mismatched ones included, per token that is there."""
    padded = there = 0
    for batch in batches:
        mismatched = [(p, c) for (p, _), (_, c) in zip(batch, batch[1:] + batch[:1], strict=True)]
        for pairs in (batch, mismatched):
            padded += len(pairs) * max(p + c for p, c in pairs)
            there += sum(p + c for p, c in pairs)
    return padded / there


def lengths_of(batches: list[list[Example]]) -> list[list[tuple[int, int]]]:
    """(prompt, completion) lengths of batches."""
    return [[(len(e.prompt), len(e.completion)) for e in batch] for batch in batches]


def floor_operations(shape: Shape, batches: list[list[Example]]) -> float:
    """Floating-point operations of exact KTO with LoRA: 4N(P+C) + 2NC in the body, 3C · 2VH in the head.

    A forward and a backward through frozen weights over every token, a forward over mismatched completions; attention
    and adapter are left out, and a prompt counts once for all answers that a batch has to it.
    """
    p = sum(len(prompt) for batch in batches for prompt in {e.prompt for e in batch})
    c = sum(len(e.completion) for batch in batches for e in batch)
    n = shape.body_parameters
    return 4 * n * (p + c) + 2 * n * c + 3 * c * 2 * shape.vocabulary * shape.hidden


def make_model(shape: Shape, attn_implementation: str = "sdpa") -> Any:
    """A Llama-shaped model with random weights in float32, the same at every call."""
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig

    config = LlamaConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        max_position_embeddings=8192,
        tie_word_embeddings=False,
        pad_token_id=PAD,
        bos_token_id=None,
        eos_token_id=END,
    )
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config, attn_implementation=attn_implementation).train()


def lora_config(shape: Shape) -> Any:
    """LoRA on all linear layers, without dropout."""
    from peft import LoraConfig

    return LoraConfig(
        task_type="CAUSAL_LM", r=shape.lora_r, lora_alpha=2 * shape.lora_r, target_modules="all-linear", bias="none"
    )


def move_adapter(model: Any, sign: int = 1) -> None:
    """Give an adapter tensors away from the reference, the same for every model of a shape, so that rewards differ."""
    import torch

    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            if "lora_A" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) / parameter.shape[1] ** 0.5)
            elif "lora_B" in name:
                parameter.copy_(sign * 0.02 * torch.randn(parameter.shape, generator=generator))
