"""Note what DVC cannot watch by itself: a local corpus, and weights that other runs have left."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.commands.console import FILE, Command


@click.command(cls=Command)
@click.option("--params", type=FILE, default=Path("params.yaml"), show_default=True)
@click.option("--report", type=FILE, required=True, help="The JSON file on the corpus to write.")
@click.option("--start", type=FILE, required=True, help="The JSON file on first weights to write.")
@click.option("--ensemble", type=FILE, required=True, help="JSON on the ensemble's to write.")
def main(params: Path, report: Path, start: Path, ensemble: Path) -> None:
    """Note the digests of a local corpus and of others' weights, so that DVC sees changes."""
    from pipeline.identify import run

    run(params, report, start, ensemble)


if __name__ == "__main__":
    main()
