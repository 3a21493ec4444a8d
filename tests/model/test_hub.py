"""Models of the Hugging Face Hub: names, revisions, the cache, a machine without a network. The Hub is a fake one."""

import json

import numpy as np
import pytest
import tiny_published
from fake_hub import hub as hub  # the fixture
from huggingface_hub import constants
from safetensors.numpy import save_file

from masksearch_jax.model.published import hub as hub_files


@pytest.fixture
def published(tmp_path):
    """A folder with what a published one has, and what is not fetched."""
    folder = tiny_published.llama(tmp_path / "published")
    (folder / "config.json").write_text("{}")
    save_file({"a": np.zeros(3, np.float32)}, folder / "model.safetensors")
    (folder / "pytorch_model.bin").write_bytes(b"a pickle")
    (folder / "README.md").write_text("# A model")
    return folder


@pytest.mark.parametrize(
    "setting, found",
    [
        ("Qwen/Qwen2.5-0.5B", ("Qwen/Qwen2.5-0.5B", "")),
        ("Qwen/Qwen2.5-0.5B@v1.0", ("Qwen/Qwen2.5-0.5B", "v1.0")),
        ("there/typo@refs/pr/3", ("there/typo", "refs/pr/3")),
        ("there/typo", ("", "")),  # in a folder that is here
        ("runs/smollm2", ("", "")),
        ("here/model", ("", "")),
        ("/somewhere/model", ("", "")),
        ("one/two/three", ("", "")),
        ("model", ("", "")),
        ("Qwen/Qwen2.5-0.5B@", ("", "")),
        ("../model", ("", "")),
    ],
)
def test_what_names_a_model_of_the_hub(setting, found, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there").mkdir()
    (tmp_path / "here" / "model").mkdir(parents=True)
    assert hub_files.split_name(setting) == found


def test_files_are_fetched_once_and_then_taken_without_a_network(hub, published, monkeypatch):
    first = hub.add("some-org/model", "main", published)
    folder = hub_files.fetch("some-org/model")
    assert folder.name == first
    there = {path.name for path in folder.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"} <= there
    assert not {"pytorch_model.bin", "README.md"} & there
    # main moves on; the commit from before stays what it is.
    (published / "config.json").write_text('{"newer": true}')
    second = hub.add("some-org/model", "main", published)
    assert hub_files.fetch("some-org/model", first) == folder
    assert hub_files.fetch("some-org/model").name == second
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    hub.asked.clear()
    assert hub_files.fetch("some-org/model").name == second and hub_files.fetch("some-org/model", first) == folder
    assert not hub.asked


def test_what_cannot_be_fetched_says_what_to_do(hub, published, monkeypatch):
    with pytest.raises(
        ValueError, match=r"no such folder here and no such model at https://huggingface.co/some-org/no"
    ):
        hub_files.fetch("some-org/none")
    hub.add("some-org/model", "main", published)
    with pytest.raises(ValueError, match=r"pretrained=some-org/model@v9: the model has no such branch, tag or commit"):
        hub_files.fetch("some-org/model", "v9")
    hub.gated.add("some-org/model")
    with pytest.raises(ValueError, match=r"accept them at https://huggingface.co/some-org/model, then run `hf auth lo"):
        hub_files.fetch("some-org/model")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(
        FileNotFoundError, match=r"HF_HUB_OFFLINE=1 forbids .*`hf download some-org/model --rev.*=v1 --l"
    ):
        hub_files.fetch("some-org/model", "v1")


def test_a_folder_of_the_cache_without_all_weights_is_refused(hub, published):
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    (published / "model.safetensors").rename(published / "model-1.safetensors")
    (published / "model.safetensors.index.json").write_text(json.dumps(index))
    hub.add("some-org/model", "main", published)
    with pytest.raises(FileNotFoundError, match=r"lacks model-2.safetensors. If the model has them, the fetch"):
        hub_files.fetch("some-org/model")
