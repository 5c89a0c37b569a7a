"""Verbs of `infra` on the command line; heavy imports happen inside them."""

from __future__ import annotations

import typer

app = typer.Typer()
