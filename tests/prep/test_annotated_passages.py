"""Which passages are annotated at all."""

from masksearch_jax.data import records
from masksearch_jax.prep.spans import annotated_passages, candidates


def test_passages_with_a_tag_of_ours_in_text_or_title_are_left_out_and_counted(tmp_path):
    texts = {"Karn": "He met Brad Orland.", "Lint": "He met <answer> Brad Orland.", "The <search> tag": "Brad Orland."}
    passages = [records.Passage(i, i, title, text, "test") for i, (title, text) in enumerate(texts.items())]

    def finder(text, *about):
        return [candidates.Span(text.index("Brad"), text.index("Orland") + 6, "name")]

    annotation = annotated_passages.Annotation(tmp_path)
    annotation.run([(one, [], [], []) for one in passages], finder)
    assert (annotation.kept["test"], annotation.tagged, annotation.kinds["name"]) == (1, 2, 1)
