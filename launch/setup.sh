#!/usr/bin/env bash
# Makes the virtual environment .venv with the tested versions, or finds that it is current and returns at once.
#
#   bash launch/setup.sh [extras]        extras of setup.py, separated by commas; default: all
#   bash launch/setup.sh beam[,..]       Apache Beam takes other versions: an environment of its own, .venv-beam
#
# Needs Python 3.11 or 3.12 and nothing else. PYTHON=/path/to/python picks one.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
extras=${1:-all}
venv=.venv
[[ ,$extras, == *,beam,* ]] && venv=.venv-beam
stamp=$venv/stamp

fail() {
    printf 'launch/setup.sh: %s\n' "$@" >&2
    exit 1
}

# What was installed, and where: a changed file, another Python or a moved folder make the environment stale.
mark_of() {
    "$1" -c 'import hashlib, os, sys
files = b"".join(open(name, "rb").read() for name in ("setup.py", "launch/constraints.txt"))
print(hashlib.sha256(files).hexdigest()[:32], "%d.%d" % sys.version_info[:2], os.getcwd())'
}

runs_here() {
    "$1" -c 'import sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))' >/dev/null 2>&1
}

# The stamp: the mark, then the extras that are installed.
is_current() {
    [[ -f $stamp ]] && runs_here "$venv/bin/python" || return 1
    local mark installed
    { read -r mark && read -r installed; } <"$stamp" || return 1
    [[ $mark == "$(mark_of "$venv/bin/python")" ]] || return 1
    local extra
    for extra in ${extras//,/ }; do
        [[ ,$installed, == *,$extra,* ]] || return 1
    done
}

find_python() {
    local candidate without_venv=""
    for candidate in ${PYTHON:+"$PYTHON"} python3.11 python3.12 python3 python; do
        runs_here "$candidate" || continue
        if "$candidate" -c 'import ensurepip, venv' >/dev/null 2>&1; then
            printf '%s\n' "$candidate"
            return
        fi
        without_venv=$candidate
    done
    if [[ -n $without_venv ]]; then
        fail "$without_venv has no venv and pip modules; on Debian and Ubuntu: apt install python3-venv (or python3.11-venv)"
    fi
    fail "no Python 3.11 or 3.12 found (tried ${PYTHON:+$PYTHON, }python3.11, python3.12, python3, python)" \
        "install one, or name it: PYTHON=/path/to/python3.11 bash launch/setup.sh"
}

is_current && exit 0

# Two commands started at once must not install into one environment.
if command -v flock >/dev/null; then
    exec 9>"$venv.lock"
    flock 9
    is_current && exit 0
fi

if ! { [[ -f $venv/bin/pip ]] && runs_here "$venv/bin/python"; }; then
    python=$(find_python)
    rm -rf "$venv"
    "$python" -m venv "$venv"
elif [[ -f $stamp ]]; then
    # Keep what an earlier call asked for.
    extras=$(echo "$(sed -n 2p "$stamp"),$extras" | tr , '\n' | sort -u | paste -sd, -)
fi
rm -f "$stamp"

# The pins for pip: those of the file, with the ones marked '#beam:' in place of their namesakes.
constraints=launch/constraints.txt
if [[ $venv == .venv-beam ]]; then
    constraints=$venv/constraints.txt
    {
        sed -n 's/^#beam: *//p' launch/constraints.txt
        grep -vFf <(sed -n 's/^#beam: *\([^=]*==\).*/\1/p' launch/constraints.txt) launch/constraints.txt
    } >"$constraints"
fi

started=$SECONDS
echo "installing masksearch_jax[$extras] into $venv (a minute or two; log: $venv/install.log)" >&2
# Byte-compiling all of TensorFlow takes longer than installing it; Python compiles what it imports.
if ! "$venv/bin/python" -m pip install --disable-pip-version-check --no-compile --no-input \
    -c "$constraints" -e ".[$extras]" >"$venv/install.log" 2>&1; then
    tail -n 20 "$venv/install.log" >&2
    fail "pip could not install masksearch_jax[$extras]; the whole log: $venv/install.log" \
        "no network? pip reads PIP_INDEX_URL and PIP_FIND_LINKS"
fi
{ mark_of "$venv/bin/python" && echo "$extras"; } >"$stamp"
echo "installed in $((SECONDS - started)) s" >&2
