"""A display of the evidence of one item: what each local feature adds to the logits."""

from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from acluster import FeatureSets, MultimodalFeatureSets
from acluster.inspection._evidence_item import LABEL, ItemEvidence, evidence_colors, explain
from acluster.inspection._evidence_rows import draw_rows
from acluster.inspection._evidence_strips import draw_strips
from acluster.inspection._item import (
    arrays_by_modality,
    as_columns,
    check_one_item,
    check_positions,
    match_modalities,
    match_thumbnails,
    places_of,
)
from acluster.inspection._map_frame import MapFrame, choose_modality

_KINDS = "rows", "map", "strips"
_MAP_WIDTH, _MAP_COLUMNS = 4.0, 3  # of one of several maps, in inches, and how many side by side


class EvidenceDisplay:
    """Evidence of one item: what each local feature adds to the logit of each class.

    Evidence above 0 is for a class, evidence below 0 is against it. The evidence of all local
    features and a constant add up to the logit; the title of each class states them. There are
    three kinds of picture:

    - "rows": a row of bars per class, over time if the places of the item have "seconds", else in
      the order of the local features. The modalities of an item are below one another, on one
      scale. Bars of more than 100 local features show the sum of the evidence in each of at most
      300 bins, and the title says so.
    - "map": a map per class over the positions x and y, also over an image.
    - "strips": the images of the local features with the largest evidence for and against each
      class.

    Create a display with `from_estimator` or `from_evidence`, which also plot it.

    Parameters
    ----------
    evidence : FeatureSets or MultimodalFeatureSets of one item, ndarray of shape (L, C), or dict \
            of str to ndarray
        The evidence of L local features for C classes, or a dict by modality. A container has the
        places of the local features.

    classes : array-like of shape (C,)
        The labels of the columns.

    constants : array-like of shape (C,), optional
        What the logits contain besides the evidence, for the titles.

    probabilities : array-like of shape (C,), optional
        The probabilities of the classes, for the titles.

    kind : {"auto", "rows", "map", "strips"}, default="auto"
        The kind of picture. "auto" draws strips if there are thumbnails, a map if there is one
        thumbnail of the whole item or all modalities have positions, and rows otherwise.

    modality : str, optional
        The modality to draw. Rows show all modalities by default. A map and strips show one, and
        need its name if several have positions or thumbnails.

    places : mapping of str to array-like of shape (L,), data frame, FeatureSets of one item, or \
            dict of these by modality, optional
        The places of the local features, such as ``{"seconds": times}`` or ``{"x": x, "y": y}``. By
        default they are those of the container.

    thumbnails : sequence of L images, or dict of str to sequence, optional
        An image of each local feature, for strips: an array of shape (height, width) in any
        unit, or of shape (height, width, 3 or 4) with integers from 0 to 255 or floats from 0 to 1.

    thumbnail, extent, scale, tile_size, anchor : optional
        The image below a map and its edges, and the shape of the tiles; see `AttentionMapDisplay`.

    Attributes
    ----------
    axes_ : ndarray of matplotlib Axes
        One per class; for rows, one per class and modality, all modalities of a class in
        succession.

    figure_ : matplotlib Figure
        The figure that contains them.

    kind_ : str
        The kind of picture: "rows", "map" or "strips".

    maps_ : list of matplotlib artists
        The map of each class; empty for rows, strips and an item without local features.

    See Also
    --------
    AttentionDisplay : The attention weights of an item, which tell nothing about classes.
    acluster.AttentionClusterClassifier.local_evidence : The numbers of this display, for all items.

    Notes
    -----
    Local features that no unit attends to, because of `n_attended`, have no evidence. For a map of
    all local features, fit with ``n_attended=None``.

    The default colors of a map are dark blue for evidence against a class, gray for none and light
    orange for evidence for it. They differ for people with any color vision and in gray print.

    Examples
    --------
    >>> import numpy as np
    >>> from acluster import AttentionClusterClassifier, FeatureSets
    >>> from acluster.inspection import EvidenceDisplay
    >>> times = [{"seconds": [0.0, 0.5, 1.0]}, {"seconds": [0.0, 0.5]}]
    >>> X = FeatureSets.from_arrays([np.eye(3), np.ones((2, 3))], places=times)
    >>> clf = AttentionClusterClassifier(cluster_size=2, max_iter=5).fit(X, ["no", "yes"])
    >>> display = EvidenceDisplay.from_estimator(clf, X[[0]], classes=["yes"])
    >>> display.axes_[0].get_xlabel()
    'time (s)'
    >>> bars = [bar.get_height() for bar in display.axes_[0].patches]
    >>> [evidence] = clf.local_evidence(X[[0]])
    >>> bool(np.allclose(bars, evidence[:, 0]))
    True
    """

    def __init__(
        self,
        evidence: Any,
        classes: ArrayLike,
        *,
        constants: ArrayLike | None = None,
        probabilities: ArrayLike | None = None,
        kind: str = "auto",
        modality: str | None = None,
        places: Any = None,
        thumbnails: Any = None,
        thumbnail: Any = None,
        extent: Sequence[float] | None = None,
        scale: float | None = None,
        tile_size: float | None = None,
        anchor: str = "corner",
    ) -> None:
        values, found = _opened(evidence)
        self.evidence = ItemEvidence(values, classes, constants, probabilities)
        names = [*values]
        given = match_modalities(names, places, "places")
        found |= {name: as_columns(own) for name, own in given.items() if own is not None}
        self.thumbnails = match_thumbnails(values, thumbnails)
        shown = _choose_names(names, modality)
        self.kind_ = self._choose_kind(kind, shown, found, thumbnail is not None)
        if self.kind_ == "map":
            shown = [choose_modality(names, found, modality, has_own=False)]
        elif self.kind_ == "strips":
            shown = [self._choose_with_thumbnails(shown)]
        self.names = shown
        self.seconds = {
            name: check_positions(found[name]["seconds"], "places['seconds']", len(values[name]))
            for name in shown
            if "seconds" in found.get(name, {})
        }
        self.frame = None
        if self.kind_ == "map":
            self.frame = MapFrame(
                found[shown[0]],
                len(values[shown[0]]),
                thumbnail=thumbnail,
                extent=extent,
                scale=scale,
                tile_size=tile_size,
                anchor=anchor,
            )

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        item: Any,
        *,
        classes: ArrayLike | None = None,
        kind: str = "auto",
        modality: str | None = None,
        places: Any = None,
        thumbnails: Any = None,
        thumbnail: Any = None,
        extent: Sequence[float] | None = None,
        scale: float | None = None,
        tile_size: float | None = None,
        anchor: str = "corner",
        n_shown: int = 6,
        ax: Any = None,
        cmap: Any = None,
        colorbar: bool = True,
    ) -> Self:
        """Plot the evidence of an item for the classes of a fitted classifier.

        Parameters
        ----------
        estimator : fitted classifier with ``local_evidence``
            The classifier to explain.

        item : FeatureSets or MultimodalFeatureSets of one item, array-like of shape (L, M), or \
                dict of str to array-like
            The local features of one item: ``X[[i]]``, which keeps their places, or ``X[i]``.

        classes : array-like of labels, optional
            The classes to draw, in this order. By default, the predicted class and, of more than
            two, the next two most probable ones. Of several labels per item, up to six with a
            probability above 1/2, or else the most probable one.

        kind, modality, places, thumbnails, thumbnail, extent, scale, tile_size, anchor : optional
            See the class.

        n_shown : int, default=6
            The number of thumbnails on either side of a strip.

        ax : Axes, or sequence of Axes, optional
            Axes to draw in, as many as `axes_`. By default a new figure is created.

        cmap : str or Colormap, optional
            Diverging colormap of a map, whose middle is the evidence 0.

        colorbar : bool, default=True
            Whether to draw the color bar of a map.

        Returns
        -------
        EvidenceDisplay

        Raises
        ------
        TypeError
            If the estimator has no evidence.

        ValueError
            If `item` is a container of several items, a class is unknown, or another argument is
            not valid or does not fit the item.

        sklearn.exceptions.NotFittedError
            If the estimator is not fitted.
        """
        evidence, labels, constants, probabilities = explain(estimator, item, classes)
        display = cls(
            evidence,
            labels,
            constants=constants,
            probabilities=probabilities,
            kind=kind,
            modality=modality,
            places=places,
            thumbnails=thumbnails,
            thumbnail=thumbnail,
            extent=extent,
            scale=scale,
            tile_size=tile_size,
            anchor=anchor,
        )
        return display.plot(ax, n_shown=n_shown, cmap=cmap, colorbar=colorbar)

    @classmethod
    def from_evidence(
        cls,
        evidence: Any,
        classes: ArrayLike,
        *,
        constants: ArrayLike | None = None,
        probabilities: ArrayLike | None = None,
        n_shown: int = 6,
        ax: Any = None,
        cmap: Any = None,
        colorbar: bool = True,
        **options: Any,
    ) -> Self:
        """Plot given evidence of an item.

        Parameters
        ----------
        evidence : FeatureSets or MultimodalFeatureSets of one item, ndarray of shape (L, C), or \
                dict of str to ndarray
            One item of the result of ``local_evidence``. The container ``evidence[[i]]`` keeps the
            places.

        classes : array-like of shape (C,)
            The labels of the columns.

        constants : array-like of shape (C,), optional
            What the logits contain besides the evidence: ``constants.total[i]``.

        probabilities : array-like of shape (C,), optional
            The probabilities of the classes.

        n_shown, ax, cmap, colorbar : optional
            As in `from_estimator`.

        **options
            The other parameters of the class, such as `kind` and `places`.

        Returns
        -------
        EvidenceDisplay

        Raises
        ------
        TypeError, ValueError
            If an argument is not valid or does not fit the evidence.

        Examples
        --------
        >>> import numpy as np
        >>> from acluster.inspection import EvidenceDisplay
        >>> evidence = np.array([[0.5, -0.5], [-0.25, 1.5]])
        >>> display = EvidenceDisplay.from_evidence(evidence, ["cat", "dog"], constants=[0.0, 1.0])
        >>> [axes.get_title(loc="left") for axes in display.axes_]
        ['cat: logit +0.25 (evidence +0.25, constant +0.00)', \
'dog: logit +2.00 (evidence +1.00, constant +1.00)']
        """
        display = cls(
            evidence, classes, constants=constants, probabilities=probabilities, **options
        )
        return display.plot(ax, n_shown=n_shown, cmap=cmap, colorbar=colorbar)

    def plot(
        self, ax: Any = None, *, n_shown: int = 6, cmap: Any = None, colorbar: bool = True
    ) -> Self:
        """Draw the evidence.

        Parameters
        ----------
        ax, n_shown, cmap, colorbar : optional
            As in `from_estimator`.

        Returns
        -------
        EvidenceDisplay
            The display, with `axes_`, `maps_` and `figure_` set.

        Raises
        ------
        ValueError
            If `n_shown` is not a positive integer, there are too many rows to see, or `ax` has
            another number of Axes.
        """
        if not isinstance(n_shown, int | np.integer) or n_shown < 1:
            raise ValueError(f"n_shown={n_shown!r} must be an int of at least 1.")
        self.maps_: list[Any] = []
        if self.frame is not None:
            self._plot_map(self.frame, ax, cmap, colorbar)
        elif self.kind_ == "strips":
            (name,) = self.names
            self.axes_: NDArray[Any] = draw_strips(
                self.evidence.by_modality[name],
                self.evidence.titles(name),
                self.thumbnails[name],
                self.seconds.get(name),
                int(n_shown),
                ax,
            )
        else:
            self.axes_ = draw_rows(self.evidence, self.names, self.seconds, ax)
        self.figure_ = self.axes_[0].figure
        return self

    def _plot_map(self, frame: MapFrame, ax: Any, cmap: Any, colorbar: bool) -> None:
        (name,) = self.names
        values = self.evidence.by_modality[name]
        titles = self.evidence.titles(name, is_narrow=True)
        if not len(values):
            titles = [f"{title}\nmissing" for title in titles]
        limit = float(np.abs(values).sum(axis=0).max(initial=0)) or 1.0
        self.axes_, self.maps_ = frame.draw(
            ax,
            values,
            titles,
            width=_MAP_WIDTH,
            n_columns=_MAP_COLUMNS,
            cmap=evidence_colors() if cmap is None else cmap,
            limits=(-limit, limit),
        )
        # Values at one place are added up, so the largest one is known only now.
        shown = [float(np.abs(one.get_array()).max()) for one in self.maps_]
        for one in self.maps_:
            one.set_clim(-(max(shown) or 1.0), max(shown) or 1.0)
        if colorbar and self.maps_:
            bar = self.axes_[0].figure.colorbar(self.maps_[0], ax=[*self.axes_], label=LABEL)
            bar.formatter.set_powerlimits((-3, 3))

    def _choose_kind(
        self, kind: str, names: list[str | None], places: Mapping[Any, Any], has_picture: bool
    ) -> str:
        if kind not in ("auto", *_KINDS):
            raise ValueError(f"kind={kind!r} must be 'auto', 'rows', 'map' or 'strips'.")
        if kind != "auto":
            return kind
        if any(self.thumbnails[name] is not None for name in names):
            return "strips"
        has_positions = all({"x", "y"} <= set(places.get(name, {})) for name in names)
        return "map" if has_picture or has_positions else "rows"

    def _choose_with_thumbnails(self, names: list[str | None]) -> str | None:
        found = [name for name in names if self.thumbnails[name] is not None]
        if len(found) == 1:
            return found[0]
        if not found:
            raise ValueError(
                "kind='strips' draws thumbnails, but none are given. Pass thumbnails, an image per "
                "local feature."
            )
        raise ValueError(
            f"thumbnails are given for {found}, but strips show one modality. Pass its name as "
            "modality."
        )


def _opened(evidence: Any) -> tuple[dict[str | None, NDArray[Any]], dict[str | None, Any]]:
    """Return the evidence of one item by modality, and the columns of its places."""
    places: dict[str | None, Any] = {}
    if isinstance(evidence, FeatureSets | MultimodalFeatureSets):
        check_one_item(evidence, "evidence")
        places = {name: own for name, own in places_of(evidence).items() if own}
        evidence = evidence[0]
    shape = "(L, C), the evidence"
    return arrays_by_modality(evidence, "evidence", shape, "local_evidence"), places


def _choose_names(names: list[str | None], modality: str | None) -> list[str | None]:
    """Return the modalities to draw: the given one, or all."""
    if modality is None:
        return names
    if modality not in names:
        known = "the item has one modality, without a name" if names == [None] else names
        raise ValueError(f"modality={modality!r} is not one of the evidence: {known}.")
    return [modality]
