"""Markdown whose cells show what they hold, whatever marks stand in it."""

from __future__ import annotations

from collections.abc import Iterable


def markdown_line(cells: Iterable[str]) -> str:
    """Cells as a row of a Markdown table, what they hold escaped."""
    escaped = (cell.replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ") for cell in cells)
    return f"| {' | '.join(escaped)} |\n"
