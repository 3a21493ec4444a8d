"""Writes chat_templates/vectors.json: prompts and their ids as transformers makes them of published chat templates.

    python tests/text/chat_template_vectors.py --tokenizer            the tokenizer.json there (needs tokenizers)
    python tests/text/chat_template_vectors.py                        the vectors (needs transformers; 5.24 made them)
    python tests/text/chat_template_vectors.py --base FOLDER --to FILE    the same with the tokenizer of another model
    python tests/text/chat_template_vectors.py --base FOLDER --check FILE ours against that file (needs our package)

Each template stands in a folder with the tokenizer, or that of FOLDER, to which its control tokens are added. Ids of
harmless texts are those of `apply_chat_template(add_generation_prompt=True)` there. To it, a control token that a text
spells is a control token. So ids of hostile texts come from a twin of the folder, in which every control token, and the
template with it, has a name that no text spells: `apply_chat_template` then finds none in the text, and the ids of all
tokens are the same. Harmless texts have to give the same ids in both folders.
"""

import argparse
import json
from pathlib import Path

from tokenizers import AddedToken, Tokenizer

FOLDER = Path(__file__).parent / "chat_templates"
# By template: its tokens (a '-' before those that the published tokenizer has as added tokens that are not special),
# the ones with a role, and values of variables beside none.
CHATML = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
LLAMA = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eom_id|>", "<|eot_id|>",
         "<|python_tag|>"]  # fmt: skip
AYA = ["<BOS_TOKEN>", "<|START_OF_TURN_TOKEN|>", "<|END_OF_TURN_TOKEN|>", "<|USER_TOKEN|>", "<|CHATBOT_TOKEN|>",
       "<|SYSTEM_TOKEN|>"]  # fmt: skip
DEEPSEEK = ["<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "-<｜User｜>", "-<｜Assistant｜>", "-<think>",
            "-</think>"]  # fmt: skip
TEMPLATES = {
    "qwen2.5": ([*CHATML, "-<tool_call>", "-</tool_call>"], {"eos_token": "<|im_end|>"}, []),
    "qwen3": ([*CHATML, "-<tool_call>", "-</tool_call>", "-<think>", "-</think>"], {"eos_token": "<|im_end|>"},
              [{"enable_thinking": True}, {"enable_thinking": False}]),
    "llama3.1": (LLAMA, {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"}, [{"date_string": "1 Jan 2025"}]),
    "llama3.2": (LLAMA, {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"}, []),
    "gemma3": (["<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>", "<start_of_image>"],
               {"bos_token": "<bos>", "eos_token": "<eos>"}, []),
    "smollm2": (CHATML, {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>"}, []),
    "deepseek-r1-distill": (DEEPSEEK, {"bos_token": DEEPSEEK[0], "eos_token": DEEPSEEK[1]}, []),
    "phi3.5": (["<s>", "<|endoftext|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"],
               {"bos_token": "<s>", "eos_token": "<|endoftext|>"}, []),
    "aya-expanse": (AYA, {"bos_token": AYA[0], "eos_token": AYA[2]}, []),
}  # fmt: skip
# These swallow the blank space behind them, as published.
SWALLOWING = ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>")
SYSTEMS = ("", "Fill each [mask]. Use <search> and <answer>.")
TEXTS = (
    "Karn Velith was born in [mask], near São Tolmar.",
    "Who wrote it?\n\nAnswer in two words: 日本 🎈",
    "x\nx\nx\nend",
    "'quoted' \"text\" & <b>tags</b> {{ 7 * 7 }} {% raise %} {# no #}",
    "\ue0b5\ue0b6\ue0b7 and \ue0b5\ue0b6\ue0b8, \ue0b5\ue0b6\ue0b9",  # what stands for messages in a rendering
)


def hostile(name: str) -> str:
    """A text that spells every control token, a tag of ours, Jinja, and what stands for messages in a rendering."""
    tokens = [token.removeprefix("-") for token in TEMPLATES[name][0]]
    spelled = "".join(f" a{token}b {token}\n{token}" for token in tokens if token not in ("<think>", "</think>"))
    return f"{tokens[0]}{spelled}{{{{ 7 * 7 }}}}{{% raise %}} {TEXTS[-1]} <search> x</search>[mask]"


def cases(name: str) -> list[dict]:
    """[{"system", "text", "variables", "hostile"}] of a template."""
    found = []
    for variables in ({}, *TEMPLATES[name][2]):
        for system in SYSTEMS:
            found += [{"system": system, "text": text, "variables": variables, "hostile": False} for text in TEXTS]
            found.append({"system": system, "text": hostile(name), "variables": variables, "hostile": True})
        found.append({"system": hostile(name), "text": TEXTS[0], "variables": variables, "hostile": True})
    return found


def write_folder(folder: Path, name: str, base: Path = FOLDER, rename=lambda token: token) -> Path:
    """Writes a tokenizer's folder with a published template. rename: other names for its control tokens."""
    folder.mkdir(parents=True)
    made = Tokenizer.from_file(str(base / "tokenizer.json"))
    tokens, roles, _ = TEMPLATES[name]
    # Those that the tokenizer has already are left as they are, unless they get another name.
    settings = json.loads(made.to_str())
    control = {token.removeprefix("-") for token in tokens} - {"<think>", "</think>"}
    template = (FOLDER / f"{name}.jinja").read_text(encoding="utf-8")
    added = {one["content"]: one for one in settings["added_tokens"]}
    for token in sorted(control & added.keys()):
        new = rename(token)
        added[token]["content"] = new
        settings["model"]["vocab"][new] = settings["model"]["vocab"].pop(token)
    made = Tokenizer.from_str(json.dumps(settings))
    for token in tokens:
        plain = token.removeprefix("-")
        new = rename(plain) if plain in control else plain
        if plain not in added:
            kind = {"normalized": False, "special": plain == token, "rstrip": plain in SWALLOWING}
            (made.add_tokens if plain != token else made.add_special_tokens)([AddedToken(new, **kind)])
    for token in sorted(control, key=len, reverse=True):
        template = template.replace(token, rename(token))
    made.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    config |= {role: rename(token) for role, token in roles.items()}
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    return folder


def unspelled(token: str) -> str:
    """Another name of a control token, in characters that no text here has."""
    return "".join(chr(0xF0000 + ord(char)) for char in token)


def reference(name: str, base: Path, scratch: Path) -> list[dict]:
    """Returns the cases of a template with 'ids', as transformers has them."""
    import datetime

    import transformers

    class Fixed(datetime.datetime):
        @classmethod
        def now(cls, tz=None):
            return cls(2024, 7, 26)

    transformers.utils.chat_template_utils.datetime = Fixed  # strftime_now
    plain = transformers.AutoTokenizer.from_pretrained(str(write_folder(scratch / f"{name}.plain", name, base)))
    twin = transformers.AutoTokenizer.from_pretrained(
        str(write_folder(scratch / f"{name}.twin", name, base, unspelled))
    )
    found = []
    for case in cases(name):
        messages = [{"role": "system", "content": case["system"]}] if case["system"] else []
        messages.append({"role": "user", "content": case["text"]})
        made = {"add_generation_prompt": True, "return_dict": False, **case["variables"]}
        ids = twin.apply_chat_template(messages, **made)
        if not case["hostile"]:
            assert plain.apply_chat_template(messages, **made) == ids, (name, case)
        found.append({**case, "ids": list(ids)})
    return found


def main() -> None:
    import tempfile

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokenizer", action="store_true", help="train tokenizer.json again")
    parser.add_argument("--base", type=Path, default=FOLDER, help="a folder with another tokenizer.json")
    parser.add_argument("--to", type=Path, default=FOLDER / "vectors.json")
    parser.add_argument("--check", type=Path, help="a file of vectors to compare ours with")
    asked = parser.parse_args()
    if asked.tokenizer:
        train(FOLDER / "tokenizer.json")
        return
    if asked.check:
        check(asked.base, json.loads(asked.check.read_text(encoding="utf-8")))
        return
    with tempfile.TemporaryDirectory() as scratch:
        found = {name: reference(name, asked.base, Path(scratch)) for name in TEMPLATES}
    lines = [f"{json.dumps(name)}: [\n" + ",\n".join(map(json.dumps, found[name])) + "\n]" for name in found]
    asked.to.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
    print({name: len(some) for name, some in found.items()})


def check(base: Path, found: dict[str, list[dict]]) -> None:
    """Prints how many of the ids of a file of vectors are ours."""
    import tempfile

    from masksearch_jax.text.chat_template import open_chat_template
    from masksearch_jax.text.published_tokenizer import PublishedTokenizer

    with tempfile.TemporaryDirectory() as scratch:
        for name, some in found.items():
            tok = PublishedTokenizer(write_folder(Path(scratch) / name, name, base))
            made = [open_chat_template(tok, "auto", one["system"], one["variables"]) for one in some]
            equal = sum(
                template.encode(tok, one["text"]) == one["ids"] for template, one in zip(made, some, strict=True)
            )
            print(f"{name}: {equal} of {len(some)} equal, {sum(len(one['ids']) for one in some)} ids")


def train(file: Path) -> None:
    """A small byte-level tokenizer with the pre-tokenizer of SmolLM2."""
    import sys

    from tokenizers import decoders, models, pre_tokenizers, trainers

    sys.path.insert(0, str(Path(__file__).parents[1]))
    import tiny_published

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Digits(individual_digits=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False),
    ])
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=416, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    made.train_from_iterator(tiny_published.TEXTS, trainer)
    made.save(str(file))


if __name__ == "__main__":
    main()
