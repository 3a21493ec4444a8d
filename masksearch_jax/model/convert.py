"""Weights in safetensors files, never pickles (design decision 9), as numpy arrays by name."""

from pathlib import Path

import numpy as np
import safetensors.numpy


def read_safetensors(path: Path | str) -> dict[str, np.ndarray]:
    """Returns every tensor of one file; raises FileNotFoundError that names it."""
    if not Path(path).exists():
        raise FileNotFoundError(f"{path} does not exist; weights are read from safetensors files only")
    return safetensors.numpy.load_file(path)
