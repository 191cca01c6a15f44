"""Where and how numbers are computed: device, precision, and who owns which randomness.

Every source of randomness has an owner, named by a string, and a seed of its own derived from the
run's. Owners that draw at many points (the batches of an epoch, the dropout of a step) put the
point into their name, so a training that resumes at step k needs no generator's state.
"""

from __future__ import annotations

import hashlib
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.errors import UserError

if TYPE_CHECKING:
    import torch

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # malloc.h


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
        import torch

        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.bf16)


def choose_runtime(device: str = "auto", precision: str = "auto") -> Runtime:
    """Turn `train.device` and `train.precision` into what this machine has.

    `auto` takes CUDA before MPS before the CPU, and bf16 where the hardware multiplies it.

    Raises:
        UserError: the machine has no such device.
    """
    chosen = _choose_device(device)
    bf16 = precision == "bf16" or (precision == "auto" and multiplies_bf16(chosen))
    return Runtime(chosen, bf16)


def multiplies_bf16(device: torch.device) -> bool:
    """Whether the device has instructions for bf16 products, rather than emulating them."""
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type == "cpu":
        return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    return False


def keep_freed_memory() -> None:
    """Have the C library keep what is freed, for the next step's tensors (glibc only).

    By default it hands every large tensor's pages back and takes zeroed ones for the next, some
    130,000 page faults a step at 124M. Call it before the first tensor.
    """
    import ctypes
    import sys

    if sys.platform == "linux":
        c_library = ctypes.CDLL(None)
        if hasattr(c_library, "mallopt"):
            c_library.mallopt(M_MMAP_MAX, 0)
            c_library.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def _choose_device(name: str) -> torch.device:
    import torch

    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        count = torch.cuda.device_count()
        raise UserError(f"train.device: {name} asked for, but this machine has {count} CUDA GPUs")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise UserError("train.device: mps asked for, but this machine has none")
    return device
