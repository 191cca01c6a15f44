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

    On a CPU they are fp32, whatever the weights are: PyTorch's attention of one query takes twice
    as long over bf16, though that is half the memory.
    """

    def __init__(
        self,
        config: GPTConfig,
        lengths: Sequence[int],
        steps: int,
        *,
        like: Tensor,
        most: int | None = None,
    ) -> None:
        """Make room for rows of these lengths and `steps` more tokens, on `like`'s device.

        Args:
            most: rows that there may come to be; as many as lengths by default.
        """
        self.end = max(lengths, default=0)
        starts = [self.end - length for length in lengths]
        ends = [min(config.context_length, length + steps) for length in lengths]
        columns = max((start + end for start, end in zip(starts, ends, strict=True)), default=0)
        shape = (most or len(lengths), config.n_head, columns, config.n_embd // config.n_head)
        dtype = torch.promote_types(like.dtype, torch.float32) if like.is_cpu else like.dtype
        # Zeros: a masked column counts nothing, but nothing times NaN would be NaN.
        self._keys = [like.new_zeros(shape, dtype=dtype) for _ in range(config.n_layer)]
        self._values = [like.new_zeros(shape, dtype=dtype) for _ in range(config.n_layer)]
        self._use(len(lengths))
        self.starts = torch.tensor(starts, dtype=torch.int64, device=like.device)
        self.ragged = any(starts)

    def fill(self, layer: int, rows: Sequence[int], key: Tensor, value: Tensor) -> None:
        """Write whole prompts, (n, H, T, D) for n rows of one length."""
        span = slice(self.end - key.shape[2], self.end)
        self.keys[layer][rows, :, span] = key.to(self.keys[layer].dtype)
        self.values[layer][rows, :, span] = value.to(self.values[layer].dtype)

    def positions(self, count: int) -> Tensor:
        """(B, count): where in its context each row's next tokens stand."""
        columns = torch.arange(self.end, self.end + count, device=self.starts.device)
        return columns - self.starts[:, None]

    def mask(self, count: int) -> Tensor | None:
        """(B, 1, count, columns) to add to the scores; `None` where all is seen."""
        if count == 1 and not self.ragged:
            return None
        columns = torch.arange(self.end + count, device=self.starts.device)
        seen = columns >= self.starts[:, None, None]  # (B, 1, columns)
        return self._scores(seen & (columns <= columns[self.end :, None]))

    def append(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Write (B, H, T, D) into the next columns; return all columns to attend to."""
        keys, values, stop = self.keys[layer], self.values[layer], self.end + key.shape[2]
        keys[:, :, self.end : stop] = key
        values[:, :, self.end : stop] = value
        return keys[:, :, :stop], values[:, :, :stop]

    def advance(self, count: int) -> None:
        """The next columns have been written by every layer."""
        self.end += count

    def rewind(self, end: int) -> None:
        """Forget the columns from `end` on; they will be written anew."""
        assert end <= self.end
        self.end = end

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these rows in this order; one that is named twice goes on as two."""
        index = torch.tensor(rows, dtype=torch.int64, device=self.starts.device)
        same = next((i for i, row in enumerate(rows) if row != i), len(rows))  # stay where they are
        for tensor in self._keys + self._values:
            tensor[same : len(rows)] = tensor[index[same:]]
        self._use(len(rows))
        self.starts = self.starts[index]

    def _use(self, rows: int) -> None:
        self.keys = [tensor[:rows] for tensor in self._keys]
        self.values = [tensor[:rows] for tensor in self._values]

    def _scores(self, seen: Tensor) -> Tensor:
        """(B, T, columns) of what is seen, as numbers to add."""
        scores = self.keys[0].new_zeros(seen.shape).masked_fill_(~seen, -torch.inf)
        return scores[:, None]
