"""Widgets from the options of KTOConfig, and a KTOConfig from their values.

An option added to config.py shows up here by itself: its type chooses the widget, its bounds and help come along.
"""

import json
import shlex
import typing
from collections.abc import Mapping
from typing import Any

import gradio as gr
from gradio.components import Component
from pydantic.fields import FieldInfo

from kto_workbench.config import GROUPS, KTOConfig, option_choices, options
from kto_workbench.ui.words import label

# Chosen elsewhere: the feedback and its columns on the Data tab, the workspace when the workbench was started. Which
# models may run code is the owner's to say, in a shell.
ELSEWHERE = ("data", "mapping", "workspace", "trust")


def names(*, basic: bool, group: str | None = None) -> list[str]:
    """The options that the page shows unfolded (`basic`), or those of a group that it folds away."""
    extras = {name: field.json_schema_extra or {} for name, field in options().items() if name not in ELSEWHERE}
    return [name for name, extra in extras.items() if bool(extra["basic"]) == basic and group in (None, extra["group"])]


def folded_groups() -> dict[str, list[str]]:
    """The options that are folded away, by group."""
    return {group: found for group in GROUPS if (found := names(basic=False, group=group))}


def widget(name: str, value: Any) -> Component:
    """The widget for one option, showing `value`."""
    field = options()[name]
    basic = bool((field.json_schema_extra or {})["basic"])
    common: dict[str, Any] = {
        "label": label(f"option.{name}"),
        "info": label(f"short.{name}" if basic else f"help.{name}"),
        "elem_id": "train-" + name.replace("_", "-"),
        "min_width": 120,
    }
    value = to_widget(name, value)
    if name == "model":
        return gr.Dropdown([value], value=value, allow_custom_value=True, **common)
    if choices := option_choices(field):
        return gr.Dropdown(list(choices), value=value, filterable=False, **common)
    kind = _kind(field)
    if kind is bool:
        return gr.Checkbox(value=value, **common)
    if kind is tuple:
        return gr.Textbox(value=value, lines=3, **common)
    if kind in (int, float):
        # No minimum and maximum here: gradio would refuse such a value in words of its own, before KTOConfig is asked.
        whole = kind is int
        return gr.Number(value=value, precision=0 if whole else None, step=1 if whole else "any", **common)
    return gr.Textbox(value=value, max_lines=1, **common)


def to_widget(name: str, value: Any) -> Any:
    """An option's value as its widget shows it."""
    if isinstance(value, tuple):
        return "\n".join(value)
    if isinstance(value, dict):
        return json.dumps(value, ensure_ascii=False) if value else ""
    if _kind(options()[name]) is str and value is not None:
        return str(value)
    return value


def read(values: dict[str, Any]) -> KTOConfig:
    """The config that these widgets' values mean. Raises ConfigError with one sentence."""
    read_values = {name: _from_widget(name, value) for name, value in values.items()}
    return KTOConfig(**read_values)


def _from_widget(name: str, value: Any) -> Any:
    field = options()[name]
    kind = _kind(field)
    if kind is tuple:
        return tuple(line.strip() for line in str(value or "").splitlines() if line.strip())
    if isinstance(value, str):
        value = value.strip()
        if int in typing.get_args(field.annotation) and value.lstrip("-").isdigit():
            return int(value)
    return value


def _kind(field: FieldInfo) -> type:
    """The one type that decides the widget: bool, int, float, tuple, or str for all that is typed as words."""
    annotation = field.annotation
    arguments = typing.get_args(annotation)
    if typing.get_origin(annotation) is tuple:
        return tuple
    if arguments:
        kinds = [one for one in arguments if one is not type(None)]
        return kinds[0] if len(kinds) == 1 and isinstance(kinds[0], type) else str
    return annotation if annotation in (bool, int, float) else str


def defaults(model: str, tuning: str = "lora") -> dict[str, Any]:
    """Every option's default for a model and a way of tuning; both may have their own."""
    return KTOConfig(model=model or "demo", tuning=tuning).model_dump()


def follow(
    values: dict[str, Any],
    old: tuple[str, str],
    new: tuple[str, str],
    was_suggested: Mapping[str, Any] | None = None,
    suggested: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The options that another model or way of tuning wants differently, leaving alone what the user has changed.

    `old` and `new` are (model, tuning); `was_suggested` and `suggested` what follows from each beside its defaults.
    """
    before, after = defaults(*old) | dict(was_suggested or {}), defaults(*new) | dict(suggested or {})
    return {
        name: after[name]
        for name, value in values.items()
        if name not in ("model", "tuning") and before[name] != after[name] and _from_widget(name, value) == before[name]
    }


def shown(value: Any) -> str:
    """A value as people write it."""
    return f"{value:g}" if isinstance(value, float) else str(value).lower() if isinstance(value, bool) else str(value)


def offer(choices: list[tuple[str, Any]], value: Any, chosen: Any, **settings: Any) -> gr.Dropdown:
    """A dropdown's choices anew; its value is sent only if it is not what was `chosen` when the page asked.

    Meanwhile the visitor, or Start, may have chosen something else, which an answer that comes late must not take back.
    """
    if value != chosen:
        settings["value"] = value
    return gr.Dropdown(choices=choices, **settings)


def command(config: KTOConfig) -> str:
    """The line for the shell that trains with this config: every option that is not at its default."""
    plain = KTOConfig(model=config.model, tuning=config.tuning)
    # What decides about others' defaults, or must be said beside another option, is always said.
    said = {"model", "data"} | ({"tuning"} if config.tuning != "lora" else set())
    said |= {"reference"} if config.start_adapter else set()
    words = ["kto", "train"]
    for name, value in config.model_dump().items():
        if name in said or value != getattr(plain, name):
            words += _flag(name, value)
    return shlex.join(words)


def _flag(name: str, value: Any) -> list[str]:
    flag = "--" + name.replace("_", "-")
    if value is None:
        return []
    if isinstance(value, bool):
        return [flag, str(value).lower()]
    if isinstance(value, tuple):
        return [flag, *value]
    if isinstance(value, dict):
        return [flag, json.dumps(value, ensure_ascii=False)]
    return [flag, f"{value:g}" if isinstance(value, float) and float(f"{value:g}") == value else str(value)]
