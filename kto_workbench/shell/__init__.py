"""The longer verbs of the `kto` command; __main__.py has the parser and the short ones.

common.py     what verbs share: the workspace, JSON on stdout
training.py   kto train, kto resume: start a run in a process of its own, and follow it
comparing.py  kto compare: two sides on prompts, judged if asked
endpoints.py  kto endpoint: names for servers that answer and judge
demonstration.py  kto demo: the whole round, train, answer, measure
terminal.py   what is printed only prints
lessons.py    records the runs that answer Learn's questions: python -m kto_workbench.shell.lessons
"""
