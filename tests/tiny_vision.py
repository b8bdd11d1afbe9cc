"""Tiny vision-language models of several families with random weights, their processors, and pictures to show them."""

import io

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import (
    CLIPVisionConfig,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil
from transformers.models.gemma3.processing_gemma3 import Gemma3Processor
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
from transformers.models.idefics3.processing_idefics3 import Idefics3Processor
from transformers.models.llava.processing_llava import LlavaProcessor
from transformers.models.qwen2_5_vl.processing_qwen2_5_vl import Qwen2_5_VLProcessor
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.qwen2_vl.processing_qwen2_vl import Qwen2VLProcessor

VOCABULARY = 128
WORDS = "the cat dog sat on a red blue mat what is it who yes no good bad this picture"
TEXT = dict(
    vocab_size=VOCABULARY,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=8,
    max_position_embeddings=256,
    pad_token_id=0,
    bos_token_id=1,
    eos_token_id=2,
)
# What a template writes for an image, and the tokens that this takes.
MARKS = {
    "qwen2_vl": (
        "<|vision_start|><|image_pad|><|vision_end|>",
        "<|image_pad|> <|video_pad|> <|vision_start|> <|vision_end|>",
    ),
    "llava": ("<image>", "<image>"),
    "idefics3": (
        "<image>",
        "<image> <fake_token_around_image> <global-img> <end_of_utterance> "
        + " ".join(f"<row_{i}_col_{j}>" for i in range(1, 5) for j in range(1, 5)),
    ),
    "gemma3": ("<start_of_image>", "<image_soft_token> <start_of_image> <end_of_image>"),
}  # fmt: skip
MARKS["qwen2_5_vl"] = MARKS["qwen2_vl"]
FAMILIES = tuple(MARKS)


def picture(seed, width=20, height=14):
    """A small picture of coloured noise."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8))


def png(seed, width=20, height=14):
    """The bytes of `picture` as a file."""
    out = io.BytesIO()
    picture(seed, width, height).save(out, "PNG")
    return out.getvalue()


def template(mark):
    """A chat template that takes texts, and blocks of texts and images."""
    return (
        "{% for m in messages %}<|{{ m['role'] }}|>{% if m['content'] is string %}{{ m['content'] }}{% else %}"
        "{% for b in m['content'] %}{% if b['type'] == 'image' %}" + mark + "{% else %}{{ b['text'] }}{% endif %}"
        "{% endfor %}{% endif %}<|end|>{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )


def tiny_tokenizer(family):
    """A tokenizer that knows a family's tokens for images."""
    mark, extra = MARKS[family]
    special = ["<pad>", "<s>", "<|end|>", "<|user|>", "<|assistant|>", "<|system|>", *extra.split()]
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Whitespace()
    alphabet = list("abcdefghijklmnopqrstuvwxyz.?!")
    bpe.train_from_iterator(
        [WORDS] * 20, trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=special, initial_alphabet=alphabet)
    )
    named = {"image_token": "<image>"} if "<image>" in special else {}
    if family == "gemma3":
        named = {
            "image_token": "<image_soft_token>",
            "boi_token": "<start_of_image>",
            "eoi_token": "<end_of_image>",
        }
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="<|end|>",
        additional_special_tokens=special[3:],
        extra_special_tokens=named,
    )
    tokenizer.chat_template = template(mark)
    return tokenizer


def _without_videos(kind):
    """The same class without its part for videos, which needs a library that nothing here does."""
    names = [name for name in kind.get_attributes() if "video" not in name]
    return type(kind.__name__, (kind,), {"get_attributes": classmethod(lambda cls: names)})


def _text(wide):
    """TEXT with everything that many times as wide."""
    sizes = ("hidden_size", "intermediate_size", "head_dim")
    return TEXT | {name: wide * TEXT[name] for name in sizes}


def _qwen(family, tokenizer, wide):
    number = tokenizer.convert_tokens_to_ids
    ids = dict(
        image_token_id=number("<|image_pad|>"),
        video_token_id=number("<|video_pad|>"),
        vision_start_token_id=number("<|vision_start|>"),
        vision_end_token_id=number("<|vision_end|>"),
    )
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [wide, wide, 2 * wide]}
    text = {k: v for k, v in _text(wide).items() if k != "head_dim"} | {"rope_parameters": rope}
    vision = dict(depth=1, num_heads=2, patch_size=4, spatial_merge_size=2, temporal_patch_size=2)
    if family == "qwen2_vl":
        vision |= dict(embed_dim=16 * wide, hidden_size=32 * wide, mlp_ratio=2)
        config = Qwen2VLConfig(text_config=text, vision_config=vision, **ids)
        model, kind = Qwen2VLForConditionalGeneration(config), Qwen2VLProcessor
    else:
        vision |= dict(
            hidden_size=16 * wide, out_hidden_size=32 * wide, intermediate_size=24 * wide, window_size=16,
            fullatt_block_indexes=[0],
        )  # fmt: skip
        config = Qwen2_5_VLConfig(text_config=text, vision_config=vision, **ids)
        model, kind = Qwen2_5_VLForConditionalGeneration(config), Qwen2_5_VLProcessor
    size = {"shortest_edge": 64, "longest_edge": 32 * 32}
    images = Qwen2VLImageProcessorPil(patch_size=4, merge_size=2, temporal_patch_size=2, size=size)
    return model, _without_videos(kind)(images, tokenizer)


def _vision(wide, layers):
    sizes = dict(hidden_size=16 * wide, intermediate_size=24 * wide, image_size=16, patch_size=4)
    return dict(num_hidden_layers=layers, num_attention_heads=2, **sizes)


def _llava(family, tokenizer, wide):
    vision = CLIPVisionConfig(**_vision(wide, 2))
    number = tokenizer.convert_tokens_to_ids("<image>")
    config = LlavaConfig(text_config=LlamaConfig(**_text(wide)), vision_config=vision, image_token_index=number)
    images = CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    how = dict(patch_size=4, vision_feature_select_strategy="default", num_additional_image_tokens=1)
    return LlavaForConditionalGeneration(config), LlavaProcessor(images, tokenizer, **how)


def _idefics3(family, tokenizer, wide):
    vision, text = _vision(wide, 1), {**_text(wide), "model_type": "llama"}
    number = tokenizer.convert_tokens_to_ids("<image>")
    config = Idefics3Config(text_config=text, vision_config=vision, scale_factor=2, image_token_id=number)
    images = Idefics3ImageProcessorPil(size={"longest_edge": 32}, max_image_size={"longest_edge": 16})
    return Idefics3ForConditionalGeneration(config), Idefics3Processor(images, tokenizer, image_seq_len=4)


def _gemma3(family, tokenizer, wide):
    vision = _vision(wide, 1)
    text = {**_text(wide), "sliding_window": 16, "query_pre_attn_scalar": 8 * wide}
    number = tokenizer.convert_tokens_to_ids
    config = Gemma3Config(
        text_config=text,
        vision_config=vision,
        mm_tokens_per_image=4,
        image_token_index=number("<image_soft_token>"),
        boi_token_index=number("<start_of_image>"),
        eoi_token_index=number("<end_of_image>"),
    )
    images = Gemma3ImageProcessorPil(size={"height": 16, "width": 16})
    return Gemma3ForConditionalGeneration(config), Gemma3Processor(images, tokenizer, image_seq_length=4)


def tiny_vision(family, folder, seed=0, wide=1):
    """Write a family's model, tokenizer and processor into a folder; returns the processor."""
    tokenizer = tiny_tokenizer(family)
    make = {"llava": _llava, "idefics3": _idefics3, "gemma3": _gemma3}.get(family, _qwen)
    torch.manual_seed(seed)
    model, processor = make(family, tokenizer, wide)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.15)
    model.save_pretrained(folder)
    processor.chat_template = tokenizer.chat_template
    processor.save_pretrained(folder)
    return processor
