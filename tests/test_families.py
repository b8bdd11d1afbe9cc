"""Every family of causal language models that the installed transformers knows, from its folder to a merged model.

`python tests/test_families.py` writes docs/families.md, which must be what comes out here.
"""

import functools
import re
import tempfile
from collections import Counter
from pathlib import Path

import pytest
import transformers
from family_check import Outcome, check_family
from tiny_families import NOT_BUILT, families

TABLE = Path(__file__).parents[1] / "docs" / "families.md"

# The quick half: what each has of its own.
TELLING = {
    "bert": "looks both ways",
    "bloom": "ALiBi, masks of its own",
    "deepseek_v3": "latent attention, values of another width, experts",
    "falcon_h1": "Mamba beside attention, a scaled head",
    "gemma3_text": "windows and full layers, norms of queries and keys",
    "gpt_oss": "sinks, windows, experts",
    "granite_swa": "sinks, a scaled head",
    "jamba": "Mamba and experts between attention",
    "laguna": "shared experts that peft loses when it loads",
    "llama4_text": "chunks, scales by place, a router that returns two things",
    "phimoe": "a router that draws by chance",
    "zamba": "blocks that share weights",
}


@functools.cache
def outcome(family: str) -> Outcome:
    """What becomes of a family; each is checked once."""
    with tempfile.TemporaryDirectory() as folder:
        return check_family(family, Path(folder))


# Of transformers' warnings about its own models there are many.
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "family",
    [pytest.param(f, marks=() if f in TELLING else pytest.mark.slow) for f in families() if f not in NOT_BUILT],
)
def test_a_family_is_right_or_refused_in_a_sentence(family):
    found = outcome(family)
    assert found.way in ("packed", "padded", "one by one", "refused")
    assert found.reason or found.way == "packed"


def as_table() -> str:
    """docs/families.md as it comes out."""
    found = {family: outcome(family) for family in families() if family not in NOT_BUILT}
    count = Counter(o.way for o in found.values())
    release = ".".join(transformers.__version__.split(".")[:2])
    lines = [
        "# Families of models",
        "",
        f"What becomes of every family of causal language models that transformers {release} knows, each as a tiny",
        "model with random weights: loaded, tried, compared with its own eager attention in log-probabilities,",
        "gradients and answers, trained for three steps, saved, loaded again, merged. Both are held to 1e-4 relative",
        "in float32, row by row and against one padded batch; the worst seen were 2e-7 and 1e-5. Falcon with ALiBi",
        "(its default has none) is held to its SDPA: transformers' eager attention adds ALiBi twice.",
        "Written by `python tests/test_families.py`; a slow test holds it.",
        "",
        f"{count['packed']} are packed, {count['padded']} padded, {count['one by one']} scored one row at a time, "
        f"{count['refused']} refused; {len(NOT_BUILT)} could not be made tiny.",
        "",
        "| family | scored | why |",
        "|---|---|---|",
    ]
    for family in families():
        way, reason = ("not tried", NOT_BUILT[family]) if family in NOT_BUILT else _words(found[family])
        lines.append(f"| {family} | {way} | {reason} |")
    return "\n".join(lines) + "\n"


def _words(found: Outcome) -> tuple[str, str]:
    # Without figures, which another machine rounds otherwise.
    reason = re.sub(r" [\d.]+e[+-]\d+( nats a token)?", "", found.reason).replace("|", "\\|")
    return found.way, reason


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_table_in_the_docs_is_what_comes_out():
    table = as_table()
    assert int(re.search(r"(\d+) are packed", table)[1]) >= 40
    assert TABLE.read_text(encoding="utf-8") == table


if __name__ == "__main__":
    TABLE.write_text(as_table(), encoding="utf-8")
