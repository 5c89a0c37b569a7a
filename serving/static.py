"""The end of the ladder: a list that no model, no store and no table is asked for."""

from __future__ import annotations

from serving import list_ids
from serving.edges import Content
from serving.graph import STATIC, Manifest
from serving.nodes.item_facts import ItemFacts
from serving.schemas import RecommendRequest


def static_content(manifest: Manifest, request: RecommendRequest, facts: ItemFacts | None) -> Content:
    """The manifest's own list, in each place that is asked for; without the items that `facts` says may not be shown.

    Args:
        facts: None: nothing is known of the items, so a list that is filtered is empty.
    """
    shown = set(request.exclude)
    lists = []
    for asked in request.lists:
        items: list[Content] = []
        for item in manifest.static if facts or asked.filters is None else ():
            if len(items) == asked.k:
                break
            if item not in shown and item not in asked.together and (facts is None or facts.may_show(item, asked.filters)):
                items.append({"item_id": item, "score": 0.0, "source": "popular"})
                shown.add(item)
        about = {"placement": asked.placement, "list_id": list_ids.new(), "items": items}
        lists.append({**about, "personalized": False, "degraded": [STATIC]})
    content = {name: value for name, value in lists[0].items() if name != "placement"}
    return content if request.placements is None else {**content, "lists": lists}
