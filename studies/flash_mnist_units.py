"""Measure what the attention units attend to, and draw Figures 3, 4 and 5 of the paper.

The script reads the checkpoints of `flash_mnist_table1.py`:

    python studies/flash_mnist_table1.py --methods fc1 fc1+shift --cluster-sizes 8 32
    python studies/flash_mnist_units.py [--output docs/images]

It computes one row of the CSV file per checkpoint, over the test videos:

- similarity: cosine similarity of the weights of two units on a video, averaged over all pairs;
- entropy: 0 if a unit puts all weight on one frame, 1 if it weights all frames equally;
- on_digits: share of the weight on frames with a digit, which are 30 % of the frames on average;
- on_noise: number of units whose share is below that of the frames with a digit;
- auc: how well the weights of a unit separate frames with one digit from frames with other digits,
  for the digit it separates best (0.5: at random), averaged over units;
- digits: number of different best-separated digits, among units with an AUC of at least 0.6.
"""

import argparse
import os
from pathlib import Path

import flash_mnist_features as features
import flash_mnist_table1 as table1
import joblib
import matplotlib.pyplot as plt
import numpy as np
import torch
from flash_mnist_features import load_digit_images
from result_rows import environment, read_rows, run_all
from sklearn.metrics import roc_auc_score

from acluster import open_feature_sets
from acluster.datasets import make_flash_mnist
from acluster.inspection import unit_entropy, unit_similarity

CSV = features.RESULTS / "flash_mnist_units.csv"
COLUMNS = ("similarity", "entropy", "on_digits", "on_noise", "auc", "digits")


def describe_units(attention, frame_digits):
    """Return the statistics of a cell by name; `frame_digits` is (n_frames,), -1 for noise."""
    weights, offsets = attention.packed()
    n_units = weights.shape[1]
    similarity = unit_similarity(attention)
    pairs = ~np.eye(n_units, dtype=bool)
    on_digits = weights[frame_digits >= 0].sum(axis=0) / (len(offsets) - 1)
    shown, digits = weights[frame_digits >= 0], frame_digits[frame_digits >= 0]
    auc = np.array(
        [
            [roc_auc_score(digits == digit, shown[:, unit]) for digit in range(10)]
            for unit in range(n_units)
        ]
    )
    return dict(
        zip(
            COLUMNS,
            (
                similarity[pairs].mean() if n_units > 1 else np.nan,
                unit_entropy(attention).mean(),
                on_digits.mean(),
                int((on_digits < (frame_digits >= 0).mean()).sum()),
                auc.max(axis=1).mean(),
                len(set(auc.argmax(axis=1)[auc.max(axis=1) >= 0.6])),
            ),
            strict=True,
        )
    )


def draw_samples(flash_mnist, path, n_videos=5):
    """Draw Figure 3: the frames of some videos and their digits."""
    figure, axes = plt.subplots(n_videos, figsize=(12, 0.85 * n_videos))
    for axis, frames, shown in zip(axes, flash_mnist.videos, flash_mnist.digits, strict=False):
        axis.imshow(np.hstack(frames), cmap="gray")
        axis.set_axis_off()
        digits = ", ".join(map(str, np.flatnonzero(shown))) or "none"
        axis.set_title(f"digits: {digits}", loc="left", fontsize=9, pad=2)
    save(figure, path)


def draw_curves(rows, path):
    """Draw Figure 4: test accuracy per epoch by cluster size, with and without shifting."""
    figure, axes = plt.subplots(1, 2, figsize=(11, 4), sharey=True)
    sizes = sorted({cell.cluster_size for cell in rows})
    colors = plt.get_cmap("viridis_r")(np.linspace(0.1, 1, len(sizes)))
    for axis, method in zip(axes, ("fc1", "fc1+shift"), strict=True):
        for size, color in zip(sizes, colors, strict=True):
            for cell, row in rows.items():
                if (cell.method, cell.cluster_size) == (method, size) and cell.seed == 0:
                    curve = list(map(float, row["curve"].split()))
                    axis.plot(np.arange(1, len(curve) + 1), curve, color=color, label=f"N = {size}")
        shifting = "with" if method == "fc1+shift" else "without"
        axis.set(title=f"FC1 {shifting} shifting", xlabel="epoch", ylim=(0, 100))
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    axes[0].set_ylabel("test accuracy (%)")
    save(figure, path)


def attention_map(frames, weights):
    """Return an image of the frames above one row per unit, tinted and dimmed by its weights."""
    rows = [np.hstack(frames)[..., None].repeat(3, axis=2) / 255]
    colors = plt.get_cmap("hsv")(np.arange(weights.shape[1]) / weights.shape[1])[:, :3]
    for unit, color in enumerate(colors):
        relative = weights[:, unit] / weights[:, unit].max()
        tinted = [
            (0.35 + 0.65 * frame[..., None] / 255) * color * weight
            for frame, weight in zip(frames, relative, strict=True)
        ]
        rows.append(np.hstack(tinted))
    return np.vstack(rows)


def draw_maps(flash_mnist, attention, path):
    """Draw Figure 5: frames above the weights of 8 units, with one column per cell."""
    chosen = np.flatnonzero(flash_mnist.digits.sum(axis=1) == 4)[:2]
    figure, axes = plt.subplots(len(chosen), len(attention), figsize=(15, 4.6 * len(chosen) / 2))
    for column, (title, weights) in zip(axes.T, attention.items(), strict=True):
        for axis, item in zip(column, chosen, strict=True):
            axis.imshow(attention_map(flash_mnist.videos[item], weights[item]), aspect="equal")
            digits = ", ".join(map(str, np.flatnonzero(flash_mnist.digits[item])))
            axis.set_title(f"{title}; digits {digits}", loc="left", fontsize=10)
            axis.set_axis_off()
    save(figure, path)


def save(figure, path):
    figure.tight_layout()
    figure.savefig(path, dpi=80)
    plt.close(figure)
    print(path)


def perform(cell, folder, frame_digits):
    """Measure the units of a cell, and return its row."""
    torch.set_num_threads(1)
    X = open_feature_sets(folder / "test.zarr")
    attention = joblib.load(cell.file(folder))[0].attention_weights(X)
    found = describe_units(attention, frame_digits.ravel())
    return {
        **cell._asdict(),
        **{name: round(float(figure), 3) for name, figure in found.items()},
        "extractor_accuracy": features.read_about(folder)["extractor_accuracy"],
        **environment(),
    }


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("--csv", type=Path, default=table1.CSV, help="results of Table 1")
    parser.add_argument("--units-csv", type=Path, default=CSV, help="results file")
    parser.add_argument(
        "--work", type=Path, default=features.WORK, help="folder of the checkpoints"
    )
    parser.add_argument(
        "--videos", type=int, default=102_400, help="training videos of these cells"
    )
    parser.add_argument(
        "--n-jobs", type=int, default=os.cpu_count(), help="parallel runs, 1 GB each"
    )
    parser.add_argument(
        "--output", type=Path, default=Path("docs/images"), help="folder for images"
    )
    options = parser.parse_args(arguments)
    options.output.mkdir(parents=True, exist_ok=True)

    rows = read_rows(options.csv, table1.Cell)
    rows = {
        cell: row for cell, row in rows.items() if cell[-3:] == (*table1.RECIPE, options.videos)
    }
    folder = options.work / f"features_{options.videos}"
    X = open_feature_sets(folder / "test.zarr")
    digits = load_digit_images()
    test = make_flash_mnist(digits.test_images, digits.test_labels, n_videos=len(X), random_state=1)
    assert np.array_equal(test.target, X.label), "the features were extracted from other videos"
    draw_samples(test, options.output / "flash_mnist_samples.png")
    draw_curves(rows, options.output / "flash_mnist_curves.png")

    kept = [cell for cell in rows if cell.method != "average" and cell.file(folder).exists()]
    tasks = (joblib.delayed(perform)(cell, folder, test.frame_digits) for cell in kept)
    print(f"{'':24}" + "".join(f"{name:>12}" for name in COLUMNS))
    for cell, row in run_all(tasks, options.units_csv, options.n_jobs, table1.Cell):
        name = f"{cell.method}, N = {cell.cluster_size}, seed {cell.seed}"
        print(f"{name:24}" + "".join(f"{row[name]:12.3g}" for name in COLUMNS), flush=True)

    shown = {
        f"{word} shifting": cell
        for cell in kept
        for word, method in (("without", "fc1"), ("with", "fc1+shift"))
        if (cell.method, cell.cluster_size, cell.seed) == (method, 8, 0)
    }
    if len(shown) == 2:
        maps = {
            title: joblib.load(cell.file(folder))[0].attention_weights(X)
            for title, cell in shown.items()
        }
        draw_maps(test, maps, options.output / "flash_mnist_attention.png")


if __name__ == "__main__":
    main()
