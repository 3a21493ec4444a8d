#!/usr/bin/env bash
# Sets up .venv, then lints and runs the tests. Exit status: 0 only if both pass.
#
#   bash launch/test.sh                      the quick suite
#   bash launch/test.sh -m slow              the slow tests
#   bash launch/test.sh tests/rl -k dapo     any arguments of pytest
#
# Tests on real data need MASKSEARCH_DATA=<folder>; they are skipped, and counted, without it.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash launch/setup.sh all,test
status=0
.venv/bin/ruff check . || status=$?
if (($#)); then
    .venv/bin/python -m pytest -q "$@" || status=$?
else
    .venv/bin/python -m pytest -q -n 2 || status=$?
fi
exit "$status"
