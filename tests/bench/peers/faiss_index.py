"""An HNSW index of faiss over drawn vectors: what it finds of the exact list, and how fast; prints JSON. Arguments: items, k, threads."""

from __future__ import annotations

import json
import sys
import time

import faiss
import numpy as np

DIM, NUM_ASKED, EF = 64, 200, 1024


def main(num_items: int, k: int, threads: int) -> None:
    """Vectors lie around 2,000 centres, as items of categories do; questions too."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(2_000, DIM))
    vectors, asked = (
        (0.8 * centres[rng.integers(0, len(centres), size)] + 0.6 * rng.normal(size=(size, DIM))).astype(np.float32)
        for size in (num_items, NUM_ASKED)
    )
    vectors *= (rng.uniform(0.7, 1.3, (num_items, 1)) / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    some = rng.choice(num_items, num_items // 1000, replace=False)
    faiss.omp_set_num_threads(threads)
    began = time.perf_counter()
    index = faiss.IndexHNSWFlat(DIM, 24, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction = 60
    index.add(vectors)
    report: dict[str, float] = {"build_s": time.perf_counter() - began, "ef": EF}
    faiss.omp_set_num_threads(1)
    for prefix, selector, rows in (("", None, np.arange(num_items)), ("filtered_", faiss.IDSelectorBatch(some), some)):
        settings = faiss.SearchParametersHNSW(efSearch=EF, sel=selector)
        times, found = [], []
        for question in asked:
            began = time.perf_counter()
            _, ids = index.search(question[None], k, params=settings)
            times.append((time.perf_counter() - began) * 1e3)
            products = vectors[rows] @ question
            exact = rows[np.argpartition(-products, k)[:k]] if len(rows) > k else rows
            found.append(len(np.intersect1d(ids[0], exact)) / len(exact))
        report |= {f"{prefix}recall": float(np.mean(found))}
        report |= {f"{prefix}p{q}": float(np.percentile(times[2:], q)) for q in (50, 99)}
    print(json.dumps(report))


main(*map(int, sys.argv[1:]))
