"""The named errors of shopgraph: each message says what was expected, what was got, and what to do.

Plain misuse inside the code raises built-in exceptions. The errors here are for the person at the command line or behind
the HTTP call; the command line prints them as one line and exits with `exit_code`.
"""

from __future__ import annotations


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


class ReleaseError(ShopgraphError):
    """A graph version cannot be composed, stored, found or run as it is pinned."""
