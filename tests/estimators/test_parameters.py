"""The parameters of every classifier: constraints, defaults, signature and documentation."""

import inspect
import json
import re
from dataclasses import fields

import pytest
from sklearn.utils._param_validation import InvalidParameterError

import acluster
from acluster import (
    AttentionClusterClassifier,
    IntegrationClassifier,
    MultimodalAttentionClusterClassifier,
    rivals,
)
from acluster.estimators import BaseIntegrationClassifier, estimator
from acluster.estimators._parameters import TrainingParameters
from acluster.nn.integrations import Average
from tests.conftest import make_sets

CLASSIFIERS = [AttentionClusterClassifier, MultimodalAttentionClusterClassifier]
CLASSIFIERS += [IntegrationClassifier]
CLASSIFIERS += [getattr(rivals, name) for name in rivals.__all__ if name.endswith("Classifier")]
NETWORKS = [cls for cls in CLASSIFIERS if hasattr(cls, "save")]


@pytest.mark.parametrize("cls", CLASSIFIERS)
class TestEveryParameter:
    def test_docstring_lists_the_signature_in_order(self, cls):
        section = inspect.getdoc(cls).split("Parameters\n----------\n")[1]
        section = re.split(r"\n\w[\w ]+\n---", section)[0]
        documented = re.findall(r"^(\w+) : ", section, flags=re.MULTILINE)
        assert documented == list(inspect.signature(cls).parameters)

    def test_docstring_states_type_default_and_description(self, cls):
        text = inspect.getdoc(cls)
        for name, one in inspect.signature(cls).parameters.items():
            found = re.search(rf"^{name} : (.+)\n    \S.{{10,}}", text, flags=re.MULTILINE)
            assert found, name
            assert "default=" in found[1] or one.default is None, name

    def test_constraints_accept_the_default(self, cls):
        assert set(cls._parameter_constraints) == set(inspect.signature(cls).parameters)
        cls()._validate_params()

    def test_get_params_returns_the_defaults(self, cls):
        expected = {name: one.default for name, one in inspect.signature(cls).parameters.items()}
        assert cls().get_params(deep=False) == expected


@pytest.mark.parametrize("cls", NETWORKS)
def test_docstring_shows_the_default_of_the_class(cls):
    text = inspect.getdoc(cls)
    for one in fields(cls):
        default = json.dumps(one.default) if isinstance(one.default, str) else one.default
        assert re.search(
            rf"^{one.name} : .*default={re.escape(str(default))}$", text, flags=re.MULTILINE
        ), one.name


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("cluster_size", 0),
        ("cluster_size", 2.5),
        ("weighting", "fc3"),
        ("hidden_size", 0),
        ("shifting", "yes"),
        ("n_attended", 0),
        ("hidden_features", -1),
        ("hidden_features", 0.5),
        ("pyramid_levels", 0),
        ("n_local_features", 0),
        ("standardize", "yes"),
        ("dropout", 1.0),
        ("optimizer", "sgd"),
        ("learning_rate", 0.0),
        ("learning_rate", float("nan")),
        ("learning_rate", float("inf")),
        ("weight_decay", -1.0),
        ("max_grad_norm", 0.0),
        ("batch_size", 0),
        ("max_iter", 0),
        ("tol", -1.0),
        ("n_iter_no_change", 0),
        ("early_stopping", "auto"),
        ("validation_fraction", 1.0),
        ("class_weight", "even"),
        ("warm_start", "yes"),
        ("device", 0),
        ("dtype", "float16"),
        ("precision", "half"),
        ("cache", "disk"),
        ("random_state", "a"),
        ("verbose", "a"),
        ("missing_modality", "zero"),
        ("modality_dropout", 1.0),
    ],
)
def test_fit_rejects_values_outside_the_constraints(name, value):
    X, y = make_sets(n=4)
    clf = MultimodalAttentionClusterClassifier(**{name: value})
    with pytest.raises(InvalidParameterError, match=f"'{name}' parameter .*Got {value!r} instead"):
        clf.fit({"features": X}, y)


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [("weighting", "fc3", "a str among"), ("n_local_features", "all", "an int in the range")],
)
def test_fit_rejects_values_of_one_modality_outside_the_constraints(name, value, allowed):
    X, y = make_sets(n=4)
    clf = MultimodalAttentionClusterClassifier(**{name: {"features": value}})
    message = rf"\"{name}\['features'\]\" parameter .*must be {allowed}"
    with pytest.raises(InvalidParameterError, match=message):
        clf.fit({"features": X}, y)


class TestEstimatorDecorator:
    def test_subclass_may_declare_another_default(self):
        @estimator
        class Slow(BaseIntegrationClassifier):
            """Average with a low learning rate."""

            learning_rate: float = 1e-5
            _integration = Average

        assert Slow().learning_rate == 1e-5
        assert "learning_rate : float, default=1e-05" in inspect.getdoc(Slow)
        constraints = AttentionClusterClassifier._parameter_constraints["learning_rate"]
        assert Slow._parameter_constraints["learning_rate"] == constraints

    def test_declaration_without_constraints_is_rejected(self):
        with pytest.raises(TypeError, match=r"Bare\.width is declared without `parameter`"):

            @estimator
            class Bare(BaseIntegrationClassifier):
                """Average with a parameter that has no constraints."""

                width: int = 3
                _integration = Average


def test_public_classifiers_are_all_tested():
    public = {
        thing
        for name in acluster.__all__
        if inspect.isclass(thing := getattr(acluster, name)) and name.endswith("Classifier")
    }
    assert public <= set(CLASSIFIERS)


def test_estimator_accepts_classes_without_docstrings():
    # As under python -OO.
    @estimator
    class Bare(TrainingParameters):
        batch_size: int = 7

    assert Bare().batch_size == 7
    assert "batch_size : int, default=7" in Bare.__doc__
