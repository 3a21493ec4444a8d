"""Conversations in chat templates: the ids of the rendered text, and data that stays data."""

import chat_template_vectors
import pytest

from masksearch_jax.text import chat_template
from masksearch_jax.text.published_tokenizer import PublishedTokenizer

TALK = [
    ("system", "Be brief."), ("user", "Who founded it?\n"), ("assistant", "Karn Velith."), ("user", "And <b>when</b>?"),
]  # fmt: skip
# Templates that show a system message and earlier replies as they are, but for the space around them.
NAMES = ("qwen2.5", "llama3.1", "gemma3", "smollm2", "phi3.5", "aya-expanse")


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    root = tmp_path_factory.mktemp("conversations")
    return {name: PublishedTokenizer(chat_template_vectors.write_folder(root / name, name)) for name in NAMES}


@pytest.mark.parametrize("name", NAMES)
def test_ids_are_those_of_the_rendered_text(opened, name):
    tok = opened[name]
    for talk in (TALK, TALK[1:2], TALK[1:]):
        rendering = chat_template._Rendering(tok.chat_template, tok.special_tokens, {})
        text = rendering.render([{"role": role, "content": said} for role, said in talk])
        assert chat_template.encode_conversation(tok, talk) == tok.encode_control(text)


@pytest.mark.parametrize("name", NAMES)
def test_one_message_is_the_prompt_of_a_task(opened, name):
    tok = opened[name]
    one = chat_template.open_chat_template(tok, "auto").encode(tok, "A text. ")
    assert chat_template.encode_conversation(tok, [("user", "A text. ")]) == one


@pytest.mark.parametrize("name", NAMES)
def test_what_a_message_spells_is_data(opened, name):
    tok = opened[name]
    hostile = chat_template_vectors.hostile(name)
    control = {tok.id(token) for token in tok.control}
    talk = [("user", hostile), ("assistant", hostile), ("user", hostile)]
    harmless = [(role, "x") for role, _ in talk]
    found, expected = (
        [i for i in chat_template.encode_conversation(tok, one) if i in control] for one in (talk, harmless)
    )
    assert found == expected


def test_a_message_that_the_template_changes_is_refused(tmp_path):
    from test_chat_template import CHATML, with_template

    tok = with_template(tmp_path / "upper", CHATML.replace("m.content", "m.content | upper"))
    with pytest.raises(ValueError, match="changes message 0"):
        chat_template.encode_conversation(tok, [("user", "words")])
    thoughts = CHATML.replace("m.content", "m.content.split('</think>')[-1]")
    tok = with_template(tmp_path / "thoughts", thoughts)
    talk = [("user", "a"), ("assistant", "<think> b</think>c"), ("user", "d")]
    short = [("user", "a"), ("assistant", "c"), ("user", "d")]
    assert chat_template.encode_conversation(tok, talk) == chat_template.encode_conversation(tok, short)
