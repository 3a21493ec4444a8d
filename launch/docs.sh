#!/usr/bin/env bash
# Builds the documentation as a site in build/site, warnings being errors. Nothing is fetched while it builds.
#
#   bash launch/docs.sh            then open build/site/index.html
#   bash launch/docs.sh serve      on http://127.0.0.1:8000, built anew at each change
#
# .venv-docs holds mkdocs and its theme in the versions of launch/constraints.txt; DOCS_PYTHON=FILE takes another
# environment's Python instead.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=${DOCS_PYTHON:-.venv-docs/bin/python}
if [[ -z ${DOCS_PYTHON:-} && ! -x .venv-docs/bin/mkdocs ]]; then
    "${PYTHON:-python3}" -m venv .venv-docs
    .venv-docs/bin/python -m pip install --quiet --disable-pip-version-check -c launch/constraints.txt mkdocs-material
fi
export NO_MKDOCS_2_WARNING=1 # the theme's notice about its successor
if [[ ${1:-} == serve ]]; then
    exec "$python" -m mkdocs serve --strict
fi
exec "$python" -m mkdocs build --strict "$@"
