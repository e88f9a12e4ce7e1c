"""The integrations, transcribed set by set in numpy: slow, and independent of torch.

X has shape (L, M). `p` maps the names of parameters to arrays in the layout of torch, (out, in).
"""

import numpy as np

from tests.reference import softmax


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def linear(x, p, name):
    return x @ p[f"{name}.weight"].T + p.get(f"{name}.bias", 0.0)


def batch_norm(x, p, name):
    normed = (x - p[f"{name}.running_mean"]) / np.sqrt(p[f"{name}.running_var"] + 1e-5)
    return normed * p.get(f"{name}.weight", 1.0) + p.get(f"{name}.bias", 0.0)


def layer_norm(x, p, name):
    normed = (x - x.mean()) / np.sqrt(x.var() + 1e-5)
    return normed * p[f"{name}.weight"] + p[f"{name}.bias"]


def resampled(X, n_steps):
    return X[[int((k + 0.5) * len(X) / n_steps) for k in range(n_steps)]]


def lstm(X, p, suffix=""):
    """Return the final state. The gates are in torch's order: input, forget, cell, output."""
    hidden_size = p[f"lstm.weight_hh_l0{suffix}"].shape[1]
    h, c = np.zeros(hidden_size), np.zeros(hidden_size)
    for x in X:
        gates = p[f"lstm.weight_ih_l0{suffix}"] @ x + p[f"lstm.bias_ih_l0{suffix}"]
        gates = gates + p[f"lstm.weight_hh_l0{suffix}"] @ h + p[f"lstm.bias_hh_l0{suffix}"]
        i, f, g, o = np.split(gates, 4)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
    return h


def average(X, p):
    return X.mean(axis=0)


def flatten(X, p, n_steps):
    return resampled(X, n_steps).ravel()


def bilstm(X, p, hidden_size):
    return np.concatenate([lstm(X, p), lstm(X[::-1], p, "_reverse")])


def ts_lstm(X, p, n_segments, hidden_size):
    steps = []
    for s in range(n_segments):
        start, stop = s * len(X) // n_segments, (s + 1) * len(X) // n_segments
        part = batch_norm(X[start : max(stop, start + 1)], p, f"norms.{s}")
        steps.append(part.max(axis=0))
    return batch_norm(lstm(np.array(steps), p), p, "last_norm")


def temporal_inception(X, p, n_steps, hidden_size):
    x = resampled(X, n_steps)[None]  # (channels, time, M)
    for module in range(4):
        branches = []
        for branch in range(2):
            kernel = p[f"branches.{module}.{branch}.weight"][..., 0]  # (out, in, width)
            bias = p[f"branches.{module}.{branch}.bias"]
            width = kernel.shape[2]
            wide = np.pad(x, ((0, 0), (width // 2, width // 2), (0, 0)))
            branches.append(
                [
                    [bias[out] + np.einsum("iw,iwm->m", kernel[out], wide[:, t : t + width])
                     for t in range(x.shape[1])]
                    for out in range(len(kernel))
                ]
            )  # fmt: skip
        x = np.concatenate([np.array(branch) for branch in branches])
        x = np.maximum(batch_norm(x.T, p, f"branch_norms.{module}").T, 0)
        x = np.stack([x[:, t : t + 2].max(axis=1) for t in range(0, x.shape[1], 2)], axis=1)
    x = x.max(axis=1)  # (channels, M)
    for number in range(3):
        kernel, bias = p[f"reduce.{number}.weight"][..., 0, 0], p[f"reduce.{number}.bias"]
        x = np.maximum(batch_norm((kernel @ x).T + bias, p, f"reduce_norms.{number}").T, 0)
    return np.maximum(batch_norm(linear(x[0], p, "layer"), p, "layer_norm"), 0)


def attention_mil(X, p, hidden_size):
    hidden = np.tanh(linear(X, p, "hidden"))
    if "gate.weight" in p:
        hidden = hidden * sigmoid(linear(X, p, "gate"))
    return softmax(hidden @ p["unit.weight"][0]) @ X


def net_vlad(X, p, n_centres, hidden_size):
    logits = batch_norm(linear(X, p, "assign"), p, "assign_norm")
    centres = []
    for k in range(n_centres):
        total = np.zeros(X.shape[1])
        for x, own in zip(X, logits, strict=True):
            total += softmax(own)[k] * (x - p["centres"][k])
        centres.append(total / np.linalg.norm(total))
    whole = np.concatenate(centres)
    y = linear(whole / np.linalg.norm(whole), p, "layer")
    return y * sigmoid(linear(y, p, "gate"))


def set_transformer(X, p, n_seeds, hidden_size, n_heads):
    embedded = np.maximum(linear(X, p, "embed"), 0)
    keys, values = linear(embedded, p, "key"), linear(embedded, p, "value")
    outputs = []
    for seed in p["seeds"]:
        query = linear(seed, p, "query")
        heads = []
        for part in np.split(np.arange(hidden_size), n_heads):
            a = softmax(keys[:, part] @ query[part] / np.sqrt(len(part)))
            heads.append(a @ values[:, part])
        x = layer_norm(seed + linear(np.concatenate(heads), p, "mix"), p, "norms.0")
        outputs.append(layer_norm(x + np.maximum(linear(x, p, "layer"), 0), p, "norms.1"))
    return np.concatenate(outputs)


def efficient_probing(X, p, n_queries):
    parts = []
    for query, projection in zip(p["queries.weight"], p["values"], strict=True):
        parts.append(softmax(X @ query / np.sqrt(X.shape[1])) @ (X @ projection))
    return batch_norm(np.concatenate(parts), p, "norm")
