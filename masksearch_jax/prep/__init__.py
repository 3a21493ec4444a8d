"""Data preparation, from a dump to masked-span tasks. The only package that imports TensorFlow."""

import os

# Set before the first import of TensorFlow, which otherwise prints many log lines. 1 is what JAX sets at its import.
if os.environ.get("TF_CPP_MIN_LOG_LEVEL", "1") == "1":
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
