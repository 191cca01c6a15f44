"""A decoding step as one CUDA graph: one launch instead of some hundred.

In small batches a step's kernels are shorter than the time to launch them one by one. A graph
replays them on fixed addresses, so nothing that changes from step to step may be a Python number:
the column that is written is a tensor, and attention runs over all columns, those to come masked.
A sequence that has ended stays in the batch, until half have, so that few batch sizes are captured.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from pipeline.generation.draws import pack_greedy
from pipeline.generation.forward import Network
from pipeline.generation.kv_cache import KVCache
from pipeline.model.gpt import GPTConfig


class StaticKVCache(KVCache):
    """A KV cache whose step reads and writes the same addresses every time."""

    def __init__(
        self,
        config: GPTConfig,
        lengths: Sequence[int],
        steps: int,
        *,
        like: Tensor,
        max_sequences: int | None = None,
    ) -> None:
        super().__init__(config, lengths, steps, like=like, max_sequences=max_sequences)
        self.column = torch.tensor([self.end], dtype=torch.int64, device=like.device)
        self.last_position = config.context_length - 1
        self.columns = torch.arange(self.keys[0].shape[2], device=like.device)

    def positions(self, count: int) -> Tensor:
        assert count == 1, "a graph writes one column"
        # A sequence that has left goes on with the others, past the last position.
        return (self.column - self.starts[:, None]).clamp_(max=self.last_position)

    def mask(self, count: int) -> Tensor | None:
        seen = (self.columns >= self.starts[:, None]) & (self.columns <= self.column)
        return self._additive(seen[:, None])

    def append(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        keys, values = self.keys[layer], self.values[layer]
        keys.index_copy_(2, self.column, key.to(keys.dtype))
        values.index_copy_(2, self.column, value.to(values.dtype))
        return keys, values

    def advance(self, count: int) -> None:
        self.column += 1


def captures(network: Network) -> bool:
    """Whether decoding steps are captured; everything here but the capture runs on a CPU, too."""
    return network.wte.is_cuda


class CapturedStep:
    """`Network.advance` by one token per sequence, captured for one cache and replayed.

    The greedy draws are computed in the graph. What it returns is overwritten by its next call.
    """

    def __init__(self, network: Network, rounding: float | None) -> None:
        """`rounding` is that of `pack_draws`."""
        self.network, self.rounding = network, rounding
        self._captured: tuple[int, int] | None = None  # the cache's address and batch size

    def __call__(self, tokens: Sequence[int], cache: StaticKVCache) -> tuple[Tensor, Tensor]:
        """Logits (B, V) that follow one token per sequence, and their `pack_greedy` (4, B)."""
        given = torch.tensor(tokens, dtype=torch.int64)[:, None]
        key = (cache.keys[0].data_ptr(), len(cache.starts))
        if key != self._captured:
            self._tokens = given.to(cache.column.device)
            self._replay = self._capture(cache)
            self._captured = key
        self._tokens.copy_(given)
        self._replay()
        return self._found

    def _capture(self, cache: StaticKVCache) -> Callable[[], None]:
        step = partial(self._step, cache)
        if not self._tokens.is_cuda:
            return step
        column = cache.column.clone()
        # Libraries allocate their workspaces at first use, which must not happen in a capture.
        # What this warm-up writes, the first replay writes again.
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            step()
        torch.cuda.current_stream().wait_stream(stream)
        cache.column.copy_(column)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            step()
        return graph.replay

    def _step(self, cache: StaticKVCache) -> None:
        logits = self.network.advance(self._tokens, cache, self.network.plain)[:, 0]
        self._found = logits, pack_greedy(logits, self.rounding)
