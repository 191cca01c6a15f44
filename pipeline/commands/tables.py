"""Tables in a terminal and in a pipe."""

from __future__ import annotations

import sys

import click

from pipeline.system.text import printable


def print_table(table: list[list[str]]) -> None:
    """A coloured table in a terminal, tabs between plain words in a pipe; cells are one line."""
    table = [[printable(cell, keep="") for cell in line] for line in table]
    if not sys.stdout.isatty():
        for line in table:
            click.echo("\t".join(line).rstrip("\t"))
        return
    # Here, so that `--help` and pipes do not wait for it.
    from rich.console import Console
    from rich.table import Column, Table
    from rich.text import Text

    colours = {"FINISHED": "green", "RUNNING": "cyan", "FAILED": "red", "KILLED": "yellow"}
    shown = Table(*(Column(Text(heading)) for heading in table[0]), box=None)
    for line in table[1:]:
        shown.add_row(*(Text(cell, style=colours.get(cell, "")) for cell in line))
    Console().print(shown)
