"""What an API key may allow, and which path needs it."""

from __future__ import annotations

from collections.abc import Mapping

from serving.graph import PRODUCTS
from serving.schemas import TOLD

ALL = "*"
METRICS = "metrics:read"
SCOPES: tuple[str, ...] = (*PRODUCTS, *(f"{kind}:write" for kind in TOLD), METRICS, ALL)
"""Every scope: one for each thing that is asked or told."""

PUBLISHABLE = ("events:write",)
"""What a key may allow that stands in a page. Whoever opens the page reads the key, and `recommend` answers for any user that is named:
with `buy_again` it tells what somebody bought. So pages tell and do not ask; the shop's own server asks, and knows who is logged in."""

NEEDS: Mapping[str, str] = {
    **{f"/v1/{product}": product for product in PRODUCTS},
    **{f"/v1/{kind}": f"{kind}:write" for kind in TOLD},
    "/metrics": METRICS,
}
"""Path -> the scope it needs. The others are open: /livez and /readyz, which probes ask that have no key and which tell versions, and
the API's description, which is the same for every shop. /metrics is not: it tells how much a shop is asked and told."""
