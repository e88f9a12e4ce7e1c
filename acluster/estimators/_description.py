"""From a fitted classifier to the description and the tensors of a model file, and back."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterable
from numbers import Integral
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, validate_parameter_constraints
from sklearn.utils.validation import check_is_fitted

from acluster._utils._model_file import ModelFileError, Tensors, open_model, write_model
from acluster.estimators._labels import LabelCoding
from acluster.sets import check_modality_names
from acluster.training import to_numpy_state, to_torch_state

__all__ = ["Saveable", "load"]

_LIBRARIES = ("acluster", "numpy", "sklearn", "torch")
_LABELS = {"bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"}
_LABELS |= {"float16", "float32", "float64", "str", "object"}
_SIZES = {"n_features": [Interval(Integral, 1, None, closed="left")]}


def load(path: str | os.PathLike[str]) -> Any:
    """The classifier that its method `save` wrote.

    Parameters
    ----------
    path : str or path
        The file. Nothing in it is run: it holds numbers and text, and what does not describe a
        model is refused.

    Returns
    -------
    AttentionClusterClassifier, MultimodalAttentionClusterClassifier or a rival with a network
        Fitted, on its `device`, or on the processor where there is no such device.

    Raises
    ------
    acluster.ModelFileError
        A ValueError: the file is no model, is damaged, or has a later format version than this
        acluster knows.

    OSError
        If the file cannot be read.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> import acluster
    >>> X, y = [np.eye(3), np.ones((2, 3))] * 5, ["sharp", "flat"] * 5
    >>> clf = acluster.AttentionClusterClassifier(tol=None, max_iter=50).fit(X, y)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     clf.save(f"{folder}/notes.model")
    ...     acluster.load(f"{folder}/notes.model").predict(X[:2])
    array(['sharp', 'flat'], dtype='<U5')
    """
    with open_model(path) as (description, tensors):
        if "identity" in description:
            raise ModelFileError(
                f"{path} is the checkpoint of a fit and no model. The call of fit that wrote it, "
                f"with checkpoint_dir={str(Path(path).parent)!r}, goes on from it."
            )
        name, known = description.get("class"), _classes()
        if not isinstance(name, str) or name not in known:
            raise ModelFileError(
                f"{path} holds a {name!r:.80}, which this acluster does not have; it was written "
                f"by acluster {_writer(description)}. Known are {', '.join(sorted(known))}."
            )
        try:
            return known[name]._from_description(description, tensors)
        except (KeyboardInterrupt, SystemExit, MemoryError):
            raise
        except BaseException as error:  # whatever a hostile file leads to, Rust's panic too
            reason = f"it lacks {error}" if isinstance(error, KeyError) else f"{error!s:.500}"
            raise ModelFileError(
                f"{path}, written by acluster {_writer(description)}, is no model of class {name}: "
                f"{reason or type(error).__name__}"
            ) from error


def _classes() -> dict[str, type[Saveable]]:
    """The public classes by name; they derive from what is here and are imported late."""
    import acluster.rivals

    rooms = (acluster, acluster.rivals)
    public = [getattr(room, name) for room in rooms for name in room.__all__]
    return {
        one.__name__: one for one in public if isinstance(one, type) and issubclass(one, Saveable)
    }


def _writer(description: dict[str, Any]) -> str:
    versions = description.get("versions")
    return f"{versions.get('acluster')!r:.20}" if isinstance(versions, dict) else "?"


class Saveable:
    """A set classifier as a file: its parameters, labels, sizes and numbers."""

    _architecture: dict[str, Any]
    _validate_params: Any
    # Parameters of integrations that older models do not have, and what these do.
    _later_parameters: ClassVar[dict[str, Any]] = {}
    _module_counts: tuple[str, ...] = ()  # parameters that say how many modules there are

    def save(self: Any, path: str | os.PathLike[str]) -> None:
        """Write the fitted classifier to a file, for `acluster.load` here or elsewhere.

        The file holds what it takes to predict: parameters, classes, the names and widths of the
        modalities and features, the network, the learning curve. It is in the safetensors
        format, with a description in JSON, and holds no programs. What it takes to go on with
        the same bits (the averages of the optimiser, a `random_state` that is an instance),
        callbacks, `set_output` and metadata requests are not in it; `pickle` keeps these.

        Parameters
        ----------
        path : str or path
            The file; one that is there is replaced once the new one is whole.

        Raises
        ------
        sklearn.exceptions.NotFittedError
            Before `fit`.

        TypeError
            If the class is not acluster's own, or labels are neither text, numbers nor booleans.

        ValueError
            If a parameter was set to what is not usable after `fit`.

        OSError
            If the file cannot be written.

        See Also
        --------
        acluster.load : The way back.
        """
        check_is_fitted(self)
        if _classes().get(type(self).__name__) is not type(self):
            raise TypeError(
                f"save knows the classes of acluster, and {type(self).__qualname__} is not one of "
                "them: a file could not say what it is. Use joblib.dump."
            )
        self._validate_params()
        write_model(path, *self._describe())

    def _describe(self: Any) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        parameters = self.get_params(deep=False)
        if isinstance(parameters["random_state"], np.random.RandomState):
            parameters["random_state"] = None
        names = getattr(self, "feature_names_in_", None)
        description = {
            "class": type(self).__name__,
            "versions": {
                "python": platform.python_version(),
                **{name: sys.modules[name].__version__ for name in _LIBRARIES},
            },
            "parameters": {name: _to_json(value) for name, value in parameters.items()},
            "labels": _labels_to_json(self._coding),
            "feature_names": None if names is None else list(names),
            "dtype": self._dtype,
            "modalities": _plain(self._architecture["integrations"]),
            "network": _plain(self._architecture["network"]),
            "loss_curve": self.loss_curve_,
            "validation_scores": self.validation_scores_,
        }
        state = to_numpy_state(self.network_.state_dict())
        return description, {f"network.{name}": tensor for name, tensor in state.items()}

    @classmethod
    def _from_description(cls, description: dict[str, Any], tensors: Tensors) -> Self:
        model: Any = cls(
            **{name: _from_json(value) for name, value in description["parameters"].items()}
        )
        model._validate_params()
        used = model._restore(description, tensors)
        if not_used := set(tensors) - used:
            raise ModelFileError(
                f"it has the tensor {min(not_used)!r:.100}, which no part of it needs"
            )
        return model

    def _restore(self: Any, description: dict[str, Any], tensors: Tensors) -> set[str]:
        """Become the model described; gives the names of the tensors that it took."""
        self._coding = _labels_from_json(description["labels"])
        self.classes_ = self._coding.classes
        self._dtype = _one_of(description["dtype"], ("float32", "float64"), "dtype")
        self._architecture = self._restore_architecture(description, tensors)
        widths = [part["n_features"] for part in self._architecture["integrations"].values()]
        self.n_features_in_ = sum(widths)
        names = description["feature_names"]
        if names is not None:
            self.feature_names_in_ = _texts(names, sum(widths), "feature_names")
        self.loss_curve_ = _numbers(description["loss_curve"], "loss_curve")
        if not np.isfinite(self.loss_curve_).all():
            raise ModelFileError("its loss_curve is not finite")
        self.n_iter_ = len(self.loss_curve_)
        scores = description["validation_scores"]
        if scores is not None and len(_numbers(scores, "validation_scores")) != self.n_iter_:
            raise ModelFileError(f"it has {len(scores)} validation scores of {self.n_iter_} epochs")
        self.validation_scores_ = scores
        self._random_state = check_random_state(self.random_state)
        self._optimizer_state = (self.optimizer, None)
        self.network_, used = self._restore_network(tensors)
        return used

    def _restore_architecture(
        self: Any, description: dict[str, Any], tensors: Tensors
    ) -> dict[str, Any]:
        """The sizes that the network is made of; so many modules as there are tensors for."""
        names = "n_features", *self._integration_parameters
        modalities, network = self._with_later_parameters(
            description["modalities"], description["network"]
        )
        if not 1 <= len(modalities) <= tensors.spec("network.linear.weight")[0][0]:
            raise ModelFileError(f"it has {len(modalities)} modalities")
        check_modality_names(modalities)
        for modality, part in modalities.items():
            if set(part) != set(names):
                raise ModelFileError(f"modality {modality!r:.80} has {[*part]}, not {[*names]}")
            validate_parameter_constraints(
                {**self._parameter_constraints, **_SIZES}, part, caller_name=type(self).__name__
            )
        for name in self._module_counts:
            if sum(part[name] for part in modalities.values()) > len(tensors):
                raise ModelFileError(f"its {name} are more than its tensors")
        if set(network) != set(self._network_options()):
            raise ModelFileError(f"its network has the options {[*network]}")
        return {
            "integrations": modalities,
            "n_outputs": self._coding.n_outputs,
            "network": network,
        }

    def _with_later_parameters(
        self, integrations: dict[str, Any], network: dict[str, Any]
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Sizes and options of a network that may be older than some of these."""
        own = {name: {**self._later_parameters, **part} for name, part in integrations.items()}
        return own, {"standardize": False, **network}

    def _restore_network(self: Any, tensors: Tensors) -> tuple[torch.nn.Module, set[str]]:
        """The network; nothing is allocated or read before names, shapes and dtypes agree."""
        wanted = self._unallocated_network().to(getattr(torch, self._dtype)).state_dict()
        names = {name: f"network.{name}" for name in wanted}
        for name, of_file in names.items():
            given = tensors.spec(of_file)
            should_be = tuple(wanted[name].shape), str(wanted[name].dtype).removeprefix("torch.")
            if given != should_be:
                raise ModelFileError(
                    f"tensor {name!r} is {given[0]}, {given[1]}; by its sizes and dtype it should "
                    f"be {should_be[0]}, {should_be[1]}"
                )
        state = {name: tensors[of_file] for name, of_file in names.items()}
        return self._network_from(to_torch_state(state)), set(names.values())


def _plain(value: Any) -> Any:
    """With Python's numbers in the place of numpy's."""
    if isinstance(value, dict):
        return {name: _plain(own) for name, own in value.items()}
    if isinstance(value, type):
        raise TypeError(
            f"save cannot write {value.__qualname__}, a class of your own: a model file holds no "
            "programs. Use joblib.dump."
        )
    return value.item() if isinstance(value, np.generic) else value


def _to_json(value: Any) -> Any:
    """A parameter; keys of dicts, which JSON would make text, stand in pairs."""
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
            f"save writes labels that are text, numbers or booleans; these are {classes.dtype}, "
            f"as {values[0]!r}. Fit on y.astype(str), or use joblib.dump."
        )
    return {"kind": coding.kind, "dtype": kind, "classes": values}


def _labels_from_json(labels: dict[str, Any]) -> LabelCoding:
    dtype = _one_of(labels["dtype"], _LABELS, "dtype of the labels")
    if dtype in ("str", "object"):
        classes = _texts(labels["classes"], len(labels["classes"]), "classes")
        classes = classes.astype(str) if dtype == "str" else classes
    else:
        classes = np.array(labels["classes"], dtype=dtype)
    kind = _one_of(labels["kind"], ("binary", "multiclass", "multilabel"), "kind of the labels")
    if classes.ndim != 1 or not np.array_equal(np.unique(classes), classes):
        raise ModelFileError("its classes are not in order, each once")
    if kind == "multilabel":
        is_right = np.array_equal(classes, np.arange(len(classes))) and len(classes) > 1
    else:
        is_right = len(classes) == 2 if kind == "binary" else len(classes) > 2
    if not is_right:
        raise ModelFileError(f"{len(classes)} classes are not {kind}")
    return LabelCoding(kind, classes)


def _one_of(value: Any, known: Iterable[str], name: str) -> str:
    if not isinstance(value, str) or value not in known:
        raise ModelFileError(f"its {name} is {value!r:.80}, not one of {sorted(known)}")
    return value


def _texts(values: Any, n: int, name: str) -> NDArray[np.object_]:
    if not isinstance(values, list) or len(values) != n or not all(type(v) is str for v in values):
        raise ModelFileError(f"its {name} are not {n} texts")
    return np.array(values, dtype=object)


def _numbers(values: Any, name: str) -> list[float]:
    if not isinstance(values, list) or not all(type(v) is float for v in values):
        raise ModelFileError(f"its {name} is not a list of numbers")
    return values
