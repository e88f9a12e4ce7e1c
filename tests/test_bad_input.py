"""The error messages of wrong calls: each names the mistake, the value seen and the remedy.

`OWN_CASES` pins the messages that acluster writes itself, word for word. `FOREIGN_CASES` holds
messages of scikit-learn that users search for; each is matched by the part that matters. Data and
models are made by the first test that needs them.
"""

import re
from collections.abc import Callable
from functools import cached_property
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import sparse
from sklearn.exceptions import NotFittedError
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.utils._param_validation import InvalidParameterError

from acluster import (
    AttentionClusterClassifier,
    FeatureSets,
    MultimodalAttentionClusterClassifier,
    MultimodalFeatureSets,
)
from acluster.model_selection import GridSearchCV
from acluster.nn import AttentionCluster, attend
from acluster.preprocessing import LocalFeatureTransformer
from acluster.rivals import PooledClassifier
from acluster.sets import with_extraction
from tests.conftest import make_sets

QUICK = {"cluster_size": 2, "max_iter": 1, "tol": None, "random_state": 0}
AVAILABLE_DEVICES = str(
    ["cpu"]
    + ["mps"] * torch.backends.mps.is_available()
    + [f"cuda:{i}" for i in range(torch.cuda.device_count())]
)


class Data:
    """Sixty sets of two classes, the wrong inputs made of them, and fitted models."""

    def __init__(self):
        self.X, self.y = make_sets()
        self.arrays = list(self.X)
        self.texts = np.array(["a", "b"])[self.y]
        self.indicator = np.eye(2, dtype=int)[self.y]
        self.audio = FeatureSets.from_arrays([x[:, :3] for x in self.arrays])
        self.no_audio = FeatureSets(np.empty((0, 3)), np.zeros(61, int))
        self.both = MultimodalFeatureSets({"rgb": self.X, "audio": self.audio})

    @cached_property
    def fitted(self):
        return self.fit()

    @cached_property
    def fitted_multimodal(self):
        return self.fit_multimodal()

    def fit(self, parameters=None, **given):
        clf = AttentionClusterClassifier(**{**QUICK, **(parameters or {})})
        return clf.fit(**{"X": self.X, "y": self.y, **given})

    def refit(self, changes=None, **given):
        clf = self.fit({"warm_start": True}).set_params(**(changes or {}))
        return clf.fit(**{"X": self.X, "y": self.y, **given})

    def fit_multimodal(self, parameters=None, **given):
        clf = MultimodalAttentionClusterClassifier(**{**QUICK, **(parameters or {})})
        return clf.fit(**{"X": self.both, "y": self.y, **given})

    def partial_fit(self, parameters=None, **given):
        clf = AttentionClusterClassifier(**{**QUICK, **(parameters or {})})
        return clf.partial_fit(**{"X": self.X, "y": self.y, **given})

    def search(self, X):
        clf = MultimodalAttentionClusterClassifier(**QUICK)
        return GridSearchCV(clf, {"dropout": [0.0, 0.5]}, cv=2).fit(X, self.y)

    def arrays_with(self, item, index=17):
        """Return the arrays with another item at `index`."""
        return [*self.arrays[:index], item, *self.arrays[index + 1 :]]

    def arrays_with_value(self, value):
        """Return the arrays with another value in item 17, local feature 1, column 2."""
        item = self.arrays[17].copy()
        item[1, 2] = value
        return self.arrays_with(item)

    def frames_with(self, columns, others=(*"abcd",)):
        """Return data frames; the last column names are those of item 17."""
        return [
            pd.DataFrame(x, columns=[*(columns if i == 17 else others)])
            for i, x in enumerate(self.arrays)
        ]

    def audio_with_nan(self):
        arrays = [x.copy() for x in self.audio]
        arrays[3][0, 1] = np.nan
        return arrays

    def extracted(self, n):
        """Return the sets with a description of their extraction."""
        description = {"view": {"kind": "Frames", "n": n}, "backbone": "package:function"}
        return with_extraction(self.X, description)

    def both_without_items(self):
        """Return modalities in which items 17 and 20 have no local features at all."""
        gone = (17, 20)
        return {
            "rgb": [None if i in gone else x for i, x in enumerate(self.arrays)],
            "audio": [x[:0] if i in gone else x for i, x in enumerate(self.audio)],
        }


class Case(NamedTuple):
    name: str
    call: Callable[[Data], Any]
    error: type
    message: str


def objects(items):
    array = np.empty(len(items), dtype=object)
    array[:] = items
    return array


def masked(shape):
    """Return ones, of which the first is masked."""
    return np.ma.array(np.ones(shape), mask=np.arange(np.prod(shape)).reshape(shape) == 0)


OWN_CASES = [
    # X of the classifiers.
    Case(
        "fit X=None",
        lambda data: data.fit(X=None),
        TypeError,
        "X has type NoneType; expected FeatureSets, a list of two-dimensional arrays, a three-dimensional array, or the path or URL of a store.",
    ),
    Case(
        "fit X=generator",
        lambda data: data.fit(X=(x for x in data.arrays)),
        TypeError,
        "X has type generator; expected FeatureSets, a list of two-dimensional arrays, a three-dimensional array, or the path or URL of a store.",
    ),
    Case(
        "fit X=path of no store",
        lambda data: data.fit(X="store.zarr"),
        FileNotFoundError,
        "There is no store at 'store.zarr'. Write one with acluster.save_feature_sets.",
    ),
    Case(
        "fit X=dict",
        lambda data: data.fit(X={"rgb": data.X}),
        TypeError,
        "X has type dict, with several modalities; AttentionClusterClassifier takes one. Pass X[name], or use MultimodalAttentionClusterClassifier.",
    ),
    Case(
        "fit X=MultimodalFeatureSets",
        lambda data: data.fit(X=data.both),
        TypeError,
        "X has type MultimodalFeatureSets, with several modalities; AttentionClusterClassifier takes one. Pass X[name], or use MultimodalAttentionClusterClassifier.",
    ),
    Case(
        "fit X=4-d array",
        lambda data: data.fit(X=np.zeros((60, 2, 3, 4))),
        ValueError,
        "X has shape (60, 2, 3, 4); expected (items, local features, features). Extract one feature vector per local feature first.",
    ),
    Case(
        "fit X=array of empty sets",
        lambda data: data.fit(X=np.zeros((60, 0, 4))),
        ValueError,
        "X[0] (and 59 more) has 0 local features; every item needs at least one. Drop it, or give it one (for example the mean local feature).",
    ),
    Case(
        "fit X=array without columns",
        lambda data: data.fit(X=np.zeros((60, 3, 0))),
        ValueError,
        "The array of local features has 0 features; local features need at least one.",
    ),
    Case(
        "fit X with an empty item",
        lambda data: data.fit(X=data.arrays_with(np.zeros((0, 4)))),
        ValueError,
        "X[17] has 0 local features; every item needs at least one. Drop it, or give it one (for example the mean local feature).",
    ),
    Case(
        "fit X with a 1-d item",
        lambda data: data.fit(X=data.arrays_with(np.zeros(4))),
        ValueError,
        "X[17] has shape (4,); expected a two-dimensional array (local features, features). Reshape a single local feature to (1, n_features).",
    ),
    Case(
        "fit X=object array of 1-d items",
        lambda data: data.fit(X=objects([np.zeros(4)] * 60)),
        ValueError,
        "X[0] has shape (4,); expected a two-dimensional array (local features, features). Reshape a single local feature to (1, n_features).",
    ),
    Case(
        "fit X with a scalar item",
        lambda data: data.fit(X=data.arrays_with(3.0)),
        ValueError,
        "X[17] has shape (); expected a two-dimensional array (local features, features). Reshape a single local feature to (1, n_features).",
    ),
    Case(
        "fit X with an item None",
        lambda data: data.fit(X=data.arrays_with(None)),
        ValueError,
        "X[17] is None; every item needs a set. Drop the item, also from y.",
    ),
    Case(
        "fit X with an item of strings",
        lambda data: data.fit(X=data.arrays_with(np.array([[*"abcd"]]))),
        ValueError,
        "X[17] has dtype <U1; local features must be real numbers. Convert it to a real dtype, such as float32.",
    ),
    Case(
        "fit X with an item of objects",
        lambda data: data.fit(X=data.arrays_with(np.array([[None, 1, 2, 3]], dtype=object))),
        ValueError,
        "X[17] has dtype object; local features must be real numbers. Convert it to a real dtype, such as float32.",
    ),
    Case(
        "fit X with a complex item",
        lambda data: data.fit(X=data.arrays_with(np.zeros((2, 4), complex))),
        ValueError,
        "X[17] has dtype complex128; local features must be real numbers. Convert it to a real dtype, such as float32.",
    ),
    Case(
        "fit X with a ragged item",
        lambda data: data.fit(X=data.arrays_with([[1, 2], [3]])),
        ValueError,
        "X[17] has rows of different lengths; all local features of a set need the same width.",
    ),
    Case(
        "fit X=sparse matrices",
        lambda data: data.fit(X=[sparse.eye_array(3).tocsr()] * 60),
        TypeError,
        "X[0] is sparse; local features must be dense. Convert it with .toarray().",
    ),
    Case(
        "fit X=sparse tensors",
        lambda data: data.fit(X=[torch.eye(3).to_sparse()] * 60),
        TypeError,
        "A nested or sparse tensor cannot be converted to one array. Pass its parts as a list (tensor.unbind()), or tensor.to_dense().",
    ),
    Case(
        "fit X of two widths",
        lambda data: data.fit(X=data.arrays_with(np.zeros((3, 5)))),
        ValueError,
        "X[17] has 5 features, but X[0] has 4; all local features need the same width. Use the same extractor for all items, or two modalities.",
    ),
    Case(
        "fit X of two dtypes",
        lambda data: data.fit(X=data.arrays_with(np.zeros((3, 4), np.float32))),
        ValueError,
        "X[17] has dtype float32, but X[0] has float64. Convert all sets to one dtype, for example [x.astype(np.float32) for x in X].",
    ),
    Case(
        "fit X transposed",
        lambda data: data.fit(X=[x.T for x in data.arrays]),
        ValueError,
        "X looks transposed: every set has 4 rows, and 1 to 9 columns. Local features are rows: pass [x.T for x in X].",
    ),
    Case(
        "fit X with NaN",
        lambda data: data.fit(X=data.arrays_with_value(np.nan)),
        ValueError,
        "Input X contains NaN.\nX[17] has nan in local feature 1, column 2. Drop that local feature or impute it (acluster.preprocessing.LocalFeatureTransformer can wrap an imputer).",
    ),
    Case(
        "fit X with infinity",
        lambda data: data.fit(X=data.arrays_with_value(-np.inf)),
        ValueError,
        "Input X contains infinity.\nX[17] has -inf in local feature 1, column 2. Drop that local feature or impute it (acluster.preprocessing.LocalFeatureTransformer can wrap an imputer).",
    ),
    Case(
        "fit X=nested tensor",
        lambda data: data.fit(
            X=torch.nested.nested_tensor([torch.ones(2, 4)] * 60, layout=torch.jagged)
        ),
        TypeError,
        "A nested or sparse tensor cannot be converted to one array. Pass its parts as a list (tensor.unbind()), or tensor.to_dense().",
    ),
    Case(
        "fit X=tensor on the device meta",
        lambda data: data.fit(X=torch.ones(60, 2, 4, device="meta")),
        TypeError,
        "A tensor on the device 'meta' has no values. Pass one on another device.",
    ),
    Case(
        "fit X=complex tensors",
        lambda data: data.fit(X=data.arrays_with(torch.ones(2, 4, dtype=torch.complex64))),
        ValueError,
        "X[17] has dtype complex64; local features must be real numbers. Convert it to a real dtype, such as float32.",
    ),
    Case(
        "fit X=file names",
        lambda data: data.fit(X=["a.npy"] * 60),
        TypeError,
        "X[0] is 'a.npy'; expected an array of local features. Load the file first, for example with numpy.load.",
    ),
    Case(
        "fit X=paths",
        lambda data: data.fit(X=[PurePosixPath("a.npy")] * 60),
        TypeError,
        "X[0] is PurePosixPath('a.npy'); expected an array of local features. Load the file first, for example with numpy.load.",
    ),
    Case(
        "fit X with an item of bytes",
        lambda data: data.fit(X=data.arrays_with(b"abc")),
        TypeError,
        "X[17] is b'abc'; expected an array of local features. Load the file first, for example with numpy.load.",
    ),
    Case(
        "fit X=pathlib path of no store",
        lambda data: data.fit(X=PurePosixPath("store.zarr")),
        FileNotFoundError,
        "There is no store at 'store.zarr'. Write one with acluster.save_feature_sets.",
    ),
    Case(
        "fit X=bytes",
        lambda data: data.fit(X=b"abc"),
        TypeError,
        "X has type bytes; expected FeatureSets, a list of two-dimensional arrays, a three-dimensional array, or the path or URL of a store.",
    ),
    Case(
        "fit X=view of a dict",
        lambda data: data.fit(X=dict(enumerate(data.arrays)).values()),
        TypeError,
        "X has type dict_values; expected FeatureSets, a list of two-dimensional arrays, a three-dimensional array, or the path or URL of a store.",
    ),
    Case(
        "fit X=set",
        lambda data: data.fit(X={1, 2}),
        TypeError,
        "X has type set; expected FeatureSets, a list of two-dimensional arrays, a three-dimensional array, or the path or URL of a store.",
    ),
    Case(
        "fit X=[None, ...]",
        lambda data: data.fit(X=[None] * 60),
        ValueError,
        "X[0] is None; every item needs a set. Drop the item, also from y.",
    ),
    Case(
        "fit X=pairs of set and label",
        lambda data: data.fit(X=list(zip(map(torch.tensor, data.arrays), data.y, strict=True))),
        TypeError,
        "X[0] is a tuple (Tensor, int64); expected an array of local features. Of (set, label) pairs, pass the sets as X and the labels as y.",
    ),
    Case(
        "fit X with a longdouble item",
        lambda data: data.fit(X=data.arrays_with(np.ones((2, 4), np.longdouble))),
        ValueError,
        f"X[17] has dtype {np.dtype(np.longdouble)}; local features must be real numbers of at most 64 bits (not longdouble). Convert it to a real dtype, such as float32.",
    ),
    Case(
        "fit X=3-d array of longdouble",
        lambda data: data.fit(X=np.ones((60, 2, 4), np.longdouble)),
        ValueError,
        f"The array of local features has dtype {np.dtype(np.longdouble)}; local features must be real numbers of at most 64 bits (not longdouble). Convert it to a real dtype, such as float32.",
    ),
    Case(
        "fit X with a structured item",
        lambda data: data.fit(X=data.arrays_with(np.zeros(2, [("a", "f4"), ("b", "f4")]))),
        ValueError,
        "X[17] has dtype [('a', '<f4'), ('b', '<f4')]; local features must be real numbers. Convert it to a real dtype, such as float32.",
    ),
    Case(
        "fit X with an item of dates",
        lambda data: data.fit(X=data.arrays_with(np.zeros((2, 4), "M8[s]"))),
        ValueError,
        "X[17] has dtype datetime64[s]; local features must be real numbers. Convert it to a real dtype, such as float32.",
    ),
    Case(
        "fit X with an item of ragged rows of objects",
        lambda data: data.fit(X=data.arrays_with(objects([np.ones(4), np.ones(3)]))),
        ValueError,
        "X[17] has rows of different lengths; all local features of a set need the same width.",
    ),
    Case(
        "fit X with a masked item",
        lambda data: data.fit(X=data.arrays_with(masked((2, 4)))),
        ValueError,
        "X[17] has masked values, which are missing. Drop these entries, or replace them with numpy.ma.filled(array, value).",
    ),
    Case(
        "fit X with an item of masked rows",
        lambda data: data.fit(X=data.arrays_with([masked(4), masked(4)])),
        ValueError,
        "X[17][0] has masked values, which are missing. Drop these entries, or replace them with numpy.ma.filled(array, value).",
    ),
    Case(
        "fit X=masked table",
        lambda data: data.fit(X=masked((60, 4))),
        ValueError,
        "X has masked values, which are missing. Drop these entries, or replace them with numpy.ma.filled(array, value).",
    ),
    Case(
        "fit X=masked rows",
        lambda data: data.fit(X=[masked(4)] * 60),
        ValueError,
        "X[0] has masked values, which are missing. Drop these entries, or replace them with numpy.ma.filled(array, value).",
    ),
    Case(
        "fit X=masked 3-d array",
        lambda data: data.fit(X=masked((60, 2, 4))),
        ValueError,
        "X has masked values, which are missing. Drop these entries, or replace them with numpy.ma.filled(array, value).",
    ),
    Case(
        "fit X with a masked modality",
        lambda data: data.fit_multimodal(X={"rgb": data.X, "audio": masked((60, 2, 3))}),
        ValueError,
        "In modality 'audio': X has masked values, which are missing. Drop these entries, or replace them with numpy.ma.filled(array, value).",
    ),
    Case(
        "FeatureSets of masked values",
        lambda data: FeatureSets(masked((3, 4)), [0, 3]),
        ValueError,
        "The array of local features has masked values, which are missing. Drop these entries, or replace them with numpy.ma.filled(array, value).",
    ),
    Case(
        "from_padded of masked values",
        lambda data: FeatureSets.from_padded(masked((3, 4, 2))),
        ValueError,
        "The padded array has masked values, which are missing. Drop these entries, or replace them with numpy.ma.filled(array, value).",
    ),
    Case(
        "fit X=data frame of a column of arrays",
        lambda data: data.fit(X=pd.DataFrame({"sets": data.arrays})),
        TypeError,
        "X is a data frame whose column 'sets' has the type ndarray in each cell. If a cell is a whole set, pass the column X['sets']. If the columns are the features of nested series, pass [numpy.column_stack(list(row)) for row in X.to_numpy()].",
    ),
    Case(
        "fit X=nested data frame",
        lambda data: data.fit(X=pd.DataFrame({"f": [pd.Series(x[:, 0]) for x in data.arrays]})),
        TypeError,
        "X is a data frame whose column 'f' has the type Series in each cell. If a cell is a whole set, pass the column X['f']. If the columns are the features of nested series, pass [numpy.column_stack(list(row)) for row in X.to_numpy()].",
    ),
    Case(
        "fit X=data frame whose index names the items",
        lambda data: data.fit(
            X=pd.concat({i: pd.DataFrame(x) for i, x in enumerate(data.arrays[:2])}), y=[0, 1]
        ),
        ValueError,
        "Found input variables with inconsistent numbers of samples: [14, 2]. A two-dimensional X has one local feature per item. If its index names the items, pass [group for _, group in X.groupby(level=0)].",
    ),
    Case(
        "fit X=data frames of other columns",
        lambda data: data.fit(X=data.frames_with("abcx")),
        ValueError,
        "X[17] has no column 'd'. Columns of data frames are matched by name, if the names are unique texts: give all frames the same columns, or pass arrays.",
    ),
    Case(
        "fit X=data frames of numbered columns in another order",
        lambda data: data.fit(X=data.frames_with([0, 1, 3, 2], range(4))),
        ValueError,
        "X[17] has its columns in another order. Columns of data frames are matched by name, if the names are unique texts: give all frames the same columns, or pass arrays.",
    ),
    Case(
        "fit X=data frames of repeated columns in another order",
        lambda data: data.fit(X=data.frames_with("abba", "aabb")),
        ValueError,
        "X[17] has its columns in another order. Columns of data frames are matched by name, if the names are unique texts: give all frames the same columns, or pass arrays.",
    ),
    Case(
        "predict X=data frames of other columns",
        lambda data: data.fit(X=data.frames_with("dcba")).predict(
            [pd.DataFrame(x, columns=[*"abcx"]) for x in data.arrays]
        ),
        ValueError,
        "X has no column 'd'. Columns of data frames are matched by name, if the names are unique texts: give all frames the same columns, or pass arrays.",
    ),
    Case(
        "fit X with a nullable frame that lacks a value",
        lambda data: data.fit(
            X=[
                pd.DataFrame(x).astype("Float64").mask(np.full(x.shape, i == 17))
                for i, x in enumerate(data.arrays)
            ]
        ),
        ValueError,
        "Input X contains NaN.\nX[17] has nan in local feature 0, column 0. Drop that local feature or impute it (acluster.preprocessing.LocalFeatureTransformer can wrap an imputer).",
    ),
    Case(
        "fit X beyond float32",
        lambda data: data.fit(
            {"dtype": "float32", "batch_size": 128, "standardize": False},
            X=[x * 1e300 for x in data.arrays],
        ),
        ValueError,
        "X has values beyond the range of float32, up to 7.95123e+300; standardize the local features, or use float64 for X and dtype.",
    ),
    Case(
        "predict X=[]",
        lambda data: data.fitted.predict([]),
        ValueError,
        "X has 0 items; at least one is required.",
    ),
    Case(
        "predict X=no items of several modalities",
        lambda data: data.fitted_multimodal.predict(data.both[[]]),
        ValueError,
        "X has 0 items; at least one is required.",
    ),
    # y and the weights.
    Case(
        "fit y=None",
        lambda data: data.fit(y=None),
        ValueError,
        "This AttentionClusterClassifier estimator requires y to be passed, but the target y is None.",
    ),
    Case(
        "fit y=list with NaN",
        lambda data: data.fit(y=["a", float("nan"), "b"] * 20),
        ValueError,
        "Input y contains NaN.\ny[1] is nan; every item needs a value. Drop the item, or fill it in.",
    ),
    Case(
        "fit y=objects with None",
        lambda data: data.fit(y=objects(["a", "b", None] * 20)),
        ValueError,
        "Input y contains missing values.\ny[2] is None; every item needs a value. Drop the item, or fill it in.",
    ),
    Case(
        "fit y=series of text with NA",
        lambda data: data.fit(y=pd.Series(["a", "b", pd.NA] * 20, dtype="string[python]")),
        ValueError,
        "Input y contains missing values.\ny[2] is <NA>; every item needs a value. Drop the item, or fill it in.",
    ),
    Case(
        "fit y=nullable integers with NA",
        lambda data: data.fit(y=pd.Series([0, 1, pd.NA] * 20, dtype="Int64")),
        ValueError,
        "Input y contains missing values.\ny[2] is <NA>; every item needs a value. Drop the item, or fill it in.",
    ),
    Case(
        "fit y=categories with NaN",
        lambda data: data.fit(y=pd.Categorical(["a", "b", None] * 20)),
        ValueError,
        "Input y contains NaN.\ny[2] is nan; every item needs a value. Drop the item, or fill it in.",
    ),
    Case(
        "fit y masked",
        lambda data: data.fit(y=np.ma.array(data.y, mask=np.arange(60) == 3)),
        ValueError,
        "y has masked values, which are missing. Drop these entries, or replace them with numpy.ma.filled(array, value).",
    ),
    Case(
        "fit y=list with a masked label",
        lambda data: data.fit(y=[0, 1, np.ma.masked] * 20),
        ValueError,
        "y[2] has masked values, which are missing. Drop these entries, or replace them with numpy.ma.filled(array, value).",
    ),
    Case(
        "fit sample_weight masked",
        lambda data: data.fit(sample_weight=masked(60)),
        ValueError,
        "sample_weight has masked values, which are missing. Drop these entries, or replace them with numpy.ma.filled(array, value).",
    ),
    Case(
        "fit y_val with NaN",
        lambda data: data.fit(y=data.texts, X_val=data.X[:3], y_val=["a", "b", np.nan]),
        ValueError,
        "In X_val and y_val: Input y contains NaN.\ny[2] is nan; every item needs a value. Drop the item, or fill it in.",
    ),
    Case(
        "fit with early stopping and y with None",
        lambda data: data.fit({"early_stopping": True}, y=["a", None, "b"] * 20),
        ValueError,
        "Input y contains missing values.\ny[1] is None; every item needs a value. Drop the item, or fill it in.",
    ),
    Case(
        "partial_fit y with NaN",
        lambda data: data.partial_fit(y=["a", np.nan, "b"] * 20, classes=["a", "b"]),
        ValueError,
        "Input y contains NaN.\ny[1] is nan; every item needs a value. Drop the item, or fill it in.",
    ),
    Case(
        "partial_fit classes with NaN",
        lambda data: data.partial_fit(y=data.texts, classes=["a", "b", np.nan]),
        ValueError,
        "Input classes contains NaN.\nclasses[2] is nan; every item needs a value. Drop the item, or fill it in.",
    ),
    Case(
        "score y with NaN",
        lambda data: data.fit(y=data.texts).score(data.X, ["a", np.nan, "b"] * 20),
        ValueError,
        "Input y contains NaN.\ny[1] is nan; every item needs a value. Drop the item, or fill it in.",
    ),
    Case(
        "score of a rival, y with None",
        lambda data: PooledClassifier().fit(data.X, data.texts).score(data.X, ["a", None] * 30),
        ValueError,
        "Input y contains missing values.\ny[1] is None; every item needs a value. Drop the item, or fill it in.",
    ),
    Case(
        "fit y=1",
        lambda data: data.fit(y=1),
        ValueError,
        "y is the single value 1; pass one label per item.",
    ),
    Case(
        "fit y of one class",
        lambda data: data.fit(y=np.zeros(60, int)),
        ValueError,
        "y holds only one class, 0, among the items of positive weight; a classifier needs at least two classes.",
    ),
    Case(
        "fit sample_weight of one class",
        lambda data: data.fit(sample_weight=(data.y == 0).astype(float)),
        ValueError,
        "y holds only one class, 0, among the items of positive weight; a classifier needs at least two classes.",
    ),
    Case(
        "fit y=several outputs",
        lambda data: data.fit(y=np.c_[data.y, data.y * 2 + 1]),
        ValueError,
        "Unknown label type: multiclass-multioutput. y has several columns that are not all 0 and 1; pass one label per item, or an indicator matrix (one column per label).",
    ),
    Case(
        "fit y=indicator of -1 and 1",
        lambda data: data.fit(y=2 * data.indicator - 1),
        ValueError,
        "y has 2 columns and holds -1; an indicator matrix holds 0 and 1 only. For labels -1 and 1, pass (y > 0).astype(int).",
    ),
    Case(
        "fit y of mixed types",
        lambda data: data.fit(y=np.array([1, "a"] * 30, dtype=object)),
        ValueError,
        "Unknown label type: unknown. y is an array of objects (int, str); use strings or integers, for example y.astype(str).",
    ),
    Case(
        "fit y ragged",
        lambda data: data.fit(y=[[1], [1, 2]] * 30),
        ValueError,
        "y has rows of differing length; pass one label per item, or an indicator matrix (sklearn.preprocessing.MultiLabelBinarizer makes one).",
    ),
    Case(
        "fit class_weight with an indicator",
        lambda data: data.fit({"class_weight": {0: 1}}, y=data.indicator),
        ValueError,
        "class_weight={0: 1} does not fit an indicator y; use 'balanced', None, or pass sample_weight.",
    ),
    Case(
        "fit class_weight negative",
        lambda data: data.fit({"class_weight": {0: -1.0, 1: 1.0}}),
        ValueError,
        "class_weight gives class 0 the weight -1.0; weights must be finite and non-negative.",
    ),
    Case(
        "fit class_weight not a number",
        lambda data: data.fit({"class_weight": {0: "a", 1: 1.0}}),
        ValueError,
        "class_weight gives class 0 the weight 'a'; weights must be finite and non-negative.",
    ),
    Case(
        "fit class_weight all zero",
        lambda data: data.fit({"class_weight": {0: 0.0, 1: 0.0}}),
        ValueError,
        "class_weight={0: 0.0, 1: 0.0} gives every item the weight 0; give at least one class a positive weight.",
    ),
    # The validation set.
    Case(
        "fit X_val without y_val",
        lambda data: data.fit(X_val=data.X),
        ValueError,
        "X_val is passed without y_val; pass both or neither.",
    ),
    Case(
        "fit y_val without X_val",
        lambda data: data.fit(y_val=data.y),
        ValueError,
        "y_val is passed without X_val; pass both or neither.",
    ),
    Case(
        "fit y_val with a new label",
        lambda data: data.fit(X_val=data.X, y_val=data.y + 1),
        ValueError,
        "y_val contains labels that the classifier does not know: [2]; its classes are [0, 1].",
    ),
    Case(
        "fit X_val of another width",
        lambda data: data.fit(X_val=np.zeros((60, 3, 5)), y_val=data.y),
        ValueError,
        "In X_val and y_val: X has 5 features, but AttentionClusterClassifier is expecting 4 features as input.",
    ),
    Case(
        "fit X_val with another modality",
        lambda data: data.fit_multimodal(X_val={"flow": data.X}, y_val=data.y),
        ValueError,
        "In X_val and y_val: X has the modality 'flow', which MultimodalAttentionClusterClassifier has not seen in fit; it was fitted on ['rgb', 'audio']. Leave it out, or fit again with it.",
    ),
    Case(
        "fit y_val=indicator",
        lambda data: data.fit(X_val=data.X, y_val=data.indicator),
        ValueError,
        "y_val has shape (60, 2); the classifier was fitted on one label per item.",
    ),
    Case(
        "fit y_val of other columns",
        lambda data: data.fit(y=data.indicator, X_val=data.X, y_val=np.eye(3, dtype=int)[data.y]),
        ValueError,
        "y_val has shape (60, 3); the classifier was fitted on 2 label columns.",
    ),
    # Parameters.
    Case(
        "fit device not available",
        lambda data: data.fit({"device": "cuda:99"}),
        ValueError,
        f"device='cuda:99' is not available; torch sees {AVAILABLE_DEVICES}. Use device='auto', or install torch for your GPU.",
    ),
    Case(
        "fit device=meta",
        lambda data: data.fit({"device": "meta"}),
        ValueError,
        f"device='meta' is not available; torch sees {AVAILABLE_DEVICES}. Use device='auto', or install torch for your GPU.",
    ),
    Case(
        "fit device of no name",
        lambda data: data.fit({"device": "gpu"}),
        ValueError,
        "device='gpu' is not the name of a device; use 'auto', 'cpu', 'cuda' or 'cuda:1'.",
    ),
    Case(
        "fit cluster_size without a modality",
        lambda data: data.fit_multimodal({"cluster_size": {"rgb": 4}}),
        ValueError,
        "cluster_size={'rgb': 4} names the modalities ['rgb'], but X has ['rgb', 'audio']. Give each of these a value, or pass one value for all.",
    ),
    Case(
        "fit diverging",
        lambda data: data.fit(
            {
                "shifting": False,
                "standardize": False,
                "learning_rate": 1e37,
                "batch_size": 128,
                "max_grad_norm": None,
                "max_iter": 5,
                "dtype": "float32",
            }
        ),
        ValueError,
        "Training diverged in epoch 3, with loss nan. Lower learning_rate (now 1e+37), and do not set standardize=False.",
    ),
    # Fits that continue an earlier one.
    Case(
        "partial_fit without classes",
        lambda data: data.partial_fit(),
        ValueError,
        "classes must be passed on the first call to partial_fit.",
    ),
    Case(
        "partial_fit with other classes",
        lambda data: data.partial_fit(classes=[0, 1]).partial_fit(
            data.X, data.y, classes=[0, 1, 2]
        ),
        ValueError,
        "`classes=[0, 1, 2]` is not the same as on last call to partial_fit, was: array([0, 1])",
    ),
    Case(
        "partial_fit y with a label not in classes",
        lambda data: data.partial_fit(classes=[1, 2]),
        ValueError,
        "y contains labels that the classifier does not know: [0]; its classes are [1, 2].",
    ),
    Case(
        "partial_fit class_weight=balanced",
        lambda data: data.partial_fit({"class_weight": "balanced"}, classes=[0, 1]),
        ValueError,
        "partial_fit does not support class_weight='balanced': it never sees all labels. Pass the weights as a dict, from sklearn.utils.compute_class_weight.",
    ),
    Case(
        "partial_fit early_stopping",
        lambda data: data.partial_fit({"early_stopping": True}, classes=[0, 1]),
        ValueError,
        "partial_fit does not support early_stopping=True: it never sees all items. Use fit, or early_stopping=False.",
    ),
    Case(
        "partial_fit classes of an indicator",
        lambda data: data.partial_fit(y=data.indicator, classes=[0, 1, 2]),
        ValueError,
        "classes=[0, 1, 2] does not match an indicator y of 2 columns; pass classes=[0, 1].",
    ),
    Case(
        "partial_fit one class",
        lambda data: data.partial_fit(classes=[0]),
        ValueError,
        "classes=[0] holds fewer than two classes.",
    ),
    Case(
        "partial_fit classes=set",
        lambda data: data.partial_fit(classes={0}),
        ValueError,
        "classes={0} must be a list of all labels, such as [0, 1].",
    ),
    Case(
        "partial_fit labels, then an indicator",
        lambda data: data.partial_fit(classes=[0, 1]).partial_fit(data.X, data.indicator),
        ValueError,
        "y has shape (60, 2); the classifier was fitted on one label per item.",
    ),
    Case(
        "warm_start with another cluster_size",
        lambda data: data.refit({"cluster_size": 3}),
        ValueError,
        "A fit that continues an earlier one cannot change the network: it was fitted with cluster_size=2, but the parameters now say cluster_size=3. Fit a clone, or call fit with warm_start=False.",
    ),
    Case(
        "partial_fit with another cluster_size",
        lambda data: data.fit().set_params(cluster_size=3).partial_fit(data.X, data.y),
        ValueError,
        "A fit that continues an earlier one cannot change the network: it was fitted with cluster_size=2, but the parameters now say cluster_size=3. Fit a clone, or call fit with warm_start=False.",
    ),
    Case(
        "fit X too large to standardize",
        lambda data: data.fit(X=[x * [1, 1, 1e200, 1] for x in data.arrays]),
        ValueError,
        "The local features of X are too large in column 2: their mean or their variance is beyond the range of float64. Divide the features by a constant.",
    ),
    Case(
        "search with a dict of modalities",
        lambda data: data.search({"rgb": data.X, "audio": data.audio}),
        TypeError,
        "A search cannot divide X of type dict. Open the path of a store with acluster.open_feature_sets; wrap a dict in acluster.MultimodalFeatureSets.",
    ),
    Case(
        "search with the path of a store",
        lambda data: data.search("train.zarr"),
        TypeError,
        "A search cannot divide X of type str. Open the path of a store with acluster.open_feature_sets; wrap a dict in acluster.MultimodalFeatureSets.",
    ),
    # Several modalities.
    Case(
        "predict with an unseen modality",
        lambda data: data.fitted_multimodal.predict({"rgb": data.X, "flow": data.X}),
        ValueError,
        "X has the modality 'flow', which MultimodalAttentionClusterClassifier has not seen in fit; it was fitted on ['rgb', 'audio']. Leave it out, or fit again with it.",
    ),
    Case(
        "predict with a modality of another width",
        lambda data: data.fitted_multimodal.predict({"rgb": data.X, "audio": data.X}),
        ValueError,
        "X['audio'] has 4 features, but MultimodalAttentionClusterClassifier is expecting 3 features as input.",
    ),
    Case(
        "predict without names of modalities",
        lambda data: data.fitted_multimodal.predict(data.X),
        ValueError,
        "X is one modality without a name, but MultimodalAttentionClusterClassifier was fitted on ['rgb', 'audio']. Pass a dict of sets with these names.",
    ),
    Case(
        "predict with items that lack every modality",
        lambda data: data.fitted_multimodal.predict(data.both_without_items()),
        ValueError,
        "X[17] (and 1 more) has 0 local features in any modality (rgb, audio); every item needs at least one. Drop it, or give it one (for example the mean local feature).",
    ),
    Case(
        "fit with an item that is an empty dict",
        lambda data: data.fit_multimodal(X=[{"rgb": data.arrays[0]}, {}], y=[0, 1]),
        ValueError,
        "X[1] has 0 local features in any modality (rgb); every item needs at least one. Drop it, or give it one (for example the mean local feature).",
    ),
    Case(
        "fit without modalities",
        lambda data: data.fit_multimodal(X={}),
        ValueError,
        "X has 0 modalities; at least one is required.",
    ),
    Case(
        "fit with a modality that every item lacks",
        lambda data: data.fit_multimodal(X={"rgb": data.X, "audio": data.no_audio}),
        ValueError,
        "Modality 'audio' is missing from every item; the first fit needs some local features of it. Add items that have the modality, or leave the modality out.",
    ),
    Case(
        "fit with a modality of None only",
        lambda data: data.fit_multimodal(X={"rgb": data.X, "audio": [None] * 60}),
        ValueError,
        "In modality 'audio': All 60 items are None, so the width of the modality is unknown. Leave the modality out.",
    ),
    Case(
        "fit with modalities of different numbers of items",
        lambda data: data.fit_multimodal(X={"rgb": data.X, "audio": data.audio[:59]}),
        ValueError,
        "The modalities have different numbers of items: {'rgb': 60, 'audio': 59}. If an item lacks a modality, give it an empty set there.",
    ),
    Case(
        "fit with NaN in a modality",
        lambda data: data.fit_multimodal(X={"rgb": data.X, "audio": data.audio_with_nan()}),
        ValueError,
        "In modality 'audio': Input X contains NaN.\nX[3] has nan in local feature 0, column 1. Drop that local feature or impute it (acluster.preprocessing.LocalFeatureTransformer can wrap an imputer).",
    ),
    Case(
        "fit with a modality that is a number",
        lambda data: data.fit_multimodal(X={"rgb": data.X, "audio": 3}),
        TypeError,
        "In modality 'audio': X has type int; expected FeatureSets, a list of two-dimensional arrays, a three-dimensional array, or the path or URL of a store.",
    ),
    Case(
        "fit with a number as the name of a modality",
        lambda data: data.fit_multimodal(X={1: data.X}),
        ValueError,
        "1 is not a valid name of a modality; use non-empty strings without '/'.",
    ),
    Case(
        "fit with a slash in the name of a modality",
        lambda data: data.fit_multimodal(X={"a/b": data.X}),
        ValueError,
        "'a/b' is not a valid name of a modality; use non-empty strings without '/'.",
    ),
    Case(
        "fit with items of two widths",
        lambda data: data.fit_multimodal(
            X=[{"rgb": data.arrays[0]}, {"rgb": data.arrays[1][:, :2]}], y=[0, 1]
        ),
        ValueError,
        "In modality 'rgb': X[1] has 2 features, but X[0] has 4; all local features need the same width. Use the same extractor for all items, or two modalities.",
    ),
    # FeatureSets and MultimodalFeatureSets.
    Case(
        "FeatureSets values=1-d array",
        lambda data: FeatureSets(np.zeros(3), [0, 3]),
        ValueError,
        "The array of local features has shape (3,); expected a two-dimensional array (local features, features). Reshape a single local feature to (1, n_features).",
    ),
    Case(
        "FeatureSets values=strings",
        lambda data: FeatureSets(np.array([["a"]]), [0, 1]),
        ValueError,
        "The array of local features has dtype <U1; local features must be real numbers. Convert it to a real dtype, such as float32.",
    ),
    Case(
        "FeatureSets offsets=2-d array",
        lambda data: FeatureSets(np.zeros((3, 1)), [[0, 3]]),
        ValueError,
        "offsets must be a one-dimensional array of n_items + 1 integers; got shape (1, 2), dtype int64.",
    ),
    Case(
        "FeatureSets offsets=[]",
        lambda data: FeatureSets(np.zeros((3, 1)), []),
        ValueError,
        "offsets must be a one-dimensional array of n_items + 1 integers; got shape (0,), dtype float64.",
    ),
    Case(
        "FeatureSets offsets with a wrong end",
        lambda data: FeatureSets(np.zeros((3, 1)), [0, 2]),
        ValueError,
        "offsets must run from 0 to the number of rows, 3; they run from 0 to 2.",
    ),
    Case(
        "FeatureSets offsets that fall",
        lambda data: FeatureSets(np.zeros((3, 1)), [0, 2, 1, 3]),
        ValueError,
        "offsets must not decrease: offsets[1] = 2 is followed by 1.",
    ),
    Case(
        "FeatureSets.from_padded of a 2-d array",
        lambda data: FeatureSets.from_padded(np.zeros((3, 2))),
        ValueError,
        "A padded array must have three dimensions (items, local features, features); got shape (3, 2).",
    ),
    Case(
        "FeatureSets.from_padded lengths of too few items",
        lambda data: FeatureSets.from_padded(np.zeros((5, 4, 3)), [1, 2]),
        ValueError,
        "lengths must be 5 integers, one per item; got shape (2,), dtype int64.",
    ),
    Case(
        "FeatureSets.from_padded lengths beyond the array",
        lambda data: FeatureSets.from_padded(np.zeros((5, 4, 3)), [1, 2, 9, 1, 1]),
        ValueError,
        "lengths[2] is 9; the padded array has room for 0 to 4 local features per item.",
    ),
    Case(
        "FeatureSets index of two dimensions",
        lambda data: data.X[[[0, 1]]],
        IndexError,
        "FeatureSets has one dimension, the items; an index of shape (1, 2) has more. Index the features of an item instead: X[i][:, j].",
    ),
    Case(
        "FeatureSets asarray",
        lambda data: np.asarray(data.X),
        TypeError,
        "FeatureSets cannot be converted to one array, because its sets differ in size. Use X[i] for one item, X.packed() for all local features end to end, or list(X).",
    ),
    Case(
        "FeatureSets.take axis=1",
        lambda data: data.X.take([0], axis=1),
        ValueError,
        "FeatureSets.take only selects items: axis must be 0, out None and mode 'raise'; got axis=1, out=None, mode='raise'.",
    ),
    Case(
        "MultimodalFeatureSets of lists",
        lambda data: MultimodalFeatureSets({"rgb": data.arrays}),
        TypeError,
        "Modality 'rgb' has type list; expected FeatureSets. Use FeatureSets.from_arrays to convert one array per item.",
    ),
    Case(
        "MultimodalFeatureSets index by an unknown name",
        lambda data: data.both["flow"],
        KeyError,
        "\"There is no modality 'flow'; the modalities are ['rgb', 'audio'].\"",
    ),
    Case(
        "MultimodalFeatureSets asarray",
        lambda data: np.asarray(data.both),
        TypeError,
        "MultimodalFeatureSets cannot be converted to one array, because its sets differ in size. Use X[i] for one item, X[name].packed() for all local features end to end, or list(X).",
    ),
    # preprocessing and nn.
    Case(
        "LocalFeatureTransformer with fewer rows",
        lambda data: LocalFeatureTransformer(
            FunctionTransformer(lambda values: values[:3])
        ).fit_transform(data.X),
        ValueError,
        "FunctionTransformer returned 3 rows for 308 local features. Use a transformer that keeps the number of rows.",
    ),
    Case(
        "LocalFeatureTransformer without a modality",
        lambda data: LocalFeatureTransformer({"rgb": "passthrough"}).fit(data.both),
        ValueError,
        "transformer has the modalities ['rgb'], but X has ['rgb', 'audio']. Pass a transformer or 'passthrough' for each, or one transformer for all.",
    ),
    Case(
        "LocalFeatureTransformer without names of modalities",
        lambda data: LocalFeatureTransformer("passthrough").fit(data.both).transform(data.X),
        ValueError,
        "X is one modality without a name, but LocalFeatureTransformer was fitted on ['rgb', 'audio']. Pass a dict of sets with these names.",
    ),
    Case(
        "attend offsets that do not start at 0",
        lambda data: attend(torch.ones(6, 1), torch.tensor([2, 4, 6]), torch.zeros(6, 1)),
        ValueError,
        "offsets must run from 0 to the number of local features, 6, and hold at least one set; got [2, 4] to [6].",
    ),
    Case(
        "AttentionCluster of an unknown weighting",
        lambda data: AttentionCluster(3, 2, "fc3"),
        ValueError,
        "weighting='fc3' is not one of ['average', 'fc1', 'fc2'], nor a subclass of acluster.nn.Weighting.",
    ),
    Case(
        "predict X that was extracted in another way",
        lambda data: data.fit(X=data.extracted(n=25)).predict(data.extracted(n=8)),
        ValueError,
        "X was extracted in another way than the items of fit: view.n is 8, but in fit it was 25. Extract X with the view and the backbone of fit: acluster.extraction.extract_features(paths, extraction_) does so, with the attribute extraction_ of AttentionClusterClassifier. Or fit again.",
    ),
]

FOREIGN_CASES = [
    Case(
        "fit X=pandas Index",
        lambda data: data.fit(X=pd.Index(range(60))),
        ValueError,
        "Expected 2D array, got 1D array instead",
    ),
    Case(
        "fit X=complex table",
        lambda data: data.fit(X=np.ones((60, 2), complex)),
        ValueError,
        "Complex data not supported",
    ),
    Case(
        "fit y=list of numbers with NaN",
        lambda data: data.fit(y=[0.0, np.nan, 1.0] * 20),
        ValueError,
        "Input y contains NaN.",
    ),
    Case(
        "fit X=1-d array",
        lambda data: data.fit(X=np.arange(60.0)),
        ValueError,
        "Expected 2D array, got 1D array instead",
    ),
    Case(
        "fit X=[]",
        lambda data: data.fit(X=[], y=[]),
        ValueError,
        "Found array with 0 sample(s) (shape=(0,)) while a minimum of 1 is required.",
    ),
    Case(
        "fit X=2-d array with NaN",
        lambda data: data.fit(X=np.full((60, 2), np.nan)),
        ValueError,
        "Input X contains NaN.",
    ),
    Case(
        "predict X of another width",
        lambda data: data.fitted.predict(np.zeros((3, 2, 5))),
        ValueError,
        "X has 5 features, but AttentionClusterClassifier is expecting 4 features as input.",
    ),
    Case(
        "predict before fit",
        lambda data: AttentionClusterClassifier().predict("not even sets"),
        NotFittedError,
        "This AttentionClusterClassifier instance is not fitted yet. Call 'fit'",
    ),
    Case(
        "LocalFeatureTransformer.transform before fit",
        lambda data: LocalFeatureTransformer(StandardScaler()).transform(data.X),
        NotFittedError,
        "This LocalFeatureTransformer instance is not fitted yet. Call 'fit'",
    ),
    Case(
        "fit y of another length",
        lambda data: data.fit(y=data.y[:-1]),
        ValueError,
        "Found input variables with inconsistent numbers of samples: [60, 59]",
    ),
    Case(
        "fit y=real numbers",
        lambda data: data.fit(y=np.linspace(0, 1, 60)),
        ValueError,
        "Unknown label type: continuous",
    ),
    Case(
        "fit sample_weight of another length",
        lambda data: data.fit(sample_weight=[1, 2, 3]),
        ValueError,
        "sample_weight.shape == (3,), expected (60,)!",
    ),
    Case(
        "fit sample_weight=0",
        lambda data: data.fit(sample_weight=np.zeros(60)),
        ValueError,
        "Sample weights must contain at least one non-zero number.",
    ),
    Case(
        "fit early_stopping with too few items",
        lambda data: data.fit({"early_stopping": True}, X=data.X[:3], y=[0, 1, 1]),
        ValueError,
        "early_stopping=True cannot hold out validation_fraction=0.1 of 3 items: ",
    ),
    Case(
        "fit cluster_size of a modality out of range",
        lambda data: data.fit_multimodal({"cluster_size": {"rgb": 4, "audio": 0}}),
        InvalidParameterError,
        "The \"cluster_size['audio']\" parameter of MultimodalAttentionClusterClassifier must be",
    ),
    Case(
        "get_feature_names_out of too few names",
        lambda data: data.fitted_multimodal.get_feature_names_out(["a"]),
        ValueError,
        "input_features should have length equal to number of features (7), got 1",
    ),
]

CASES = [*OWN_CASES, *FOREIGN_CASES]


@pytest.fixture(scope="module")
def data():
    return Data()


@pytest.mark.parametrize("case", OWN_CASES, ids=[case.name for case in OWN_CASES])
def test_own_message_names_mistake_value_and_remedy(case, data):
    with pytest.raises(case.error) as caught:
        case.call(data)
    assert str(caught.value) == case.message
    assert type(caught.value) is case.error


@pytest.mark.parametrize("case", FOREIGN_CASES, ids=[case.name for case in FOREIGN_CASES])
def test_message_of_scikit_learn_comes_through(case, data):
    with pytest.raises(case.error, match=re.escape(case.message)):
        case.call(data)
