#!/usr/bin/env bash
# uv as ./dev calls it: the one in PATH, or else one of our own. It knows the Pythons of pyenv and the packages of pip.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
for folder in "${PYENV_ROOT:-${HOME:-}/.pyenv}"/versions/3.*/bin; do PATH=$PATH:$folder; done
export UV_PYTHON_DOWNLOADS="${UV_PYTHON_DOWNLOADS:-never}" PIP_USER=0 PIP_DISABLE_PIP_VERSION_CHECK=1

# A file named uv may be a shim of pyenv that does not run.
runs() { "$uv" --version >/dev/null 2>&1; }
uv=$(type -P uv) && runs || uv=$root/.venv/uv/bin/uv
if ! runs; then
  echo "dev: installing uv in .venv/uv (once)" >&2
  new=$(mktemp -d "${TMPDIR:-/tmp}/rbd-uv.XXXXXX")
  trap 'rm -rf "$new"' EXIT
  # Debian's Python has no venv unless python3-venv is installed; others have no pip of their own.
  { python3 -m venv "$new/uv" && "$new/uv/bin/python" -m pip install uv; } >"$new/log" 2>&1 ||
    python3 -m pip install --upgrade --target "$new/uv" uv >>"$new/log" 2>&1 ||
    { cat "$new/log" && echo "dev: uv cannot be installed: that takes a python3 with venv or pip" && exit 1; } >&2
  mkdir -p "$root/.venv"
  # Another ./dev may have been faster.
  runs || { rm -rf "$root/.venv/uv" && mv "$new/uv" "$root/.venv/uv"; }
fi

# uv does not read the settings of pip; those of the environment come first in pip's list, as they count.
if [ "${1:-}" = pip ]; then
  settings=$({ "$root/.venv/uv/bin/python" -m pip config list || python3 -m pip config list; } 2>/dev/null) || settings=''
  for pair in UV_DEFAULT_INDEX=index-url UV_INDEX=extra-index-url UV_FIND_LINKS=find-links SSL_CERT_FILE=cert; do
    name=${pair%%=*}
    value=$(sed -n "s/^[^=]*\.${pair#*=}='\(.*\)'\$/\1/p" <<<"$settings" | sed 's/\\n/ /g;q')
    [ "$name" != UV_FIND_LINKS ] || value=${value// /,}
    [ -z "$value" ] || export "$name=${!name:-$value}"
  done
  # pip takes the best of all indexes, uv that of the first.
  [ -z "${UV_INDEX:-}" ] || export UV_INDEX_STRATEGY="${UV_INDEX_STRATEGY:-unsafe-best-match}"
fi
# The shims of pyenv complain on the way to a Python that runs.
[ "${1:-}" != python ] || exec 2>/dev/null
"$uv" "$@" </dev/null
