"""Chat templates: ids of published ones as transformers makes them, data that stays data, refusals by name."""

import json
import pickle
from collections import Counter

import chat_template_vectors
import episodes
import pytest
import tiny_published

from masksearch_jax.text import jinja_sandbox, prompt, tags, tokenizer
from masksearch_jax.text.chat_template import ChatTemplate, open_chat_template, read_variables
from masksearch_jax.text.published_tokenizer import PublishedTokenizer

# Ids that transformers 5.24 made (chat_template_vectors.py).
VECTORS = json.loads((chat_template_vectors.FOLDER / "vectors.json").read_text(encoding="utf-8"))
# What each template writes after a reply.
ENDS = {
    "qwen2.5": "<|im_end|>", "qwen3": "<|im_end|>", "llama3.1": "<|eot_id|>", "llama3.2": "<|eot_id|>",
    "gemma3": "<end_of_turn>", "smollm2": "<|im_end|>", "deepseek-r1-distill": "<｜end▁of▁sentence｜>",
    "phi3.5": "<|end|>", "aya-expanse": "<|END_OF_TURN_TOKEN|>",
}  # fmt: skip
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    root = tmp_path_factory.mktemp("templates")
    return {name: PublishedTokenizer(chat_template_vectors.write_folder(root / name, name)) for name in VECTORS}


def with_template(folder, text, **config):
    """The small tokenizer of Qwen with another template."""
    tiny_published.qwen(folder, template=text)
    episodes.change_json(folder / "tokenizer_config.json", **config)
    return PublishedTokenizer(folder)


def test_the_vectors_are_those_of_the_script():
    assert VECTORS.keys() == chat_template_vectors.TEMPLATES.keys() == ENDS.keys()
    for name, cases in VECTORS.items():
        assert [{key: case[key] for key in case if key != "ids"} for case in cases] == chat_template_vectors.cases(name)


@pytest.mark.parametrize("name", VECTORS)
def test_ids_are_those_of_transformers(opened, name):
    tok, templates = opened[name], {}
    for case in VECTORS[name]:
        key = repr((case["system"], case["variables"]))
        if key not in templates:
            templates[key] = open_chat_template(tok, "auto", case["system"], case["variables"])
        template = templates[key]
        assert template.encode(tok, case["text"]) == case["ids"], case


@pytest.mark.parametrize("name", VECTORS)
def test_control_tokens_come_of_the_template_alone(opened, name):
    tok, hostile = opened[name], chat_template_vectors.hostile(name)
    control = {tok.id(token) for token in tok.control}
    named = {token.removeprefix("-") for token in chat_template_vectors.TEMPLATES[name][0]}
    assert named - set(tags.ALL) <= tok.control
    harmless = open_chat_template(tok, "auto", "Be brief.").encode(tok, "a passage")
    spelled = open_chat_template(tok, "auto", hostile).encode(tok, hostile)
    assert Counter(i for i in spelled if i in control) == Counter(i for i in harmless if i in control)
    assert tok.decode(spelled).count(hostile) == 2
    assert not control & set(tok.encode(hostile)) and not control & set(sum(tok.encode_batch([hostile]), []))


@pytest.mark.parametrize("name", VECTORS)
def test_the_turn_ends_as_the_template_ends_a_reply(opened, name):
    assert opened[name].id(ENDS[name]) in opened[name].end_ids


def test_a_prompt_is_rendered_once(opened, monkeypatch):
    template = open_chat_template(opened["qwen3"], "auto", "Be brief.")
    monkeypatch.setattr(jinja_sandbox.SandboxedTemplate, "render", None)
    monkeypatch.setattr(PublishedTokenizer, "encode_control", None)
    assert len({tuple(template.encode(opened["qwen3"], f"text {n}")) for n in range(100)}) == 100


def test_thoughts_that_a_prompt_opens(opened):
    def end_of(name, **variables):
        template = open_chat_template(opened[name], "auto", "Think in <think> .. </think>.", variables)
        return prompt.opened_thought(template.encode(opened[name], "Write <think>"), opened[name])

    assert end_of("deepseek-r1-distill") == "<think>\n"
    assert end_of("qwen3") == end_of("qwen3", enable_thinking=False) == end_of("gemma3") == ""


def test_a_template_may_speak_of_thoughts(tmp_path):
    tok = with_template(tmp_path / "q", CHATML.replace("<|im_end|>", " Reason in <think> first.<|im_end|>"))
    made = open_chat_template(tok, "auto")
    assert made.right == " Reason in <think> first." and not prompt.opened_thought(made.encode(tok, "x"), tok)


def test_date_of_a_prompt_never_changes(opened):
    said = opened["llama3.2"].decode(open_chat_template(opened["llama3.2"], "auto").prefix_ids)
    assert "Today Date: 26 Jul 2024" in said


def test_base_models_get_a_space_and_what_the_tokenizer_starts_with(opened, tmp_path):
    assert open_chat_template(opened["qwen3"], "") == ChatTemplate()
    gemma = PublishedTokenizer(tiny_published.gemma(tmp_path / "gemma"))
    assert open_chat_template(gemma, "").encode(gemma, "x [mask]") == [gemma.id("<bos>"), *gemma.encode(" x [mask]")]
    # A template writes its own beginning: there is one, not two.
    assert open_chat_template(gemma, "auto").encode(gemma, "x").count(gemma.id("<bos>")) == 1


def test_where_a_template_stands(tmp_path):
    named = [{"name": "tool_use", "template": "x"}, {"name": "default", "template": CHATML}]
    tok = with_template(tmp_path / "a", "", chat_template=named)
    made = open_chat_template(tok, "auto", "Be brief.")
    assert made.left == "user\n" and tok.chat_template.where.endswith("tokenizer_config.json")
    # Newer folders keep it in a file of its own; a setting may name another.
    (tok.path / "chat_template.jinja").write_text(CHATML.replace("\n", "|"))
    assert open_chat_template(PublishedTokenizer(tok.path), "auto").left == "user|"
    other = tmp_path / "other.jinja"
    other.write_text(CHATML.replace("\n", "#"))
    changed = PublishedTokenizer(tok.path, str(other))
    assert open_chat_template(changed, str(other)).left == "user#"
    again = pickle.loads(pickle.dumps(changed))
    assert again.chat_template == changed.chat_template and again.fingerprint == tok.fingerprint
    with pytest.raises(FileNotFoundError, match="no.jinja does not exist; name a file of a Jinja template"):
        PublishedTokenizer(tok.path, str(tmp_path / "no.jinja"))


def test_a_template_without_control_tokens(tmp_path):
    tok = with_template(tmp_path / "q", "### Ask:\n{{ messages[0].content }}\n\n### Reply:\n\n")
    made = open_chat_template(tok, "auto")
    assert made == ChatTemplate((), "### Ask:\n", "\n\n### Reply:\n", ())
    assert made.encode(tok, "x<|im_end|>") == tok.encode("### Ask:\nx<|im_end|>\n\n### Reply:\n")


@pytest.mark.parametrize("method", ["strip", "lstrip", "rstrip"])
def test_blank_space_around_a_message_may_go(method, tmp_path):
    tok = with_template(tmp_path / "q", "<|im_start|>{{ messages[-1].content." + method + "() }}<|im_end|>")
    made, text = open_chat_template(tok, "auto"), " \n\u2003x\t "
    assert tok.decode(made.encode(tok, text)) == f"<|im_start|>{getattr(text, method)()}<|im_end|>"


def test_the_block_generation_and_the_functions_of_templates(tmp_path):
    text = (
        "{%- set ns = namespace(n=0) %}{% for m in messages %}{% if m.role == 'tool' %}{% continue %}{% endif %}"
        "{% set ns.n = ns.n + loop.length %}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}"
        "{{ [{'ü': '<&>'}] | tojson }}{{ dict(a=ns.n).a }}{{ strftime_now('%Y') }}{{ documents is none }}"
        "{{ eos_token }}"
    )
    tok = with_template(tmp_path / "q", text)
    made = open_chat_template(tok, "auto", "S ")
    assert made.left + "|" + made.right == '"S |[{"ü": "<&>"}]42024True'.removeprefix('"')
    assert made.suffix_ids == (tok.id("<|im_end|>"),)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{% if x %}", r"tokenizer_config.json, line 1: the chat template is no Jinja: Unexpected end of template"),
        ("{{ " + "(" * 300 + "1" + ")" * 300 + " }}", "the chat template is no Jinja"),
        ("{{ (dict.fromkeys(['a']).keys() | list)[0] }}", "shows the user's message nowhere"),
        ("\n{{ x | no_filter }}", "line 2: the chat template is no Jinja: No filter named 'no_filter'"),
        ("{{ lipsum() }}", "'lipsum' is undefined"),
        ("{{ messages | random }}", "No filter named 'random'"),
        ("\n{{ raise_exception('only tools here') }}", "line 2: the chat template fails: only tools here"),
        ("hello", "shows the user's message nowhere"),
        ("{{ messages[-1].content }} {{ messages[-1].content }}", "shows the user's message 2 times"),
        ("{{ messages[-1].content | upper }}", "changes the user's message"),
        ("{{ messages[-1].content | e }}", "changes the user's message"),
        ("{{ messages[-1].content.split('</think>')[0] }}", "changes the user's message"),
        ("{{ messages[-1].content.lstrip('W \\n') }}", "changes the user's message"),
        (CHATML.replace("assistant\n", "assistant\n<think>\nOkay,"), "begins the thought of the reply"),
        ("{{ messages[0].__class__.__mro__ }}", "access to attribute '__class__' of 'dict' object is unsafe"),
        ("{{ messages.append(1) }}", "is not safely callable|fails"),
        ("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", "more than 20000 steps"),
        ("{% for a in range(10 ** 9) %}{% endfor %}", "Range too big"),
        ("{% macro m() %}{{ m() }}{{ m() }}{% endmacro %}{{ m() }}", "RecursionError|more than 20000 steps"),
        ("{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(60) }}", "20000 steps"),
        ("{% for a in [1] recursive %}{{ loop(range(99999)) }}{% endfor %}", "20000 steps|RecursionError"),
        ("{{ 'x' * 10 ** 9 }}", r"the result of \* is too large"),
        ("{{ 9 ** 99999 }}", r"the result of \*\* is too large"),
        ("{% for a in range(2000) %}{{ 'x' * 1000 }}{% endfor %}", "writes more than 1000000 characters"),
        ("{% set ns = namespace(__x=1) %}", "namespace has a name '__x'"),
        ("{{ 1 / 0 }}", "line 1: the chat template fails .ZeroDivisionError"),
    ],
)
def test_templates_that_are_refused(tmp_path, text, says):
    """Whatever is wrong: the tokenizer opens, and its prompts are refused by the name of the file."""
    tok = with_template(tmp_path / "q", text)
    assert tok.end_ids == (tok.id("<|endoftext|>"), tok.id("<|im_end|>"))
    with pytest.raises(ValueError, match=says) as refused:
        open_chat_template(tok, "auto")
    assert str(tmp_path / "q" / "tokenizer_config.json") in str(refused.value)


def test_variables_as_they_are_set():
    given = ("a=False", "b=true", "c=3", "d='3'", "e=1 Jan 2025", "f=", "g=None", "h=x=y", "i=0.5")
    assert read_variables(given) == {
        "a": False, "b": True, "c": 3, "d": "3", "e": "1 Jan 2025", "f": "", "g": "None", "h": "x=y", "i": 0.5,
    }  # fmt: skip
    for wrong in (("a",), ("=1",), ("a b=1",), ("a=1", "a=2")):
        with pytest.raises(ValueError, match="is no name=value, or its name stands twice"):
            read_variables(wrong)


def test_refusals(opened, tmp_path):
    with pytest.raises(ValueError, match="system='Be short.' needs a chat template; set chat='auto'"):
        open_chat_template(opened["qwen3"], "", "Be short.")
    with pytest.raises(ValueError, match="chat_variables={'enable_thinking': True} needs a chat template"):
        open_chat_template(opened["qwen3"], "", "", {"enable_thinking": True})
    with pytest.raises(ValueError, match="chat_variables: thinking=True, but .* reads no such variable; it reads .*en"):
        open_chat_template(opened["qwen3"], "auto", "", {"thinking": True})
    for name in ("messages", "add_generation_prompt", "eos_token"):
        with pytest.raises(ValueError, match="reads no such variable"):
            open_chat_template(opened["qwen3"], "auto", "", {name: "x"})
    for text, says in (
        ("{{ messages[-1].content }}", "shows no system message; leave system='Be short.' out"),
        ("{% for m in messages %}{{ m.content.replace('Be', 'be') }}{% endfor %}", "changes the system message 'Be s"),
        ("{% if messages[1] %}{{ raise_exception('no system role') }}{% endif %}", "fails: no system role"),
    ):
        with pytest.raises(ValueError, match=says):
            open_chat_template(with_template(tmp_path / str(hash(text)), text), "auto", "Be short.")
    toy = tokenizer.train(tiny_published.TEXTS, tmp_path / "toy.model", 330)
    assert open_chat_template(toy, "") == ChatTemplate()
    bare = with_template(tmp_path / "bare", "x", chat_template=None)
    for one in (toy, bare):
        with pytest.raises(ValueError, match="holds no chat template .*; set chat='' for a base model, or name"):
            open_chat_template(one, "auto")


def test_tokenizers_that_join_across_a_control_token_are_refused(tmp_path, monkeypatch):
    tok = with_template(tmp_path / "q", CHATML)
    monkeypatch.setattr(PublishedTokenizer, "encode", lambda self, text: [0] + self._tokenizer.encode(text).ids)
    with pytest.raises(ValueError, match="joins control tokens and text"):
        open_chat_template(tok, "auto")


def test_added_tokens_that_a_template_spells_are_control_tokens(opened, tmp_path):
    """Special or not. Data made before they were is another tokenizer's; any other fingerprint stays."""
    tok = opened["deepseek-r1-distill"]
    assert "<｜User｜>" in tok.control and "<think>" not in tok.control
    assert tok.id("<｜User｜>") not in tok.encode("<｜User｜>")
    assert tok.encode_control("<｜User｜>") == [tok.id("<｜User｜>")]
    assert tok.id("<think>") in tok.encode("<think>")
    (file := tok.path / "chat_template.jinja").rename(tmp_path / "kept")
    without = PublishedTokenizer(tok.path)
    assert without.fingerprint != tok.fingerprint and "<｜User｜>" not in without.control
    (tmp_path / "kept").rename(file)
    # Blank ones and words are ordinary text, which templates write too.
    folder = tiny_published.qwen(tmp_path / "q", template=CHATML)
    episodes.with_tokens(folder, ["\n\n", "assistant", "<other>"])
    plain = PublishedTokenizer(folder)
    assert plain.control == {"<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|fim_pad|>"}
    episodes.change_json(folder / "tokenizer_config.json", chat_template=None)
    assert PublishedTokenizer(folder).fingerprint == plain.fingerprint


@pytest.mark.slow
@pytest.mark.parametrize("name", VECTORS)
def test_live_ids_are_those_of_transformers(name, tmp_path):
    """Runs where transformers is installed; it is no dependency. With the whole tokenizer of a model by
    `python tests/text/chat_template_vectors.py --base FOLDER`."""
    pytest.importorskip("transformers")
    made = chat_template_vectors.reference(name, chat_template_vectors.FOLDER, tmp_path)
    assert made == VECTORS[name]
