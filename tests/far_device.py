"""A pretended accelerator: tensors that say they are on another device, over memory of this one.

An operation on its tensors and the host's together is refused, as a GPU refuses it, and what would make the host wait
for the device is noted in `waits`. Registering a device changes torch for the whole process, so this file is run by
itself (`python tests/far_device.py`); it prints, as JSON, what the engine did there beside what it does on the CPU.
"""

import json
import sys
import tempfile
from pathlib import Path

import torch
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map


class _Backend(backend_registration._DummyBackendModule):
    """What torch asks of a device's module when activations are recomputed."""

    def get_amp_supported_dtype(self):
        return [torch.bfloat16]

    def get_rng_state(self, device=None):
        return torch.get_rng_state()

    def set_rng_state(self, state, device=None):
        torch.set_rng_state(state)


backend_registration._setup_privateuseone_for_python_backend("far", _Backend())
FAR = torch.device("far:0")
MOVES = (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)
waits: list[str] = []


class Far(torch.Tensor):
    """A tensor of the device; `near` holds its values."""

    near: torch.Tensor

    @staticmethod
    def __new__(cls, near):
        self = torch.Tensor._make_wrapper_subclass(
            cls,
            near.shape,
            strides=near.stride(),
            storage_offset=near.storage_offset(),
            dtype=near.dtype,
            device=FAR,
            requires_grad=near.requires_grad,
        )
        self.near = near
        return self

    def tolist(self):
        """Values on the host."""
        waits.append("tolist")
        return self.near.tolist()

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        return _run(function, args, kwargs or {})


class Device(TorchDispatchMode):
    """While this is on, `device="far"` works."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        return _run(function, args, kwargs or {})


def _run(function, args, kwargs):
    tensors = [t for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
    far = [t for t in tensors if isinstance(t, Far)]
    asked = kwargs.get("device")
    to_far = bool(far) if asked is None else torch.device(asked).type == FAR.type
    if not far and not to_far:
        return function(*args, **kwargs)
    mixed = [tuple(t.shape) for t in tensors if not isinstance(t, Far) and t.dim()]  # single numbers may be anywhere
    if far and mixed and function not in MOVES:
        raise RuntimeError(f"{function}: {mixed} of the host among tensors of the device")
    if function is torch.ops.aten.copy_.default:
        to_far = isinstance(args[0], Far)
    if function is torch.ops.aten._local_scalar_dense.default or (function in MOVES and far and not to_far):
        waits.append(str(function))
    if asked is not None:
        kwargs = {**kwargs, "device": "cpu"}
    near = lambda t: t.near if isinstance(t, Far) else t
    out = function(*tree_map(near, args), **tree_map(near, kwargs))
    known = {id(near(t)): t for t in tensors}  # what was changed in place stays the tensor that it was
    return tree_map(lambda t: known.get(id(t), Far(t) if to_far else t) if isinstance(t, torch.Tensor) else t, out)


def _tensor(data, *, device=None, _make=torch.tensor, **options):
    made = _make(data, **options)
    return made if device is None else made.to(device)


def main():
    """Steps, references and answers on the device and on the CPU."""
    torch.tensor = _tensor  # it would ask for kernels that a pretended device has not
    torch.Tensor.pin_memory = lambda self: self
    sys.path.insert(0, str(Path(__file__).parent))
    from test_step import gradients, make_batch, make_config
    from tiny_models import tiny_lora, tiny_model, tiny_tokenizer

    from kto_workbench.engine.batches import Batch
    from kto_workbench.engine.generation import generate
    from kto_workbench.engine.models import as_it_is
    from kto_workbench.engine.passes import Budget
    from kto_workbench.engine.reference import Reference, ReferenceCache
    from kto_workbench.engine.scoring import make_scorer
    from kto_workbench.engine.step import kto_step

    def whole(kind):
        return tiny_model(kind).requires_grad_(True)

    def step(make, kind, options, tokens, device):
        model = make(kind).to(device)
        scorer = make_scorer(model)
        known = make_batch(tiny_lora(kind))
        batch = Batch(known.pairs, known.mismatched, known.label)
        as_reference = {} if make is tiny_lora else {"as_reference": as_it_is}
        with tempfile.TemporaryDirectory() as folder:
            Reference(scorer, ReferenceCache(Path(folder) / "cache"), Budget(tokens), **as_reference).fill_in(batch)
        z0 = torch.tensor(0.3).to(device) if options.get("z0") == "every" else None
        waits.clear()
        sums = kto_step(scorer, batch, make_config(**options), tokens, train=True, z0=z0)
        waited = list(waits)
        values = [gradients(model), sums.rewards, sums.logps, sums.loss[None], sums.z0[None]]
        with torch.no_grad():
            values.append(scorer.score_tokens(batch.pairs[0]))
        return scorer.name, waited, [torch.tensor(v.tolist()) for v in values]

    def answers(device):
        model = tiny_lora().to(device)
        return generate(model, tiny_tokenizer(), ["the cat sat"], max_new_tokens=8)

    cases = [
        *((tiny_lora, "llama", options, tokens) for options in (
            {}, {"sft_weight": 0.5}, {"reference": "uniform"}, {"objective": "sft"}, {"z0": "zero"}, {"z0": "every"}
        ) for tokens in (None, 40)),
        *((tiny_lora, kind, {}, 40) for kind in ("qwen3", "mistral-window", "gemma2", "gpt2")),
        (whole, "llama", {}, None),
    ]  # fmt: skip
    report = []
    for make, kind, options, tokens in cases:
        name, _, want = step(make, kind, options, tokens, "cpu")
        with Device():
            far_name, waited, got = step(make, kind, options, tokens, "far")
        report.append(
            {
                "case": f"{make.__name__} {kind} {options} {tokens}",
                "scorers": [name, far_name],
                "waits": waited,
                "apart": max(
                    ((g - w).norm() / w.norm().clamp(min=1e-9)).item() for g, w in zip(got, want, strict=True)
                ),
            }
        )
    want = answers("cpu")
    with Device():
        got = answers("far")
    refused = False
    with Device():
        try:
            torch.ones(2, device="far") + torch.ones(2)
        except RuntimeError:
            refused = True
    waits.clear()
    with Device():
        torch.ones((), device="far").item()
    json.dump({"steps": report, "answers": [want, got], "refused": refused, "noticed": waits}, sys.stdout)


if __name__ == "__main__":
    main()
