"""Note what the corpus is, so that DVC sees when a local one has changed.

DVC watches declared files only, and `prepare.corpus` may be any path. So this stage runs at each
`dvc repro` and writes the digest of what lies there; `prepare` depends on that, and runs when it
differs. A packaged or fetched corpus is pinned elsewhere and is not read here.
"""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.commands.console import FILE, Command


@click.command(cls=Command)
@click.option("--params", type=FILE, default=Path("params.yaml"), show_default=True)
@click.option("--report", type=FILE, required=True, help="The JSON file to write.")
def main(params: Path, report: Path) -> None:
    """Note the digest of a local corpus, so that DVC sees when it has changed."""
    from pipeline.corpus.corpora import identify
    from pipeline.params import load_params
    from pipeline.system.files import write_json

    write_json(report, identify(load_params(params).prepare))


if __name__ == "__main__":
    main()
