"""The named errors of shopgraph: each message says what was expected, what was got, and what to do.

Plain misuse inside the code raises built-in exceptions. The errors here are for the person at the command line or behind
the HTTP call; the command line prints them as one line and exits with `exit_code`.
"""

from __future__ import annotations

import errno
import os
import re

_DISK = {errno.EACCES, errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG}
# Other languages' libraries (delta-rs, SQLite, the JVM) carry the number or the system's words only in their text.
_OS_ERROR = re.compile(r"os error (\d+)")
_WORDS = {
    "database or disk is full": errno.ENOSPC,
    "attempt to write a readonly database": errno.EROFS,
    **{os.strerror(number): number for number in _DISK},
}


class ShopgraphError(Exception):
    """Base of every error that is meant for a user; printed without a traceback."""

    exit_code = 1


class SettingsError(ShopgraphError):
    """A setting is missing, unknown or contradicts another one."""

    exit_code = 2


class HomeError(ShopgraphError):
    """The home folder cannot be used: not writable, wrong format version, held by another process."""


class TableContractError(ShopgraphError):
    """Data and the declared table disagree: a missing column, another type, an undeclared evolution."""


class TableConflictError(ShopgraphError):
    """Another writer committed first; nothing of this attempt is visible."""


class IngestError(ShopgraphError):
    """A source cannot be read or mapped, or too large a share of it would be quarantined; nothing was committed."""


class FeatureError(ShopgraphError):
    """A feature service, view or key does not exist or does not fit, or is not kept where it was asked for."""


class ModelNotFoundError(ShopgraphError):
    """A model, version or alias does not exist in the registry."""


class EngineError(ShopgraphError):
    """An engine (Java, Spark, Ray, MLflow, Redis, Postgres, S3) is missing or does not answer."""


class DivergedError(EngineError):
    """A fit whose loss or metric became NaN or infinite."""


class AccessError(ShopgraphError):
    """An API key cannot be made as it is asked for, or there is none of that name."""


class ReleaseError(ShopgraphError):
    """A graph version cannot be composed, stored, found or run as it is pinned."""


def disk_trouble(error: BaseException) -> str | None:
    """What the disk lacks, in the system's words ("No space left on device"), where that is what `error` or its causes tell.

    None for every other error.
    """
    link: BaseException | None = error
    while link is not None:
        text = str(link)
        found = {link.errno} if isinstance(link, OSError) and link.errno else set()
        found |= {int(number) for number in _OS_ERROR.findall(text)}
        found |= {number for words, number in _WORDS.items() if words in text}
        if numbers := found & _DISK:
            file = link.filename if isinstance(link, OSError) else None
            return os.strerror(min(numbers)) + (f": {file}" if file else "")
        link = link.__cause__ or link.__context__
    return None
