"""GPT-2's architecture: pre-norm blocks, learned positions, tanh GELU.

Parameter names are OpenAI's (`wte wpe h.N.ln_1 h.N.attn.c_attn …`); matrices are stored as
`nn.Linear` does, (out, in), the transpose of OpenAI's `[1, in, out]`. Two things differ from
OpenAI's release when asked to, as in the book: no bias on the fused query-key-value projection
(`qkv_bias=False`) and a head of its own (`tie_weights=False`, parameter `lm_head.weight`).

Shapes: B batch, T tokens, C = n_embd, H = n_head, D = C / H, V = vocab_size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn import init
from torch.overrides import TorchFunctionMode

from pipeline.model.attention import causal_attention
from pipeline.model.dropout import Dropout

GPT2_VOCAB_SIZE = 50257
NARROW_ON = {"cuda"}  # devices with a residual stream in bf16


@dataclass(frozen=True)
class GPTConfig:
    """What it takes to build a GPT; the defaults are the book's 124M."""

    n_layer: int = 12
    n_head: int = 12
    n_embd: int = 768
    context_length: int = 256
    vocab_size: int = GPT2_VOCAB_SIZE
    dropout: float = 0.1
    qkv_bias: bool = False
    tie_weights: bool = False


class CausalSelfAttention(nn.Module):
    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.n_head = config.n_head
        self.dropout = config.dropout
        self.c_attn = nn.Linear(config.n_embd, 3 * config.n_embd, bias=config.qkv_bias)
        self.c_proj = nn.Linear(config.n_embd, config.n_embd)

    def forward(self, x: Tensor) -> Tensor:
        B, T, C = x.shape
        qkv = self.c_attn(x).view(B, T, 3, self.n_head, C // self.n_head)
        y = causal_attention(qkv, self.dropout if self.training else 0.0)
        return cast(Tensor, self.c_proj(y))


class MLP(nn.Module):
    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.c_fc = nn.Linear(config.n_embd, 4 * config.n_embd)
        self.c_proj = nn.Linear(4 * config.n_embd, config.n_embd)

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.c_proj(F.gelu(self.c_fc(x), approximate="tanh")))


class Block(nn.Module):
    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.n_embd)
        self.attn = CausalSelfAttention(config)
        self.ln_2 = nn.LayerNorm(config.n_embd)
        self.mlp = MLP(config)
        self.drop = Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop(self.attn(self.ln_1(x)))
        x = x + self.drop(self.mlp(self.ln_2(x)))
        return x


class GPT(nn.Module):
    """A GPT. `forward` returns logits; `hidden` stops before the head."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.config = config
        self.wte = nn.Embedding(config.vocab_size, config.n_embd)
        self.wpe = nn.Embedding(config.context_length, config.n_embd)
        self.drop = Dropout(config.dropout)
        self.h = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.ln_f = nn.LayerNorm(config.n_embd)
        if not config.tie_weights:
            self.lm_head = nn.Linear(config.n_embd, config.vocab_size, bias=False)

    @property
    def padded_head_weight(self) -> Tensor:
        """(V', C): the head's own matrix, or the token embedding where they are tied.

        Rows from V on are padding, which a model has only for a quicker training.
        """
        return (self.wte if self.config.tie_weights else self.lm_head).weight

    @property
    def head_weight(self) -> Tensor:
        """(V, C): the rows that are tokens."""
        padded = self.padded_head_weight
        classes = self.config.vocab_size
        return padded if len(padded) == classes else padded[:classes]

    def hidden(self, tokens: Tensor) -> Tensor:
        """Token ids (B, T), T <= context_length, to the last layer norm's output (B, T, C)."""
        positions = self.wpe.weight[: tokens.shape[1]]  # (T, C)
        assert len(positions) == tokens.shape[1], "more tokens than positions"
        x = self.drop(_narrowed(self.wte(tokens) + positions))
        for block in self.h:
            x = block(x)
        return _narrowed(self.ln_f(x))

    def forward(self, tokens: Tensor) -> Tensor:
        """Token ids (B, T) to logits (B, T, V)."""
        return F.linear(self.hidden(tokens), self.head_weight)

    def count_parameters(self) -> int:
        """All of them, a tied head counted once."""
        return sum(p.numel() for p in self.parameters())


def _narrowed(x: Tensor) -> Tensor:
    """`x` in the type of autocast's products, where that is on and memory is what steps wait for.

    With it the residual stream is, so that additions, dropout and layer norms move half the bytes.
    Under autocast layer norms compute in fp32, which compiled ones keep to themselves.
    """
    device = x.device.type
    if device in NARROW_ON and torch.is_autocast_enabled(device):
        return x.to(torch.get_autocast_dtype(device))
    return x


def meta_model(config: GPTConfig) -> GPT:
    """A GPT on the meta device, to be given its weights by `load_state_dict(assign=True)`."""
    with torch.device("meta"), _SkipInit():
        return GPT(config)


class _SkipInit(TorchFunctionMode):
    """Skips the drawing of initial weights, which on the meta device imports half of torch.

    That is a second and 80 MB for numbers that are never used.
    """

    DRAWS = (init.normal_, init.uniform_, init.kaiming_uniform_)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in self.DRAWS:
            return kwargs["tensor"]
        return func(*args, **(kwargs or {}))


def initialise(model: GPT, scheme: Literal["pytorch", "gpt2"], seed: int) -> None:
    """Draw all weights anew, in place, from a generator of their own.

    `pytorch` is each layer's own default, with embeddings from N(0, 1): what the book trains.
    `gpt2` is N(0, 0.02), the two projections into the residual stream scaled by
    1 / sqrt(2 n_layer), biases zero (GPT-2 paper, section 2.3).
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for module in model.modules():
            if isinstance(module, nn.Linear | nn.Embedding | nn.LayerNorm):
                module.reset_parameters()
        if scheme == "gpt2":
            _initialise_as_gpt2(model)


def _initialise_as_gpt2(model: GPT) -> None:
    for name, parameter in model.named_parameters():
        if parameter.dim() >= 2:
            scale = 1.0
            if name.endswith("c_proj.weight"):
                scale = 1 / math.sqrt(2 * model.config.n_layer)
            init.normal_(parameter, mean=0.0, std=0.02 * scale)
        elif name.endswith(".bias"):
            init.zeros_(parameter)
