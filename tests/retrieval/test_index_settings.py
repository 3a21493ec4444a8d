import sys

import pytest
from ml_collections import ConfigDict

from masksearch_jax.retrieval.index import index_settings


def test_reads_dicts_and_config_dicts():
    fields = {"index": "scann", "dims": 64, "recall_floor": 1, "scann": {"method": "tree", "leaves": 7}}
    for config in (fields, ConfigDict(fields)):
        made = index_settings.from_config(config)
        assert (made.index, made.dims, made.recall_floor, made.exclusion) == ("scann", 64, 1.0, "passage")
        assert made.scann == index_settings.ScannSettings(method="tree", leaves=7)
        assert index_settings.from_config(made) is made
    assert index_settings.from_config({}) == index_settings.IndexSettings()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"encodr": "bert"}, r"retrieval\.encodr is no setting; known are dims, encoder"),
        ({"scann": {"leafs": 3}}, r"retrieval\.scann\.leafs is no setting"),
        ({"dims": "64"}, r"retrieval\.dims is '64', must be of type int"),
        ({"encoder": "bm25"}, r"retrieval\.encoder is 'bm25', known are lexical, bert"),
        ({"encoder_dtype": "float16"}, r"retrieval\.encoder_dtype is 'float16', known are float32, bfloat16"),
        ({"encoder_devices": "tpu"}, r"retrieval\.encoder_devices is 'tpu', known are cpu, local"),
        ({"exclusion": "all"}, r"retrieval\.exclusion is 'all', known are none, passage, article"),
        ({"scann": {"method": "soar"}}, r"retrieval\.scann\.method is 'soar'"),
        ({"recall_floor": 95.0}, r"retrieval\.recall_floor is 95\.0, must lie between 0 and 1"),
        ({"encoder": "bert"}, r"retrieval\.encoder_dir is empty; give the folder"),
    ],
)
def test_refuses(fields, message):
    with pytest.raises(ValueError, match=message):
        index_settings.from_config(fields)


def test_a_hybrid_index_without_bm25s_is_refused_before_any_work(monkeypatch):
    monkeypatch.setitem(sys.modules, "bm25s", None)
    with pytest.raises(ValueError, match=r"retrieval\.hybrid=True needs bm25s.*pip install"):
        index_settings.from_config({"hybrid": True})
