"""Equations 2-7 of the paper, transcribed set by set in numpy: slow, and independent of torch.

Local features are columns here, as in the paper: X has shape (M, L).
"""

import numpy as np


def softmax(logits):
    exponentials = np.exp(logits - logits.max())
    return exponentials / exponentials.sum()


def average(X):
    n_local_features = X.shape[1]
    return np.ones(n_local_features) / n_local_features  # equation 3


def fc1(X, w):
    return softmax(w @ X)  # equation 4, without the bias that softmax cancels


def fc2(X, W1, b1, w2):
    return softmax(w2 @ np.tanh(W1.T @ X + b1[:, None]))  # equation 5, likewise


def unit(X, a):
    return X @ a  # equation 2


def shift(v, alpha, beta, cluster_size):
    shifted = alpha * v + beta
    norm = max(np.sqrt((shifted**2).sum()), 1e-12)
    return shifted / (np.sqrt(cluster_size) * norm)  # equation 7


def weights_of_unit(X, k, weighting, p):
    if weighting == "average":
        return average(X)
    if weighting == "fc1":
        return fc1(X, p["weight"][:, k])
    hidden_size = p["weight2"].shape[1]
    cells = slice(k * hidden_size, (k + 1) * hidden_size)
    return fc2(X, p["weight1"][:, cells], p["bias1"][cells], p["weight2"][k])


def cluster(X, cluster_size, weighting, p, alpha=None, beta=None):
    """Equation 6: the outputs of all units, one after the other."""
    outputs = []
    for k in range(cluster_size):
        v = unit(X, weights_of_unit(X, k, weighting, p))
        if alpha is not None:
            v = shift(v, alpha[k], beta[k], cluster_size)
        outputs.append(v)
    return np.concatenate(outputs)
