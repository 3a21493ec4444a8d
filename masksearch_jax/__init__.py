"""MaskSearch (arXiv 2505.20285) in JAX: from a Wikipedia dump to a policy that searches."""

from pathlib import Path

__version__ = "0.1.0"

# `masksearch_jax.configs` lies inside the package in a wheel. In a clone it is the folder configs/ beside the package.
if not (Path(__file__).parent / "configs").is_dir():
    __path__.append(str(Path(__file__).parent.parent))
