"""The engine's short cuts against the long way: weights in 4 bits against the same unpacked, packed batches against
padded ones. A library that computes something else is found here, before it trains something else.
"""

import importlib.util

import torch
from torch import Tensor

from kto_workbench.config import KTOConfig
from kto_workbench.doctor.device import TOLERANCE, apart, device
from kto_workbench.doctor.machine import tested_versions
from kto_workbench.doctor.results import BROKEN, FINE, LACKING, Result, Subject
from kto_workbench.feedback.templates import short_reason

# What rounding normally distributed weights to NF4 in blocks of 64 costs, relative: 0.092.
ROUNDING = (0.08, 0.11)


def four_bit(subject: Subject) -> Result:
    """A layer of bitsandbytes in NF4 with double quantization, forward and backward."""
    from kto_workbench.engine.models import pick_dtype

    if importlib.util.find_spec("bitsandbytes") is None:
        return Result(LACKING, "bitsandbytes is not installed: all works but load_in_4bit and optim paged_adamw_8bit.")
    again = f"`pip install bitsandbytes=={tested_versions().get('bitsandbytes', '')}`".replace("==`", "`")
    try:
        import bitsandbytes
        from bitsandbytes.nn import Linear4bit, Params4bit
    except Exception as error:
        # peft imports it wherever it is installed, so that not even a plain adapter can be made.
        said = (
            f"bitsandbytes can't be imported ({short_reason(error)}), and no adapter without it; reinstall it: {again}."
        )
        return Result(BROKEN, said)
    figures = {"version": getattr(bitsandbytes, "__version__", None), "from": str(bitsandbytes.__file__)}
    place = device()
    dtype = pick_dtype("auto", place)
    try:
        rounding, off = four_bit_error(Linear4bit, Params4bit, place, dtype)
    except Exception as error:
        said = f"load_in_4bit does not work here ({short_reason(error)})"
        return Result(LACKING, f"{said}; leave it off, or reinstall bitsandbytes: {again}.", figures)
    figures |= {"rounding": rounding, "off": off}
    if not (ROUNDING[0] < rounding < ROUNDING[1] and off < TOLERANCE[dtype]):
        said = f"bitsandbytes {figures['version']} computes wrong (weights {rounding:.1e}, products {off:.1e} apart)"
        return Result(LACKING, f"{said}: leave load_in_4bit off, or reinstall it: {again}.", figures)
    said = f"4-bit weights: forward and backward are right ({off:.1g} apart in {str(dtype)[6:]})."
    return Result(FINE, said, figures)


def four_bit_error(layer_type: type, weight_type: type, place: torch.device, dtype: torch.dtype) -> tuple[float, float]:
    """What rounding to 4 bits changes, and how far the layer is from the rounded weights' own products; relative."""
    from bitsandbytes.functional import dequantize_4bit

    torch.manual_seed(0)
    weight = 0.05 * torch.randn(256, 512)
    layer = layer_type(512, 256, bias=False, compute_dtype=dtype, compress_statistics=True, quant_type="nf4")
    layer.weight = weight_type(weight.to(dtype), requires_grad=False, compress_statistics=True, quant_type="nf4")
    layer = layer.to(place).train()
    rounded = dequantize_4bit(layer.weight.data, layer.weight.quant_state).float().cpu()
    x = torch.randn(9, 512, device=place).to(dtype).requires_grad_()
    y = layer(x)
    given = torch.randn(9, 256).to(place, dtype)
    (grad,) = torch.autograd.grad(y, x, given)
    forward = apart(y.detach().cpu(), x.detach().float().cpu() @ rounded.T)
    backward = apart(grad.cpu(), given.float().cpu() @ rounded)
    return apart(rounded, weight), max(forward, backward)


def packed(subject: Subject) -> Result:
    """The demo model with an adapter: log-probabilities and gradients of packed sequences against padded ones."""
    from kto_workbench.engine.models import add_lora, load_model, pick_dtype
    from kto_workbench.engine.scoring import PaddedScorer, make_scorer

    place, worst, name = device(), {}, ""
    for dtype in dict.fromkeys((torch.float32, pick_dtype("auto", place))):
        model = add_lora(load_model("demo", device=place, dtype=dtype), KTOConfig(model="demo"))
        torch.manual_seed(0)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.normal_(0, 0.05)
        scorer = make_scorer(model)
        name = scorer.name
        found, wanted = _scores_and_gradient(scorer), _scores_and_gradient(PaddedScorer(model))
        worst[str(dtype)[6:]] = max(apart(a, b) for a, b in zip(found, wanted, strict=True))
        # A gradient is the sum of many rounded terms; a wrong layout is off by the whole of it.
        if not worst[str(dtype)[6:]] < 3 * TOLERANCE[dtype]:
            said = f"Packed sequences come out {worst[str(dtype)[6:]]:.1e} apart from padded ones in {str(dtype)[6:]}"
            return Result(BROKEN, f"{said}: a defect of this torch or of ours, please report it.", {"off": worst})
    said = " and ".join(f"{off:.1g} apart in {dtype}" for dtype, off in worst.items())
    if name != "packed":
        return Result(
            LACKING, "Batches are padded here, which takes longer; the log of a run says why.", {"off": worst}
        )
    return Result(FINE, f"Packed sequences agree with padded ones, gradients too ({said}).", {"off": worst})


def _scores_and_gradient(scorer) -> list[Tensor]:
    from kto_workbench.engine.batches import Pair

    pairs = [
        Pair(tuple(range(5, 5 + prompt)), tuple(range(40, 40 + completion)))
        for prompt, completion in ((12, 5), (3, 9), (1, 4), (30, 2))
    ]
    other = [Pair(a.prompt_ids, b.completion_ids) for a, b in zip(pairs, pairs[1:] + pairs[:1], strict=True)]
    scorer.model.zero_grad()
    scores, kl_logps = scorer.score_both(pairs, other)
    (scores.logps * torch.tensor([1.0, -1.0, 2.0, 0.5], device=scores.logps.device)).sum().backward()
    gradient = torch.cat([p.grad.flatten().float() for p in scorer.model.parameters() if p.grad is not None])
    return [scores.logps.detach().float(), kl_logps.float(), gradient]
