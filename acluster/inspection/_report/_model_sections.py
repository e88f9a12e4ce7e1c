"""The sections about the model: learning curve, attention units and modalities."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from acluster import FeatureSets, MultimodalFeatureSets
from acluster._utils._text import escape
from acluster.inspection._diversity_display import UnitDiversityDisplay
from acluster.inspection._importance import modality_importance
from acluster.inspection._learning_curve_display import LearningCurveDisplay
from acluster.inspection._report import _pictures
from acluster.inspection._report._blocks import (
    Cell,
    Table,
    Text,
    absent,
    count_cell,
    counted,
    number_cell,
)
from acluster.sets import by_modality

_ITEMS_FOR_UNITS = 200
_WEIGHTS_FOR_UNITS = 1 << 24  # numbers in memory
_ITEMS_FOR_IMPORTANCE = 500
_LOCAL_FEATURES_FOR_IMPORTANCE = 1 << 19
_N_REPEATS = 5


def sample_of(
    X: FeatureSets | MultimodalFeatureSets,
    n_items: int,
    n_local_features: int,
    random_state: np.random.RandomState,
) -> NDArray[np.int64]:
    """Return the positions of random items, at most so many and with so many local features.

    There is always one item.
    """
    order = random_state.permutation(len(X))[:n_items]
    sizes = np.sum([sets.lengths for sets in by_modality(X).values()], axis=0)[order]
    n_fitting = int(np.searchsorted(np.cumsum(sizes), n_local_features, "right"))
    # In their original order, in which stores are read fastest.
    return np.sort(order[: max(1, n_fitting)])


def learning_blocks(estimator: Any) -> list[Any]:
    """Return the blocks with the learning curve, or with the portfolio of a classifier CV."""
    if getattr(estimator, "loss_curve_", None):
        figure = _pictures.new_figure(5.2, 3.2)
        LearningCurveDisplay.from_estimator(estimator, ax=figure.subplots())
        picture = _pictures.picture_of(
            figure,
            f"Training loss over {counted(len(estimator.loss_curve_), 'epoch')}",
            "Training loss by epoch, and accuracy on validation items if there were any.",
        )
        return [picture]
    name = type(estimator).__name__
    if not hasattr(estimator, "portfolio_"):
        return absent(f"{name} has no learning curve.")
    rows = [
        [
            Cell(", ".join(f"{name}={value!r}" for name, value in parameters.items())),
            number_cell(weight, ".2f"),
            Cell(", ".join(map(str, n_iter))),
        ]
        for parameters, weight, n_iter in zip(
            estimator.portfolio_, estimator.weights_, estimator.n_iter_, strict=True
        )
    ]
    caption = "The configurations of the ensemble, their weights, and their epochs in each fold."
    return [
        *absent(f"{name} averages networks of several folds, which have no common curve."),
        Table(caption, ["configuration", "weight", "epochs"], rows),
    ]


def units_blocks(estimator: Any, X: Any, random_state: np.random.RandomState) -> list[Any]:
    """Return the blocks with the similarity and the entropy of the attention units."""
    if not hasattr(estimator, "attention_weights"):
        name = type(estimator).__name__
        return absent(f"{name} has no attention weights, so units cannot be compared.")
    first = estimator.attention_weights(X[:1])
    n_units = sum(sets.n_features for sets in by_modality(first).values())
    chosen = sample_of(X, _ITEMS_FOR_UNITS, _WEIGHTS_FOR_UNITS // n_units, random_state)
    blocks: list[Any] = [
        Text(
            f"On a random sample of {counted(len(chosen), 'item')}. Units of similarity 1 always "
            "attend to the same local features; an entropy of 1 is a plain average."
        )
    ]
    for modality, sets in by_modality(estimator.attention_weights(X[chosen])).items():
        modality = escape(modality)
        if sets.lengths.max() < 2:
            blocks += absent(
                f"{modality}: no item of the sample has two local features to choose from."
            )
        else:
            blocks.append(_units_picture(sets, modality))
    return blocks


def _units_picture(attention: FeatureSets, modality: str) -> Any:
    side = float(np.clip(1.8 + 0.16 * attention.n_features, 2.8, 7.0))
    figure = _pictures.new_figure(1.4 * side, side)
    display = UnitDiversityDisplay.from_attention(attention, ax=figure.subplots())
    n_dead = len(display.dead_units)
    caption = f"{modality}: {counted(attention.n_features, 'unit')}. Plain averages: {n_dead}."
    alt = f"Similarity and entropy of the attention units of {modality}"
    return _pictures.picture_of(figure, alt, caption)


def importance_blocks(
    estimator: Any, X: Any, y: NDArray[Any], random_state: np.random.RandomState
) -> list[Any]:
    """Return the blocks with the importance of each modality."""
    if not isinstance(X, MultimodalFeatureSets) or len(X.names) < 2:
        return absent("The items have one modality only.")
    chosen = sample_of(X, _ITEMS_FOR_IMPORTANCE, _LOCAL_FEATURES_FOR_IMPORTANCE, random_state)
    found = modality_importance(
        estimator,
        X[chosen],
        y[chosen],
        # The method `score` of classifiers of other packages may be another score.
        scoring="accuracy",
        n_repeats=_N_REPEATS,
        random_state=random_state,
    )
    names = sorted(X.names, key=lambda name: -found.importances_mean[name])
    mean = {escape(name): found.importances_mean[name] for name in names}
    spread = {escape(name): found.importances_std[name] for name in names}
    picture = _pictures.picture_of(
        _pictures.draw_importances(mean, spread),
        "Importance of each modality",
        "Decrease in accuracy when the sets of a modality are exchanged between items.",
    )
    rows = [
        [Cell(name), number_cell(mean[name]), number_cell(spread[name]), count_cell(_N_REPEATS)]
        for name in mean
    ]
    caption = (
        "Mean and standard deviation of the decrease over repetitions, on a random sample of "
        f"{counted(len(chosen), 'item')}."
    )
    header = ["modality", "decrease", "standard deviation", "repetitions"]
    return [picture, Table(caption, header, rows)]
