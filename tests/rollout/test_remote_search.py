"""A rollout that searches through client and service writes what one with the local tool writes."""

import dataclasses

import jax
import numpy as np
import pytest
import serving

from masksearch_jax.data import records
from masksearch_jax.retrieval.passage_store import PassageStore
from masksearch_jax.retrieval.service import search_client
from masksearch_jax.retrieval.service.remote_settings import RemoteSettings
from masksearch_jax.retrieval.tool import SearchTool


@pytest.fixture(scope="module")
def workdir(world, tmp_path_factory):
    texts = enumerate(world.texts)
    passages = [records.Passage(i, i // 2, f"Karn {i}", text, "train") for i, text in texts]
    return serving.workdir_of(tmp_path_factory.mktemp("w"), passages)


def test_same_trajectories_through_client_and_service(world, mixed_rows, workdir):
    store = PassageStore(workdir / "data" / "passages.array_record")
    folder = workdir / "data" / "index" / "all"
    local = SearchTool.load(folder, store, "passage")
    params, requests = world.params(mixed_rows), world.requests(6, samples=2)
    with serving.serving(workdir, wait_ms=5.0) as (url, _, _):
        settings = RemoteSettings(url, 30.0, 60.0, 1, 3, 10.0, 10.0, "none")
        remote = search_client.connect(settings, "all", folder, store, "passage", lambda: None)
        runs = []
        for searcher in (local, remote):
            engine = world.engine(searcher, search_batch=3, hits=2)
            with jax.set_mesh(engine.mesh):
                runs.append(engine.run(params, requests, version=0, seed=5))
    assert engine.stats["searches"] > 10 and any(turn.hits for one in runs[0] for turn in one.turns)
    for one, other in zip(*runs, strict=True):
        np.testing.assert_array_equal(one.ids, other.ids)
        assert [dataclasses.asdict(turn) for turn in one.turns] == [dataclasses.asdict(turn) for turn in other.turns]
        source = int(one.task_id.removeprefix("task-"))
        assert all(source not in turn.hits for turn in one.turns)
    assert remote.stats["queries"] == engine.stats["searches"] and remote.stats["failures"] == 0
