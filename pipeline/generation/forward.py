"""The model's forward pass for decoding, on its parameters as plain tensors.

It computes what `GPT.forward` computes in evaluation mode, and never drops anything out, so the
module's own mode does not matter.

Shapes: B rows, T tokens, C = n_embd, H = n_head, D = C / H, V = vocab_size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.generation import matmul_kernels as products
from pipeline.generation.kv_cache import Cache
from pipeline.generation.matmul_kernels import Product
from pipeline.model.gpt import GPT, Block

Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]
Norm = Callable[[Tensor], Tensor]
Window = TypeVar("Window", bound=Sequence[int])

ROWS_AT_ONCE = 8  # whole contexts in one pass; bounds the memory of a pass, not its result


class Network:
    """A GPT's passes over whole contexts, and over the next tokens of a cache.

    Whole contexts are computed with the model's own weights and kernels; what follows them, with
    whichever `Weights` are given.
    """

    def __init__(self, model: GPT) -> None:
        self.config = model.config
        self.wte = model.wte.weight.detach()
        self.wpe = model.wpe.weight.detach()
        self.ln_f = _norm(model.ln_f)
        self.plain = pack(model, "plain")

    def prefill(self, prompts: Sequence[Sequence[int]], cache: Cache) -> Tensor:
        """Compute every different prompt once and fill the cache; logits (B, V) that follow."""
        rows_of: dict[int, dict[tuple[int, ...], list[int]]] = {}
        for row, prompt in enumerate(prompts):
            rows_of.setdefault(len(prompt), {}).setdefault(tuple(prompt), []).append(row)
        logits = self.wte.new_empty(len(prompts), self.config.vocab_size, dtype=torch.float32)
        for same_length in rows_of.values():
            for windows in _chunks(list(same_length)):
                rows = [row for window in windows for row in same_length[window]]
                source = [i for i, window in enumerate(windows) for _ in same_length[window]]

                def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
                    cache.fill(layer, rows, k[source], v[source])  # noqa: B023, called right here
                    return _attend_causally(layer, q, k, v)

                x = self._embed(windows)
                logits[rows] = self._last(x, attend)[source]
        return logits

    def last_logits(self, windows: Sequence[Sequence[int]]) -> Tensor:
        """Logits (B, V) that follow windows of one length, computed from nothing."""
        chunks = [self._last(self._embed(some), _attend_causally) for some in _chunks(windows)]
        return torch.cat(chunks)

    def reference_logits(self, window: Sequence[int]) -> Tensor:
        """Logits (V,) that follow one window, bit for bit those of `GPT.forward` on it alone."""
        hidden = self._run(self.plain.layers, self._embed([window]), _attend_causally)
        return self.plain.head(hidden)[0, -1].float()

    def advance(self, tokens: Tensor, cache: Cache, weights: Weights) -> Tensor:
        """Append tokens (B, T) to the cache; logits (B, T, V) that follow each."""
        B, T = tokens.shape
        mask = cache.mask(T)

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            keys, values = cache.append(layer, k, v)
            y = F.scaled_dot_product_attention(q.to(keys.dtype), keys, values, attn_mask=mask)
            return y.to(q.dtype)

        x = self.wte[tokens] + self.wpe[cache.positions(T)]
        hidden = self._run(weights.layers, x, attend)
        cache.advance(T)
        return weights.head(hidden.view(B * T, -1)).view(B, T, -1).float()

    def _embed(self, windows: Sequence[Sequence[int]]) -> Tensor:
        ids = torch.tensor(windows, dtype=torch.int64, device=self.wte.device)
        return self.wte[ids] + self.wpe[: ids.shape[1]]

    def _last(self, x: Tensor, attend: Attend) -> Tensor:
        return self.plain.head(self._run(self.plain.layers, x, attend)[:, -1]).float()

    def _run(self, layers: Sequence[Layer], x: Tensor, attend: Attend) -> Tensor:
        """All layers and the last norm: (B, T, C) to (B, T, C)."""
        B, T, C = x.shape
        H = self.config.n_head
        for index, layer in enumerate(layers):
            qkv = layer.c_attn(layer.ln_1(x)).view(B, T, 3, H, C // H)
            q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each (B, H, T, D)
            y = attend(index, q, k, v).transpose(1, 2).reshape(B, T, C)
            x = x + layer.attn_proj(y)
            x = x + layer.mlp_proj(F.gelu(layer.c_fc(layer.ln_2(x)), approximate="tanh"))
        return self.ln_f(x)


class Layer(NamedTuple):
    """One block: its norms, and its four products in the order of their use."""

    ln_1: Norm
    c_attn: Product
    attn_proj: Product
    ln_2: Norm
    c_fc: Product
    mlp_proj: Product


class Weights(NamedTuple):
    """A model's products, all of one kind."""

    layers: list[Layer]
    head: Product


def pack(model: GPT, kind: products.Kind) -> Weights:
    """Make the model's products; kinds that copy the weights hold for as long as those do."""
    make = products.MAKERS[kind]

    def product(linear: nn.Linear) -> Product:
        return make(linear.weight.detach(), None if linear.bias is None else linear.bias.detach())

    layers = [
        Layer(
            _norm(block.ln_1),
            product(block.attn.c_attn),
            product(block.attn.c_proj),
            _norm(block.ln_2),
            product(block.mlp.c_fc),
            product(block.mlp.c_proj),
        )
        for block in cast(Iterable[Block], model.h)
    ]
    return Weights(layers, make(model.head_weight.detach(), None))


def _norm(norm: nn.LayerNorm) -> Norm:
    weight, bias = norm.weight.detach(), norm.bias.detach()
    shape, eps = norm.normalized_shape, norm.eps
    return lambda x: torch.layer_norm(x, shape, weight, bias, eps)


def _attend_causally(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


def _chunks(windows: Sequence[Window]) -> Iterator[Sequence[Window]]:
    for start in range(0, len(windows), ROWS_AT_ONCE):
        yield windows[start : start + ROWS_AT_ONCE]
