"""The model card of an export: what was trained on what, how, how it went, and whether it got better.

README.md and curves.png, as the Hugging Face hub shows them; nothing in them that the run's directory does not say.
"""

import re
from datetime import date
from html import escape
from pathlib import Path
from typing import Any

import yaml

from kto_workbench.config import DEMO_MODEL, KTOConfig
from kto_workbench.judging.records import newest_evaluation
from kto_workbench.judging.report import in_words
from kto_workbench.objectives import OBJECTIVES, unused_by
from kto_workbench.runs import Run
from kto_workbench.runs.shelf import about_run
from kto_workbench.views.figure import in_words_judged, in_words_kl, plot
from kto_workbench.views.records import records_of

SETTINGS = (
    "objective", "beta", "desirable_weight", "undesirable_weight", "z0", "reference", "sft_weight", "tuning", "lora_r",
    "lora_alpha", "lora_dropout", "load_in_4bit", "learning_rate", "lr_scheduler_type", "batch_size",
    "num_train_epochs", "max_length", "dtype", "template", "seed",
)  # fmt: skip
ADAPTER_ONLY = ("lora_r", "lora_alpha", "lora_dropout", "load_in_4bit")
# What Markdown reads anywhere, and what it reads where a line begins.
MARKS = re.compile(r"([\\`*_\[\]|~$#])")
LINE_MARKS = re.compile(r"^([ \t]*\d*)([-+=.):])", re.MULTILINE)
METRICS = {
    "loss": "loss",
    "rewards/chosen": "reward of thumbs up",
    "rewards/rejected": "reward of thumbs down",
    "rewards/margins": "margin",
    "rewards/accuracies": "pairs told right",
    "kl": "z0, in nats",
    "delta": "δ, the mean reward",
}
USES = {
    "adapter": """from peft import AutoPeftModelForCausalLM
from transformers import AutoTokenizer

model = AutoPeftModelForCausalLM.from_pretrained("THIS_FOLDER")
tokenizer = AutoTokenizer.from_pretrained("THIS_FOLDER")""",
    "merged": """from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("THIS_FOLDER")
tokenizer = AutoTokenizer.from_pretrained("THIS_FOLDER")""",
}


def write_card(run: Run, folder: Path, format: str) -> None:
    """Put README.md and curves.png beside what was exported as `adapter`, `merged` or `gguf`."""
    plot(run).savefig(folder / "curves.png", dpi=110)
    (folder / "README.md").write_text(card(run, format), encoding="utf-8")


def card(run: Run, format: str) -> str:
    """The card as Markdown, with the hub's block of YAML at its head."""
    config, about = run.config(), about_run(run)
    title = _text(about.get("name") or run.id)
    parts = [
        f"---\n{yaml.safe_dump(_head(config, format), sort_keys=False)}---\n",
        f"# {title}\n",
        _what(config, run),
        _text(about.get("note") or ""),
        _data(run.data(), config),
        "## Training\n\n![rewards, margin, z0 and loss over the steps](curves.png)\n",
        _table(
            {
                name: getattr(config, name)
                for name in SETTINGS
                if (config.tuning == "lora" or name not in ADAPTER_ONLY) and name not in unused_by(config.objective)
            }
        ),
        _outcome(run),
        _evaluation(run),
        _use(format),
        f"*Made with KTO Workbench from run {run.id}, {date.today()}.*\n",
    ]
    return "\n".join(part for part in parts if part)


def _head(config: KTOConfig, format: str) -> dict[str, Any]:
    head: dict[str, Any] = {}
    if _is_hub_id(config.model):
        head["base_model"] = config.model
        head["base_model_relation"] = {"adapter": "adapter", "gguf": "quantized"}.get(format, "finetune")
    head["library_name"] = {"adapter": "peft", "gguf": "gguf"}.get(format, "transformers")
    head["pipeline_tag"] = "text-generation"
    head["tags"] = ["kto", "lora" if config.tuning == "lora" else "full-fine-tuning", "kto-workbench"]
    return head


def _is_hub_id(model: str) -> bool:
    return model != DEMO_MODEL and not Path(model).is_absolute() and not Path(model).exists()


def _base(config: KTOConfig) -> str:
    """The base model without the folders of the machine that it was trained on."""
    return config.model if _is_hub_id(config.model) or config.model == DEMO_MODEL else Path(config.model).name


def _what(config: KTOConfig, run: Run) -> str:
    method = f"{config.objective.upper()} ({OBJECTIVES[config.objective].title})"
    how = (
        "all its weights" if config.tuning == "full" else "a QLoRA adapter" if config.load_in_4bit else "a LoRA adapter"
    )
    text = (
        f"{_code(_base(config))}, tuned with {method} on thumbs up and thumbs down: {how}, {run.status().step} steps."
    )
    if config.start_adapter:
        against = "that same adapter" if config.reference == "start" else "the base model"
        text += f" It went on from an earlier round's adapter; rewards were counted against {against}."
    return text + "\n"


def _data(data: dict[str, Any], config: KTOConfig) -> str:
    if not data:
        return ""
    facts = {
        "file": Path(str(data.get("data", config.data))).name,
        "rows": f"{data.get('rows', 0):,}",
        "thumbs up": f"{data.get('n_desirable', 0):,}",
        "thumbs down": f"{data.get('n_undesirable', 0):,}",
        "pairs": f"{data['pairs']:,}" if data.get("pairs") else None,
        "λ of a thumb up, of a thumb down": _weights(config),
        "held out by prompt": f"{config.eval_fraction:.0%}",
        "SHA-256": data.get("sha256") or "",
    }
    return f"## Data\n\n{_table(facts)}"


def _weights(config: KTOConfig) -> str | None:
    weights = (config.desirable_weight, config.undesirable_weight)
    return None if None in weights else ", ".join(f"{weight:.4g}" for weight in weights)


def _outcome(run: Run) -> str:
    records = run.metrics()
    # A last batch of one class alone has no margin: the newest that is known counts.
    train = {name: value for one in records if "loss" in one for name, value in one.items() if value is not None}
    held = {name: value for one in records if "eval_loss" in one for name, value in one.items() if value is not None}
    if not train:
        return ""
    lines = ["At the end:\n", "| | training rows | held-out rows |", "|---|---|---|"]
    for name, words in METRICS.items():
        if name not in OBJECTIVES[run.config().objective].metrics:
            continue
        lines.append(f"| {words} | {_number(train.get(name))} | {_number(held.get(f'eval_{name}'))} |")
    for told in (in_words_kl(records_of(run).sampled, run.config().objective), in_words_judged(run)):
        lines += ["", _text(told)] if told else []
    return "\n".join(lines) + "\n"


def _evaluation(run: Run) -> str:
    found = newest_evaluation(run)
    if not found:
        return ""
    words = in_words(found)
    return f"## Evaluation\n\n{_fence(words, 3)}\n{words}\n{_fence(words, 3)}\n"


def _use(format: str) -> str:
    if format == "gguf":
        return "## Use\n\n```\nollama create my-model -f Modelfile\nllama-cli -m model.gguf\n```\n"
    return f"## Use\n\n```python\n{USES[format]}\n```\n"


def _table(facts: dict[str, Any]) -> str:
    rows = [f"| {name} | {_cell(value)} |" for name, value in facts.items() if value not in (None, "")]
    return "\n".join(["| | |", "|---|---|", *rows]) + "\n"


def _cell(value: Any) -> str:
    if isinstance(value, (int, float)):
        return f"{value:.4g}" if isinstance(value, float) else str(value)
    return MARKS.sub(r"\\\1", escape(" ".join(str(value).split()), quote=False))  # amid a line


def _text(text: str) -> str:
    """Text in which Markdown and HTML find nothing to read, line by line."""
    text = MARKS.sub(r"\\\1", escape(text, quote=False))
    return LINE_MARKS.sub(r"\1\\\2", text)


def _code(text: str) -> str:
    """Text as code amid a sentence, whatever ticks it holds."""
    text, ticks = " ".join(text.split()), _fence(text, 1)
    return f"{ticks} {text} {ticks}" if "`" in text else f"{ticks}{text}{ticks}"


def _fence(text: str, least: int) -> str:
    """More ticks than stand together anywhere in the text."""
    return "`" * max(least, 1 + max(map(len, re.findall("`+", text)), default=0))


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
