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

from pipeline.generation import products
from pipeline.generation.cache import Cache
from pipeline.generation.products import Precision, Product
from pipeline.model.gpt import GPT, Block

Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]
Norm = Callable[[Tensor], Tensor]
Window = TypeVar("Window", bound=Sequence[int])

ROWS_AT_ONCE = 8  # whole contexts in one pass; bounds the memory of a pass, not its result


class Network:
    """A GPT's parameters, laid out for decoding `rows` rows over `steps` steps.

    Whole contexts are computed with the model's own weights and kernels; only the steps use
    `precision` and the kernels that `products.choose` chooses.
    """

    def __init__(self, model: GPT, rows: int, steps: int, precision: Precision = "model") -> None:
        self.config = model.config
        self.wte = model.wte.weight.detach()
        self.wpe = model.wpe.weight.detach()
        self.ln_f = _norm(model.ln_f)
        self.layers = _layers(model, products.plain)
        self.head = products.plain(model.head_weight.detach(), None)
        make = products.choose(model, rows, steps, precision)
        self.step_layers = _layers(model, make)
        self.step_head = make(model.head_weight.detach(), None)

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
                logits[rows] = self.head(self._run(self.layers, x, attend)[:, -1]).float()[source]
        return logits

    def last_logits(self, windows: Sequence[Sequence[int]]) -> Tensor:
        """Logits (B, V) that follow windows of one length, computed from nothing."""
        return torch.cat(
            [
                self.head(self._run(self.layers, self._embed(some), _attend_causally)[:, -1])
                for some in _chunks(windows)
            ]
        ).float()

    def reference_logits(self, window: Sequence[int]) -> Tensor:
        """Logits (V,) that follow one window, bit for bit those of `GPT.forward` on it alone."""
        hidden = self._run(self.layers, self._embed([window]), _attend_causally)
        return self.head(hidden)[0, -1].float()

    def step(self, tokens: Tensor, cache: Cache) -> Tensor:
        """Append one token a row, (B,), to the cache; logits (B, V) that follow."""
        mask = cache.mask()

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            keys, values = cache.append(layer, k, v)
            return F.scaled_dot_product_attention(q, keys, values, attn_mask=mask)

        x = (self.wte[tokens] + self.wpe[cache.positions()])[:, None]
        hidden = self._run(self.step_layers, x, attend)
        cache.advance()
        return self.step_head(hidden[:, 0]).float()

    def _embed(self, windows: Sequence[Sequence[int]]) -> Tensor:
        ids = torch.tensor(windows, dtype=torch.int64, device=self.wte.device)
        return self.wte[ids] + self.wpe[: ids.shape[1]]

    def _run(self, layers: Sequence[_Layer], x: Tensor, attend: Attend) -> Tensor:
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


class _Layer(NamedTuple):
    """One block: its norms, and its four products in the order of their use."""

    ln_1: Norm
    c_attn: Product
    attn_proj: Product
    ln_2: Norm
    c_fc: Product
    mlp_proj: Product


def _layers(model: GPT, make: products.Make) -> list[_Layer]:
    def product(linear: nn.Linear) -> Product:
        return make(linear.weight.detach(), None if linear.bias is None else linear.bias.detach())

    return [
        _Layer(
            _norm(block.ln_1),
            product(block.attn.c_attn),
            product(block.attn.c_proj),
            _norm(block.ln_2),
            product(block.mlp.c_fc),
            product(block.mlp.c_proj),
        )
        for block in cast(Iterable[Block], model.h)
    ]


def _norm(norm: nn.LayerNorm) -> Norm:
    weight, bias = norm.weight.detach(), norm.bias.detach()
    return lambda x: F.layer_norm(x, norm.normalized_shape, weight, bias, norm.eps)


def _attend_causally(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


def _chunks(windows: Sequence[Window]) -> Iterator[Sequence[Window]]:
    for start in range(0, len(windows), ROWS_AT_ONCE):
        yield windows[start : start + ROWS_AT_ONCE]
