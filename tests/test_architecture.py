"""The rules that keep the tree readable: imports run one way, importing touches nothing, one reader of the environment."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("infra", "features", "spark_jobs", "training", "serving")
SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).parent / "lint-imports"), "--no-cache", "--config", str(ROOT / "pyproject.toml")]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("file", "line", "contract"),
    [
        ("infra/clock.py", "import features.tables", "imports run one way"),
        ("training/splits.py", "import spark_jobs.session", "training and tables meet in the lake"),
        ("spark_jobs/build.py", "import training.trainer", "table jobs know only features and infra"),
        ("spark_jobs/build.py", "import spark_jobs.scoring.propensity", "only the command line calls scoring"),
        ("serving/gateway.py", "import training.trainer", "serving and scoring never load a trainer"),
        ("spark_jobs/scoring/propensity.py", "import training.propensity.train", "serving and scoring never load a trainer"),
        ("serving/gateway.py", "import mlflow", "only training.tracking speaks MLflow"),
        ("training/recommender/train.py", "from mlflow.entities import Metric", "only training.tracking speaks MLflow"),
        ("training/trainer.py", "def run() -> None:\n    import mlflow", "only training.tracking speaks MLflow"),
        ("features/shop.py", "import deltalake", "only infra.lake and infra.upkeep open Delta tables"),
        ("infra/journal.py", "from deltalake.exceptions import DeltaError", "only infra.lake and infra.upkeep open Delta tables"),
        ("training/splits.py", "from pyspark.sql import DataFrame", "only spark_jobs speaks Spark"),
        ("training/tune.py", "import optuna", "only training.search speaks Optuna"),
        ("spark_jobs/build.py", "import feast", "only features speaks Feast"),
    ],
)
def test_a_broken_import_contract_fails_the_linter(tmp_path: Path, file: str, line: str, contract: str) -> None:
    for package in PACKAGES:
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    with (tmp_path / file).open("a") as target:
        target.write(f"\n{line}\n")
    result = lint_imports(tmp_path)
    assert result.returncode == 1
    assert f"{contract}" in result.stdout.split("Broken contracts")[1]


def test_importing_any_module_touches_nothing(tmp_path: Path) -> None:
    """In a fresh process: no file is written, no socket opened, no variable or log handler changed."""
    modules = [".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for path in SOURCES]
    modules = [*modules, "shopgraph"]
    code = f"""
import importlib, logging, os, sys
sys.path.insert(0, {str(ROOT)!r})
sys.dont_write_bytecode = True
for heavy in ("numpy", "pandas", "pyarrow", "torch", "pyspark.sql", "feast", "mlflow", "ray", "matplotlib", "sklearn"):
    importlib.import_module(heavy)  # what libraries do on import is theirs
import ray.serve, ray.train, mlflow.pytorch, feast.feature_store
before, handlers = dict(os.environ), list(logging.getLogger().handlers)
ours = [False]
def watch(event, arguments):
    if ours[0] and event == "open" and isinstance(arguments[1], str) and any(c in arguments[1] for c in "wax+"):
        raise SystemExit(f"writes {{arguments[0]}}")
    if ours[0] and event in ("socket.connect", "socket.bind", "subprocess.Popen", "os.mkdir"):
        raise SystemExit(f"{{event}} {{arguments}}")
sys.addaudithook(watch)
ours[0] = True
for name in {modules!r}:
    importlib.import_module(name)
ours[0] = False
changed = {{k for k in os.environ.keys() | before.keys() if os.environ.get(k) != before.get(k)}}
assert not changed, changed
assert logging.getLogger().handlers == handlers
"""
    result = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-2000:]
    assert list(tmp_path.iterdir()) == []


def _is_environment(node: ast.Attribute) -> bool:
    return node.attr in ("environ", "getenv", "putenv") and isinstance(node.value, ast.Name) and node.value.id == "os"


@pytest.mark.parametrize(
    "path", [path for path in SOURCES if path.name != "settings.py"], ids=lambda path: str(path.relative_to(ROOT))
)
def test_only_settings_reads_the_environment(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    reads = [node.lineno for node in ast.walk(tree) if isinstance(node, ast.Attribute) and _is_environment(node)]
    assert reads == [], f"{path.name} reads the environment at line {reads}"
