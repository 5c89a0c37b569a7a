"""The data dictionary page says what is declared."""

from __future__ import annotations

from features.dictionary import dictionary_page
from features.profiles import FAMILIES, ProfileRules
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


def test_every_tag_and_every_constant_of_its_rule_is_on_the_page() -> None:
    section = dictionary_page().split("\n## Profiles\n")[1].split("\n## ")[0]
    for family in FAMILIES:
        assert f"**{family.name}** (`{family.column}`): {family.meaning}." in section
        for value, rule in family.values.items():
            assert f"| `{family.name}:{value}` | {rule} |" in section
    for name, field in ProfileRules.model_fields.items():
        assert f"| `{name}` | " in section
        assert f" | {field.description} |" in section
    named = {word for word in section.split("`") if word.replace("_", "").isalpha() and word.islower()}
    known = {*ProfileRules.model_fields, *FEATURE_TABLES["user_profile"].names, "profile"}
    assert named <= known, "a rule names a constant or a column that there is"
