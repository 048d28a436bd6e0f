"""The command line: one module for each group of commands. Nothing else imports from it."""

from dagster_resil.cli.entry import cli, main

__all__ = ["cli", "main"]
