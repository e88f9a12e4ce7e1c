"""Classifiers that train any integration: the public class, and the base class of the rivals."""

import inspect
from dataclasses import dataclass
from typing import Any, Self

from sklearn.base import ClassNamePrefixFeaturesOutMixin

from acluster.estimators._architecture import members_of
from acluster.estimators._parameters import estimator, parameter
from acluster.estimators._set_classifier import SetClassifier
from acluster.nn import Integration

_PREFIX = "integration__"


class BaseIntegrationClassifier(ClassNamePrefixFeaturesOutMixin, SetClassifier):
    """The base class of classifiers whose global features have numbers instead of names."""

    @property
    def _n_features_out(self) -> int:
        return sum(
            integration.global_size
            for member in members_of(self.network_)
            for integration in member.integrations
        )


@dataclass(kw_only=True, eq=False, repr=False)
class IntegrationParameters:
    """The parameters of `IntegrationClassifier`; they precede the training parameters."""

    integration: type[Integration] | None = parameter(
        default=None,
        type="subclass of acluster.nn.Integration",
        constraints=[callable, None],
        doc="""
        The class of the torch module that integrates the local features. Its constructor takes
        ``n_features``, the width of a local feature, and `integration_params`, by keyword.
        Required.
        """,
    )
    integration_params: dict[str, Any] | None = parameter(
        default=None,
        type="dict",
        constraints=[dict, None],
        doc="Arguments of `integration` other than ``n_features``, the same for every modality.",
    )


@estimator
class IntegrationClassifier(BaseIntegrationClassifier, IntegrationParameters):
    """Classify items with a custom integration.

    The integration maps the local features of a set to one vector, the global feature. The global
    features of all modalities are concatenated and pass through dropout and one linear layer.
    Checks, stores, missing modalities, callbacks, checkpoints and training work as in the other
    classifiers.

    See Also
    --------
    acluster.nn.Integration : The base class to derive from.
    acluster.rivals : Classifiers with ready-made integrations.

    Notes
    -----
    Arguments of the integration can be searched by name:
    ``GridSearchCV(clf, {"integration__hidden_size": [16, 64]})``.

    The class passes through `clone`, searches and pickles like any parameter. Other processes can
    use it only if they can import it from a module. `save` rejects a custom class, because model
    files contain no code; use :func:`joblib.dump`.

    Examples
    --------
    >>> import numpy as np
    >>> import torch
    >>> from acluster import IntegrationClassifier
    >>> from acluster.nn import Integration
    >>> class Largest(Integration):
    ...     '''The mean of the `n_largest` largest values of every feature.'''
    ...
    ...     def __init__(self, n_features, n_largest=1):
    ...         super().__init__()
    ...         self.n_largest = n_largest
    ...         self.global_size = n_features
    ...
    ...     def forward(self, values, offsets):
    ...         sets = values.split(offsets.diff().tolist())
    ...         tops = [x.topk(min(self.n_largest, len(x)), dim=0).values for x in sets]
    ...         return torch.stack([top.mean(dim=0) for top in tops])
    >>> X, y = [np.eye(3)[[i % 3, 0]] for i in range(30)], np.arange(30) % 3
    >>> clf = IntegrationClassifier(
    ...     integration=Largest, integration_params={"n_largest": 2}, random_state=0
    ... )
    >>> clf.fit(X, y).score(X, y)
    1.0
    """

    @property
    def _integration(self) -> type[Integration]:  # type: ignore[override]
        if not (isinstance(self.integration, type) and issubclass(self.integration, Integration)):
            raise ValueError(
                f"integration={self.integration!r} is not a subclass of acluster.nn.Integration. "
                "Derive a class from it, and pass the class, not an instance."
            )
        return self.integration

    def _integration_arguments(self, modalities: list[str]) -> dict[str, dict[str, Any]]:
        arguments = dict(self.integration_params or {})
        signature = inspect.signature(self._integration)
        try:
            signature.bind(n_features=1, **arguments)
        except TypeError as error:
            reason = str(error).removeprefix("inspect.Signature.bind() ")
            raise ValueError(
                f"integration_params={arguments!r} do not fit "
                f"{self._integration.__qualname__}{signature}: {reason}."
            ) from None
        return {modality: arguments for modality in modalities}

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return the parameters; with `deep`, also those of the integration, by prefixed names.

        Parameters
        ----------
        deep : bool, default=True
            Whether ``integration_params`` are also listed as ``integration__name``.

        Returns
        -------
        dict of str to object
        """
        parameters: dict[str, Any] = super().get_params(deep=deep)
        own = self.integration_params
        if deep and isinstance(own, dict):  # other values are reported by `fit`
            parameters |= {f"{_PREFIX}{name}": value for name, value in own.items()}
        return parameters

    def set_params(self, **params: Any) -> Self:
        """Set parameters; ``integration__name`` sets one of ``integration_params``.

        Parameters
        ----------
        **params : object
            The parameters and their values.

        Returns
        -------
        self
        """
        own = {
            name.removeprefix(_PREFIX): value
            for name, value in params.items()
            if name.startswith(_PREFIX)
        }
        super().set_params(
            **{name: value for name, value in params.items() if not name.startswith(_PREFIX)}
        )
        if own:
            # A new dict: clones and the caller may hold the old one.
            self.integration_params = {**(self.integration_params or {}), **own}
        return self
