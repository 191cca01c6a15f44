"""How far a long task is: a bar in a terminal, plain lines in a log file.

What does the work need not know: it gets `progress`, a callback that it calls with how many more
units are done.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from types import TracebackType

from tqdm import tqdm

from pipeline.system.text import printable

EVERY = 15.0  # seconds between plain lines

Advance = Callable[[int], object]  # gets how many more units are done


class Progress:
    """`with Progress(90, "train", unit="step") as bar: bar.advance(1, loss="6.14")`.

    Where the total is unknown (None), units are counted and no time left is shown. With `speed`,
    plain lines show the units per second too, as a bar always does.
    """

    def __init__(
        self, total: int | None, title: str, *, unit: str, done: int = 0, speed: bool = False
    ) -> None:
        self.total, self.unit, self.speed = total, unit, speed
        self.title = printable(title, keep="")
        self.done = self._first = done
        self._started = self._spoke = time.monotonic()
        self._bar = (
            tqdm(
                total=total,
                initial=done,
                desc=self.title,
                unit=unit,
                unit_scale=speed,
                dynamic_ncols=True,
            )
            if sys.stderr.isatty()
            else None
        )

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.close()

    def go_on_from(self, done: int) -> None:
        """Count `done` units as done by an earlier process, without the time that they took."""
        self.done = self._first = done
        if self._bar is not None:
            self._bar.n = self._bar.initial = done
            self._bar.refresh()

    def advance(self, count: int, **shown: str) -> None:
        """Count `count` more units as done; `shown` are the numbers to show beside them."""
        self.done += count
        if self._bar is not None:
            self._bar.set_postfix(shown, refresh=False)
            self._bar.update(count)
            return
        now = time.monotonic()
        if now - self._spoke >= EVERY or self.done == self.total:
            self._spoke = now
            self.say(self._line(now, shown))

    def say(self, text: str) -> None:
        """Print a line of its own, above the bar."""
        if self._bar is not None:
            tqdm.write(printable(text, keep=""), file=sys.stderr)
        else:
            say(text)

    def _line(self, now: float, shown: dict[str, str]) -> str:
        elapsed = now - self._started
        if self.speed:
            rate = (self.done - self._first) / max(elapsed, 1e-9)
            shown = {"speed": f"{_scaled(rate)} {self.unit}s/s", **shown}
        numbers = "".join(f", {name} {value}" for name, value in shown.items())
        if self.total is None:
            return f"{self.title}: {self.done:,} {self.unit}s{numbers}, {_clock(elapsed)} gone"
        left = elapsed / max(self.done - self._first, 1) * (self.total - self.done)
        return (
            f"{self.title}: {self.done:,}/{self.total:,} {self.unit}s{numbers}, "
            f"{_clock(elapsed)} gone, {_clock(left)} left"
        )


def say(text: str, keep: str = "") -> None:
    """Print a line where no bar is, on standard error; a terminal obeys nothing but `keep`."""
    print(printable(text, keep), file=sys.stderr, flush=True)


def _scaled(number: float) -> str:
    for scale, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= scale:
            return f"{number / scale:.1f} {letter}"
    return f"{number:.1f}"


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
