"""What the sample shop sells: items with their categories, taste clusters, successors, price response and true quality."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from spark_jobs.sample.chance import Chance, Floats, Ints
from spark_jobs.sample.days import NUM_DAYS

ASPECTS = ("quality", "delivery", "price", "service")

SUCCESSOR_WEIGHTS = (0.5, 0.25, 0.15, 0.1)
"""How likely each of an item's successors is, given that a visitor follows one."""


@dataclass(frozen=True)
class Category:
    """One category: words in both languages, typical price in CNY, and how its demand behaves."""

    name: str
    chinese: tuple[str, ...]
    english: tuple[str, ...]
    price: float
    elasticity: float
    peak_day: int
    amplitude: float
    extra_units: float
    conversion: float


CATEGORIES = (
    Category("books", ("小说", "绘本", "教材", "传记"), ("novel", "picture book", "textbook", "biography"),
             42, -1.3, 245, 0.20, 0.3, 0.2),
    Category("tablets", ("平板电脑", "电纸书", "绘图板", "学习机"), ("tablet", "e-reader", "drawing pad", "study pad"),
             1900, -2.2, 320, 0.15, 0.0, 0.1),
    Category("phones", ("手机", "充电宝", "耳机", "手机壳"), ("phone", "power bank", "headset", "phone case"),
             880, -2.4, 310, 0.10, 0.1, 0.14),
    Category("fruit", ("苹果", "橙子", "车厘子", "芒果"), ("apples", "oranges", "cherries", "mangoes"),
             58, -1.6, 200, 0.35, 1.6, 0.25),
    Category("shampoo", ("洗发水", "护发素", "沐浴露", "发膜"), ("shampoo", "conditioner", "shower gel", "hair mask"),
             55, -1.9, 180, 0.10, 1.0, 0.22),
    Category("heaters", ("热水器", "电暖器", "电热毯", "暖手宝"), ("water heater", "heater", "electric blanket", "hand warmer"),
             420, -1.7, 340, 0.60, 0.0, 0.12),
    Category("dairy", ("牛奶", "酸奶", "奶酪", "奶粉"), ("milk", "yoghurt", "cheese", "milk powder"),
             68, -1.5, 20, 0.12, 2.2, 0.26),
    Category("clothes", ("连衣裙", "羽绒服", "衬衫", "牛仔裤"), ("dress", "down jacket", "shirt", "jeans"),
             190, -2.0, 300, 0.25, 0.3, 0.17),
    Category("computers", ("笔记本", "显示器", "键盘", "鼠标"), ("laptop", "monitor", "keyboard", "mouse"),
             1250, -2.1, 250, 0.15, 0.05, 0.11),
    Category("toys", ("积木", "毛绒玩具", "拼图", "遥控车"), ("building blocks", "plush toy", "puzzle", "toy car"),
             95, -1.8, 152, 0.25, 0.5, 0.19),
)  # fmt: skip
BRANDS = (
    "云岚", "青禾", "北辰", "木语", "极光", "海棠", "Norvik", "Lumo", "Pebble", "Aster", "Quill", "Hearth",
)  # fmt: skip


@dataclass(frozen=True)
class Size:
    """How large a sample shop is; `num_events` is met within some per cent."""

    name: str
    num_users: int
    num_items: int
    num_events: int


SIZES = {
    size.name: size
    for size in (
        Size("tiny", 300, 200, 20_000),
        Size("small", 5_000, 2_000, 400_000),
        Size("medium", 100_000, 20_000, 8_000_000),
        Size("large", 1_000_000, 200_000, 100_000_000),
    )
}


@dataclass(frozen=True)
class Catalogue:
    """One entry per item unless said otherwise; money in fen (1/100 CNY).

    `by_cluster` lists items cluster by cluster; `mass` (n + 1) is the running sum of their popularity in that order, and
    `cluster_start` (clusters + 1) where each cluster begins in it. A uniform draw scaled into a stretch of `mass` therefore
    picks an item of the whole shop or of one cluster in proportion to its popularity.
    """

    chance: Chance
    category: Ints
    noun: Ints
    brand: Ints
    cluster: Ints
    popularity: Floats
    by_cluster: Ints
    mass: Floats
    cluster_start: Ints
    successors: NDArray[np.int64]
    first_day: Ints
    last_day: Ints
    reference_fen: Ints
    cost_share: Floats
    elasticity: Floats
    rival_elasticity: Floats
    promotion_lift: Floats
    conversion: Floats
    extra_units: Floats
    return_share: Floats
    quality: Floats
    season: Floats

    @property
    def num_items(self) -> int:
        return len(self.category)

    @property
    def num_clusters(self) -> int:
        """Taste clusters."""
        return len(self.cluster_start) - 1

    def pick(self, low: Floats, high: Floats, draw: Floats) -> Ints:
        """Items by popularity from the stretch [low, high) of `mass`, one per draw in (0, 1)."""
        place = np.searchsorted(self.mass, low + draw * (high - low), side="right") - 1
        return self.by_cluster[np.clip(place, 0, self.num_items - 1)]


@lru_cache(maxsize=2)
def make_catalogue(size: Size, seed: int) -> Catalogue:
    """The items of one shop, a pure function of size and seed; each worker makes its own, which is cheaper than sending it."""
    chance = Chance(seed)
    items = np.arange(size.num_items)
    category = chance.below("item category", len(CATEGORIES), items)
    styles = max(2, round(size.num_items / (len(CATEGORIES) * 50)))
    cluster = category * styles + chance.below("item style", styles, items)
    rank = np.argsort(np.argsort(chance.uniform("item rank", items)))
    popularity = 1 / (rank + 3.0)
    popularity /= popularity.sum()
    num_times_mean = popularity * size.num_items

    by_cluster = np.argsort(cluster, kind="stable")
    mass = np.concatenate([[0.0], np.cumsum(popularity[by_cluster])])
    cluster_start = np.searchsorted(cluster[by_cluster], np.arange(len(CATEGORIES) * styles + 1))

    def number(name: str) -> Floats:
        return np.array([getattr(c, name) for c in CATEGORIES], dtype=np.float64)[category]

    launched = chance.uniform("item launched", items) < 0.25
    first_day = np.where(launched, chance.below("item first day", NUM_DAYS - 90, items), 0)
    withdrawn = chance.uniform("item withdrawn", items) < 0.1
    lasts = 90 + chance.below("item lasts", NUM_DAYS - 90, items)
    last_day = np.where(withdrawn, np.minimum(first_day + lasts, NUM_DAYS), NUM_DAYS)

    day_of_year = (np.arange(NUM_DAYS) + 2) % 365.25
    season = np.stack([1 + c.amplitude * np.cos(2 * np.pi * (day_of_year - c.peak_day) / 365.25) for c in CATEGORIES])
    reference = number("price") * np.exp(0.45 * chance.normal("item price", items))
    aspect = np.arange(len(ASPECTS))
    return Catalogue(
        chance=chance,
        category=category,
        noun=chance.below("item noun", 4, items),
        brand=chance.below("item brand", len(BRANDS), items),
        cluster=cluster,
        popularity=popularity,
        by_cluster=by_cluster,
        mass=mass,
        cluster_start=cluster_start,
        successors=_successors(chance, popularity, by_cluster, cluster_start, cluster),
        first_day=first_day,
        last_day=last_day,
        reference_fen=np.maximum(np.round(reference * 10).astype(np.int64) * 10, 500),
        cost_share=0.5 + 0.25 * chance.uniform("item cost", items),
        elasticity=np.minimum(number("elasticity") + 0.3 * chance.normal("item elasticity", items), -0.3),
        rival_elasticity=0.2 + 0.5 * chance.uniform("item rival elasticity", items),
        promotion_lift=1.1 + 0.5 * chance.uniform("item promotion lift", items),
        conversion=number("conversion")
        * np.exp(0.25 * chance.normal("item conversion", items))
        * np.minimum(num_times_mean**0.3, 3.0),
        extra_units=number("extra_units"),
        return_share=0.01 + 0.06 * chance.uniform("item returns", items),
        quality=0.9 + 0.9 * chance.normal("item quality", items[:, None], aspect[None, :]),
        season=season,
    )


def _successors(chance: Chance, popularity: Floats, by_cluster: Ints, cluster_start: Ints, cluster: Ints) -> NDArray[np.int64]:
    """Four directed successors per item: two in a partner cluster, one in its own, one anywhere; none is the item itself.

    Drawn by the square root of popularity, so that rare items are reached from somewhere and popularity says little of what
    comes next.
    """
    num_items, num_clusters = len(cluster), len(cluster_start) - 1
    damped = np.concatenate([[0.0], np.cumsum(np.sqrt(popularity[by_cluster]))])
    filled = np.flatnonzero(np.diff(cluster_start))
    items = np.arange(num_items)
    partner = filled[chance.below("partner cluster", len(filled), np.arange(num_clusters))]
    columns = []
    for place in range(len(SUCCESSOR_WEIGHTS)):
        home = partner[cluster] if place < 2 else cluster
        low, high = damped[cluster_start[home]], damped[cluster_start[home + 1]]
        if place == 3:
            low, high = np.zeros(num_items), np.full(num_items, damped[-1])
        draw = low + chance.uniform("successor", items, place) * (high - low)
        found = by_cluster[np.clip(np.searchsorted(damped, draw, side="right") - 1, 0, num_items - 1)]
        columns.append(np.where(found == items, (items + 1 + place) % num_items, found))
    return np.stack(columns, axis=1)
