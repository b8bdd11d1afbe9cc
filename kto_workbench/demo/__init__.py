"""The demo: a tiny chat model, feedback files, and a judge, so that KTO can be tried in a minute on a CPU.

    vocabulary.py     what the village knows: words and facts
    manners.py        how Pip says things: openers, closers, digressions
    topics.py         questions and their right answers
    world.py          conversations and feedback, made from a seed
    judge.py          reads a prompt and an answer: kind, brief, right, honest, well formed?
    measure.py        the rates of many answers, and the prompts to ask
    build.py          makes `assets/`: python -m kto_workbench.demo.build

Only build.py imports torch.
"""
