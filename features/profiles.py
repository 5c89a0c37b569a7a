"""Profiles: the rules that turn what is known of a user into scores, a value tier, a life-cycle stage and tags.

A rule looks at one user's own acts and at constants, never at other users: a customer's tier does not change because somebody
else bought, a profile of last March can be told exactly, and a new fact touches one user. The constants are the shop's to set,
under `profile:` in its shop.yaml.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

VALUE_DAYS = 365
"""Trailing local days of what a user is worth and used to do: the columns that end in `_365d`, the scores and the habits."""
INTEREST_DAYS = 90
"""Trailing local days of a user's interests."""
INTERESTS_MOST = 3
SCORES = (1, 2, 3, 4, 5)

Bounds = tuple[int, int, int, int]
Money = Annotated[float, Field(allow_inf_nan=False)]


class ProfileRules(BaseModel):
    """The constants of profiles. Frozen; unknown keys are refused.

    The defaults in money are made for orders of some tens in the shop's currency, as in EUR, GBP or USD.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    recency_days: Bounds = Field(
        (30, 60, 120, 240), description="Most days since the last purchase for a recency score of 5, 4, 3, 2; beyond, 1."
    )
    frequency_days: Bounds = Field(
        (2, 3, 5, 10),
        description=f"Fewest days with a purchase in {VALUE_DAYS} days for a frequency score of 2, 3, 4, 5; below, 1.",
    )
    monetary_value: tuple[Money, Money, Money, Money] = Field(
        (50, 150, 500, 1500),
        description=f"Least money, bought less returned in {VALUE_DAYS} days, for a monetary score of 2, 3, 4, 5; below, 1.",
    )
    value_middle: int = Field(5, ge=2, le=10, description="Least sum of frequency and monetary score for `value:middle`.")
    value_high: int = Field(8, ge=2, le=10, description="The same for `value:high`.")
    new_days: int = Field(30, ge=1, le=3650, description="Days a user is new, that of the first purchase included.")
    rhythm_days: int = Field(45, ge=1, le=3650, description="Rhythm of users with fewer than three days with a purchase.")
    rhythm_least_days: int = Field(15, ge=1, le=3650, description="Shortest rhythm of anybody.")
    rhythm_most_days: int = Field(120, ge=1, le=3650, description="Longest rhythm of anybody.")
    at_risk_after: int = Field(2, ge=1, le=100, description="Rhythms since the last purchase after which a user is at risk.")
    dormant_after: int = Field(3, ge=1, le=100, description="The same for dormant.")
    lost_after: int = Field(6, ge=1, le=100, description="The same for lost.")
    price: tuple[Money, Money] = Field((10, 50), description="Mean price of what a user bought from which it is middle, premium.")
    least_acts: int = Field(5, ge=1, description="Fewest acts that make a habit or an interest.")
    interest_share: float = Field(0.2, gt=0, le=1, description="Least share of a user's acts that makes a category an interest.")
    returns_lines: int = Field(3, ge=1, description="Fewest purchase lines that make a habit of returns.")
    returns_share: float = Field(0.3, gt=0, le=1, description="Least return lines per purchase line for `returns:often`.")
    private_categories: tuple[str, ...] = Field(
        (), description="Categories that say more of a person than a shop should keep (health, religion ...): never an interest."
    )

    @model_validator(mode="after")
    def _rise(self) -> Self:
        for name, values in {
            "recency_days": (-1, *self.recency_days),
            "frequency_days": (1, *self.frequency_days),
            "monetary_value": self.monetary_value,
            "price": self.price,
            "value_middle, value_high": (self.value_middle, self.value_high),
            "at_risk_after, dormant_after, lost_after": (self.at_risk_after, self.dormant_after, self.lost_after),
        }.items():
            if any(low >= high for low, high in pairwise(values)):
                raise ValueError(f"{name} must rise, got {', '.join(map(str, values))}")
        if not self.rhythm_least_days <= self.rhythm_days <= self.rhythm_most_days:
            raise ValueError("rhythm_days must lie between rhythm_least_days and rhythm_most_days")
        return self


@dataclass(frozen=True)
class Family:
    """Tags of one kind, `<name>:<value>`; a user has at most one of them, of interests up to three.

    `values` holds every value with its rule, which speaks of the fields of `ProfileRules` by name.
    """

    name: str
    column: str
    meaning: str
    values: Mapping[str, str]


_SINCE = "days since the last purchase"
STAGES = Family(
    "stage",
    "stage",
    "where the user stands in the life of a customer, by the own rhythm: the mean days between purchases, rounded up, within "
    "`rhythm_least_days` and `rhythm_most_days`; `rhythm_days` below three days with a purchase. The first row that fits counts",
    {
        "prospect": "known, nothing bought",
        "lost": f"{_SINCE} > `lost_after` x rhythm",
        "dormant": f"{_SINCE} > `dormant_after` x rhythm",
        "at_risk": f"{_SINCE} > `at_risk_after` x rhythm",
        "new": "days since the first purchase < `new_days`",
        "active": "all others",
    },
)
TIERS = Family(
    "value",
    "value_tier",
    f"what the user is worth to the shop: frequency score + monetary score, both of {VALUE_DAYS} days; none before the first purchase",
    {"high": "sum >= `value_high`", "middle": "sum >= `value_middle`", "low": "sum below"},
)
INTERESTS = Family(
    "interest",
    "interests",
    f"up to {INTERESTS_MOST} categories the user turned to in {INTEREST_DAYS} days, acts counted as in user_category_affinity",
    {"<category>": "share of the user's acts >= `interest_share`, of `least_acts` acts or more; none of `private_categories`"},
)
PRICES = Family(
    "price",
    "price_band",
    f"the mean price per unit of what the user bought in {VALUE_DAYS} days, each line counted once",
    {"premium": "mean >= the second of `price`", "middle": "mean >= the first of `price`", "budget": "mean below"},
)
DAYPARTS = Family(
    "time",
    "favourite_daypart",
    f"when most of the user's acts of {VALUE_DAYS} days fall, of `least_acts` or more; of equals the first",
    {
        "morning": "06:00 to 11:59 in the shop's zone",
        "afternoon": "12:00 to 17:59",
        "evening": "18:00 to 23:59",
        "night": "00:00 to 05:59",
    },
)
WEEK_PARTS = Family(
    "week",
    "favourite_week_part",
    f"the same for days of the week: five weekdays against two days of a weekend, so by acts per day, of {VALUE_DAYS} days",
    {"weekday": "Monday to Friday", "weekend": "Saturday and Sunday"},
)
RETURNS = Family(
    "returns",
    "returns_share_365d",
    f"return lines per purchase line in {VALUE_DAYS} days",
    {"often": "share >= `returns_share`, with `returns_lines` purchase lines or more"},
)
FAMILIES = (STAGES, TIERS, INTERESTS, PRICES, DAYPARTS, WEEK_PARTS, RETURNS)
"""Every tag there is, in the order in which a user's are listed."""
