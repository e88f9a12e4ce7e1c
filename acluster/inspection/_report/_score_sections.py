"""The sections about predictions: scores, confusion, calibration and mistakes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from acluster._utils._text import escape
from acluster.inspection._report import _pictures
from acluster.inspection._report._blocks import (
    Card,
    Cards,
    Cell,
    Table,
    Text,
    absent,
    count_cell,
    counted,
    number_cell,
)
from acluster.inspection._report._calibration import calibration_of
from acluster.inspection._report._data_section import MAX_ROWS
from acluster.inspection._report._mistakes import Mistake, evidence_for, most_confident_mistakes
from acluster.inspection._report._predictions import Predictions
from acluster.inspection._report._scores import HeldOutScores
from acluster.inspection._report._strips import Strip, draw_strips

_MAX_MATRIX = 20  # classes, which are legible on a page
_MAX_PAIRS = 50
_FEWEST_UNITS = 20  # items or groups, below which percentile intervals are too narrow

_MEANINGS = {
    "accuracy": "share of the items whose class is right",
    "balanced accuracy": "mean recall of the classes",
    "macro F1": "mean F1 of the classes or labels",
    "micro F1": "F1 of all labels of all items",
    "all labels right": "share of the items without a wrong label",
    "log-loss": "mean negative log-likelihood in nats; lower is better",
    "ROC AUC": "one class against the rest, mean of the classes that have items",
}


def scores_blocks(
    scores: HeldOutScores, predictions: Predictions, by_group: bool, estimator: Any
) -> list[Any]:
    """Return the blocks with the scores, their intervals and those of each class."""
    rows = [
        [
            Cell(score.name),
            number_cell(score.value),
            number_cell(score.low),
            number_cell(score.high),
            Cell(_MEANINGS[score.name]),
        ]
        for score in scores.scores
    ]
    unit = "group" if by_group else "item"
    caption = (
        f"Scores on the {len(predictions.true):,} items, with 95 % percentile intervals of "
        f"{scores.n_resamples:,} bootstrap resamples of the {scores.n_units:,} {unit}s."
    )
    if scores.n_units < 2:
        caption = f"Scores of a single {unit}, for which there is no interval."
    blocks: list[Any] = [Table(caption, ["score", "value", "from", "to", "meaning"], rows)]
    blocks += _doubts(scores, unit)
    if predictions.has_one_label:
        most = predictions.counts().max() / len(predictions.true)
        blocks.append(
            Text(f"Always predicting the most frequent of these classes has accuracy {most:.3f}.")
        )
    if hasattr(estimator, "oof_score_"):
        blocks.append(
            Text(
                "Out-of-fold accuracy on the training items, each predicted by networks that did "
                f"not train on it: {estimator.oof_score_:.3f}."
            )
        )
    if predictions.probabilities is None:
        blocks += absent(
            f"{type(estimator).__name__} has no predict_proba, so there are neither log-loss nor "
            "ROC AUC."
        )
    return [*blocks, _class_table(scores, predictions)]


def _doubts(scores: HeldOutScores, unit: str) -> list[Text]:
    """Return why the intervals are not reliable, if they are not."""
    if scores.n_units < 2:
        return []
    if scores.n_units < _FEWEST_UNITS:
        text = f"{scores.n_units} {unit}s are too few for reliable intervals."
        return [Text(text, "remark")]
    if any(score.low == score.high for score in scores.scores):
        text = (
            "An interval of width 0 does not mean that the score is certain: there are too few "
            "mistakes, or too few right items, for a reliable interval."
        )
        return [Text(text, "remark")]
    return []


def _class_table(scores: HeldOutScores, predictions: Predictions) -> Table:
    counts = predictions.counts()
    order = np.argsort(-counts, kind="stable")[:MAX_ROWS]
    columns = [scores.precision, scores.recall, scores.f1]
    header = ["class" if predictions.has_one_label else "label", "items"]
    header += ["precision", "recall", "F1"]
    if not np.isnan(scores.roc_auc).all():
        columns, header = [*columns, scores.roc_auc], [*header, "ROC AUC"]
    rows = [
        [
            Cell(predictions.names[c]),
            count_cell(int(counts[c])),
            *(number_cell(float(column[c])) for column in columns),
        ]
        for c in order
    ]
    caption = "Scores of each class or label; a dash where one is not defined."
    if len(counts) > MAX_ROWS:
        caption += f" The {MAX_ROWS:,} most frequent of {len(counts):,}."
    return Table(caption, header, rows)


def confusion_blocks(predictions: Predictions) -> list[Any]:
    """Return the blocks with the confusion matrix or, of many classes, the confused pairs."""
    if not predictions.has_one_label:
        return absent("Items with several labels have no confusion matrix.")
    blocks: list[Any] = []
    if predictions.n_classes <= _MAX_MATRIX:
        from sklearn.metrics import confusion_matrix

        numbers = np.arange(predictions.n_classes)
        counts = confusion_matrix(predictions.true, predictions.predicted, labels=numbers)
        blocks.append(
            _pictures.picture_of(
                _pictures.draw_confusion(counts, predictions.names),
                f"Confusion matrix of {predictions.n_classes} classes",
                "Number of items by true and predicted class.",
            )
        )
    return blocks + _confused_pairs(predictions)


def _confused_pairs(predictions: Predictions) -> list[Any]:
    """Return the table of the pairs of classes with most mistakes."""
    wrong = predictions.true != predictions.predicted
    pairs = predictions.true[wrong] * predictions.n_classes + predictions.predicted[wrong]
    found, n_mistakes = np.unique(pairs, return_counts=True)
    if not len(found):
        return [Text("No item is in a wrong class.")]
    counts, rows = predictions.counts(), []
    for i in np.argsort(-n_mistakes, kind="stable")[:_MAX_PAIRS]:
        true, predicted = divmod(int(found[i]), predictions.n_classes)
        rows.append(
            [
                Cell(predictions.names[true]),
                Cell(predictions.names[predicted]),
                count_cell(int(n_mistakes[i])),
                number_cell(n_mistakes[i] / counts[true], ".1%"),
            ]
        )
    caption = (
        "The pairs of classes that are confused most often, and the share of the true class. "
        f"In all, {counted(len(found), 'pair')} of classes with mistakes."
    )
    return [Table(caption, ["true", "predicted", "items", "share"], rows)]


def calibration_blocks(predictions: Predictions) -> list[Any]:
    """Return the blocks with the reliability curve."""
    probabilities = predictions.probabilities
    if probabilities is None:
        return absent(
            "Without predict_proba there are no probabilities to compare with frequencies."
        )
    found = calibration_of(predictions, probabilities)
    if predictions.kind == "multiclass":
        meaning = "Above the diagonal, the classifier is too cautious; below, too certain."
    else:
        # A probability below 0.5 that is too low is one of being too certain.
        meaning = "Above the diagonal, it happens more often than predicted; below, less often."
    picture = _pictures.picture_of(
        _pictures.draw_calibration(found),
        f"Reliability curve of the {found.what}",
        f"Observed frequency by predicted probability, in 10 bins of equal width. {meaning}",
    )
    summary = Text(
        f"Expected calibration error: {found.expected_error:.3f}. This is the mean distance of "
        "the curve from the diagonal, weighted by the number of items in the bins."
    )
    return [summary, picture]


def mistakes_blocks(
    estimator: Any, X: Any, ids: NDArray[Any], predictions: Predictions, n_mistakes: int
) -> list[Any]:
    """Return the blocks with the mistakes of the highest probability, with their evidence."""
    probabilities = predictions.probabilities
    if probabilities is None:
        return absent("Without predict_proba, mistakes cannot be ordered by their probability.")
    if n_mistakes == 0:
        return absent("Not shown (n_mistakes=0).")
    mistakes = most_confident_mistakes(predictions, probabilities, n_mistakes)
    if not mistakes:
        return [Text("There are no mistakes.")]
    strips: list[dict[str, Strip]] = [{} for _ in mistakes]
    if hasattr(estimator, "local_evidence"):
        strips = evidence_for(estimator, X, predictions, mistakes)
        intro = Text(
            "Each strip shows the evidence of the local features: what each adds to the logit of "
            "a class. Orange is for the class, blue against it, and gray neither. The colors of a "
            "card share one scale."
        )
    else:
        intro = Text(f"{type(estimator).__name__} has no evidence by local feature.", "absent")
    cards = [
        _card(mistake, own, escape(ids[mistake.item]), predictions)
        for mistake, own in zip(mistakes, strips, strict=True)
    ]
    n_wrong = int((predictions.true != predictions.predicted).sum())
    count = f"The {len(cards)} of {n_wrong:,} mistakes with the highest probability."
    if len(cards) == n_wrong:
        count = f"There is no other mistake than {'this' if n_wrong == 1 else 'these'}."
    return [Text(count), intro, Cards(cards)]


def _card(mistake: Mistake, strips: dict[str, Strip], title: str, predictions: Predictions) -> Card:
    predicted, true = predictions.names[mistake.predicted], predictions.names[mistake.true]
    if predictions.has_one_label:
        facts = [
            ("predicted", f"{predicted} ({mistake.probability:.3f})"),
            ("true", f"{true} ({mistake.true_probability:.3f})"),
        ]
        rows = [predicted, true]
        if predictions.kind == "binary":
            rows = [predicted]
    else:
        is_present = predictions.predicted[mistake.item, mistake.predicted] > 0
        said, is_so = ("present", "absent") if is_present else ("absent", "present")
        facts = [
            ("label", predicted),
            ("predicted", f"{said} ({mistake.probability:.3f})"),
            ("true", is_so),
        ]
        rows = [predicted]
    picture = None
    if strips:
        alt = f"Evidence of the local features of {title} for {' and for '.join(rows)}"
        picture = _pictures.picture_of(draw_strips(strips, rows), alt)
    return Card(title, facts, picture)
