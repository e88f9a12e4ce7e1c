"""Networks in ONNX files as feature extractors."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from acluster.extraction._modules import local_features
from acluster.extraction._named_backbones import import_extra
from acluster.extraction._pixels import (
    IMAGENET_DEVIATION,
    IMAGENET_MEAN,
    is_pixels,
    normalized,
    resized,
)

Array = NDArray[Any]

_DTYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(uint8)": np.uint8,
    "tensor(int8)": np.int8,
    "tensor(int16)": np.int16,
    "tensor(int32)": np.int32,
    "tensor(int64)": np.int64,
}
_NAMES_OF_CLASSES = ("logit", "prob", "softmax", "score")
# ImageNet (with and without a background class, 1k and 21k), Kinetics, YAMNet and AudioSet.
_NUMBERS_OF_CLASSES = (1000, 1001, 21841, 21843, 400, 600, 700, 521, 527)


class OnnxBackbone:
    """A network in an ONNX file, run by onnxruntime.

    Pictures, uint8 (B, H, W, 3), for an input of floats (N, 3, H, W) are resized if its size is
    fixed, scaled to 0 to 1, normalized by the mean and deviation of ImageNet, and get the channels
    first. Every other batch is converted to the data type of the input, and gets the axes of
    length 1 that it lacks.

    Parameters
    ----------
    path : str
        The file.

    output : str or None
        The output to use. None is the only one.

    device : str
        "auto" is a GPU if onnxruntime supports it, "cpu", or "cuda" with or without a number.

    Raises
    ------
    FileNotFoundError
        If there is no such file.

    ValueError
        If the file has several inputs, no output of that name, or several outputs and none was
        chosen. Also if the output holds the scores of classes and was not chosen: its name contains
        "logit", "prob", "softmax" or "score", or it has shape (N, K), where K is the number of
        classes of ImageNet, Kinetics, YAMNet or AudioSet.

    ImportError
        Without the packages of the extra ``backbones``.
    """

    def __init__(self, path: str, output: str | None, device: str) -> None:
        onnxruntime = import_extra("onnxruntime", "'acluster[backbones]'")
        if not os.path.isfile(path):
            raise FileNotFoundError(f"There is no file {path}.")
        self.path = path
        options = onnxruntime.SessionOptions()
        # onnxruntime starts a thread for each processor, whatever OpenMP's own setting is.
        options.intra_op_num_threads = int(os.environ.get("OMP_NUM_THREADS", "0"))
        providers = _providers(device, onnxruntime.get_available_providers())
        self._session = onnxruntime.InferenceSession(path, options, providers=providers)
        self._input = _only_input(self._session.get_inputs(), path)
        self._output = _chosen_output(self._session.get_outputs(), output, path)

    @property
    def description(self) -> dict[str, str]:
        """What distinguishes the network from others of the same name: a checksum of the file."""
        digest = hashlib.sha256()
        # Exporters write large weights into a file beside it, under either of these names.
        for path in (self.path, f"{self.path}.data", f"{self.path}_data"):
            if os.path.isfile(path):
                with open(path, "rb") as file:
                    digest.update(hashlib.file_digest(file, "sha256").digest())
        return {"checksum": digest.hexdigest()[:16]}

    def __call__(self, batch: Array) -> Array:
        """Return the features of a batch, (B, D) or (B, T, D)."""
        inputs = self._prepared(np.asarray(batch))
        n_rows = self._input.shape[0]
        if not isinstance(n_rows, int) or n_rows == len(inputs):
            return _features(self._run(inputs))
        # The network takes only batches of one size.
        missing = -len(inputs) % n_rows
        full = np.concatenate([inputs, np.repeat(inputs[-1:], missing, axis=0)])
        parts = [self._run(full[i : i + n_rows]) for i in range(0, len(full), n_rows)]
        return _features(np.concatenate(parts)[: len(inputs)])

    def _run(self, inputs: Array) -> Array:
        return np.asarray(self._session.run([self._output], {self._input.name: inputs})[0])

    def _prepared(self, batch: Array) -> Array:
        shape = self._input.shape
        dtype = _DTYPES[self._input.type]
        if is_pixels(batch) and len(shape) == 4 and shape[1] == 3:
            height, width = shape[2:]
            is_fixed = isinstance(height, int) and isinstance(width, int)
            pictures = resized(batch, (height, width) if is_fixed else None)
            if np.issubdtype(dtype, np.floating):
                return normalized(pictures, IMAGENET_MEAN, IMAGENET_DEVIATION).numpy().astype(dtype)
            return pictures.round().numpy().astype(dtype)
        return _with_unit_axes(batch, shape).astype(dtype)


def _with_unit_axes(batch: Array, shape: Sequence[Any]) -> Array:
    """Insert the axes of length 1 that a batch lacks, such as the channel of a spectrogram."""
    units = [axis for axis, length in enumerate(shape) if axis and length == 1]
    return np.expand_dims(batch, units) if batch.ndim + len(units) == len(shape) else batch


def _features(result: Array) -> Array:
    """Return (B, D) or (B, T, D): axes of length 1 are no local features."""
    import torch

    if result.ndim > 3 and max(result.shape[1:]) == np.prod(result.shape[1:]):
        return result.reshape(len(result), -1)
    return local_features(torch.from_numpy(result)).numpy()


def _providers(device: str, available: Sequence[str]) -> list[Any]:
    """Return how onnxruntime computes on a device: the fallback for what a GPU lacks is the CPU."""
    cpu, cuda = "CPUExecutionProvider", "CUDAExecutionProvider"
    kind, _, number = str(device).partition(":")
    if kind not in ("auto", "cpu", "cuda"):
        raise ValueError(f"device={device!r} is not 'auto', 'cpu' or 'cuda', as ONNX files need.")
    if kind == "cuda" and cuda not in available:
        raise ValueError(
            f"device={device!r}, but this onnxruntime has only {', '.join(available)}. Install "
            "onnxruntime-gpu instead of onnxruntime, or pass device='cpu'."
        )
    if kind == "cpu" or cuda not in available:
        return [cpu]
    return [(cuda, {"device_id": number or "0"}), cpu]


def _only_input(inputs: Sequence[Any], path: str) -> Any:
    if len(inputs) != 1:
        raise ValueError(
            f"{Path(path).name} has the inputs {', '.join(i.name for i in inputs)}. A feature "
            "extractor has one input, a batch."
        )
    if inputs[0].type not in _DTYPES:
        raise ValueError(
            f"{Path(path).name} takes {inputs[0].type}, and not one of {', '.join(_DTYPES)}."
        )
    return inputs[0]


def _chosen_output(outputs: Sequence[Any], output: str | None, path: str) -> str:
    names = [one.name for one in outputs]
    listed = ", ".join(f"{one.name} ({', '.join(map(str, one.shape))})" for one in outputs)
    remedy = f"Choose one of {listed}, as in {path}#{names[0]}."
    if output is not None:
        if output not in names:
            raise ValueError(f"{Path(path).name} has no output {output!r}. {remedy}")
        return output
    if len(names) > 1:
        raise ValueError(f"{Path(path).name} has {len(names)} outputs. {remedy}")
    if _is_for_classes(outputs[0]):
        raise ValueError(
            f"The output {listed} of {Path(path).name} seems to be the scores of classes, which "
            "describe an input worse than the layers before. Export the network without its "
            f"classifier, or ask for the scores with {path}#{names[0]}."
        )
    return names[0]


def _is_for_classes(output: Any) -> bool:
    has_name = any(part in output.name.lower() for part in _NAMES_OF_CLASSES)
    return has_name or (len(output.shape) == 2 and output.shape[1] in _NUMBERS_OF_CLASSES)
