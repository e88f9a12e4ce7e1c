"""Make views and backbones from their description, without running code that it chooses.

A description comes from a store or a model file, whose author may be unknown. Importing a module
runs it, so a name is imported only if it is one of acluster's own, or if the user trusts it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from importlib import import_module
from operator import attrgetter
from typing import Any, NoReturn, get_type_hints

from acluster.extraction._descriptors import DESCRIPTORS
from acluster.extraction._named_backbones import LOADERS
from acluster.extraction._view import View
from acluster.extraction._views import VIEWS, public_name
from acluster.sets import is_description

# The backbones that a description may name without the user's trust.
_SAFE_BACKBONES = frozenset(map(public_name, DESCRIPTORS))
_LARGEST_SETTING = 1_000_000
_REMEDY = (
    "Pass (view, backbone) for this modality, or extract the files to a store and predict on that."
)


def rebuilt(extraction: Any, *, trust: bool = False) -> dict[str, tuple[View, Any]]:
    """Return the views and backbones of a description.

    Parameters
    ----------
    extraction : dict of str to dict, or to (view, backbone)
        For each modality its description, or what to use instead.

    trust : bool, default=False
        Whether to import classes and functions that are not acluster's.

    Returns
    -------
    dict of str to (view, backbone)
        As `acluster.extraction.extract` takes them. The names of backbones are not loaded yet.

    Raises
    ------
    ValueError
        If a view or a backbone cannot be made from its description, or is not trusted.

    Examples
    --------
    >>> from acluster.extraction._rebuild import rebuilt
    >>> view = {"kind": "Frames", "n": 8, "size": 64}
    >>> described = {"view": view, "backbone": "acluster.extraction:frame_descriptor"}
    >>> rebuilt({"rgb": described})
    {'rgb': (Frames(n=8, fps=None, size=64), 'acluster.extraction:frame_descriptor')}
    """
    if not isinstance(extraction, Mapping) or not extraction:
        raise ValueError(
            f"extraction={extraction!r:.100} does not describe how features are extracted. A "
            "classifier has it, as extraction_, if it was fitted to a store of "
            "acluster.extraction.extract. Otherwise, pass a dict of (view, backbone)."
        )
    views = {}
    for name, own in extraction.items():
        if isinstance(own, tuple) and len(own) == 2 and hasattr(own[0], "read"):
            views[name] = own
        elif is_description(own):
            views[name] = _view_of(name, own["view"], trust), _backbone_of(name, own, trust)
        else:
            fail(name, f"its extraction is {own!r:.100}, which describes no view and backbone")
    return views


def _view_of(name: str, described: Mapping[str, Any], trust: bool) -> View:
    settings = {key: value for key, value in described.items() if key != "kind"}
    kind = described["kind"]
    cls = VIEWS.get(kind)
    if cls is None:
        cls = _view_class(name, kind, trust)
    else:
        hints = get_type_hints(cls)
        known = {
            one.name: hints[one.name]
            for one in fields(cls)
            if one.metadata.get("is_described", True)
        }
        for key, value in settings.items():
            if not _is_setting(value, known.get(key)):
                fail(name, f"its view, {kind:.80}, has the unknown setting {key:.80}={value!r:.80}")
    try:
        view: View = cls(**settings)
    except (TypeError, ValueError) as error:
        fail(name, f"its view, {kind:.80}, cannot be made: {error!s:.200}")
    return view


def _is_setting(value: Any, hint: Any) -> bool:
    """Whether a value has the type of a setting; an int may stand for a float."""
    if hint is None or isinstance(value, bool | list | dict):
        return False
    if isinstance(value, int | float):
        is_bounded = abs(value) <= _LARGEST_SETTING
        return is_bounded and (isinstance(value, hint) or isinstance(float(value), hint))
    return isinstance(value, hint)


def _view_class(name: str, kind: str, trust: bool) -> type[Any]:
    if ":" not in kind:
        fail(name, f"this acluster has no view {kind!r:.80}")
    _check_importable(name, kind, "view", trust)
    module, _, path = kind.partition(":")
    try:
        cls: Any = attrgetter(path)(import_module(module))
    except (ImportError, AttributeError, ValueError) as error:
        fail(name, f"its view, {kind:.80}, cannot be imported: {error!s:.200}")
    if not isinstance(cls, type) or not is_dataclass(cls) or not hasattr(cls, "read"):
        fail(name, f"its view, {kind:.80}, is not a dataclass with a method read")
    return cls


def _backbone_of(name: str, described: Mapping[str, Any], trust: bool) -> str:
    """Return the name of a backbone, if it may be loaded."""
    backbone = described["backbone"]
    if isinstance(backbone, dict):  # with what else is known of it, such as a checksum
        if not isinstance(backbone.get("name"), str):
            what = "a torch module" if "module" in backbone else "an object"
            known = next((v for v in backbone.values() if isinstance(v, str)), "")
            fail(name, f"its backbone was {what}, {known!r:.80}, which has no name to load it by")
        backbone = backbone["name"]
    if backbone not in _SAFE_BACKBONES and not _is_network(backbone):
        _check_importable(name, backbone, "backbone", trust)
    return str(backbone)


def _is_network(name: str) -> bool:
    """Whether a name is that of a pretrained network, whose loader runs no code of its author.

    A model of timm that comes from a hub or a folder may be a pickle, which is code.
    """
    prefix, _, rest = name.partition(":")
    is_known = prefix == "transformers" or not set(rest) & set(":/\\")
    return prefix in LOADERS and is_known


def _check_importable(name: str, full_name: str, what: str, trust: bool) -> None:
    if "<" in full_name:  # as in <lambda> and <locals>
        fail(name, f"its {what}, {full_name!r:.100}, is local to the program that made it")
    if not trust:
        raise ValueError(
            f"In modality {name!r:.80}: its {what} is {full_name!r:.100}, and importing it runs "
            "code that acluster does not know. If you trust the origin of the description, pass "
            f"trust=True, or --trust on the command line. {_REMEDY}"
        )


def fail(name: str, problem: str) -> NoReturn:
    """Raise a ValueError that says why a modality cannot be extracted again.

    Parameters
    ----------
    name : str
        The modality.

    problem : str
        The reason.
    """
    raise ValueError(f"In modality {name!r:.80}: {problem.removesuffix('.')}. {_REMEDY}")
