"""Serve a policy over HTTP, as OpenAI's clients speak it; with --agent a question goes through the whole search loop.

Command:  python -m masksearch_jax.serve --policy=W/dapo
          python -m masksearch_jax.serve --policy=W/dapo --agent
          python -m masksearch_jax.serve --policy=EXPORTED --workdir=W --agent      it searches W/data
Hardware: that of sampling: the weights once, and a cache of slots x total_tokens. Two CPU cores serve the toy's policy
          and models of 135 million parameters.
Expect:   it prints "ready" with its address. `python -m benchmarks.serve` measures tokens a second. More in
          docs/guides/serving.md.
"""

from ml_collections import ConfigDict

from masksearch_jax.configs import common


def get_config(arg: str = ""):
    common.check_argument(__file__, arg)
    config = ConfigDict()
    config.name = ""  # of the model, which requests give; '': the name of the policy's folder
    config.host = "127.0.0.1"  # 0.0.0.0 serves other machines; only in a private network: no TLS and no password
    config.port = 8001  # 0: any free port, which is printed
    # --- the search loop (--agent) ---
    config.index = "all"  # of W/data: train | validation | all | fresh
    config.search_url = ""  # server of Search-R1's /retrieve; '': search W/data in this process
    # --- the engine ---
    config.slots = 8  # replies that are written at a time; others wait
    config.steps = 4  # tokens that each of them gets before others may enter
    config.total_tokens = 0  # of prompt and reply; 0: those of an episode, or up to 2048 of a published model
    config.pending = 256  # requests that may wait for a slot; more get 503
    # Of activations and weights: float32 | bfloat16; '': as trained, and of a published model bfloat16 except on CPUs.
    config.dtype = ""
    config.warm_up = True  # compile before the first request; False: while the first requests wait
    # Mesh axes, as in common.py.
    config.mesh = ConfigDict({"data": -1, "fsdp": 1, "tensor": 1, "sequence": 1, "dcn_data": 1})
    # --- limits of clients, which serve_search.py explains ---
    config.body_bytes = 4 << 20  # of a request
    config.connections = 512  # open at a time
    config.read_s = 10.0  # limit for a request to arrive once it has begun, and for the client to take what is sent
    config.idle_s = 75.0  # how long a connection may be silent
    config.idle_per_address = 256  # connections of one address that may be silent
    config.slow_per_address = 64  # connections of one address that may have sent a request in part
    config.drain_s = 30.0  # how long requests in flight may take when the server is told to stop
    return config
