# The verbs of shopgraph. Each does its own set-up: the virtual environment from the lock, and Java.
SHELL := /bin/bash
VENV ?= .venv
PY := $(VENV)/bin/python
DATA ?=
# two test processes keep two cores busy and need some 10 GB; raise it on a larger machine
WORKERS ?= 2
TESTS ?= not engines and not soak
PYTEST = $(PY) -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

.DEFAULT_GOAL := help
.PHONY: help setup demo demo-real test test-quick test-engines soak lint format docs bench bench-recommender-full clean

help: ## what each verb does
	@grep -hE '^[a-z0-9%-]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "%-14s%s\n", $$1, $$2}'

setup: $(VENV)/ready ## virtual environment from requirements.lock, and Java 17+
	@infra/java.sh

$(VENV)/ready: requirements.lock pyproject.toml infra/venv.sh
	@infra/venv.sh $(VENV)

demo: setup ## the main job on embedded defaults: sample shop to answered requests
	@$(PY) -m infra.demo

demo-real: setup ## the same on real data: make demo-real DATA=<folder of the public sets>
	@$(PY) -m infra.demo --real "$(DATA)"

test: setup ## all that needs no server but our own, one shop from raw tables to HTTP included
	@$(PYTEST) -m "$(TESTS)"

test-quick: setup ## the same without what starts servers and trains
	@$(PYTEST) -m "not engines and not soak and not e2e"

test-engines: setup ## Spark and Ray clusters, Postgres, Redis, S3, Prometheus' own check of the alerts, on this machine
	@infra/engines.sh
	@$(PYTEST) -m engines

soak: setup ## what takes long: stages, builds and streams killed again and again, every table revised
	@$(PY) -m pytest -m soak

lint: setup ## ruff, mypy, import contracts, and whether the lock is whole
	@$(PY) -m pip check
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/ruff format --check .
	@$(VENV)/bin/mypy
	@$(VENV)/bin/lint-imports --no-logo

format: setup ## let ruff put every file into shape
	@$(VENV)/bin/ruff check --fix .
	@$(VENV)/bin/ruff format .

docs: setup ## regenerate docs/settings.md, docs/dictionary.md and serving/openapi.json
	@$(PY) -m shopgraph docs

bench: setup ## every benchmark area; each alone: make bench-<area>
	@missed=0; for file in tests/bench/bench_*.py; do $(PY) $$file || missed=1; done; exit $$missed

bench-recommender-full: setup ## seconds to RecBole's best quality; hours
	@$(PY) tests/bench/against_recbole.py

bench-%: setup ## one benchmark area: tables, features, online, fresh, recommender, large, sessions, demand, sentiment, serving
	@$(PY) tests/bench/bench_$*.py

clean: ## remove caches and build output; never a home
	@rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache *.egg-info
