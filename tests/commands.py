"""Commands in pages and manifests: found, and held against the verbs and options that there are."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from typing import Any

from typer.main import get_command

import shopgraph

_FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"`(shopgraph [^`]+)`")
_RUNNERS = ("--", "--rm", "in-shell", "in-gateway", "shopgraph")
"""What stands before a command that is run elsewhere: in a pod, in a container; the last is a container's name."""
_VALUES = re.compile(r"<[a-z]+>|\[[^]]*\]|\.\.\.")


def blocks(page: str, language: str) -> list[str]:
    """The fenced blocks of a page in one language; "" for those that name none."""
    return [text for _, named, text in _FENCE.findall(page) if named == language]


def calls(page: str) -> list[list[str]]:
    """The arguments of every `shopgraph ...` in the fenced blocks of a page."""
    return [call for language in ("", "bash") for block in blocks(page, language) for call in in_shell(block)]


def mentions(page: str) -> list[list[str]]:
    """The same of its inline code, which may name a verb without all that it needs."""
    return [call for text in _INLINE.findall(page) for call in in_shell(text)]


def in_shell(text: str) -> Iterator[list[str]]:
    """The arguments of every `shopgraph ...` in shell commands."""
    for line in re.sub(r"\\\n\s*", " ", text).splitlines():
        if "shopgraph" in line:
            words = shlex.shlex(_VALUES.sub("x", line), posix=True, punctuation_chars=True)
            words.whitespace_split = True
            yield from _in_words(list(words))


def _in_words(words: Sequence[str]) -> Iterator[list[str]]:
    found: list[str] | None = None
    for place, word in enumerate(words):
        before = words[place - 1] if place else ";"
        begins = set(before) <= set("();&|") or before in _RUNNERS or "=" in before
        if word == "shopgraph" and begins:
            found = []
        elif found is not None and set(word) <= set("();<>&|"):
            yield found
            found = None
        elif found is not None:
            found.append(word)
    if found is not None:
        yield found


def check(arguments: Sequence[str]) -> None:
    """Parse a command line as `shopgraph` would, running nothing.

    Raises:
        click's UsageError: there is no such verb, option or argument.
    """
    command: Any = get_command(shopgraph.app)
    parent, rest = None, list(arguments)
    while True:
        context = command.make_context(command.name, rest, parent=parent, help_option_names=[])
        if not hasattr(command, "resolve_command"):
            return
        rest = [*context._protected_args, *context.args]
        if not rest:
            return
        _, command, rest = command.resolve_command(context, rest)
        parent = context
