"""What MLflow takes: names, lengths, values. Checked when journalled, not when a server refuses."""

from __future__ import annotations

import json
import math
import re
from typing import Any

MAX_PARAM, MAX_TAG, MAX_DIGEST = 6000, 8000, 36  # characters
NAME = re.compile(r"(?!/)[\w./: -]{1,250}")


def checked_name(name: str) -> str:
    """The name of a metric, param or tag, as it is.

    Raises:
        ValueError: MLflow does not take it.
    """
    if not NAME.fullmatch(name) or any(part in ("", ".", "..") for part in name.split("/")):
        raise ValueError(
            f"{name!r}: a metric, param or tag is named with letters, digits, `_ - . :`, spaces "
            "and single slashes, at most 250 of them"
        )
    return name


def param_text(value: Any) -> str:
    """A param's text: JSON for anything but text itself."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return _cut(text, MAX_PARAM)


def tag_text(text: str) -> str:
    return _cut(text, MAX_TAG)


def finite_or_none(value: Any) -> Any:
    """A table's cell: JSON has no number for NaN and infinity."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"
