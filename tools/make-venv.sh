#!/usr/bin/env bash
# Makes a virtual environment with pip in DIR, also on a Debian whose python3 came without
# python3-venv: pip's wheel is then taken from Debian's own package, without installing it.
# Usage: make-venv.sh DIR [PYTHON]
set -euo pipefail
dir=${1:?usage: $0 DIR [PYTHON]}
python=${2:-python3}
"$python" - <<'PY' || exit 1
import sys
if sys.version_info < (3, 11):
    sys.exit(f"Squall needs Python 3.11 or newer, {sys.executable} is {sys.version.split()[0]}")
PY
if "$python" -c 'import ensurepip' 2>/dev/null; then
  exec "$python" -m venv "$dir"
fi
command -v apt-get >/dev/null && command -v dpkg >/dev/null || {
  echo "this Python has no ensurepip: install your system's venv package (python3-venv)" >&2
  exit 1
}
"$python" -m venv --without-pip "$dir"
wheels=$(mktemp -d)
trap 'rm -rf "$wheels"' EXIT
(cd "$wheels" && apt-get -qq download python3-pip-whl && dpkg -x python3-pip-whl_*.deb .) || {
  rm -rf "$dir"
  echo "cannot fetch pip from Debian's packages: run 'apt-get update', or install python3-venv" >&2
  exit 1
}
wheel=$(ls "$wheels"/usr/share/python-wheels/pip-*.whl)
"$dir/bin/python" "$wheel/pip" install --quiet --no-index "$wheel"
