"""Convert a fitted network and its parameters to a description and tensors, and back."""

import inspect
from collections.abc import Iterable, Mapping
from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, validate_parameter_constraints

from acluster._utils._model_file import ModelFileError, Tensors
from acluster.estimators._architecture import Architecture, device_name
from acluster.estimators._json_values import from_json, numbers, one_of, plain, to_json
from acluster.estimators._labels import LabelCoding
from acluster.estimators._missing import MissingModality
from acluster.estimators._parameters import with_former_defaults
from acluster.nn import Integration
from acluster.sets import UNNAMED, check_modality_names
from acluster.training import check_operations, to_numpy_state, to_torch_state

# Building the modules of each takes a millisecond, and a hostile file may list very many.
_MAX_MODALITIES = 1000
_WIDTH = {"n_features": [Interval(Integral, 1, None, closed="left")]}


def describe_network(model: Any) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Return the description and the tensors of one network with its parameters."""
    if len(model._architecture.modalities) > _MAX_MODALITIES:
        raise ValueError(
            f"A model file holds at most {_MAX_MODALITIES} modalities; this model has "
            f"{len(model._architecture.modalities)}. Use joblib.dump."
        )
    sizes = model._architecture.to_dict()
    description = {
        "parameters": parameters_to_json(model),
        "dtype": model._dtype,
        "in_bfloat16": [*model._in_bfloat16],
        "prefers_cpu": model._prefers_cpu,
        "modalities": plain(sizes["integrations"]),
        "network": plain(sizes["network"]),
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


def with_parameters(kind: Any, parameters: dict[str, Any], coding: LabelCoding) -> Any:
    """Return an estimator with these valid parameters, and with the classes."""
    model = kind(**{name: from_json(value) for name, value in parameters.items()})
    model._validate_params()
    model._coding = coding
    model.classes_ = coding.classes
    return model


def restore_network(
    kind: Any, description: dict[str, Any], coding: LabelCoding, tensors: Tensors
) -> Any:
    """Return a classifier with its network, without the names of features and labels."""
    parameters = with_former_defaults(kind, description["parameters"])
    model = with_parameters(kind, parameters, coding)
    model._dtype = one_of(description["dtype"], ("float32", "float64"), "dtype")
    model._in_bfloat16 = check_operations(description.get("in_bfloat16", []))  # not in older files
    model._prefers_cpu = description.get("prefers_cpu") is True  # nor this
    model._architecture = _restore_architecture(model, description, tensors)
    _restore_history(model, description)
    model._random_state = check_random_state(model.random_state)
    model._optimizer_state = (model.optimizer, None)
    model._missing = _restore_missing(model, description, tensors)
    if model._is_multimodal:
        model.modalities_ = list(model._architecture.modalities)
        model.feature_means_ = dict(model._missing.means) or None
    _restore_weights(model, tensors)
    used = {f"network.{name}" for name in model.network_.state_dict()}
    check_unused(tensors, used | {f"feature_means.{name}" for name in model._missing.means})
    return model


def check_unused(names: Iterable[str], used: set[str]) -> None:
    if unused := set(names) - used:
        raise ModelFileError(f"it has the unexpected tensor {min(unused)!r:.100}")


def _restore_history(model: Any, description: dict[str, Any]) -> None:
    model.loss_curve_ = numbers(description["loss_curve"], "loss_curve")
    if not np.isfinite(model.loss_curve_).all():
        raise ModelFileError("its loss_curve is not finite")
    model.n_iter_ = len(model.loss_curve_)
    scores = description["validation_scores"]
    if scores is not None and len(numbers(scores, "validation_scores")) != model.n_iter_:
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
    if not model._is_multimodal and set(modalities) != {UNNAMED}:
        raise ModelFileError(f"its only modality is not {UNNAMED!r}")
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


def _restore_missing(model: Any, description: dict[str, Any], tensors: Tensors) -> MissingModality:
    """Return the strategy for missing modalities."""
    counts = description["n_averaged"] if model._is_multimodal else None
    if counts is None:
        return MissingModality()
    widths = model._architecture.widths
    for name, width in widths.items():
        is_right = tensors.spec(f"feature_means.{name}") == ((width,), "float64")
        if not is_right or type(counts[name]) is not int:
            raise ModelFileError(f"the mean local feature of {name!r:.80} is damaged")
    means = {name: tensors[f"feature_means.{name}"] for name in widths}
    return MissingModality("mean", means, {name: counts[name] for name in widths})


def _restore_weights(model: Any, tensors: Tensors) -> None:
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
        model.dropout, model._dtype, to_torch_state(state), device_name(model)
    )


def parameters_to_json(model: Any) -> dict[str, Any]:
    parameters = model.get_params(deep=False)
    if isinstance(parameters["random_state"], np.random.RandomState):
        parameters["random_state"] = None
    if "cv" in parameters and not isinstance(parameters["cv"], Integral):
        parameters["cv"] = None  # a splitter is code, and a list of folds is about training items
    if "integration" in parameters:
        parameters["integration"] = model._architecture.integration  # that of `fit`
    return {name: to_json(value) for name, value in parameters.items()}
