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
# The lock names every package but CUDA's, which a torch built for it brings along. All are compiled here, on every core: where Python may
# not write what it compiles (PYTHONDONTWRITEBYTECODE, as in many containers), each process would compile again what it imports.
echo "Installing the locked packages into $venv (a few minutes the first time) ..."
install=("$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-compile)
"${install[@]}" --constraint requirements.lock pip wheel setuptools
"${install[@]}" --constraint requirements.lock torch
"${install[@]}" --no-deps --requirement requirements.lock
"${install[@]}" --no-deps --no-build-isolation --editable .
"$venv/bin/python" -m compileall -qq -j 0 "$venv/lib" || true # some packages carry templates that no Python compiles
touch "$venv/ready"
