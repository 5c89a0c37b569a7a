"""clean_reviews: reviews fit to learn from: normalised text, one row per text, a label where one is given."""

from __future__ import annotations

import unicodedata

import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

from features.columns import CATEGORY, CREATED_TIMESTAMP, EVENT_TIMESTAMP, LABEL, RATING, REVIEW_ID, REVIEW_TEXT
from features.tables import CLEAN_REVIEWS, ITEM_CATALOG, REVIEWS
from spark_jobs.categories import with_category
from spark_jobs.job import Inputs, Job

GOOD_RATING, BAD_RATING = 4, 2
"""Stars from which on a review without a label counts as good, and down to which as bad."""


def transform(reviews: DataFrame, item_catalog: DataFrame) -> DataFrame:
    """Reviews -> one row per normalised text, the earliest; texts of nothing but white space are none.

    Args:
        reviews: current rows of raw/reviews.
    """
    normalise = F.arrow_udf(normalised, "string")
    earliest = Window.partitionBy("_text").orderBy(EVENT_TIMESTAMP, CREATED_TIMESTAMP, REVIEW_ID)
    kept = (
        reviews.withColumn("_text", normalise(REVIEW_TEXT))
        .where(F.col("_text") != "")
        .withColumn("_number", F.row_number().over(earliest))
        .where(F.col("_number") == 1)
    )
    by_stars = F.when(F.col(RATING) >= GOOD_RATING, 1).when(F.col(RATING) <= BAD_RATING, 0)
    return (
        with_category(kept, item_catalog)
        .withColumn(CATEGORY, F.coalesce(CATEGORY, "category_then"))
        .withColumn(LABEL, F.coalesce(F.col(LABEL), by_stars))
        .withColumn(REVIEW_TEXT, F.col("_text"))
        .select(*CLEAN_REVIEWS.names)
    )


def normalised(texts: pa.Array) -> pa.Array:
    """Texts without byte-order marks, in Unicode's composed form (NFC), each run of white space one blank, none at the ends."""
    plain = pc.replace_substring(texts, "\ufeff", "").to_pylist()
    # not pc.utf8_normalize: pyarrow 25 leaves e + U+0301 as it is under NFC
    texts = pa.array([text if text is None else unicodedata.normalize("NFC", text) for text in plain], pa.string())
    # RE2's \s knows ASCII only; \p{Z} adds the ideographic and other Unicode blanks.
    return pc.utf8_trim_whitespace(pc.replace_substring_regex(texts, r"[\s\v\p{Z}\x{85}]+", " "))


def run(inputs: Inputs) -> DataFrame:
    """`transform` on the tables of a shop."""
    return transform(inputs[REVIEWS], inputs[ITEM_CATALOG])


JOB = Job(CLEAN_REVIEWS, (REVIEWS, ITEM_CATALOG), run)
