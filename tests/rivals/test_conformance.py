"""The rivals pass scikit-learn's estimator checks."""

import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks

from acluster import rivals

SMALL = {"hidden_size": 8, "n_steps": 2, "n_centres": 4}
PLAIN = {
    "dropout": 0.0,
    "batch_size": 10**6,
    "learning_rate": 0.1,
    "max_iter": 20,
    "random_state": 0,
}


def small(kind, **more):
    names = kind().get_params()
    given = {**SMALL, **PLAIN, **more}
    return kind(**{name: value for name, value in given.items() if name in names})


# Two classifiers need more steps than the others to fit the training set.
MORE_STEPS = {
    "TSLSTMClassifier": {"hidden_size": 16, "learning_rate": 0.03, "max_iter": 60},
    "TemporalInceptionClassifier": {"hidden_size": 16, "learning_rate": 0.02, "max_iter": 40},
}
ESTIMATORS = [
    small(getattr(rivals, name), **MORE_STEPS.get(name, {}))
    for name in rivals.__all__
    if name.endswith("Classifier")
]
ESTIMATORS.append(rivals.AverageClassifier(fusion="scores", **PLAIN))


def expected_failures(estimator):
    if isinstance(estimator, rivals.PooledSVMClassifier):
        reason = "the solver stops within its tolerance, at another point after a repetition"
        return {"check_sample_weight_equivalence_on_dense_data": reason}
    normalizing = (
        rivals.TSLSTMClassifier,
        rivals.TemporalInceptionClassifier,
        rivals.EfficientProbingClassifier,
    )
    if not isinstance(estimator, normalizing):
        return {}
    reason = "batch normalization counts items and ignores their weights"
    failures = {
        "check_sample_weight_equivalence_on_dense_data": reason,
        "check_sample_weight_equivalence_on_sparse_data": reason,
    }
    if isinstance(estimator, rivals.TSLSTMClassifier):
        # The normalization also counts the items of the class that weighs nothing.
        centred = (
            "batch normalization after the LSTM centers all items, so raising some lowers others"
        )
        failures["check_class_weight_classifiers"] = centred
    return failures


# One of each kind: without and with batch normalization, ordered, and the two that are pooled.
OF_EACH_KIND = (
    rivals.AttentionMILClassifier,
    rivals.BiLSTMClassifier,
    rivals.EfficientProbingClassifier,
    rivals.PooledClassifier,
    rivals.PooledSVMClassifier,
)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@parametrize_with_checks(
    [one for one in ESTIMATORS if isinstance(one, OF_EACH_KIND)],
    expected_failed_checks=expected_failures,
    xfail_strict=True,
)
def test_scikit_learn_check(estimator, check):
    check(estimator)


@pytest.mark.thorough
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@parametrize_with_checks(
    [one for one in ESTIMATORS if not isinstance(one, OF_EACH_KIND)],
    expected_failed_checks=expected_failures,
    xfail_strict=True,
)
def test_scikit_learn_check_of_other_rivals(estimator, check):
    check(estimator)
