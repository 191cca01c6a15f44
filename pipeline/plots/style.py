"""The figures of Lossbook, drawn by matplotlib without pyplot or any global state.

One style for all of them. A path that ends in `.png` gets a picture for README and MLflow; one
that ends in `.svg` gets a drawing for a page: its text takes the page's font and its colours are
CSS variables (`--plot-ink` and so on, with the light theme's value as the fallback), so that it
follows light and dark. Equal numbers give equal bytes: nothing of the user's matplotlibrc or the
clock goes in, and of the machine's fonts only what a `.png` needs for letters that matplotlib's own
font lacks (Chinese, Hindi); where no font has them, they are shown as `\\u6c34`.

No text is markup: dollars do not begin mathematics, and control characters are escapes.
"""

from __future__ import annotations

import io
import logging
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import fontManager, get_font
from matplotlib.text import Text
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator
from numpy.typing import ArrayLike, NDArray

from pipeline.system.files import written_aside
from pipeline.system.text import printable, shortened

# Each at least 4.5:1 on white where it colours text; distinct with any colour vision.
COLOURS = {
    "paper": "#ffffff",
    "ink": "#1f2430",
    "muted": "#5b6270",
    "grid": "#e4e6ea",
    "training": "#0b6fb8",
    "validation": "#b3471d",
    "gpt2": "#6d4aa8",
    "green": "#1a7a57",
    "ochre": "#8a6a00",
    "pink": "#a8336f",
}
FONT = "DejaVu Sans"  # matplotlib's own, so the same everywhere
# Where the usual systems have the letters that it lacks: Linux, macOS, Windows.
MORE_FONTS = (
    *(f"Noto Sans CJK {region}" for region in ("SC", "TC", "JP", "KR")),
    *("Source Han Sans SC", "WenQuanYi Zen Hei", "WenQuanYi Micro Hei", "Droid Sans Fallback"),
    *("PingFang SC", "Hiragino Sans GB", "Hiragino Sans", "Heiti TC", "Apple SD Gothic Neo"),
    *("Microsoft YaHei", "SimHei", "Yu Gothic", "MS Gothic", "Malgun Gothic"),
    *(f"Noto Sans {script}" for script in ("Devanagari", "Bengali", "Tamil", "Thai", "Arabic")),
    *("Lohit Devanagari", "Kohinoor Devanagari", "Nirmala UI", "Mangal", "Tahoma", "Geeza Pro"),
    *("Noto Sans", "Arial Unicode MS", "FreeSans", "FreeSerif", "Unifont", "Symbola"),
)
LONGEST = 72  # characters of a line; more do not fit
STYLE: Any = {  # matplotlib types its keys one by one
    "figure.dpi": 100,
    "savefig.dpi": 200,
    "figure.facecolor": COLOURS["paper"],
    "axes.facecolor": COLOURS["paper"],
    "font.family": FONT,
    "text.parse_math": False,
    "font.size": 10,
    "text.color": COLOURS["ink"],
    "axes.titlesize": 12,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 12,
    "axes.labelcolor": COLOURS["muted"],
    "axes.edgecolor": COLOURS["muted"],
    "axes.linewidth": 0.8,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": COLOURS["grid"],
    "grid.linewidth": 0.8,
    "xtick.color": COLOURS["muted"],
    "ytick.color": COLOURS["muted"],
    "xtick.major.width": 0.8,
    "ytick.major.size": 0,
    "lines.linewidth": 2.0,
    "lines.solid_capstyle": "round",
    "lines.solid_joinstyle": "round",
    "svg.fonttype": "none",
    "svg.hashsalt": "lossbook",
}
Interval = tuple[float, float]
WIDE = (8.0, 4.2)  # inches
NARROW = (4.0, 3.6)  # for a phone: the same letters take half the width


@contextmanager
def drawing(path: Path, size: tuple[float, float]) -> Iterator[Figure]:
    """Yield a figure in the house style; save it at `path` when the block ends well."""
    svg = path.suffix == ".svg"
    with mpl.rc_context(), _quiet():
        mpl.rcdefaults()  # not the user's matplotlibrc
        with mpl.rc_context({**STYLE, "font.family": [FONT] if svg else [FONT, *more_fonts()]}):
            figure = Figure(figsize=size, layout="constrained")
            yield figure
            _change_texts(figure, printable if svg else drawable)
            data = _as_svg(figure) if svg else _as_png(figure)
    with written_aside(path) as aside:
        aside.write_bytes(data)


def finite(numbers: ArrayLike) -> NDArray[np.float64]:
    """The numbers with NaN, which draws nothing, for infinities too: no axis has a place there."""
    found = np.asarray(numbers, dtype=float)
    return np.where(np.isfinite(found), found, np.nan)


@contextmanager
def _quiet() -> Iterator[None]:
    """No word of matplotlib's on fonts: a page has its own, and for a `.png` we have looked."""
    logger = logging.getLogger("matplotlib.font_manager")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph .* missing from font|constrained_layout")
            yield
    finally:
        logger.setLevel(level)


@lru_cache
def more_fonts() -> tuple[str, ...]:
    """Those of `MORE_FONTS` that this machine has."""
    installed = {font.name for font in fontManager.ttflist}
    return tuple(name for name in MORE_FONTS if name in installed)


@lru_cache(maxsize=1 << 14)
def _is_drawn(character: str) -> bool:
    """Whether some font here has it."""
    paths = (fontManager.findfont(name) for name in (FONT, *more_fonts()))
    return any(get_font(path).get_char_index(ord(character)) for path in paths)


def drawable(text: str) -> str:
    """The text with escapes for characters that no font here has, and for control characters."""
    shown = "".join(
        c if c == "\n" or _is_drawn(c) else c.encode("unicode_escape").decode()
        for c in printable(text, keep="\n")
    )
    return "\n".join(shortened(line, LONGEST) for line in shown.split("\n"))


def _change_texts(figure: Figure, change: Callable[[str], str]) -> None:
    for text in figure.findobj(Text):
        assert isinstance(text, Text)
        text.set_text(change(text.get_text()))
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            formatter = axis.get_major_formatter()
            if isinstance(formatter, FuncFormatter):  # as for ticks that were given names
                axis.set_major_formatter(_changed(formatter, change))


def _changed(formatter: FuncFormatter, change: Callable[[str], str]) -> FuncFormatter:
    return FuncFormatter(lambda value, place: change(formatter(value, place)))


def size_axis(axes: Axes) -> None:
    """Make x a log axis of parameters, its ticks written as `124M` is."""
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 3.0)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda size, _: compact(size)))
    axes.spines["top"].set_visible(False)


def compact(number: float) -> str:
    """`46080` -> `46k`, `124439808` -> `124M`, `1.5e9` -> `1.5B`: two or three digits."""
    for unit, name in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        # 999,500 is a million to three digits.
        if abs(number) >= unit * 0.9995:
            value = number / unit
            digits = 0 if abs(value) >= 99.95 else 1
            return f"{value:.{digits}f}".removesuffix(".0") + name
    return f"{number:.0f}"


def clear_of_each_other(axes: Axes, heights: Sequence[float]) -> list[float]:
    """Heights for lines of text, as near to the given, ascending ones as they can stand."""
    low, high = axes.get_ylim()
    figure = axes.get_figure(root=True)
    assert figure is not None
    inches = 0.75 * figure.get_size_inches()[1]  # the axes' share
    line = 1.35 * STYLE["font.size"] / 72 * (high - low) / inches
    # Texts that touch share what they must give way: each group stands around its mean.
    groups: list[list[float]] = []
    for height in heights:
        groups.append([height])
        while len(groups) > 1 and _top(groups[-2], line) > _bottom(groups[-1], line):
            groups[-2:] = [groups[-2] + groups[-1]]
    return [
        _bottom(group, line) + (place + 0.5) * line
        for group in groups
        for place in range(len(group))
    ]


def _bottom(group: Sequence[float], line: float) -> float:
    return sum(group) / len(group) - len(group) * line / 2


def _top(group: Sequence[float], line: float) -> float:
    return _bottom(group, line) + len(group) * line


def label_ends(axes: Axes, ends: Sequence[tuple[float, str, str]]) -> None:
    """Name each line beside its end."""
    ends = sorted(ends)
    heights = clear_of_each_other(axes, [y for y, _, _ in ends])
    for (_, name, colour), y in zip(ends, heights, strict=True):
        axes.annotate(
            shortened(name, 24),
            (1.0, y),
            xycoords=("axes fraction", "data"),
            xytext=(8, 0),
            textcoords="offset points",
            va="center",
            color=colour,
            annotation_clip=False,
        )


def interval_bar(axes: Axes, x: float, interval: Interval, colour: str) -> None:
    """How sure the point at `x` is: a bar behind it from end to end."""
    axes.plot(
        [x, x],
        interval,
        color=colour,
        linewidth=1.2,
        marker="_",
        markersize=7,
        clip_on=False,
        zorder=2.5,
    )


def _as_png(figure: Figure) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="png", metadata={"Software": None})
    return file.getvalue()


def _as_svg(figure: Figure) -> bytes:
    """An SVG element to put into a page: no prologue, its colours CSS variables."""
    file = io.StringIO()
    figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None}, transparent=True)
    svg = file.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r" ?<metadata>.*?</metadata>\n| ?<style.*?</style>\n", "", svg, flags=re.S)
    svg = re.sub(r" width=\"[\d.]+pt\" height=\"[\d.]+pt\"", "", svg, count=1)
    return in_tags(svg, _themed).encode()


def in_tags(svg: str, change: Callable[[str], str]) -> str:
    """The SVG with its tags changed, and its texts as they are."""
    return re.sub("<[^>]*>", lambda tag: change(tag[0]), svg)


def _themed(tag: str) -> str:
    for name, colour in COLOURS.items():
        tag = tag.replace(colour, f"var(--plot-{name}, {colour})")
    return re.sub(r"font-family: [^;\"]+", "font-family: inherit", tag)
