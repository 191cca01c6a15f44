"""Validation text as pieces that a page can show, each with every model's loss.

GPT-2's tokens are bytes: a character such as `é` or an emoji may be cut across two or more. Such
tokens are shown as one piece, with their losses added; bytes that end in the middle of a
character at the edge of a window become U+FFFD.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.comparison.table import UNTRAINED, Comparison
from pipeline.errors import UserError
from pipeline.reports import TokenLosses


@dataclass(frozen=True)
class Piece:
    """One or more whole tokens that make whole characters.

    Attributes:
        text: what they spell.
        tokens: how many they are.
        losses: nats by model, in the order of `TokenView.models`, summed over the tokens.
    """

    text: str
    tokens: int
    losses: tuple[float, ...]


@dataclass(frozen=True)
class TokenView:
    """Windows of pieces; a model's context starts afresh with each window."""

    models: tuple[str, ...]
    windows: tuple[tuple[Piece, ...], ...]


def token_view(
    comparison: Comparison, folder: Path, token_bytes: Callable[[int], bytes]
) -> TokenView | None:
    """Join the token losses of every measured model; None when no model left any.

    Random weights are left out: they guess blindly everywhere.

    Args:
        comparison: whose rows are shown, by their names and in their order.
        folder: `reports/token_losses`, with `scratch.json` and a `SIZE.json` for each GPT-2.
        token_bytes: the bytes that a token id spells.

    Raises:
        UserError: a file is misshapen, or two were measured on different tokens.
    """
    path = folder / "scratch.json"
    if not path.exists():
        return None
    scratch = TokenLosses.read(path)
    losses = {key: scratch.models.get(key.removeprefix("scratch_")) for key in comparison.rows}
    for key, size in _measured_sizes(comparison):
        other_path = folder / f"{size}.json"
        other = TokenLosses.read(other_path) if other_path.exists() else None
        if other is not None and other.models:
            _require_same_tokens(path, scratch, other_path, other)
            losses[key] = other.models.get(size)
    if comparison.rows["untrained"].model == UNTRAINED:
        del losses["untrained"]
    known = {key: values for key, values in losses.items() if values}
    if not known:
        return None
    return TokenView(
        models=tuple(comparison.rows[key].model for key in known),
        windows=tuple(_windows(scratch, list(known.values()), token_bytes)),
    )


def _measured_sizes(comparison: Comparison) -> Iterator[tuple[str, str]]:
    for key, row in comparison.rows.items():
        if key.startswith("gpt2_") and row.val_loss is not None:
            yield key, key.removeprefix("gpt2_")


def _windows(
    record: TokenLosses, losses: Sequence[Sequence[float]], token_bytes: Callable[[int], bytes]
) -> Iterator[tuple[Piece, ...]]:
    length = record.context_length
    for start in range(0, len(record.tokens), length):
        tokens = record.tokens[start : start + length]
        yield tuple(
            Piece(
                text=text,
                tokens=stop - begin,
                losses=tuple(sum(one[start + begin : start + stop]) for one in losses),
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
        yield joined.decode("utf-8", errors="replace"), begin, stop
        begin = stop


def _cut(data: bytes) -> bool:
    """Whether `data` ends inside a UTF-8 character that more bytes would complete."""
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as error:
        return error.end == len(data) and "unexpected end" in error.reason
    return False


def _require_same_tokens(
    path: Path, one: TokenLosses, other_path: Path, other: TokenLosses
) -> None:
    for key in ("corpus_sha256", "context_length", "tokens"):
        if getattr(one, key) != getattr(other, key):
            raise UserError(
                f"{path} and {other_path} cannot be compared: {key} differs; "
                f"`dvc repro` measures both on the same tokens"
            )
