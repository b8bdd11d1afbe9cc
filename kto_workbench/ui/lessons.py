"""Learn's six steps, each one picture that moves and one sentence; and three questions that recorded runs answer.

For someone who has never seen a loss. Other tabs link to a step by the name that it has in STEPS.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import gradio as gr
import numpy as np

from kto_workbench.feedback import suggest_weights
from kto_workbench.ui import html
from kto_workbench.ui.words import label, language_of, say
from kto_workbench.views.curves import DOWN, FAINT, PLAIN, UP
from kto_workbench.views.drawing import Dot, Line
from kto_workbench.views.learning import descend, faded_beyond, load_lessons, pull, sigmoid, value

WORDS_OF_ANSWER = 8
LEARNING_RATE = 2.0  # of the ball that rolls down the loss: visible after one step, at rest after thirty
# Of each step: the slider's least, most, first value and step.
STEPS: dict[str, tuple[float, float, float, float]] = {
    "word": (0.05, 0.95, 0.5, 0.05),
    "loss": (0, 30, 4, 1),
    "r": (-6, 6, 2, 0.5),
    "z0": (0, 6, 1, 0.5),
    "beta": (0.1, 3, 0.5, 0.1),
    "lambda": (5, 95, 10, 5),
}
QUESTIONS = ("beta", "rate", "rare")
GUESSES = ("further", "same", "nearer")
# What a question's run is held against.
AGAINST = {"beta": "demo", "rate": "demo", "rare": "rare"}
RUN_OF = {"beta": "beta", "rate": "rate", "rare": "rare_unweighted"}
ABOUT_THE_SAME = 0.2  # of the distance


def build(page: gr.Blocks, tab: gr.Tab) -> None:
    """Lay out the steps and the questions, and wire them."""
    gr.HTML(label("lesson.intro"), elem_classes="kto-bare kto-section")
    quiet: dict[str, Any] = {"show_progress": "hidden", "queue": False}
    for name, (least, most, first, step) in STEPS.items():
        with gr.Row(equal_height=False, elem_id=f"lesson-{name}", elem_classes="kto-lesson"):
            with gr.Column(scale=2, min_width=280):
                gr.HTML(_text_of(name), elem_classes="kto-bare kto-lesson-text")
                slider = gr.Slider(
                    least, most, value=first, step=step, label=label(f"lesson.{name}.slider"), elem_id=f"move-{name}"
                )
            with gr.Column(scale=3, min_width=280):
                picture = gr.HTML(elem_id=f"picture-{name}", elem_classes="kto-bare")
        moved = [slider.change, page.load, tab.select]
        gr.on(moved, _drawn(name), [slider], [picture], trigger_mode="always_last", **quiet)
    gr.HTML(label("predict.title"), elem_classes="kto-bare kto-section", elem_id="lesson-predict")
    with gr.Row(equal_height=False, elem_classes="kto-lesson"):
        with gr.Column(scale=2, min_width=280):
            question = gr.Radio(
                [(label(f"predict.{one}"), one) for one in QUESTIONS],
                value=QUESTIONS[0],
                label=label("predict.question"),
                elem_id="predict-question",
            )
            guess = gr.Radio(
                [(label(f"predict.{one}"), one) for one in GUESSES],
                value=None,
                label=label("predict.guess"),
                elem_id="predict-guess",
            )
        with gr.Column(scale=3, min_width=280):
            answer = gr.HTML(elem_id="predict-answer", elem_classes="kto-bare")

    def reveal(question: str, guess: str | None, request: gr.Request) -> str:
        return show_answer(language_of(request), question, guess) if guess in GUESSES else before(question, request)

    def before(question: str, request: gr.Request) -> str:
        """The demo alone, until somebody has guessed."""
        return show_answer(language_of(request), question, None)

    question.change(lambda: None, None, [guess], **quiet).then(before, [question], [answer], **quiet)
    guess.input(reveal, [question, guess], [answer], **quiet)
    gr.on([page.load, tab.select], reveal, [question, guess], [answer], **quiet)


def _text_of(name: str) -> Any:
    return label(f"lesson.{name}")


def _drawn(name: str) -> Callable[[float, gr.Request], str]:
    def drawn(at: float, request: gr.Request) -> str:
        return PICTURES[name](language_of(request), float(at))

    return drawn


def _panel(language: str, name: str, told: str, lines: list[Line], keys: list[Line], **options: Any) -> str:
    title = say(language, f"lesson.{name}.chart")
    head = html.chart_head(title, [(line.name, line.color, None) for line in keys], values=False)
    drawing = html.drawing(lines, title, sizes=((620, 240), (340, 220)), **options)
    return f'<div class="kto-panel">{head}{drawing}<p class="kto-plain">{html.symbol(told)}</p></div>'


def picture_of_word(language: str, p: float) -> str:
    """An answer's log-probability grows by log p with each word."""
    counts = np.arange(WORDS_OF_ANSWER + 1)
    nats = counts * math.log(p)
    whole = p**WORDS_OF_ANSWER
    in_all = html.number(round(float(nats[-1]), 1))
    told = say(language, "lesson.word.told", count=WORDS_OF_ANSWER, p=p, whole=f"{whole:.2g}", nats=in_all)
    dots = [Dot(int(x), float(y), UP) for x, y in zip(counts, nats, strict=True)]
    return _panel(language, "word", told, [Line("", counts, nats, UP)], [], dots=dots, y_range=(-25.0, 0.5))


def picture_of_loss(language: str, steps: float) -> str:
    """Gradient descent on the loss of one liked answer: 1 − σ(r)."""
    r = np.linspace(-4, 6, 121)
    at = descend(round(steps), LEARNING_RATE)
    loss = float(1 - sigmoid(at))
    told = say(language, "lesson.loss.told", steps=round(steps), loss=loss, times=math.exp(at))
    return _panel(language, "loss", told, [Line("", r, 1 - sigmoid(r), PLAIN)], [], dots=[Dot(at, loss, UP)])


def _two_sides(language: str, r: np.ndarray, z0: float) -> list[Line]:
    return [
        Line(say(language, f"side.{side}"), r, value(r, up=up, beta=1.0, weight=1.0, z0=z0), color)
        for side, up, color in (("up", True, UP), ("down", False, DOWN))
    ]


def picture_of_r(language: str, r: float) -> str:
    """What an answer of this r is worth with either thumb."""
    lines = _two_sides(language, np.linspace(-7, 7, 121), 0.0)
    up, down = (float(value(r, up=side, beta=1.0, weight=1.0, z0=0.0)) for side in (True, False))
    told = say(language, "lesson.r.told", r=html.number(r), times=math.exp(r), up=up, down=down)
    return _panel(language, "r", told, lines, lines, dots=[Dot(r, up, UP), Dot(r, down, DOWN)], verticals=[(r, "r")])


def picture_of_z0(language: str, z0: float) -> str:
    """The same curves, moved to z0."""
    lines = _two_sides(language, np.linspace(-4, 10, 121), z0)
    up = float(value(2.0, up=True, beta=1.0, weight=1.0, z0=z0))
    where = "above" if z0 < 2 else "at" if z0 == 2 else "below"
    told = say(language, "lesson.z0.told", up=up, above=say(language, f"lesson.z0.{where}"))
    return _panel(language, "z0", told, lines, lines, dots=[Dot(2.0, up, UP)], verticals=[(z0, "z0")])


def picture_of_beta(language: str, beta: float) -> str:
    """How fast the pull fades on both sides of z0."""
    far = faded_beyond(beta)
    r = np.linspace(-12, 12, 161)
    strength = pull(r, up=True, beta=beta, weight=1.0, z0=0.0) / (beta / 4)
    told = say(
        language,
        "lesson.beta.told",
        beta=beta,
        far=far,
        times=f"{math.exp(far):,.0f}" if far > 2 else f"{math.exp(far):.2g}",
    )
    marks = [(side * far, "1/10") for side in (-1, 1)] if far < 12 else []
    return _panel(language, "beta", told, [Line("", r, strength, UP)], [], verticals=marks, y_range=(0.0, 1.05))


def picture_of_lambda(language: str, up: float) -> str:
    """The balance, as counted and with λ."""
    n_up, n_down = round(up), 100 - round(up)
    weight_up, weight_down = suggest_weights(n_up, n_down)
    told = say(language, "lesson.lambda.told", up=n_up, down=n_down, weight_up=weight_up, weight_down=weight_down)
    bars = html.balance(language, n_up, n_down, weight_up, weight_down)
    return f'{bars}<p class="kto-plain">{html.symbol(told)}</p>'


PICTURES: dict[str, Callable[[str, float], str]] = {
    "word": picture_of_word,
    "loss": picture_of_loss,
    "r": picture_of_r,
    "z0": picture_of_z0,
    "beta": picture_of_beta,
    "lambda": picture_of_lambda,
}


# the questions -------------------------------------------------------------------------------------------------------


@functools.cache
def _lessons() -> dict[str, Any]:
    return load_lessons()


def gap(run: dict[str, Any]) -> float:
    """How far liked and disliked answers are apart in the end, in nats."""
    known = [(up, down) for up, down in zip(run["up"], run["down"], strict=True) if None not in (up, down)]
    return float(np.mean([up - down for up, down in known[-3:]]))


def true_answer(question: str) -> str:
    """What the recorded runs say."""
    runs = _lessons()
    ratio = gap(runs[RUN_OF[question]]) / gap(runs[AGAINST[question]])
    return "further" if ratio > 1 + ABOUT_THE_SAME else "nearer" if ratio < 1 - ABOUT_THE_SAME else "same"


def show_answer(language: str, question: str, guess: str | None) -> str:
    """The first run's curves; once somebody has guessed, the changed run's beside them, and what was right."""
    question = question if question in QUESTIONS else QUESTIONS[0]
    first, changed = _lessons()[AGAINST[question]], _lessons()[RUN_OF[question]]
    lines, named = [], {}
    shown = [(first, "as_weighted" if question == "rare" else "as_demo", True)]
    shown += [(changed, "as_changed", False)] if guess else []
    for run, key, dashed in shown:
        for side, color in (("up", UP), ("down", DOWN)):
            name = say(language, f"predict.{key}", side=say(language, f"side.{side}"))
            y = np.array([np.nan if one is None else one for one in run[side]], float)
            lines.append(Line(name, run["steps"], y, color, dashed))
            named[name] = FAINT if dashed else color
    title = say(language, "predict.chart")
    head = html.chart_head(title, [(line.name, line.color, None) for line in lines], values=False)
    drawing = html.drawing(lines, title, sizes=((620, 240), (340, 220)))
    told = ""
    if guess:
        right = true_answer(question)
        said = (
            say(language, "predict.right")
            if guess == right
            else say(language, "predict.wrong", answer=say(language, f"predict.{right}"))
        )
        ups = [np.nanmean([v for v in run["up"] if v is not None][-3:]) for run in (changed, first)]
        figures = say(language, "predict.gap", changed=gap(changed), first=gap(first), up=ups[0], first_up=ups[1])
        why = say(language, f"predict.why.{question}", steps=changed["steps"][-1])
        kind = "fine" if guess == right else "info"
        told = html.message(f"{said} {figures} {why}", kind)
    return f'<div class="kto-panel">{head}{drawing}</div>{told}'
