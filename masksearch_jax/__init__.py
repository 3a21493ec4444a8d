"""MaskSearch (arXiv 2505.20285) on JAX: from a Wikipedia dump to a policy that searches."""

__version__ = "0.1.0"
