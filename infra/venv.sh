#!/usr/bin/env bash
# Make the virtual environment from the lock: infra/venv.sh <folder>. Idempotent; a killed run is repeated from the start.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=$1

python=""
for candidate in "${PYTHON311:-}" python3.11 python3 python; do
    if [ -n "$candidate" ] && "$candidate" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null; then
        python=$candidate
        break
    fi
done
if [ -z "$python" ]; then
    echo "error: shopgraph needs Python 3.11, which was not found; install it (Debian: apt-get install python3.11-venv) or name it: make setup PYTHON311=/path/to/python3.11." >&2
    exit 1
fi

rm -f "$venv/ready"
[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
# The lock names every package but CUDA's, which a torch built for it brings along. pip compiles them all: where Python may not write
# what it compiles (PYTHONDONTWRITEBYTECODE, as in many containers), each process would compile again what it imports.
echo "Installing the locked packages into $venv (a few minutes the first time) ..."
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check --constraint requirements.lock pip wheel setuptools
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check --constraint requirements.lock torch
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --requirement requirements.lock
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
touch "$venv/ready"
