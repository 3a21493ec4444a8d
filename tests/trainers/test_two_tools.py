"""Search and visit in one episode, and a reward of one's own, from the demonstrations to a checkpoint of DAPO."""

import pytest

from masksearch_jax.data import records
from masksearch_jax.runtime import metrics
from masksearch_jax.runtime.checkpoints import Checkpointer
from masksearch_jax.text import tokenizer as tokenizer_lib
from masksearch_jax.workflows import synthesis_stage, training
from masksearch_jax.workflows.context import RunContext

REWARD = "def score(task, trajectory, spans):\n    return {'calls': sum(trajectory.calls.values())}\n"


@pytest.mark.slow
def test_visits_are_taught_sampled_and_rewarded(cfg, workdir):
    # A search shows three words of an article of ten, so that the answer stands where a visit alone shows it.
    cfg.tools.update({"visit": "article", "snippet_words": 3})
    cfg.episode.update({"turns": 4, "turn_tokens": 32, "observation_tokens": 32, "total_tokens": 160})
    cfg.synthesize.styles.update({"title": 1.0, "passage": 0.0, "associated": 0.0})
    cfg.synthesize.examples.update({"ramp_1": 20, "ramp_2": 0})
    cfg.sft.curriculum = cfg.dapo.curriculum = ((None, (("ramp_1", 1.0),)),)
    cfg.sft.update({"steps": 2, "checkpoint_every": 2})
    cfg.sft.optimizer.update({"warmup": 1, "total_steps": 2})
    cfg.dapo.update({"iterations": 1, "prompts": 2, "group_size": 2, "groups": 2, "max_generations": 1})
    cfg.dapo.update({"dynamic_sampling": False, "minibatches": 1, "checkpoint_every": 1})
    file = workdir / "my_reward.py"
    file.write_text(REWARD)
    cfg.dapo.reward.update({"file": f"{file}:score", "weights": ("calls=0.5",)})
    context = RunContext(cfg, workdir)
    made = synthesis_stage.run(cfg, workdir, context.searcher("train"))
    assert made["settings"]["tools"]["visit"] == "article"
    tokenizer = tokenizer_lib.load(workdir / "data")
    texts = [
        tokenizer.decode(one.ids)
        for one in records.read(workdir / "demonstrations" / "ramp_1.array_record", records.Demonstration)
    ]
    visits = [text for text in texts if "</visit><information>" in text]
    # Where the title of the article is the answer, the search alone has shown it.
    assert len(visits) > 5 and all(" ..</information>" in text and "<search>" in text for text in texts)
    training.train_dapo(context, training.train_sft(context))
    (row,) = metrics.read_rows(workdir / "dapo" / "metrics.jsonl")
    assert "reward_own/calls" in row and row["search/visit/queries"] > 0
    meta = Checkpointer(workdir / "dapo" / "checkpoints", read_only=True).meta()
    assert len(meta["identity"]["reward"]) == 64
    file.write_text(REWARD.replace("sum", "max"))
    cfg.dapo.iterations = 2
    with pytest.raises(ValueError, match="reward: [0-9a-f]{64} there, [0-9a-f]{64} here"):
        training.train_dapo(RunContext(cfg, workdir), context.initial())
