"""The floating-point precision of networks, and whether a device computes it natively.

    precision = choose("auto", "cuda")     # "bf16" on an A100, "fp32" on a laptop's CPU

"auto" is bf16 on cards that have it and on CPUs with matrix units for it (AMX), fp32 elsewhere: with the vector
instructions of AVX-512 alone bf16 took two to three times as long as fp32, emulated about 50 times.
"""

import sys
import time
import warnings
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any

from ldm.errors import UserError

if TYPE_CHECKING:
    import torch

PRECISIONS = ("auto", "fp32", "bf16", "fp16")
"""precisions of commands and of the Python API"""
TRAINING = {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}
"""Lightning's names; weights stay in fp32"""
SLOWER, REPEATS = 1.2, 6
"""of a short measurement: the ratio of times that is told, and passes"""
DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
"""names in torch"""


def choose(precision: str, device: "str | torch.device") -> str:
    """`precision` with "auto" decided for `device`: "fp32", "bf16" or "fp16".

    Warns where a type that was asked for is emulated, or measured to be slower than fp32. Raises UserError for an
    unknown precision.
    """
    if precision not in PRECISIONS:
        raise UserError(f"precision: {precision} is unknown; it is one of {', '.join(PRECISIONS)}")
    if precision == "auto":
        return "bf16" if fast_bf16(device) else "fp32"
    if not native(precision, device):
        warnings.warn(
            f"precision: {precision} is emulated on this {_kind(device)}, up to 50 times slower than fp32; "
            "auto takes what is fast here",
            stacklevel=2,
        )
    elif _kind(device) == "cpu" and precision != "fp32" and (times := slowdown(precision)) > SLOWER:
        warnings.warn(
            f"precision: {precision} took {times:.1f} times as long as fp32 in a short measurement on this cpu; "
            "fp32 is faster here",
            stacklevel=2,
        )
    return precision


def fast_bf16(device: "str | torch.device") -> bool:
    """Whether bf16 is native to `device` and faster there than fp32."""
    import torch

    return native("bf16", device) and (_kind(device) != "cpu" or torch.cpu.get_capabilities().get("amx_bf16", False))


@cache
def slowdown(precision: str) -> float:
    """Time of a small convolution and a small matrix product in `precision` over that in fp32, on this CPU.

    Instructions for a type do not make it faster: with few of them a cycle, and a conversion before every layer, fp32
    can win.
    """
    return _seconds(precision) / _seconds("fp32")


def _seconds(precision: str) -> float:
    """CPU seconds of one pass through both layers, the shortest of REPEATS; about 5 ms each."""
    import torch

    image, rows = (torch.ones(*shape, device="cpu") for shape in ((4, 64, 32, 32), (1024, 256)))
    convolution, linear = torch.nn.Conv2d(64, 64, 3, padding=1, device="meta"), torch.nn.Linear(256, 256, device="meta")
    for layer in (convolution, linear):  # random weights would move the global generator
        layer.to_empty(device="cpu")
        for weight in layer.parameters():
            torch.nn.init.constant_(weight, 0.01)
    taken = []
    with torch.no_grad(), torch.autocast("cpu", getattr(torch, DTYPES[precision]), enabled=precision != "fp32"):
        for _ in range(REPEATS):
            started = time.process_time()
            convolution(image)
            linear(rows)
            taken.append(time.process_time() - started)
    return min(taken)


def choose_training(precision: str | int, device: "str | torch.device") -> str:
    """Lightning's name of the training precision: "auto" resolved for `device`, other names unchanged."""
    name = str(precision)
    if name == "auto":
        return TRAINING[choose("auto", device)]
    short = {"bf16": "bf16", "16": "fp16"}.get(name.split("-")[0])
    if short is not None:
        choose(short, device)
    return name


def native(precision: str, device: "str | torch.device") -> bool:
    """Whether `device` has instructions for `precision`.

    On CUDA bf16 needs compute capability 8.0. On a CPU bf16 needs AVX-512 bf16 or AMX, fp16 AVX-512 fp16 or AMX fp16;
    none of them counts where ATEN_CPU_CAPABILITY restricts PyTorch to less than AVX-512.
    """
    import torch

    if precision == "fp32":
        return True
    kind = _kind(device)
    if kind == "cuda":  # without a GPU, assume a current one
        return precision == "fp16" or not torch.cuda.is_available() or torch.cuda.is_bf16_supported(False)
    if kind != "cpu":
        return precision == "fp16"
    if not torch.backends.cpu.get_cpu_capability().startswith("AVX512"):
        return False
    asked = getattr(torch.cpu, "get_capabilities", None)  # unknown in PyTorch 2.10: fp32 is safe
    cpu = asked() if asked else {}
    names = {"bf16": ("avx512_bf16", "amx_bf16"), "fp16": ("avx512_fp16", "amx_fp16")}[precision]
    return any(cpu.get(name, False) for name in names)


def add_precision(add: Callable[..., Any]) -> None:
    """The option --precision of a command; `add` is its parser's add_argument."""
    text = "of the networks; auto: bf16 on cards and CPUs where it is faster, fp32 elsewhere (%(default)s)"
    add("--precision", choices=PRECISIONS, default="auto", help=text)


def announce(precision: str, device: "str | torch.device") -> None:
    """Print the precision of a command on stderr."""
    kind = _kind(device)
    remark = f"; no fast bf16 on this {kind}" if not fast_bf16(device) else ""
    print(f"precision: {precision}{remark}", file=sys.stderr, flush=True)


def allow_tf32(allowed: bool) -> None:
    """Whether CUDA may round fp32 products to TF32 (10 bits of mantissa).

    Training allows it. Sampling does not: finite differences of a network have errors of 25 % under TF32.
    """
    import torch

    torch.set_float32_matmul_precision("high" if allowed else "highest")
    torch.backends.cudnn.allow_tf32 = allowed


def device_of(accelerator: str) -> str:
    """The device type of Lightning's `accelerator` ("auto", "gpu", "cpu", ...) on this machine."""
    import torch

    if accelerator in ("cuda", "gpu") or (accelerator == "auto" and torch.cuda.is_available()):
        return "cuda"
    if accelerator == "mps" or (accelerator == "auto" and torch.backends.mps.is_available()):
        return "mps"
    return "cpu"


def chosen_device(device: str) -> str:
    """`device` with "auto" resolved: cuda if available, else cpu."""
    return device if device != "auto" else "cuda" if device_of("auto") == "cuda" else "cpu"


def _kind(device: "str | torch.device") -> str:
    return str(device).split(":")[0]
