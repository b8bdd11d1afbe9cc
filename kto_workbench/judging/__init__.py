"""Who wins: answers of two sides to many prompts, judged, counted, and kept with the run.

    questions.py    what is asked: a file, what a run has held out, the demo's prompts
    steps.py        a run's checkpoints as sides
    statistics.py   win rate, its interval, the sign test; distinct-n and words
    verdicts.py     what a judge is given, what it says, and what follows from many verdicts
    rules.py        judges that need no model: a pattern, a length, JSON, an expected answer; how a judge is named
    endpoint.py     a judge behind an OpenAI-compatible address
    unrated.py      what nobody rated: abilities, language, refusals on both sides, and an alarm
    report.py       an evaluation as a table for the shell
    votes.py        runs/<id>/votes.jsonl: blind votes, their only reader and writer
    records.py      runs/<id>/evaluations/, their only reader and writer

Nothing here imports torch. The reward model, which needs it, is in the engine, where answers are made too.
"""
