"""What a page in the browser denies to people who can't see it well, or can't use a mouse: for tests.

unnamed_controls(page), faint_texts(page), keyboard_stops(page)
"""

CONTROLS = {
    "button", "textbox", "combobox", "slider", "spinbutton", "checkbox", "radio", "link", "tab", "listbox", "searchbox",
    "switch", "menuitem", "option", "progressbar", "radiogroup",
}  # fmt: skip

FAINT = """
least => {
  const channel = c => (c /= 255) <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4
  const luminance = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b)
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true })
  const rgba = color => {
    canvas.clearRect(0, 0, 1, 1)
    canvas.fillStyle = color
    canvas.fillRect(0, 0, 1, 1)
    const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data
    return [r, g, b, a / 255]
  }
  const over = (top, below) => [0, 1, 2].map(i => top[i] * top[3] + below[i] * (1 - top[3]))
  const found = new Map()
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT)
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    const text = node.textContent.trim(), element = node.parentElement
    if (!text || !element.checkVisibility({ opacityProperty: true, visibilityProperty: true })) continue
    const box = element.getBoundingClientRect()
    if (box.width < 2 || box.height < 2) continue
    if (element.closest("script, style, svg, [disabled], [aria-disabled=true]")) continue
    const chain = []
    for (let one = element; one; one = one.parentElement) chain.unshift(one)
    let below = [255, 255, 255], opacity = 1
    for (const one of chain) {
      const style = getComputedStyle(one)
      below = over(rgba(style.backgroundColor), below)
      opacity *= parseFloat(style.opacity)
    }
    const ink = rgba(getComputedStyle(element).color)
    ink[3] *= opacity
    const [light, dark] = [luminance(over(ink, below)), luminance(below)].sort((a, b) => b - a)
    const contrast = (light + 0.05) / (dark + 0.05)
    if (contrast < least) found.set(text.slice(0, 50) + " | " + element.className, contrast.toFixed(2))
  }
  return [...found].map(([text, contrast]) => `${contrast}: ${text}`)
}
"""


def unnamed_controls(page) -> list[str]:
    """Controls that a screen reader could only call by their role."""
    session = page.context.new_cdp_session(page)
    session.send("Accessibility.enable")
    nodes = session.send("Accessibility.getFullAXTree")["nodes"]
    unnamed = []
    for node in nodes:
        role = node.get("role", {}).get("value")
        if node.get("ignored") or role not in CONTROLS or node.get("name", {}).get("value", "").strip():
            continue
        found = session.send("DOM.resolveNode", {"backendNodeId": node["backendDOMNodeId"]})["object"]["objectId"]
        html = session.send(
            "Runtime.callFunctionOn",
            {"objectId": found, "functionDeclaration": "function() { return this.outerHTML.slice(0, 200) }"},
        )["result"]["value"]
        unnamed.append(f"{role}: {html}")
    session.send("Accessibility.disable")
    session.detach()
    return unnamed


def faint_texts(page, least: float = 4.5) -> list[str]:
    """Visible texts whose contrast with what is behind them is below `least`; disabled controls may be faint."""
    return page.evaluate(FAINT, least)


def keyboard_stops(page, most: int = 110) -> list[str]:
    """Where the Tab key goes from the open tab on: the id of each part, or the text where there is none."""
    page.locator("[role=tab][aria-selected=true]").first.focus()
    stops = []
    for _ in range(most):
        page.keyboard.press("Tab")
        stop = page.evaluate(
            """() => {
              const one = document.activeElement
              if (!one || one === document.body) return null
              const box = one.getBoundingClientRect()
              if (box.width === 0 || box.height === 0) return "nothing to be seen"
              return one.closest("[id]")?.id || one.getAttribute("aria-label") || one.textContent.trim()
            }"""
        )
        if stop is None:
            break
        stops.append(stop)
    return stops
