"""The model's forward pass for decoding, on its parameters as plain tensors.

It computes what `GPT.forward` computes in evaluation mode, and never drops anything out, so the
module's own mode does not matter.

Shapes: B sequences, T tokens, C = n_embd, H = n_head, D = C / H, V = vocab_size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.generation.kv_cache import KVCache
from pipeline.generation.step_weights import PackedWeights, pack
from pipeline.model.gpt import GPT

Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]
Window = TypeVar("Window", bound=Sequence[int])

PREFILL_BATCH = 8  # whole contexts in one pass; bounds the memory of a pass, not its result


class Network:
    """A GPT's passes over whole contexts, and over the next tokens of a KV cache.

    Whole contexts are computed with the model's own weights and `nn.Linear`'s kernel; the tokens
    that follow them, with whichever `PackedWeights` are given.
    """

    def __init__(self, model: GPT) -> None:
        self.config = model.config
        self.wte = model.wte.weight.detach()
        self.wpe = model.wpe.weight.detach()
        self.plain = pack(model, "plain")

    def prefill(self, prompts: Sequence[Sequence[int]], cache: KVCache) -> Tensor:
        """Compute every different prompt once and fill the cache; logits (B, V) that follow."""
        by_length: dict[int, dict[tuple[int, ...], list[int]]] = {}
        for i, prompt in enumerate(prompts):
            by_length.setdefault(len(prompt), {}).setdefault(tuple(prompt), []).append(i)
        logits = self.wte.new_empty(len(prompts), self.config.vocab_size, dtype=torch.float32)
        for same_length in by_length.values():
            for windows in _chunks(list(same_length)):
                targets = [i for window in windows for i in same_length[window]]
                source = [i for i, window in enumerate(windows) for _ in same_length[window]]

                def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
                    cache.fill(layer, targets, k[source], v[source])  # noqa: B023, called below
                    return _attend_causally(layer, q, k, v)

                logits[targets] = self._last(self._embed(windows), attend)[source]
        return logits

    def last_logits(self, windows: Sequence[Sequence[int]]) -> Tensor:
        """Logits (B, V) that follow windows of one length, computed without a cache."""
        chunks = [self._last(self._embed(some), _attend_causally) for some in _chunks(windows)]
        return torch.cat(chunks)

    def reference_logits(self, window: Sequence[int]) -> Tensor:
        """Logits (V,) that follow one window, bit for bit those of `GPT.forward` on it alone."""
        hidden = self._run(self.plain, self._embed([window]), _attend_causally)
        return self.plain.head(hidden)[0, -1].float()

    def advance(self, tokens: Tensor, cache: KVCache, weights: PackedWeights) -> Tensor:
        """Append tokens (B, T) to the cache; logits (B, T, V) that follow each."""
        B, T = tokens.shape
        mask = cache.mask(T)

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            keys, values = cache.append(layer, k, v)
            y = F.scaled_dot_product_attention(q.to(keys.dtype), keys, values, attn_mask=mask)
            return y.to(q.dtype)

        x = self.wte[tokens] + self.wpe[cache.positions(T)]
        hidden = self._run(weights, x, attend)
        cache.advance(T)
        return weights.head(hidden.view(B * T, -1)).view(B, T, -1).float()

    def _embed(self, windows: Sequence[Sequence[int]]) -> Tensor:
        ids = torch.tensor(windows, dtype=torch.int64, device=self.wte.device)
        return self.wte[ids] + self.wpe[: ids.shape[1]]

    def _last(self, x: Tensor, attend: Attend) -> Tensor:
        return self.plain.head(self._run(self.plain, x, attend)[:, -1]).float()

    def _run(self, weights: PackedWeights, x: Tensor, attend: Attend) -> Tensor:
        """All blocks and the last norm: (B, T, C) to (B, T, C)."""
        B, T, C = x.shape
        H = self.config.n_head
        for index, block in enumerate(weights.blocks):
            qkv = block.c_attn(block.ln_1(x)).view(B, T, 3, H, C // H)
            q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each (B, H, T, D)
            y = attend(index, q, k, v).transpose(1, 2).reshape(B, T, C)
            x = x + block.attn_proj(y)
            x = x + block.mlp_proj(F.gelu(block.c_fc(block.ln_2(x)), approximate="tanh"))
        return weights.ln_f(x)


def _attend_causally(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


def _chunks(windows: Sequence[Window]) -> Iterator[Sequence[Window]]:
    for start in range(0, len(windows), PREFILL_BATCH):
        yield windows[start : start + PREFILL_BATCH]
