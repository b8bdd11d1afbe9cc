"""Answers as Markdown, for who would rather read them so: made here, of elements that do nothing.

    with_markdown("**Hi**")    # both, and the reader's browser shows one of them

HTML in an answer stays text. A link is its text with the address behind it, a picture is its description and address:
nothing leads anywhere, and nothing is fetched. The choice is the browser's alone, for all answers at once, and it is
kept there; as they are is what everybody begins with, since that is what is voted on and trained on.
"""

import functools
from collections.abc import Sequence
from html import escape
from typing import Any

from markdown_it import MarkdownIt
from markdown_it.token import Token

LONGEST = 20_000  # characters; what is longer is shown as it is
AS_IS = '<div class="kto-as-is">'
SCRIPT = """<script>
(() => {
  const kept = () => { try { return localStorage.getItem("kto-reads") } catch {} }
  const begin = () => document.body.classList.toggle("kto-reads-markdown", kept() === "markdown")
  if (document.readyState === "loading") addEventListener("DOMContentLoaded", begin)
  else begin()
  addEventListener("click", event => {
    if (!event.target.closest?.(".kto-reads")) return
    const markdown = document.body.classList.toggle("kto-reads-markdown")
    try { localStorage.setItem("kto-reads", markdown ? "markdown" : "") } catch {}
  })
})()
</script>"""


def with_markdown(text: str, as_is: str | None = None) -> str:
    """An answer in both ways as HTML, or once if they are the same; `as_is` in place of the escaped text."""
    as_is = escape(text, quote=False) if as_is is None else as_is
    made = markdown(text) if len(text) <= LONGEST else ""
    plain = escape(text, quote=False).replace('"', "&quot;")
    if made in ("", f"<p>{plain}</p>"):
        return as_is
    return f'{AS_IS}{as_is}</div><div class="kto-markdown">{made}</div>'


def without_markdown(html: str) -> str:
    """The escaped text of an answer that was shown in both ways, or in one."""
    return html.removeprefix(AS_IS).partition("<")[0] if html.startswith(AS_IS) else html


@functools.lru_cache(maxsize=1024)
def markdown(text: str) -> str:
    """A text as HTML without links, pictures, scripts, or anything else that could do something."""
    return _MARKDOWN.render(text).strip()


def _image(renderer: Any, tokens: Sequence[Token], i: int, options: Any, env: Any) -> str:
    return f"{escape(tokens[i].content)} {_address(tokens[i].attrGet('src'))}"


def _link_close(renderer: Any, tokens: Sequence[Token], i: int, options: Any, env: Any) -> str:
    opened = next(token for token in reversed(tokens[:i]) if token.type == "link_open")  # links hold no links
    return f" {_address(opened.attrGet('href'))}"


def _fence(renderer: Any, tokens: Sequence[Token], i: int, options: Any, env: Any) -> str:
    return f"<pre><code>{escape(tokens[i].content)}</code></pre>\n"


def _address(address: Any) -> str:
    return f"<small>({escape(str(address or ''))})</small>"


_MARKDOWN = MarkdownIt("commonmark", {"html": False}).enable(["table", "strikethrough"])
_MARKDOWN.add_render_rule("image", _image)
_MARKDOWN.add_render_rule("link_open", lambda *_: "")
_MARKDOWN.add_render_rule("link_close", _link_close)
_MARKDOWN.add_render_rule("fence", _fence)
