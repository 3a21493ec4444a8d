import numpy as np

from masksearch_jax.model import flops
from masksearch_jax.model.config import ModelConfig
from masksearch_jax.rollout import sampling_flops
from masksearch_jax.rollout.trajectory import StopReason, Trajectory

CFG = ModelConfig(vocab_size=64, layers=2, embed=8, heads=2, kv_heads=1, head_dim=4, ff=16)


def one(length: int, prompt_length: int, written: int) -> Trajectory:
    trainable = np.arange(length) >= length - written
    return Trajectory(
        task_id="a", group=0, sample=0, ids=np.arange(length, dtype=np.int32), trainable=trainable,
        logprobs=np.zeros(length, np.float32), versions=np.zeros(length, np.int32), prompt_length=prompt_length,
        turns=(), stop=StopReason.ANSWER, answer="",
    )  # fmt: skip


def test_a_shared_prompt_passes_once_and_the_last_token_never():
    prompts = [np.arange(5), np.arange(5), np.arange(5)]
    found = sampling_flops.of_run(CFG, [7, 7, 8], prompts, [one(9, 5, 3), one(7, 5, 2), one(6, 5, 1)], [])
    # Two prefills of 4 tokens; then tokens 5 to 8, 5 to 6, and 5, each seeing itself and all before it.
    tokens = 2 * 4 + 4 + 2 + 1
    pairs = 2 * (1 + 2 + 3 + 4) + (5 + 6 + 7 + 8) + (5 + 6) + 5
    assert found == flops.forward(CFG, flops.Load(tokens, pairs, 0, 3 + 2 + 1))


def test_copied_tokens_do_not_pass():
    prompts, trajectories = [np.arange(5), np.arange(5)], [one(9, 5, 3), one(9, 5, 3)]
    copied = [(4, 6), (4, 7)]
    apart = sampling_flops.of_run(CFG, [7, 7], prompts, trajectories, [])
    found = sampling_flops.of_run(CFG, [7, 7], prompts, trajectories, copied)
    assert apart - found == flops.forward(CFG, flops.Load(2 + 3, (5 + 6) + (5 + 6 + 7)))
