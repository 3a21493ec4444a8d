"""Settings are judged before any work: every setting with bad values, and what settings mean together."""

import math

import pytest
from ml_collections import ConfigDict
from test_configs import PAGES, load

from masksearch_jax.workflows import training
from masksearch_jax.workflows.settings import leaves, validate_settings, validate_shapes

KIND = {"prepare": "prepare", "serve_search": "serve_search", "serve": "serve"}
BAD_ITEMS = ((), ("no such thing",), (-5,), (math.nan,), (True,), 3)
# Any string may name a file, a folder, a server or a prompt: it is looked for where it is opened.
ANY_STRING = {
    "pretrained", "start", "adapters", "distributed.coordinator", "search.url", "llm.url", "llm.model", "topology",
    "synthesize.official.file", "prepare.dump", "prepare.perplexity.start", "prepare.splits", "prepare.tokenizer_dir",
    "prepare.tasks.instruction", "prepare.tasks.question_instruction", "prepare.tasks.system", "prepare.questions",
    "prepare.newer_dump", "prepare.search_only", "prepare.beam.index", "prepare.beam.folder",
    "prepare.retrieval.encoder_dir", "host", "prepare.corpus.title", "prepare.corpus.text", "benchmarks.custom",
    "wandb.project", "wandb.name", "name", "search_url",
}  # fmt: skip


def bad_values(name, value):
    """Values that cannot work, by the kind of the setting's own."""
    if isinstance(value, bool):
        return ["yes", None]
    if isinstance(value, int | float):
        bad = [-5, math.nan, True if isinstance(value, int) else math.inf]  # a float setting makes True 1.0
        return bad if name != "mesh.data" else [*bad, 0]
    if isinstance(value, str):
        # What a name allows is no one's business here: see ANY_STRING.
        free = name in ANY_STRING or name.startswith(("prepare.llm.url", "prepare.llm.model", "prepare.benchmarks."))
        return [3, *([] if free else ["no such thing"])]
    may_be_empty = (
        "rollout.context_lengths", "model.local_layers", "beam.options", "filters.benchmarks", "llm.omit",
        "chat_variables", "prepare.indices", "tools.more", "reward.weights",
    )  # fmt: skip
    texts = ("beam.options", "filters.benchmarks", "grid.columns")
    return [
        bad for bad in BAD_ITEMS
        if not (bad == () and name.endswith((*may_be_empty, "grid.columns")))
        and not (bad == ("no such thing",) and (name.endswith(texts) or name == "indices"))
    ]  # fmt: skip


def put(config, name, value):
    *path, last = name.split(".")
    with config.ignore_type(), config.unlocked():
        for part in path:
            config = config[part]
        del config[last]  # else an integer that follows NaN becomes a float
        config[last] = value


@pytest.mark.parametrize("page, arg", [(page, arg) for page, args in PAGES.items() for arg in args])
def test_every_config_passes_its_own_check(page, arg):
    validate_settings(load(page, arg), KIND.get(page, "train"))


def test_every_setting_refuses_what_cannot_work_by_name():
    """Through the check of `train`, with nothing on disk; of the other commands through theirs."""
    accepted, unnamed = [], []
    pages = [("dapo", "", training.validate_training), ("dapo", "llama3.2-1b", training.validate_training)]
    pages += [(page, "", lambda cfg, kind=kind: validate_settings(cfg, kind)) for page, kind in KIND.items()]
    pages += [(page, "", validate_settings) for page in ("evaluate", "evolve", "quickstart", "table2")]
    done = set()
    for page, arg, check in pages:
        config = load(page, arg)
        if arg:
            config.prepare.tasks.update({"chat": "", "system": ""})  # a recipe's need the folder of a published model
        for name, value in list(leaves(config)):
            full = f"prepare.{name}" if page == "prepare" else name
            if (page in KIND, name) in done or name.startswith(("stages.", "grid.methods", "grid.groups")):
                continue
            done.add((page in KIND, name))
            for bad in bad_values(full, value):
                put(config, name, bad)
                try:
                    check(config)
                    accepted.append((page, name, bad))
                except ValueError as error:
                    if name not in str(error):
                        unnamed.append((name, bad, str(error)))
                put(config, name, value)
    assert not accepted and not unnamed


@pytest.mark.parametrize(
    "change, message",
    [
        ({"sft.log_every": 0}, "sft.log_every=0: it has to be a whole number of at least 1"),
        ({"sft.checkpoint_every": 0}, "sft.checkpoint_every=0"),
        ({"dapo.checkpoint_every": 0}, "dapo.checkpoint_every=0"),
        ({"dapo.row_lengths": (128,)}, "an episode may have episode.total_tokens=256"),
        ({"dapo.groups": 97}, "dapo.groups=97: a rollout batch has at most 96"),
        ({"dapo.rows": 1}, "are fewer than the 32 rows that a mini-batch may need"),
        ({"dapo.minibatches": 200}, "dapo.minibatches=200"),
        (
            {"dapo.curriculum": ((None, (("ramp_1", 1.0),)), (5, (("ramp_1", 1.0),)))},
            "dapo.curriculum=.*only the last phase",
        ),
        ({"dapo.curriculum": ((None, (("ramp_7", 1.0),)),)}, "task 'ramp_7' is none of"),
        ({"sft.curriculum": ((None, (("ramp_1", "much"),)),)}, "the weight 'much' of task ramp_1"),
        ({"sft.curriculum": ((None, (("qa", 1.0),)),)}, "draws from qa, of which synthesize.examples asks for no"),
        ({"synthesize.examples.ramp_3": 0}, "draws from ramp_3, of which .*set synthesize.examples.ramp_3 above 0"),
        ({"sft.micro_batches": 3}, "sft.rows=10 does not divide by sft.micro_batches=3"),
        ({"sft.optimizer.warmup": 2000}, "optimizer.total_steps = 1400"),
        ({"prepare.shares.test": 0.9}, "prepare.shares=.* add up to 1"),
        ({"prepare.passages.minimum": 101}, "prepare.passages.minimum=101"),
        ({"synthesize.styles.passage": 0.9}, "synthesize.styles=.* add up to 1"),
        ({"synthesize.evidence_match": 3}, "synthesize.evidence_match=3"),
        ({"prepare.tasks.system": "Say {clues}."}, "prepare.tasks.system=.*: a system message has no masks"),
        ({"prepare.tasks.question_instruction": "Fill in {clues}. [mask]"}, "question_instruction=.*before them"),
        ({"prepare.tasks.instruction": "clues"}, "sft.augment=True renames a passage's names and not"),
        ({"distributed.process_id": 1}, "distributed.process_id=1 with distributed.processes=1"),
        ({"dapo.rollback.after": 10}, "dapo.rollback.after=10 with dapo.max_without_update=10"),
        ({"alarms.entropy.action": "rollback"}, "alarms.entropy.action='rollback' with dapo.rollback.after=0"),
        ({"alarms.loss.action": "rollback"}, "alarms.loss.action='rollback' with sft.rollback.after=0"),
        ({"model.kv_heads": 2, "model.heads": 3}, "model.kv_heads = 2 does not divide"),
    ],
)  # fmt: skip
def test_what_settings_mean_together_is_judged_before_any_work(tmp_path, change, message):
    config = load("dapo")
    for name, value in change.items():
        put(config, name, value)
    with pytest.raises(ValueError, match=message):
        training.run(config, tmp_path)
    assert not list(tmp_path.iterdir())


def test_what_does_not_divide_over_the_devices_is_judged_before_any_work(tmp_path):
    for name, value, message in (("rollout.slots", 63, "rollout.slots=63"), ("dapo.rows", 6, "dapo.rows=6")):
        config = load("dapo")
        config.mesh.data, config.mesh.fsdp = 4, 2
        config.dapo.rows, config.dapo.micro_batches, config.sft.rows = 8, (4, 8), 16
        put(config, name, value)
        with pytest.raises(ValueError, match=message):
            training.run(config, tmp_path)
    assert not list(tmp_path.iterdir())


def test_evaluation_off_is_a_choice():
    config = load("dapo")
    config.sft.eval_every = config.dapo.eval_every = 0
    training.validate_training(config)


@pytest.mark.parametrize("key", ["sk-proj-Zq8_x7", "hf_abcDEF123", "abcdef0123456789", "A" * 48])
def test_a_key_in_the_place_of_its_variable_is_never_shown(key, monkeypatch):
    config = load("dapo")
    for section in (config.llm, config.prepare.llm):
        section.key_variable = key
        with pytest.raises(ValueError, match="llm.key_variable.*never the key itself") as raised:
            validate_settings(config)
        assert key not in str(raised.value) and key not in repr(raised.value.__context__)
        section.key_variable = "OPENAI_API_KEY"
    monkeypatch.setenv("my_key", "secret")
    config.llm.key_variable = "my_key"
    validate_settings(config)


def test_a_setting_that_is_new_has_a_range_by_its_kind():
    config = load("dapo")
    with config.unlocked():
        config.sft.update(ConfigDict({"new_count": 3, "new_names": ("a",)}))
    validate_settings(config)
    for name, bad in (("sft.new_count", -1), ("sft.new_names", (1,))):
        put(config, name, bad)
        with pytest.raises(ValueError, match=name):
            validate_settings(config)
        put(config, name, {"sft.new_count": 3, "sft.new_names": ("a",)}[name])
    sft = load("sft")
    sft.mesh.data = 1
    validate_shapes(sft, training.RunContext(sft, None).mesh)
