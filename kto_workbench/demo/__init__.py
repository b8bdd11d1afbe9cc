"""The demo: a tiny chat model, feedback files, and a judge, so that KTO can be tried in a minute on a CPU.

    vocabulary.py     what the village knows: words and facts
    manners.py        how Pip says things: openers, closers, digressions
    topics.py         questions and their right answers
    world.py          conversations and feedback, made from a seed
    judge.py          reads a prompt and an answer: kind, brief, right, honest, well formed?
    measure.py        the rates of many answers, and the prompts to ask
    demonstration.py  the whole round: train, answer, measure
    lessons.py        records the runs that answer Learn's questions: python -m kto_workbench.demo.lessons
    build.py          makes `assets/`: python -m kto_workbench.demo.build

Only build.py and what demonstration.py and lessons.py call import torch.
"""
