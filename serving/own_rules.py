"""Rules of a shop's own: one Python file each, kept under the digest of its text, so that a graph version means one thing for good."""

from __future__ import annotations

import hashlib
import runpy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.definitions import broken
from features.shop import Shop
from infra.errors import FeatureError, ReleaseError
from infra.home import Home

Columns = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class OwnRule:
    """A rule: how many times as much each candidate counts; 0 leaves it out."""

    name: str
    factors: Callable[[Columns, str], Any]

    def of(self, items: Columns, placement: str) -> NDArray[np.float64]:
        """(n,) factors.

        Raises:
            ValueError: what the rule gives is not one finite number of at least 0 per candidate.
        """
        found = np.asarray(self.factors(items, placement), dtype=np.float64)
        size = len(items["item_id"])
        if found.shape != (size,) or not np.isfinite(found).all() or (found < 0).any():
            raise ValueError(f"rule {self.name}: expected {size} finite factors of at least 0, got shape {found.shape}")
        return found


def keep(home: Home, shop: Shop) -> dict[str, str]:
    """Name -> digest of the shop's own rules, in their order; each file is kept under its digest.

    Raises:
        ReleaseError: a file is missing, cannot be run, or says no `factors`.
    """
    digests = {}
    for name in shop.rules.own:
        file = (shop.folder or home.shop(shop.name)) / "rules" / f"{name}.py"
        if not file.exists():
            raise ReleaseError(f"shop.yaml names the rule {name}, but there is no {file}.")
        text = file.read_bytes()
        digest = hashlib.sha256(text).hexdigest()
        kept = home.rule_file(digest)
        kept.parent.mkdir(parents=True, exist_ok=True)
        draft = kept.with_suffix(".draft")
        draft.write_bytes(text)
        draft.replace(kept)
        load(home, name, digest)
        digests[name] = digest
    return digests


def load(home: Home, name: str, digest: str) -> OwnRule:
    """The rule that is kept under a digest.

    Raises:
        ReleaseError: it is not kept here, is another one, cannot be run, or says no `factors`.
    """
    file = home.rule_file(digest)
    if not file.exists():
        raise ReleaseError(f"rule {name} ({digest[:12]}) is not kept in this home; run `shopgraph graph compile recommend` in it.")
    if hashlib.sha256(file.read_bytes()).hexdigest() != digest:
        raise ReleaseError(f"rule {name}: {file} was changed; delete it and run `shopgraph graph compile recommend`.")
    try:
        said = runpy.run_path(str(file), run_name=f"own_{name}")
    except (Exception, SystemExit) as error:  # whatever somebody's code does
        told: FeatureError = broken(file, error)
        raise ReleaseError(f"rule {name}: {told}") from error
    if not callable(said.get("factors")):
        raise ReleaseError(f"rule {name} says no `factors(items, placement)`; see docs/extend/rule.md.")
    return OwnRule(name, said["factors"])
