"""Data preparation: from a dump to passages, RAMP tasks, a tokenizer and search indices, all in W/data.

Command:  python -m masksearch_jax.prepare --config=configs/prepare.py --workdir=W
          python -m masksearch_jax.prepare --config=configs/prepare.py --config.dump=FILE --workdir=W
          python -m masksearch_jax.prepare --config=configs/dapo.py:qwen2.5-1.5b --config.pretrained=HF_FOLDER
              --config.prepare.dump=FILE --workdir=W          the section `prepare` of a config that trains
          python -m masksearch_jax.prepare --config=configs/prepare.py:wikipedia --config.dump=FILE --workdir=W
              --config.questions=FILE --config.benchmarks.musique=FILE ..          docs/guides/benchmarks.md
Hardware: two CPU cores. CPU-seconds: 32 for the toy (which is generated if no dump is given), 55 for 6 MB of wikitext.
Expect:   W/data with manifest.json and report.json. The toy of 3000 articles gives 3000 passages of 40 tokens on
          average, 365 newer ones, a vocabulary of 1362, and 1800 training examples of one mask in each of four epochs.
"""

from ml_collections import ConfigDict


def get_config(arg: str = ""):
    """Return the config. arg: '' for the toy or a file of articles, 'wikipedia' for a whole dump."""
    if arg not in ("", "wikipedia"):
        raise ValueError(f"configs/prepare.py takes no argument or 'wikipedia', got {arg!r}")
    whole = arg == "wikipedia"
    config = ConfigDict()
    # 'toy', or a MediaWiki export (.xml, .xml.bz2, .xml.gz), or a corpus (.json, .jsonl, both also with .gz, .parquet,
    # .txt, .md; docs/data_formats.md). Several files, separated by commas or given by a pattern
    # ('dumps/enwiki-*-pages-articles*.bz2') or a folder, are read one after the other.
    config.dump = "toy"
    # Fields of a corpus's rows that hold the title and the text; '' for title, and for text or contents.
    config.corpus = ConfigDict({"title": "", "text": ""})
    config.entities = 3000  # articles of the toy
    # Share of the toy's facts that articles about neither of the fact's two entities state as well.
    config.corroborating_articles = 0.0
    config.seed = 0  # of the toy, the splits and the masks
    config.skip_bad = False  # skip damaged pages of an export or rows of a corpus, and count them
    config.overwrite = False  # replace data that was made with other settings
    # --- salient spans: rules, perplexity, or llm (asks the model below; docs/guides/agents.md) ---
    config.spans = "rules"
    # For spans="perplexity": the share of the rules' spans to keep, those with the highest perplexity under the
    # checkpoint `start` (runs/dapo/sft, or a published one).
    config.perplexity = ConfigDict({"start": "", "share": 0.5})
    config.llm = llm()
    # Mask only spans that another passage corroborates. For a corpus of thousands of passages, which states most facts
    # only once.
    config.corroborated = False
    # --- splits by article ---
    config.splits = ""  # JSON {title: split}; '' for the toy's own, or a hash of the title
    # Shares of the articles, which add up to 1. With `splits`, the file decides.
    config.shares = shares(0.98, 0.01, 0.01) if whole else shares(0.6, 0.1, 0.3)
    # --- passages; lengths in words ---
    config.passages = ConfigDict({"words": 100, "minimum": 40})
    # --- tokenizer of a published model, from its folder; '' trains one with the settings that follow ---
    config.tokenizer_dir = ""
    # --- tokenizer: byte-fallback BPE, trained on the train split ---
    config.tokenizer = ConfigDict({
        "vocab_size": 32_768 if whole else 0,  # 0: 1362 for the toy, 4096 for a dump
        "max_texts": 1_000_000 if whole else 0,  # 0: all
        "character_coverage": 0.9995 if whole else 1.0,
        "digit_pairs": True,  # True: '1823' is '18' '23'; False: one token per digit
        "added_tags": False,  # with tokenizer_dir: add our tags as tokens, whose embeddings SFT trains
    })
    # --- training passages that give no tasks; they stay in the search indices (docs/guides/preparation.md) ---
    config.filters = ConfigDict({
        "near_duplicate": 0.0,  # estimated similarity from which a passage counts as a copy, such as 0.8; 0: off
        # Benchmark files, e.g. ("hotpotqa=hotpot_dev_distractor_v1.json",). Passages are matched by article title, and
        # by n-grams of the questions.
        "benchmarks": (),
        "ngram": 13,  # a passage that shares this many words in a row with a question is contaminated
    })
    # --- SeqIO tasks ---
    config.tasks = ConfigDict({
        "epochs": 4,  # sets of tasks for the train split, each masked anew
        "eval_epochs": 1,  # the same for the other splits
        "answer_form": "spans",  # spans | paragraph (the official form)
        # Instruction in the prompts of masked passages and of questions: '' for a policy from scratch; default (task,
        # tags and answers, for an instruct model); short (the task alone, to go with system=default); clues (the task
        # with the words around each mask); or a text of your own.
        "instruction": "",
        "question_instruction": "",  # the same for questions
        "instruction_place": "after",  # after | before the passage or question
        # Put the title before a masked passage. Without it, nobody can tell what a passage from the middle of an
        # article is about.
        "titles": False,
        # Chat template around the prompts, with tokenizer_dir: '' (none, for base models) | auto (the one that the
        # folder holds; an error if it has none) | a file FILE.jinja, which replaces it
        "chat": "",
        "system": "",  # system message; '' for the template's own; default (tags and answers); or a text
        "chat_variables": (),  # values for the template, e.g. ("enable_thinking=False",) for Qwen3
        # Weight of a span in the draw of masks, by kind; 0: never masked.
        "span_weights": ConfigDict({
            "link": 1.0, "date": 1.0, "number": 1.0, "name": 1.0, "category": 1.0, "rare": 1.0,
        }),
    })  # fmt: skip
    # File of questions to train on, in any form of docs/data_formats.md; '' for the toy's own, or none.
    config.questions = ""
    # --- benchmarks: official files (docs/guides/benchmarks.md); all of their questions are test questions ---
    config.benchmarks = ConfigDict({
        "hotpotqa": "", "fanoutqa": "", "musique": "", "two_wiki": "", "bamboogle": "", "freshqa": "",  # the paper's
        "nq": "", "triviaqa": "", "popqa": "",  # Search-R1's others
    })  # fmt: skip
    config.toy_benchmarks = 100  # questions in the toy's own version of each of the paper's six benchmarks; 0: none
    # True: tool warm-up tasks, which teach the tags and the search tool alone (prep/tasks/tool_warmup.py)
    config.tool_warmup = False
    # Files in the formats of `dump`, for the articles of a benchmark. They are searched (in the index `all`), but never
    # masked, demonstrated or used to train the tokenizer. Articles of the dump with the same titles are left out.
    config.search_only = ""
    config.newer_dump = ""  # a later export: its articles replace the old ones in the index `fresh`, for FreshQA
    # --- groups of tokens that training may permute among themselves ---
    # parts: take words and parts of words that are mostly seen in capitalised words, as in real names; otherwise only
    # whole words that are seen in names and nowhere else.
    config.augment = ConfigDict({"names": True, "digits": True, "months": True, "parts": False})
    # --- long stages: in this process, or by Apache Beam over shards of the dump (docs/guides/preparation.md) ---
    config.beam = ConfigDict({
        "runner": "",  # '' for this process | DirectRunner | DataflowRunner
        "options": (),  # of Beam and its runner, e.g. ("--direct_num_workers=2",)
        "shard_mb": 64.0,  # size of a shard of the dump, decompressed; compressed if `index` is given
        "index": "",  # -multistream-index.txt.bz2 of a multistream dump; for several dumps one each, with commas
        "folder": "",  # where shards are kept, gs:// for Dataflow; '' for W/data.shards
    })
    # --- search indices: train | validation (train and validation) | all; () for none, where a server is searched ---
    config.indices = ("train", "validation", "all")
    config.retrieval = ConfigDict({
        "encoder": "lexical",  # lexical | bert
        "encoder_dir": "",  # safetensors checkpoint for bert
        "encoder_dtype": "float32",  # of bert: float32 | bfloat16
        # Where bert encodes passages: cpu | local (all devices of JAX's default platform, such as a TPU's chips).
        "encoder_devices": "cpu",
        "dims": 4096,  # of the lexical encoder; with fewer, single words blur together (docs/guides/search.md)
        "index": "auto",  # auto | exact | scann
        # 0: chosen from the number of passages; leaves_to_search and reorder are tuned on words of the passages.
        "scann": ConfigDict({
            "method": "auto",  # brute_force | hashing | tree
            "leaves": 0,
            "leaves_to_search": 0,
            "reorder": 0,  # candidates that are scored again, with vectors kept as `reordering` says
            "dims_per_block": 2,
            "anisotropic_threshold": 0.2,
            "training_sample": 250_000,
            "soar": 1.5,  # 0: each passage is in one leaf only
            "reordering": "int8",  # float32 | bfloat16 | int8
            "shard_size": 1_000_000,  # passages per ScaNN index; bounds the memory of a build
        }),
        "hybrid": False,  # also rank by BM25, and fuse both rankings (docs/guides/search.md)
        "recall_floor": 0.95,
        "near_duplicate": 0.5,
        # none | passage | article: what the tuning of the index excludes; a run has search.exclusion.
        "exclusion": "passage",
    })
    return config


def llm() -> ConfigDict:
    """Return the settings of a language model and of how it is asked; docs/guides/agents.md."""
    return ConfigDict({
        "url": "",  # an OpenAI-compatible server, up to and including /v1
        # The model's name on the server. With url '': a folder on this machine, of a trained stage (runs/dapo/dapo)
        # or of a published checkpoint.
        "model": "",
        "key_variable": "",  # environment variable that holds the key; '' for servers that need none
        "json_mode": False,  # ask the server to restrict replies to JSON, if it can
        "limit_field": "max_tokens",  # or max_completion_tokens, which newer models of OpenAI expect
        # Fields to leave out of each request, for servers that refuse them: "temperature", "seed", "max_tokens".
        "omit": (),
        # Chat template for a published folder: auto (the one that it holds; an error if it has none) | a file
        # FILE.jinja | '' (base models).
        "chat": "auto",
        "chat_variables": (),  # values for the template, e.g. ("enable_thinking=False",) for Qwen3
        "total_tokens": 2048,  # for a folder: limit of a prompt and its reply together
        "temperature": 0.0,  # of its replies
        "max_tokens": 512,  # of a reply
        "timeout_s": 120.0,  # of a request
        "retries": 5,  # of a request that failed for a passing reason
        "concurrency": 8,  # requests at a time
        "requests_per_minute": 0,  # 0: no limit
        "tokens_per_minute": 0,  # 0: no limit
        "prompt_price": 0.0,  # price of a million tokens, in the unit of the budget
        "completion_price": 0.0,  # the same for the tokens of replies
        "budget": 0.0,  # 0: none; spending is counted in W/llm.sqlite, the cache of replies
    })


def shares(train: float, validation: float, test: float) -> ConfigDict:
    return ConfigDict({"train": train, "validation": validation, "test": test})
