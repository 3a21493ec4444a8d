import hashlib
import subprocess
import sys
import time

import numpy as np
import pytest

from masksearch_jax.retrieval.encoders import encoder, lexical


def plain_tfidf(documents: list[str], texts: list[str]) -> np.ndarray:
    """Unit TF-IDF rows of ASCII texts, written from the definition: words and pairs, binary tf, sqrt(idf)."""

    def features(text):
        words = text.lower().replace("\n", " ").split()
        return set(words) | set(zip(words, words[1:], strict=False))

    frequency = {}
    for document in documents:
        for feature in features(document):
            frequency[feature] = frequency.get(feature, 0) + 1
    column = {feature: i for i, feature in enumerate(sorted(frequency, key=str))}
    out = np.zeros((len(texts), len(column)))
    for row, text in enumerate(texts):
        for feature in features(text) & set(column):
            out[row, column[feature]] = np.sqrt(np.log((len(documents) + 1) / (frequency[feature] + 0.5)))
    return out / np.linalg.norm(out, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def documents(corpus):
    return [encoder.passage_text(passage.title, passage.text) for passage in corpus]


@pytest.fixture(scope="module")
def queries(corpus):
    return [" ".join(passage.text.split()[5:11]) for passage in corpus[20:280]]


def test_inner_products_approximate_plain_tfidf(documents, queries):
    expected = plain_tfidf(documents, queries) @ plain_tfidf(documents, documents).T
    errors = []
    for dims in (1024, 8192):
        made = lexical.LexicalEncoder.fit(documents, dims)
        found = made.encode_queries(queries) @ made.encode_passages(documents).T
        errors.append(np.sqrt(np.square(found - expected).mean()))
        # The passage that a query was cut from stands out in both rankings.
        assert (found.argmax(1) == expected.argmax(1)).mean() > 0.98
        assert (expected.argmax(1) == np.arange(20, 280)).mean() > 0.98
    # Johnson-Lindenstrauss: the error falls as 1/sqrt(dims).
    assert errors[0] < 1.2 / np.sqrt(1024) and errors[1] < 1.2 / np.sqrt(8192)


def test_rows_are_unit_and_independent_of_the_batch(documents, queries):
    made = lexical.LexicalEncoder.fit(documents, 256)
    together = made.encode_queries(queries)
    assert together.dtype == np.float32 and together.shape == (len(queries), 256)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-6)
    alone = np.concatenate([made.encode_queries([query]) for query in queries])
    np.testing.assert_array_equal(together, alone)


def test_same_vectors_in_another_process():
    program = (
        "import hashlib; from masksearch_jax.retrieval.encoders import lexical;"
        "e = lexical.LexicalEncoder.fit(['one two three', 'two four'], 64);"
        "print(e.fingerprint, hashlib.sha256(e.encode_queries(['four two', 'three']).tobytes()).hexdigest())"
    )
    made = lexical.LexicalEncoder.fit(["one two three", "two four"], 64)
    here = hashlib.sha256(made.encode_queries(["four two", "three"]).tobytes()).hexdigest()
    there = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert there == [made.fingerprint, here]


def test_unknown_words_and_empty_texts_say_nothing(documents):
    made = lexical.LexicalEncoder.fit(documents, 64)
    assert not made.encode_queries(["", "  ... ", "zzzzz yyyyy"]).any()
    assert made.encode_queries([]).shape == (0, 64)


def test_case_accents_and_scripts():
    documents = [
        "Zürich liegt am See",
        "Санкт-Петербург стоит на Неве",
        "北京是中华人民共和国的首都",
        "plain English text",
    ]
    made = lexical.LexicalEncoder.fit(documents, 512)
    found = made.encode_queries(["zurich", "НЕВЕ", "首都", "ENGLISH"]) @ made.encode_passages(documents).T
    assert found.argmax(1).tolist() == [0, 1, 2, 3]


def test_save_and_load(tmp_path, documents, queries):
    made = lexical.LexicalEncoder.fit(documents, 128)
    made.save(tmp_path)
    loaded = encoder.load(tmp_path)
    assert loaded.fingerprint == made.fingerprint
    np.testing.assert_array_equal(loaded.encode_queries(queries), made.encode_queries(queries))
    lexical.LexicalEncoder.fit(documents[1:], 128).save(tmp_path / "..")
    (tmp_path / "../frequencies.npz").replace(tmp_path / "frequencies.npz")
    with pytest.raises(ValueError, match="frequencies.npz is not the one"):
        encoder.load(tmp_path)
    with pytest.raises(FileNotFoundError, match="encoder.json does not exist"):
        encoder.load(tmp_path / "nowhere")


def test_more_than_five_thousand_queries_a_second(documents, queries):
    made = lexical.LexicalEncoder.fit(documents, 1024)
    made.encode_queries(queries)
    started = time.process_time()
    made.encode_queries(queries * 8)
    assert 8 * len(queries) / (time.process_time() - started) > 5000


def test_refuses_no_passages_and_tiny_widths():
    with pytest.raises(ValueError, match="0 passages"):
        lexical.LexicalEncoder.fit([], 64)
    with pytest.raises(ValueError, match="dims of the lexical encoder is 4"):
        lexical.LexicalEncoder.fit(["a"], 4)
