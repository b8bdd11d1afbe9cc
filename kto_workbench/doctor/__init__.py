"""What a first run on a new machine would otherwise find out, a line a check: `kto doctor`, and a button in the page.

    results.py      what a check found: a line, and an object for --json
    examination.py  the checks in their order, done in a child process and read as they come; no torch
    child.py        that process
    machine.py      Python, libraries, cores and memory, disk, hub: what needs no torch
    device.py       torch, GPUs, precisions, the attention kernel, rates
    arithmetic.py   the engine's short cuts against the long way: 4 bits, packed batches
    model.py        one model: its files, template, memory, family, and a dry step

A check returns a Result and may raise what it likes: the child makes a sentence of it. Whoever asks stays alive when a
broken library takes the child's process with it, and the checks behind it are done by a new one.
"""
