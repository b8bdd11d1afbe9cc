"""torch as the doctor finds it: its build, the GPUs, precisions, the attention kernel, and rates measured here."""

import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kto_workbench.doctor.results import BROKEN, FINE, LACKING, Result, Subject, amount
from kto_workbench.runs.machine import ask_driver
from kto_workbench.runs.turn import device_is_taken

SECONDS = 0.5  # a rate is measured for so long
MATRIX = {"cuda": 8192, "cpu": 1024}
COPIED = {"cuda": 2**30, "cpu": 2**28}
# bfloat16 has 8 bits of mantissa; what is summed over a few dozen keys comes out within a few of its last bits.
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 3e-2}


def device() -> torch.device:
    """Where a training would be: a GPU if there is one."""
    from kto_workbench.engine.models import pick_device

    return pick_device()


def torch_build(subject: Subject) -> Result:
    """Which torch, for which devices, and whether it fits the driver."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        usable = torch.cuda.is_available()
    built = f"CUDA {torch.version.cuda}" if torch.version.cuda else "the CPU"
    built = f"ROCm {torch.version.hip}" if torch.version.hip else built
    seen = ask_driver("driver_version", "name")
    figures = {
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "driver": seen[0][0] if seen else None,
        "threads": torch.get_num_threads(),
        "usable": usable,
    }
    version = f"torch {torch.__version__}, built for {built}"
    if seen and not usable:
        reason = f" ({str(said[0].message).splitlines()[0].rstrip('.')[:200]})" if said else ""
        advice = "update the driver" if torch.version.cuda else "install a build for CUDA, see pytorch.org"
        return Result(
            LACKING,
            f"{version}, can't use the {seen[0][1]} that driver {seen[0][0]} shows{reason}: {advice}, "
            "or training will be on the CPU.",
            figures,
        )
    driver = f", driver {seen[0][0]}" if seen else ""
    return Result(FINE, f"{version}{driver}; CPU threads: {torch.get_num_threads()}.", figures)


def gpus(subject: Subject) -> Result:
    """The GPUs, each with its memory, and whether this torch has code for them."""
    if not torch.cuda.is_available():
        if torch.backends.mps.is_available():
            return Result(FINE, "The GPU of an Apple chip (mps).", {"gpus": []})
        return Result(
            LACKING, "No GPU that torch can use: training is on the CPU, which suits small models.", {"gpus": []}
        )
    found, full = [], []
    for number in range(torch.cuda.device_count()):
        known = torch.cuda.get_device_properties(number)
        # A card that this build has no code for is listed like any other, and fails at its first operation.
        (torch.ones(2, device=f"cuda:{number}") + 1).sum().item()
        free, total = torch.cuda.mem_get_info(number)
        capability = f"{known.major}.{known.minor}"
        found.append({"name": known.name, "memory": total, "free": free, "capability": capability})
        if free < total / 2:
            full.append(str(number))
    said = "; ".join(
        f"{g['name']} ({g['capability']}), {amount(g['free'])} of {amount(g['memory'])} free" for g in found
    )
    if full:
        return Result(LACKING, f"{said}: another program holds most of GPU {', '.join(full)}.", {"gpus": found})
    return Result(FINE, f"{said}.", {"gpus": found})


def bfloat16(subject: Subject) -> Result:
    """Whether bfloat16 is computed or only emulated, and whether its products are right."""
    from kto_workbench.engine.models import pick_dtype

    place = device()
    torch.manual_seed(0)
    a, b = torch.randn(2, 64, 64)
    got = (a.to(place, torch.bfloat16) @ b.to(place, torch.bfloat16)).float().cpu()
    off = apart(got, a.bfloat16().float() @ b.bfloat16().float())
    native = torch.cuda.is_bf16_supported(including_emulation=False) if place.type == "cuda" else _cpu_has_bfloat16()
    dtype = str(pick_dtype("auto", place))[6:]
    figures = {"native": native, "off": off, "auto": dtype}
    if not off < TOLERANCE[torch.bfloat16]:
        return Result(
            BROKEN, f"Products in bfloat16 come out {off:.1e} apart from float32; use dtype float32.", figures
        )
    how = {True: "computed by", False: "emulated by", None: "right on"}[native]
    return Result(FINE, f"bfloat16 is {how} this {_kind(place)}; dtype `auto` trains in {dtype}.", figures)


def _cpu_has_bfloat16() -> bool | None:
    """Whether a CPU multiplies in bfloat16; None where it does not say."""
    try:
        flags = Path("/proc/cpuinfo").read_text().split("flags", 1)[1].split("\n", 1)[0].split()
    except (OSError, IndexError):
        return None
    return bool({"avx512_bf16", "amx_bf16"} & set(flags))


def attention(subject: Subject) -> Result:
    """The kernel for all sequences of a pass at once, forward and backward, against SDPA sequence by sequence."""
    place = device()
    if place.type != "cuda":
        said = "The kernel for sequences of any length needs a CUDA GPU; here each has its own call, to the same end."
        return Result(LACKING, said)
    from torch.nn.attention.varlen import varlen_attn

    off = kernel_error(varlen_attn, place, torch.bfloat16)
    if off < TOLERANCE[torch.bfloat16]:
        return Result(FINE, f"The kernel for sequences of any length is right ({off:.1g} from SDPA).", {"off": off})
    said = f"The kernel for sequences of any length is {off:.1e} from SDPA; each model tries it, and leaves it out."
    return Result(LACKING, said, {"off": off})


def kernel_error(kernel: Callable[..., Tensor], place: torch.device, dtype: torch.dtype) -> float:
    """How far a variable-length kernel is from SDPA in float32, relative, in its output and in its gradients.

    Three sequences with grouped heads, as many queries as keys or fewer, with and without a window.
    """
    heads, groups, width = 4, 2, 64
    worst = 0.0
    for window in (None, 7):
        for queries, keys in (((40, 9, 23), (40, 9, 23)), ((5, 9, 1), (40, 12, 23))):
            torch.manual_seed(0)
            q = torch.randn(sum(queries), heads, width, device=place, dtype=dtype, requires_grad=True)
            k, v = (
                torch.randn(sum(keys), groups, width, device=place, dtype=dtype, requires_grad=True) for _ in range(2)
            )
            starts = [torch.tensor([0, *n]).cumsum(0).to(place, torch.int32) for n in (queries, keys)]
            side = (-1 if window is None else window - 1, 0)
            got = kernel(q, k, v, *starts, max(queries), max(keys), window_size=side, enable_gqa=True)
            given = torch.randn(got.shape, device=place, dtype=dtype)
            found = [got, *torch.autograd.grad(got, (q, k, v), given)]
            exact = [t.detach().float().requires_grad_() for t in (q, k, v)]
            want = _one_by_one(*exact, queries, keys, window)
            wanted = [want, *torch.autograd.grad(want, exact, given.float())]
            worst = max(worst, *(apart(a, b) for a, b in zip(found, wanted, strict=True)))
    return worst


def _one_by_one(q: Tensor, k: Tensor, v: Tensor, queries: Any, keys: Any, window: int | None) -> Tensor:
    """[T, heads, D] by SDPA with a mask, each sequence by itself, its queries being the last of its tokens."""
    outputs = []
    for one_q, one_k, one_v in zip(q.split(queries), k.split(keys), v.split(keys), strict=True):
        n_q, n_k = len(one_q), len(one_k)
        distance = torch.arange(n_k - n_q, n_k)[:, None] - torch.arange(n_k)
        seen = (distance >= 0) & (distance < (window or n_k))
        one_k, one_v = (t.repeat_interleave(q.shape[1] // k.shape[1], dim=1) for t in (one_k, one_v))
        parts = [t.transpose(0, 1) for t in (one_q, one_k, one_v)]
        outputs.append(F.scaled_dot_product_attention(*parts, attn_mask=seen.to(q.device)).transpose(0, 1))
    return torch.cat(outputs)


def matrix_rate(subject: Subject) -> Result:
    """Floating-point operations a second of a matrix product, in the precision of a training."""
    from kto_workbench.engine.models import pick_dtype

    if _is_taken(subject):
        return Result(LACKING, "Not measured: a training is at work here.")
    place = device()
    dtype = pick_dtype("auto", place)
    rate = product_rate(place, dtype, MATRIX.get(place.type, 4096))
    said = f"Matrix products at {rate / 1e12:.3g} TFLOP/s in {str(dtype)[6:]} on this {_kind(place)}."
    return Result(FINE, said, {"flops": rate, "dtype": str(dtype)[6:]})


def memory_rate(subject: Subject) -> Result:
    """Bytes a second that a copy reads and writes."""
    if _is_taken(subject):
        return Result(LACKING, "Not measured: a training is at work here.")
    place = device()
    size = COPIED.get(place.type, 2**28)
    a, b = (torch.ones(size, dtype=torch.uint8, device=place) for _ in range(2))
    rate = 2 * size / best_seconds(lambda: a.copy_(b), place)
    said = f"The memory of this {_kind(place)} is read and written at {amount(rate)}/s."
    return Result(FINE, said, {"bytes_per_second": rate})


def product_rate(place: torch.device, dtype: torch.dtype, size: int) -> float:
    """Operations a second of the product of two square matrices."""
    a, b = (torch.randn(size, size, device=place).to(dtype) for _ in range(2))
    return 2 * size**3 / best_seconds(lambda: a @ b, place)


def best_seconds(work: Callable[[], Any], place: torch.device, seconds: float = SECONDS) -> float:
    """The shortest time that the work took, tried for a while, three times at least, after once unwatched."""
    wait = torch.cuda.synchronize if place.type == "cuda" else lambda: None
    work()
    times, end = [], time.perf_counter() + seconds
    while len(times) < 3 or time.perf_counter() < end:
        wait()
        begun = time.perf_counter()
        work()
        wait()
        times.append(time.perf_counter() - begun)
    return min(times)


def apart(got: Tensor, want: Tensor) -> float:
    """The norm of the difference, relative to that of what is wanted."""
    return ((got.float() - want).norm() / want.norm()).item()


def _is_taken(subject: Subject) -> bool:
    """Whether a training works in this workspace; one that is not there yet is left so."""
    workspace = subject.workspace.expanduser()
    return (workspace / "device.lock").exists() and device_is_taken(workspace)


def _kind(place: torch.device) -> str:
    return "CPU" if place.type == "cpu" else "GPU"
