import pytest
import tokenizers

from masksearch_jax.text.wordpiece import WordPiece

VOCABULARY = "[PAD] [UNK] [CLS] [SEP] [MASK] the The cat ##s sat , .".split()


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n")
    return tmp_path


def pieces(ids):
    return " ".join(VOCABULARY[i] for i in ids)


def test_words_are_cut_into_pieces_between_special_tokens(folder):
    texts = ["The cats, sat.", "zebra", ""]
    found = [pieces(ids) for ids in WordPiece(folder, 16).encode(texts)]
    assert found == ["[CLS] the cat ##s , sat . [SEP]", "[CLS] [UNK] [SEP]", "[CLS] [SEP]"]
    (folder / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    assert pieces(WordPiece(folder, 16).encode(["The cats"])[0]) == "[CLS] The cat ##s [SEP]"


def test_max_length_counts_special_tokens_and_replaces_limits_of_the_file(folder):
    written = tokenizers.BertWordPieceTokenizer(str(folder / "vocab.txt"))
    written.enable_padding(length=4)
    written.enable_truncation(4)
    written.save(str(folder / "tokenizer.json"))
    found = WordPiece(folder, 5).encode(["the cat sat the cat", "the"])
    assert [pieces(ids) for ids in found] == ["[CLS] the cat sat [SEP]", "[CLS] the [SEP]"]


def test_a_folder_without_a_tokenizer_is_named(tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join(VOCABULARY))
    (tmp_path / "tokenizer_config.json").write_text('{"do_lower_case": "no"}')
    with pytest.raises(ValueError, match="do_lower_case is 'no', true or false"):
        WordPiece(tmp_path, 8)
    (tmp_path / "vocab.txt").unlink()
    with pytest.raises(FileNotFoundError, match="has neither tokenizer.json nor vocab.txt"):
        WordPiece(tmp_path, 8)
