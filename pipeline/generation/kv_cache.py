"""The KV cache: keys and values of the tokens so far, in memory that is allocated once.

Shapes: B sequences, H = n_head, D = n_embd / n_head, T tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pipeline.model.gpt import GPTConfig


class KVCache:
    """Every layer's keys and values, for sequences that all end in the same column.

    Shorter sequences start further right, so a step writes one column and reads one slice; the
    columns before a sequence's start are masked.

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
        max_sequences: int | None = None,
    ) -> None:
        """Make room for sequences of these lengths and `steps` more tokens, on `like`'s device.

        Args:
            max_sequences: sequences that there may come to be; as many as lengths by default.
        """
        self.end = max(lengths, default=0)
        starts = [self.end - length for length in lengths]
        ends = [min(config.context_length, length + steps) for length in lengths]
        columns = max((start + end for start, end in zip(starts, ends, strict=True)), default=0)
        size = max_sequences or len(lengths)
        shape = (size, config.n_head, columns, config.n_embd // config.n_head)
        dtype = torch.promote_types(like.dtype, torch.float32) if like.is_cpu else like.dtype
        # Zeros: a masked column counts nothing, but nothing times NaN would be NaN.
        self._keys = [like.new_zeros(shape, dtype=dtype) for _ in range(config.n_layer)]
        self._values = [like.new_zeros(shape, dtype=dtype) for _ in range(config.n_layer)]
        self._use(len(lengths))
        self.starts = torch.tensor(starts, dtype=torch.int64, device=like.device)
        self.ragged = any(starts)

    def fill(self, layer: int, sequences: Sequence[int], key: Tensor, value: Tensor) -> None:
        """Write whole prompts, (n, H, T, D) for n sequences of one length."""
        span = slice(self.end - key.shape[2], self.end)
        self.keys[layer][sequences, :, span] = key.to(self.keys[layer].dtype)
        self.values[layer][sequences, :, span] = value.to(self.values[layer].dtype)

    def positions(self, count: int) -> Tensor:
        """(B, count): the positions of each sequence's next tokens in its context."""
        columns = torch.arange(self.end, self.end + count, device=self.starts.device)
        return columns - self.starts[:, None]

    def mask(self, count: int) -> Tensor | None:
        """(B, 1, count, columns) to add to the scores; `None` where nothing is masked."""
        if count == 1 and not self.ragged:
            return None
        columns = torch.arange(self.end + count, device=self.starts.device)
        seen = columns >= self.starts[:, None, None]  # (B, 1, columns)
        return self._additive(seen & (columns <= columns[self.end :, None]))

    def append(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Write (B, H, T, D) into the next columns; return all columns to attend to."""
        keys, values, stop = self.keys[layer], self.values[layer], self.end + key.shape[2]
        keys[:, :, self.end : stop] = key
        values[:, :, self.end : stop] = value
        return keys[:, :, :stop], values[:, :, :stop]

    def advance(self, count: int) -> None:
        """Move past `count` columns that every layer has written."""
        self.end += count

    def rewind(self, end: int) -> None:
        """Drop the columns from `end` on; they will be written again."""
        assert end <= self.end
        self.end = end

    def select(self, sequences: Sequence[int]) -> None:
        """Go on with these sequences in this order; one that is named twice goes on as two."""
        index = torch.tensor(sequences, dtype=torch.int64, device=self.starts.device)
        count = len(sequences)
        # The first ones that keep their places are not copied.
        unmoved = next((i for i, place in enumerate(sequences) if place != i), count)
        for tensor in self._keys + self._values:
            tensor[unmoved:count] = tensor[index[unmoved:]]
        self._use(count)
        self.starts = self.starts[index]

    def _use(self, count: int) -> None:
        self.keys = [tensor[:count] for tensor in self._keys]
        self.values = [tensor[:count] for tensor in self._values]

    def _additive(self, seen: Tensor) -> Tensor:
        """(B, T, columns) of what is seen, as an additive mask (B, 1, T, columns)."""
        mask = self.keys[0].new_zeros(seen.shape).masked_fill_(~seen, -torch.inf)
        return mask[:, None]
