"""The model's forward pass for decoding, on its parameters as plain tensors.

It computes what `GPT.forward` computes in evaluation mode, and never drops anything out, so the
module's own mode does not matter.

Shapes: B sequences, T tokens, C = n_embd, H = n_head, D = C / H, V = vocab_size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.generation.kv_cache import KVCache
from pipeline.generation.matmul_kernels import KERNELS, Kernel, MatMul
from pipeline.model.gpt import GPT, Block

Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]
Norm = Callable[[Tensor], Tensor]
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
        self.ln_f = _norm(model.ln_f)
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
        hidden = self._run(self.plain.blocks, self._embed([window]), _attend_causally)
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
        hidden = self._run(weights.blocks, x, attend)
        cache.advance(T)
        return weights.head(hidden.view(B * T, -1)).view(B, T, -1).float()

    def _embed(self, windows: Sequence[Sequence[int]]) -> Tensor:
        ids = torch.tensor(windows, dtype=torch.int64, device=self.wte.device)
        return self.wte[ids] + self.wpe[: ids.shape[1]]

    def _last(self, x: Tensor, attend: Attend) -> Tensor:
        return self.plain.head(self._run(self.plain.blocks, x, attend)[:, -1]).float()

    def _run(self, blocks: Sequence[PackedBlock], x: Tensor, attend: Attend) -> Tensor:
        """All blocks and the last norm: (B, T, C) to (B, T, C)."""
        B, T, C = x.shape
        H = self.config.n_head
        for index, block in enumerate(blocks):
            qkv = block.c_attn(block.ln_1(x)).view(B, T, 3, H, C // H)
            q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each (B, H, T, D)
            y = attend(index, q, k, v).transpose(1, 2).reshape(B, T, C)
            x = x + block.attn_proj(y)
            x = x + block.mlp_proj(F.gelu(block.c_fc(block.ln_2(x)), approximate="tanh"))
        return self.ln_f(x)


class PackedBlock(NamedTuple):
    """One block's norms and matmuls, in the order of their use."""

    ln_1: Norm
    c_attn: MatMul
    attn_proj: MatMul
    ln_2: Norm
    c_fc: MatMul
    mlp_proj: MatMul


class PackedWeights(NamedTuple):
    """A model's matmuls, all by one kernel."""

    blocks: list[PackedBlock]
    head: MatMul


def pack(model: GPT, kernel: Kernel) -> PackedWeights:
    """Prepare the model's weights for a kernel; copies are valid until the weights change."""
    make = KERNELS[kernel]

    def matmul(linear: nn.Linear) -> MatMul:
        return make(linear.weight.detach(), None if linear.bias is None else linear.bias.detach())

    blocks = [
        PackedBlock(
            _norm(block.ln_1),
            matmul(block.attn.c_attn),
            matmul(block.attn.c_proj),
            _norm(block.ln_2),
            matmul(block.mlp.c_fc),
            matmul(block.mlp.c_proj),
        )
        for block in cast(Iterable[Block], model.h)
    ]
    return PackedWeights(blocks, make(model.head_weight.detach(), None))


def _norm(norm: nn.LayerNorm) -> Norm:
    weight, bias = norm.weight.detach(), norm.bias.detach()
    shape, eps = norm.normalized_shape, norm.eps
    return lambda x: torch.layer_norm(x, shape, weight, bias, eps)


def _attend_causally(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


def _chunks(windows: Sequence[Window]) -> Iterator[Sequence[Window]]:
    for start in range(0, len(windows), PREFILL_BATCH):
        yield windows[start : start + PREFILL_BATCH]
