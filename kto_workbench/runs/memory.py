"""What a training will take of memory, from its config and the model's config.json: arithmetic alone, no torch.

    shape = ModelShape.of(json.loads(Path("model/config.json").read_text()))
    estimate = estimate_memory(config, shape, Tokens(prompt=900, completion=700, longest=260))
    estimate.low, estimate.total, estimate.high     # bytes

The numbers of a layer were counted tensor by tensor on the packed engine with fused LoRA; `python -m benchmarks.memory`
holds them against measured peaks.
"""

from dataclasses import dataclass, field
from typing import Any

from kto_workbench.config import KTOConfig
from kto_workbench.objectives import OBJECTIVES

# How far the tensors of a training may lie from the estimate.
SPREAD = 0.2
# Left free for what a dry step does not see: the watched answers, other programs.
KEPT_FREE = 0.15
# Logits alive at once in the head, in elements, and how many tensors of that size; engine/head.py goes by it.
HEAD_CHUNK = {"cpu": 2**21, "cuda": 2**27}
HEAD_COPIES = 2
# Weights that an optimizer of masters steps at once, and the bytes of each meanwhile: its gradient in float32, and an
# intermediate of AdamW, as counted tensor by tensor.
MASTERS_AT_ONCE = 2**26
STEPPING = 8
# Buffers that the first step brings in beside tensors: of libraries on a CPU, a context on a GPU.
RUNTIME = {"cpu": 16 * 2**20, "cuda": 500 * 2**20}
# NF4 with double quantization: half a byte, an 8-bit scale for 64 weights, a float32 for 256 scales.
BYTES_4BIT = 0.5 + 1 / 64 + 4 / (64 * 256)
# Architectures with two matrices in the feed-forward block; the others have three (gate, up, down).
TWO_MATRICES = {"gpt2", "gpt_neo", "gpt_neox", "gptj", "opt", "bloom", "falcon", "phi", "starcoder2", "mpt"}


@dataclass(frozen=True, slots=True)
class VisionShape:
    """The sizes of what sees, in elements; `patch` are those of the image that make one of its tokens.

    Its `parameters` are never trained, and nothing is kept of it for a backward pass.
    """

    layers: int
    hidden: int
    intermediate: int
    patch: int
    parameters: int

    @classmethod
    def of(cls, config: Any, language: int) -> "VisionShape | None":
        """From a config's `vision_config`, by whichever names it uses, and the width of the language side."""
        if not isinstance(config, dict):
            return None

        def first(*names: str, default: float = 0) -> float:
            return next((config[name] for name in names if isinstance(config.get(name), int | float)), default)

        # Qwen2-VL calls the width of its language side hidden_size, and its own embed_dim.
        hidden, layers = int(first("embed_dim", "hidden_size")), int(first("num_hidden_layers", "depth"))
        intermediate = int(first("intermediate_size") or hidden * first("mlp_ratio", default=4))
        if not hidden or not layers:
            return None
        patch = int(3 * first("patch_size", default=14) ** 2 * first("temporal_patch_size", default=1))
        merged = int(first("spatial_merge_size", default=1)) ** 2 * hidden
        # Layers, the embedding of a patch, and two matrices that lead to the language side.
        parameters = layers * (4 * hidden * hidden + 2 * hidden * intermediate) + patch * hidden
        parameters += max(merged, language) ** 2 + merged * language
        return cls(layers, hidden, intermediate, patch, parameters)

    def passing(self, pixels: float, size: int) -> float:
        """Bytes that live at once while images of so many elements are seen: a layer's at its widest, no gradient."""
        return pixels * size + pixels / self.patch * 2 * (self.intermediate + self.hidden) * size


@dataclass(frozen=True, slots=True)
class ModelShape:
    """The sizes of a decoder that its memory follows from, in elements."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    tied: bool = False
    gated: bool = True
    vision: VisionShape | None = None

    @classmethod
    def of(cls, config: dict[str, Any]) -> "ModelShape | None":
        """From the content of a config.json, by whichever names it uses; None where sizes are missing."""
        sees = config.get("vision_config")
        config = {**config, **(config.get("text_config") or {})}

        def first(*names: str) -> int | None:
            return next((int(config[name]) for name in names if isinstance(config.get(name), int)), None)

        layers, hidden = first("num_hidden_layers", "n_layer", "num_layers"), first("hidden_size", "n_embd", "d_model")
        heads, vocabulary = first("num_attention_heads", "n_head", "num_heads"), first("vocab_size")
        if not (layers and hidden and heads and vocabulary):
            return None
        kind = config.get("model_type")
        return cls(
            layers=layers,
            hidden=hidden,
            intermediate=first("intermediate_size", "n_inner", "ffn_dim") or 4 * hidden,
            heads=heads,
            kv_heads=first("num_key_value_heads") or heads,
            head_dim=first("head_dim") or hidden // heads,
            vocabulary=vocabulary,
            tied=bool(config.get("tie_word_embeddings", kind in ("gpt2", "gemma", "gemma2", "gemma3_text"))),
            gated=kind not in TWO_MATRICES,
            vision=VisionShape.of(sees, hidden),
        )

    @property
    def q(self) -> int:
        """Width of the queries."""
        return self.heads * self.head_dim

    @property
    def kv(self) -> int:
        """Width of the keys, and of the values."""
        return self.kv_heads * self.head_dim

    def linears(self) -> list[tuple[int, int]]:
        """(in, out) of each matrix of a layer."""
        h, i = self.hidden, self.intermediate
        up = [(h, i)] * (2 if self.gated else 1)
        return [(h, self.q), (h, self.kv), (h, self.kv), (self.q, h), *up, (i, h)]

    @property
    def body(self) -> int:
        """Parameters of all layers' matrices."""
        return self.layers * sum(a * b for a, b in self.linears())

    @property
    def embedding(self) -> int:
        """Parameters of embedding and head."""
        return self.vocabulary * self.hidden * (1 if self.tied else 2)

    def adapter(self, rank: int) -> int:
        """Parameters of LoRA on all linear layers but the head."""
        return self.layers * sum(rank * (a + b) for a, b in self.linears())


@dataclass(frozen=True, slots=True)
class Tokens:
    """The largest batch, in tokens: of its prompts, its completions, and of its longest sequence.

    `pixels`: elements of what a processor makes of its images.
    """

    prompt: int
    completion: int
    longest: int
    pixels: int = 0

    @classmethod
    def at_most(cls, config: KTOConfig) -> "Tokens":
        """Every row as long as max_length, half of it completion: what is not known to be less."""
        answers = config.batch_size * (2 if OBJECTIVES[config.objective].paired else 1)
        half = answers * config.max_length // 2
        return cls(half, half, config.max_length)


@dataclass(frozen=True, slots=True)
class MemoryEstimate:
    """Bytes of a training, by what they are for.

    `training`, `stepping` (what passes while the optimizer steps), `reference` and `generation` never exist together.
    `activations` (kept for the backward pass, or made again there, if `recomputed`) and `passing` (all that lives for a
    moment) make up `training`; `head` and `kept_kv` are parts of what passes that need not be there at its peak.
    `tokens` is the size of the largest pass; `bytes_per_token` and `bytes_per_token_checkpointed` are what one more
    would add. `fragments` is what the heap may hold for a byte of tensors.
    """

    weights: int
    adapter: int
    gradients: int
    optimizer: int
    activations: int
    head: int
    kept_kv: int
    passing: int
    runtime: int
    stepping: int
    reference: int
    generation: int
    tokens: int
    recomputed: bool
    bytes_per_token: int
    bytes_per_token_checkpointed: int
    fragments: float
    parts: dict[str, int] = field(init=False)

    def __post_init__(self) -> None:
        names = ("weights", "adapter", "gradients", "optimizer", "activations", "passing", "runtime")
        object.__setattr__(self, "parts", {name: getattr(self, name) for name in names})

    @property
    def training(self) -> int:
        """What a step adds to weights, adapter, gradients and optimizer, at its peak."""
        return self.activations + self.passing

    @property
    def incremental(self) -> int:
        """Everything beyond the loaded model."""
        lasting = self.adapter + self.gradients + self.optimizer + self.runtime
        return lasting + max(self.training, self.stepping, self.reference, self.generation)

    @property
    def total(self) -> int:
        """The peak to expect."""
        return self.weights + self.incremental

    @property
    def low(self) -> int:
        """The least to expect: weights are certain, the rest is not."""
        return round(self.weights + self.incremental * (1 - SPREAD))

    @property
    def high(self) -> int:
        """The most to expect, the heap's fragments included."""
        return round(self.weights + self.incremental * max(1 + SPREAD, self.fragments))


def estimate_memory(
    config: KTOConfig,
    shape: ModelShape,
    tokens: Tokens | None = None,
    *,
    device: str = "cpu",
    dtype_bytes: int = 4,
    free: int | None = None,
) -> MemoryEstimate:
    """The memory of a training.

    Args:
        config: batch_size, tokens_per_pass, gradient_checkpointing, tuning, lora_r, load_in_4bit, optim, objective, z0.
        shape: of the model.
        tokens: of the largest batch; None assumes rows of max_length.
        device: `cpu` or `cuda`.
        dtype_bytes: of a weight or an activation: 4 in float32, 2 in bfloat16.
        free: bytes; where not even the longest row fits into them, activations will be recomputed, whatever the option.

    Returns:
        The estimate; generation is that of the watched prompts.
    """
    tokens = tokens or Tokens.at_most(config)
    if free is not None and not config.gradient_checkpointing:
        row = estimate_memory(config.replace(tokens_per_pass=1), shape, tokens, device=device, dtype_bytes=dtype_bytes)
        if row.incremental * row.fragments > (free - row.weights) * (1 - KEPT_FREE):
            config = config.replace(gradient_checkpointing=True)
    whole = tokens.prompt + tokens.completion
    limit = config.tokens_per_pass if isinstance(config.tokens_per_pass, int) else whole
    t = min(whole, max(limit, tokens.longest))
    share = t / max(whole, 1)
    in_one, c = t == whole, round(tokens.completion * share)
    kl = config.uses_mismatched
    h, i, kv, layers, size = shape.hidden, shape.intermediate, shape.kv, shape.layers, dtype_bytes

    full_tuning = config.tuning == "full"
    adapter_bytes = 2 if config.adapter_dtype == "bfloat16" else 4
    n_adapter = shape.adapter(config.lora_r)
    # What is trained: all weights, in the dtype of the model, or the adapter.
    trained, trained_bytes = (shape.body + shape.embedding, size) if full_tuning else (n_adapter, adapter_bytes)
    rank = 0 if full_tuning else config.lora_r
    sees = shape.vision.parameters if shape.vision else 0
    if config.load_in_4bit:
        weights = (shape.body + sees) * BYTES_4BIT + shape.embedding * size
    else:
        weights = (shape.body + sees + shape.embedding) * size

    layer = _kept_by_layer(shape, rank, size)
    full, checkpointed = layers * layer, layers * h * size
    activations = t * (checkpointed if config.gradient_checkpointing else full)
    # Where nothing else holds the prompts' keys and values for the mismatched completions, they are kept for them.
    kept_kv = t * layers * 2 * kv * size if kl and in_one and config.gradient_checkpointing else 0
    scored = c * shape.vocabulary
    chunks = 4 * min(HEAD_COPIES * min(HEAD_CHUNK.get(device, 2**24), scored), scored)
    head = chunks + 2 * c * h * size
    # A layer at work, without gradients and in the backward pass, where checkpointing first makes it anew.
    forward = (4 * i + 6 * h) * size
    backward = 2 * i * size + (layer if config.gradient_checkpointing else 0)
    # The peak is at the head, at the mismatched completions, or where the backward pass begins.
    scoring = kept_kv + 3 * t * h * size + max(head, c * forward)
    peak = activations + max(scoring, t * backward + c * h * size)
    if not in_one and kl:
        peak = max(peak, t * forward + chunks)
    reference = t * (forward + (layers * 2 * kv * size if kl else 0)) + chunks
    # Images are seen before anything else is there, and stay until the pass is over.
    pixels = tokens.pixels * share
    looking = shape.vision.passing(pixels, size) if shape.vision else 0
    peak, reference = (max(looking, pixels * size + most) for most in (peak, reference))
    # A matrix is stepped whole, be it the embedding.
    at_once = max(MASTERS_AT_ONCE, shape.vocabulary * h if full_tuning else 0)
    prompts = max(len(config.sample_prompts), 4) if config.sample_steps >= 0 else 0
    answer = config.max_length + config.sample_max_new_tokens
    return MemoryEstimate(
        weights=round(weights),
        adapter=0 if full_tuning else n_adapter * adapter_bytes,
        gradients=trained * trained_bytes,
        optimizer=optimizer_bytes(config, trained, trained_bytes),
        activations=round(activations),
        head=round(head),
        kept_kv=round(kept_kv),
        passing=round(peak - activations),
        runtime=RUNTIME.get(device, 0),
        stepping=STEPPING * min(trained, at_once) if trained_bytes == 2 else 0,
        reference=round(reference),
        generation=round(prompts * (answer * layers * 2 * kv * size + shape.vocabulary * 4 * 3)),
        tokens=t,
        recomputed=config.gradient_checkpointing,
        bytes_per_token=round(full + 2 * i * size),
        bytes_per_token_checkpointed=round(checkpointed + layer + 2 * i * size),
        fragments=fragments(config, device, in_one=in_one),
    )


def optimizer_bytes(config: KTOConfig, trained: int, trained_bytes: int) -> int:
    """What the optimizer keeps for so many trained weights of so many bytes each: two moments, and float32 masters."""
    moments, masters = 2 if config.optim == "paged_adamw_8bit" else 8, 4 if trained_bytes == 2 else 0
    return (moments + masters) * trained


def fragments(config: KTOConfig, device: str, *, in_one: bool = True) -> float:
    """What the heap may hold for a byte of tensors, freed blocks lying between live ones; measured with glibc.

    A CPU's heap suits many passes less than one, and checkpointing, which makes each layer's tensors twice, least.
    """
    if device != "cpu":
        return 1.1
    return 4.0 if config.gradient_checkpointing else 1.4 if in_one else 1.7


def _kept_by_layer(shape: ModelShape, rank: int, size: int) -> float:
    """Bytes that a layer keeps of one token for its backward pass.

    Hidden states before both norms (in float32) and behind them; queries, keys and values; what attention returns,
    once by sequence and once in one piece; the inputs of the feed-forward block's activation, product and last matrix;
    LoRA's low ranks. An adapter computes in the model's dtype, whatever its own is.
    """
    feed_forward = (4 if shape.gated else 3) * shape.intermediate
    low = rank * len(shape.linears())
    kept = size * (2 * shape.hidden + 3 * shape.q + 2 * shape.kv + feed_forward + low) + 4 * (shape.heads + 2)
    return kept + 4 * 2 * shape.hidden
