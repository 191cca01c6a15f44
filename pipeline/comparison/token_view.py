"""Validation text as spans that a page can show, each with every model's loss.

GPT-2's tokens are bytes: a character such as `é` or an emoji may be cut across two or more. Such
tokens are shown as one span, with their losses added; bytes that are no whole character, as at
the edge of a window, are shown as `<E9 81>`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.comparison.table import UNTRAINED, Comparison, require_same_corpus
from pipeline.errors import UserError
from pipeline.pages.shading import TextSpan
from pipeline.reports import TokenLossesReport
from pipeline.system.text import readable


@dataclass(frozen=True)
class TokenView:
    """Windows of spans, whose losses are in the order of `models`.

    A model's context starts afresh with each window.
    """

    models: tuple[str, ...]
    windows: tuple[tuple[TextSpan, ...], ...]


def token_view(
    comparison: Comparison, folder: Path, token_bytes: Callable[[int], bytes]
) -> TokenView | None:
    """Join the token losses of every measured model; None when no model left any.

    Random weights are left out: they predict nothing anywhere.

    Args:
        comparison: whose models are shown, by their names and in their order.
        folder: `reports/token_losses`, with `scratch.json` and a `SIZE.json` for each GPT-2.
        token_bytes: the bytes that a token id spells.

    Raises:
        UserError: a file is damaged, or two were measured on different tokens.
    """
    path = folder / "scratch.json"
    if not path.exists():
        return None
    scratch = TokenLossesReport.read(path)
    require_same_corpus(
        {
            path: scratch.corpus_sha256,
            path.parent.with_name("evaluate.json"): comparison.evaluation.corpus_sha256,
        }
    )
    losses = {key: scratch.models.get(key.removeprefix("scratch_")) for key in comparison.models}
    for key, size in comparison.sizes.items():
        other_path = folder / f"{size.name}.json"
        if comparison.models[key].val is None or not other_path.exists():
            continue
        other = TokenLossesReport.read(other_path)
        if other.models:
            _require_same_tokens(path, scratch, other_path, other)
            losses[key] = other.models.get(size.name)
    if comparison.models["untrained"].name == UNTRAINED:
        del losses["untrained"]
    known = {key: values for key, values in losses.items() if values}
    if not known:
        return None
    return TokenView(
        models=tuple(comparison.models[key].name for key in known),
        windows=tuple(_windows(scratch, list(known.values()), token_bytes)),
    )


def _windows(
    report: TokenLossesReport,
    losses: Sequence[Sequence[float]],
    token_bytes: Callable[[int], bytes],
) -> Iterator[tuple[TextSpan, ...]]:
    length = report.context_length
    for start in range(0, len(report.tokens), length):
        tokens = report.tokens[start : start + length]
        yield tuple(
            TextSpan(
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
        yield readable(joined), begin, stop
        begin = stop


def _cut(data: bytes) -> bool:
    """Whether `data` ends inside a UTF-8 character that more bytes would complete."""
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as error:
        return error.end == len(data) and "unexpected end" in error.reason
    return False


def _require_same_tokens(
    path: Path, one: TokenLossesReport, other_path: Path, other: TokenLossesReport
) -> None:
    for key in ("corpus_sha256", "context_length", "tokens"):
        if getattr(one, key) != getattr(other, key):
            raise UserError(
                f"{path} and {other_path} cannot be compared: {key} differs; "
                f"`dvc repro` measures both on the same tokens"
            )
