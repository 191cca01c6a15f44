"""Measure a model on every split: losses, losses of single tokens, and greedy completions.

The same for every model, this repository's and GPT-2's, so that their numbers can be compared.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from pipeline.generation.decode import generate
from pipeline.generation.sampling import Sampling
from pipeline.model.gpt import GPT
from pipeline.model.perplexity import measure
from pipeline.params import Compare
from pipeline.reports import PromptCompletion, SplitLosses
from pipeline.tokens.splits import Splits
from pipeline.tokens.tokenizer import encode

Keep = Callable[[str, npt.NDArray[np.float32]], object]


@dataclass(frozen=True)
class Measurement:
    """What was measured of a model.

    Attributes:
        losses: over the windows of each split that are measured.
        completions: of `compare.prompts`.
        seconds: that `losses` took.
    """

    losses: SplitLosses
    completions: tuple[PromptCompletion, ...]
    seconds: float


def measure_model(
    model: GPT,
    splits: Splits,
    batch_size: int,
    prompts: Compare | None,
    *,
    keep: Keep = lambda split, losses: None,
    progress: Callable[[int], object],
) -> Measurement:
    """Measure `model` on every split, and let it complete the prompts where there are any.

    Args:
        batch_size: windows per forward pass.
        keep: called with a split's name and a batch's nats for each target, (B, T).
        progress: called with the number of windows that each batch adds.
    """
    started = time.perf_counter()
    losses = {
        name: measure(
            model,
            windows,
            batch_size,
            indices=splits.measured[name],
            keep=partial(keep, name),
            progress=progress,
        )
        for name, windows in splits.windows.items()
    }
    seconds = time.perf_counter() - started
    return Measurement(
        losses=SplitLosses(**losses),
        completions=greedy_completions(model, prompts) if prompts else (),
        seconds=seconds,
    )


def greedy_completions(model: GPT, settings: Compare) -> tuple[PromptCompletion, ...]:
    """Complete `compare.prompts`, each time by the most likely token."""
    prompts = [encode(prompt) for prompt in settings.prompts]
    greedy = [Sampling(temperature=0.0)] * len(prompts)
    found = generate(model, prompts, greedy, settings.max_new_tokens)
    return tuple(
        PromptCompletion(prompt=prompt, completion=completion.text)
        for prompt, completion in zip(settings.prompts, found, strict=True)
    )
