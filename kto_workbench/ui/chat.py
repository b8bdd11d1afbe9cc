"""Gradio's chat with texts that are shown as they are: nothing in them becomes an element.

Without Markdown, gradio takes a message for HTML and leaves out what it holds for dangerous; `<b>` is bold then, and a
vote would be about something that nobody wrote. With a string, it takes the indentation off. And a message from a
browser may ask for any of gradio's components, to be made with any arguments. Here, messages are texts, both ways.
"""

from abc import ABCMeta
from html import escape, unescape
from typing import Any

import gradio as gr

# Gradio's button copies what was sent to the page, which is escaped.
COPY_JS = """() => {
  const clipboard = navigator.clipboard
  if (!clipboard) return
  const write = clipboard.writeText.bind(clipboard)
  const plain = text => text.replaceAll("&lt;", "<").replaceAll("&gt;", ">").replaceAll("&amp;", "&")
  clipboard.writeText = text => write(document.activeElement?.closest("#feedback-chat") ? plain(text) : text)
}"""


class _Texts:
    """What is sent is escaped, and what comes back is not."""

    def preprocess(self, payload: Any) -> list[dict[str, str]]:
        """The messages as {"role", "content"}."""
        return [
            {
                "role": one.role,
                "content": unescape("".join(part.text for part in one.content if part.type == "text")),
            }
            for one in (payload.root if payload else [])
        ]

    def postprocess(self, value: list[dict[str, str]] | None) -> Any:
        """Each message as one part of text."""
        parts = [
            {"role": one["role"], "content": [{"type": "text", "text": escape(one["content"], quote=False)}]}
            for one in value or []
        ]
        return super().postprocess(parts)


# Not by a class statement: gradio would write a .pyi file beside this one.
Chat = ABCMeta.__new__(type(gr.Chatbot), "Chatbot", (_Texts, gr.Chatbot), {"__module__": __name__})
