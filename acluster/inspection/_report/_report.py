"""Write the page about a classifier."""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils import check_random_state

import acluster
from acluster._utils._files import replaced_file
from acluster._utils._text import escape
from acluster.inspection._report import _pictures
from acluster.inspection._report._blocks import Section
from acluster.inspection._report._data_section import data_blocks
from acluster.inspection._report._model_sections import (
    importance_blocks,
    learning_blocks,
    units_blocks,
)
from acluster.inspection._report._predictions import predictions_of
from acluster.inspection._report._score_sections import (
    calibration_blocks,
    confusion_blocks,
    mistakes_blocks,
    scores_blocks,
)
from acluster.inspection._report._scores import Score, held_out_scores
from acluster.sets import as_container, by_modality, label_names_of, text_columns

_MAX_DESCRIPTION = 300  # characters

# The headings of the sections, by their anchors.
_TITLES = {
    "scores": "Held-out scores",
    "confusion": "Confusion",
    "mistakes": "Most confident mistakes",
    "calibration": "Calibration",
    "data": "Data",
    "learning": "Learning curve",
    "units": "Attention units",
    "importance": "Modality importance",
}


@dataclass(frozen=True, repr=False)
class Report:
    """A page about a fitted classifier, as returned by `report`.

    Parameters
    ----------
    html : str
        The page. It contains its pictures, and loads nothing from elsewhere.

    scores : dict of str to tuple of float
        The value of each score, and the ends of its 95 % interval; NaN where they are not defined.
    """

    html: str
    scores: dict[str, tuple[float, float, float]]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the page to a file.

        Parameters
        ----------
        path : str or path
            The file. An existing one is replaced once the new one is complete.

        Raises
        ------
        OSError
            If the file cannot be written.
        """
        with replaced_file(path) as unfinished:
            unfinished.write_text(self.html, encoding="utf-8")

    def __repr__(self) -> str:
        """Return the size of the page and the first score."""
        name, (value, *_) = next(iter(self.scores.items()))
        return f"<Report of {len(self.html) / 1e6:.1f} MB, {name} {value:.3f}>"


def report(
    estimator: Any,
    X: Any,
    y: ArrayLike | None = None,
    *,
    groups: ArrayLike | bool | None = True,
    description: str | None = None,
    n_mistakes: int = 12,
    random_state: int | np.random.RandomState | None = 0,
) -> Report:
    """Return a page about a fitted classifier and its predictions for held-out items.

    The page shows the data, the learning curve, scores with confidence intervals, the confusion
    matrix, the calibration, the most confident mistakes with the evidence of their local features,
    the attention units and the importance of the modalities. Where one of these does not apply to
    the classifier, the page says so.

    Parameters
    ----------
    estimator : fitted classifier
        One of acluster, or another classifier that takes these items.

    X : FeatureSets or MultimodalFeatureSets, arrays, or the path or URL of a store
        Items that the classifier was not trained on: on others, the scores are too high. A store
        may be larger than memory.

    y : array-like of shape (n,) or (n, n_labels), optional
        Their labels; by default those of the store. The label columns of a data frame or store
        are matched to those of `fit` by name, if both have names.

    groups : array-like of shape (n,), bool or None, default=True
        Confidence intervals draw whole groups, such as patients. True: the groups of the store, if
        it has them. False or None: single items.

    description : str, optional
        What the items are, in the words of the page. By default, the name of the store.

    n_mistakes : int, default=12
        How many mistakes to show, from 0 to 1000.

    random_state : int, RandomState instance or None, default=0
        Controls the resamples of the intervals and the samples of items.

    Returns
    -------
    Report
        Call its method `save` to write the file.

    Raises
    ------
    ValueError
        If there are no labels, or they do not fit the items or the classifier.

    TypeError
        If the estimator is not a classifier.

    ImportError
        Without the packages of the extra ``report``.

    See Also
    --------
    EvidenceDisplay : The evidence of one item in detail, also as a map.
    modality_importance : The importance of the modalities.
    UnitDiversityDisplay : The similarity of the attention units.

    Notes
    -----
    A classifier of acluster predicts every item once, and the samples for the units and the
    importances some more times. The intervals are percentiles of 1,000 bootstrap resamples, or of
    fewer if there are very many items and classes. Attention units are compared on 200 random items
    and modalities on 500, or fewer if they are large.

    The scores are those of scikit-learn. A class without items, true or predicted, does not count
    in means over the classes. Without a `predict_proba`, there are no scores of probabilities.

    Examples
    --------
    >>> import numpy as np
    >>> from acluster import AttentionClusterClassifier
    >>> from acluster.inspection import report
    >>> X, y = [np.eye(3), np.ones((2, 3))] * 10, ["sharp", "flat"] * 10
    >>> clf = AttentionClusterClassifier(cluster_size=4, max_iter=30, random_state=0)
    >>> page = report(clf.fit(X[:10], y[:10]), X[10:], y[10:])
    >>> page.scores["accuracy"]
    (1.0, 1.0, 1.0)
    >>> page.html[:15]
    '<!doctype html>'
    """
    template = _template()
    _pictures.check_matplotlib()
    if not isinstance(n_mistakes, Integral) or not 0 <= n_mistakes <= 1000:
        raise ValueError(f"n_mistakes={n_mistakes!r} must be an int from 0 to 1000.")
    rng = check_random_state(random_state)
    about = _described(X) if description is None else description
    X = as_container(X)
    label_names = label_names_of(X) if y is None else text_columns(y)
    y = X.label if y is None else y
    if y is None:
        raise ValueError(
            "X has no labels. Pass them as y, or add them to the store: acluster convert "
            "STORE labeled.zarr --labels labels.csv"
        )
    drawn = _groups_of(X, groups)
    predictions = predictions_of(estimator, X, y, label_names)
    found = held_out_scores(predictions, drawn, random_state=rng)
    ids = np.array([f"item {number}" for number in X.numbers]) if X.id is None else X.id
    with _pictures.style():
        blocks = {
            "scores": scores_blocks(found, predictions, drawn is not None, estimator),
            "confusion": confusion_blocks(predictions),
            "mistakes": mistakes_blocks(estimator, X, ids, predictions, n_mistakes),
            "calibration": calibration_blocks(predictions),
            "data": data_blocks(X, predictions),
            "learning": learning_blocks(estimator),
            "units": units_blocks(estimator, X, rng),
            "importance": importance_blocks(estimator, X, predictions.labels(), rng),
        }
    sections = [Section(name, _TITLES[name], own) for name, own in blocks.items()]
    html = _rendered(template, estimator, about, len(X), found.scores, sections)
    return Report(html, {one.name: (one.value, one.low, one.high) for one in found.scores})


def _groups_of(X: Any, groups: Any) -> NDArray[Any] | None:
    """Return the groups to draw, or None for single items."""
    from acluster.estimators import check_groups  # which imports torch

    if groups is None or isinstance(groups, bool):
        return X.group if groups else None
    return check_groups(groups, len(X))


def _described(X: Any) -> str:
    """Return the name of the store that X is, or comes from."""
    if isinstance(X, str | os.PathLike):
        return os.fspath(X)
    if isinstance(X, acluster.FeatureSets | acluster.MultimodalFeatureSets):
        first = next(iter(by_modality(X).values()))
        if not first.in_memory:
            return first.description
    return "items in memory"


def _template() -> Any:
    try:
        import jinja2
    except ImportError:
        raise ImportError(
            "A report needs jinja2; install acluster with its extra 'report'."
        ) from None
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("acluster.inspection._report"),
        # Ids, labels and names come from files of unknown origin.
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html")


def _rendered(
    template: Any,
    estimator: Any,
    about: str,
    n_items: int,
    scores: Sequence[Score],
    sections: Sequence[Section],
) -> str:
    folder = Path(__file__).parent / "templates"
    style, script = (
        (folder / name).read_text(encoding="utf-8") for name in ("report.css", "report.js")
    )
    html: str = template.render(
        model=type(estimator).__name__,
        parameters=escape(" ".join(repr(estimator).split())),
        about=escape(about)[:_MAX_DESCRIPTION],
        n_items=n_items,
        date=datetime.now().astimezone().strftime("%d %B %Y, %H:%M"),
        version=acluster.__version__,
        headline=scores[0],
        sections=sections,
        style=style,
        script=script,
        # The page runs this script only, and loads nothing.
        style_hash=_hash(style),
        script_hash=_hash(script),
    )
    return html


def _hash(text: str) -> str:
    """Return the hash of an element's text, as a content security policy names it."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
