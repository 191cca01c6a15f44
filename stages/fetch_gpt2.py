"""Bring one size of OpenAI's GPT-2 into the user's cache, or say why it cannot be had."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.commands.console import FILE, Command


@click.command(cls=Command)
@click.option("--params", "params_file", type=FILE, default=Path("params.yaml"), show_default=True)
@click.option("--size", required=True, help="124M, 355M, 774M or 1558M.")
@click.option("--report", type=FILE, required=True, help="JSON of files and digests to write.")
def main(params_file: Path, size: str, report: Path) -> None:
    """Fetch GPT-2's weights once for this user, outside the repository."""
    from pipeline.gpt2.fetch import fetch
    from pipeline.params import load_params
    from pipeline.system.files import write_json
    from pipeline.system.process import die_with_parent

    die_with_parent()
    result = fetch(size, load_params(params_file).gpt2)
    write_json(report, result)
    if result["status"] == "available":
        total = sum(file["bytes"] for file in result["files"].values())
        click.echo(f"GPT-2 {size}: {total / 1e9:.2f} GB, from {result['source']}")
    else:
        click.echo(f"GPT-2 {size}: unavailable: {result['reason']}", err=True)


if __name__ == "__main__":
    main()
