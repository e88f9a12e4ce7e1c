"""From a folder of clips to a classifier of three modalities, and a picture over time.

    python examples/clips.py [--folder clips/] [--clips 240] [--output clips.png]

Without a folder, clips of moving shapes and tones are generated (`make_clips.py`). They need all
three modalities: the pictures tell the shape, the optical flow the direction of its motion, and
the sound the tone. Two thirds of the clips train the classifiers, which are scored on the others.
"""

import argparse
import tempfile
from pathlib import Path

from make_clips import make_clips
from sklearn.model_selection import StratifiedShuffleSplit

from acluster import MultimodalAttentionClusterClassifier, MultimodalFeatureSets, open_feature_sets
from acluster.extraction import (
    FlowStacks,
    Frames,
    LogMel,
    extract,
    flow_descriptor,
    frame_descriptor,
    patch_descriptor,
)
from acluster.inspection import AttentionDisplay

VIEWS = {
    "rgb": (Frames(n=10, size=64), frame_descriptor),
    "flow": (FlowStacks(n=10, length=3, method="dis", size=64), flow_descriptor),
    "audio": (LogMel(hop=24), patch_descriptor),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--folder", type=Path, help="clips, in a folder per class")
    parser.add_argument("--clips", type=int, default=240, help="how many to generate")
    parser.add_argument("--output", type=Path, default=Path("clips.png"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.folder
        if folder is None:
            folder = Path(scratch) / "clips"
            make_clips(folder, options.clips)
        store = Path(scratch) / "clips.zarr"
        print(extract(folder, store, VIEWS, labels="folders"))
        X = open_feature_sets(store)
        y = X.label
        train, test = next(StratifiedShuffleSplit(1, test_size=1 / 3, random_state=0).split(X, y))
        for names in (["rgb"], ["flow"], ["audio"], ["rgb", "flow", "audio"]):
            chosen = MultimodalFeatureSets({name: X[name] for name in names})
            clf = MultimodalAttentionClusterClassifier(n_attended=None, random_state=0)
            clf.fit(chosen[train], y[train])
            score = clf.score(chosen[test], y[test])
            print(f"{' + '.join(names):20s} {100 * score:5.1f} % of {len(test)} test clips")
        display = AttentionDisplay.from_estimator(clf, X[test[:1]], units=range(8))
        display.figure_.savefig(options.output, bbox_inches="tight")
        print(f"{X.id[test[0]]}: {options.output}")


if __name__ == "__main__":
    main()
