"""The `lossbook` command: what is wanted beside the pipeline.

A subcommand's module is imported when the subcommand is named, so `lossbook --help` is quick.
"""

from __future__ import annotations

from importlib import import_module

import click

from pipeline.commands.console import Group

# name: module of the command, and the line that `--help` shows
COMMANDS = {
    "check": (
        "pipeline.commands.check",
        "Say what is wrong with params.yaml before DVC reads it.",
    ),
    "generate": ("pipeline.commands.generate", "Continue a text as any model here would."),
    "ui": ("pipeline.commands.tracking", "Open MLflow's web interface on this repository's runs."),
    "runs": ("pipeline.commands.tracking", "List runs as a tree, with their key numbers."),
    "sweep": ("pipeline.commands.sweep", "Say what a sweep came to: a table, figures, a page."),
    "sync": ("pipeline.commands.tracking", "Send what MLflow lacks; rebuild what it has lost."),
    "reap": ("pipeline.commands.tracking", "End runs whose process is gone."),
    "verify": (
        "pipeline.commands.verify",
        "Compute the comparison's numbers again, with transformers.",
    ),
    "export": ("pipeline.commands.export", "Write a model in Hugging Face's layout."),
}


class LazyGroup(Group):
    """A group that imports a subcommand's module when the subcommand is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command = getattr(import_module(COMMANDS[cmd_name][0]), cmd_name)
        assert isinstance(command, click.Command), cmd_name
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])


@click.group(cls=LazyGroup)
@click.version_option(package_name="lossbook")
def main() -> None:
    """Pretrain a GPT, write every loss in a book, and learn what the numbers are worth."""


if __name__ == "__main__":
    main()
