"""The first validation tokens with their losses: where a model knows more, token by token."""

from __future__ import annotations

from pipeline.model.gpt import GPT
from pipeline.model.perplexity import window_losses
from pipeline.tokens.windows import Windows

SHOWN_TOKENS = 1024


def shown_losses(model: GPT, windows: Windows, batch_size: int) -> list[float]:
    """Nats of the first validation targets, at most `SHOWN_TOKENS`, to four decimals."""
    losses: list[float] = []
    for start in range(0, shown_windows(windows), batch_size):
        chosen = range(start, min(start + batch_size, shown_windows(windows)))
        losses += window_losses(model, windows, chosen).flatten().tolist()
    return [round(loss, 4) for loss in losses[:SHOWN_TOKENS]]


def shown_targets(windows: Windows) -> list[int]:
    """The token ids that `shown_losses` are of."""
    _, targets = windows.batch(range(shown_windows(windows)))
    ids: list[int] = targets.flatten().tolist()
    return ids[:SHOWN_TOKENS]


def shown_windows(windows: Windows) -> int:
    return min(len(windows), -(-SHOWN_TOKENS // windows.context_length))
