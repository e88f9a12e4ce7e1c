"""`weighting` as a user's subclass of `acluster.nn.Weighting`."""

import pickle

import numpy as np
import pytest
import torch
from sklearn.base import clone

from acluster import AttentionClusterClassifier
from acluster.nn import Weighting
from tests.conftest import make_sets

pytestmark = pytest.mark.numerical


class DistanceWeighting(Weighting):
    """Each unit scores local features by their distance to a learned point."""

    def __init__(self, n_features, cluster_size, hidden_size=10):
        super().__init__()
        self.points = torch.nn.Parameter(torch.empty(cluster_size, n_features))

    def reset_parameters(self, generator=None):
        with torch.no_grad():
            self.points.normal_(generator=generator)

    def forward(self, values):
        return -torch.cdist(values, self.points)


def test_custom_weighting_is_trained_cloned_and_pickled():
    X, y = make_sets()
    # With 4 units, some seeds end at 0.65: points that start far from all features stay there.
    parameters = {"cluster_size": 16, "max_iter": 120, "learning_rate": 0.03}
    parameters["standardize"] = False
    clf = AttentionClusterClassifier(weighting=DistanceWeighting, random_state=0, **parameters).fit(
        X, y
    )
    assert clf.score(X, y) > 0.9
    again = pickle.loads(pickle.dumps(clf))
    assert np.array_equal(again.predict_proba(X), clf.predict_proba(X))
    assert np.array_equal(clone(clf).fit(X, y).predict_proba(X), clf.predict_proba(X))
    points = clf.network_.integrations[0].weighting.points.detach().numpy()
    logits = -np.linalg.norm(X[3][:, None] - points, axis=-1)
    expected = np.exp(logits) / np.exp(logits).sum(axis=0)
    np.testing.assert_allclose(clf.attention_weights(X)[3], expected, rtol=1e-6)


def test_weighting_rejects_other_classes():
    X, y = make_sets()
    with pytest.raises(ValueError, match=r"nor a subclass of acluster.nn.Weighting"):
        AttentionClusterClassifier(weighting=torch.nn.Linear).fit(X, y)


def test_weighting_rejects_a_parameter_that_reset_parameters_leaves_unset():
    class Forgetful(DistanceWeighting):
        def __init__(self, *args):
            super().__init__(*args)
            self.norm = torch.nn.LayerNorm(self.points.shape[1])

    X, y = make_sets()
    with pytest.raises(ValueError, match=r"does not set 'integrations.0.weighting.norm.weight'"):
        AttentionClusterClassifier(weighting=Forgetful).fit(X, y)
