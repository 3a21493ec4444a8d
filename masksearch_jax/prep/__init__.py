"""Data preparation, from a dump to masked-span tasks. The only package that imports TensorFlow."""

import os

# Set before the first import of TensorFlow, which otherwise prints many log lines.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
