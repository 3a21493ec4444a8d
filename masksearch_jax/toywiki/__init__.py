"""A toy encyclopedia of invented people, places, works and companies, written as a genuine MediaWiki export.

`generate` writes the dump, the split of every article and bridge questions. `generate_benchmarks` writes editions of
six benchmarks in their official formats, and a newer dump. Nothing here needs TensorFlow.
"""

from masksearch_jax.toywiki.dump_writer import DEFAULT_SHARES, Editions, Paths, generate, generate_benchmarks

__all__ = ["DEFAULT_SHARES", "Editions", "Paths", "generate", "generate_benchmarks"]
