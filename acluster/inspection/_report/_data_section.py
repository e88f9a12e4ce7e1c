"""The sections about the data: sizes, classes, modalities that are missing, the extraction."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from acluster import FeatureSets, MultimodalFeatureSets
from acluster._utils._text import escape
from acluster.inspection._report import _pictures
from acluster.inspection._report._blocks import Cell, Table, Text, count_cell, number_cell
from acluster.inspection._report._predictions import Predictions
from acluster.sets import by_modality, notes_on_missing

MAX_ROWS = 1000  # of a table


def data_blocks(X: FeatureSets | MultimodalFeatureSets, predictions: Predictions) -> list[Any]:
    """Return the blocks with the sizes of the sets and the classes of the items."""
    modalities = by_modality(X)
    lengths = {name: sets.lengths for name, sets in modalities.items()}
    figure = _pictures.draw_sizes({escape(name): own for name, own in lengths.items()})
    missing = {escape(name): own == 0 for name, own in lengths.items() if (own == 0).any()}
    return [
        _sizes_table(modalities),
        _pictures.picture_of(
            figure, "Histogram of the number of local features per item", "Sizes of the sets."
        ),
        _classes_table(missing, predictions),
        *_remarks(missing, predictions),
        *(_extraction_text(name, sets) for name, sets in modalities.items()),
    ]


def _sizes_table(modalities: Mapping[str, FeatureSets]) -> Table:
    rows = []
    for name, sets in modalities.items():
        present = sets.lengths[sets.lengths > 0]
        sizes = [present.min(), np.median(present), present.max()] if len(present) else [np.nan] * 3
        rows.append(
            [
                Cell(escape(name)),
                count_cell(sets.n_features),
                *(number_cell(float(size), ",.6g") for size in sizes),
                count_cell(int(sets.lengths.sum())),
                count_cell(int((sets.lengths == 0).sum())),
            ]
        )
    header = ["modality", "features", "smallest", "median", "largest", "local features", "missing"]
    caption = (
        "The sets by modality: the width of a local feature, the size of the smallest, the median "
        "and the largest set, all local features, and the items that lack the modality."
    )
    return Table(caption, header, rows)


def _classes_table(missing: Mapping[str, NDArray[np.bool_]], predictions: Predictions) -> Table:
    counts, n_items = predictions.counts(), len(predictions.true)
    rows = []
    for c in np.argsort(-counts, kind="stable")[:MAX_ROWS]:
        row = [Cell(predictions.names[c]), count_cell(int(counts[c]))]
        row.append(number_cell(counts[c] / n_items, ".1%"))
        for is_missing in missing.values():
            share = is_missing[predictions.has(c)].mean() if counts[c] else np.nan
            row.append(number_cell(float(share), ".1%"))
        rows.append(row)
    what = "class" if predictions.has_one_label else "label"
    header = [what, "items", "share", *(f"without {name}" for name in missing)]
    shown = f"The {MAX_ROWS:,} most frequent of " if len(counts) > MAX_ROWS else "The "
    caption = f"{shown}{len(counts):,} {'classes' if what == 'class' else 'labels'} of the items."
    if missing:
        caption += " The last columns are the share of its items that lack a modality."
    return Table(caption, header, rows)


def _remarks(missing: Mapping[str, NDArray[np.bool_]], predictions: Predictions) -> list[Text]:
    """Return what to know before the scores are believed."""
    labels = None
    if predictions.has_one_label and missing:
        # As objects, items share the text of their class, which may be long.
        labels = np.array(predictions.names, dtype=object)[predictions.true]
    remarks = [
        f"{note} The classifier may have learned which items lack it."
        for note in notes_on_missing(missing, labels)
    ]
    absent = [
        name
        for name, count in zip(predictions.names, predictions.counts(), strict=True)
        if not count
    ]
    if absent:
        # Items with several labels have no balanced accuracy.
        left_out = (
            "Balanced accuracy and ROC AUC leave" if predictions.has_one_label else "ROC AUC leaves"
        )
        effect = f"{left_out} them out; macro F1 counts one as 0 if it is predicted."
        shown = ", ".join(absent[:5]) + (", …" if len(absent) > 5 else "")
        remarks.append(
            f"{len(absent)} of the {predictions.n_classes} classes or labels have no item here: "
            f"{shown}. {effect}"
        )
    return [Text(remark, "remark") for remark in remarks]


def _extraction_text(name: str, sets: FeatureSets) -> Text:
    extraction: Any = sets.extraction
    if not extraction:
        return Text(f"How {escape(name)} were extracted is not known.")
    shown = json.dumps(extraction, ensure_ascii=False)
    return Text(f"How {escape(name)} were extracted: {escape(shown):.2000}")
