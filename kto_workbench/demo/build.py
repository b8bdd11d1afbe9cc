"""Makes `assets/`: the demo's feedback files, its tokenizer and its model, all from one seed.

    python -m kto_workbench.demo.build                  # about nine minutes on one CPU thread
    python -m kto_workbench.demo.build --text-only      # feedback and evaluation files only, two seconds

The model is a Llama of half a million parameters, trained from scratch on the world's conversations with the loss on
the assistant's tokens only. The text is the same on every machine; the weights are, up to rounding.
"""

import argparse
import sys
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from random import Random

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from kto_workbench.demo.world import Message, text_files, training_conversations

PAD, END = "<|pad|>", "<|end|>"
ROLES = ("system", "user", "assistant")
CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
VOCABULARY_SIZE = 1024
TOKENIZER_CONVERSATIONS = 20_000

STEPS = 4_000
TOKENS_PER_STEP = 2_048
ANSWER_TOKENS_PER_STEP = 1_450  # on average
LEARNING_RATE = 5e-3
WARMUP_STEPS = 60
FINAL_LEARNING_RATE_SHARE = 0.03
POOL = 4_096  # conversations sorted by length at a time, so that a batch holds little padding


def say(text: str) -> None:
    """Progress, on stderr."""
    print(text, file=sys.stderr, flush=True)


def write_text(out: Path, seed: int) -> None:
    """Write the feedback files and the evaluation prompts."""
    for name, text in text_files(seed).items():
        path = out / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8", newline="\n")
        say(f"{path}: {text.count(chr(10))} rows")


def make_tokenizer(seed: int) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE on what people and Pip say.

    Every byte has a token, so any text can be read. Numbers stay whole: splitting them into digits made sums worse.
    """
    special = [PAD, END, *(f"<|{role}|>" for role in ROLES)]
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    chats = islice(training_conversations(seed), TOKENIZER_CONVERSATIONS)
    bpe.train_from_iterator((message["content"] for chat in chats for message in chat), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token=END,
        pad_token=PAD,
        additional_special_tokens=special[2:],
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        model_max_length=2_048,
    )


def make_model(tokenizer: PreTrainedTokenizerFast, seed: int) -> LlamaForCausalLM:
    """An untrained Llama of half a million parameters."""
    torch.manual_seed(seed)
    end, pad = tokenizer.eos_token_id, tokenizer.pad_token_id
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=96,
        intermediate_size=256,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2_048,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=end,
        pad_token_id=pad,
    )
    model = LlamaForCausalLM(config)
    model.generation_config = GenerationConfig(
        do_sample=True, temperature=0.7, max_new_tokens=96, eos_token_id=end, pad_token_id=pad
    )
    return model


def encode(chat: list[Message], tokenizer: PreTrainedTokenizerFast) -> tuple[list[int], list[int]]:
    """Token ids of a chat, and labels: -100 wherever the assistant does not speak."""
    pieces = [f"<|{message['role']}|>{message['content']}{END}" for message in chat]
    ids, labels = [], []
    for message, piece in zip(chat, tokenizer(pieces, add_special_tokens=False)["input_ids"], strict=True):
        ids += piece
        spoken = message["role"] == "assistant"
        labels += [-100, *piece[1:]] if spoken else [-100] * len(piece)
    return ids, labels


def batches(tokenizer: PreTrainedTokenizerFast, seed: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Endless batches of about TOKENS_PER_STEP tokens, each of conversations of similar length, padded on the right."""
    chats, random = training_conversations(seed), Random(f"{seed} batches")
    while True:
        pool = sorted((encode(chat, tokenizer) for chat in islice(chats, POOL)), key=lambda pair: len(pair[0]))
        groups: list[list] = [[]]
        for pair in pool:
            if groups[-1] and len(pair[0]) * (len(groups[-1]) + 1) > TOKENS_PER_STEP:
                groups.append([])
            groups[-1].append(pair)
        random.shuffle(groups)
        for group in groups:
            longest = max(len(ids) for ids, _ in group)
            padded = [[*ids, *[tokenizer.pad_token_id] * (longest - len(ids))] for ids, _ in group]
            labels = [[*targets, *[-100] * (longest - len(targets))] for _, targets in group]
            yield torch.tensor(padded), torch.tensor(labels)


def learning_rate_share(step: int, steps: int) -> float:
    """Warm-up, then a cosine down to a small rest."""
    if step < WARMUP_STEPS:
        return (step + 1) / WARMUP_STEPS
    progress = torch.tensor((step - WARMUP_STEPS) / max(1, steps - WARMUP_STEPS))
    cosine = 0.5 * (1 + torch.cos(torch.pi * progress)).item()
    return FINAL_LEARNING_RATE_SHARE + (1 - FINAL_LEARNING_RATE_SHARE) * cosine


def train_base(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, seed: int, steps: int = STEPS) -> float:
    """Plain next-token training; returns the mean loss of the last hundred steps."""
    decayed = [p for p in model.parameters() if p.ndim > 1]
    rest = [p for p in model.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.05}, {"params": rest, "weight_decay": 0.0}],
        lr=LEARNING_RATE,
        betas=(0.9, 0.98),
    )
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: learning_rate_share(step, steps))
    losses: list[float] = []
    start = time.monotonic()
    model.train()
    for step, (ids, labels) in enumerate(islice(batches(tokenizer, seed), steps), start=1):
        logits = model(input_ids=ids).logits
        # Divided by a constant, not by the tokens that count: else brief answers, of which a batch holds more prompts
        # and fewer answer tokens, would weigh more, and the model would no longer do everything half of the time.
        total = torch.nn.functional.cross_entropy(
            logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), reduction="sum"
        )
        loss = total / ANSWER_TOKENS_PER_STEP
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        scheduler.step()
        losses.append(loss.item())
        if step % 100 == 0 or step == steps:
            recent = sum(losses[-100:]) / len(losses[-100:])
            say(f"step {step} of {steps}: loss {recent:.3f}, {time.monotonic() - start:.0f} s")
    model.eval()
    return sum(losses[-100:]) / len(losses[-100:])


def main(arguments: list[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m kto_workbench.demo.build", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("assets"), help="the folder to write (default: assets)")
    parser.add_argument("--text-only", action="store_true", help="write the feedback and evaluation files only")
    parser.add_argument("--seed", type=int, default=0, help="the world's seed (default: 0)")
    parser.add_argument("--steps", type=int, default=STEPS, help=f"steps of the base training (default: {STEPS})")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default: 1)")
    options = parser.parse_args(arguments)

    write_text(options.out, options.seed)
    if options.text_only:
        return
    torch.set_num_threads(options.threads)
    tokenizer = make_tokenizer(options.seed)
    model = make_model(tokenizer, options.seed)
    say(f"training a model of {model.num_parameters():,} parameters")
    train_base(model, tokenizer, options.seed, options.steps)
    model.save_pretrained(options.out / "model")
    tokenizer.save_pretrained(options.out / "model")
    say(f"{options.out / 'model'} is ready")


if __name__ == "__main__":
    main()
