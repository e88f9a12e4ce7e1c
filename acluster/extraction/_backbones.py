"""Backbones: the frozen networks and functions that turn a batch into features."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import asdict, is_dataclass
from functools import partial
from importlib import import_module
from typing import Any

import numpy as np


class ModuleBackbone:
    """A torch module on a device, in inference mode.

    Parameters
    ----------
    module : torch.nn.Module
        Takes a tensor (B, ...) with the data type of the view.

    device : str
        The device. "auto" is a GPU if there is one.
    """

    def __init__(self, module: Any, device: str) -> None:
        from acluster.training import resolve_device

        self.device = resolve_device(device)
        self.module = module.eval().to(self.device)

    def __call__(self, batch: Any) -> Any:
        """Return the features of a batch, as a tensor."""
        import torch

        with torch.inference_mode():
            return self.module(torch.from_numpy(np.ascontiguousarray(batch)).to(self.device))


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
        ``package.module:function`` imports a function, or a class that is called without
        arguments. It is given batches (B, ...) of the view.

    device : str, default="auto"
        The device of a torch module. "auto" is a GPU if there is one.

    Returns
    -------
    callable
        From a batch (B, ...) to features (B, D) or (B, T, D).

    Raises
    ------
    ValueError
        If the name has another form.

    ImportError, AttributeError
        If there is no such module or function.

    Examples
    --------
    >>> import numpy as np
    >>> from acluster.extraction import load_backbone
    >>> describe = load_backbone("acluster.extraction:frame_descriptor")
    >>> describe(np.zeros((2, 64, 64, 3), np.uint8)).shape
    (2, 224)
    """
    module, separator, attribute = name.partition(":")
    if not separator or not module or not attribute:
        raise ValueError(f"backbone={name!r} is not the name of a feature extractor. {_FORMS}")
    found: Any = import_module(module)
    for part in attribute.split("."):
        found = getattr(found, part)
    return extractor_of(found() if isinstance(found, type) else found, device)


_FORMS = "Pass package.module:function, or a function or a torch module itself."


def describe(view: Any, backbone: Any) -> dict[str, Any]:
    """Describe a view and its backbone, as JSON can represent them.

    A store keeps the description, so that it is not continued with another extraction.

    Parameters
    ----------
    view : view
        A dataclass, or any object with a ``repr`` that tells its settings.

    backbone : callable, torch module or str
        As passed by the user.

    Returns
    -------
    dict
    """
    is_dataclass_ = is_dataclass(view) and not isinstance(view, type)
    settings = asdict(view) if is_dataclass_ else {"repr": repr(view)}
    return {"view": {"kind": type(view).__name__, **settings}, "backbone": _description(backbone)}


def _description(backbone: Any) -> Any:
    """Describe a backbone: its name, and for a network also its weights."""
    if isinstance(backbone, str):
        return backbone
    if isinstance(backbone, partial):
        given = {"arguments": repr(backbone.args), "keywords": repr(backbone.keywords)}
        return {"function": _description(backbone.func), **given}
    kind = backbone if hasattr(backbone, "__qualname__") else type(backbone)
    name = f"{kind.__module__}:{kind.__qualname__}"
    if not hasattr(backbone, "state_dict"):
        return name
    digest = hashlib.sha256()
    for key, value in backbone.state_dict().items():
        digest.update(key.encode())
        digest.update(np.ascontiguousarray(value.detach().cpu().float().numpy()).tobytes())
    return {"module": name, "weights": digest.hexdigest()[:16]}
