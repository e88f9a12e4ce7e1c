"""A small classifier, and the comparison of two fits, for the tests of the estimators."""

import torch

from acluster import AttentionClusterClassifier

QUICK = {"cluster_size": 8, "tol": None, "max_iter": 60, "learning_rate": 0.01, "random_state": 0}


def quick(**parameters):
    return AttentionClusterClassifier(**{**QUICK, **parameters})


def have_same_weights(a, b):
    """Return whether two classifiers have the same weights, to the bit."""
    states = a.network_.state_dict(), b.network_.state_dict()
    return all(torch.equal(states[0][key], states[1][key]) for key in states[0])
