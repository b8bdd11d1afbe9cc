"""What trains: KTO itself, on torch, transformers and peft.

objective.py   the loss, z0 and their kin as pure functions
batches.py     who is in a batch with whom, and whose mismatched partner
examples.py    rows as token ids, when they are visited
crew.py        the processes that share each batch
sharding.py    weights shared out among them: torch's FSDP2
zero.py        the same by DeepSpeed: ZeRO-3
passes.py      how many tokens go through the model at once
head.py        log-probabilities without the full logits
attention.py   attention over a packed batch
fused_kernels.py  liger-kernel's norms, rotary embeddings and SwiGLU, on or off
fused_lora.py  LoRA layers that add in place
last_layer.py  the last layer, for what is read of it alone
trial.py       which way of scoring is right for a model
proof.py       that the reference is the base, and stays it
vision.py      models that see: what they are given, and what of them is trained
scoring.py     from a batch of sequences to log-probabilities
step.py        one step: z0, loss, gradient
reference.py   the reference's log-probabilities, on the first visit, kept on disk
reference_answers.py  its answers to the prompts that are watched or judged, kept, too
models.py      load a model, make it trainable
masters.py     optimizers for bfloat16 weights
trainer.py     KTO on transformers.Trainer
recorder.py    from the trainer into the run's directory
sampler.py     what the model says while it trains
judged.py      a judge while training: when to stop, which step to keep
judges.py      every judge by its name
preparation.py from rows to what a training draws
assembly.py    rows, base model, policy and reference, put together
training.py    a run from config to adapter or model
saving.py      what is kept of it
generation.py  answers to prompts
reward_model.py  a reward model as a judge
child.py       the child process that trains
"""

import logging
import os
import warnings

# OpenMP's threads spin while they wait, which on a machine that does anything else (a browser, a second job) made
# training steps ten times slower: 4.0 s against 0.39 s on two busy cores. It must be set before torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# No two packed passes have the same length, which splits a GPU's memory into pieces that fit nothing; torch's notes on
# CUDA memory recommend this for it. Whoever has set their own way keeps it.
if "PYTORCH_CUDA_ALLOC_CONF" not in os.environ:
    os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")

# What libraries say on every start, of things that are none of the user's business.
warnings.filterwarnings("ignore", message=".*gradient_checkpointing.* is deprecated", category=FutureWarning)
warnings.filterwarnings("ignore", message="IProgress not found")
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
