"""Where and how numbers are computed: device, precision, and who owns which randomness.

Every source of randomness has an owner, named by a string, and a seed of its own derived from the
run's. Owners that draw at many points (the batches of an epoch, the dropout of a step) put the
point into their name, so a training that resumes at step k needs no generator's state.
"""

from __future__ import annotations

import hashlib
import platform
import time
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pipeline.errors import UserError
from pipeline.system.files import read_json, write_json
from pipeline.system.user_cache import cache_folder


def derive_seed(seed: int, owner: str) -> int:
    """A seed in [0, 2**63) for one owner of randomness, such as `weights` or `dropout/17`."""
    digest = hashlib.sha256(f"{seed}/{owner}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


@dataclass(frozen=True)
class Runtime:
    """A device and the precision of its matrix products."""

    device: torch.device
    bf16: bool

    @property
    def precision(self) -> str:
        return "bf16" if self.bf16 else "fp32"

    def autocast(self) -> AbstractContextManager[object]:
        """Matrix products in bf16 inside the block, where that is the precision."""
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.bf16)

    def to_device(self, tensor: torch.Tensor) -> torch.Tensor:
        """The tensor on the device; to CUDA from pinned memory, so that nothing waits for it."""
        if self.device.type == "cuda":
            return tensor.pin_memory().to(self.device, non_blocking=True)
        return tensor.to(self.device)


def choose_runtime(device: str = "auto", precision: str = "auto") -> Runtime:
    """Turn `train.device` and `train.precision` into what this machine has.

    `auto` takes CUDA before MPS before the CPU, and bf16 where the hardware multiplies it faster.

    Raises:
        UserError: the machine has no such device.
    """
    chosen = _choose_device(device)
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)  # where streams and graphs go that are given no device
    bf16 = precision == "bf16" or (precision == "auto" and multiplies_bf16(chosen))
    return Runtime(chosen, bf16)


def multiplies_bf16(device: torch.device) -> bool:
    """Whether the device has instructions for bf16 products, and they are the faster ones."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type == "cpu":
        has_them = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
        return bool(has_them) and _bf16_pays_here()
    return False


def _bf16_pays_here() -> bool:
    """Whether a product of the model's size takes less time in bf16 than in fp32 on this CPU.

    Having the instructions does not decide it: among CPUs with AVX-512 BF16, bf16 products were
    measured at 2.4 times the speed of fp32's on one and at 0.6 times on another. The answer is
    kept in the user's cache, so that a machine gives the same one, and the same bytes, each time.
    """
    cpu = f"{platform.processor()} {_cpu_model()}, torch {torch.__version__}"
    path = cache_folder() / "bf16.json"
    try:
        found = read_json(path)
    except UserError:  # none yet, or damaged
        found = None
    known: dict[str, Any] = found if isinstance(found, dict) else {}
    if not isinstance(known.get(cpu), bool):
        known[cpu] = _seconds(torch.bfloat16) < _seconds(torch.float32)
        with suppress(OSError):  # a cache that cannot be written costs measuring again
            write_json(path, known)
    return bool(known[cpu])


def _seconds(dtype: torch.dtype) -> float:
    """The least time of ten products of a default batch with an MLP's matrix."""
    a, b = torch.ones(512, 768, dtype=dtype), torch.ones(3072, 768, dtype=dtype)
    times = []
    for _ in range(11):
        started = time.perf_counter()
        a @ b.T
        times.append(time.perf_counter() - started)
    return min(times[1:])


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    fields = ("vendor_id", "cpu family", "model", "model name", "stepping", "cache size")
    values = dict(line.partition("\t")[::2] for line in lines if "\t" in line)
    return ", ".join(values.get(field, "").strip("\t :") for field in fields)


def _choose_device(name: str) -> torch.device:
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda", 0)
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda":
        device = torch.device("cuda", device.index or 0)  # some of torch's calls need the number
        if device.index >= (count := torch.cuda.device_count()):
            raise UserError(
                f"train.device: {name} asked for, but this machine has {count} CUDA GPUs"
            )
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise UserError("train.device: mps asked for, but this machine has none")
    return device
