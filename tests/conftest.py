"""Settings of every test: JAX on eight forced CPU devices, and the real data where it is."""

import os

# Both are read once, when JAX starts: so before any test module imports it.
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = (os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8").strip()
# Tests compile far more than they compute: this cuts the suite to a third. Nothing here measures speed.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
# TensorFlow (prep tests only) prints a page of notes otherwise.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from pathlib import Path  # noqa: E402

import pytest  # noqa: E402


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real data (README.md there lists it); skips the test where MASKSEARCH_DATA is not set."""
    folder = os.environ.get("MASKSEARCH_DATA")
    if not folder:
        pytest.skip("MASKSEARCH_DATA is not set: the real data is not on this machine")
    path = Path(folder)
    if not path.is_dir():
        pytest.fail(f"MASKSEARCH_DATA={folder} is not a folder")
    return path
