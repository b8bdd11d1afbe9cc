"""The glossary: every symbol of the page says what it means when it is pointed at or reached with the Tab key.

In the browser, since half of the symbols stand in labels that gradio draws. An element is only given a title, what
screen readers say beside it, and a class; its text stays as it is. Links to a step of Learn (`data-learn`) open that
tab.
"""

import json

from kto_workbench.ui.lesson_words import LESSON_WORDS

# The longest first: β·z0 is not β.
SYMBOLS = ("β·z0", "λ_D", "λ_U", "z0", "β", "λ", "KL", "nats", "r", "margin", "Margin", "差值")
_SAME = {"Margin": "margin", "差值": "margin"}
_MEANINGS = [{symbol: LESSON_WORDS[f"gloss.{_SAME.get(symbol, symbol)}"][i] for symbol in SYMBOLS} for i in (0, 1)]

SCRIPT = f"""<script>
(() => {{
  const meanings = {json.dumps(_MEANINGS, ensure_ascii=False)}[+navigator.language.toLowerCase().startsWith("zh")]
  const symbol = /β·z0|λ_?[DU]|z0|β|λ|KL|\\\\bnats\\\\b|(?<![\\\\w'’])r(?![\\\\w'’])|\\\\b[mM]argin\\\\b|差值/g
  const places = ".kto-chart-head h3, .kto-curve, .kto-card dt, .kto-table th, .kto-bar-name, " +
    ".kto-lesson-text h3, [data-testid=block-info]"
  const explain = () => document.querySelectorAll(places).forEach(place => {{
    if (place.dataset.glossed === place.textContent) return
    place.dataset.glossed = place.textContent
    const found = [...new Set(place.textContent.match(symbol))].map(one => one.replace(/λ(?=[DU])/, "λ_"))
    if (!found.length) return
    place.title = found.map(one => meanings[one]).join("\\\\n")
    place.classList.add("kto-gloss")
    place.setAttribute("aria-description", place.title)
    if (!place.closest("label")) place.tabIndex = 0
  }})
  let waiting
  const later = () => {{ waiting ??= setTimeout(() => {{ waiting = undefined; explain() }}, 250) }}
  const begin = () => {{
    later()
    new MutationObserver(later).observe(document.body, {{childList: true, subtree: true, characterData: true}})
  }}
  if (document.readyState === "loading") addEventListener("DOMContentLoaded", begin)
  else begin()  // gradio may bring this in later
  addEventListener("click", event => {{
    const link = event.target.closest?.("[data-learn]")
    if (!link) return
    event.preventDefault()
    ktoTab.open("learn")
    const step = () => document.getElementById("lesson-" + link.dataset.learn)
    let tries = 0
    const scroll = () => {{  // until the tab has been drawn
      if (step()?.offsetHeight) step().scrollIntoView({{block: "start"}})
      if (tries++ < 8) setTimeout(scroll, 150)
    }}
    scroll()
  }})
}})()
</script>""".replace("\\\\", "\\")
