"""Fingerprints of what a fit depends on; its checkpoint is named by them, so that only the very same fit is continued."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pyarrow as pa

from infra.source import code_digest

_HERE = Path(__file__).parent


def task_digest(task: str) -> str:
    """Fingerprint of the code that fits a model: the files of its folder and the trainer's."""
    shared = ("trainer.py", "optimizer.py", "dropout.py", "resume.py")
    return code_digest(*sorted((_HERE / task).glob("*.py")), *(_HERE / file for file in shared))


def rows_digest(rows: pa.Table) -> str:
    """Fingerprint of the values of a table, in their order."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, rows.schema.remove_metadata()) as stream:
        stream.write_table(rows.replace_schema_metadata().combine_chunks())
    return hashlib.sha256(sink.getvalue()).hexdigest()
