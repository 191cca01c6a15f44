"""The subcommands of `lossbook`, a module for each group of related ones."""
