"""The stage fetch_gpt2."""

from __future__ import annotations

from pathlib import Path

from pipeline.gpt2.location import source_of
from pipeline.gpt2.sizes import SIZES
from pipeline.params import load_params
from pipeline.reports import WeightsReport
from pipeline.system.process import die_with_parent


def fetch_gpt2(params_file: Path, size: str, report: Path) -> WeightsReport:
    """Fetch the weights of `size` into the user's cache, and write `report` of it.

    A size that `gpt2.sizes` leaves out is not fetched: the report says so.

    Raises:
        UserError: the settings cannot be right, or the size cannot be had and `gpt2.required`.
    """
    die_with_parent()
    settings = load_params(params_file).gpt2
    if size in SIZES and size not in settings.sizes:
        found = WeightsReport(
            model=size,
            status="unavailable",
            reason="gpt2.sizes does not name it",
            source=source_of(settings),
        )
    else:
        from pipeline.gpt2.fetch import fetch  # half of the time that the other case takes

        found = fetch(size, settings)
    found.write(report)
    return found
