"""Data for everything else: a dump in, passages, RAMP tasks, tokenizer and search indices out, all in W/data.

Command:  python -m masksearch_jax.prepare --config=configs/prepare.py --workdir=W
          python -m masksearch_jax.prepare --config=configs/prepare.py --config.dump=FILE --workdir=W
          python -m masksearch_jax.prepare --config=configs/prepare.py:wikipedia --config.dump=FILE --workdir=W
              --config.questions=FILE --config.benchmarks.musique=FILE ..          docs/benchmarks.md
Hardware: two CPU cores. CPU-seconds: 32 for the toy (made first where no dump is given), 55 for 6 MB of wikitext.
Expect:   W/data with manifest.json and report.json; the toy of 3000 articles: 3000 passages of 40 tokens on average,
          365 newer ones, a vocabulary of 1362, and 1800 training examples of one mask in each of four epochs.
"""

from ml_collections import ConfigDict


def get_config(arg: str = ""):
    """arg: '' for the toy or a slice, 'wikipedia' for a whole dump."""
    if arg not in ("", "wikipedia"):
        raise ValueError(f"configs/prepare.py takes no argument or 'wikipedia', got {arg!r}")
    whole = arg == "wikipedia"
    config = ConfigDict()
    # Or a MediaWiki export: .xml, .xml.bz2, .xml.gz; or a benchmark's corpus: .json, .json.gz. Several with commas
    # between, or by a pattern ('dumps/enwiki-*-pages-articles*.bz2'), are read one after the other.
    config.dump = "toy"
    config.entities = 3000  # articles of the toy
    config.annals = 0.0  # share of the toy's facts that articles about neither end state as well
    config.seed = 0  # of the toy, the splits, the masks
    config.skip_bad = False  # go on past damaged pages, counting them
    config.overwrite = False  # replace data that other settings made
    # --- salient spans: rules, hard, or llm (asks the model below; docs/agents.md) ---
    config.spans = "rules"
    # hard: of the rules' spans the share that this checkpoint (runs/dapo/sft, or a published one) finds hardest.
    config.hard = ConfigDict({"start": "", "share": 0.5})
    config.llm = llm()
    # Masks only what another passage states too: for a corpus of thousands of passages, where most facts stand once.
    config.elsewhere = False
    # --- splits by article ---
    config.splits = ""  # JSON {title: split}; '' for the toy's own, or a hash of the title
    config.shares = shares(0.98, 0.01, 0.01) if whole else shares(0.6, 0.1, 0.3)
    # --- passages, words ---
    config.passages = ConfigDict({"words": 100, "minimum": 40})
    # --- tokenizer of a published model, from its folder; '' trains one by what follows ---
    config.tokenizer_dir = ""
    # --- tokenizer: byte-fallback BPE, trained on the train split ---
    config.tokenizer = ConfigDict({
        "vocab_size": 32_768 if whole else 0,  # 0: 1362 for the toy, 4096 for a dump
        "max_texts": 1_000_000 if whole else 0,  # 0: all
        "character_coverage": 0.9995 if whole else 1.0,
        "digit_pairs": True,  # '1823' is '18' '23'; else digit by digit
        "added_tags": False,  # with tokenizer_dir: our tags are added tokens, whose embeddings SFT trains
    })
    # --- training passages that give no tasks; all stay in the search indices (docs/data.md) ---
    config.filters = ConfigDict({
        "near_duplicate": 0.0,  # estimated similarity from which a passage is a copy, 0.8 for instance; 0: none is
        "benchmarks": (),  # e.g. ("hotpotqa=hotpot_dev_distractor_v1.json",): by titles, and by words of questions
        "ngram": 13,  # so many words in a row, shared with a question, are contamination
    })
    # --- SeqIO tasks ---
    config.tasks = ConfigDict({
        "epochs": 4,  # re-masked sets of the train split
        "eval_epochs": 1,  # of the others
        "answer_form": "spans",  # spans | paragraph (the official form)
        # What masked passages and questions ask for: '' for a policy from scratch; default (task, tags and answers, for
        # an instruct model); short (the task alone, beside system=default); or a text of your own.
        "instruction": "",
        "question_instruction": "",
        "instruction_place": "after",  # the passage or question | before it
        # The title before a masked passage: of one from the middle of an article nobody can tell what it is about.
        "titles": False,
        # Around the prompts, with tokenizer_dir: '' (base models) | auto (the chat template that the folder holds; an
        # error without one) | a file FILE.jinja in its place
        "chat": "",
        "system": "",  # message of the chat template; '' for the template's own; default (tags and answers); or a text
        "chat_variables": (),  # values for the template, e.g. ("enable_thinking=False",) of Qwen3
        # How likely a span is to be masked, by kind; 0 leaves a kind alone.
        "span_weights": ConfigDict({
            "link": 1.0, "date": 1.0, "number": 1.0, "name": 1.0, "category": 1.0, "rare": 1.0,
        }),
    })  # fmt: skip
    config.questions = ""  # file of the HotpotQA format; '' for the toy's own, or none
    # --- benchmarks: official files (docs/benchmarks.md); all of their questions are test questions ---
    config.benchmarks = ConfigDict({
        "hotpotqa": "", "fanoutqa": "", "musique": "", "two_wiki": "", "bamboogle": "", "freshqa": "",  # the paper's
        "nq": "", "triviaqa": "", "popqa": "",  # Search-R1's others
    })  # fmt: skip
    config.toy_benchmarks = 100  # with the toy: questions in its own edition of each of the paper's six; 0 for none
    config.lookups = False  # tasks that teach the search tool and nothing of masks or questions (prep/lookups.py)
    # Files like those of `dump` whose articles are searched (in the index `all`) and never masked, demonstrated or used
    # for a tokenizer; the dump's own articles of the same titles are left out. For the articles of a benchmark.
    config.search_only = ""
    config.newer_dump = ""  # a later export: its articles replace the old ones in the index `fresh`, for FreshQA
    # --- what training may permute among itself ---
    # parts: names of whole words and of parts of words, as real ones are, instead of words that are nothing else.
    config.augment = ConfigDict({"names": True, "digits": True, "months": True, "parts": False})
    # --- who does the long stages: this process, or Apache Beam by shards of the dump (docs/data.md) ---
    config.beam = ConfigDict({
        "runner": "",  # '' for this process | DirectRunner | DataflowRunner
        "options": (),  # of Beam and its runner, e.g. ("--direct_num_workers=2",)
        "shard_mb": 64.0,  # of the dump, decompressed; compressed where `index` is given
        "index": "",  # of a multistream dump: its -multistream-index.txt.bz2; of several dumps one each, with commas
        "folder": "",  # where shards wait, gs:// for Dataflow; '' for W/data.shards
    })
    # --- search indices: train | validation (train and validation) | all ---
    config.indices = ("train", "validation", "all")
    config.retrieval = ConfigDict({
        "encoder": "lexical",  # lexical | bert
        "encoder_dir": "",  # safetensors checkpoint for bert
        "encoder_dtype": "float32",  # float32 | bfloat16, of bert
        "encoder_devices": "cpu",  # of bert's passages: cpu | local (all of JAX's default platform, a TPU's chips)
        "dims": 4096,  # of the lexical encoder; fewer blur single words (README, "Search")
        "index": "auto",  # auto | exact | scann
        # 0: chosen from the number of passages; leaves_to_search and reorder by trial, on words of the passages.
        "scann": ConfigDict({
            "method": "auto",  # brute_force | hashing | tree
            "leaves": 0,
            "leaves_to_search": 0,
            "reorder": 0,  # candidates scored a second time, from `reordering`
            "dims_per_block": 2,
            "anisotropic_threshold": 0.2,
            "training_sample": 250_000,
            "soar": 1.5,  # 0: each passage in one leaf only
            "reordering": "int8",  # float32 | bfloat16 | int8
            "shard_size": 1_000_000,  # passages to one ScaNN index: bounds the memory of a build
        }),
        "hybrid": False,  # rank by BM25 as well, and fuse (docs/search.md)
        "recall_floor": 0.95,
        "near_duplicate": 0.5,
        "exclusion": "passage",  # none | passage | article
    })
    return config


def llm() -> ConfigDict:
    """A language model and how it is asked; docs/agents.md."""
    return ConfigDict({
        # An OpenAI-compatible server, up to and with /v1, and the model's name there. With url '', model is a folder on
        # this machine: a trained stage (runs/dapo/dapo) or a published checkpoint.
        "url": "",
        "model": "",
        "key_variable": "",  # environment variable that holds the key; '' for servers that ask for none
        "json_mode": False,  # asks the server to restrict replies to JSON, where it can
        "limit_field": "max_tokens",  # or max_completion_tokens, as newer models of OpenAI want it
        # What is left out of each request, for servers that refuse it: of "temperature", "seed", "max_tokens".
        "omit": (),
        # Of a published folder: auto (the chat template that it holds; an error without one) | a file FILE.jinja | ''
        # (base models).
        "chat": "auto",
        "chat_variables": (),  # values for the template, e.g. ("enable_thinking=False",) of Qwen3
        "total_tokens": 2048,  # of a folder: a prompt and its reply
        "temperature": 0.0,
        "max_tokens": 512,  # of a reply
        "timeout_s": 120.0,
        "retries": 5,
        "concurrency": 8,  # requests at a time
        "requests_per_minute": 0,  # 0: no limit
        "tokens_per_minute": 0,
        "prompt_price": 0.0,  # of a million tokens, in the unit of the budget
        "completion_price": 0.0,
        "budget": 0.0,  # 0: none; counts what W/llm.sqlite, the cache of replies, says was spent
    })


def shares(train: float, validation: float, test: float) -> ConfigDict:
    return ConfigDict({"train": train, "validation": validation, "test": test})
