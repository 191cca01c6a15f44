"""Validation text as spans that a page can show, each with every model's loss.

GPT-2's tokens are bytes: a character such as `é` or an emoji may be cut across two or more. Such
tokens are shown as one span, with their losses added; bytes that are no whole character, as at
the edge of a window, are shown as `<E9 81>`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.comparison.table import UNTRAINED, Comparison
from pipeline.pages.shading import TextSpan
from pipeline.system.text import readable
from pipeline.tokens.splits import Splits
from pipeline.tokens.token_losses import Losses, TokenLosses, require_same_tokens
from pipeline.tokens.windows import Windows

SHOWN_TOKENS = 1024  # the first validation targets


@dataclass(frozen=True)
class TokenView:
    """Windows of spans, whose losses are in the order of `models`.

    A model's context starts afresh with each window.
    """

    models: tuple[str, ...]
    windows: tuple[tuple[TextSpan, ...], ...]


def token_view(
    comparison: Comparison,
    folder: Path,
    splits: Splits,
    token_bytes: Callable[[int], bytes],
) -> TokenView | None:
    """Join the first validation losses of every measured model; None when no model left any.

    Random weights are left out: they predict nothing anywhere.

    Args:
        comparison: whose models are shown, by their names and in their order.
        folder: `reports/token_losses`, with `scratch/` and a `SIZE/` for each GPT-2.
        splits: the tokens that the losses are of.
        token_bytes: the bytes that a token id spells.

    Raises:
        UserError: a file is damaged, or its losses are of other tokens.
    """
    scratch = folder / "scratch"
    if not scratch.exists():
        return None
    places = {key: (scratch, key.removeprefix("scratch_")) for key in comparison.models}
    places |= {key: (folder / size.name, size.name) for key, size in comparison.sizes.items()}
    if comparison.models["untrained"].name == UNTRAINED:
        del places["untrained"]
    opened = {path: TokenLosses.open(path) for path, _ in places.values() if path.exists()}
    require_same_tokens({path: losses.meta for path, losses in opened.items()}, splits)
    known = {
        key: opened[path].of(model, "val")
        for key, (path, model) in places.items()
        if path in opened and model in opened[path].meta.models
    }
    if not known:
        return None
    return TokenView(
        models=tuple(comparison.models[key].name for key in known),
        windows=tuple(
            _windows(splits.val, opened[scratch].windows("val"), list(known.values()), token_bytes)
        ),
    )


def _windows(
    windows: Windows,
    indices: range,
    losses: Sequence[Losses],
    token_bytes: Callable[[int], bytes],
) -> Iterator[tuple[TextSpan, ...]]:
    shown = -(-SHOWN_TOKENS // windows.context_length)
    left = SHOWN_TOKENS
    for row, targets in enumerate(windows.targets(indices[:shown])):
        tokens = targets[:left].tolist()
        left -= len(tokens)
        yield tuple(
            TextSpan(
                text=text,
                tokens=stop - begin,
                losses=tuple(float(one[row, begin:stop].sum(dtype=np.float64)) for one in losses),
            )
            for text, begin, stop in whole_characters([token_bytes(token) for token in tokens])
        )


def whole_characters(parts: Sequence[bytes]) -> Iterator[tuple[str, int, int]]:
    """Join byte strings until they end between characters: `(text, first, past the last)`."""
    begin = 0
    for stop in range(1, len(parts) + 1):
        joined = b"".join(parts[begin:stop])
        if _cut(joined) and stop < len(parts):
            continue
        yield readable(joined), begin, stop
        begin = stop


def _cut(data: bytes) -> bool:
    """Whether `data` ends inside a UTF-8 character that more bytes would complete."""
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as error:
        return error.end == len(data) and "unexpected end" in error.reason
    return False
