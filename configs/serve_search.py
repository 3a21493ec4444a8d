"""The search service: the indices of a workdir over HTTP, as Search-R1's /retrieve.

Command:  python -m masksearch_jax.serve_search --config=configs/serve_search.py --workdir=W
          python -m masksearch_jax.serve_search --workdir=W --config.indices="('train','validation')"   for training
          curl -d '{"queries": ["Karn Velith"], "topk": 3, "return_scores": true}' http://127.0.0.1:8000/retrieve
Hardware: a CPU host with memory for the indices (prepare prints how much).
Expect:   "listening", "ready"; 200 clients for a minute: `python -m benchmarks.service`. docs/search.md says the rest.
"""

from ml_collections import ConfigDict

from masksearch_jax.configs import common


def get_config(arg: str = ""):
    common.check_argument(__file__, arg)
    config = ConfigDict()
    config.indices = ("all",)  # of W/data/index; the first answers /retrieve, each /<index>/retrieve
    config.host = "127.0.0.1"  # 0.0.0.0 for other machines: there is no TLS and no password, so a private network only
    config.port = 8000  # 0: any free one, printed
    config.k = 3  # passages where a request does not say topk
    # --- micro-batches ---
    config.threads = 2  # searches at a time
    config.batch = 64  # queries after which a search waits for no more
    config.wait_ms = 2.0  # for others to come, where fewer wait
    # --- limits of a request; beyond, a client is told which, and a query over query_chars is cut ---
    # 512 prompts x 5 samples in one request, as Search-R1's clients send them, are within; it is searched in parts.
    config.limits = ConfigDict({"k": 100, "queries": 4096, "query_chars": 4096, "body_bytes": 4 << 20})
    config.pending = 1 << 15  # queries that may wait
    config.connections = 512
    config.read_s = 10.0  # in which a request that has begun must be here, and its answer taken
    config.idle_s = 75.0  # that a connection may be silent
    config.drain_s = 30.0  # for requests in flight, when told to stop
    return config
