"""The stage fetch_gpt2."""

from __future__ import annotations

from pathlib import Path

from pipeline.gpt2.fetch import fetch
from pipeline.params import load_params
from pipeline.reports import WeightsReport
from pipeline.system.process import die_with_parent


def fetch_gpt2(params_file: Path, size: str, report: Path) -> WeightsReport:
    """Fetch the weights of `size` into the user's cache, and write `report` of it.

    Raises:
        UserError: the settings cannot be right, or the size cannot be had and `gpt2.required`.
    """
    die_with_parent()
    found = fetch(size, load_params(params_file).gpt2)
    found.write(report)
    return found
