"""Validation text as spans that a page can show, each with every model's loss.

GPT-2's tokens are bytes: a character such as `é` or an emoji may be cut across two or more. Such
tokens are shown as one span, with their losses added; bytes that are no whole character, as at
the edge of a window, are shown as `<E9 81>`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from pipeline.comparison.kept import KeptLosses
from pipeline.comparison.table import UNTRAINED, Comparison
from pipeline.pages.shading import TextSpan
from pipeline.system.text import readable

SHOWN_TOKENS = 1024  # the first validation targets


@dataclass(frozen=True)
class TokenView:
    """Windows of spans, whose losses are in the order of `models`.

    A model's context starts afresh with each window.
    """

    models: tuple[str, ...]
    windows: tuple[tuple[TextSpan, ...], ...]


def token_view(
    comparison: Comparison, kept: KeptLosses, token_bytes: Callable[[int], bytes]
) -> TokenView | None:
    """Join the first validation losses of every row that kept them; None where none did.

    Random weights are left out: they predict nothing anywhere.

    Args:
        comparison: whose models are shown, by their names.
        token_bytes: the bytes that a token id spells.
    """
    keys = [key for key in kept.rows if comparison.models[key].name != UNTRAINED]
    if not keys:
        return None
    length = kept.splits.context_length
    shown = kept.windows("val")[: -(-SHOWN_TOKENS // length)]
    losses = [kept.of(key, "val") for key in keys]
    windows = []
    for row, targets in enumerate(kept.splits.val.targets(shown)):
        tokens = targets[: SHOWN_TOKENS - row * length].tolist()
        spans = (
            TextSpan(text, tuple(float(one[row, begin:stop].sum()) for one in losses), stop - begin)
            for text, begin, stop in whole_characters([token_bytes(token) for token in tokens])
        )
        windows.append(tuple(spans))
    return TokenView(tuple(comparison.models[key].name for key in keys), tuple(windows))


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
