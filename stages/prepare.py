"""Bring the corpus that `prepare.corpus` names into `data/corpus`, as Parquet."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.commands.console import FILE, FOLDER, Command

SMALL = 1 << 25  # bytes of a corpus that is ready before anyone asks when


@click.command(cls=Command)
@click.option("--params", type=FILE, default=Path("params.yaml"), show_default=True)
@click.option("--corpus", type=FOLDER, required=True, help="The folder to write.")
@click.option("--report", type=FILE, required=True, help="The JSON file to write.")
def main(params: Path, corpus: Path, report: Path) -> None:
    """Bring the corpus that prepare.corpus names into a folder of Parquet files."""
    from pipeline.corpus.corpora import find, prepare
    from pipeline.params import load_params
    from pipeline.system.files import write_json
    from pipeline.system.progress import Progress

    settings = load_params(params).prepare
    source = find(settings)
    total = source.size if (source.size or 0) > SMALL else None
    with Progress(total, "prepare", unit="byte", speed=True) as bar:
        facts = prepare(settings, corpus, source=source, progress=bar.advance)
    write_json(report, facts)
    click.echo(f"{facts['corpus']}: {facts['documents']:,} documents, {facts['bytes']:,} bytes")
    for reason, documents in facts["skipped"].items():
        click.echo(f"left out: {documents:,} {reason}")


if __name__ == "__main__":
    main()
