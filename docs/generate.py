"""Write the pages of the docs that the code knows better than any author: the options, what fits into which memory.

python docs/generate.py            # writes them
python docs/generate.py --check    # exit code 1 where a page is not what the code says; a test calls this
"""

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from kto_workbench.config import GROUPS, KTOConfig, option_bounds, option_choices, options  # noqa: E402
from kto_workbench.runs.memory import MemoryEstimate, ModelShape, estimate_memory  # noqa: E402
from kto_workbench.ui.chinese import OPTION_HELP_ZH  # noqa: E402
from kto_workbench.ui.words import WORDS  # noqa: E402

MADE = "<!-- Made by docs/generate.py; what it says is changed there, or in the code that it reads. -->\n\n"
GB = 10**9
CARDS = (8, 12, 16, 24, 48, 80)
# Sizes from the models' published config.json. The names are examples of their size; others of the size fit alike.
MODELS = {
    "Qwen3 0.6B": ModelShape(28, 1024, 3072, 16, 8, 128, 151936, tied=True),
    "Qwen3 1.7B": ModelShape(28, 2048, 6144, 16, 8, 128, 151936, tied=True),
    "Llama 3.2 3B": ModelShape(28, 3072, 8192, 24, 8, 128, 128256, tied=True),
    "Qwen3 4B": ModelShape(36, 2560, 9728, 32, 8, 128, 151936, tied=True),
    "Llama 3.1 8B": ModelShape(32, 4096, 14336, 32, 8, 128, 128256),
    "Qwen3 14B": ModelShape(40, 5120, 17408, 40, 8, 128, 151936),
    "Qwen3 32B": ModelShape(64, 5120, 25600, 64, 8, 128, 151936),
    "Llama 3.1 70B": ModelShape(80, 8192, 28672, 64, 8, 128, 128256),
}
WAYS = {
    "LoRA": KTOConfig(model="m"),
    "QLoRA": KTOConfig(model="m", load_in_4bit=True, optim="paged_adamw_8bit"),
    "full": KTOConfig(model="m", tuning="full"),
}


def options_page(language: str = "en") -> str:
    """Every option: name, default, what it may be, what it does and where its default is from."""
    chinese = language == "zh"
    title, intro, head = (
        (
            "# 全部选项",
            "每个选项都是 YAML 的一个键、`kto train` 的一个参数（`--learning-rate 1e-5`）、`KTOConfig` 的一个关键字，"
            "以及页面上的一个栏目。[In English](options.md)",
            "| 选项 | 默认 | 可取 | 作用 |",
        )
        if chinese
        else (
            "# All options",
            "Each is a key in YAML, a flag of `kto train` (`--learning-rate 1e-5`), a keyword of `KTOConfig` and a "
            "field of the page. [中文](options.zh.md)",
            "| option | default | may be | what it does |",
        )
    )
    lines = [title, "", intro]
    for group, english in GROUPS.items():
        lines += ["", f"## {_plain(WORDS[f'group.{group}'][1]) if chinese else english}", "", head, "|---|---|---|---|"]
        for name, field in options().items():
            extra: Any = field.json_schema_extra
            if extra["group"] != group:
                continue
            help_ = OPTION_HELP_ZH.get(name, field.description) if chinese else field.description
            source = f" *{extra['source']}*" if extra["source"] and not chinese else ""
            lines.append(f"| `{name}` | {_value(field.default)} | {_allowed(field)} | {_cell(help_)}{_cell(source)} |")
    return "\n".join(lines) + "\n"


def _value(value: Any) -> str:
    if value is None or value == "" or value == () or value == {}:
        return ""
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return f"`{text.lower() if isinstance(value, bool) else text}`"


def _allowed(field: Any) -> str:
    if choices := option_choices(field):
        return ", ".join(f"`{choice}`" for choice in choices)
    signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
    return ", ".join(f"{signs[name]} {bound:.10g}" for name, bound in option_bounds(field).items())


def _plain(html: str) -> str:
    return re.sub(r"<[^>]+>", "", html)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def fits_page() -> str:
    """Models against cards: what a training needs, by the estimate that the page and `kto doctor` use."""
    rows, length = 32, 1024
    ways = {way: config.replace(batch_size=rows, max_length=length, tokens_per_pass=1) for way, config in WAYS.items()}
    cards = " | ".join(f"{card} GB" for card in CARDS)
    lines = [
        "# What fits",
        "",
        f"Which ways of tuning fit on one GPU, in bfloat16, with `batch_size` {rows} and rows of {length} tokens that "
        "go through the model one at a time; *slower* is with activations recomputed, which comes by itself if a row "
        "does not fit otherwise. Rows are mostly shorter, and where there is room to spare `tokens_per_pass: auto` "
        "takes more of them at once. A card's memory is counted as its name says less a tenth, for the driver and "
        "whoever draws the screen.",
        "",
        f"| model | {cards} |",
        f"|---|{'---|' * len(CARDS)}",
        *(
            f"| {model} | {' | '.join(_ways_on(card, shape, ways) for card in CARDS)} |"
            for model, shape in MODELS.items()
        ),
        "",
        "The same in GB: the weights, and all that a training needs, at most, without and with recomputing.",
        "",
        "| model | tuning | weights | all | recomputed |",
        "|---|---|---|---|---|",
    ]
    for model, shape in MODELS.items():
        for way, config in ways.items():
            found = [_estimate(shape, config, recompute=recompute) for recompute in (False, True)]
            sizes = " | ".join(f"{estimate.high / GB:.1f}" for estimate in found)
            lines.append(f"| {model} | {way} | {found[0].weights / GB:.1f} | {sizes} |")
    lines += [
        "",
        "Nothing of these tables was measured on a GPU yet. On a CPU the estimate of all beyond the weights lies "
        "within 20 % of the peaks that `python -m benchmarks.memory` measures, on three shapes in five settings (see "
        "`benchmarks/RESULTS.md`). `kto doctor --model MODEL` says it for your machine, the Train tab for your data. "
        "QLoRA is with `optim: paged_adamw_8bit`. What fits on no card here may fit on several: "
        "[several GPUs](several_gpus.md).",
    ]
    return "\n".join(lines) + "\n"


def _estimate(shape: ModelShape, config: KTOConfig, *, recompute: bool) -> MemoryEstimate:
    return estimate_memory(config.replace(gradient_checkpointing=recompute), shape, device="cuda", dtype_bytes=2)


def _ways_on(card: int, shape: ModelShape, ways: dict[str, KTOConfig]) -> str:
    found = []
    for way, config in ways.items():
        for recompute, how in ((False, way), (True, f"{way} *slower*")):
            if _estimate(shape, config, recompute=recompute).high <= 0.9 * card * GB:
                found.append(how)
                break
    return ", ".join(found) or "–"


PAGES: dict[str, Callable[[], str]] = {
    "options.md": options_page,
    "options.zh.md": lambda: options_page("zh"),
    "what_fits.md": fits_page,
}


def main(check: bool) -> int:
    """Write the pages, or say which are not what they should be."""
    stale = []
    for name, page in PAGES.items():
        text, path = MADE + page(), HERE / name
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            stale.append(name)
            if not check:
                path.write_text(text, encoding="utf-8")
    if check and stale:
        print(f"Not what the code says: {', '.join(stale)}; run python docs/generate.py.", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main("--check" in sys.argv[1:]))
