"""Keys and values of the tokens so far, in memory that is allocated once.

Shapes: B rows, H = n_head, D = n_embd / n_head, T tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pipeline.model.gpt import GPTConfig


class Cache:
    """Every layer's keys and values, for rows that all end in the same column.

    Shorter rows start further right, so a step writes one column and reads one slice; the columns
    before a row's start are masked.
    """

    def __init__(
        self, config: GPTConfig, lengths: Sequence[int], steps: int, *, like: Tensor
    ) -> None:
        """Make room for rows of these lengths and `steps` more tokens, on `like`'s device."""
        self.end = max(lengths, default=0)
        starts = [self.end - length for length in lengths]
        ends = [min(config.context_length, length + steps) for length in lengths]
        columns = max((start + end for start, end in zip(starts, ends, strict=True)), default=0)
        shape = (len(lengths), config.n_head, columns, config.n_embd // config.n_head)
        # Zeros: a masked column counts nothing, but nothing times NaN would be NaN.
        self.keys = [like.new_zeros(shape) for _ in range(config.n_layer)]
        self.values = [like.new_zeros(shape) for _ in range(config.n_layer)]
        self.starts = torch.tensor(starts, dtype=torch.int64, device=like.device)
        self.ragged = any(starts)

    def fill(self, layer: int, rows: Sequence[int], key: Tensor, value: Tensor) -> None:
        """Write whole prompts, (n, H, T, D) for n rows of one length."""
        span = slice(self.end - key.shape[2], self.end)
        self.keys[layer][rows, :, span] = key
        self.values[layer][rows, :, span] = value

    def positions(self) -> Tensor:
        """(B,): where in its context each row's next token stands."""
        return self.end - self.starts

    def mask(self) -> Tensor | None:
        """(B, 1, 1, columns) to add to the scores; `None` where every row sees all columns."""
        if not self.ragged:
            return None
        columns = torch.arange(self.end + 1, device=self.starts.device)
        return self._scores(columns >= self.starts[:, None])

    def append(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Write (B, H, 1, D) into the next column; return all columns to attend to."""
        keys, values, stop = self.keys[layer], self.values[layer], self.end + 1
        keys[:, :, self.end : stop] = key
        values[:, :, self.end : stop] = value
        return keys[:, :, :stop], values[:, :, :stop]

    def advance(self) -> None:
        """The next column has been written by every layer."""
        self.end += 1

    def keep(self, rows: Sequence[int]) -> None:
        """Drop all rows but these."""
        index = torch.tensor(rows, dtype=torch.int64, device=self.starts.device)
        self.keys = [tensor[index] for tensor in self.keys]
        self.values = [tensor[index] for tensor in self.values]
        self.starts = self.starts[index]

    def _scores(self, seen: Tensor) -> Tensor:
        scores = self.keys[0].new_zeros(seen.shape).masked_fill_(~seen, -torch.inf)
        return scores[:, None, None]
