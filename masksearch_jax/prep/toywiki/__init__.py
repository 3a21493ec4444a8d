"""A toy encyclopedia of invented people, places, works and companies, written as a genuine MediaWiki export.

`generate` writes the dump, the split of every article and two-hop questions. Nothing here needs TensorFlow.
"""

from masksearch_jax.prep.toywiki.export import DEFAULT_SHARES, Paths, generate

__all__ = ["DEFAULT_SHARES", "Paths", "generate"]
