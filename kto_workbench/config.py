"""Every option of a training, once: type, default, bounds, help.

The YAML keys, the flags of `kto train`, the widgets of the page and the option table of the docs are all made from
`KTOConfig`. To add an option, add a field here and use it in the engine; nothing else needs to know.

    config = KTOConfig(model="demo", data="thumbs.jsonl", beta=0.1)
    config = load_config("config.yaml", beta=0.2)      # keyword arguments override the file
    save_config(config, "config.yaml")
"""

import contextlib
import difflib
import json
import reprlib
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, model_validator
from pydantic.fields import FieldInfo

from kto_workbench import files
from kto_workbench.errors import ConfigError
from kto_workbench.objectives import OBJECTIVES, in_words, unused_by

DEMO_MODEL = "demo"
NESTING, FLAT = "[{-?:", 2000  # each level of YAML takes one of these, and this many levels harm no reader

# What the tiny demo model wants instead of the defaults below, which are meant for models of a billion parameters:
# with those it would not move at all. Found by trying; applied wherever the user has said nothing.
DEMO_DEFAULTS: dict[str, Any] = {
    "beta": 1.0,
    "learning_rate": 1.5e-3,
    "lr_scheduler_type": "linear",
    "batch_size": 16,
    "num_train_epochs": 6.0,
    "lora_r": 8,
    "lora_alpha": 16,
    "max_length": 512,
    "sample_max_new_tokens": 96,
    "dtype": "float32",  # also on a GPU: half a million parameters have nothing to gain from less
    "threads": 1,  # two are a third faster on an idle machine, and five times slower when something else runs
}

DEMO_FULL_DEFAULTS: dict[str, Any] = {"learning_rate": 3e-4}
# Full fine-tuning moves every weight, so it takes smaller steps than an adapter; applied likewise.
FULL_DEFAULTS: dict[str, Any] = {"learning_rate": 5e-6}

# What rendering a conversation says itself; the rest is the template's own business.
TEMPLATE_TAKEN = {
    "messages", "conversation", "tools", "chat_template", "add_generation_prompt", "continue_final_message", "tokenize",
    "sanitize_control_tokens", "padding", "truncation", "max_length", "return_tensors", "return_dict",
    "return_assistant_tokens_mask", "tokenizer_kwargs",
}  # fmt: skip

REPORTERS = ("tensorboard", "wandb", "trackio")
MOST_BYTES = 2**20  # of a config file
LARGEST_WEIGHT = 1e6  # of a row or a loss; beyond, float32 has no digits left for the others
_shortened = reprlib.Repr()
_shortened.maxstring = _shortened.maxother = 90

GROUPS = {
    "basics": "What is trained, on what",
    "kto": "The KTO objective",
    "lora": "What is tuned",
    "optimization": "Optimization",
    "memory": "Length, memory and precision",
    "records": "Evaluation, checkpoints and records",
    "samples": "Answers to watch while training",
    "judge": "A judge while training",
}


def _option(default: Any, help: str, *, group: str, basic: bool = False, source: str = "", **bounds: Any) -> Any:
    """A field with its help; the page shows `basic` ones unfolded; `source` says where a default is from."""
    extra = {"group": group, "basic": basic, "source": source}
    return Field(default, description=help, json_schema_extra=extra, validate_default=True, **bounds)


class KTOConfig(BaseModel):
    """All options of one training run. Unknown names and values out of bounds raise ConfigError with one sentence."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), allow_inf_nan=False)

    # basics
    model: str = _option(
        DEMO_MODEL,
        "The causal language model to start from: a folder, a hub id, or `demo`.",
        group="basics",
        basic=True,
        min_length=1,
    )
    data: str = _option(
        "demo",
        "The feedback: a file, two files as `ratings.jsonl+conversations.jsonl`, or a name: `demo`, `demo-rare` "
        "(thumbs up are 1 in 10), `demo-pairs` (two answers to each prompt), `demo-right-or-wrong`, `thumbs` (what was "
        "collected in this workspace).",
        group="basics",
        basic=True,
        min_length=1,
    )
    mapping: tuple[str, ...] = _option(
        (),
        "Which column of the data plays which part, where that is not recognised, as `part=column`, such as "
        "`prompt=question label=ok`; the parts are those that `kto check` shows.",
        group="basics",
    )
    workspace: str = _option(
        "workspace", "The folder that holds runs, uploads, cache and collected thumbs.", group="basics", min_length=1
    )
    trust: tuple[str, ...] = _option(
        (),
        "Models, by exactly the names that `model` has for them, that may run code of their own and bring pickled "
        "weights; all others that would are refused. For shells and config files alone: the page can't set it.",
        group="basics",
    )
    template: Literal["auto", "none"] = _option(
        "auto",
        "`auto`: prompts and answers go through the model's chat template if it has one; `none`: plain text.",
        group="basics",
    )
    template_kwargs: dict[str, JsonValue] = _option(
        {},
        'What the chat template is told besides, as a JSON object, such as `{"enable_thinking": false}`: in training, '
        "checks and answers alike, and written into exported templates.",
        group="basics",
    )
    seed: int = _option(
        42,
        "Seeds the adapter, the batches and the watched answers: same seed, same run.",
        group="basics",
        ge=0,
        le=2**32 - 1,  # numpy takes no more
    )

    # kto
    objective: Literal[*OBJECTIVES] = _option("kto", in_words(), group="kto", basic=True)
    beta: float = _option(
        0.1,
        "How sharply a reward saturates, and so how far the model may move from the reference; smaller moves further.",
        group="kto",
        basic=True,
        source="Paper: 0.01-0.1 for large or fine-tuned models, 0.1-1.0 for small models without fine-tuning.",
        gt=0,
        le=100,
    )
    desirable_weight: float | None = _option(
        None,
        "λ_D, the weight of thumbs up. Empty: from the class balance, so that "
        "(λ_D · thumbs up) / (λ_U · thumbs down) = 1.",
        group="kto",
        basic=True,
        source="Paper v4: the ratio above belongs in [1, 3/2].",
        ge=0,
        le=LARGEST_WEIGHT,
    )
    undesirable_weight: float | None = _option(
        None,
        "λ_U, the weight of thumbs down. Empty: from the class balance.",
        group="kto",
        basic=True,
        ge=0,
        le=LARGEST_WEIGHT,
    )
    z0: Literal["batch", "every", "zero"] = _option(
        "batch",
        "The reference point z0: `batch` estimates it at each step from the batch's mismatched pairs (a forward pass "
        "over the completions); `every` re-estimates it each `kl_every` steps from `kl_sample` mismatched pairs "
        "(cheaper, staler); `zero` fixes it at 0 (free; for data that the model was fine-tuned on; TRL's "
        "apo_zero_unpaired).",
        group="kto",
        source="Paper Eq. 8: batch.",
    )
    kl_every: int = _option(10, "With z0 `every`: steps between two estimates.", group="kto", ge=1)
    kl_sample: int = _option(64, "With z0 `every`: mismatched pairs in an estimate.", group="kto", ge=2)
    reference: Literal["base", "start", "uniform"] = _option(
        "base",
        "What rewards are counted against. `base`: the model without any adapter (one forward pass over the data, "
        "once, kept on disk); `start`: the base with the adapter that training goes on from (start_adapter), at the "
        "same cost; `uniform`: a uniform reference, which needs no pass: r = log π(y|x) + the entropy of π along y.",
        group="kto",
    )
    sft_weight: float = _option(
        0.0,
        "Adds this much of the plain next-token loss on thumbs-up completions, averaged over their tokens "
        "(LLaMA-Factory: pref_ftx); costs nothing extra.",
        group="kto",
        ge=0,
        le=LARGEST_WEIGHT,
    )

    # lora
    tuning: Literal["lora", "full"] = _option(
        "lora",
        "`lora` trains a small adapter on the frozen model; `full` trains every weight, which takes 4 to 8 times the "
        "memory of the weights and writes a whole model.",
        group="lora",
        basic=True,
    )
    start_adapter: str = _option(
        "",
        "Go on from this adapter: a run, or a folder with an adapter. Its rank, alpha and layers are taken over; "
        "then `reference` must be said: base or start. Empty: a fresh adapter.",
        group="lora",
    )
    lora_r: int = _option(16, "Rank of the LoRA adapter.", group="lora", basic=True, ge=1, le=1024)
    lora_alpha: float = _option(32, "LoRA scaling: the adapter is multiplied by alpha / r.", group="lora", gt=0, le=1e6)
    lora_dropout: float = _option(
        0.0,
        "Dropout before the adapter while training. Rewards are then noisy even at step 0, and the fast paths that "
        "reuse activations are off.",
        group="lora",
        ge=0,
        lt=1,
    )
    lora_targets: str = _option(
        "all-linear",
        "Which layers get an adapter: `all-linear`, or names separated by commas. Attention alone learns less.",
        group="lora",
        min_length=1,
    )
    load_in_4bit: bool = _option(
        False,
        "QLoRA: keep the frozen model in 4 bits (NF4, double quantization): a quarter of the memory, somewhat slower.",
        group="lora",
        basic=True,
    )

    # optimization
    learning_rate: float = _option(
        5e-5,
        "Peak learning rate.",
        group="optimization",
        basic=True,
        source="Paper: 5e-6 for full fine-tuning with AdamW; LoRA takes about 10 times more.",
        gt=0,
        le=1,
    )
    batch_size: int = _option(
        32,
        "Examples of one optimizer step, over which z0 and the loss are taken; for objectives that learn from pairs, "
        "pairs. It is statistics, not memory: see tokens_per_pass.",
        group="optimization",
        basic=True,
        source="Paper: at least 2, 8-128 recommended, 32 used.",
        ge=2,
        le=4096,
    )
    num_train_epochs: float = _option(
        3.0, "Times to go through the data.", group="optimization", basic=True, gt=0, le=1000
    )
    group_prompts: bool = _option(
        True,
        "Answers to the same prompt come into the same batch, so that the prompt goes through the model once for all "
        "of them. Off: every row is drawn for itself. In a simulation the learned weights varied no more for it, and "
        "z0 by 5 to 16 % more with two to four answers to a prompt.",
        group="optimization",
    )
    max_steps: int = _option(
        -1,
        "Stop after this many steps, whatever the epochs; -1 leaves it to num_train_epochs.",
        group="optimization",
        ge=-1,
    )
    lr_scheduler_type: Literal["linear", "cosine", "constant", "constant_with_warmup"] = _option(
        "cosine", "How the learning rate goes down after the warm-up.", group="optimization"
    )
    warmup_ratio: float = _option(
        0.1, "Part of the steps in which the learning rate rises.", group="optimization", ge=0, lt=1
    )
    weight_decay: float = _option(0.0, "AdamW's weight decay.", group="optimization", ge=0, le=100)
    max_grad_norm: float = _option(
        1.0, "Gradients with a larger norm are scaled down to it; 0 leaves them.", group="optimization", ge=0
    )
    optim: Literal["adamw", "paged_adamw_8bit"] = _option(
        "adamw", "The optimizer; the paged 8-bit one saves memory on a GPU.", group="optimization"
    )

    # memory
    max_length: int = _option(
        1024,
        "Tokens of prompt and completion together; a longer row loses the start of its prompt, then the end of its "
        "completion, and is counted.",
        group="memory",
        basic=True,
        ge=8,
    )
    tokens_per_pass: Literal["auto"] | int = _option(
        "auto",
        "Tokens that go through the model at once. Only memory and speed depend on it: gradients and z0 are the same "
        "for every value. Halved by itself when the GPU runs out of memory.",
        group="memory",
    )
    gradient_checkpointing: bool = _option(
        False, "Recompute activations in the backward pass: less memory, about a third more time.", group="memory"
    )
    dtype: Literal["auto", "float32", "bfloat16"] = _option(
        "auto",
        "Precision of the frozen weights and activations; `auto`: bfloat16 on a GPU, float32 on a CPU.",
        group="memory",
    )
    adapter_dtype: Literal["float32", "bfloat16"] = _option(
        "float32",
        "Precision of the adapter's weights. It computes in the model's either way; `bfloat16` spares rounding it in "
        "each pass and is trained on float32 masters, so that small updates are not lost. Needs dtype bfloat16.",
        group="memory",
    )
    fused_kernels: Literal["auto", "off"] = _option(
        "auto",
        "`auto`: on a GPU, the fused norms, rotary embeddings and SwiGLU of liger-kernel, if that is installed, knows "
        "the model's family and agrees with the model's own layers; `off`: never.",
        group="memory",
    )
    device: Literal["auto", "cpu", "cuda", "mps"] = _option(
        "auto", "Where to train; `auto` takes a GPU if there is one.", group="memory"
    )
    processes: Literal["auto"] | int = _option(
        "auto",
        "Processes that share each batch, one a GPU; the same numbers for any of them. `auto`: as many as there are "
        "GPUs, one on a CPU.",
        group="memory",
    )
    sharding: Literal["none", "fsdp2", "zero3"] = _option(
        "none",
        "With several processes, `none` keeps the whole model in each (DDP: fastest where it fits); `fsdp2` shares "
        "weights, gradients and optimizer out among them; `zero3` lets DeepSpeed do that, where you have installed it.",
        group="memory",
    )
    threads: int = _option(
        0, "CPU threads; 0 leaves it to torch. On a shared machine 1 is often faster than 2.", group="memory", ge=0
    )

    # records
    eval_fraction: float = _option(
        0.1,
        "Part of the prompts held out to evaluate on, with all their rows; about 1,000 rows at the most.",
        group="records",
        ge=0,
        lt=1,
    )
    eval_steps: int = _option(0, "Steps between evaluations; 0: at the end of each epoch.", group="records", ge=0)
    save_steps: int = _option(
        50,
        "Steps between checkpoints, from which a stopped or crashed run resumes; 0: only at the end.",
        group="records",
        ge=0,
    )
    save_total_limit: int = _option(2, "Checkpoints to keep.", group="records", ge=1)
    logging_steps: int = _option(1, "Steps between two records in metrics.jsonl.", group="records", ge=1)
    report_to: str = _option(
        "none",
        "Also log to `tensorboard`, `wandb` or `trackio` (installed by you); names separated by commas.",
        group="records",
    )

    # samples
    sample_prompts: tuple[str, ...] = _option(
        (),
        "Prompts answered by the reference and the tuned model while training; empty: the first few held-out ones.",
        group="samples",
    )
    sample_steps: int = _option(
        0, "Steps between these answers; 0: five times in a run; -1: never.", group="samples", ge=-1
    )
    sample_max_new_tokens: int = _option(128, "Longest answer, in tokens.", group="samples", ge=1)
    temperature: float = _option(
        0.7,
        "Sampling temperature of these answers; 0 is greedy, which misleads on small models.",
        group="samples",
        ge=0,
        le=5,
    )

    # judge
    judge: str = _option(
        "",
        "Who judges the tuned model's answers to held-out prompts against the reference's while training: a rule "
        "(`shorter`, `length:10-50`, `regex:PATTERN`, …), `demo`, `reward:MODEL`, or `endpoint:NAME` (`kto endpoint`). "
        "Empty: nobody.",
        group="judge",
    )
    judge_steps: int = _option(
        0, "Steps between two judgements; 0: with each evaluation, and at the end.", group="judge", ge=0
    )
    judge_prompts: int = _option(
        64, "Held-out prompts that are answered for a judgement, or all where there are fewer.", group="judge", ge=2
    )
    judge_criteria: str = _option(
        "", "What makes an answer better, in a sentence or two, for a judge behind an endpoint.", group="judge"
    )
    judge_max_tokens: int = _option(
        16,
        "Longest reply of a judge behind an endpoint; one that thinks first needs some thousand.",
        group="judge",
        ge=1,
    )
    early_stop: int = _option(
        0,
        "End the run when so many judgements in a row have brought no higher win rate than an earlier one; 0: never.",
        group="judge",
        ge=0,
    )
    keep_best: bool = _option(
        False,
        "The run's model is that of the step with the highest win rate, whose checkpoint is kept, and not that of the "
        "last step.",
        group="judge",
    )

    @model_validator(mode="before")
    @classmethod
    def _fill_demo_defaults(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        values = {name: str(value) if isinstance(value, Path) else value for name, value in values.items()}
        if isinstance(values.get("template_kwargs"), str):  # from the shell and the page
            values["template_kwargs"] = read_template_kwargs(values["template_kwargs"])
        if isinstance(values.get("mapping"), dict):
            values["mapping"] = write_mapping(values["mapping"])
        return {**recommended(values.get("model", DEMO_MODEL), values.get("tuning", "lora")), **values}

    @model_validator(mode="after")
    def _refuse_what_does_not_go_together(self) -> "KTOConfig":
        if isinstance(self.tokens_per_pass, int) and self.tokens_per_pass < 1:
            raise ValueError("option `tokens_per_pass` must be `auto` or at least 1")
        if taken := sorted(TEMPLATE_TAKEN & self.template_kwargs.keys()):
            raise ValueError(f"option `template_kwargs` can't set `{taken[0]}`, which the workbench itself sets")
        if odd := [name for name in self.template_kwargs if not name.isidentifier()]:
            raise ValueError(f"option `template_kwargs` can't set `{odd[0]}`, which is no name in a template")
        if isinstance(self.processes, int) and self.processes < 1:
            raise ValueError("option `processes` must be `auto` or at least 1")
        if self.max_steps == 0:
            raise ValueError("option `max_steps` must be at least 1, or -1 to leave it to `num_train_epochs`")
        if self.desirable_weight == 0 and self.undesirable_weight == 0:
            raise ValueError(
                "options `desirable_weight` and `undesirable_weight` are both 0, so nothing would be learned"
            )
        unused = unused_by(self.objective)
        for name, plain in (("z0", "batch"), ("sft_weight", 0.0)):
            if name in unused and getattr(self, name) != plain:
                said = plain if isinstance(plain, str) else f"{plain:g}"
                raise ValueError(f"option `{name}` has no effect with objective `{self.objective}`; leave it at {said}")
        # Of a uniform reference r − z0 is known, and r alone is not.
        if self.objective != "kto" and self.reference == "uniform":
            raise ValueError(f"option `reference` `uniform` goes with objective `kto`, not with `{self.objective}`")
        if self.lora_dropout and self.reference == "uniform":
            raise ValueError("option `reference` `uniform` needs lora_dropout 0")
        if self.tuning == "full":
            for name in ("load_in_4bit", "start_adapter", "lora_dropout"):
                if getattr(self, name):
                    raise ValueError(f"option `{name}` is for tuning `lora`; with tuning `full` leave it out")
            if self.adapter_dtype != "float32":
                raise ValueError("option `adapter_dtype` is for tuning `lora`; with tuning `full` leave it at float32")
        if self.start_adapter and "reference" not in self.model_fields_set:
            raise ValueError(
                "option `start_adapter` needs `reference` beside it: `base` counts rewards against the model without "
                "any adapter, `start` against the model with that adapter"
            )
        if self.reference == "start" and not self.start_adapter:
            raise ValueError("option `reference` `start` needs a `start_adapter`")
        if not self.judge:
            for name in ("early_stop", "keep_best"):
                if getattr(self, name):
                    raise ValueError(f"option `{name}` goes by a judge: name one with option `judge`")
        elif not self.eval_fraction:
            raise ValueError("option `judge` asks held-out prompts: it needs an `eval_fraction` above 0")
        # New pairs are drawn while training, and where every weight is trained the reference is gone by then.
        if self.z0 == "every" and self.tuning == "full":
            raise ValueError(
                "option `z0` `every` asks the reference all along, which tuning `full` keeps no copy of; use z0 `batch`"
            )
        return self

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise ConfigError(_first_sentence(error)) from None

    @property
    def trusted(self) -> bool:
        """Whether the model may run code of its own and bring pickled weights."""
        return self.model in self.trust

    @property
    def uses_rewards(self) -> bool:
        """Whether answers have rewards."""
        return OBJECTIVES[self.objective].reference

    @property
    def uses_reference(self) -> bool:
        """Whether the reference's log-probabilities of the examples are needed at all."""
        return self.uses_rewards and self.reference != "uniform"

    @property
    def uses_mismatched(self) -> bool:
        """Whether each batch's mismatched pairs are scored, by policy and reference."""
        return self.uses_reference and OBJECTIVES[self.objective].centre == "z0" and self.z0 == "batch"

    @property
    def reporters(self) -> tuple[str, ...]:
        """The programs that are also logged to; none for `none`."""
        named = (name.strip() for name in self.report_to.split(","))
        return tuple(name for name in named if name not in ("", "none"))

    def replace(self, **values: Any) -> "KTOConfig":
        """The same config with some options changed, checked again."""
        return KTOConfig(**{**self.model_dump(), **values})


def read_template_kwargs(text: str) -> dict[str, Any]:
    """The JSON object in a text, {} if it is blank. Raises ConfigError."""
    try:
        found = json.loads(text) if text.strip() else {}
    except ValueError:
        found = None
    if not isinstance(found, dict):
        given = text if len(text) <= 80 else text[:77] + "..."
        raise ConfigError(f"Option `template_kwargs` should be {_EXPECTED['dict_type'].format()}, not {given!r}.")
    return found


def write_mapping(mapping: Mapping[str, Any]) -> tuple[str, ...]:
    """A mapping of columns as the option has it: {"prompt": "q", "up": ["ok"]} as ("prompt=q", "up=ok")."""
    said = {part: ",".join(map(str, value)) if isinstance(value, list) else value for part, value in mapping.items()}
    return tuple(f"{part}={value}" for part, value in said.items())


def recommended(model: str, tuning: str = "lora") -> dict[str, Any]:
    """The defaults that a model and a way of tuning want in place of the general ones."""
    found = dict(FULL_DEFAULTS) if tuning == "full" else {}
    if model == DEMO_MODEL:
        found |= DEMO_DEFAULTS | (DEMO_FULL_DEFAULTS if tuning == "full" else {})
    return found


def options() -> dict[str, FieldInfo]:
    """Every option by name, in order: `.description`, `.default`, and `.json_schema_extra` with its group."""
    return dict(KTOConfig.model_fields)


def option_choices(field: FieldInfo) -> tuple[str, ...]:
    """The words that an option may take, () if it is not a choice."""
    if typing.get_origin(field.annotation) is Literal:
        return typing.get_args(field.annotation)
    return ()


def option_bounds(field: FieldInfo) -> dict[str, float]:
    """The bounds of a number: any of `ge`, `gt`, `le`, `lt`."""
    names = ("ge", "gt", "le", "lt")
    return {name: getattr(m, name) for m in field.metadata for name in names if getattr(m, name, None) is not None}


def unknown_option(name: str, known: Iterable[str] | None = None) -> str:
    """One sentence on an option that does not exist, with the nearest that does."""
    near = difflib.get_close_matches(name.replace("-", "_"), list(known or KTOConfig.model_fields), n=1)
    return f"There is no option `{name}`" + (f"; did you mean `{near[0]}`?" if near else ".")


def _first_sentence(error: ValidationError) -> str:
    first = error.errors()[0]
    if first["type"] == "extra_forbidden":
        return unknown_option(str(first["loc"][0]))
    if not first["loc"]:
        message = first["msg"].removeprefix("Value error, ")
        return message[0].upper() + message[1:] + "."
    # An option of two types (`auto` or a number) has an error for each.
    about = [e for e in error.errors() if e["loc"][:1] == first["loc"][:1]]
    expected = list(dict.fromkeys(_expected(e) for e in about))
    given = "empty" if first["input"] in (None, "") else _shortened.repr(first["input"])
    if first["type"].startswith(("greater_than", "less_than")):  # a number, which the shell hands over as text
        given = str(first["input"])
    given = given if len(given) <= 80 else given[:77] + "..."
    return f"Option `{first['loc'][0]}` should be {' or '.join(expected)}, not {given}."


_EXPECTED = {
    "invalid-json-value": "made of texts, numbers, lists and objects alone",
    "dict_type": 'a JSON object such as {{"enable_thinking": false}}',
    "float_parsing": "a number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "int_parsing": "a whole number",
    "int_parsing_size": "a whole number",
    "int_from_float": "a whole number",
    "int_type": "a whole number",
    "bool_parsing": "true or false",
    "bool_type": "true or false",
    "string_type": "text",
    "string_too_short": "text",
    "tuple_type": "a list of texts",
    "greater_than": "greater than {gt:g}",
    "greater_than_equal": "at least {ge:.16g}",
    "less_than": "less than {lt:g}",
    "less_than_equal": "at most {le:.16g}",
}


def _expected(error: Any) -> str:
    """What pydantic would rather have had, in our words."""
    if error["loc"][0] == "template_kwargs" and error["type"] != "dict_type":
        return _EXPECTED["invalid-json-value"]
    if len(error["loc"]) > 1 and isinstance(error["loc"][1], int):
        return "a list of texts"
    if error["type"] == "literal_error":
        return error["ctx"]["expected"].replace("'", "`")
    if error["type"] in _EXPECTED:
        return _EXPECTED[error["type"]].format(**error.get("ctx", {}))
    return error["msg"].removeprefix("Input should be ")


def load_config(path: str | Path, **overrides: Any) -> KTOConfig:
    """Read a YAML file of options; keyword arguments win over it. Raises ConfigError."""
    text, problem = files.read_text(Path(path), at_most=MOST_BYTES, links=True)
    if problem == files.MISSING:
        raise ConfigError(f"There is no config file {path}.")
    if problem:
        raise ConfigError(f"Can't read the config file {path}: it {problem}.")
    return parse_config(text, path, **overrides)


def parse_config(text: str, path: str | Path, **overrides: Any) -> KTOConfig:
    """The config of a YAML text that was read from a file; keyword arguments win over it. Raises ConfigError."""
    try:
        values = _read_yaml(text)
    except yaml.MarkedYAMLError as error:
        where = f" in line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ConfigError(f"Can't read the config file {path}: {error.problem}{where}.") from None
    except yaml.YAMLError:
        raise ConfigError(f"Can't read the config file {path}: it is not UTF-8 text.") from None
    except RecursionError:
        raise ConfigError(f"Can't read the config file {path}: it is nested too deeply.") from None
    except ValueError as error:  # of a date or a number that can't be
        raise ConfigError(f"Can't read the config file {path}: {error}.") from None
    values = {} if values is None else values
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise ConfigError(f"The config file {path} should hold lines of `option: value`.")
    return KTOConfig(**{**values, **overrides})


def _read_yaml(text: str) -> Any:
    """What a YAML text holds; by the fast loader in C only where nothing is nested so deep that this would crash it."""
    if yaml.__with_libyaml__ and sum(map(text.count, NESTING)) < FLAT:
        with contextlib.suppress(yaml.YAMLError, ValueError):  # the other one says it better
            return yaml.load(text, yaml.CSafeLoader)
    return yaml.safe_load(text)


def config_to_yaml(config: KTOConfig) -> str:
    """The complete config as YAML, every option with its value, in the order of this file."""
    values = config.model_dump(mode="json")
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)


def save_config(config: KTOConfig, path: str | Path) -> None:
    """Write the complete config as YAML."""
    Path(path).write_text(config_to_yaml(config), encoding="utf-8")
