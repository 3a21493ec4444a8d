"""Our tags as added tokens of a published tokenizer."""

import json

import pytest
import tiny_published

from masksearch_jax.text import added_tags, prompt, tags
from masksearch_jax.text.published_tokenizer import PublishedTokenizer


def test_each_tag_is_one_id_after_the_published_ones(tmp_path):
    folder = tiny_published.qwen(tmp_path / "qwen", thinking=False)
    before = PublishedTokenizer(folder)
    added = added_tags.add_tags(folder)
    after = PublishedTokenizer(folder)
    assert added == list(tags.ALL) and after.vocab_size == before.vocab_size + len(added)
    turn = "<think> who?</think><search> Karn Velith</search>"
    assert after.decode(after.encode(turn)) == turn and len(after.encode(turn)) < len(before.encode(turn))
    for place, tag in enumerate(added):
        assert after.encode(tag) == [before.vocab_size + place]
        assert after.token_bytes[before.vocab_size + place] == tag.encode()
    # Other text keeps its ids, and what a passage spells is neutralised before it is encoded.
    assert after.encode(" Karn was born in 1984.") == before.encode(" Karn was born in 1984.")
    assert not {*after.encode(prompt.question_prompt(turn))} & {after.vocab_size - 1 - n for n in range(len(added))}
    assert after.fingerprint != before.fingerprint and after.eos_id == before.eos_id and after.end_ids == before.end_ids
    # A second time there is nothing to add.
    content = (folder / "tokenizer.json").read_bytes()
    assert added_tags.add_tags(folder) == [] and (folder / "tokenizer.json").read_bytes() == content


def test_a_tokenizer_without_tags_as_tokens_has_no_former_ids(tmp_path):
    folder = tiny_published.qwen(tmp_path / "qwen", thinking=False)
    assert added_tags.former_ids(PublishedTokenizer(folder), folder) == {}


def test_tags_that_the_vocabulary_has_stay_what_they_are(tmp_path):
    folder = tiny_published.qwen(tmp_path / "qwen", thinking=True)
    think = PublishedTokenizer(folder).id("<think>")
    assert added_tags.add_tags(folder) == [tag for tag in tags.ALL if tag not in tags.THINK]
    assert PublishedTokenizer(folder).encode("<think>") == [think]


@pytest.mark.parametrize("token", [{"content": "<x>"}, {"id": 5}, {"id": "5", "content": "<x>"}, "<x>"])
def test_a_damaged_added_token_is_named(tmp_path, token):
    folder = tiny_published.qwen(tmp_path / "qwen", thinking=False)
    settings = json.loads((folder / "tokenizer.json").read_text())
    settings["added_tokens"] = [token]
    (folder / "tokenizer.json").write_text(json.dumps(settings))
    with pytest.raises(ValueError, match=r"tokenizer.json: added token .* has no id or no content"):
        added_tags.add_tags(folder)


def test_what_they_were_spelled_with(tmp_path):
    published = PublishedTokenizer(tiny_published.qwen(tmp_path / "published", thinking=True))
    tagged = tiny_published.qwen(tmp_path / "tagged", thinking=True)
    assert added_tags.former_ids(PublishedTokenizer(tagged), published.path) == {}  # its own '<think>' was not added
    added = added_tags.add_tags(tagged)
    found = added_tags.former_ids(PublishedTokenizer(tagged), published.path)
    assert found == {published.vocab_size + place: published.encode(tag) for place, tag in enumerate(added)}
    assert added_tags.former_ids(PublishedTokenizer(tagged), tagged) == {}
    assert added_tags.former_ids(PublishedTokenizer(tagged), tmp_path) == {}


def test_a_file_of_another_kind_is_refused(tmp_path):
    (tmp_path / "tokenizer.json").write_text(json.dumps({"model": {"vocab": [["a", -1.0]]}}))
    with pytest.raises(ValueError, match=r"tokenizer.json has no vocabulary of tokens by id"):
        added_tags.add_tags(tmp_path)
