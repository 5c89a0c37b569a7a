"""What a change of the OpenAPI document would break for a client. Fields are only added."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

Schema = Mapping[str, Any]

_LEAST = ("minimum", "exclusiveMinimum", "minLength", "minItems")
_MOST = ("maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties")


def breaking_changes(old: Schema, new: Schema) -> list[str]:
    """One line for each thing that a client of `old` may rely on and that `new` does not keep."""
    return sorted({*_paths(old["paths"], new["paths"]), *_schemas(old, new)})


def _paths(old: Schema, new: Schema) -> Iterator[str]:
    for path, operations in old.items():
        if path not in new:
            yield f"{path} is gone"
            continue
        for method, operation in operations.items():
            if method not in new[path]:
                yield f"{method} {path} is gone"
                continue
            for status in operation["responses"]:
                if status not in new[path][method]["responses"]:
                    yield f"{method} {path}: status {status} is gone"
            for way in operation.get("security", [{}]):
                if way not in new[path][method].get("security", [{}]):
                    yield f"{method} {path}: it no longer suffices to show {way or 'nothing'}"


def _schemas(old: Schema, new: Schema) -> Iterator[str]:
    sent = _names_below([operation.get("requestBody", {}) for path in old["paths"].values() for operation in path.values()], old)
    for name, before in old["components"]["schemas"].items():
        after = new["components"]["schemas"].get(name)
        if after is None:
            yield f"{name} is gone"
            continue
        is_sent = name in sent
        for field, value in before.get("properties", {}).items():
            if field in after.get("properties", {}):
                yield from _value(f"{name}.{field}", value, after["properties"][field], is_sent)
            else:
                yield f"{name}.{field} is gone"
        for field in set(after.get("required", ())) - set(before.get("required", ())):
            if is_sent:
                yield f"{name}.{field} became required"
        for field in set(before.get("required", ())) - set(after.get("required", ())):
            if not is_sent:
                yield f"{name}.{field} is no longer always there"


def _value(where: str, before: Schema, after: Schema, is_sent: bool) -> Iterator[str]:
    old_kinds, new_kinds = _kinds(before), _kinds(after)
    if not (old_kinds.keys() <= new_kinds.keys() if is_sent else new_kinds.keys() <= old_kinds.keys()):
        yield f"{where} changed its type"
    for kind in old_kinds.keys() & new_kinds.keys():
        old, new = old_kinds[kind], new_kinds[kind]
        if is_sent:
            for name in _LEAST:
                if new.get(name, float("-inf")) > old.get(name, float("-inf")):
                    yield f"{where}: {name} rose to {new[name]}"
            for name in _MOST:
                if new.get(name, float("inf")) < old.get(name, float("inf")):
                    yield f"{where}: {name} fell to {new[name]}"
            if "enum" in new:
                for value in set(old.get("enum", ["any value"])) - set(new["enum"]):
                    yield f"{where}: {value} is no longer taken"
        for inner in ("items", "additionalProperties"):
            if isinstance(old.get(inner), Mapping) and isinstance(new.get(inner), Mapping):
                yield from _value(f"{where}[]", old[inner], new[inner], is_sent)


def _kinds(schema: Schema) -> dict[str, Schema]:
    """The alternatives of a value: type and format, or the name of a schema, each with its own part."""
    if "anyOf" in schema:
        return {kind: part for one in schema["anyOf"] for kind, part in _kinds(one).items()}
    if "$ref" in schema:
        return {str(schema["$ref"]): schema}
    return {f"{schema.get('type', 'any')} {schema.get('format', '')}": schema}


def _names_below(content: Any, document: Schema) -> set[str]:
    """Names of all schemas that are reached from a part of the document."""
    names: set[str] = set()
    waiting = [content]
    while waiting:
        part = waiting.pop()
        if isinstance(part, Mapping):
            waiting += part.values()
            name = str(part.get("$ref", "")).rsplit("/", 1)[-1]
            if name and name not in names:
                names.add(name)
                waiting.append(document["components"]["schemas"][name])
        elif isinstance(part, list):
            waiting += part
    return names
