"""Ahead-of-time compilation of our programs for TPU slices that this machine does not have."""

import os

# Set before jax is imported: without these, libtpu asks a metadata server that does not exist here, and locks out a
# second process.
os.environ.update({
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_LOG_DIR": "disabled",
})  # fmt: skip
