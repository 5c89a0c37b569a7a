"""The data dictionary, from what is declared: docs/dictionary.md, and what `shopgraph features list` says of a shop's views."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from features.columns import CREATED_TIMESTAMP, EVENT_TIMESTAMP
from features.definitions import OURS, Definitions
from features.profiles import FAMILIES, INTERESTS_MOST, ProfileRules
from features.tables import RAW_TABLES, SCORE_TABLES, Table

_INTRODUCTION = f"""# Data dictionary

Every table of a shop and every column, with its type, unit and meaning. Generated from `features/tables.py` by `make docs`; do
not edit.

- **Time.** `{EVENT_TIMESTAMP}` is when a row became true, `{CREATED_TIMESTAMP}` when the shop could first know it, both in
  microseconds UTC. A daily row of local day D is stamped with the first instant of D+1.
- **Visible.** A reader at time t sees a row iff its event and its created time are not after t and, where the table has an
  expiry, its event is not older than that; of these, the one with the greatest (event, created). Late rows and corrections are
  added with a later created time and overwrite nothing. A feature row is known by its key and event time; of its revisions the
  newest that is visible counts, and where `retracted` (a column of every feature table) says `nothing`, nothing is known.
- **Types.** string, strings (a list), int (64 bits), float (64 bits), bool, timestamp (microseconds UTC), date (local day),
  money (DECIMAL(18,4) in the shop's currency; float once it is served). `*` marks what is never null.
- **Marks.** `pseudonym` stands for a person, `personal` speaks of one; what has no mark does neither.
- **Online.** Feature tables are views of the same name in Feast. The key of an online row is the table's key; a date in a key is
  written as ISO text such as 2011-10-01.
"""


def dictionary_page() -> str:
    """The page in Markdown: services, feature tables, the rules of profiles, scores, raw tables."""
    parts = [_INTRODUCTION, "## Feature services\n", "One per model, by the model's name; `profile` is for people.\n"]
    rows = [
        f"| {service.name} | {', '.join(f'[{view.name}](#{view.name})' for view in service.views)} | {service.meaning} |"
        for service in OURS.services.values()
    ]
    parts.append("\n".join(["| service | views | meaning |", "|---|---|---|", *rows]) + "\n")
    parts.append("## Feature tables\n")
    parts += [_section(table) for table in OURS.tables.values()]
    parts.append(_profiles())
    parts.append("## Scores\n")
    parts += [_section(table) for table in SCORE_TABLES.values()]
    parts.append("## Raw tables\n")
    parts += [_section(table) for table in RAW_TABLES.values()]
    return "\n".join(parts)


def describe(definitions: Definitions, name: str) -> dict[str, Any]:
    """What a view serves, as JSON can hold it; `file` is where an own one is declared.

    Raises:
        FeatureError: there is no such view.
    """
    view = definitions.view(name)
    table, own = definitions.tables[name], definitions.own.get(name)
    told = [asdict(table.column(column)) for column in view.column_names]
    return {
        "view": name,
        "meaning": table.meaning,
        "keys": list(view.key_names),
        "columns": [{key: column[key] for key in ("name", "type", "unit", "mark", "meaning")} for column in told],
        "ttl_days": view.ttl_days,
        "online": view.online,
        "file": str(own.file) if own else None,
    }


def _profiles() -> str:
    """Every tag with its rule, and every constant that a rule names."""
    lines = [
        "## Profiles",
        "",
        "What the scores, stages, tiers and tags of [user_profile](#user_profile) mean. A rule looks at one user and at constants of",
        "the shop, set under `profile:` in its shop.yaml; `shopgraph profiles` counts the users, `--fit` proposes constants in money.",
        "A day is a local day of the shop; trailing days end with the one before the row's stamp. Nobody has more than",
        f"{INTERESTS_MOST} tags of interests, and one of each other kind.",
        "",
    ]
    for family in FAMILIES:
        lines += [f"**{family.name}** (`{family.column}`): {family.meaning}.", "", "| tag | rule |", "|---|---|"]
        lines += [f"| `{family.name}:{value}` | {rule} |" for value, rule in family.values.items()]
        lines.append("")
    lines += ["| constant | default | meaning |", "|---|---|---|"]
    for name, field in ProfileRules.model_fields.items():
        default = (", ".join(map(str, field.default)) or "none") if isinstance(field.default, tuple) else field.default
        lines.append(f"| `{name}` | {default} | {field.description} |")
    return "\n".join(lines) + "\n"


def _section(table: Table) -> str:
    facts = []
    if table.keys:
        facts.append(f"Key: {_names(table.keys)}.")
    if table.kind == "raw":
        facts.append(f"A row is known by {_names(table.identity)}." if table.identity else "Identical rows are kept.")
    view = OURS.views.get(table.name) if table.kind == "features" else None
    if view is not None:
        facts.append("Never expires." if view.ttl_days is None else f"Expires after {view.ttl_days} days.")
        days = f", the last {view.online_days} days" if view.online_days else ""
        facts.append(f"Kept online{days}." if view.online else "Offline only.")
    lines = [
        f"### {table.name}",
        "",
        f"{table.meaning[0].upper()}{table.meaning[1:]}.",
        "",
        " ".join(facts),
        "",
        "| column | type | unit | mark | meaning |",
        "|---|---|---|---|---|",
    ]
    for column in table.columns:
        star = "\\*" if column.required else ""
        mark = "" if column.mark == "none" else column.mark
        lines.append(f"| `{column.name}` | {column.type}{star} | {column.unit} | {mark} | {column.meaning} |")
    return "\n".join(lines) + "\n"


def _names(columns: tuple[str, ...]) -> str:
    return ", ".join(f"`{name}`" for name in columns)
