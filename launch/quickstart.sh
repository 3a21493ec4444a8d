#!/usr/bin/env bash
# From nothing to a trained policy and its before/after table: sets up .venv, then runs the whole line on the embedded
# toy encyclopedia. 11 to 16 minutes on two CPU cores; result: runs/quickstart/report.json.
#
#   bash launch/quickstart.sh [--config.x=y ..]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash launch/setup.sh all
exec .venv/bin/python -m masksearch_jax.experiment --config=configs/quickstart.py --workdir=runs/quickstart "$@"
