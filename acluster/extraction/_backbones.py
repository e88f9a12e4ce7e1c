"""Backbones: the frozen networks and functions that turn a batch into features."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from importlib import import_module
from typing import Any

from acluster.extraction._modules import ModuleBackbone, weights_checksum
from acluster.extraction._named_backbones import LOADERS
from acluster.extraction._onnx_backbone import OnnxBackbone
from acluster.extraction._views import describe_view, is_description_of, public_name
from acluster.sets import is_description

_FORMS = (
    f"Pass {', '.join(f'{prefix}:NAME' for prefix in LOADERS)}, FILE.onnx, "
    "package.module:function, or a function or a torch module itself."
)


def extractor_of(backbone: Any, device: str) -> Callable[[Any], Any]:
    """Return a callable from arrays (B, ...) to features.

    Parameters
    ----------
    backbone : callable, torch module or str
        What the user passes.

    device : str
        The device of a torch module.

    Returns
    -------
    callable

    Raises
    ------
    TypeError
        If it is something else.
    """
    if isinstance(backbone, str):
        return load_backbone(backbone, device=device)
    if hasattr(backbone, "parameters") and hasattr(backbone, "state_dict"):
        return ModuleBackbone(backbone, device)
    if not callable(backbone):
        raise TypeError(
            f"The backbone {backbone!r:.100} is not callable. Pass a function or a torch module "
            "from a batch (B, ...) to features (B, D), or the name of one."
        )
    return backbone


def load_backbone(name: str, *, device: str = "auto") -> Callable[[Any], Any]:
    """Load a feature extractor by its name.

    Parameters
    ----------
    name : str
        One of these forms:

        - ``transformers:NAME``: a model of the Hugging Face hub, or in a folder, with its own image
          processor or audio feature extractor. ``NAME@REVISION`` is a revision of it. The features
          are its pooled output if it has one, and its tokens otherwise.
          ``NAME#last_hidden_state`` chooses an output.
        - ``timm:NAME``: a model of timm without its classifier.
        - ``torchvision:NAME``: a model of torchvision with its default weights, without its last
          layer.
        - ``FILE.onnx``: an ONNX file. ``FILE.onnx#NAME`` chooses an output.
        - ``package.module:function``: a function, or a class that is called without arguments. It
          is given batches (B, ...) of the view.

    device : str, default="auto"
        The device of a network. "auto" is a GPU if there is one.

    Returns
    -------
    callable
        From a batch (B, ...) to features (B, D) or (B, T, D).

    Raises
    ------
    ValueError
        If the name has another form, or the network has no such output, or only logits.

    ImportError
        If there is no such module or function, or a package is not installed.

    OSError
        If there is no such file or no such model on the hub.

    Examples
    --------
    >>> import numpy as np
    >>> from acluster.extraction import load_backbone
    >>> describe = load_backbone("acluster.extraction:frame_descriptor")
    >>> describe(np.zeros((2, 64, 64, 3), np.uint8)).shape
    (2, 224)
    """
    path, output = _split_output(name)
    if path.endswith(".onnx"):
        return OnnxBackbone(path, output, device)
    prefix, separator, rest = path.partition(":")
    if not separator or not prefix or not rest:
        raise ValueError(f"backbone={name!r} is not the name of a feature extractor. {_FORMS}")
    if prefix in LOADERS:
        return LOADERS[prefix](rest, output, device)
    return _imported(name, device)


def _split_output(name: str) -> tuple[str, str | None]:
    """Split off the output that ``#NAME`` chooses."""
    path, separator, output = name.rpartition("#")
    # Files and folders may have a # in their names.
    is_output = separator and output and "/" not in output and not output.endswith(".onnx")
    return (path, output) if is_output else (name, None)


def _imported(name: str, device: str) -> Callable[[Any], Any]:
    module, _, attribute = name.partition(":")
    try:
        found: Any = import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise  # The module exists, and lacks another one.
        raise ModuleNotFoundError(
            f"backbone={name!r}: there is no module {error.name}. {_FORMS}", name=error.name
        ) from error
    for part in attribute.split("."):
        try:
            found = getattr(found, part)
        except AttributeError as error:
            raise ImportError(f"backbone={name!r}: {error}. {_FORMS}", name=module) from error
    return extractor_of(found() if isinstance(found, type) else found, device)


def check_sample_rate(name: str, view: Any, extractor: Any) -> None:
    """Check that a view gives sound at the sample rate that a network was trained with.

    Parameters
    ----------
    name : str
        The name of the view, for the message.

    view : view
        What gives the sound.

    extractor : callable
        What `extractor_of` returns.

    Raises
    ------
    ValueError
        If both have a sample rate, and they differ.
    """
    given, taken = (getattr(one, "sample_rate", None) for one in (view, extractor))
    if given is not None and taken is not None and given != taken:
        raise ValueError(
            f"The view {name!r} gives {given:,} samples per second, and its backbone takes "
            f"{taken:,}. Pass Waveforms(rate={taken})."
        )


def describe_all(
    views: Mapping[str, tuple[Any, Any]], extractors: Mapping[str, Any]
) -> dict[str, dict[str, Any]]:
    """Describe all views and backbones, and check that they fit each other.

    Parameters
    ----------
    views : dict of str to (view, backbone)
        As passed by the user.

    extractors : dict of str to callable
        What `extractor_of` returned for the backbones.

    Returns
    -------
    dict of str to dict

    Raises
    ------
    ValueError
        If a backbone takes another sample rate than its view gives.
    """
    for name, (view, _) in views.items():
        check_sample_rate(name, view, extractors[name])
    return {name: describe(*pair, extractors[name]) for name, pair in views.items()}


def describe(view: Any, backbone: Any, extractor: Any = None) -> dict[str, Any]:
    """Describe a view and its backbone, as JSON can represent them.

    A store keeps the description, so that it is not continued with another extraction.

    Parameters
    ----------
    view : view
        A dataclass, or any object with a ``repr`` that tells its settings.

    backbone : callable, torch module or str
        As passed by the user.

    extractor : callable, optional
        What `extractor_of` returned for it. If it has a `description`, a dict, such as a checksum
        of the weights, this is part of the result.

    Returns
    -------
    dict
    """
    return {"view": describe_view(view), "backbone": _description(backbone, extractor)}


def is_same_extraction(
    view: Any, own: Mapping[str, Any], described: Mapping[str, Any] | None
) -> bool:
    """Return whether a description that was kept is that of a view and its backbone.

    Parameters
    ----------
    view : view
        The view.

    own : mapping
        What `describe` returns for it and its backbone.

    described : mapping or None
        What was kept, maybe by another version. A setting of the view that is absent has its
        default.

    Returns
    -------
    bool
    """
    if not is_description(described) or described is None:
        return False
    is_same_view = is_description_of(view, described["view"])
    return is_same_view and {**described, "view": 0} == {**own, "view": 0}


def _description(backbone: Any, extractor: Any = None) -> Any:
    """Describe a backbone: its name, and for a network also its weights."""
    if isinstance(backbone, str):
        own = getattr(extractor, "description", None)
        return {"name": backbone, **own} if isinstance(own, dict) else backbone
    if isinstance(backbone, partial):
        given = {"arguments": repr(backbone.args), "keywords": repr(backbone.keywords)}
        return {"function": _description(backbone.func), **given}
    kind = backbone if hasattr(backbone, "__qualname__") else type(backbone)
    name = public_name(kind)
    if not hasattr(backbone, "state_dict"):
        return name
    return {"module": name, "weights": weights_checksum(backbone)}
