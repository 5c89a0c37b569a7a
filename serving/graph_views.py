"""A graph version for people: its picture, and what differs between two."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

from serving.graph import REQUEST, Manifest, PinnedNode


def mermaid(manifest: Manifest) -> str:
    """The graph as a Mermaid flow chart (https://mermaid.js.org), which GitHub, GitLab and many editors draw."""
    lines = ["flowchart LR", f"  {REQUEST}([request])"]
    for node in manifest.nodes:
        lines.append(f'  {node.name}["{"<br/>".join(_about(manifest, node))}"]')
        lines += [f"  {read} --> {node.name}" for read in node.reads]
    lines += ["  answer([answer])", f"  {manifest.answer} --> answer"]
    if manifest.ladder:
        steps = " --> ".join(f"{step}[{step}]" for step in ("full", *manifest.ladder))
        lines += ["  subgraph ladder [what an answer may go without]", f"  {steps}", "  end"]
    return "\n".join(lines) + "\n"


def differences(old: Manifest, new: Manifest) -> list[tuple[str, str, str]]:
    """(what, its value in the old one, in the new one) of everything that differs; empty where one has no such thing."""
    before, after = flat(old), flat(new)
    paths = [*before, *(path for path in after if path not in before)]
    return [(path, before.get(path, ""), after.get(path, "")) for path in paths if before.get(path) != after.get(path)]


def flat(manifest: Manifest) -> dict[str, str]:
    """All that a graph version says, by dotted names, as text."""
    return dict(_flat(_named(manifest)))


def _about(manifest: Manifest, node: PinnedNode) -> list[str]:
    told = [node.name]
    pins = {name: manifest.models[name] for name in node.models}
    told += [f"{name} version {pin.version}, {pin.digest[:12]}" for name, pin in pins.items()]
    told += [f"features of {service}, {digest[:12]}" for service, digest in node.services.items()]
    return told


def _named(manifest: Manifest) -> dict[str, Any]:
    """The manifest with what is named under its name, and its list at the end of the ladder as a digest."""
    content = manifest.model_dump(mode="json")
    static = hashlib.sha256("\n".join(content["static"]).encode()).hexdigest()
    return {
        **content,
        "nodes": {node.pop("name"): node for node in content["nodes"]},
        "static": f"{len(content['static'])} items, {static[:12]}" if content["static"] else None,
    }


def _flat(content: Any, path: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(content, Mapping):
        for name, value in content.items():
            yield from _flat(value, f"{path}.{name}" if path else str(name))
    elif isinstance(content, list):
        yield path, ", ".join(map(str, content))
    elif content is not None:
        yield path, str(content)
