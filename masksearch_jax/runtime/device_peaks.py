"""The peak rate of a device, by the name that JAX gives it.

Rates are of dense bfloat16 matrix products, from the data sheets of the makers. TPUs: cloud.google.com/tpu/docs/v4,
/v5e, /v5p, /v6e. GPUs: NVIDIA's data sheets of A100, H100, H200, B200, L4 and L40S, without sparsity.
aot/topologies.py reads the table of TPUs where nothing is installed, so this file imports only the standard library.
"""

import re

# Generation -> FLOP/s of a chip.
TPU = {"v4": 275e12, "v5e": 197e12, "v5p": 459e12, "v6e": 918e12}
# How JAX's device_kind spells the generations.
_TPU_KINDS = {
    "TPU v4": "v4", "TPU v5 lite": "v5e", "TPU v5e": "v5e", "TPU v5": "v5p", "TPU v5p": "v5p", "TPU v6 lite": "v6e",
    "TPU v6e": "v6e",
}  # fmt: skip
# Pattern of a name -> FLOP/s; the first that is found counts.
_GPUS = {
    r"\bB200\b": 2250e12,
    r"\bH200\b": 989e12,
    r"\bH100 PCIe\b": 756e12,
    r"\bH100\b": 989e12,
    r"\bA100\b": 312e12,
    r"\bL40S\b": 362e12,
    r"\bL4\b": 121e12,
}


def peak_flops(device_kind: str) -> float | None:
    """Return the FLOP/s of a device such as 'TPU v6 lite' or 'NVIDIA H200'; None if the tables do not have it."""
    if device_kind in _TPU_KINDS:
        return TPU[_TPU_KINDS[device_kind]]
    return next((rate for pattern, rate in _GPUS.items() if re.search(pattern, device_kind)), None)
