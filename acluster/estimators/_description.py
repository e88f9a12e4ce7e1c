"""Convert a fitted classifier to the description and the tensors of a model file, and back."""

import inspect
import platform
import sys
from collections.abc import Iterable, Mapping
from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, validate_parameter_constraints

from acluster._utils._model_file import ModelFileError, Tensors
from acluster.estimators._architecture import Architecture
from acluster.estimators._items import copy_checked
from acluster.estimators._labels import LabelCoding
from acluster.estimators._missing import MissingModality
from acluster.nn import Integration
from acluster.sets import check_modality_names
from acluster.training import to_numpy_state, to_torch_state

_LIBRARIES = ("acluster", "numpy", "sklearn", "torch")
_LABELS = {"bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"}
_LABELS |= {"float16", "float32", "float64", "str", "object"}
# Building the modules of each takes a millisecond, and a hostile file may list very many.
_MAX_MODALITIES = 1000
_MAX_NETWORKS = 500  # of a portfolio; each takes a few milliseconds
_MAX_TEXT = 20_000_000
_WIDTH = {"n_features": [Interval(Integral, 1, None, closed="left")]}


def check_savable(model: Any) -> None:
    """Raise a TypeError for a class that `acluster.load` could not find."""
    if not type(model).__module__.startswith("acluster."):
        raise TypeError(
            f"save supports only the classes of acluster; {type(model).__qualname__} is not one of "
            "them, and load could not find it. Use joblib.dump."
        )


def describe(model: Any) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Return the JSON description and the tensors of a fitted classifier."""
    names = getattr(model, "feature_names_in_", None)
    description = {
        "class": type(model).__name__,
        "versions": {
            "python": platform.python_version(),
            **{name: sys.modules[name].__version__ for name in _LIBRARIES},
        },
        "labels": _labels_to_json(model._coding),
        "feature_names": None if names is None else list(names),
        "label_names": getattr(model, "label_names_", []),  # not in older pickles
        "one_row": model._one_row,
    }
    is_portfolio = hasattr(model, "_classifier")
    own, tensors = _describe_portfolio(model) if is_portfolio else _describe_network(model)
    return description | own, tensors


def _describe_portfolio(model: Any) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    if model.n_iter_.size > _MAX_NETWORKS:
        raise ValueError(
            f"A model file holds at most {_MAX_NETWORKS} networks; this model has "
            f"{model.n_iter_.size}, one per configuration and fold. Use joblib.dump."
        )
    tensors: dict[str, NDArray[Any]] = {"oof_proba": model.oof_proba_}
    networks: list[list[dict[str, Any]]] = []
    for i, folds in enumerate(model.estimators_):
        described = [_describe_network(one) for one in folds]
        networks.append([own for own, _ in described])
        for j, (_, state) in enumerate(described):
            tensors |= {f"{_group(i, j)}/{name}": tensor for name, tensor in state.items()}
    description = {
        "parameters": _parameters_to_json(model),
        "portfolio": [
            {name: _to_json(value) for name, value in own.items()} for own in model.portfolio_
        ],
        "weights": model.weights_.tolist(),
        "oof_score": model.oof_score_,
        "networks": networks,
    }
    return description, tensors


def _describe_network(model: Any) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Return what differs between the classifiers of a portfolio."""
    if len(model._architecture.modalities) > _MAX_MODALITIES:
        raise ValueError(
            f"A model file holds at most {_MAX_MODALITIES} modalities; this model has "
            f"{len(model._architecture.modalities)}. Use joblib.dump."
        )
    sizes = model._architecture.to_dict()
    description = {
        "parameters": _parameters_to_json(model),
        "dtype": model._dtype,
        "modalities": _plain(sizes["integrations"]),
        "network": _plain(sizes["network"]),
        "loss_curve": model.loss_curve_,
        "validation_scores": model.validation_scores_,
    }
    state = to_numpy_state(model.network_.state_dict())
    tensors = {f"network.{name}": tensor for name, tensor in state.items()}
    if model._is_multimodal:
        missing = model._missing
        description["n_averaged"] = dict(missing.counts) if missing.means else None
        tensors |= {f"feature_means.{name}": mean for name, mean in missing.means.items()}
    return description, tensors


def restore(kind: type, description: dict[str, Any], tensors: Tensors) -> Any:
    """Invert `describe` for a class of classifiers; a damaged file may raise any exception."""
    coding = _labels_from_json(description["labels"])
    if hasattr(kind, "_classifier"):
        return _restore_portfolio(kind, description, coding, tensors)
    model = _restore_classifier(kind, description, coding, tensors)
    _restore_names(model, description, model._architecture.widths)
    return model


def _restore_portfolio(
    kind: Any, description: dict[str, Any], coding: LabelCoding, tensors: Tensors
) -> Any:
    model = _with_parameters(kind, description["parameters"], coding)
    portfolio, networks = description["portfolio"], description["networks"]
    weights = np.array(_numbers(description["weights"], "weights"))
    n_networks = {len(folds) for folds in networks}
    if len(n_networks) != 1 or not 1 <= len(networks) * max(n_networks) <= _MAX_NETWORKS:
        raise ModelFileError("its configurations have no networks, too many, or not equally many")
    if not len(weights) == len(portfolio) == len(networks):
        raise ModelFileError("its portfolio, weights and networks differ in number")
    if not ((weights >= 0).all() and abs(weights.sum() - 1) < 1e-6):
        raise ModelFileError("its weights are not shares that add up to 1")
    groups = tensors.groups()
    model.portfolio_ = [
        {name: _from_json(value) for name, value in own.items()} for own in portfolio
    ]
    for own in portfolio:
        _with_parameters(kind._classifier, own, coding)  # raises if they are invalid
    model.estimators_ = [
        [
            _restore_classifier(kind._classifier, own, coding, groups.pop(_group(i, j)))
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
    [model.oof_score_] = _numbers([description["oof_score"]], "oof_score")
    shape, dtype = tensors.spec("oof_proba")
    if len(shape) != 2 or shape[1] != len(coding.classes) or dtype != "float64":
        raise ModelFileError(f"its oof_proba has shape {shape} and dtype {dtype}")
    model.oof_proba_ = tensors["oof_proba"]
    _check_unused(groups.pop(""), {"oof_proba"})
    _check_unused(groups, set())
    return model


def _group(configuration: int, fold: int) -> str:
    """Return the group of the tensors of a network."""
    return f"configuration{configuration}/fold{fold}"


def _with_parameters(kind: Any, parameters: dict[str, Any], coding: LabelCoding) -> Any:
    """Return an estimator with these valid parameters, and with the classes."""
    model = kind(**{name: _from_json(value) for name, value in parameters.items()})
    model._validate_params()
    model._coding = coding
    model.classes_ = coding.classes
    return model


def _restore_classifier(
    kind: Any, description: dict[str, Any], coding: LabelCoding, tensors: Tensors
) -> Any:
    """Return a classifier with its network, without the names of features and labels."""
    model = _with_parameters(kind, description["parameters"], coding)
    model._dtype = _one_of(description["dtype"], ("float32", "float64"), "dtype")
    model._architecture = _restore_architecture(model, description, tensors)
    _restore_history(model, description)
    model._random_state = check_random_state(model.random_state)
    model._optimizer_state = (model.optimizer, None)
    model._missing, used = _restore_missing(model, description, tensors)
    if model._is_multimodal:
        model.modalities_ = list(model._architecture.modalities)
        model.feature_means_ = dict(model._missing.means) or None
    used |= _restore_network(model, tensors)
    _check_unused(tensors, used)
    return model


def _check_unused(names: Iterable[str], used: set[str]) -> None:
    if unused := set(names) - used:
        raise ModelFileError(f"it has the unexpected tensor {min(unused)!r:.100}")


def _restore_names(model: Any, description: dict[str, Any], widths: dict[str, int]) -> None:
    width = sum(widths.values())
    model.n_features_in_ = width
    names = description["feature_names"]
    if names is not None:
        model.feature_names_in_ = _texts(names, width, "feature_names")
    names = description.get("label_names", [])  # which older files lack
    n_labels = len(model.classes_) if names and model._coding.kind == "multilabel" else 0
    model.label_names_ = list(_texts(names, n_labels, "label_names"))
    # Older files lack this list: then no two-dimensional X raises a warning.
    one_row = description.get("one_row", list(widths))
    model._one_row = list(_texts(one_row, len(one_row), "one_row"))


def _restore_history(model: Any, description: dict[str, Any]) -> None:
    model.loss_curve_ = _numbers(description["loss_curve"], "loss_curve")
    if not np.isfinite(model.loss_curve_).all():
        raise ModelFileError("its loss_curve is not finite")
    model.n_iter_ = len(model.loss_curve_)
    scores = description["validation_scores"]
    if scores is not None and len(_numbers(scores, "validation_scores")) != model.n_iter_:
        raise ModelFileError(f"it has {len(scores)} validation scores for {model.n_iter_} epochs")
    model.validation_scores_ = scores


def _restore_architecture(
    model: Any, description: dict[str, Any], tensors: Tensors
) -> Architecture:
    """Check and return the architecture: building that of a malicious file must not hang."""
    modalities, network = description["modalities"], description["network"]
    if len(modalities) > _MAX_MODALITIES:
        raise ModelFileError(f"it has {len(modalities)} modalities, more than {_MAX_MODALITIES}")
    n_members = network.get("n_members", 1)
    if type(n_members) is not int or not 1 <= n_members <= len(tensors):
        raise ModelFileError(f"its n_members is {n_members!r:.80}")
    first = "network.linear.weight" if n_members == 1 else "network.members.0.linear.weight"
    if not 1 <= len(modalities) <= tensors.spec(first)[0][0]:
        raise ModelFileError(f"it has {len(modalities)} modalities")
    if not model._is_multimodal and set(modalities) != {"features"}:
        raise ModelFileError("its only modality is not 'features'")
    check_modality_names(modalities)
    sizes = {"integrations": modalities, "network": network, "n_outputs": model._coding.n_outputs}
    is_softmax = model._coding.kind == "multiclass"
    offered = {"standardize", "n_members"} | ({"fusion"} if model.fusion is not None else set())
    if not set(network) <= offered:
        raise ModelFileError(f"its network has the options {[*network]!r:.200}")
    architecture = Architecture.from_dict(sizes, model._integration, is_softmax)
    known = set(inspect.signature(model._integration).parameters)
    for modality, arguments in architecture.modalities.items():
        if set(arguments) != known:
            raise ModelFileError(
                f"modality {modality!r:.80} has {[*arguments]!r:.200}, not {[*known]}"
            )
        constraints = {**model._parameter_constraints, **_WIDTH}
        validate_parameter_constraints(constraints, arguments, caller_name=type(model).__name__)
        for name, value in arguments.items():
            if isinstance(value, bool) and "boolean" not in constraints[name]:
                raise ModelFileError(f"the {name} of modality {modality!r:.80} is {value}")
    _check_module_counts(model._integration, architecture.modalities, tensors)
    return architecture


def _check_module_counts(
    integration: type[Integration], modalities: Mapping[str, Mapping[str, Any]], tensors: Tensors
) -> None:
    """Reject more submodules than the file has tensors, before they are built."""
    for name in integration.module_counts:
        if sum(arguments[name] for arguments in modalities.values()) > len(tensors):
            raise ModelFileError(f"its {name} exceeds the number of its tensors")


def _restore_missing(
    model: Any, description: dict[str, Any], tensors: Tensors
) -> tuple[MissingModality, set[str]]:
    """Return the strategy for missing modalities, and the names of its tensors."""
    if not model._is_multimodal:
        return MissingModality(), set()
    widths, counts = model._architecture.widths, description["n_averaged"]
    if counts is None:
        return MissingModality(), set()
    names = {name: f"feature_means.{name}" for name in widths}
    for name, of_file in names.items():
        is_right = tensors.spec(of_file) == ((widths[name],), "float64")
        if not is_right or type(counts[name]) is not int:
            raise ModelFileError(f"the mean local feature of {name!r:.80} is damaged")
    means = {name: tensors[of_file] for name, of_file in names.items()}
    missing = MissingModality("mean", means, {name: counts[name] for name in widths})
    return missing, set(names.values())


def _restore_network(model: Any, tensors: Tensors) -> set[str]:
    """Set the network; check all names, shapes and dtypes before memory is allocated."""
    outline = model._architecture.outline(model.dropout)
    expected = {
        name: (tuple(tensor.shape), model._dtype if tensor.is_floating_point() else "int64")
        for name, tensor in outline.state_dict().items()
    }
    for name, (shape, dtype) in expected.items():
        found = tensors.spec(f"network.{name}")
        if found != (shape, dtype):
            raise ModelFileError(
                f"tensor {name!r} has shape {found[0]} and dtype {found[1]}; the description needs "
                f"{shape}, {dtype}"
            )
    state = {name: tensors[f"network.{name}"] for name in expected}
    model.network_ = model._architecture.build(
        model.dropout, model._dtype, to_torch_state(state), model.device
    )
    return {f"network.{name}" for name in expected}


def _parameters_to_json(model: Any) -> dict[str, Any]:
    parameters = model.get_params(deep=False)
    if isinstance(parameters["random_state"], np.random.RandomState):
        parameters["random_state"] = None
    if "cv" in parameters and not isinstance(parameters["cv"], Integral):
        parameters["cv"] = None  # a splitter is code, and a list of folds is about training items
    if "integration" in parameters:
        parameters["integration"] = model._architecture.integration  # that of `fit`
    return {name: _to_json(value) for name, value in parameters.items()}


def _plain(value: Any) -> Any:
    """Return the value with numpy scalars converted to Python numbers."""
    if isinstance(value, Mapping):
        return {name: _plain(own) for name, own in value.items()}
    if isinstance(value, type):
        raise TypeError(
            f"save cannot write the class {value.__qualname__}: a model file contains no code. Use "
            "joblib.dump."
        )
    return value.item() if isinstance(value, np.generic) else value


def _to_json(value: Any) -> Any:
    """Convert a parameter for JSON; dicts become pairs, because their keys may be numbers."""
    if isinstance(value, dict):
        return {"pairs": [[_plain(key), _plain(own)] for key, own in value.items()]}
    return _plain(value)


def _from_json(value: Any) -> Any:
    return dict(value["pairs"]) if isinstance(value, dict) else value


def _labels_to_json(coding: LabelCoding) -> dict[str, Any]:
    classes = coding.classes
    kind = "str" if classes.dtype.kind == "U" else classes.dtype.name
    values = classes.tolist()
    if kind not in _LABELS or (
        kind == "object" and not all(isinstance(value, str) for value in values)
    ):
        raise TypeError(
            f"save supports labels that are text, numbers or booleans; these are {classes.dtype}, "
            f"such as {values[0]!r}. Fit on y.astype(str), or use joblib.dump."
        )
    return {"kind": coding.kind, "dtype": kind, "classes": values}


def _labels_from_json(labels: dict[str, Any]) -> LabelCoding:
    dtype = _one_of(labels["dtype"], _LABELS, "dtype of the labels")
    values = labels["classes"]
    if dtype in ("str", "object"):
        classes = _texts(values, len(values), "classes")
        # An array of text gives every class the room of the longest.
        if dtype == "str" and len(values) * max(map(len, values), default=0) > _MAX_TEXT:
            raise ModelFileError("a name among its classes is too long")
        classes = classes.astype(str) if dtype == "str" else classes
    else:
        classes = np.array(values, dtype=dtype)
    if classes.tolist() != values:  # numpy rounds numbers and reads numbers in text
        raise ModelFileError(f"its classes are not of the type {dtype}")
    kind = _one_of(labels["kind"], ("binary", "multiclass", "multilabel"), "kind of the labels")
    if classes.ndim != 1 or not np.array_equal(np.unique(classes), classes):
        raise ModelFileError("its classes are not sorted and unique")
    if kind == "multilabel":
        is_right = np.array_equal(classes, np.arange(len(classes))) and len(classes) > 1
    else:
        is_right = len(classes) == 2 if kind == "binary" else len(classes) > 2
    if not is_right:
        raise ModelFileError(f"it has {len(classes)} classes, which does not match {kind!r}")
    return LabelCoding(kind, classes)


def _one_of(value: Any, known: Iterable[str], name: str) -> str:
    if not isinstance(value, str) or value not in known:
        raise ModelFileError(f"its {name} is {value!r:.80}, not one of {sorted(known)}")
    return value


def _texts(values: Any, n: int, name: str) -> NDArray[np.object_]:
    if not isinstance(values, list) or len(values) != n or not all(type(v) is str for v in values):
        raise ModelFileError(f"its {name} are not {n} strings")
    return np.array(values, dtype=object)


def _numbers(values: Any, name: str) -> list[float]:
    if not isinstance(values, list) or not all(type(v) is float for v in values):
        raise ModelFileError(f"its {name} is not a list of numbers")
    return values
