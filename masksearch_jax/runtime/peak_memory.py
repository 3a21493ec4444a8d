"""The most memory that this process has held: on its devices as JAX counts it, on the host as the kernel does."""

import resource
import sys

import jax


def peak_bytes() -> dict[str, int]:
    """Return {'device_peak_bytes': of the fullest local device, 'host_peak_bytes': resident}, since the process began.

    The first is missing where devices do not count, as on CPUs.
    """
    counted = [device.memory_stats() or {} for device in jax.local_devices()]
    peaks = [stats["peak_bytes_in_use"] for stats in counted if "peak_bytes_in_use" in stats]
    # Linux counts in KiB, macOS in bytes.
    unit = 1 if sys.platform == "darwin" else 1024
    host = {"host_peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit}
    return {"device_peak_bytes": max(peaks), **host} if peaks else host
