"""Describe a fitted classifier for a model file, and restore it."""

import os
import platform
import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

from acluster._utils._model_file import ModelFileError, Tensors, write_model
from acluster.estimators._description import (
    check_unused,
    describe_network,
    parameters_to_json,
    restore_network,
    with_parameters,
)
from acluster.estimators._items import copy_checked
from acluster.estimators._json_values import (
    from_json,
    labels_from_json,
    labels_to_json,
    numbers,
    texts,
    to_json,
)
from acluster.estimators._labels import LabelCoding
from acluster.sets import is_description

_LIBRARIES = ("acluster", "numpy", "sklearn", "torch")
# Building a network takes a few milliseconds, and a hostile file may list very many.
_MAX_NETWORKS, _MAX_INTEGRATIONS = 500, 2000


def save_model(model: Any, path: str | os.PathLike[str]) -> None:
    """Write a fitted classifier to a model file."""
    if not type(model).__module__.startswith("acluster."):
        raise TypeError(
            f"save supports only the classes of acluster; {type(model).__qualname__} is not one of "
            "them, and load could not find it. Use joblib.dump."
        )
    model._validate_params()
    write_model(path, *describe(model))


def describe(model: Any) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Return the JSON description and the tensors of a fitted classifier."""
    names = getattr(model, "feature_names_in_", None)
    description = {
        "class": type(model).__name__,
        "versions": {
            "python": platform.python_version(),
            **{name: sys.modules[name].__version__ for name in _LIBRARIES},
        },
        "labels": labels_to_json(model._coding),
        "feature_names": None if names is None else list(names),
        "label_names": getattr(model, "label_names_", []),  # not in older pickles
        "one_row": model._one_row,
        "extraction": getattr(model, "extraction_", None),  # not in older pickles
    }
    is_portfolio = hasattr(model, "_classifier")
    own, tensors = _describe_portfolio(model) if is_portfolio else describe_network(model)
    return description | own, tensors


def restore(kind: type, description: dict[str, Any], tensors: Tensors) -> Any:
    """Invert `describe` for a class of classifiers; a damaged file may raise any exception."""
    coding = labels_from_json(description["labels"])
    if hasattr(kind, "_classifier"):
        return _restore_portfolio(kind, description, coding, tensors)
    model = restore_network(kind, description, coding, tensors)
    _restore_names(model, description, model._architecture.widths)
    return model


def _restore_names(model: Any, description: dict[str, Any], widths: dict[str, int]) -> None:
    width = sum(widths.values())
    model.n_features_in_ = width
    names = description["feature_names"]
    if names is not None:
        model.feature_names_in_ = texts(names, width, "feature_names")
    names = description.get("label_names", [])  # which older files lack
    n_labels = len(model.classes_) if names and model._coding.kind == "multilabel" else 0
    model.label_names_ = list(texts(names, n_labels, "label_names"))
    # Older files lack this list: then no two-dimensional X raises a warning.
    one_row = description.get("one_row", list(widths))
    model._one_row = list(texts(one_row, len(one_row), "one_row"))
    model.extraction_ = _extraction_of(description.get("extraction"), widths)


def _extraction_of(given: Any, widths: dict[str, int]) -> dict[str, Any] | None:
    """Check and return how the features of `fit` were extracted, which older files lack.

    Nothing that it names is imported here, or anywhere without the user's request.
    """
    if given is None:
        return None
    if not isinstance(given, dict) or set(given) != set(widths):
        raise ModelFileError(f"its extraction is {given!r:.200}, not a dict of its modalities")
    for name, own in given.items():
        if own is not None and not is_description(own):
            raise ModelFileError(f"its extraction of {name!r:.80} is {own!r:.200}")
    return given


def _describe_portfolio(model: Any) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    if model.n_iter_.size > _MAX_NETWORKS:
        raise ValueError(
            f"A model file holds at most {_MAX_NETWORKS} networks; this model has "
            f"{model.n_iter_.size}, one per configuration and fold. Use joblib.dump."
        )
    classifiers = [one for folds in model.estimators_ for one in folds]
    for one in classifiers:
        one._validate_params()
    n_integrations = sum(len(one._architecture.modalities) for one in classifiers)
    if n_integrations > _MAX_INTEGRATIONS:
        raise ValueError(
            f"The networks of a model file have at most {_MAX_INTEGRATIONS} modalities in all; "
            f"those of this model have {n_integrations}. Use joblib.dump."
        )
    tensors: dict[str, NDArray[Any]] = {"oof_proba": model.oof_proba_}
    networks: list[list[dict[str, Any]]] = []
    for i, folds in enumerate(model.estimators_):
        described = [describe_network(one) for one in folds]
        networks.append([own for own, _ in described])
        for j, (_, state) in enumerate(described):
            tensors |= {f"{_group(i, j)}/{name}": tensor for name, tensor in state.items()}
    description = {
        "parameters": parameters_to_json(model),
        "portfolio": [
            {name: to_json(value) for name, value in own.items()} for own in model.portfolio_
        ],
        "weights": model.weights_.tolist(),
        "oof_score": model.oof_score_,
        "networks": networks,
    }
    return description, tensors


def _restore_portfolio(
    kind: Any, description: dict[str, Any], coding: LabelCoding, tensors: Tensors
) -> Any:
    model = with_parameters(kind, description["parameters"], coding)
    portfolio, networks = description["portfolio"], description["networks"]
    weights = np.array(numbers(description["weights"], "weights"))
    n_networks = {len(folds) for folds in networks}
    if len(n_networks) != 1 or not 1 <= len(networks) * max(n_networks) <= _MAX_NETWORKS:
        raise ModelFileError("its configurations have no networks, too many, or not equally many")
    if sum(len(own["modalities"]) for folds in networks for own in folds) > _MAX_INTEGRATIONS:
        raise ModelFileError(f"its networks have more than {_MAX_INTEGRATIONS} modalities in all")
    if not len(weights) == len(portfolio) == len(networks):
        raise ModelFileError("its portfolio, weights and networks differ in number")
    if not ((weights >= 0).all() and abs(weights.sum() - 1) < 1e-6):
        raise ModelFileError("its weights are not shares that add up to 1")
    groups = tensors.groups()
    model.portfolio_ = [
        {name: from_json(value) for name, value in own.items()} for own in portfolio
    ]
    for own in portfolio:
        with_parameters(kind._classifier, own, coding)  # raises if they are invalid
    model.estimators_ = [
        [
            restore_network(kind._classifier, own, coding, groups.pop(_group(i, j)))
            for j, own in enumerate(folds)
        ]
        for i, folds in enumerate(networks)
    ]
    classifiers = [one for folds in model.estimators_ for one in folds]
    inputs = [([*one._architecture.widths.items()], one._dtype) for one in classifiers]
    if any(one != inputs[0] for one in inputs):
        raise ModelFileError("its networks differ in the features that they take")
    _restore_names(model, description, classifiers[0]._architecture.widths)
    for one in classifiers:
        copy_checked(model, one)
    model.n_iter_ = np.array([[one.n_iter_ for one in folds] for folds in model.estimators_])
    model.weights_ = weights
    [model.oof_score_] = numbers([description["oof_score"]], "oof_score")
    shape, dtype = tensors.spec("oof_proba")
    if len(shape) != 2 or shape[1] != len(coding.classes) or dtype != "float64":
        raise ModelFileError(f"its oof_proba has shape {shape} and dtype {dtype}")
    model.oof_proba_ = tensors["oof_proba"]
    check_unused(groups.pop(""), {"oof_proba"})
    check_unused(groups, set())
    return model


def _group(configuration: int, fold: int) -> str:
    """Return the group of the tensors of a network."""
    return f"configuration{configuration}/fold{fold}"
