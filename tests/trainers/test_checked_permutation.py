"""A permutation of tokens that could move a tag or the end of a turn is refused before any training."""

import json
import re

import pytest

from masksearch_jax.text import tokenizer as tokenizer_lib
from masksearch_jax.trainers import checked_permutation


def test_only_what_moves_no_tag_and_no_end_is_taken(workdir):
    data = workdir / "data"
    tokenizer = tokenizer_lib.load(data)
    digits = checked_permutation.load(data, tokenizer).groups[0].ravel().tolist()
    assert sorted(map(tokenizer.token, digits)) == list("0123456789")
    for other in (tokenizer.encode("</answer>")[-1], tokenizer.encode("<think>")[0], tokenizer.eos_id):
        (data / "augment.json").write_text(json.dumps({"groups": [digits[2:], [*digits[:2], other]]}))
        token = re.escape(repr(tokenizer.token(other)))
        said = rf"augment\.json: groups\[1\] permutes the token {token}, .*overwrite=True"
        with pytest.raises(ValueError, match=said):
            checked_permutation.load(data, tokenizer)


def test_the_parts_of_another_tools_tags_stay_in_place(workdir):
    data = workdir / "data"
    tokenizer = tokenizer_lib.load(data)
    groups = [[tokenizer.id(digit) for digit in "0123456789"]]
    (data / "augment.json").write_text(json.dumps({"groups": groups}))
    found = checked_permutation.load(data, tokenizer, ("search", "area51"))
    left = sorted(map(tokenizer.token, found.groups[0].ravel().tolist()))
    assert left == list("02346789")
