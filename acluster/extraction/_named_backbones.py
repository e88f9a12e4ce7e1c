"""Pretrained networks by name, each with its own preprocessing.

A new form of a name is a row of the table at the end, and a function that loads a network.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np

from acluster.extraction._modules import ModuleBackbone, local_features, tensor_on
from acluster.extraction._pixels import check_pixels, normalized, resized

if TYPE_CHECKING:
    import torch

_POOLED, _TOKENS = "pooler_output", "last_hidden_state"
# Weights that a checkpoint may lack because only training needs them.
_FOR_TRAINING = ("mask_token", "masked_spec_embed")


def import_extra(module: str, install: str) -> Any:
    """Import a module, or raise an ImportError that tells how to install it.

    Parameters
    ----------
    module : str
        The name of the module.

    install : str
        What pip is to install.

    Returns
    -------
    module

    Raises
    ------
    ImportError
        If it cannot be imported.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise ImportError(
            f"This backbone needs {module.split('.')[0]}. Install it with pip install {install}. "
            f"The import failed with: {error}"
        ) from error


def load_transformers(name: str, output: str | None, device: str) -> ModuleBackbone:
    """Load a model of the library transformers.

    Parameters
    ----------
    name : str
        Its name on the Hugging Face hub, with ``@REVISION`` for another revision than the newest;
        or a folder.

    output : str or None
        The output to use. None is the pooled output, or else the tokens.

    device : str
        The device.

    Returns
    -------
    ModuleBackbone

    Raises
    ------
    ValueError
        If the model takes neither pixels nor sound, or the checkpoint lacks some of its weights.

    OSError
        If there is no such model.

    ImportError
        Without the packages of the extra ``backbones``.
    """
    transformers = import_extra("transformers", "'acluster[backbones]'")
    import torch

    form = f"transformers:{name}"
    name, revision = _commit(name)
    # By default, transformers asks on the terminal whether to run code that comes with a model.
    source = {"revision": revision, "trust_remote_code": False}
    model, report = transformers.AutoModel.from_pretrained(
        name, dtype=torch.float32, output_loading_info=True, **source
    )
    untrained = _untrained_outputs(report["missing_keys"], form)
    weights = model.state_dict()
    for key in report["missing_keys"]:
        weights[key].zero_()  # They are random, and would change the checksum every time.
    # Without the revision in the name, whoever asks for this commit can continue the store.
    plain = f"transformers:{name}#{output}" if output else f"transformers:{name}"
    details = {} if revision is None else {"name": plain, "revision": revision}
    if _takes(model, {"pixel_values"}, "get_image_features"):
        processor = transformers.AutoImageProcessor.from_pretrained(name, **source)
        module, run = model, getattr(model, "get_image_features", model)
        prepare, sample_rate = partial(_processed_pixels, processor, form), None
    elif _takes(model, {"input_values", "input_features"}, "get_audio_features"):
        processor = transformers.AutoFeatureExtractor.from_pretrained(name, **source)
        module = model.get_encoder() if model.config.is_encoder_decoder else model
        run = getattr(model, "get_audio_features", module)
        prepare = partial(_processed_sound, processor, form)
        sample_rate = processor.sampling_rate
    else:
        raise ValueError(
            f"{form} takes {model.main_input_name}. Name a model that takes pixels or sound."
        )

    def forward(inputs: Mapping[str, Any]) -> torch.Tensor:
        return local_features(_chosen(run(**inputs), output, untrained, form))

    return ModuleBackbone(
        module,
        device,
        prepare=prepare,
        forward=forward,
        sample_rate=sample_rate,
        details={"processor": type(processor).__name__, **details},
    )


def _takes(model: Any, inputs: Collection[str], method: str) -> bool:
    return model.main_input_name in inputs or hasattr(model, method)


def _commit(name: str) -> tuple[str, str | None]:
    """Split off a revision, and replace it by the commit that it is now, for a name on the hub."""
    if os.path.isdir(name):
        return name, None
    hub = import_module("transformers.utils.hub")
    name, _, revision = name.partition("@")
    # A cached file lies in a folder that is named after the commit, online and offline.
    path = hub.cached_file(name, "config.json", revision=revision or None)
    return name, hub.extract_commit_hash(path, None) or revision or None


def _untrained_outputs(missing: Collection[str], form: str) -> tuple[str, ...]:
    """Return the outputs that depend on weights which the checkpoint lacks.

    The library fills such weights with random numbers. For a classifier's checkpoint, these are
    often those of the pooler.
    """
    needed = sorted(key for key in missing if not key.endswith(_FOR_TRAINING))
    if others := [key for key in needed if "pooler." not in key]:
        raise ValueError(
            f"The checkpoint of {form} lacks the weights {', '.join(others[:5])}"
            f"{' and others' if len(others) > 5 else ''}: they would be random. Name a complete "
            "checkpoint."
        )
    return (_POOLED,) if needed else ()


def _processed_pixels(processor: Any, form: str, batch: Any, device: Any) -> Any:
    check_pixels(batch, form)
    inputs = processor(images=[*batch], input_data_format="channels_last", return_tensors="pt")
    return inputs.to(device)


def _processed_sound(processor: Any, form: str, batch: Any, device: Any) -> Any:
    if batch.dtype.kind != "f" or batch.ndim != 2:
        raise ValueError(
            f"{form} takes sound, floats (B, n), not {batch.dtype} of shape {batch.shape}. Choose "
            f"the view Waveforms(rate={processor.sampling_rate})."
        )
    samples = [np.asarray(row, np.float32) for row in batch]
    inputs = processor(samples, sampling_rate=processor.sampling_rate, return_tensors="pt")
    return inputs.to(device)


def _chosen(outputs: Any, output: str | None, untrained: Collection[str], form: str) -> Any:
    """Return the output of that name; by default the pooled output, or else the tokens."""
    if hasattr(outputs, "detach"):  # Some models return the pooled output alone.
        outputs = {_POOLED: outputs}
    found = {key: x for key, x in outputs.items() if hasattr(x, "detach") and key not in untrained}
    wanted = [output] if output else [_POOLED, _TOKENS]
    for key in wanted:
        if key in found:
            return found[key]
    random = f" ({', '.join(untrained)}: the checkpoint lacks its weights)" if untrained else ""
    raise ValueError(
        f"{form} has no output {' or '.join(wanted)}{random}. Choose one of {', '.join(found)}, as "
        f"in {form}#{next(iter(found), _TOKENS)}."
    )


def load_timm(name: str, output: str | None, device: str) -> ModuleBackbone:
    """Load a model of the library timm, without its classification head.

    Parameters
    ----------
    name : str
        The name of the model, such as "resnet50.a1_in1k".

    output : None
        These models have one output.

    device : str
        The device.

    Returns
    -------
    ModuleBackbone
        It resizes pictures to the size of the model, and normalizes them by its mean and deviation.

    Raises
    ------
    ValueError
        If an output is chosen.

    RuntimeError
        If there is no such model.

    ImportError
        Without timm.
    """
    form = f"timm:{name}"
    _check_no_output(form, output)
    timm, data = (import_extra(module, "timm") for module in ("timm", "timm.data"))
    module = timm.create_model(name, pretrained=True, num_classes=0)
    config = data.resolve_model_data_config(module)

    def prepare(batch: Any, device: Any) -> torch.Tensor:
        check_pixels(batch, form)
        size = tuple(config["input_size"][1:])
        pictures = resized(batch, size, device, config["interpolation"])
        return normalized(pictures, config["mean"], config["std"])

    def forward(pictures: torch.Tensor) -> torch.Tensor:
        return local_features(module(pictures))

    return ModuleBackbone(module, device, prepare=prepare, forward=forward)


def load_torchvision(name: str, output: str | None, device: str) -> ModuleBackbone:
    """Load a classifier of torchvision with its default weights, without its last layer.

    Parameters
    ----------
    name : str
        The name of the model, such as "resnet50".

    output : None
        These models have one output.

    device : str
        The device.

    Returns
    -------
    ModuleBackbone
        It prepares pictures (B, H, W, 3) or clips (B, length, H, W, 3) by the transforms of the
        weights.

    Raises
    ------
    ValueError
        If there is no such model, it does not end with a linear layer, or an output is chosen.

    ImportError
        Without torchvision.
    """
    form = f"torchvision:{name}"
    _check_no_output(form, output)
    models = import_extra("torchvision.models", "torchvision")
    weights = models.get_model_weights(name).DEFAULT
    module = models.get_model(name, weights=weights)
    _remove_head(module, form)
    transforms = weights.transforms()

    def prepare(batch: Any, device: Any) -> torch.Tensor:
        return transforms(tensor_on(np.moveaxis(batch, -1, -3), device))

    return ModuleBackbone(module, device, prepare=prepare, details={"revision": str(weights)})


def _check_no_output(form: str, output: str | None) -> None:
    if output is not None:
        raise ValueError(f"{form}#{output} chooses an output, but the model has only one.")


def _remove_head(module: Any, form: str) -> None:
    """Replace the last layer of a classifier by the identity."""
    from torch import nn

    names = [name for name, _ in module.named_children() if name in _HEADS]
    parent, name = module, names[-1] if names else ""
    while name and isinstance(head := getattr(parent, name), nn.Sequential):
        parent, name = head, next(reversed(dict(head.named_children())), "")
    last = getattr(parent, name) if name else None
    if not isinstance(last, nn.Linear):
        raise ValueError(
            f"{form} cannot be used without its classifier: it ends with "
            f"{type(last).__name__ if name else 'none of ' + ', '.join(_HEADS)}, not with a linear "
            "layer. Choose another model, or pass a torch module that returns features."
        )
    setattr(parent, name, nn.Identity())


_HEADS = ("fc", "classifier", "heads", "head")  # how torchvision names them
LOADERS: Mapping[str, Callable[[str, str | None, str], ModuleBackbone]] = {
    "transformers": load_transformers,
    "timm": load_timm,
    "torchvision": load_torchvision,
}
