"""The data dictionary page says what is declared."""

from __future__ import annotations

from features.dictionary import dictionary_page
from features.services import SERVICES
from features.tables import FEATURE_TABLES, RAW_TABLES
from features.views import ONLINE_DAYS


def test_every_table_column_and_service_is_on_the_page() -> None:
    page = dictionary_page()
    for table in (*RAW_TABLES.values(), *FEATURE_TABLES.values()):
        section = page.split(f"\n### {table.name}\n")[1].split("\n### ")[0]
        for column in table.columns:
            assert f"| `{column.name}` | {column.type}" in section
            assert column.meaning in section
    for service in SERVICES:
        assert f"| {service} |" in page
    assert f"the last {ONLINE_DAYS['daily_demand']} days" in page.split("\n### daily_demand\n")[1].split("\n### ")[0]
