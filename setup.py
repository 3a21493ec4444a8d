"""Packages and dependencies. Install with the tested versions: pip install -c launch/constraints.txt -e '.[all]'

The base trains, rolls out and evaluates, and holds no TensorFlow. Lower bounds say what the code
needs; launch/constraints.txt pins what was tested, and its head says why.
"""

from setuptools import find_packages, setup

BASE = [
    "absl-py",
    "array_record>=0.8.1",
    "flax>=0.12.8",
    "grain>=0.2.18",
    "huggingface_hub>=1.0",
    "jax>=0.10.2",
    "jinja2>=3.1.6",
    "ml_collections>=1.1.0",
    "msgpack>=1.1",
    "numpy>=2.0",
    "optax>=0.2.8",
    "orbax-checkpoint>=0.12.8",
    "rich>=14",
    "safetensors>=0.5",
    "sentencepiece>=0.2.1",
    "tokenizers>=0.21",
]
# Writes the data: SeqIO tasks and TF Text. Runs as its own process.
PREP = ["seqio>=0.0.20", "tensorflow>=2.20,<2.21", "tensorflow-text>=2.20,<2.21"]
# scann 1.4.2 was built against TensorFlow 2.20: with a newer one installed its import dies. It has wheels for Linux
# alone; elsewhere `prepare.retrieval.index=auto` takes exact search.
RETRIEVAL = ["bm25s>=0.3.16", "scann>=1.4.2; sys_platform == 'linux'"]
# Search over HTTP: the server (masksearch_jax.serve_search) and its client (search.url). httpx2 is the generation of
# httpx that openai takes. retrieval/service/http_server.py derives from a class of uvicorn, hence the upper bound.
SERVICE = ["httptools>=0.9", "httpx2>=2.16", "starlette>=1.10", "uvicorn>=0.54,<0.55"]
# Tools of MCP servers (mcp:TOOL:SERVER in the settings of `tools`).
MCP = ["mcp>=2.3"]
# Asks OpenAI-compatible servers: agents, judge, span finder.
AGENTS = ["openai>=2.0"]
TENSORBOARD = ["tensorboardX>=2.6"]
# Sends metrics to Weights & Biases (wandb.project).
WANDB = ["wandb>=0.31"]
# Frozen weights in 8 or 4 bits under adapters (lora.base_quantisation).
QLORA = ["qwix>=0.1.8"]
# Reads files of llama.cpp (masksearch_jax.convert --from=FILE.gguf).
GGUF = ["gguf>=0.17"]
# Reads corpora and questions in parquet; preparation has it in any case, through TensorFlow Datasets.
PARQUET = ["pyarrow>=25"]
# Draws the plots of report.html, and serves the viewer of episodes.
REPORT = ["matplotlib>=3.10", "starlette>=1.10", "uvicorn>=0.54,<0.55"]
# Preparation by shards of a dump (configs/prepare.py, beam), in an environment of its own: see launch/constraints.txt.
# google-crc32c: Beam writes no TFRecord without it (seqio_cache_tasks).
BEAM = [*PREP, *RETRIEVAL, "apache-beam[gcp]>=2.77", "google-crc32c>=1.7"]
# The documentation as a site: launch/docs.sh.
DOCS = ["mkdocs-material>=9.7"]
# Evidence about the tests and the dependencies: benchmarks/coverage_gaps.py, benchmarks/mutation.py, launch/audit.sh.
EVIDENCE = ["cosmic-ray>=8.7", "coverage>=7.17", "pip-audit>=2.10"]
# hypothesis: inputs of the fuzz tests. mwparserfromhell: an independent reader of wikitext, for comparison. jsonschema,
# pyyaml: manifests of launch/gke.py against the published schema.
TEST = [
    "hypothesis>=6.150", "jsonschema>=4.20", "mwparserfromhell>=0.7", "mypy>=2.4", "pytest>=8", "pytest-xdist>=3.6",
    "pyyaml>=6", "ruff>=0.12",
    *AGENTS, *GGUF, *PARQUET, *REPORT, *SERVICE, *TENSORBOARD,
]  # fmt: skip

setup(
    name="masksearch_jax",
    version="0.1.0",
    description="MaskSearch (arXiv 2505.20285) on JAX and TPUs: RAMP data, SFT and DAPO with a live search tool",
    # configs/ stays at the top of the project; a wheel holds it as masksearch_jax.configs, never as `configs`.
    packages=[*find_packages(include=["masksearch_jax", "masksearch_jax.*"]), "masksearch_jax.configs"],
    package_dir={"masksearch_jax.configs": "configs"},
    package_data={
        "masksearch_jax": ["py.typed"],
        "masksearch_jax.evals.report": ["templates/*"],
        "masksearch_jax.viewer": ["static/*"],
    },
    entry_points={"console_scripts": ["masksearch=masksearch_jax.__main__:main"]},
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.11,<3.13",
    install_requires=BASE,
    extras_require={
        "prep": PREP,
        "retrieval": RETRIEVAL,
        "service": SERVICE,
        "agents": AGENTS,
        "mcp": MCP,
        "gguf": GGUF,
        "parquet": PARQUET,
        "report": REPORT,
        "beam": BEAM,
        "tensorboard": TENSORBOARD,
        "wandb": WANDB,
        "qlora": QLORA,
        "docs": DOCS,
        "evidence": EVIDENCE,
        "tpu": ["jax[tpu]>=0.10.2"],
        "cuda": ["jax[cuda12]>=0.10.2"],
        "test": TEST,
        # What launch/quickstart.sh and the commands of the README need on a CPU machine.
        "all": PREP + PARQUET + RETRIEVAL + SERVICE + REPORT + TENSORBOARD,
    },
)
