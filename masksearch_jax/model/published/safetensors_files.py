"""The safetensors files of a published folder: decide which tensor is read from which file, and never guess.

If there is an index (model.safetensors.index.json), it decides, as it does for transformers: a tensor that two files
hold is read from the one that the index names. Without an index exactly one file is read, model.safetensors. Other
files beside it are ignored, and shards without an index are refused, since an incomplete set would look complete.
"""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy

from masksearch_jax.runtime import json_files

# The dtypes that weights may have, by their names in safetensors files.
DTYPES = {"F32": np.dtype(np.float32), "F16": np.dtype(np.float16), "BF16": np.dtype(jnp.bfloat16)}
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
_AGAIN = "download the folder again"


def read_safetensors(path: Path | str) -> dict[str, np.ndarray]:
    """Return every tensor of one file.

    Raises FileNotFoundError that names a missing file, and ValueError for a file that is truncated or not a safetensors
    file, or that holds values that are not finite.
    """
    _open(Path(path))
    found = safetensors.numpy.load_file(path)
    for name, values in found.items():
        check_finite(values, name, path)
    return found


def check_finite(values: np.ndarray, name: str, file: Path | str) -> None:
    """Raise ValueError that names tensor and file if a floating-point array holds NaN or infinity."""
    if jnp.issubdtype(values.dtype, jnp.floating) and not np.isfinite(values).all():
        raise ValueError(
            f"{file}: the tensor {name} holds values that are not finite; the checkpoint is damaged or its training "
            "diverged, so take another one"
        )


class SafetensorsFiles:
    """The safetensors files of one folder, for reading slices of their tensors.

    header: {tensor: (shape, dtype)} of every tensor. Raises FileNotFoundError for a missing file, and ValueError that
    names a file which is truncated, not a safetensors file, or at odds with the index.
    """

    def __init__(self, folder: Path, single: str = SINGLE):
        """single: the file to read if the folder has no index."""
        self.folder = folder
        index = folder / INDEX
        self._file: dict[str, str] = {}
        self.header: dict[str, tuple[tuple[int, ...], str]] = {}
        if single == SINGLE and index.exists():
            self._read_index(index)
        elif (folder / single).exists():
            self.header = _header(folder / single)
            self._file = dict.fromkeys(self.header, single)
        else:
            others = sorted(path.name for pattern in ("*.safetensors", "*.bin") for path in folder.glob(pattern))
            hint = f"; there are {', '.join(others)}" if others else ""
            if any(name.endswith(".safetensors") for name in others) and single == SINGLE:
                hint += f", and no {INDEX} that says which of them belong together"
            raise FileNotFoundError(
                f"{folder} holds no {single}{hint}; weights are read from safetensors only: save the model with "
                "save_pretrained(.., safe_serialization=True), or download the missing file"
            )

    def _read_index(self, index: Path) -> None:
        places = json_files.read_json_object(index, _AGAIN, ("weight_map",))["weight_map"]
        if not isinstance(places, dict) or not places:
            raise ValueError(f"{index}: weight_map is no object of tensor names and files; {_AGAIN}")
        for name, file in places.items():
            if not isinstance(file, str) or Path(file).name != file or not file.endswith(".safetensors"):
                raise ValueError(f"{index} says that {name} is in {file!r}, which is no safetensors file of its folder")
        files = sorted(set(places.values()))
        if absent := [file for file in files if not (self.folder / file).exists()]:
            raise FileNotFoundError(f"{self.folder}: {', '.join(absent)} of its index are missing; {_AGAIN}")
        if SINGLE not in files and (self.folder / SINGLE).exists():
            raise ValueError(
                f"{self.folder} holds {SINGLE}, and {INDEX} that does not name it; remove the one that is stray"
            )
        found = {file: _header(self.folder / file) for file in files}
        for name, file in places.items():
            if name not in found[file]:
                raise ValueError(f"{self.folder / file} lacks the tensor {name}, which {INDEX} says is there; {_AGAIN}")
            self.header[name] = found[file][name]
        for file in files:
            if unknown := sorted(set(found[file]) - set(places)):
                raise ValueError(f"{self.folder / file} holds {unknown[0]}, which {INDEX} does not name; {_AGAIN}")
        self._file = dict(places)

    def itemsize(self, name: str) -> int:
        """Return how many bytes one number of a tensor takes."""
        return DTYPES[self.header[name][1]].itemsize

    def read(self, name: str, rows: slice, columns: slice | None) -> np.ndarray:
        """Return a slice of a tensor; raise ValueError for values that are not finite.

        The file is opened for this slice only, so that no memory page of it stays mapped.
        """
        path = self.folder / self._file[name]
        with safetensors.safe_open(path, framework="numpy") as opened:
            found = opened.get_slice(name)
            values = found[rows] if columns is None else found[rows, columns]
        check_finite(values, name, path)
        return values


def _header(path: Path) -> dict[str, tuple[tuple[int, ...], str]]:
    with _open(path) as opened:
        slices = {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118 (no dict)
        return {name: (tuple(found.get_shape()), found.get_dtype()) for name, found in slices.items()}


def _open(path: Path) -> safetensors.safe_open:
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; weights are read from safetensors files only")
    with path.open("rb") as file:
        start = file.read(40)
    if start.startswith(b"version https://git-lfs"):
        raise ValueError(f"{path} is a pointer of git-lfs, not the file itself; fetch it with `git lfs pull`")
    try:
        return safetensors.safe_open(path, framework="numpy")
    except Exception as error:  # SafetensorError for a truncated or damaged file; the library promises no class
        raise ValueError(f"{path} is cut, damaged or no safetensors file ({error}); {_AGAIN}") from error
