"""Measurements, each a command that prints a table or, with `--json`, one JSON object. Figures: RESULTS.md.

vs_trl.py     a KTO step here and in TRL's KTOTrainer: time, memory, share of the floating-point floor
objectives.py what each objective costs: sequences, tokens, time and memory
effects.py    what each objective does to the demo's model, on good and on bad thumbs (effects.jsonl)
memory.py     the memory estimate beside the measured peak
gpu.py        models of one to eight billion parameters on a GPU
data.py       checking feedback files

workload.py   models, lengths and batches that the measurements share
ours.py       our engine on them, and a step to time
trl_peer.py   TRL's trainer on exactly our batches
machine.py    what a figure was measured on, and how time and memory are read
"""
