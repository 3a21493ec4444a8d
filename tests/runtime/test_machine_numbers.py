"""Peaks of devices by name, compilations counted, memory measured."""

import jax
import numpy as np
import pytest

from masksearch_jax.runtime import compile_counter, device_peaks, peak_memory


@pytest.mark.parametrize(
    ("kind", "teraflops"),
    [
        ("TPU v4", 275), ("TPU v5 lite", 197), ("TPU v5p", 459), ("TPU v5", 459), ("TPU v6 lite", 918),
        ("NVIDIA H200", 989), ("NVIDIA H100 80GB HBM3", 989), ("NVIDIA H100 PCIe", 756),
        ("NVIDIA A100-SXM4-80GB", 312), ("NVIDIA L4", 121), ("NVIDIA L40S", 362),
    ],
)  # fmt: skip
def test_peaks_by_the_name_of_the_device(kind, teraflops):
    assert device_peaks.peak_flops(kind) == teraflops * 1e12


@pytest.mark.parametrize("kind", ["cpu", "TPU v9", "NVIDIA L400", "NVIDIA GeForce RTX 3090"])
def test_a_device_without_a_peak_has_none(kind):
    assert device_peaks.peak_flops(kind) is None


def test_each_compilation_is_counted_once():
    counter, program = compile_counter.counter(), jax.jit(lambda x: x * 3 + 1)
    inputs = [np.ones(size, np.float32) for size in (3, 4)]
    before, seconds = counter.programs, counter.seconds
    for x in (inputs[0], inputs[0], inputs[1], inputs[0]):
        program(x)
    assert counter.programs - before == 2 and counter.seconds > seconds
    assert compile_counter.counter() is counter


def test_host_memory_grows_with_what_is_held():
    before = peak_memory.peak_bytes()["host_peak_bytes"]
    held = np.ones(50_000_000)
    grown = peak_memory.peak_bytes()["host_peak_bytes"] - before
    assert before > 10_000_000 and 0 <= grown < 2 * held.nbytes


def test_device_memory_is_that_of_the_fullest_device(monkeypatch):
    class Device:
        def __init__(self, stats):
            self.memory_stats = lambda: stats

    assert "device_peak_bytes" not in peak_memory.peak_bytes()  # the CPU's devices do not count
    devices = [Device({"peak_bytes_in_use": 5}), Device({"peak_bytes_in_use": 9}), Device(None), Device({})]
    monkeypatch.setattr(jax, "local_devices", lambda: devices)
    assert peak_memory.peak_bytes()["device_peak_bytes"] == 9
