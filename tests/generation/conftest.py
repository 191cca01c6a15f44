"""Tiny models, and the decoder that every other is measured against."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch

from pipeline.generation.sampling import Sampler, Sampling, draw_key, stream_key
from pipeline.model.gpt import GPT
from tests.helpers.tiny_models import one_thread, tiny

__all__ = ["one_thread", "tiny"]


@pytest.fixture(scope="session")
def reference() -> Callable[..., tuple[int, ...]]:
    """Decodes one prompt, one token at a time, all computed anew from the cropped context."""

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
