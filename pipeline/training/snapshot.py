"""Weights and optimizer states at rest: copies that training on does not change.

On CUDA a copy to the host goes through pinned memory, by a stream of its own, while the training
goes on: who reads it waits for it (`HostCopies.wait`), and so does whatever writes over what is
being copied (`HostCopies.protect`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Snapshot:
    """A model's weights after `step` optimizer steps, or a rank's shard; never changed again."""

    step: int
    tensors: dict[str, Tensor]


def at_rest(tensors: dict[str, Tensor], *, may_stay: bool) -> dict[str, Tensor]:
    """A copy: on the CPU, or on the GPU where the tensors lie.

    Args:
        may_stay: on the GPU, if that has twice their bytes to spare.
    """
    size = sum(tensor.nbytes for tensor in tensors.values())
    if may_stay and _is_on_gpu(tensors) and torch.cuda.mem_get_info()[0] > 2 * size:
        return {name: tensor.clone() for name, tensor in tensors.items()}
    return {name: tensor.to("cpu", copy=True) for name, tensor in tensors.items()}


class HostCopies:
    """Copies in the CPU's memory, which is used again and again.

    Memory that is mapped already takes a copy at three times the speed.
    """

    def __init__(self, device: torch.device) -> None:
        self._copies: dict[str, Any] = {}
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._copied: torch.cuda.Event | None = None

    @torch.no_grad()
    def take(self, changing: dict[str, Any], at_rest: dict[str, Any]) -> dict[str, Any]:
        """Begin to copy states by name; earlier copies of the same name are written over.

        Args:
            at_rest: change no more, and are copied only where they lie on a GPU.
        """
        values = changing | {name: kept for name, kept in at_rest.items() if _is_on_gpu(kept)}
        if self._stream is None:
            self._copies |= _copied(values, self._copies)
        else:
            self._stream.wait_stream(torch.cuda.current_stream(self._stream.device))
            with torch.cuda.stream(self._stream):
                self._copies |= _copied(values, self._copies)
                self._copied = self._stream.record_event()
        return at_rest | {name: self._copies[name] for name in values}

    def wait(self) -> None:
        """Until the copies are there; in any thread."""
        if self._copied is not None:
            self._copied.synchronize()

    def protect(self) -> None:
        """Have what the training's stream is given from now on wait until the copies are there."""
        if self._stream is not None and self._copied is not None:
            torch.cuda.current_stream(self._stream.device).wait_event(self._copied)


def _is_on_gpu(tensors: dict[str, Tensor]) -> bool:
    return any(tensor.is_cuda for tensor in tensors.values())


def _copied(value: Any, into: Any) -> Any:
    """A copy of nested dictionaries, lists and tuples, in the tensors of `into` where they fit."""
    if isinstance(value, Tensor):
        if not isinstance(into, Tensor) or (into.shape, into.dtype) != (value.shape, value.dtype):
            if not value.is_cuda:
                return value.detach().to("cpu", copy=True)
            into = torch.empty_like(value, device="cpu", pin_memory=True)
        return into.copy_(value, non_blocking=True)
    if isinstance(value, dict):
        earlier = into if isinstance(into, dict) else {}
        return {key: _copied(inner, earlier.get(key)) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_copied(inner, None) for inner in value)
    return value
