"""Model FLOPs against a count by PyTorch, and the peaks by their cards' names."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from pipeline.model.gpt import GPT
from pipeline.model.runtime import Runtime
from pipeline.training.throughput import Meter, flops_per_token, peak_flops


@pytest.mark.parametrize("tied", [False, True])
def test_flops_are_those_that_pytorch_counts(config, tied: bool) -> None:
    model = GPT(replace(config, dropout=0.0, tie_weights=tied))
    tokens = torch.zeros((3, config.context_length), dtype=torch.int64)
    counter = FlopCounterMode(display=False)
    with counter, torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        model(tokens).sum().backward()
    assert counter.get_total_flops() == flops_per_token(model) * tokens.numel()


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA A10G", 70e12),
        ("NVIDIA L4", 121e12),
        ("NVIDIA L40S", 362e12),
        ("NVIDIA RTX A1000", None),
        ("NVIDIA L40", 181e12),
    ],
)
def test_peaks_go_by_whole_words(name: str, peak: float | None) -> None:
    assert peak_flops(name) == peak


def test_a_cpu_has_neither_utilisation_nor_gpu_memory(config) -> None:
    meter = Meter(GPT(config), Runtime(torch.device("cpu"), bf16=True))
    assert meter.mfu(1e6) is None
    assert meter.memory_megabytes() is None
