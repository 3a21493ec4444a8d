"""MaskSearch (arXiv 2505.20285) on JAX: from a Wikipedia dump to a policy that searches."""

from pathlib import Path

__version__ = "0.1.0"

# `masksearch_jax.configs`: a wheel holds it inside the package; in a clone it is the folder configs/ beside it.
if not (Path(__file__).parent / "configs").is_dir():
    __path__.append(str(Path(__file__).parent.parent))
