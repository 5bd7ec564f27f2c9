"""Check the machine and the installed packages. Packages are imported only after they were found."""

import importlib.metadata
import platform
import shutil
import subprocess
import warnings
from collections.abc import Iterator
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from ldm.doctor.finding import Finding, fail, ok, one_line, warn
from ldm.support.machines import available_memory
from ldm.support.package import project

GB = 1e9
CUDA_PROBE = 256


def python() -> Iterator[Finding]:
    """Compare the interpreter's version with the package's requirement."""
    wanted = project().python
    found = f"Python {platform.python_version()} on {platform.system()} {platform.machine()}"
    if SpecifierSet(wanted).contains(platform.python_version(), prereleases=True):
        yield ok(found)
    else:
        yield fail(f"{found}, expected {wanted}; make an environment with it, for example from environment.yaml")


def packages() -> Iterator[Finding]:
    """Compare installed versions with the package's dependencies."""
    requirements = [Requirement(text) for text in project().needs]
    wrong = 0
    for requirement in requirements:
        try:
            version = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            version = ""
        if not version or not requirement.specifier.contains(version, prereleases=True):
            wrong += 1
            remedy = f"pip install '{requirement}'"
            yield fail(f"{requirement.name} {version or 'missing'}, expected {requirement.specifier}; {remedy}")
    if not wrong:
        yield ok(f"packages: all {len(requirements)} as the package asks")


def openslide() -> Iterator[Finding]:
    """Check OpenSlide, the C library that reads whole-slide images."""
    try:
        import openslide
    except (ImportError, OSError) as error:
        yield fail(f"OpenSlide: its library is not found ({one_line(error)}); pip install openslide-bin")
        return
    yield ok(f"OpenSlide {openslide.__library_version__}")


def accelerators() -> Iterator[Finding]:
    """Check torch, and whether it computes on the devices of this machine."""
    import torch

    build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "the CPU"
    yield ok(f"torch {torch.__version__}, built for {build}, CPU threads: {torch.get_num_threads()}")
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        available = torch.cuda.is_available()
    if not available:
        yield _no_gpu(build, "; ".join(one_line(item.message) for item in told if isinstance(item.message, Warning)))
    for index in range(torch.cuda.device_count() if available else 0):
        yield _gpu(index)
    if torch.backends.mps.is_available():
        yield ok("GPU: Apple's, as --device mps")


def _no_gpu(build: str, reason: str) -> Finding:
    driver = _driver()
    if not driver:
        return warn("GPU: none; everything runs on the CPU, at toy size")
    if build == "the CPU":
        return fail(f"GPU: {driver} is there, but torch is built for the CPU; install torch's CUDA build")
    remedy = "update the driver, or install torch built for an older CUDA"
    return fail(f"GPU: {driver} cannot be used by torch built for {build} ({reason or 'no reason given'}); {remedy}")


def _driver() -> str:
    """The GPU that nvidia-smi reports: "NAME, driver VERSION", or empty."""
    command = shutil.which("nvidia-smi")
    if command is None:
        return ""
    query = [command, "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return ""
    return answer.splitlines()[0].replace(", ", ", driver ") if answer.strip() else ""


def _gpu(index: int) -> Finding:
    """Test a device with a matrix product of known result."""
    import torch

    name = f"GPU {index}: {torch.cuda.get_device_name(index)}"
    try:
        free, total = torch.cuda.mem_get_info(index)
        ones = torch.ones(CUDA_PROBE, CUDA_PROBE, device=f"cuda:{index}")
        right = bool((ones @ ones == CUDA_PROBE).all())
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        return fail(f"{name} does not compute ({reason}); check its driver, or who else uses it, with nvidia-smi")
    if not right:
        return fail(f"{name} computes wrongly; leave it out with CUDA_VISIBLE_DEVICES")
    return ok(f"{name}, {free / GB:.1f} of {total / GB:.1f} GB free")


def room(folder: Path) -> Iterator[Finding]:
    """Report free memory, and free disk space at `folder`."""
    yield ok(f"memory: {available_memory() / GB:.1f} GB available")
    free = shutil.disk_usage(folder).free
    yield (ok if free > GB else warn)(f"disk: {free / GB:.1f} GB free in {folder.resolve()}")
