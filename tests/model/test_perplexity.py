"""The loss protocol: summed nats over target tokens."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from pipeline.model.gpt import GPT, GPTConfig, initialise
from pipeline.model.perplexity import measure, window_losses
from pipeline.tokens.tokenizer import token_bytes
from pipeline.tokens.windows import Windows
from tests.helpers.tokens import write_split

CONFIG = GPTConfig(n_layer=1, n_head=2, n_embd=8, context_length=16, dropout=0.3)


@pytest.fixture
def windows(tmp_path: Path) -> Windows:
    tokens = np.random.default_rng(0).integers(0, 50257, 7 * 16 + 5).astype("<u2")
    return Windows.open(write_split(tmp_path, tokens), 16)


@pytest.fixture
def model() -> GPT:
    model = GPT(CONFIG)
    initialise(model, "gpt2", 0)
    return model


def test_a_model_that_knows_nothing(windows: Windows, model: GPT) -> None:
    torch.nn.init.zeros_(model.lm_head.weight)
    losses = measure(model, windows, 2)
    assert losses.loss == pytest.approx(math.log(50257), rel=1e-6)
    assert losses.perplexity == pytest.approx(50257, rel=1e-4)
    assert (losses.windows, losses.tokens) == (7, 112)


def test_equals_the_mean_over_all_targets_for_any_batch_size(windows: Windows, model: GPT) -> None:
    inputs, targets = windows.batch(range(7))
    with torch.no_grad():
        logits = model.eval()(inputs)
    expected = F.cross_entropy(logits.flatten(0, 1), targets.flatten()).item()
    for batch_size in (1, 3, 7, 100):  # 3 leaves a short last batch
        assert measure(model, windows, batch_size).loss == pytest.approx(expected, rel=1e-6)


def test_bits_per_byte_counts_the_targets_bytes(windows: Windows, model: GPT) -> None:
    losses = measure(model, windows, 4)
    targets = windows.tokens.read(1, 7 * 16 + 1)
    size = sum(len(token_bytes(int(token))) for token in targets)
    expected = losses.loss * losses.tokens / math.log(2) / size
    assert losses.bits_per_byte == pytest.approx(expected)


def test_dropout_is_off_and_the_mode_kept(windows: Windows, model: GPT) -> None:
    model.train()
    before = torch.get_rng_state()
    assert measure(model, windows, 4) == measure(model, windows, 4)
    assert model.training
    assert torch.equal(torch.get_rng_state(), before)


def test_some_windows_only(windows: Windows, model: GPT) -> None:
    by_token = window_losses(model, windows, range(7))
    assert by_token.shape == (7, 16)
    some = measure(model, windows, 2, indices=range(3))
    assert some.tokens == 48
    assert some.loss == pytest.approx(by_token[:3].mean().item(), rel=1e-5)
