import hashlib

from benchmarks import workload

# From the peers' own script.
FIRST = [
    (0, 162, ((8, 128), (21, 115), (45, 0))),
    (0, 162, ((25, 109), (22, 114), (5, 0))),
    (0, 162, ((27, 112), (56, 0))),
    (0, 162, ((89, 105), (15, 100), (53, 117), (11, 0))),
    (0, 162, ((16, 116), (15, 0))),
    (0, 162, ((75, 126), (11, 0))),
    (0, 162, ((14, 96), (9, 121), (32, 96), (15, 0))),
    (0, 162, ((13, 116), (32, 100), (6, 0))),
    (1, 120, ((40, 105), (23, 0))),
    (1, 120, ((9, 116), (49, 127), (5, 0))),
]
DIGEST = "fce0fd8166af2c22705ffcce5f1d525753974b18ddd02e86f166dcdca2bcdeb6"


def test_the_workload_is_the_one_that_the_peers_replay():
    episodes = workload.episodes()
    assert [(e.group, e.prompt, e.turns) for e in episodes[:10]] == FIRST
    assert max(e.length for e in episodes) == 784
    assert (len(episodes), sum(g for e in episodes for g, _ in e.turns)) == (128, 9235)
    assert hashlib.sha256(repr([(e.group, e.prompt, e.turns) for e in episodes]).encode()).hexdigest() == DIGEST
