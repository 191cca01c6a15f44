"""The model's forward pass for decoding: parameters as plain tensors, a preallocated cache.

It computes what `GPT.forward` computes in evaluation mode, for the last position only, and never
drops anything out, so the module's own mode does not matter.

Shapes: B batch, T tokens, C = n_embd, H = n_head, D = C / H, V = vocab_size, L = columns of the
cache.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.model.gpt import GPT, Block

Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]

ROWS_AT_ONCE = 8  # full contexts in one pass; bounds the memory of a pass, not its result


class Cache:
    """Keys and values of every layer for rows that all end in the same column.

    Shorter rows start further right, so a step writes one column and reads one slice; the columns
    before a row's start are masked.
    """

    def __init__(self, network: Network, lengths: Sequence[int], steps: int) -> None:
        config = network.config
        self.end = max(lengths, default=0)
        starts = [self.end - length for length in lengths]
        room = [start + min(config.context_length, length + steps)
                for start, length in zip(starts, lengths, strict=True)]  # fmt: skip
        shape = (len(lengths), config.n_head, max(room, default=0), config.n_embd // config.n_head)
        like = network.wte
        self.keys = [like.new_empty(shape) for _ in range(config.n_layer)]
        self.values = [like.new_empty(shape) for _ in range(config.n_layer)]
        self.starts = torch.tensor(starts, dtype=torch.int64, device=like.device)
        self.ragged = any(starts)
        for tensor in self.keys + self.values if self.ragged else []:
            tensor.zero_()  # masked columns are multiplied by 0, and 0 times rubbish may be NaN

    def fill(self, layer: int, row: Sequence[int], key: Tensor, value: Tensor) -> None:
        """Write whole prompts, (n, H, T, D) for n rows."""
        span = slice(self.end - key.shape[2], self.end)
        self.keys[layer][row, :, span] = key
        self.values[layer][row, :, span] = value

    def append(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Write (B, H, 1, D) into the next column; return everything up to it."""
        self.keys[layer][:, :, self.end : self.end + 1] = key
        self.values[layer][:, :, self.end : self.end + 1] = value
        return self.keys[layer][:, :, : self.end + 1], self.values[layer][:, :, : self.end + 1]

    def mask(self) -> Tensor | None:
        """(B, 1, 1, end + 1), True where a row may look; `None` where it may look everywhere."""
        if not self.ragged:
            return None
        columns = torch.arange(self.end + 1, device=self.starts.device)
        return (columns >= self.starts[:, None])[:, None, None]

    def keep(self, rows: Sequence[int]) -> None:
        """Drop all rows but these."""
        index = torch.tensor(rows, dtype=torch.int64, device=self.starts.device)
        self.keys = [tensor[index] for tensor in self.keys]
        self.values = [tensor[index] for tensor in self.values]
        self.starts = self.starts[index]


class Network:
    """A GPT's parameters, laid out for decoding."""

    def __init__(self, model: GPT) -> None:
        self.config = model.config
        self.wte = model.wte.weight.detach()
        self.wpe = model.wpe.weight.detach()
        self.blocks: list[Block] = list(model.h)  # type: ignore[arg-type]
        self.ln_f = model.ln_f
        self.head = model.head_weight.detach()

    def prefill(self, prompts: Sequence[Sequence[int]], cache: Cache) -> Tensor:
        """Compute every different prompt once and fill the cache; logits (B, V) that follow."""
        rows_of: dict[int, dict[tuple[int, ...], list[int]]] = {}
        for row, prompt in enumerate(prompts):
            rows_of.setdefault(len(prompt), {}).setdefault(tuple(prompt), []).append(row)
        logits = self.wte.new_empty(len(prompts), self.config.vocab_size)
        for same_length in rows_of.values():
            windows = list(same_length)
            for start in range(0, len(windows), ROWS_AT_ONCE):
                some = windows[start : start + ROWS_AT_ONCE]
                rows = [row for window in some for row in same_length[window]]
                source = [i for i, window in enumerate(some) for _ in same_length[window]]

                def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
                    cache.fill(layer, rows, k[source], v[source])  # noqa: B023
                    return F.scaled_dot_product_attention(q, k, v, is_causal=True)

                logits[rows] = self._last_logits(some, attend)[source]
        return logits

    def last_logits(self, windows: Sequence[Sequence[int]]) -> Tensor:
        """Logits (B, V) that follow windows of one length, computed from nothing."""

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            return F.scaled_dot_product_attention(q, k, v, is_causal=True)

        starts = range(0, len(windows), ROWS_AT_ONCE)
        return torch.cat([self._last_logits(windows[i : i + ROWS_AT_ONCE], attend) for i in starts])

    def step(self, tokens: Sequence[int], cache: Cache) -> Tensor:
        """Append one token a row to the cache; logits (B, V) that follow."""
        ids = torch.tensor(tokens, dtype=torch.int64, device=self.wte.device)
        positions = cache.end - cache.starts
        mask = cache.mask()

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            keys, values = cache.append(layer, k, v)
            return F.scaled_dot_product_attention(q, keys, values, attn_mask=mask)

        x = self._hidden((self.wte[ids] + self.wpe[positions])[:, None], attend)
        cache.end += 1
        return F.linear(x[:, -1], self.head)

    def _last_logits(self, windows: Sequence[Sequence[int]], attend: Attend) -> Tensor:
        ids = torch.tensor(windows, dtype=torch.int64, device=self.wte.device)
        x = self._hidden(self.wte[ids] + self.wpe[: ids.shape[1]], attend)
        return F.linear(x[:, -1], self.head)

    def _hidden(self, x: Tensor, attend: Attend) -> Tensor:
        B, T, C = x.shape
        H = self.config.n_head
        for layer, block in enumerate(self.blocks):
            qkv = block.attn.c_attn(block.ln_1(x)).view(B, T, 3, H, C // H)
            q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each (B, H, T, D)
            y = attend(layer, q, k, v).transpose(1, 2).reshape(B, T, C)
            x = x + block.attn.c_proj(y)
            x = x + block.mlp(block.ln_2(x))
        return cast(Tensor, self.ln_f(x))
