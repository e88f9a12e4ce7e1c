"""A set classifier of several modalities: their names and widths, what stands for a missing one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils._param_validation import validate_parameter_constraints
from sklearn.utils.validation import check_is_fitted

from acluster._utils._model_file import ModelFileError, Tensors
from acluster.estimators._set_classifier import SetClassifier
from acluster.sets import FeatureSets, MultimodalFeatureSets, check_multimodal_sets
from acluster.training import FeatureMoments

__all__ = ["ManyModalities"]

# Stands in docstrings in the place of "{modalities}".
MODALITIES = """\
    modalities_ : list of str
        Their names, in the order of the global feature; sets without a name are one, "features".

    feature_means_ : dict of str to ndarray of shape (M,), or None
        The mean training feature of every modality, which stands for one that an item lacks; None
        under ``missing_modality="mask"``.
"""


class ManyModalities(SetClassifier):
    """Finds the modalities and their widths in the data; items may lack some.

    Sets that come without a name are one modality.
    """

    missing_modality = "mean"  # a parameter of some

    _widths: dict[str, int]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if cls.__doc__:
            cls.__doc__ = cls.__doc__.replace("    {modalities}\n", MODALITIES)

    @property
    def modalities_(self) -> list[str]:
        """The names of the modalities, in the order of the global feature."""
        check_is_fitted(self)
        return list(self._widths)

    def _check_X(self, X: Any, reset: bool) -> MultimodalFeatureSets:
        X = check_multimodal_sets(X, estimator=self, seen=None if reset else self._widths)
        if reset:
            self._widths = X.n_features
        return X

    def _modalities(self, X: MultimodalFeatureSets) -> dict[str, FeatureSets]:
        return {name: X[name] for name in X.names}

    def _per_modality(self, parameter: str, names: Iterable[str]) -> dict[str, Any]:
        value = getattr(self, parameter)
        if not isinstance(value, dict):
            return super()._per_modality(parameter, names)
        if set(value) != set(names):
            raise ValueError(
                f"{parameter}={value!r} names the modalities {[*value]}, but X has {[*names]}. "
                "Give each of these a value, or one value for all."
            )
        of_one = [kind for kind in self._parameter_constraints[parameter] if kind is not dict]
        for name in names:
            validate_parameter_constraints(
                {f"{parameter}[{name!r}]": of_one},
                {f"{parameter}[{name!r}]": value[name]},
                caller_name=type(self).__name__,
            )
        return {name: value[name] for name in names}

    def _start(self, X: MultimodalFeatureSets, coding: Any, resumes: bool) -> None:
        super()._start(X, coding, resumes)
        if not resumes:
            self.feature_means_: dict[str, NDArray[np.float64]] | None = None
            self._n_averaged = dict.fromkeys(X.names, 0)

    @property
    def _needs_means(self) -> bool:
        return self.missing_modality == "mean"

    def _learn_stand_ins(self, moments: list[FeatureMoments]) -> None:
        if self.missing_modality == "mask":
            self.feature_means_, self._n_averaged = None, dict.fromkeys(self.modalities_, 0)
            return
        means, counts = dict(self.feature_means_ or {}), dict(self._n_averaged)
        for name, (mean, _, count) in zip(self.modalities_, moments, strict=True):
            counts[name] += count
            before = means.get(name, np.zeros_like(mean))
            means[name] = before + (mean - before) * (count / max(counts[name], 1))
        self.feature_means_, self._n_averaged = means, counts

    def _stand_ins(self) -> list[NDArray[Any] | None]:
        if self.feature_means_ is None:
            return super()._stand_ins()
        return [self.feature_means_[name] for name in self.modalities_]

    def _describe(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        description, tensors = super()._describe()
        means = self.feature_means_
        description["n_averaged"] = None if means is None else self._n_averaged
        return description, tensors | {
            f"feature_means.{name}": mean for name, mean in (means or {}).items()
        }

    def _restore(self, description: dict[str, Any], tensors: Tensors) -> set[str]:
        used = super()._restore(description, tensors)
        parts, counts = self._architecture["integrations"], description["n_averaged"]
        self._widths = {name: part["n_features"] for name, part in parts.items()}
        self._n_averaged, self.feature_means_ = dict.fromkeys(parts, 0), None
        if counts is None:
            return used
        names = {name: f"feature_means.{name}" for name in parts}
        for name, of_file in names.items():
            is_right = tensors.spec(of_file) == ((self._widths[name],), "float64")
            if not is_right or type(counts[name]) is not int:
                raise ModelFileError(f"the mean local feature of {name!r:.80} is damaged")
        self._n_averaged = {name: counts[name] for name in parts}
        self.feature_means_ = {name: tensors[of_file] for name, of_file in names.items()}
        return used | set(names.values())
