"""A digest of code, by which a result knows whether it would come out the same again."""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterable
from inspect import getsource
from pathlib import Path
from textwrap import dedent
from typing import Any


def code_digest(*parts: Any) -> str:
    """A digest of functions, modules or Python files as code: comments, docstrings and layout do not count.

    Args:
        parts: a `Path` to a file, else anything whose source `inspect` finds. Their order counts.
    """
    digest = hashlib.sha256()
    for part in parts:
        tree = ast.parse(part.read_text(encoding="utf-8") if isinstance(part, Path) else dedent(getsource(part)))
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                node.body = list(_without_texts(node.body))
        digest.update(ast.dump(tree).encode() + b"\0")
    return digest.hexdigest()


def _without_texts(body: Iterable[ast.stmt]) -> Iterable[ast.stmt]:
    return (line for line in body if not (isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant)))
