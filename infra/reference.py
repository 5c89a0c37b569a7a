"""Generates docs/settings.md from infra/settings.py."""

from __future__ import annotations

from pydantic import SecretStr

from infra.settings import Settings


def settings_page() -> str:
    """The page in Markdown: every setting with its type, default and meaning."""
    lines = [
        "# Settings",
        "",
        "Every setting is an environment variable. Generated from `infra/settings.py` by `make docs`; do not edit.",
        "Secrets come from the environment only and are hidden in logs.",
        "",
        "| variable | default | meaning |",
        "|---|---|---|",
    ]
    for name, field in Settings.model_fields.items():
        default = "" if field.default is None else f"`{field.default}`"
        secret = " (secret)" if SecretStr in getattr(field.annotation, "__args__", ()) else ""
        lines.append(f"| `SHOPGRAPH_{name.upper()}` | {default} | {field.description}{secret} |")
    return "\n".join(lines) + "\n"
