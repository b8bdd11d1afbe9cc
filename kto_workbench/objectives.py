"""What can be trained with, said once: what each objective learns from, what it needs, which options it uses.

From this table come the checks of a config, what the trainer computes and logs, the fields and curves that the page
shows, the help of `kto train` and the table in docs/objectives.md. The mathematics is in engine/objective.py.
"""

from dataclasses import dataclass
from typing import Literal

_WEIGHTS = ("desirable_weight", "undesirable_weight")
_AGAINST_A_REFERENCE = ("beta", "reference", "sft_weight")


@dataclass(frozen=True)
class Objective:
    """One objective.

    `title` is its name in full, `learns` what it does, in a clause, `source` where it is from. `options` are those
    that it uses, of the options that not every objective uses. `paired`: an example is two answers to one prompt, a
    liked and a disliked one. `centre` is what rewards are counted from: `z0`, estimated from mismatched pairs; `mean`,
    the running mean of all rewards; or nothing.
    """

    title: str
    learns: str
    source: str
    options: tuple[str, ...] = ()
    paired: bool = False
    centre: Literal["z0", "mean", ""] = ""

    @property
    def reference(self) -> bool:
        """Whether answers have rewards, which are counted against a reference."""
        return "reference" in self.options

    @property
    def metrics(self) -> tuple[str, ...]:
        """What is logged of its batches."""
        of_centre = {"z0": ("kl", "kl_raw"), "mean": ("delta",), "": ()}[self.centre]
        rewards = ("rewards/chosen", "rewards/rejected", "rewards/margins") if self.reference else ()
        accuracies = ("rewards/accuracies",) if self.paired else ()
        logps = ("logps/chosen", "logps/rejected") if self.reference else ("logps/chosen",)
        return ("loss", *of_centre, *rewards, *accuracies, *logps)


OBJECTIVES: dict[str, Objective] = {
    "kto": Objective(
        "Kahneman-Tversky Optimization",
        "learns from both thumbs, counting rewards from the reference point z0",
        "Ethayarajh et al. 2024, arXiv 2402.01306",
        (*_AGAINST_A_REFERENCE, *_WEIGHTS, "z0", "kl_every", "kl_sample"),
        centre="z0",
    ),
    "sft": Objective(
        "supervised fine-tuning",
        "only imitates the thumbs up, as a baseline to compare with",
        "",
    ),
    "dpo": Objective(
        "Direct Preference Optimization",
        "learns from pairs, a liked and a disliked answer to one prompt: which one is better",
        "Rafailov et al. 2023, arXiv 2305.18290",
        _AGAINST_A_REFERENCE,
        paired=True,
    ),
    "apo_zero": Objective(
        "Anchored Preference Optimization, zero",
        "learns from pairs, too, but wants the liked answer likelier and the disliked one less likely, each by itself",
        "D'Oosterlinck et al. 2024, arXiv 2408.06266",
        _AGAINST_A_REFERENCE,
        paired=True,
    ),
    "apo_zero_unpaired": Objective(
        "Anchored Preference Optimization, zero, unpaired",
        "is `kto` with z0 fixed at 0",
        "D'Oosterlinck et al. 2024, arXiv 2408.06266",
        (*_AGAINST_A_REFERENCE, *_WEIGHTS),
    ),
    "bco": Objective(
        "Binary Classifier Optimization",
        "tells the thumbs apart by whether a reward is above the mean of all rewards so far",
        "Jung et al. 2024, arXiv 2404.04656",
        (*_AGAINST_A_REFERENCE, *_WEIGHTS),
        centre="mean",
    ),
    "ipo": Objective(
        "Identity Preference Optimization",
        "learns from pairs until their answers are 1/(2β) nats a token apart, and no further",
        "Azar et al. 2023, arXiv 2310.12036",
        _AGAINST_A_REFERENCE,
        paired=True,
    ),
}

# The options that some objectives use and others do not.
OPTIONS = tuple(dict.fromkeys(option for objective in OBJECTIVES.values() for option in objective.options))
# What some objectives log and others do not.
METRICS = tuple(dict.fromkeys(metric for objective in OBJECTIVES.values() for metric in objective.metrics))


def unused_by(objective: str) -> set[str]:
    """The options that have no effect with an objective."""
    return set(OPTIONS) - set(OBJECTIVES[objective].options)


def users_of(option: str) -> tuple[str, ...]:
    """The objectives that use an option; all of them where it is none of theirs."""
    return tuple(name for name, one in OBJECTIVES.items() if option in one.options or option not in OPTIONS)


def in_words() -> str:
    """All objectives in a sentence, for the option's help."""
    return "; ".join(f"`{name}` {one.learns}" for name, one in OBJECTIVES.items()) + "."


def as_markdown() -> str:
    """The table of docs/objectives.md."""
    mark = lambda yes: "yes" if yes else ""
    centre = {"z0": "z0, from mismatched pairs", "mean": "δ, the mean reward so far", "": ""}
    head = ("objective", "what it is", "learns from", "reference", "rewards are counted from", "options of its own")
    rows = [
        (
            f"`{name}`",
            one.title + (f" ({one.source})" if one.source else ""),
            "pairs" if one.paired else "thumbs" if one.reference else "thumbs up",
            mark(one.reference),
            centre[one.centre],
            ", ".join(f"`{option}`" for option in one.options),
        )
        for name, one in OBJECTIVES.items()
    ]
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines) + "\n"
