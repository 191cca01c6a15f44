"""Text in which every token is shaded by its loss, as HTML.

The scale is sequential, one step per nat from 0 to 10 and more, pale to strong in the light theme
and dark to glowing in the dark one; the text on every step keeps a contrast of 4.5:1 and more.
Newlines, tabs and control characters are shown, as `pipeline.system.text` shows them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from pipeline.numbers import shown
from pipeline.system.text import signed

STEPS = 11
LIGHT = ("#fdfcfa", "#fde7bd", "#f6b26b", "#dd6b3d")
DARK = ("#16181d", "#3a2a20", "#6b3c1c", "#9c4a1f")


@dataclass(frozen=True)
class TextSpan:
    """Whole characters of one or more tokens, with each model's loss for them.

    Attributes:
        losses: nats by model, summed over the tokens.
    """

    text: str
    losses: Sequence[float]
    tokens: int = 1


@dataclass(frozen=True)
class ShadedLine:
    """A line of the text, once for each model."""

    window: int  # 0 where no new window begins
    shaded: tuple[Markup, ...]


def shaded_lines(windows: Iterable[Sequence[TextSpan]], width: int) -> list[ShadedLine]:
    """Break each window into lines of about `width` characters and shade them for every model."""
    return [
        ShadedLine(
            window=number if line == 0 else 0,
            shaded=tuple(shade(spans, model) for model in range(len(spans[0].losses))),
        )
        for number, window in enumerate(windows, start=1)
        for line, spans in enumerate(break_lines(window, width))
    ]


def break_lines(spans: Iterable[TextSpan], width: int) -> Iterator[list[TextSpan]]:
    """Break before a span that starts a word and would pass `width`, and after newlines.

    Newlines that a window begins with have no line of their own.
    """
    line: list[TextSpan] = []
    length = 0
    for span in spans:
        newline = span.text.startswith("\n")
        may_break = (span.text[:1].isspace() and not newline) or length >= 2 * width
        full = may_break and length + len(span.text.rstrip()) > width
        has_text = any(before.text.strip("\n") for before in line)
        ended = has_text and line[-1].text.endswith("\n") and not newline
        if line and (full or ended):
            yield line
            line, length = [], 0
        line.append(span)
        length += len(span.text)
    if line:
        yield line


def shade(spans: Iterable[TextSpan], model: int) -> Markup:
    """One `<span>` per text span, classed by its nats per token and titled with them.

    A line that ends with a newline ends with one here too, for when lines are run together.
    """
    elements, text = [], ""
    for span in spans:
        nats = span.losses[model]
        title = shown(nats, 2) + (f" over {span.tokens} tokens" if span.tokens > 1 else "")
        text = span.text
        shade_class = f"l{step(nats / span.tokens)}"
        elements.append(
            f'<span class="{shade_class}" title="{title}">{escape(signed(text))}</span>'
        )
    return Markup("".join(elements) + ("\n" if text.endswith("\n") else ""))


def step(nats: float) -> int:
    """The step of the scale: whole nats, 10 for 10 and more, and for NaN."""
    return max(int(nats), 0) if nats < STEPS - 1 else STEPS - 1


def scale(stops: Sequence[str]) -> list[str]:
    """`STEPS` colours along `stops`, evenly apart."""
    colours = []
    for index in range(STEPS):
        place = index / (STEPS - 1) * (len(stops) - 1)
        left = min(int(place), len(stops) - 2)
        pair = zip(_rgb(stops[left]), _rgb(stops[left + 1]), strict=True)
        mixed = (round(a + (b - a) * (place - left)) for a, b in pair)
        colours.append("#" + "".join(f"{channel:02x}" for channel in mixed))
    return colours


def _rgb(colour: str) -> tuple[int, ...]:
    return tuple(int(colour[i : i + 2], 16) for i in (1, 3, 5))
