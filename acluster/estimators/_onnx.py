"""Export to ONNX: class probabilities without torch or scikit-learn."""

import json
import logging
import os
import shutil
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from acluster._utils._files import replaced_file
from acluster.estimators._architecture import members_of
from acluster.nn import PaddedNetwork

OUTPUT = "probabilities"


class Probabilities(torch.nn.Module):
    """A torch module that computes `predict_proba` for padded sets.

    Parameters
    ----------
    networks : sequence of PaddedNetwork
        The networks.

    weights : Tensor of shape (n_networks,)
        Their shares in the probabilities, which add up to 1.

    kind : {"binary", "multiclass", "multilabel"}
        What the logits mean.
    """

    def __init__(self, networks: Sequence[PaddedNetwork], weights: torch.Tensor, kind: str) -> None:
        super().__init__()
        self.networks, self.kind = torch.nn.ModuleList(networks), kind
        self.register_buffer("weights", weights)

    def forward(self, *sets: torch.Tensor) -> torch.Tensor:
        stacked = torch.stack([self._of(network(*sets)) for network in self.networks])
        return (self.get_buffer("weights")[:, None, None] * stacked).sum(dim=0)

    def _of(self, logits: torch.Tensor) -> torch.Tensor:
        if self.kind == "multiclass":
            return logits.softmax(dim=1)
        if self.kind == "multilabel":
            return logits.sigmoid()
        return torch.cat([(-logits).sigmoid(), logits.sigmoid()], dim=1)


def write_onnx(
    path: str | os.PathLike[str], classifiers: Sequence[Any], weights: Sequence[float]
) -> None:
    """Write the file; its inputs are the modalities, by name, each with its lengths.

    Parameters
    ----------
    path : str or path
        The file.

    classifiers : sequence of AttentionClusters
        Fitted classifiers of the same classes and modalities.

    weights : sequence of float
        Their shares in the probabilities, which add up to 1.
    """
    if find_spec("onnxscript") is None:
        raise ImportError("to_onnx needs onnx and onnxscript: install the extra 'onnx'.")
    widths, coding = classifiers[0]._architecture.widths, classifiers[0]._coding
    like = next(classifiers[0].network_.parameters())
    padded, shares = [], []
    for classifier, weight in zip(classifiers, weights, strict=True):
        stand_ins = classifier._missing.stand_ins(widths)
        means = [None if mean is None else torch.from_numpy(mean).to(like) for mean in stand_ins]
        members = members_of(classifier.network_)
        padded += [PaddedNetwork(member, means) for member in members]
        shares += [weight / len(members)] * len(members)
    module = Probabilities(padded, like.new_tensor(shares), coding.kind).eval()
    names, example, shapes = [], [], []
    for i, (modality, width) in enumerate(widths.items()):
        if modality == OUTPUT or modality.endswith("_lengths"):
            raise ValueError(
                f"A modality named {modality!r} clashes with another input or output of the file. "
                "Fit with another name."
            )
        names += [modality, f"{modality}_lengths"]
        # The exporter treats sizes of 0 and 1 as constants.
        example += [like.new_zeros(2, 3 + i, width), torch.full((2,), 2, device=like.device)]
        shapes += [{0: "items", 1: f"{modality}_longest"}, {0: "items"}]
    with _quiet():
        program: Any = torch.onnx.export(
            module,
            tuple(example),
            dynamo=True,
            input_names=names,
            output_names=[OUTPUT],
            dynamic_shapes=(tuple(shapes),),
            verbose=False,
        )
    program.model.metadata_props["classes"] = json.dumps(coding.classes.tolist())
    _save(program, path)


def _save(program: Any, path: str | os.PathLike[str]) -> None:
    """Write the file, and beside it the weights if they take more than 1.5 GB."""
    name = Path(os.path.realpath(path)).name
    with (
        replaced_file(path) as unfinished,
        # The file refers to its weights by name, so both need their final names.
        TemporaryDirectory(dir=unfinished.parent, prefix=f".{name[:50]}.") as folder,
    ):
        program.save(Path(folder, name))
        for part in Path(folder).iterdir():
            if part.name != name:
                with replaced_file(unfinished.with_name(part.name)) as weights:
                    os.replace(part, weights)
        shutil.copymode(unfinished, Path(folder, name))
        os.replace(Path(folder, name), unfinished)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence torch's deprecation warnings and its hints about packages that are not needed."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
