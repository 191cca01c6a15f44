"""A decoding step as one CUDA graph: one launch instead of some hundred.

In small batches a step's kernels are shorter than the time to launch them one by one. A graph
replays them on fixed addresses, so nothing that changes from step to step may be a Python number:
the column that is written is a tensor, and attention runs over all columns, those to come masked.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

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
        self.columns = torch.arange(self.keys[0].shape[2], device=like.device)

    def positions(self, count: int) -> Tensor:
        assert count == 1, "a graph writes one column"
        return self.column - self.starts[:, None]

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


class CapturedStep:
    """`Network.advance` by one token per sequence, captured for one cache and replayed.

    The logits that it returns are overwritten by its next call.
    """

    def __init__(self, network: Network) -> None:
        self.network = network
        self._captured: tuple[int, int] | None = None  # the cache's address and batch size

    def __call__(self, tokens: Tensor, cache: StaticKVCache) -> Tensor:
        """As `Network.advance`, tokens (B, 1)."""
        key = (cache.keys[0].data_ptr(), len(cache.starts))
        if key != self._captured:
            self._capture(tokens, cache)
            self._captured = key
        self._tokens.copy_(tokens)
        self._graph.replay()
        return self._logits

    def _capture(self, tokens: Tensor, cache: StaticKVCache) -> None:
        self._tokens = tokens.clone()
        column = cache.column.clone()
        # Libraries allocate their workspaces at first use, which must not happen in a capture.
        # What this warm-up writes, the first replay writes again.
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            self._step(cache)
        torch.cuda.current_stream().wait_stream(stream)
        cache.column.copy_(column)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._logits = self._step(cache)

    def _step(self, cache: StaticKVCache) -> Tensor:
        return self.network.advance(self._tokens, cache, self.network.plain)
