"""How much of the hardware a training uses: tokens per second, model FLOPs, memory."""

from __future__ import annotations

import re

import torch
from torch import nn

from pipeline.model.gpt import GPT
from pipeline.model.runtime import Runtime

# Dense bf16 FLOP/s from NVIDIA's data sheets, by words of the name that CUDA gives; the first
# entry that fits counts, so cards slower than the SXM one of the same name come first.
PEAKS = (
    ("H100 PCIe", 756e12),
    ("H100 NVL", 835e12),
    ("H100", 989e12),
    ("H200", 989e12),
    ("GH200", 989e12),
    ("B200", 2250e12),
    ("A100", 312e12),
    ("L40S", 362e12),
    ("L40", 181e12),
    ("L4", 121e12),
    ("A10G", 70e12),
    ("A10", 125e12),
    ("RTX 4090", 165e12),
    ("RTX 3090", 71e12),
)


def flops_per_token(model: GPT) -> int:
    """FLOPs of a forward and backward pass: 6 a weight of every product, and attention's.

    Attention counts in full, as though it were not causal: the convention of the PaLM paper
    (appendix B), by which others report utilisation too. Embeddings look up and multiply
    nothing; a tied one counts as the head that it is.
    """
    config = model.config
    products = sum(m.weight.numel() for m in model.modules() if isinstance(m, nn.Linear))
    if config.tie_weights:
        products += model.wte.weight.numel()
    return 6 * products + 12 * config.n_layer * config.n_embd * config.context_length


def peak_flops(name: str) -> float | None:
    """Dense bf16 FLOP/s of the GPU of this name; None for one that `PEAKS` lacks."""
    return next((flops for words, flops in PEAKS if re.search(rf"\b{words}\b", name)), None)


class Meter:
    """Model-FLOPs utilisation and memory of a CUDA training; None elsewhere."""

    def __init__(self, model: GPT, runtime: Runtime, devices: int = 1) -> None:
        self._device = runtime.device
        self._cuda = runtime.device.type == "cuda"
        peak = None
        if self._cuda and runtime.bf16:
            peak = peak_flops(torch.cuda.get_device_name(runtime.device))
        self._peak = peak and peak * devices
        self._flops = flops_per_token(model)

    def mfu(self, tokens_per_second: float) -> float | None:
        """The share of the hardware's bf16 peak that the model's own FLOPs are."""
        return self._flops * tokens_per_second / self._peak if self._peak else None

    def memory_megabytes(self) -> float | None:
        """The most that tensors have taken on the GPU so far, in millions of bytes."""
        return torch.cuda.max_memory_allocated(self._device) / 1e6 if self._cuda else None
