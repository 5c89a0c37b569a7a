"""UCI Online Retail as the platform's tables, without Spark: the same rules, read from the mapping of the shop's own reader.

Order lines become what `spark_jobs.sales` makes of them, and from there rows like those of `interactions` and `daily_demand`.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import yaml

from features.calendars import special_days
from features.columns import DS
from report import public_set
from spark_jobs.sources.online_retail import MAPPING, SHOP


def lines() -> pa.Table:
    """Purchases and returns: user_id (null: nobody known), item_id, event_type, quantity (units), value (GBP), times."""
    source = yaml.safe_load(MAPPING)["sources"][0]
    orders = next(table for table in source["tables"] if table["table"] == "orders")
    columns = ", ".join(f"{_sql(value)} AS {name}" for name, value in orders["columns"].items())
    dropped = " OR ".join(f"coalesce({condition}, false)" for condition in source["drop"].values())
    file = public_set("online_retail/transactions.parquet")
    rows = duckdb.sql(
        f"""SELECT user_id::BIGINT::VARCHAR AS user_id, item_id, if(quantity > 0, 'purchase', 'return') AS event_type,
                   abs(quantity) AS quantity, abs(quantity) * greatest(unit_price, 0) AS value,
                   event_timestamp, event_timestamp::DATE AS {DS}
            FROM (SELECT {columns} FROM read_parquet('{file}') WHERE NOT ({dropped})) WHERE quantity != 0"""
    ).to_arrow_table()
    local = pc.assume_timezone(rows["event_timestamp"], SHOP["time_zone"], ambiguous="earliest", nonexistent="latest")
    utc = local.cast(pa.timestamp("us", tz="UTC"))
    return rows.set_column(rows.column_names.index("event_timestamp"), "event_timestamp", utc)


def _sql(value: Any) -> str:
    """A column of the mapping as SQL."""
    return str(value["sql"] if isinstance(value, dict) else value)


def interactions(rows: pa.Table) -> pa.Table:
    """Of `lines()`, rows like `interactions`: those of a known customer; lines of one instant keep the order of the file."""
    return rows.filter(pc.is_valid(rows["user_id"])).drop_columns([DS])


def daily_demand(rows: pa.Table) -> pa.Table:
    """Of `lines()`, rows like `daily_demand`: one per item and local day from its first line to the shop's last day, zero-filled.

    The last day is the one before the newest line: the clock of the data stands still within that line's day, which is not over.
    The set knows no promotions and no stock. A price is null on days without a sale: `Panel` carries the last day's mean forward,
    where the Spark job says the last price paid.
    """
    first, last = pc.min(rows[DS]).as_py(), pc.max(rows[DS]).as_py() - timedelta(days=1)
    special = special_days(SHOP["calendars"], first, last)
    names = pa.table({DS: pa.array(special.keys(), pa.date32()), "holiday": pa.array(special.values(), pa.string())})
    with duckdb.connect() as connection:
        connection.register("lines", rows)
        connection.register("names", names)
        return connection.sql(
            f"""WITH sold AS (
                    SELECT item_id, {DS}, sum(quantity) FILTER (event_type = 'purchase') AS units,
                           sum(value) FILTER (event_type = 'purchase' AND value > 0)
                               / sum(quantity) FILTER (event_type = 'purchase' AND value > 0) AS price
                    FROM lines WHERE {DS} <= '{last}' GROUP BY ALL),
                items AS (SELECT item_id, min({DS}) AS since FROM sold GROUP BY ALL),
                days AS (SELECT unnest(generate_series(DATE '{first}', DATE '{last}', INTERVAL 1 DAY))::DATE AS {DS}),
                open AS (SELECT DISTINCT {DS}, true AS is_open FROM sold WHERE units > 0)
            SELECT item_id, {DS}, coalesce(units, 0)::BIGINT AS units_sum, price AS price_mean, 0.0::DOUBLE AS promotion_depth,
                   false AS is_promotion, holiday, coalesce(is_open, false) AS is_open, false AS is_stock_out
            FROM items JOIN days ON {DS} >= since LEFT JOIN sold USING (item_id, {DS}) LEFT JOIN open USING ({DS})
                LEFT JOIN names USING ({DS}) ORDER BY item_id, {DS}"""
        ).to_arrow_table()
