"""Scores of answers against gold answers. Of our own packages it imports only masksearch_jax.text."""
