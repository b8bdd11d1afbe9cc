"""Texts that would like to be more than texts, wherever one can be put: they stay texts, wherever they come out."""

import contextlib
import json
import random
import re
import time
from html import unescape
from html.parser import HTMLParser

import fake_training
import pytest
import yaml
from browser import (
    Served,
    browser,  # noqa: F401
    go_to,
    needs_browser,
    open_page,  # noqa: F401
    screenshot,
    wait_for,
)
from markdown_it import MarkdownIt
from test_endpoints import begin_stream, chatty, piece  # noqa: F401

from kto_workbench import __main__ as shell
from kto_workbench.answers.gguf_file import ollama_template, write_modelfile
from kto_workbench.config import KTOConfig
from kto_workbench.feedback.rendering import load_tokenizer
from kto_workbench.feedback.store import ThumbStore
from kto_workbench.judging.records import new_record
from kto_workbench.runs.directory import new_run
from kto_workbench.runs.endpoints import Endpoint, add_endpoint
from kto_workbench.runs.shelf import describe_run
from kto_workbench.runs.sides import EndpointSide, Side
from kto_workbench.shell.terminal import tame
from kto_workbench.ui.blind import Ballot, Pair, results, show
from kto_workbench.ui.chat import Chat
from kto_workbench.ui.heat import heat_map
from kto_workbench.ui.markdown import AS_IS, LONGEST, markdown, with_markdown, without_markdown
from kto_workbench.views.card import card
from kto_workbench.views.report import write_report

pytestmark = pytest.mark.reliability("A text stays a text, wherever it is shown or written")

# Elements, also out of attributes, comments, scripts and code; each would be found by its attribute.
EVIL = (
    "'\"`--></script></style></textarea></title></pre>"
    '<img src="/logout" data-pwned onerror="window.pwned=1"><svg data-pwned onload="window.pwned=1"></svg>'
    '<b data-pwned>bold</b><a data-pwned href="javascript:window.pwned=1">x</a><script>window.pwned=1</script>'
)
MARKDOWN = (
    "# heading\n\n---\n\n| a |\n|---|\n\n```\ncode\n```\n1. one\n- two\n> three\n===\n"
    "![p](/logout) [l](/logout) **bold** _it_ $x$"
)
TEXT_TAGS = {
    *("div", "p", "h1", "h2", "h3", "h4", "h5", "h6", "ul", "ol", "li", "blockquote", "pre", "code", "hr", "br"),
    *("em", "strong", "s", "small", "table", "thead", "tbody", "tr", "th", "td"),
}
SHORT = '"><b data-pwned>x</b>'


def hostile_run(workspace):
    """A finished run in which every text is hostile."""
    data = workspace / f"{SHORT.replace('/', '_')}.jsonl"
    config = KTOConfig(
        workspace=str(workspace), model=f"`{SHORT}`|*a*\n# b", data=str(data), desirable_weight=1, undesirable_weight=1
    )
    facts = {"data": str(data), "rows": 4, "n_desirable": 2, "n_undesirable": 2, "sha256": SHORT}
    run = new_run(config, facts)
    fake_training.train(run, 30, 0)
    run.record_sample({"step": 30, "prompt": EVIL, "reference": EVIL, "tuned": EVIL})
    turns = [{"role": SHORT, "content": EVIL}, {"role": "user", "content": EVIL}]
    run.record_sample({"step": 30, "prompt": turns, "reference": EVIL, "tuned": MARKDOWN})
    run.set_status(message=EVIL)
    run.log_path.write_text(EVIL + "\n")
    describe_run(run, SHORT, EVIL + "\n" + MARKDOWN)
    side = {"words": 1.0, "tokens": 1.0, "distinct_1": 1.0, "distinct_2": 1.0, "empty": 0, "cut": 0}
    evaluation = {
        "judge": f"regex:```{EVIL}", "judge_model": EVIL, "win_rate": 0.5, "interval": [0.4, 0.6], "wins": 1, "ties": 0,
        "losses": 1, "sign_test_p": 1.0, "position_bias": None, "requests": 0, "cached": 0, "unparsed": 0,
        "reference": side, "tuned": side, "kl": {"per_answer": 0.1, "per_token": 0.01}, "n_prompts": 2,
    }  # fmt: skip
    record = new_record(run, {"tuned": run.id, "judge": EVIL, "prompts": SHORT, "n_prompts": 1, "judge_model": EVIL})
    answer = {"prompt": EVIL, "reference": EVIL, "tuned": EVIL, "winner": "tuned", "why": EVIL}
    record.write(state="finished", evaluation=evaluation, answers=[answer], error=EVIL, ended=time.time())
    return run


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    folder = tmp_path_factory.mktemp("injection") / "workspace"
    (folder / "uploads").mkdir(parents=True)
    hostile_run(folder)
    rows = [
        {"prompt": EVIL, "completion": EVIL, "label": True},
        {"prompt": [{"role": "user", "content": EVIL}] * 3, "completion": EVIL, "label": False},
        {"prompt": EVIL, "completion": MARKDOWN, "label": True},
        {"prompt": SHORT, "completion": 5, "label": EVIL},
    ]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "uploads" / f"{SHORT.replace('/', '_')}.jsonl").write_text(lines + EVIL + "\n")
    store = ThumbStore(folder)
    store.annotate(store.add([{"role": "user", "content": EVIL}], EVIL, True, model=EVIL), EVIL)
    return folder


class Elements(HTMLParser):
    """The attributes of all elements of a page."""

    def __init__(self, text):
        super().__init__()
        self.attributes, self.tags = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [name for name, _ in attrs]

    def odd(self):
        """What an answer that is shown should not be made of."""
        return ({*self.tags} - TEXT_TAGS) | ({*self.attributes} - {"class", "start", "style"})


def test_a_report_holds_no_element_of_anybody_else(workspace):
    (run,) = (one for one in _runs(workspace))
    for name in ("", SHORT, EVIL):
        found = Elements(write_report(run, name))
        assert "data-pwned" not in found.attributes and not {"img", "script", "a"} & set(found.tags)
        assert "<b data-pwned" not in write_report(run, name)


@pytest.mark.parametrize("format", ["adapter", "merged", "gguf"])
def test_a_model_card_says_names_and_notes_as_they_are(workspace, format):
    (run,) = _runs(workspace)
    text = card(run, format)
    body = text.split("---\n", 2)[2]
    tokens = MarkdownIt("gfm-like", {"linkify": False}).parse(body)
    inline = [child for token in tokens for child in token.children or []]
    kinds = {token.type for token in [*tokens, *inline]}
    assert not kinds & {"html_block", "html_inline", "link_open", "hr", "blockquote_open", "bullet_list_open"}, kinds
    assert [child.attrs["src"] for child in inline if child.type == "image"] == ["curves.png"]
    assert "ordered_list_open" not in kinds
    headings = [tokens[i + 1].content for i, token in enumerate(tokens) if token.type == "heading_open"]
    assert len(headings) == 5 and headings[1:] == ["Data", "Training", "Evaluation", "Use"]
    said = "".join("\n" if child.type == "softbreak" else child.content for child in inline)
    assert SHORT in said and EVIL in said
    for line in MARKDOWN.splitlines():
        assert line in said, line


def _runs(workspace):
    from kto_workbench.runs import list_runs

    return list_runs(workspace)


def test_messages_of_a_chat_are_texts_both_ways():
    chat = Chat(render=False)
    texts = [
        EVIL,
        MARKDOWN,
        "  indented\n    more\n\n",
        "&lt;b&gt; &amp; &notit; &",
        "",
        "<",
        "a\r\n\tb\0",
        AS_IS + "*x*",
    ]
    messages = [{"role": role, "content": text} for text in texts for role in ("user", "assistant")]
    sent = chat.postprocess(messages)
    parts = [part.text for one in sent.root for part in one.content]
    assert all("<" not in text for text in parts[::2]) and any("<strong>" in text for text in parts[1::2])
    for text in parts:
        assert not Elements(text).odd(), text
    assert chat.preprocess(sent) == messages
    assert chat.get_block_name() == "chatbot"


OUR_TAGS = {*TEXT_TAGS, "article", "section", "header", "details", "summary", "span", "i", "b", "u"}
OUR_ATTRIBUTES = {"class", "style", "title", "id", "role", "scope", "tabindex"}


def check_elements(text):
    """Nothing is an element, or an attribute, but what we make."""
    found = Elements(text)
    assert set(found.tags) <= OUR_TAGS, set(found.tags) - OUR_TAGS
    odd = {name for name in found.attributes if not name.startswith(("aria-", "data-"))} - OUR_ATTRIBUTES
    assert not odd and "data-pwned" not in found.attributes, odd


@pytest.mark.parametrize("language", ["en", "zh"])
def test_a_blind_vote_shows_prompts_answers_and_sides_as_texts(tmp_path, language):
    run = new_run(KTOConfig(workspace=str(tmp_path), model=EVIL), {})
    sides = {"reference": EndpointSide(Endpoint("http://127.0.0.1:9/v1", EVIL, name="x")), "tuned": Side(run)}
    prompts = [EVIL, [{"role": SHORT, "content": EVIL}, {"role": "user", "content": MARKDOWN}]]
    ballot = Ballot(ThumbStore(tmp_path), prompts, sides, {}, lambda *_, **__: iter(()))
    for number, prompt in enumerate(prompts):
        ballot.pairs.append(Pair(prompt, {"tuned": EVIL, "reference": MARKDOWN + SHORT}, 7, "tuned"))
        check_elements(show(language, ballot))
        ballot.vote(number, "left")
        check_elements(show(language, ballot))
        ballot.go_on(number)
    drawn = results(language, sides, tmp_path, ballot.name)
    check_elements(drawn)
    assert drawn.count("<tr data-winner") == 2 and EVIL in unescape(drawn) and SHORT in unescape(drawn)


def test_a_heat_map_shows_tokens_as_texts():
    pieces = [EVIL, SHORT, "<", "img src=x ", ">", "</span>", '" onmouseover="window.pwned=1', "&lt;b&gt;", "\0", *EVIL]
    ratios = [(-1) ** i * (i + 1.0) for i in range(len(pieces))]
    explained = {"tokens": pieces, "log_ratios": ratios, "beta": 0.1, "reward": 1.0}
    drawn = heat_map("en", explained)
    check_elements(drawn)
    assert "<b data-pwned" not in drawn and EVIL in unescape(drawn)


# Ends the template and begins what Ollama obeys; is what its templates obey; makes one with what follows.
OBEYED_BY_OLLAMA = ('"""\nFROM /etc/passwd\nADAPTER evil\nSYSTEM """', "{{ .System }}", "{", '"')


@pytest.mark.parametrize("evil", OBEYED_BY_OLLAMA)
@pytest.mark.parametrize("place", ["before", "around", "behind", "stop"])
def test_a_chat_template_tells_ollama_nothing_but_texts(tmp_path, evil, place):
    tokenizer = load_tokenizer("demo")
    said = "{% raw %}" + evil + "{% endraw %}"
    texts = {name: said if name == place else "" for name in ("before", "around", "behind")}
    tokenizer.chat_template = (
        f"{texts['before']}{{% for m in messages %}}<{{{{ m['role'] }}}}>{texts['around']}{{{{ m['content'] }}}}<end>"
        f"{{% endfor %}}{{% if add_generation_prompt %}}<assistant>{texts['around']}{texts['behind']}{{% endif %}}"
    )
    if place == "stop":
        tokenizer.eos_token = evil
    write_modelfile(tokenizer, tmp_path / "Modelfile", temperature=0.5)
    outside = re.sub(r'"""(.*?)"""', "", (tmp_path / "Modelfile").read_text(), flags=re.DOTALL)
    words = [line.split()[0] for line in outside.splitlines() if line.strip()]
    assert words[:2] == ["FROM", "PARAMETER"] and set(words[2:]) <= {"PARAMETER", "TEMPLATE", "#"}, outside
    template = ollama_template(tokenizer)
    assert template is None or place == "stop" or evil == '"'


def test_markdown_makes_elements_that_do_nothing():
    """Pieces of Markdown and HTML in any order, and of any length: a few kinds of element, without addresses."""
    pieces = [
        EVIL, MARKDOWN, SHORT, "\n", "\n\n", " ", "    ", "`", "```", "~~~ <b onclick=x>\n",
        "[a](javascript:alert`1`)", "<http://evil.example>", "> ", "# ", "**", "_",
        "![a](http://evil.example/x.png \"title\")", "[ref]: http://evil.example\n", "[ref]", "![ref]",
        "[![i](/logout)](data:text/html,x)", "| a | b |\n|:--|--:|\n| <img src=x> | c |\n", "* ", "1. ",
        "~~", "<!--", "-->", "<![CDATA[", "&lt;img src=x&gt;", "&#60;b&#62;", "\\", "\0", "\u202e", "http://evil.example",
    ]  # fmt: skip
    draw, made = random.Random(0), 0
    for _ in range(1000):
        text = "".join(draw.choice(pieces) for _ in range(draw.randint(1, 12)))
        assert not Elements(markdown(text)).odd(), text
        shown = with_markdown(text)
        made += shown.startswith(AS_IS)
        assert unescape(without_markdown(shown)) == text
    assert made > 900
    assert Elements(MarkdownIt().render("[a](/b)<img data-pwned>")).odd() == {"a", "href", "img", "data-pwned"}
    for one in pieces:
        markdown(one * (LONGEST // len(one)))
    assert with_markdown("*" * (LONGEST + 1)) == "*" * (LONGEST + 1)
    assert markdown("[text](/logout) ![picture](/a.png)") == (
        "<p>text <small>(/logout)</small> picture <small>(/a.png)</small></p>"
    )


def test_a_forged_message_makes_no_component():
    chat = Chat(render=False)
    forged = {
        "role": "user",
        "content": [
            {
                "type": "component",
                "component": "image",
                "value": "/etc/passwd",
                "constructor_args": {"value": "/x"},
                "props": {},
            },
            {"type": "file", "file": {"path": "/etc/passwd"}},
            {"type": "text", "text": "only this"},
        ],
    }
    payload = chat.data_model(root=[forged])
    assert chat.preprocess(payload) == [{"role": "user", "content": "only this"}]


OBEYED = "a\x1b[31mred\x1b]0;title\x07\x9b2J\x08\x7f\r\u202etxet\u2028\u2066"


def test_a_terminal_is_told_nothing_but_text(tmp_path, capsys):
    config = KTOConfig(workspace=str(tmp_path), model=f"m{OBEYED}", desirable_weight=1, undesirable_weight=1)
    run = new_run(config, {"data": OBEYED, "rows": 4, "n_desirable": 2, "n_undesirable": 2})
    run.set_status(state="failed", error=OBEYED, message=OBEYED)
    describe_run(run, f"{OBEYED}\nforged line", OBEYED)
    (tmp_path / "endpoints.yaml").write_text(yaml.safe_dump({"x": {"url": "http://127.0.0.1:9/v1", "model": OBEYED}}))
    for words in (
        ["runs"], ["runs", "--json"], ["check", OBEYED], ["name", run.id, OBEYED], ["endpoint", "list"],
        ["export", run.id], ["train", OBEYED], ["train", "demo", "--model", OBEYED, "--batch-size", OBEYED],
        ["compare", run.id, "--prompts", OBEYED], ["stop", OBEYED], [OBEYED],
    ):  # fmt: skip
        with contextlib.suppress(SystemExit):
            shell.main([*words, "--workspace", str(tmp_path)])
        said = "".join(capsys.readouterr())
        assert said and said.replace("\n", "").isprintable(), (words, said)
        assert "forged line" not in [line.strip() for line in said.splitlines()]
        if "--json" in words:
            assert json.loads(said)["runs"][0]["message"] == OBEYED  # written out, and not another text
    assert tame("10 %\r20 %", bars=True) == "10 %\r20 %" and tame("Größe 好 🦄\t\n") == "Größe 好 🦄\t\n"


@needs_browser
def test_nothing_on_the_page_becomes_an_element(workspace, open_page, tmp_path, chatty):  # noqa: F811
    said = f"{MARKDOWN}\n\n{EVIL}"

    def evil(handler, body):
        begin_stream(handler)
        piece(handler, said)
        handler.wfile.write(b"data: [DONE]\n\n")

    add_endpoint(Endpoint(chatty(evil).url, SHORT, name="evil"), workspace)
    served = Served(workspace, tmp_path / "server.log")
    try:
        page = open_page(served.url)
        asked = []
        page.on("request", lambda request: asked.append(request.url))

        def clean(where):
            assert page.locator("[data-pwned]").count() == 0, where
            assert page.evaluate("window.pwned") is None, where
            assert not [url for url in asked if "logout" in url], where

        page.locator("#data-source input").click()
        page.get_by_role("option").first.click()
        wait_for(lambda: "bold" in page.locator("#data-rows").inner_text(), 20)
        clean("Data")
        for tab, shown in (("Train", "#train-progress"), ("Compare", "#compare-answers"), ("Runs", "#runs-table")):
            go_to(page, tab)
            page.locator(shown).wait_for()
            page.wait_for_timeout(1200)  # a tick, so that what is live is drawn
            clean(tab)
        page.locator("#runs-table").get_by_text("<b").first.click()
        page.wait_for_timeout(1000)
        clean("a run")
        go_to(page, "Compare")
        page.locator("#evaluate").get_by_role("button").first.click()
        page.wait_for_timeout(1000)
        clean("an evaluation")
        go_to(page, "Feedback")
        page.locator("#feedback-prompt textarea").fill(EVIL)
        page.click("#feedback-send")
        turn = page.locator("#feedback-chat .message").first
        wait_for(lambda: "bold" in turn.inner_text(), 20, turn.inner_text)
        assert EVIL in turn.inner_text()
        clean("Feedback")
        page.locator("#feedback-run input").fill("endpoint:evil")
        page.locator("#feedback-run input").press("Enter")
        page.click("#feedback-clear")
        page.locator("#feedback-prompt textarea").fill("Hi")
        page.click("#feedback-send")
        answer = page.locator("#feedback-chat .bot.message, #feedback-chat .message.bot").last
        wait_for(lambda: "bold" in answer.inner_text(), 20, page.locator("#feedback-chat").inner_text)
        assert said in answer.inner_text() and not answer.locator("strong").first.is_visible()
        page.locator("button.kto-reads:visible").click()
        assert answer.locator("strong").first.is_visible() and MARKDOWN not in answer.inner_text()
        assert EVIL.split("/")[0] in answer.inner_text()  # HTML is text in Markdown, too
        assert answer.locator("a, img, svg").count() == 0
        clean("an answer as Markdown")
        screenshot(page, "answer-as-markdown")
        go_to(page, "Compare")
        for field in ("compare-run", "compare-against"):
            page.locator(f"#{field} input").fill("endpoint:evil")
            page.locator(f"#{field} input").press("Enter")
        page.locator("#compare-prompt textarea").fill(SHORT)
        page.click("#compare-generate")
        compared = page.locator("#compare-tuned")
        wait_for(lambda: compared.locator("strong").count() == 1, 20, page.locator("#compare-answers").inner_text)
        assert compared.locator("strong").is_visible() and compared.locator("a, img, svg").count() == 0
        page.locator("button.kto-reads:visible").first.click()
        assert said in compared.inner_text() and not compared.locator("strong").is_visible()
        clean("Compare")
        assert served.process.poll() is None
    finally:
        served.stop()
