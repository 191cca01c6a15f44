"""Run names that say what is special: `lr=4e-04 seed=2 n_layer=6`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SHORT = {
    "train.learning_rate": "lr",
    "train.batch_size": "bs",
    "train.epochs": "ep",
    "sample.temperature": "T",
    "sample.top_k": "k",
}


def run_name(values: Mapping[str, Any], defaults: Mapping[str, Any], always: list[str]) -> str:
    """The settings named in `always`, then every other one that differs from its default.

    Args:
        values: flat params, e.g. `{"train.learning_rate": 4e-4}`.
        defaults: the same keys with their defaults.
        always: keys that every name shows, first and in this order.
    """
    special = [key for key in values if key not in always and values[key] != defaults.get(key)]
    return " ".join(f"{_short(key)}={_value(key, values[key])}" for key in [*always, *special])


def _short(key: str) -> str:
    return SHORT.get(key, key.rpartition(".")[2])


def _value(key: str, value: Any) -> str:
    if key.endswith("learning_rate"):
        return f"{value:.3g}" if value >= 0.01 else f"{value:.1e}".replace(".0e", "e")
    return "all" if key.endswith("top_k") and value is None else str(value)
