"""`lossbook verify`: the comparison's numbers, computed again by an implementation not ours."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pipeline.commands.console import FILE, Command, echo
from pipeline.commands.tables import print_table
from pipeline.system.process import sigterm_raises

if TYPE_CHECKING:  # torch comes with it
    from pipeline.verification.check import Row


@click.command(cls=Command)
@click.option("--windows", type=click.IntRange(1), help="Of each split, at most; all by default.")
@click.option("--json", "as_json", is_flag=True, help="Machine-readable output.")
@click.option("--params", type=FILE, default=Path("params.yaml"), show_default=True)
@click.pass_context
def verify(context: click.Context, windows: int | None, as_json: bool, params: Path) -> None:
    """Compute every measured number of the comparison again, by `transformers`.

    It reads tokens and weights from the disk and compares losses, perplexities, bits per byte and
    the losses of single tokens with those in reports/, and the tokens with the corpus. A
    difference that rounding does not explain ends it with status 1: above 1e-4 nats per token, or
    1e-3 for a single token (0.05 and 2 for what was measured in bf16).

    Weights are exported into a temporary folder, as large as the model; TMPDIR names another.
    """
    from pipeline.params import load_params
    from pipeline.verification import stage

    with sigterm_raises():  # which removes the temporary folder
        found = stage.verify(load_params(params), windows)
    if as_json:
        echo(json.dumps(found.as_json(), indent=2))
    else:
        print_table([HEADINGS, *map(_cells, found.rows)])
        for line in found.unverified:
            echo(f"not verified: {line}", keep="")
        for line in found.problems:
            echo(f"wrong: {line}", keep="")
        echo(str(found), keep="")
    if found.problems:
        context.exit(1)


HEADINGS = ["model", "split", "windows", "reported", "recomputed", "difference", "of a token"]


def _cells(row: Row) -> list[str]:
    windows = f"{row.windows:,}"
    if row.windows != row.measured:
        windows += f" of {row.measured:,}"
    return [
        row.model,
        row.split,
        windows,
        f"{row.reported:.6f}",
        f"{row.recomputed:.6f}",
        f"{row.difference:.1e}",
        "" if row.token_difference is None else f"{row.token_difference:.1e}",
    ]
