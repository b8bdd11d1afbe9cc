"""Cards judged by keyboard: the scripts that a panel needs, by its name.

The panel `name` has the parts #name-panel, #name-card, #name-actions, and a button #name-ACTION for each action.
"""

import json
from collections.abc import Mapping

_LISTEN = """() => {
  const actions = ACTIONS
  document.addEventListener("keydown", event => {
    const action = actions[event.key.length === 1 ? event.key.toLowerCase() : event.key]
    const card = document.querySelector("#NAME-card .kto-review")
    if (!action || !card?.checkVisibility()) return
    if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing || event.defaultPrevented) return
    const at = event.target instanceof Element ? event.target : document.body
    const writes = "input, textarea, select, [role=slider], [role=listbox], [role=option], [role=combobox]"
    if (at.isContentEditable || at.closest(writes)) return
    // presses what has the focus
    if ([" ", "Enter"].includes(event.key) && at.closest("button, a, summary, [role=button]")) return
    event.preventDefault()
    if (!event.repeat) document.getElementById("NAME-" + action).click()
  })
  // A button that was clicked by mouse, or the head of the folded part, must not take the space bar afterwards.
  document.addEventListener("click", event => {
    if (event.detail > 0 && event.target.closest?.("#NAME-actions, #NAME .label-wrap")) document.activeElement?.blur()
  })
}"""
_FOCUS = """() => {
  const panel = document.getElementById("NAME-panel")
  document.getElementById("NAME-card").setAttribute("aria-live", "polite")
  panel.tabIndex = -1
  panel.focus({ preventScroll: true })
  panel.scrollIntoView({ block: "nearest" })
}"""
_SHOWN = """(mine, shown) => [mine, Number(document.querySelector("#NAME-card [data-card]")?.dataset.card ?? -1)]"""


def listen(name: str, actions: Mapping[str, str]) -> str:
    """Press the button of an action when its key goes down, while a card shows and nobody is writing."""
    return _LISTEN.replace("NAME", name).replace("ACTIONS", json.dumps(actions, ensure_ascii=False))


def focus(name: str) -> str:
    """Bring the panel into view, with the keyboard on it."""
    return _FOCUS.replace("NAME", name)


def with_shown_card(name: str) -> str:
    """For (ballot, number): the number is that of the card that shows. A vote is for what its voter saw."""
    return _SHOWN.replace("NAME", name)
