"""Whole lines of stages: what `python -m masksearch_jax.experiment` runs."""
