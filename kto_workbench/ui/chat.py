"""Gradio's chat with texts that are shown as they are, or as Markdown of ours: nothing in them becomes an element.

Without Markdown, gradio takes a message for HTML and leaves out what it holds for dangerous; `<b>` is bold then, and a
vote would be about something that nobody wrote. With a string, it takes the indentation off. And a message from a
browser may ask for any of gradio's components, to be made with any arguments. Here, messages are texts, both ways.
"""

from abc import ABCMeta
from html import escape, unescape
from typing import Any

import gradio as gr

from kto_workbench.ui.markdown import with_markdown, without_markdown

# Gradio's button copies what was sent to the page, which is escaped, and may stand there in both ways.
COPY_JS = """() => {
  const clipboard = navigator.clipboard
  if (!clipboard) return
  const write = clipboard.writeText.bind(clipboard)
  const plain = text => text.replace(/^<div[^>]*>/, "").split("<")[0]
    .replaceAll("&lt;", "<").replaceAll("&gt;", ">").replaceAll("&amp;", "&")
  clipboard.writeText = text => write(document.activeElement?.closest("#feedback-chat") ? plain(text) : text)
}"""


class _Texts:
    """What is sent is escaped, and what comes back is not."""

    def preprocess(self, payload: Any) -> list[dict[str, str]]:
        """The messages as {"role", "content"}."""
        return [
            {
                "role": one.role,
                "content": unescape(
                    "".join(without_markdown(part.text) for part in one.content if part.type == "text")
                ),
            }
            for one in (payload.root if payload else [])
        ]

    def postprocess(self, value: list[dict[str, str]] | None) -> Any:
        """Each message as one part of text."""
        parts = [
            {"role": one["role"], "content": [{"type": "text", "text": _shown(one["role"], one["content"])}]}
            for one in value or []
        ]
        return super().postprocess(parts)


def _shown(role: str, text: str) -> str:
    return with_markdown(text) if role == "assistant" else escape(text, quote=False)


# Not by a class statement: gradio would write a .pyi file beside this one.
Chat = ABCMeta.__new__(type(gr.Chatbot), "Chatbot", (_Texts, gr.Chatbot), {"__module__": __name__})
