import machine
import torch

from tests.benchmarks.conftest import MACHINE


def test_describe_measures_machine(monkeypatch):
    monkeypatch.setattr(machine, "MATMUL_SIZES", {"cpu": 64})
    monkeypatch.setattr(machine, "COPIED", 2**16)
    figures = machine.describe("cpu", budget=1e-3)
    assert figures.keys() == MACHINE.keys() | {"versions"}
    assert min(*figures["matmul_gflops"].values(), figures["copy_gb_per_second"]) > 0
    assert figures["versions"]["torch"] == torch.__version__
