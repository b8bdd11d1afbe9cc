"""The page: one file a tab, widgets made from config.py, every string in words.py.

app.py        build the page, serve it
security.py   who may talk to it
words.py      every string, English and Chinese
chinese.py    the Chinese of what is said elsewhere: options, notes, findings, sentences of the engine
style.py      theme and CSS
html.py       small pieces of escaped HTML
markdown.py   answers as Markdown, for who would rather read them so
fields.py     widgets from KTOConfig, and back
workbench.py  what all tabs share: the workspace, its feedback, its runs
mapping.py    which column plays which part, shown, guessed and corrected
check.py      what the check finds, and its fixes; rows as the model sees them
export.py     adapter and merged model, written by a process of its own
estimate.py   memory and time that the next run will take
quick.py      gradio imported in half the time
doctor.py     what works on this machine, for a bug report
presets.py    settings kept under a name
answers.py    what the tabs that ask models share
suggestions.py  prompts to try
blind.py      two answers, shuffled, and a vote on them
heat.py       an answer's reward, token by token
invite.py     what a tab says while there is no run, with a button that makes one
lessons.py    Learn's six steps and three questions; lesson_words.py is what they say
glossary.py   symbols explain themselves, charts link to their step
keys.py       cards judged by keyboard
data.py, train.py, compare.py, feedback.py, runs.py, learn.py   the tabs; live.py is the half of Train that moves

Nothing here imports torch: the page opens at once, holds no GPU memory and survives any crash of a training.
"""

from kto_workbench.ui.quick import without_stubs

without_stubs()
