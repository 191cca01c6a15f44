"""Measure a model on both splits: losses, losses of single tokens, and greedy completions.

The same for every model, this repository's and GPT-2's, so that their numbers can be compared.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pipeline.generation.decode import generate
from pipeline.generation.sampling import Sampling
from pipeline.model.gpt import GPT
from pipeline.model.perplexity import measure, window_losses
from pipeline.numbers import counted
from pipeline.params import Compare
from pipeline.reports import PromptCompletion, SplitLosses, TokenLossesReport
from pipeline.system.markdown import inline
from pipeline.tokens.tokenizer import encode
from pipeline.tokens.windows import Windows

SHOWN_TOKENS = 1024  # the first validation targets, whose losses the page shows


@dataclass(frozen=True)
class Splits:
    """The windows of both splits."""

    train: Windows
    val: Windows

    @classmethod
    def open(cls, folder: Path, context_length: int) -> Splits:
        """Map `train/` and `val/` of `folder`.

        Raises:
            UserError: as `Windows.open`.
        """
        return cls(*(Windows.open(folder / name, context_length) for name in ("train", "val")))

    def __len__(self) -> int:
        return len(self.train) + len(self.val)

    @property
    def context_length(self) -> int:
        return self.val.context_length

    @property
    def corpus_sha256(self) -> str:
        return self.val.tokens.meta.corpus_sha256

    def __str__(self) -> str:
        """What they hold, in Markdown."""
        return (
            f"**{inline(self.val.tokens.meta.corpus)}**: {len(self.train):,} training and "
            f"{counted(len(self.val), 'validation window')} of {self.context_length} tokens"
        )


@dataclass(frozen=True)
class Measurement:
    """What was measured of a model.

    Attributes:
        losses: over all windows of both splits.
        token_losses: nats of the first validation targets, `SHOWN_TOKENS` at most.
        completions: of `compare.prompts`.
        seconds: that `losses` took.
    """

    losses: SplitLosses
    token_losses: tuple[float, ...]
    completions: tuple[PromptCompletion, ...]
    seconds: float


def measure_model(
    model: GPT,
    splits: Splits,
    batch_size: int,
    prompts: Compare | None,
    *,
    progress: Callable[[int], object],
) -> Measurement:
    """Measure `model` on both splits, and let it complete the prompts where there are any.

    Args:
        batch_size: windows per forward pass.
        progress: called with the number of windows that each batch adds.
    """
    started = time.perf_counter()
    losses = SplitLosses(
        train=measure(model, splits.train, batch_size, progress=progress),
        val=measure(model, splits.val, batch_size, progress=progress),
    )
    seconds = time.perf_counter() - started
    return Measurement(
        losses=losses,
        token_losses=shown_losses(model, splits.val, batch_size),
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


def shown_losses(model: GPT, windows: Windows, batch_size: int) -> tuple[float, ...]:
    """Nats of the first targets, at most `SHOWN_TOKENS`, to four decimals."""
    losses: list[float] = []
    shown = _shown_windows(windows)
    for start in range(0, len(shown), batch_size):
        losses += (
            window_losses(model, windows, shown[start : start + batch_size]).flatten().tolist()
        )
    return tuple(round(loss, 4) for loss in losses[:SHOWN_TOKENS])


def token_losses_report(splits: Splits, models: dict[str, tuple[float, ...]]) -> TokenLossesReport:
    """The report of `shown_losses` by model, with the ids of the tokens that they are of."""
    _, targets = splits.val.batch(_shown_windows(splits.val))
    return TokenLossesReport(
        corpus_sha256=splits.corpus_sha256,
        context_length=splits.context_length,
        tokens=tuple(targets.flatten().tolist()[:SHOWN_TOKENS]),
        models=models,
    )


def _shown_windows(windows: Windows) -> range:
    return range(min(len(windows), -(-SHOWN_TOKENS // windows.context_length)))
