"""Where a card's time goes: the heaviest kernels of a training step and of a U-Net evaluation; attention by backend.

Attention of the U-Net has one head, as wide as its level. Which of PyTorch's kernels take heads of such widths depends
on the card, so each is tried.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.profiler import ProfilerActivity, profile

from benchmarks.gpu.meter import Meter
from benchmarks.gpu.networks_of_size import tokens
from benchmarks.gpu.sampling_rows import Bench
from benchmarks.gpu.training_rows import PhaseClock, full_steps, random_batches
from ldm.errors import one_line
from ldm.support.files import write_text
from ldm.support.precision import DTYPES

HEAVIEST = 25
BACKENDS = (SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.CUDNN_ATTENTION, SDPBackend.MATH)
REPEATS = 20
CONTEXT = 65


def write_profile(folder: Path, bench: Bench) -> list[Path]:
    """Write what is known of the card into `folder`; a part that fails says so in its file."""
    parts: dict[str, Callable[[Bench], str]] = {
        "attention.txt": attention,
        "evaluation.txt": evaluation,
        "training_step.txt": training_step,
    }
    paths = []
    folder.mkdir(parents=True, exist_ok=True)
    for name, part in parts.items():
        try:
            text = part(bench)
        except Exception as error:
            text = failure(error)
        write_text(folder / name, f"{text}\n")
        paths.append(folder / name)
    return paths


def failure(error: BaseException) -> str:
    """What failed, in one line."""
    return one_line(f"failed: {type(error).__name__}: {error}")[:300]


def evaluation(bench: Bench) -> str:
    """The heaviest kernels of one evaluation of the U-Net."""
    model, size = bench.model, bench.size
    side = size.tile_px // model.downsample
    z = torch.randn(size.batch, 3, side, side, device=model.device)
    denoise = model.denoiser(model.context([tokens(size, size.tile_px)] * size.batch, "20x"))
    t = torch.full((size.batch,), 500, device=model.device)

    def run() -> None:
        with torch.no_grad():
            denoise(z, t)

    return f"U-Net, one evaluation of {size.batch}\n\n{heaviest(run, model.device)}"


def training_step(bench: Bench) -> str:
    """The heaviest kernels of one training step."""
    size, device = bench.size, bench.model.device
    side = size.tile_px // bench.model.downsample
    steps, clock = full_steps(bench), PhaseClock(Meter(device))
    batches = random_batches(size.batch, side, size.embedding_dim, 2, device)
    return f"Training, one step of {size.batch}\n\n{heaviest(lambda: steps.take(batches(0), clock), device)}"


def heaviest(run: Callable[[], object], device: torch.device) -> str:
    """The kernels and the operations of `run` that take most of the device's time, after two runs."""
    on_card = device.type == "cuda"
    meter = Meter(device)
    for _ in range(2):
        run()
    with meter.running():
        run()
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_card else [])]
    with profile(activities=activities) as profiler:
        run()
        meter.wait()
    events = [event for event in profiler.key_averages() if not getattr(event, "is_user_annotation", False)]
    lines = [f"{1000 * meter.seconds:.4g} ms by the clock, without profiling"]
    kinds = {"kernels": [e for e in events if "CUDA" in str(e.device_type)]} if on_card else {}
    kinds["operations"] = [event for event in events if "CPU" in str(event.device_type)]
    for kind, some in kinds.items():
        lines += ["", *_table(kind, some, on_card)]
    return "\n".join(lines)


def _table(kind: str, events: list[Any], on_card: bool) -> list[str]:
    """Lines of the heaviest of some events, by their own time on the device."""
    own = "self_device_time_total" if on_card else "self_cpu_time_total"
    timed = sorted(((float(getattr(event, own)), event) for event in events), key=lambda pair: -pair[0])
    total = sum(microseconds for microseconds, _ in timed)
    if total == 0:
        return [f"{kind}: the profiler recorded no time on this device"]
    lines = [f"{kind}: {total / 1000:.4g} ms in all; ms, share, calls, name"]
    for microseconds, event in timed[:HEAVIEST]:
        lines.append(
            f"{microseconds / 1000:9.3f} {microseconds / total:6.1%} {event.count:6d}  {one_line(str(event.key))[:160]}"
        )
    return lines


def attention(bench: Bench) -> str:
    """Milliseconds of the U-Net's attentions by backend of PyTorch, forward and with backward."""
    size, device = bench.size, bench.model.device
    dtype = getattr(torch, DTYPES[bench.model.precision])
    lines = [f"Attention of {size.batch} samples with one head, {bench.model.precision}: ms forward, ms with backward"]
    for width, queries in attentions(bench):
        for keys in (queries, CONTEXT):
            lines += ["", f"head width {width}, {queries} queries, {keys} keys"]
            q, k, v = (
                torch.randn(size.batch, 1, n, width, device=device, dtype=dtype, requires_grad=True)
                for n in (queries, keys, keys)
            )
            for backend in (None, *BACKENDS):
                lines.append(
                    f"{'as chosen' if backend is None else backend.name:20} {_tried(q, k, v, backend, device)}"
                )
    return "\n".join(lines)


def attentions(bench: Bench) -> list[tuple[int, int]]:
    """Head width and number of tokens of each level with attention."""
    options = {"width": 192, "multipliers": (1, 2, 3, 5), "attention": (2, 4, 8), **bench.size.unet}
    side = bench.size.tile_px // bench.model.downsample
    factors = [2**level for level in range(len(options["multipliers"]))]
    return [
        (options["width"] * options["multipliers"][factors.index(factor)], (side // factor) ** 2)
        for factor in options["attention"]
    ]


def _tried(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, backend: SDPBackend | None, device: torch.device) -> str:
    """Times of one backend (None: PyTorch's choice), or why it does not take these."""

    def forward() -> torch.Tensor:
        if backend is None:
            return F.scaled_dot_product_attention(q, k, v)
        with sdpa_kernel(backend):
            return F.scaled_dot_product_attention(q, k, v)

    def both() -> None:
        forward().sum().backward()

    try:
        with torch.no_grad():
            alone = _milliseconds(forward, device)
            name = _kernel(forward, device) if backend is None else ""
        return f"{alone:8.3f} {_milliseconds(both, device):8.3f}  {name}".rstrip()
    except Exception as error:
        return failure(error)


def _milliseconds(run: Callable[[], object], device: torch.device) -> float:
    for _ in range(3):
        run()
    meter = Meter(device)
    with meter.running():
        for _ in range(REPEATS):
            run()
    return 1000 * meter.seconds / REPEATS


def _kernel(run: Callable[[], object], device: torch.device) -> str:
    """The operation that PyTorch chooses for attention."""
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        run()
    names = [event.key for event in profiler.key_averages() if "_scaled_dot_product_" in event.key]
    return ", ".join(sorted(names)) or "unknown"
