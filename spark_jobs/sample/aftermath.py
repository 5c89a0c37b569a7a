"""What follows a sale in the sample shop: returns, reviews and tickets, drawn per order line."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from spark_jobs.sample.catalogue import ASPECTS, CATEGORIES, Size, make_catalogue
from spark_jobs.sample.days import DAY_US, NUM_DAYS, make_days, start_of_history
from spark_jobs.sample.people import make_people
from spark_jobs.sample.prices import depth
from spark_jobs.sample.reviews import write_complaint, write_review

REVIEW_SHARE = 0.38
TICKET_SHARE = 0.03

AFTERMATH = pa.schema(
    [
        ("user", pa.int64()),
        ("number", pa.int64()),
        ("returned_at", pa.int64()),
        ("reviewed_at", pa.int64()),
        ("language", pa.string()),
        ("rating", pa.int64()),
        ("review_text", pa.string()),
        ("score", pa.float64()),
        *((aspect, pa.int64()) for aspect in ASPECTS),
        ("ticket_at", pa.int64()),
        ("ticket_text", pa.string()),
    ]
)
"""One row per sale that something followed; times are null where it did not. An aspect is -1 or 1, null where unmentioned."""


def aftermath(size: Size, seed: int, sales: pa.Table) -> pa.Table:
    """Returns, reviews and tickets of some sales (user, number, item, at, day); each row depends on its sale only."""
    catalogue = make_catalogue(size, seed)
    chance = catalogue.chance
    user, number, item, at, day = (sales[name].to_numpy() for name in ("user", "number", "item", "at", "day"))
    users, row = np.unique(user, return_inverse=True)
    people = make_people(size, seed, users)
    end = start_of_history() + NUM_DAYS * DAY_US

    def follows(name: str, share: Any, first_day: float, spread: float) -> tuple[np.ndarray, np.ndarray]:
        when = at + ((first_day + spread * chance.uniform(f"{name} delay", user, number)) * DAY_US).astype(np.int64)
        return (chance.uniform(name, user, number) < share) & (when < end), when

    returns, returned_at = follows("return", catalogue.return_share[item], 3, 12)
    reviews, reviewed_at = follows("review", REVIEW_SHARE, 2, 14)
    complains, ticket_at = follows("ticket", TICKET_SHARE, 1, 10)

    busy = (make_days().festival[day] >= 0) | (make_days().holiday[day] < 0.6)
    leanings = 1.1 * (catalogue.quality[item] + people.generosity[row][:, None])
    leanings[:, ASPECTS.index("delivery")] -= 1.2 * busy
    leanings[:, ASPECTS.index("price")] += 0.6 * (depth(catalogue, item, day) > 0)
    leanings[returns] -= 2.5

    draws = np.arange(64)
    rows: list[dict[str, Any]] = []
    for index in np.flatnonzero(returns | reviews | complains).tolist():
        language = "zh" if people.chinese[row[index]] else "en"
        category = CATEGORIES[catalogue.category[item[index]]]
        noun = (category.chinese if language == "zh" else category.english)[catalogue.noun[item[index]]]
        told: dict[str, Any] = {"user": int(user[index]), "number": int(number[index]), "language": language}
        if returns[index]:
            told["returned_at"] = int(returned_at[index])
        if reviews[index]:
            drawn = chance.uniform("review words", user[index], number[index], draws)
            review = write_review(language, noun, leanings[index], drawn)
            told |= {
                "reviewed_at": int(reviewed_at[index]),
                "rating": review.rating,
                "review_text": review.text,
                "score": review.score,
            }
            told |= review.sentiments
        if complains[index]:
            drawn = chance.uniform("ticket words", user[index], number[index], draws)
            told |= {"ticket_at": int(ticket_at[index])}
            told["ticket_text"] = write_complaint(language, int(leanings[index].argmin()), noun, drawn)
        rows.append(told)
    return pa.Table.from_pylist(rows, schema=AFTERMATH)
