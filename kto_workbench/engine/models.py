"""Load a causal language model and make it trainable: a fresh LoRA adapter, one trained before, or every weight."""

import contextlib
import logging
import os
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import nn
from transformers import AutoConfig, BitsAndBytesConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.utils import logging as transformers_logging

from kto_workbench import files
from kto_workbench.config import KTOConfig
from kto_workbench.engine.sharding import shared_like
from kto_workbench.engine.vision import besides_language, class_for, freeze_besides_language
from kto_workbench.errors import ModelError
from kto_workbench.feedback.rendering import model_path, short_reason
from kto_workbench.runs import schemas

log = logging.getLogger(__name__)


def pick_device(device: str = "auto") -> torch.device:
    """The device of a config; `auto` takes a GPU if there is one. Raises ModelError for one that is not there."""
    found = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if device in ("auto", "cpu", found):
        picked = torch.device(found if device == "auto" else device)
        # With its number: to transformers a 4-bit model on "cuda" is not where a training on "cuda:0" is.
        return torch.device("cuda", torch.cuda.current_device()) if picked.type == "cuda" else picked
    raise ModelError(f"There is no {device} device on this machine; use `device: auto`.")


def pick_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """The dtype of frozen weights and activations; `auto` is bfloat16 on a GPU that has it, else float32."""
    if dtype == "auto":
        # Older cards only emulate it, slower than they compute in float32.
        has_it = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if has_it else torch.float32
    return getattr(torch, dtype)


def load_model(
    model: str,
    *,
    device: torch.device,
    dtype: torch.dtype | str,
    load_in_4bit: bool = False,
    sees: bool = False,
    trust: bool = False,
) -> PreTrainedModel:
    """Load the base model of `demo`, a folder or a hub id, without dropout, in train mode. Raises ModelError.

    With `trust` it may run code of its own, and its weights may be pickled; of those, torch takes tensors alone.

    Train mode, here and everywhere: bitsandbytes repacks 4-bit weights in place when a module in eval mode runs
    without gradients on some CPUs, and training is silently wrong from then on. Without dropout the modes are the same
    otherwise; where they are not (a router that draws its experts), see `quieten`. A model that `sees` is loaded whole.
    """
    path = os.path.expanduser(model_path(model))
    local = Path(path).is_dir()
    try:
        # Unless told so, transformers asks at the terminal whether it may run a model's code, and unpickles weights.
        config = AutoConfig.from_pretrained(path, local_files_only=local, trust_remote_code=trust)
        for part in {id(c): c for c in (config, config.get_text_config())}.values():
            for name, value in list(vars(part).items()):
                if isinstance(value, float) and name.endswith(("dropout", "_pdrop", "dropout_prob", "dropout_rate")):
                    setattr(part, name, 0.0)
        options = {}
        if load_in_4bit:
            options["quantization_config"] = BitsAndBytesConfig(
                load_in_4bit=True,
                bnb_4bit_quant_type="nf4",
                bnb_4bit_use_double_quant=True,
                bnb_4bit_compute_dtype=dtype,
            )
            options["device_map"] = {"": device}
        loaded, info = class_for(config, sees).from_pretrained(
            path,
            config=config,
            dtype=dtype,
            local_files_only=local,
            ignore_mismatched_sizes=True,  # they are named below
            output_loading_info=True,
            trust_remote_code=trust,
            use_safetensors=None if trust else True,
            **options,
        )
    except Exception as error:  # transformers raises a dozen kinds for the one thing that the user wants to know
        raise ModelError(f"Can't load model {model!r}: {short_reason(error)}.") from error
    if missing := sorted([*info["missing_keys"], *(name for name, *_ in info["mismatched_keys"])]):
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise ModelError(
            f"The files of model {model!r} lack weights, or have some of another shape: {', '.join(missing[:3])}{more}."
        )
    if not load_in_4bit:
        loaded = loaded.to(device)
    for module in loaded.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return quieten(forget_rows(loaded.train()))


def forget_rows(model: PreTrainedModel) -> PreTrainedModel:
    """A model whose rotary frequencies are those of the rows that it reads, whatever it has read before.

    transformers keeps dynamic ones for the longest row so far, so that a row's value would depend on earlier rows.
    """

    def begin_anew(module: nn.Module, _: Any) -> None:
        for name in [*vars(module), *dict(module.named_buffers(recurse=False))]:
            if name.endswith("original_inv_freq"):
                now = name.replace("original_", "")
                setattr(module, now, getattr(module, name).to(getattr(module, now).device))
            elif name.endswith("max_seq_len_cached"):
                setattr(module, name, module.original_max_seq_len)

    for module in model.modules():
        if "dynamic" in str(getattr(module, "rope_type", "")):
            module.register_forward_pre_hook(begin_anew)
    return model


@torch.no_grad()
def quieten(model: PreTrainedModel) -> PreTrainedModel:
    """A model in train mode that draws nothing by chance: what may goes into eval mode for good, if anything does.

    Not the layers as such, which are checkpointed in train mode only, nor bitsandbytes' (see `load_model`).
    """
    ids = sample_ids(model)
    generator = torch.cuda if ids.is_cuda else torch
    before = generator.get_rng_state()
    try:
        model(input_ids=ids, use_cache=False)
    except Exception:  # whatever it is, the trial or the first answer tells
        return model
    if not torch.equal(generator.get_rng_state(), before):
        for module in model.modules():
            if not isinstance(module, (PreTrainedModel, GradientCheckpointingLayer)) and not hasattr(
                getattr(module, "weight", None), "quant_state"
            ):
                module.eval()
                module.train = partial(_stay, module)
    return model


def _stay(module: nn.Module, mode: bool = True) -> nn.Module:
    """What `train` is to a module that stays in eval mode."""
    return module


def base_of(model: nn.Module) -> PreTrainedModel:
    """The causal language model itself, without what peft puts around it."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def check_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise ModelError if the tokenizer makes tokens that the model has no embedding for."""
    size = model.get_input_embeddings().weight.shape[0]
    strange = sorted((n, token) for token, n in tokenizer.get_vocab().items() if n >= size)
    if strange:
        raise ModelError(
            f"The tokenizer makes tokens that the model has no embedding for, such as {strange[0][1]!r} "
            f"({len(strange)} beyond the {size:,} that it has): its files belong to another model."
        )


def longest_row(model: PreTrainedModel) -> int | None:
    """How many tokens a model has positions for in tables, learned or computed; None where there is no such limit."""
    longest = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if not isinstance(longest, int):
        return None
    vocabulary = model.get_input_embeddings()
    for module in model.modules():
        if isinstance(module, nn.Embedding) and module is not vocabulary:
            if 0 <= module.num_embeddings - longest <= 8:  # some begin at 2
                return longest
        if any(buffer.ndim > 1 and longest in buffer.shape for buffer in module.buffers(recurse=False)):
            return longest
    return None


def rotary_limit(model: PreTrainedModel) -> int | None:
    """The length of a row from which on its rotary frequencies depend on the longest row beside it; None: never."""
    config = model.config.get_text_config()
    limits = []
    rope = getattr(config, "rope_parameters", None) or {}
    for given in [rope, *(part for part in rope.values() if isinstance(part, dict))]:
        if given.get("rope_type") in ("longrope", "dynamic"):
            limits.append(given.get("original_max_position_embeddings") or config.max_position_embeddings)
    return min(limits, default=None)


def vocabulary_of(model: PreTrainedModel) -> list[int]:
    """Ids of ordinary tokens of a model: those that its config gives no special meaning."""
    special: set[int] = set()
    configs = [model.config.to_dict()]
    while configs:
        for name, value in configs.pop().items():
            if isinstance(value, dict):
                configs.append(value)
            elif "token" in str(name):
                special |= {n for n in (value if isinstance(value, list) else [value]) if isinstance(n, int)}
    size = min(model.get_input_embeddings().weight.shape[0], model.config.get_text_config().vocab_size)
    return [i for i in range(size) if i not in special] or list(range(size))


def sample_ids(model: PreTrainedModel) -> torch.Tensor:
    """[1, 8] ordinary tokens, for a look at what a model does."""
    return torch.tensor([vocabulary_of(model)[:8]], device=next(model.parameters()).device)


def body_of(model: PreTrainedModel) -> nn.Module:
    """What of a causal language model comes before its head."""
    body = getattr(model, model.base_model_prefix, None)
    return body or next(module for module in model.children() if isinstance(module, PreTrainedModel))


def attention_of(model: nn.Module) -> str:
    """By which implementation a model computes its attention."""
    return base_of(model).config.get_text_config()._attn_implementation


def set_attention(model: nn.Module, name: str) -> None:
    """Let a model compute its attention by another implementation. Raises ModelError if it can't."""
    causal_lm = base_of(model)
    if attention_of(model) == name:
        return
    noisy = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()  # it would tell the user what the trial asks and finds
    try:
        causal_lm.set_attn_implementation(name)
    finally:
        transformers_logging.set_verbosity(noisy)
    if attention_of(model) != name:
        raise ModelError("it computes its attention by itself")


def make_trainable(model: PreTrainedModel, config: KTOConfig, start_adapter: Path | None = None) -> nn.Module:
    """The model as a config tunes it: with a fresh adapter, with a copy of `start_adapter`, or with all its weights."""
    if config.tuning == "full":
        freeze_besides_language(model.requires_grad_(True))
        return model
    if start_adapter is None:
        return add_lora(model, config)
    adapted = load_adapter(model, start_adapter, trainable=True)
    for module in adapted.modules():
        if isinstance(module, nn.Dropout):  # the adapter's own, from its training
            module.p = config.lora_dropout
    return _ready(adapted, model, config)


def add_lora(model: PreTrainedModel, config: KTOConfig) -> nn.Module:
    """A fresh LoRA adapter on a base model: with it the model is the base exactly, since B starts at zero."""
    from peft import LoraConfig, get_peft_model

    targets = config.lora_targets
    everywhere = targets == "all-linear"
    lora = LoraConfig(
        task_type="CAUSAL_LM",
        r=config.lora_r,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        target_modules=targets if everywhere else [name.strip() for name in targets.split(",")],
        exclude_modules=[*(_no_plain_product(model) if everywhere else ()), *besides_language(model)] or None,
        bias="none",
    )
    torch.manual_seed(config.seed)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="fan_in_fan_out is set to")  # it sees that by itself
            adapted = get_peft_model(model, lora).train()
    except ValueError as error:
        raise ModelError(f"Can't put an adapter on {config.model!r}: {short_reason(error)}.") from error
    return _ready(adapted, model, config)


def _no_plain_product(model: PreTrainedModel) -> list[str]:
    """Names of linear layers that an adapter has no place in, found by running the model.

    What is a linear layer by its class and returns something else, such as a router of experts; a layer whose weight
    its owner reads without calling it, as Mamba's do, so that an adapter would first act when it is merged; and the
    last projection of Mamba blocks, which their kernels may read so (peft refuses it for some models).
    """
    called: set[nn.Module] = set()
    other: set[nn.Module] = set()

    def note(module: nn.Module, _: Any, output: Any) -> None:
        called.add(module)
        if not isinstance(output, torch.Tensor) or output.shape[-1] != getattr(module, "out_features", None):
            other.add(module)

    hooks = [module.register_forward_hook(note) for module in model.modules()]
    try:
        with torch.no_grad():
            model(input_ids=sample_ids(model), use_cache=False)
    except Exception:  # whatever it is, the trial tells
        called.clear()
    finally:
        for hook in hooks:
            hook.remove()
    names = []
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            owner = model.get_submodule(name.rpartition(".")[0])
            beside = [owner, *(m for m in owner.children() if isinstance(m, nn.Linear))]
            passed_by = module not in called and any(m in called for m in beside)
            of_mamba = name.endswith(".out_proj") and hasattr(owner, "conv1d") and hasattr(owner, "A_log")
            if module in other or passed_by or of_mamba:
                names.append(name)
    return names


def _ready(adapted: nn.Module, model: PreTrainedModel, config: KTOConfig) -> nn.Module:
    """An adapter in the precision of the config, computed in place."""
    from kto_workbench.engine.fused_lora import fuse

    if config.adapter_dtype == "bfloat16":
        if model.dtype != torch.bfloat16:
            raise ModelError(
                f"adapter_dtype bfloat16 needs a model in bfloat16; this one is in {str(model.dtype)[6:]}."
            )
        round_adapter(adapted)
    fuse(adapted)
    return adapted


def round_adapter(model: nn.Module) -> None:
    """Put what is trained into bfloat16; peft makes it float32 whenever it makes or loads an adapter."""
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to(torch.bfloat16)


def load_adapter(model: PreTrainedModel, path: str | Path, *, trainable: bool = False) -> nn.Module:
    """A base model with an adapter trained before, frozen for answering unless `trainable`. Raises ModelError."""
    from peft import PeftModel

    if not (Path(path) / "adapter_model.safetensors").is_file():
        raise ModelError(f"There is no adapter in {path}.")
    lora, problem = files.read_json(Path(path) / "adapter_config.json", schemas.LORA)
    if lora is None:
        raise ModelError(f"The adapter in {path} can't be read: its adapter_config.json {problem}.")
    if lora["peft_type"] != "LORA":  # the others may load further files, or anything of any size
        raise ModelError(f"The adapter in {path} is no LoRA, but {lora['peft_type']}.")
    if lora.get("init_lora_weights") == "loftq":
        raise moves_base("LoftQ rounds the base's own weights when the adapter is put on")
    if lora.get("alora_invocation_tokens"):
        raise ModelError(f"The adapter in {path} acts only behind certain tokens (aLoRA), which can't be trained here.")
    _check_embeddings(model, Path(path))
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Found missing adapter keys")  # they are filled in below
            warnings.filterwarnings("ignore", message="Unexpected keyword arguments")  # of another version of peft
            adapted = PeftModel.from_pretrained(model, str(path), is_trainable=trainable).train()
    except Exception as error:  # of another shape, of layers that this model has not, or with a config of nonsense
        raise ModelError(f"The adapter in {path} does not fit the model: {short_reason(error)}.") from error
    fill_in_adapter(adapted, Path(path))
    return adapted


def moves_base(how: str) -> ModelError:
    """The error of an adapter without which the model is not its base."""
    return ModelError(
        f"Without its adapter this model is not its base: {how}; convert it to a plain LoRA adapter, or merge it and "
        "start from the merged model."
    )


def _check_embeddings(model: PreTrainedModel, folder: Path) -> None:
    """Raise ModelError if an adapter's file brings embeddings or a head for another number of tokens."""
    sizes = {
        name: module.weight.shape[0]
        for name, module in model.named_modules()
        if module in (model.get_input_embeddings(), model.get_output_embeddings())
    }
    try:
        with safe_open(folder / "adapter_model.safetensors", framework="pt") as file:
            for key in file.keys():
                size = sizes.get(key.removeprefix("base_model.model.").removesuffix(".weight"))
                brought = file.get_slice(key).get_shape()[:1]
                if size is not None and brought != [size]:
                    raise ModelError(
                        f"The adapter in {folder} brings embeddings for {brought[0]:,} tokens, and this model has "
                        f"{size:,}: tokens were added before it was trained; start from the model that has them."
                    )
    except SafetensorError:  # loading it tells
        return


@torch.no_grad()
def fill_in_adapter(model: nn.Module, folder: Path, name: str = "default") -> None:
    """Put every tensor of an adapter's file where it belongs.

    peft renames them as it would a base's old files, also where the names are new, and silently leaves out what then
    has no place (seen with the shared experts of Laguna); an adapter saved and loaded again was another one.
    """
    places = dict(model.named_parameters())
    for key, tensor in load_file(folder / "adapter_model.safetensors").items():
        owner, _, own = key.rpartition(".")
        place = places.get(f"{owner}.{name}.{own}")
        if place is not None and place.shape == tensor.shape:
            place.copy_(shared_like(tensor, place))


@torch.no_grad()
def merge_adapter(model: nn.Module) -> PreTrainedModel:
    """The model with its adapter in its weights. Raises ModelError where that can't be, or would be another model.

    Such as one whose head learned and whose embeddings are the same tensor.
    """
    ids = sample_ids(base_of(model))
    before = model(input_ids=ids, use_cache=False).logits.float().log_softmax(-1)
    try:
        merged = model.merge_and_unload()
    except (RuntimeError, ValueError, NotImplementedError) as error:
        raise ModelError(f"This adapter can't be merged into the model: {short_reason(error)}.") from error
    after = merged(input_ids=ids, use_cache=False).logits.float().log_softmax(-1)
    if (after - before).abs().mean() > (1e-3 if merged.dtype == torch.float32 else 0.1):  # rounded weights differ
        raise ModelError(
            "With this adapter in its weights the model would say something else, because it uses some of them in two "
            "places; export the adapter instead."
        )
    return merged


REFERENCE = "reference"


def keep_as_reference(model: nn.Module, folder: Path) -> None:
    """Put a frozen copy of the adapter, which is from the folder, beside it: what `start_adapter_on` turns on."""
    trained = model.active_adapter
    model.load_adapter(str(folder), REFERENCE, is_trainable=False)
    parameters = dict(model.named_parameters())
    for name, parameter in parameters.items():
        if f".{REFERENCE}." in name:
            # In the dtype that it is trained in, so that rewards begin at 0.
            parameter.data = parameters[name.replace(f".{REFERENCE}.", f".{trained}.")].detach().clone()
    model.set_adapter(trained)


@contextlib.contextmanager
def start_adapter_on(model: nn.Module) -> Iterator[None]:
    """The model as training found it: with the frozen copy of the adapter that it started from."""
    trained = model.active_adapter
    model.set_adapter(REFERENCE, inference_mode=True)
    try:
        yield
    finally:
        model.set_adapter(trained)


def check_not_repacked(model: nn.Module) -> None:
    """Raise ModelError if 4-bit weights were repacked for inference, since training them would be silently wrong."""
    for name, module in model.named_modules():
        state = getattr(module, "quant_state", None)
        if getattr(state, "packing_format_for_cpu", False):
            raise ModelError(
                f"The 4-bit weights of {name} were repacked for inference, so they can't be trained further; "
                "this is a defect: please report it."
            )


def checkpoint_activations(model: nn.Module) -> None:
    """Recompute each layer's activations in the backward pass instead of keeping them."""
    model.activation_checkpointing_enable({"use_reentrant": False})
    # With that goes a gradient to every embedding, of what sees as well, which would keep a graph of all its layers;
    # what is not reentrant needs none.
    model.disable_input_require_grads()


@contextlib.contextmanager
def adapter_off(model: nn.Module) -> Iterator[None]:
    """The base model: the same model with its adapter switched off."""
    with model.disable_adapter():
        yield


@contextlib.contextmanager
def as_it_is(model: nn.Module) -> Iterator[None]:
    """The model as it stands: before the first step this is the reference of whoever can't switch back to it later."""
    yield


def precision_of(model: nn.Module) -> Callable[[], contextlib.AbstractContextManager[Any]]:
    """What to run a model's forward passes in, on every device, as policy and as reference.

    A float32 adapter on a bfloat16 model computes in bfloat16, and its gradients are float32; where all weights are of
    one dtype there is nothing to do. transformers' Trainer would leave this to a wrapper of the model's own forward,
    which packed passes do not go through.
    """
    if {torch.float32, torch.bfloat16} <= {p.dtype for p in model.parameters()}:
        device = next(model.parameters()).device.type
        return lambda: torch.autocast(device, torch.bfloat16)
    return contextlib.nullcontext


@contextlib.contextmanager
def dropout_off(model: nn.Module) -> Iterator[None]:
    """No dropout for a while, without eval mode (see `load_model`)."""
    active = [m for m in model.modules() if isinstance(m, nn.Dropout) and m.p]
    rates = [m.p for m in active]
    for m in active:
        m.p = 0.0
    try:
        yield
    finally:
        for m, p in zip(active, rates, strict=True):
            m.p = p
