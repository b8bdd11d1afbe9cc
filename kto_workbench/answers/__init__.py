"""What a model does once it is there: answers, beside another's; judged; written as files for other programs.

sides.py       the models behind the sides of a comparison, kept warm
comparison.py  two sides' answers, and why they differ
evaluation.py  two sides on many prompts, judged and measured
child.py       the child process that answers
export.py      a run's model for other programs
gguf_file.py   the same as one file for llama.cpp and Ollama
"""

import kto_workbench.engine  # noqa: F401  what must be set before torch is imported is set there
