"""Tiny models, and the decoder that every other is measured against."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import pytest
import torch

from pipeline.generation.sampling import Sampler, Sampling, draw_key, stream_key
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


@pytest.fixture(scope="session")
def reference() -> Callable[..., tuple[int, ...]]:
    """Decodes one row, one token at a time, all computed anew from the cropped context."""

    def decode(
        model: GPT, prompt: Sequence[int], sampling: Sampling, count: int, end: int
    ) -> tuple[int, ...]:
        tokens = list(prompt) or [end]
        start = len(tokens)
        sampler = Sampler([sampling])
        stream = stream_key(sampling.seed, tokens)
        for draw in range(count):
            window = torch.tensor([tokens[-model.config.context_length :]])
            with torch.no_grad():
                logits = model(window)[:, -1].float()
            token = int(sampler.draw(logits, [draw_key(stream, draw)])[0])
            if token == end:
                break
            tokens.append(token)
        return tuple(tokens[start:])

    return decode
