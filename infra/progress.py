"""What a verb is doing, told while it does it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console


@contextmanager
def steps(first: str) -> Iterator[Callable[[str], None]]:
    """Tell the present step: beside a spinner where a person watches, else a line each; `first` is told by the spinner alone."""
    console = Console(stderr=True)
    with console.status(first) as spinner:
        yield spinner.update if console.is_terminal else console.print
