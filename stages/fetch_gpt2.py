"""Fetch one size of OpenAI's GPT-2 into the user's cache, or say why it cannot be had."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.commands.console import FILE, Command, echo


@click.command(cls=Command)
@click.option("--params", "params_file", type=FILE, default=Path("params.yaml"), show_default=True)
@click.option("--size", required=True, help="As gpt2.sizes names it.")
@click.option("--report", type=FILE, required=True, help="JSON of files and digests to write.")
def main(params_file: Path, size: str, report: Path) -> None:
    """Fetch GPT-2's weights once for this user, outside the repository."""
    from pipeline.gpt2.stage import fetch_gpt2

    found = fetch_gpt2(params_file, size, report)
    if found.status == "available":
        total = sum(file.bytes for file in found.files.values())
        echo(f"GPT-2 {size}: {total / 1e9:.2f} GB, from {found.source}")
    else:
        echo(f"GPT-2 {size}: not fetched: {found.reason}", err=True)


if __name__ == "__main__":
    main()
