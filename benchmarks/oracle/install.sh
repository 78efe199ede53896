#!/bin/sh
# Makes the environment of the comparison with aihwkit: install.sh [DIR]
# Does nothing where DIR holds that aihwkit already.
set -eu

torch=2.13.0
aihwkit=1.2.0
dir=${1:-${XDG_CACHE_HOME:-$HOME/.cache}/cimctl/oracle}
constraints=$(cd "$(dirname "$0")/../.." && pwd)/constraints.txt
python=${PYTHON:-python3.11}

installed() {
    [ -x "$dir/bin/python" ] && "$dir/bin/python" - "$aihwkit" <<'PYTHON' 2>/dev/null
import sys
from importlib.metadata import version

from aihwkit.simulator.tiles import AnalogTile  # loads the compiled part

sys.exit(version("aihwkit") != sys.argv[1])
PYTHON
}

packages() {
    missing=
    command -v c++ >/dev/null || missing="$missing g++"
    [ -e /usr/include/openblas/cblas.h ] || ls /usr/include/*/cblas.h >/dev/null 2>&1 ||
        missing="$missing libopenblas-dev"
    [ -n "$missing" ] || return 0
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        apt-get update -q
        # shellcheck disable=SC2086  # one word per package
        DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends $missing
    else
        echo "install.sh: install these packages first:$missing" >&2
        exit 1
    fi
}

if installed; then
    echo "$dir: aihwkit $aihwkit is there"
    exit 0
fi
if [ -d "$dir" ] && [ ! -e "$dir/pyvenv.cfg" ] && [ -n "$(ls -A "$dir")" ]; then
    echo "install.sh: $dir holds something else" >&2
    exit 1
fi
packages
"$python" -m venv --clear "$dir"
PATH=$dir/bin:$PATH
VIRTUAL_ENV=$dir
export PATH VIRTUAL_ENV
pip() { "$dir/bin/python" -m pip install -q -c "$constraints" "$@"; }
# The build reads torch's headers, so torch comes first; the rest is what its pyproject.toml asks.
pip "torch==$torch"
pip 'setuptools>=77' wheel 'scikit-build>=0.18.1' 'pybind11>=3.0.1' 'cmake>=4.2.1' ninja mypy numpy
pip --no-build-isolation --no-binary aihwkit "aihwkit==$aihwkit"
installed || {
    echo "install.sh: aihwkit $aihwkit does not import from $dir" >&2
    exit 1
}
echo "$dir: installed aihwkit $aihwkit"
