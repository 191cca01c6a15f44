"""Numbers that a training may drive out of bounds: how they are made, written and shown.

A loss of 710 nats is finite and its perplexity is no float; a model that diverged has losses that
are NaN. Both are results, and every file, table and figure has a way to hold them:

    in Python, CSV, MLflow   nan, inf, -inf, as Python writes floats
    in JSON                  the strings "NaN", "Infinity" and "-Infinity", which `float` reads
    for people               `shown`
"""

from __future__ import annotations

import math
from typing import Any

_SHOWN_IN_FULL = 1e6
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def perplexity(loss: float) -> float:
    """exp(loss), of a loss in nats per token; infinity where it is too large for a float."""
    try:
        return math.exp(loss)
    except OverflowError:
        return math.inf


def to_json(value: Any) -> Any:
    """The value with NaN and the infinities as strings, within lists and dictionaries too."""
    if isinstance(value, float):
        return value if math.isfinite(value) else _word(value)
    if isinstance(value, dict):
        return {key: to_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(item) for item in value]
    return value


def _word(value: float) -> str:
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def shown(value: float, places: int = 3) -> str:
    """`6.141`, `50,257.000`; from a million on `1.2 × 10³⁰⁵`; `∞`, `-∞` and `NaN`.

    Args:
        places: decimals, below a million.
    """
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    if abs(value) < _SHOWN_IN_FULL:
        return f"{value:,.{places}f}"
    mantissa, _, exponent = f"{value:.1e}".partition("e")
    return f"{mantissa} × 10{str(int(exponent)).translate(_SUPERSCRIPTS)}"


def gap(difference: float) -> str:
    """A difference above 0, in nats: `0.290`; `less than 0.001` where it would read as none."""
    return "less than 0.001" if difference < 0.001 else shown(difference)


def counted(number: int, noun: str, plural: str = "") -> str:
    """`1 step`, `1,200 steps`; `plural` where that takes more than an s."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"
