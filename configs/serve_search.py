"""The search service: it serves the indices of a workdir over HTTP, with the protocol of Search-R1's /retrieve.

Command:  python -m masksearch_jax.serve_search --config=configs/serve_search.py --workdir=W
          python -m masksearch_jax.serve_search --workdir=W --config.indices="('train','validation')"   for training
          curl -d '{"queries": ["Karn Velith"], "topk": 3, "return_scores": true}' http://127.0.0.1:8000/retrieve
Hardware: a CPU host with memory for the indices (prepare prints how much).
Expect:   it prints "listening", then "ready". `python -m benchmarks.service` measures 200 clients for a minute. More in
          docs/guides/search.md.
"""

from ml_collections import ConfigDict

from masksearch_jax.configs import common


def get_config(arg: str = ""):
    common.check_argument(__file__, arg)
    config = ConfigDict()
    config.indices = ("all",)  # of W/data/index; the first answers /retrieve, and each answers /<index>/retrieve
    config.host = "127.0.0.1"  # 0.0.0.0 serves other machines; only in a private network: no TLS and no password
    config.port = 8000  # 0: any free port, which is printed
    config.k = 3  # passages per query if the request has no topk
    # --- micro-batches ---
    config.threads = 2  # searches at a time
    config.batch = 64  # a search starts at once when this many queries wait
    config.wait_ms = 2.0  # otherwise it waits this long for more queries
    # --- limits of a request; a client that exceeds one is told which; a query longer than query_chars is cut ---
    # 512 prompts x 5 samples in one request, as Search-R1's clients send them, fit; they are searched in parts.
    config.limits = ConfigDict({"k": 100, "queries": 4096, "query_chars": 4096, "body_bytes": 4 << 20})
    config.pending = 1 << 15  # queries that may wait
    config.connections = 512  # open at a time
    config.read_s = 10.0  # limit for a request to arrive once it has begun, and for the client to take the answer
    config.idle_s = 75.0  # how long a connection may be silent
    # Connections of one address (IPv6: of one /64 network) that may be silent. One more closes the one that has been
    # silent for longest. Machines behind one proxy or NAT have one address.
    config.idle_per_address = 256
    # Connections of one address that may have sent a request in part, or not take their answer. One more ends the one
    # that has been so for longest.
    config.slow_per_address = 64
    config.drain_s = 30.0  # how long requests in flight may take when the server is told to stop
    return config
