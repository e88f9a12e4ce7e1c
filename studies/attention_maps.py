"""Does the attention find what a bag is labelled for? Patches with nuclei in histology images.

    ACLUSTER_DATA=... python studies/attention_maps.py [--seeds 2] [--csv FILE]

The default classifier, and one that attends to all local features, are trained on the 100 images of
the benchmark "colon". The mean weight of a patch over all units is compared with the number of
labelled nuclei in it: the area under the ROC curve of all patches, which is 0.5 by chance.
"""

import argparse
from pathlib import Path

import numpy as np
from result_rows import environment, write_rows
from rivals import CSV
from sklearn.metrics import roc_auc_score

from acluster import AttentionClusterClassifier
from acluster.datasets import load_benchmark


def area(n_attended, seed):
    """Return the area under the ROC curve of the mean weight of every patch."""
    data = load_benchmark("colon")
    clf = AttentionClusterClassifier(n_attended=n_attended, random_state=seed)
    weights = clf.fit(data.data, data.target).attention_weights(data.data)
    mean = np.concatenate([own.mean(axis=1) for own in weights])
    return roc_auc_score(data.n_nuclei > 0, mean)


def main():
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--csv", type=Path, default=CSV.with_name("attention_maps.csv"))
    options = parser.parse_args()
    rows = []
    for n_attended in (None, 5):
        for seed in range(options.seeds):
            row = {"n_attended": n_attended, "seed": seed, "area": round(area(n_attended, seed), 3)}
            rows.append(row | environment())
            print(row, flush=True)
    write_rows(rows, options.csv)


if __name__ == "__main__":
    main()
