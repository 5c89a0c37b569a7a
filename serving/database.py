"""The SQL database of the releases and of the API keys: SQLite under the home, Postgres by settings."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import sqlalchemy as sa

from infra.errors import EngineError
from infra.home import Home
from infra.settings import Settings


def connect(settings: Settings, schema: sa.MetaData) -> sa.Engine:
    """The database, with the tables of `schema` in it.

    Raises:
        sqlalchemy.exc.SQLAlchemyError: it does not answer.
    """
    configured = settings.releases_db
    url = configured.get_secret_value() if configured else f"sqlite:///{Home(settings).sql / 'releases.db'}"
    engine = sa.create_engine(url, pool_pre_ping=True)
    if engine.dialect.name == "sqlite":
        # WAL: the gateways' polls and a release never wait for each other.
        sa.event.listen(engine, "connect", lambda connection, _: connection.execute("PRAGMA journal_mode=WAL"))
    with suppress(sa.exc.DBAPIError):  # two who begin at once both find no tables; who comes second looks again
        schema.create_all(engine)
        return engine
    schema.create_all(engine)
    return engine


@contextmanager
def answering() -> Iterator[None]:
    """Tell in one sentence when the database does not answer; what breaks a constraint passes through.

    Raises:
        EngineError: it does not answer.
    """
    try:
        yield
    except sa.exc.IntegrityError:
        raise
    except sa.exc.SQLAlchemyError as error:
        told: Any = getattr(error, "orig", None) or error
        raise EngineError(
            f"the release database does not answer: {str(told).splitlines()[0]}; see SHOPGRAPH_RELEASES_DB."
        ) from None
