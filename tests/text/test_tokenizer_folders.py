"""Tokenizers of damaged checkpoint folders: read as they are, or refused by the name of a file; never a panic."""

import json
import shutil

import pytest
import tiny_published
from episodes import change_json
from fuzzing import fuzz
from hypothesis import strategies as st

from masksearch_jax.text import tokenizer_errors
from masksearch_jax.text.published_tokenizer import PublishedTokenizer

FILES = ("tokenizer.json", "tokenizer_config.json", "generation_config.json")


@pytest.fixture(scope="module")
def wholes(tmp_path_factory):
    """{family: (folder, ids of a text)}"""
    root = tmp_path_factory.mktemp("tokenizers")
    found = {}
    for name, make in tiny_published.MAKERS.items():
        found[name] = make(root / name), PublishedTokenizer(make(root / name)).encode("born in 1984")
    return found


def test_an_interrupt_is_no_damage(tmp_path):
    with pytest.raises(KeyboardInterrupt), tokenizer_errors.naming(tmp_path):
        raise KeyboardInterrupt


def change_at(value, path, new):
    """The value with `new` at a path of keys and places."""
    if not path:
        return new
    inner = change_at(value[path[0]], path[1:], new)
    return {**value, path[0]: inner} if isinstance(value, dict) else [*value[: path[0]], inner, *value[path[0] + 1 :]]


def paths_of(value, path=()):
    """Every place of a JSON value, of long lists and of the vocabulary the first few."""
    yield path
    if isinstance(value, dict):
        for key in list(value)[:40]:
            yield from paths_of(value[key], (*path, key))
    elif isinstance(value, list):
        for place in range(min(len(value), 6)):
            yield from paths_of(value[place], (*path, place))


def right_or_named(folder):
    try:
        return PublishedTokenizer(folder)
    except (ValueError, FileNotFoundError) as error:
        assert str(folder) in str(error), error
        return None


@pytest.mark.parametrize(
    ("name", "change", "says"),
    [
        ("tokenizer_config.json", "{", "tokenizer_config.json is not JSON"),
        ("tokenizer_config.json", '{"eos_token": ["a"]}', r"tokenizer_config.json has eos_token=\['a'\]"),
        ("tokenizer_config.json", '{"eos_token": {}}', "tokenizer_config.json has eos_token=None"),
        ("generation_config.json", "[", "generation_config.json is not JSON"),
        ("generation_config.json", '{"eos_token_id": "3"}', r"generation_config.json has eos_token_id=\['3'\]"),
        ("generation_config.json", '{"eos_token_id": [true]}', "generation_config.json has eos_token_id="),
        ("tokenizer.json", "{}", "tokenizer.json"),
    ],
)
def test_a_damaged_file_is_named(name, change, says, wholes, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(wholes["qwen"][0], folder)
    (folder / name).write_text(change)
    with pytest.raises(ValueError, match=says):
        PublishedTokenizer(folder)


def test_two_tokens_of_one_id_are_refused(wholes, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(wholes["qwen"][0], folder)
    content = json.loads((folder / "tokenizer.json").read_text())
    content["model"]["vocab"][","] = content["model"]["vocab"]["b"]
    (folder / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"tokenizer.json: the tokens ',' and 'b' have one id, \d+"):
        PublishedTokenizer(folder)


def test_a_template_that_names_no_token_is_no_panic(wholes, tmp_path):
    """The library panics, which no `except Exception` sees, when it meets a special token that its template lacks."""
    folder = tmp_path / "copy"
    shutil.copytree(wholes["llama"][0], folder)
    content = json.loads((folder / "tokenizer.json").read_text())
    content["post_processor"]["single"][0]["SpecialToken"]["id"] = "x"
    (folder / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"tokenizer.json is no tokenizer that can be read \(PanicException"):
        PublishedTokenizer(folder)


def test_the_first_token_may_end_a_text(wholes, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(wholes["qwen"][0], folder)
    (folder / "generation_config.json").write_text('{"eos_token_id": 0}')
    assert 0 in PublishedTokenizer(folder).end_ids


def test_a_damaged_chat_template_is_named(wholes, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(wholes["qwen"][0], folder)
    change_json(folder / "tokenizer_config.json", chat_template=["x"])
    with pytest.raises(ValueError, match=r"tokenizer_config.json has chat_template=\['x'\], where a template belongs"):
        PublishedTokenizer(folder)
    named = [{"name": "tool_use", "template": "x"}, {"name": "rag"}]
    change_json(folder / "tokenizer_config.json", chat_template=named)
    with pytest.raises(ValueError, match="has the chat templates 'tool_use', 'rag' and none named 'default'"):
        PublishedTokenizer(folder)
    (folder / "chat_template.jinja").write_bytes(b"\xff\xfe{{ x }}")
    with pytest.raises(ValueError, match="chat_template.jinja cannot be read as UTF-8"):
        PublishedTokenizer(folder)


_SMALL = st.one_of(st.none(), st.booleans(), st.integers(-3, 10**12), st.floats(), st.text(max_size=5))
_VALUES = st.one_of(
    _SMALL,
    st.sampled_from(["<|im_end|>", "<eos>", "ByteLevel", "Sequence", "BPE"]),
    st.lists(_SMALL, max_size=2),
    st.dictionaries(st.sampled_from(["type", "content", "id", "x"]), _SMALL, max_size=2),
)


@fuzz(st.sampled_from(sorted(tiny_published.MAKERS)), st.sampled_from(FILES), st.data(), examples=120)
def test_fuzz_settings_of_a_tokenizer_folder(wholes, tmp_path, family, name, data):
    """A changed setting: a tokenizer that keeps texts, or a refusal by name."""
    folder = tmp_path / "copy"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(wholes[family][0], folder)
    content = json.loads((folder / name).read_text())
    path = data.draw(st.sampled_from(list(paths_of(content))))
    (folder / name).write_text(json.dumps(change_at(content, path, data.draw(_VALUES))))
    found = right_or_named(folder)
    if found is not None:
        assert found.decode(found.encode("born in 1984, S\u00e3o")) == "born in 1984, S\u00e3o"
        assert all(0 <= end < found.vocab_size for end in found.end_ids)


@fuzz(
    st.sampled_from(sorted(tiny_published.MAKERS)),
    st.sampled_from(FILES),
    st.lists(st.tuples(st.floats(0, 1), st.integers(1, 255)), max_size=3),
    st.sampled_from([1.0, 1.0, 0.99, 0.5, 0.0]),
    examples=60,
)
def test_fuzz_bytes_of_a_tokenizer_folder(wholes, tmp_path, family, name, flips, share):
    folder = tmp_path / "copy"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(wholes[family][0], folder)
    data = bytearray((folder / name).read_bytes())
    for where, flip in flips:
        data[min(int(where * len(data)), len(data) - 1)] ^= flip
    (folder / name).write_bytes(data[: int(len(data) * share)])
    found = right_or_named(folder)
    if found is not None:
        assert found.decode(found.encode("born in 1984")) == "born in 1984"
        if not flips and share == 1.0:
            assert found.encode("born in 1984") == wholes[family][1]
