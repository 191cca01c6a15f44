"""Tiny models for decoding, one thread each."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch

from pipeline.model.gpt import GPT, GPTConfig, initialise

TINY = GPTConfig(
    n_layer=2, n_head=2, n_embd=16, context_length=12, vocab_size=61, dropout=0.5, qkv_bias=True
)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Threads only wait for each other over models as small as these."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def tiny() -> Callable[..., GPT]:
    """Builds models with spread-out logits, so that their choices are choices."""

    def build(seed: int = 0, **changes: object) -> GPT:
        model = GPT(GPTConfig(**{**vars(TINY), **changes}))
        initialise(model, "pytorch", seed)
        return model.eval()

    return build
