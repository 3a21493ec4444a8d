"""Scores of answers against gold answers. Imports nothing of ours."""
