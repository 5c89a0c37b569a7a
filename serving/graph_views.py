"""A graph version for people: its picture, and what differs between two."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from serving.graph import Manifest, Node


def mermaid(manifest: Manifest) -> str:
    """The graph as a Mermaid flow chart (https://mermaid.js.org), which GitHub, GitLab and many editors draw."""
    lines = ["flowchart LR", "  request([request])"]
    for node in manifest.nodes:
        lines.append(f'  {node.name}["{"<br/>".join(_about(node))}"]')
        lines += [f"  {read} --> {node.name}" for read in node.reads]
    read = {name for node in manifest.nodes for name in node.reads}
    lines.append("  answer([answer])")
    lines += [f"  {node.name} --> answer" for node in manifest.nodes if node.name not in read]
    return "\n".join(lines) + "\n"


def differences(old: Manifest, new: Manifest) -> list[tuple[str, str, str]]:
    """(what, its value in the old one, in the new one) of everything that differs; empty where one has no such thing."""
    before, after = (dict(_flat(_named(manifest))) for manifest in (old, new))
    paths = [*before, *(path for path in after if path not in before)]
    return [(path, before.get(path, ""), after.get(path, "")) for path in paths if before.get(path) != after.get(path)]


def _about(node: Node) -> list[str]:
    told = [node.name]
    if node.model:
        told.append(f"{node.model.name} version {node.model.version}, {node.model.digest[:12]}")
    if node.service:
        told.append(f"features of {node.service}, {(node.definition or '')[:12]}")
    return told


def _named(manifest: Manifest) -> dict[str, Any]:
    content = manifest.model_dump(mode="json")
    return {
        **content,
        "nodes": {node["name"]: {key: value for key, value in node.items() if key != "name"} for node in content["nodes"]},
    }


def _flat(content: Any, path: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(content, Mapping):
        for name, value in content.items():
            yield from _flat(value, f"{path}.{name}" if path else str(name))
    elif isinstance(content, list):
        yield path, ", ".join(map(str, content))
    elif content is not None:
        yield path, str(content)
