"""Wrong calls, each with the exact words a user reads: what is wrong, the value, the remedy."""

import re
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest
import torch
from scipy import sparse
from sklearn.exceptions import NotFittedError
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.utils._param_validation import InvalidParameterError

from acluster import AttentionClusterClassifier as A
from acluster import FeatureSets, MultimodalFeatureSets
from acluster import MultimodalAttentionClusterClassifier as M
from acluster.nn import AttentionCluster, attend
from acluster.preprocessing import LocalFeatureTransformer
from tests.conftest import make_sets

X, y = make_sets()
R = list(X)
INDICATOR = np.eye(2, dtype=int)[y]
padded = np.zeros((5, 4, 3))
fitted = A(cluster_size=2, max_iter=1, tol=None, random_state=0).fit(X, y)
AVAILABLE = str(
    ["cpu"]
    + ["mps"] * torch.backends.mps.is_available()
    + [f"cuda:{i}" for i in range(torch.cuda.device_count())]
)


AUDIO = FeatureSets.from_arrays([a[:, :3] for a in R])
BOTH = MultimodalFeatureSets({"rgb": X, "audio": AUDIO})
fitted_two = M(cluster_size=2, max_iter=1, tol=None, random_state=0).fit(BOTH, y)
NO_AUDIO = FeatureSets(np.empty((0, 3)), np.zeros(61, int))
HALF = [None if i in (17, 20) else a for i, a in enumerate(R)]
HALF_AUDIO = FeatureSets.from_arrays(
    [a[:0, :3] if i in (17, 20) else a[:, :3] for i, a in enumerate(R)]
)


class Case(NamedTuple):
    name: str
    call: Callable
    error: type
    message: str


def object_array(items):
    array = np.empty(len(items), dtype=object)
    array[:] = items
    return array


def with_item(i, item):
    return [*R[:i], item, *R[i + 1 :]]


def with_value(value):
    item = R[17].copy()
    item[1, 2] = value
    return with_item(17, item)


def fit(X, y=y, **data):
    return lambda: A(cluster_size=2, max_iter=1, tol=None, random_state=0).fit(X, y, **data)


def with_nan():
    arrays = [a[:, :3].copy() for a in R]
    arrays[3][0, 1] = np.nan
    return arrays


def fit_two(X, y=y):
    return lambda: M(max_iter=1, tol=None).fit(X, y)


def par_of_two(**parameters):
    return lambda: M(**{"max_iter": 1, "tol": None, **parameters}).fit(BOTH, y)


def par(**parameters):
    return lambda: A(**{"max_iter": 1, "tol": None, **parameters}).fit(X, y)


CASES = [
    Case(
        "x none",
        fit(None),
        TypeError,
        "X is a NoneType; expected FeatureSets, a list of two-dimensional arrays, a three-dimensional array, or the path of a store.",
    ),
    Case(
        "x str",
        fit("store.zarr"),
        FileNotFoundError,
        "There is no store at 'store.zarr'. Write one with acluster.save_feature_sets.",
    ),
    Case(
        "x dict",
        fit({"rgb": X}),
        TypeError,
        "X is a dict of several modalities; AttentionClusterClassifier takes one. Pass X[name], or use MultimodalAttentionClusterClassifier.",
    ),
    Case(
        "x scalar",
        fit(3.0),
        TypeError,
        "X is a float; expected FeatureSets, a list of two-dimensional arrays, a three-dimensional array, or the path of a store.",
    ),
    Case(
        "x set",
        fit({1, 2}),
        TypeError,
        "X is a set; expected FeatureSets, a list of two-dimensional arrays, a three-dimensional array, or the path of a store.",
    ),
    Case(
        "x generator",
        fit(a for a in R),
        TypeError,
        "X is a generator; expected FeatureSets, a list of two-dimensional arrays, a three-dimensional array, or the path of a store.",
    ),
    Case(
        "x int list",
        fit([1, 2, 3], [0, 1, 0]),
        ValueError,
        "Expected 2D array, got 1D array instead:\narray=[1. 2. 3.].\nReshape your data either using array.reshape(-1, 1) if your data has a single feature or array.reshape(1, -1) if it contains a single sample.",
    ),
    Case(
        "x 1d",
        fit(np.arange(60.0)),
        ValueError,
        "Expected 2D array, got 1D array instead:\narray=[ 0.  1.  2.  3.  4.  5.  6.  7.  8.  9. 10. 11. 12. 13. 14. 15. 16. 17.\n 18. 19. 20. 21. 22. 23. 24. 25. 26. 27. 28. 29. 30. 31. 32. 33. 34. 35.\n 36. 37. 38. 39. 40. 41. 42. 43. 44. 45. 46. 47. 48. 49. 50. 51. 52. 53.\n 54. 55. 56. 57. 58. 59.].\nReshape your data either using array.reshape(-1, 1) if your data has a single feature or array.reshape(1, -1) if it contains a single sample.",
    ),
    Case(
        "x 0d",
        fit(np.float64(3)),
        ValueError,
        "Expected 2D array, got scalar array instead:\narray=3.0.\nReshape your data either using array.reshape(-1, 1) if your data has a single feature or array.reshape(1, -1) if it contains a single sample.",
    ),
    Case(
        "x 4d",
        fit(np.zeros((60, 2, 3, 4))),
        ValueError,
        "X has shape (60, 2, 3, 4); expected (items, local features, features). Extract one feature vector per local feature first.",
    ),
    Case(
        "x empty list",
        fit([], []),
        ValueError,
        "Found array with 0 sample(s) (shape=(0,)) while a minimum of 1 is required.",
    ),
    Case(
        "x empty 3d",
        fit(np.zeros((0, 3, 4)), []),
        ValueError,
        "Found array with 0 sample(s) (shape=(0,)) while a minimum of 1 is required.",
    ),
    Case(
        "x 3d zero rows",
        fit(np.zeros((60, 0, 4))),
        ValueError,
        "X[0] (and 59 more) has 0 local features; every item needs at least one. Drop it, or give it one (for example the mean local feature).",
    ),
    Case(
        "x 3d zero cols",
        fit(np.zeros((60, 3, 0))),
        ValueError,
        "The array of local features has 0 features; local features need at least one.",
    ),
    Case(
        "x empty sets obj",
        fit(X[[]], []),
        ValueError,
        "Found array with 0 sample(s) (shape=(0,)) while a minimum of 1 is required.",
    ),
    Case(
        "x item empty",
        fit(with_item(17, np.zeros((0, 4)))),
        ValueError,
        "X[17] has 0 local features; every item needs at least one. Drop it, or give it one (for example the mean local feature).",
    ),
    Case(
        "x items empty",
        fit(with_item(17, np.zeros((0, 4)))[:30] + [np.zeros((0, 4))] * 30),
        ValueError,
        "X[17] (and 30 more) has 0 local features; every item needs at least one. Drop it, or give it one (for example the mean local feature).",
    ),
    Case(
        "x item 1d",
        fit(with_item(17, np.zeros(4))),
        ValueError,
        "X[17] has shape (4,); expected a two-dimensional array (local features, features). Reshape a single local feature to (1, n_features).",
    ),
    Case(
        "x item 3d",
        fit(with_item(17, np.zeros((1, 2, 4)))),
        ValueError,
        "X[17] has shape (1, 2, 4); expected a two-dimensional array (local features, features). Reshape a single local feature to (1, n_features).",
    ),
    Case(
        "x item scalar",
        fit(with_item(17, 3.0)),
        ValueError,
        "X[17] has shape (); expected a two-dimensional array (local features, features). Reshape a single local feature to (1, n_features).",
    ),
    Case(
        "x item none",
        fit(with_item(17, None)),
        ValueError,
        "X[17] is None; every item needs a set. Drop the item, also from y.",
    ),
    Case(
        "x item str",
        fit(with_item(17, np.array([["a", "b", "c", "d"]]))),
        ValueError,
        "X[17] has dtype <U1; local features must be real numbers. Convert it to a real dtype, such as float32.",
    ),
    Case(
        "x item object",
        fit(with_item(17, np.array([[None, 1, 2, 3]], dtype=object))),
        ValueError,
        "X[17] has dtype object; local features must be real numbers. Convert it to a real dtype, such as float32.",
    ),
    Case(
        "x item complex",
        fit(with_item(17, np.zeros((2, 4), complex))),
        ValueError,
        "X[17] has dtype complex128; local features must be real numbers. Convert it to a real dtype, such as float32.",
    ),
    Case(
        "x item ragged",
        fit(with_item(17, [[1, 2], [3]])),
        ValueError,
        "X[17] has rows of different lengths; all local features of a set need the same width.",
    ),
    Case(
        "x widths",
        fit(with_item(17, np.zeros((3, 5)))),
        ValueError,
        "X[17] has 5 features, but X[0] has 4; all local features need the same width. Use the same extractor for all items, or two modalities.",
    ),
    Case(
        "x dtypes",
        fit(with_item(17, np.zeros((3, 4), np.float32))),
        ValueError,
        "X[17] has dtype float32, but X[0] has float64. Convert all sets to one dtype, for example [x.astype(np.float32) for x in X].",
    ),
    Case(
        "x transposed",
        fit([a.T for a in R]),
        ValueError,
        "X looks transposed: every set has 4 rows, and 1 to 9 columns. Local features are rows: pass [x.T for x in X].",
    ),
    Case(
        "x nan",
        fit(with_value(np.nan)),
        ValueError,
        "Input X contains NaN.\nX[17] has nan in local feature 1, column 2. Drop that local feature or impute it (acluster.preprocessing.LocalFeatureTransformer can wrap an imputer).",
    ),
    Case(
        "x inf",
        fit(with_value(np.inf)),
        ValueError,
        "Input X contains infinity.\nX[17] has inf in local feature 1, column 2. Drop that local feature or impute it (acluster.preprocessing.LocalFeatureTransformer can wrap an imputer).",
    ),
    Case(
        "x -inf",
        fit(with_value(-np.inf)),
        ValueError,
        "Input X contains infinity.\nX[17] has -inf in local feature 1, column 2. Drop that local feature or impute it (acluster.preprocessing.LocalFeatureTransformer can wrap an imputer).",
    ),
    Case(
        "x nan 3d",
        fit(np.full((60, 2, 3), np.nan)),
        ValueError,
        "Input X contains NaN.\nX[0] has nan in local feature 0, column 0. Drop that local feature or impute it (acluster.preprocessing.LocalFeatureTransformer can wrap an imputer).",
    ),
    Case(
        "x nan 2d",
        fit(np.full((60, 2), np.nan)),
        ValueError,
        "Input X contains NaN.\nAttentionClusterClassifier does not accept missing values encoded as NaN natively. For supervised learning, you might want to consider sklearn.ensemble.HistGradientBoostingClassifier and Regressor which accept missing values encoded as NaNs natively. Alternatively, it is possible to preprocess the data, for instance by using an imputer transformer in a pipeline or drop samples with missing values. See https://scikit-learn.org/stable/modules/impute.html You can find a list of all estimators that handle NaN values at the following page: https://scikit-learn.org/stable/modules/impute.html#estimators-that-handle-nan-values",
    ),
    Case(
        "x str 2d",
        fit(np.full((60, 2), "a")),
        ValueError,
        "could not convert string to float: np.str_('a')",
    ),
    Case(
        "x datetime",
        fit([np.zeros((2, 3), "M8[s]")] * 60),
        ValueError,
        "X[0] has dtype datetime64[s]; local features must be real numbers. Convert it to a real dtype, such as float32.",
    ),
    Case(
        "y none",
        fit(X, None),
        ValueError,
        "This AttentionClusterClassifier estimator requires y to be passed, but the target y is None.",
    ),
    Case(
        "y short",
        fit(X, y[:-1]),
        ValueError,
        "Found input variables with inconsistent numbers of samples: [60, 59]",
    ),
    Case(
        "y one class",
        fit(X, np.zeros(60, int)),
        ValueError,
        "y holds only one class, 0, among the items of positive weight; a classifier needs at least two classes.",
    ),
    Case(
        "y float",
        fit(X, np.linspace(0, 1, 60)),
        ValueError,
        "Unknown label type: continuous. Maybe you are trying to fit a classifier, which expects discrete classes on a regression target with continuous values.",
    ),
    Case("y nan", fit(X, np.r_[np.nan, y[1:]]), ValueError, "Input y contains NaN."),
    Case(
        "y multioutput",
        fit(X, np.c_[y, y * 2 + 1]),
        ValueError,
        "Unknown label type: multiclass-multioutput. y has several columns that are not all 0 and 1; pass one label per item, or an indicator matrix (one column per label).",
    ),
    Case(
        "y 3d",
        fit(X, np.zeros((60, 2, 2), int)),
        ValueError,
        "Found array with dim 3, while dim <= 2 is required.",
    ),
    Case("y scalar", fit(X, 1), ValueError, "y is the single value 1; pass one label per item."),
    Case(
        "y mixed",
        fit(X, np.array([1, "a"] * 30, dtype=object)),
        ValueError,
        "Unknown label type: unknown. y is an array of objects (int, str); use strings or integers, for example y.astype(str).",
    ),
    Case(
        "y str none",
        fit(X, np.array([None, "a"] * 30, dtype=object)),
        ValueError,
        "Unknown label type: unknown. y is an array of objects (NoneType, str); use strings or integers, for example y.astype(str).",
    ),
    Case(
        "y nested ragged",
        fit(X, [[1], [1, 2]] * 30),
        ValueError,
        "y has rows of differing length; pass one label per item, or an indicator matrix (sklearn.preprocessing.MultiLabelBinarizer makes one).",
    ),
    Case(
        "w short",
        fit(X, sample_weight=[1, 2, 3]),
        ValueError,
        "sample_weight.shape == (3,), expected (60,)!",
    ),
    Case(
        "w negative",
        fit(X, sample_weight=-np.ones(60)),
        ValueError,
        "Negative values in data passed to `sample_weight`.",
    ),
    Case(
        "w zero",
        fit(X, sample_weight=np.zeros(60)),
        ValueError,
        "Sample weights must contain at least one non-zero number.",
    ),
    Case(
        "w nan",
        fit(X, sample_weight=np.r_[np.nan, np.ones(59)]),
        ValueError,
        "Input sample_weight contains NaN.",
    ),
    Case(
        "w 2d",
        fit(X, sample_weight=np.ones((60, 2))),
        ValueError,
        "Sample weights must be 1D array or scalar, got 2D array. Expected either a scalar value or a 1D array of length 60.",
    ),
    Case(
        "w str",
        fit(X, sample_weight=["a"] * 60),
        ValueError,
        "could not convert string to float: 'a'",
    ),
    Case(
        "w one class",
        fit(X, sample_weight=(y == 0).astype(float)),
        ValueError,
        "y holds only one class, 0, among the items of positive weight; a classifier needs at least two classes.",
    ),
    Case(
        "cw unknown class",
        par(class_weight={7: 1.0}),
        ValueError,
        "The classes, [0, 1], are not in class_weight",
    ),
    Case(
        "cw str",
        par(class_weight="even"),
        InvalidParameterError,
        "The 'class_weight' parameter of AttentionClusterClassifier must be a str among {'balanced'}, an instance of 'dict' or None. Got 'even' instead.",
    ),
    Case(
        "cw indicator",
        lambda: A(class_weight={0: 1}, max_iter=1, tol=None).fit(X, INDICATOR),
        ValueError,
        "class_weight={0: 1} does not fit an indicator y; use 'balanced', None, or pass sample_weight.",
    ),
    Case(
        "cw negative",
        par(class_weight={0: -1.0, 1: 1.0}),
        ValueError,
        "class_weight gives class 0 the weight -1.0; weights are finite numbers of at least 0.",
    ),
    Case(
        "cw zero",
        par(class_weight={0: 0.0, 1: 0.0}),
        ValueError,
        "class_weight={0: 0.0, 1: 0.0} gives every item the weight 0; give at least one class a positive weight.",
    ),
    Case(
        "cw nan",
        par(class_weight={0: np.nan, 1: 1.0}),
        ValueError,
        "class_weight gives class 0 the weight nan; weights are finite numbers of at least 0.",
    ),
    Case(
        "cw strval",
        par(class_weight={0: "a", 1: 1.0}),
        ValueError,
        "class_weight gives class 0 the weight 'a'; weights are finite numbers of at least 0.",
    ),
    Case(
        "p cluster 0",
        par(cluster_size=0),
        InvalidParameterError,
        "The 'cluster_size' parameter of AttentionClusterClassifier must be an int in the range [1, inf). Got 0 instead.",
    ),
    Case(
        "p cluster float",
        par(cluster_size=2.5),
        InvalidParameterError,
        "The 'cluster_size' parameter of AttentionClusterClassifier must be an int in the range [1, inf). Got 2.5 instead.",
    ),
    Case(
        "p weighting",
        par(weighting="fc3"),
        InvalidParameterError,
        "The 'weighting' parameter of AttentionClusterClassifier must be a str among {'fc1', 'average', 'fc2'} or a callable. Got 'fc3' instead.",
    ),
    Case(
        "p hidden",
        par(hidden_size=0),
        InvalidParameterError,
        "The 'hidden_size' parameter of AttentionClusterClassifier must be an int in the range [1, inf). Got 0 instead.",
    ),
    Case(
        "p shifting",
        par(shifting="yes"),
        InvalidParameterError,
        "The 'shifting' parameter of AttentionClusterClassifier must be an instance of 'bool' or an instance of 'numpy.bool'. Got 'yes' instead.",
    ),
    Case(
        "p dropout 1",
        par(dropout=1.0),
        InvalidParameterError,
        "The 'dropout' parameter of AttentionClusterClassifier must be a float in the range [0.0, 1.0). Got 1.0 instead.",
    ),
    Case(
        "p nlf",
        par(n_local_features=0),
        InvalidParameterError,
        "The 'n_local_features' parameter of AttentionClusterClassifier must be an int in the range [1, inf) or None. Got 0 instead.",
    ),
    Case(
        "p opt",
        par(optimizer="sgd"),
        InvalidParameterError,
        "The 'optimizer' parameter of AttentionClusterClassifier must be a str among {'adam', 'rmsprop', 'adamw'}. Got 'sgd' instead.",
    ),
    Case(
        "p lr",
        par(learning_rate=0.0),
        InvalidParameterError,
        "The 'learning_rate' parameter of AttentionClusterClassifier must be a float in the range (0.0, inf). Got 0.0 instead.",
    ),
    Case(
        "p lr nan",
        par(learning_rate=float("nan")),
        InvalidParameterError,
        "The 'learning_rate' parameter of AttentionClusterClassifier must be a float in the range (0.0, inf). Got nan instead.",
    ),
    Case(
        "p lr inf",
        par(learning_rate=float("inf")),
        InvalidParameterError,
        "The 'learning_rate' parameter of AttentionClusterClassifier must be a float in the range (0.0, inf). Got inf instead.",
    ),
    Case(
        "p wd",
        par(weight_decay=-1.0),
        InvalidParameterError,
        "The 'weight_decay' parameter of AttentionClusterClassifier must be a float in the range [0.0, inf). Got -1.0 instead.",
    ),
    Case(
        "p clip",
        par(max_grad_norm=0.0),
        InvalidParameterError,
        "The 'max_grad_norm' parameter of AttentionClusterClassifier must be a float in the range (0.0, inf) or None. Got 0.0 instead.",
    ),
    Case(
        "p batch",
        par(batch_size=0),
        InvalidParameterError,
        "The 'batch_size' parameter of AttentionClusterClassifier must be an int in the range [1, inf). Got 0 instead.",
    ),
    Case(
        "p iter",
        par(max_iter=0),
        InvalidParameterError,
        "The 'max_iter' parameter of AttentionClusterClassifier must be an int in the range [1, inf). Got 0 instead.",
    ),
    Case(
        "p tol",
        par(tol=-1.0),
        InvalidParameterError,
        "The 'tol' parameter of AttentionClusterClassifier must be a float in the range [0.0, inf) or None. Got -1.0 instead.",
    ),
    Case(
        "p patience",
        par(n_iter_no_change=0),
        InvalidParameterError,
        "The 'n_iter_no_change' parameter of AttentionClusterClassifier must be an int in the range [1, inf). Got 0 instead.",
    ),
    Case(
        "p es",
        par(early_stopping="auto"),
        InvalidParameterError,
        "The 'early_stopping' parameter of AttentionClusterClassifier must be an instance of 'bool' or an instance of 'numpy.bool'. Got 'auto' instead.",
    ),
    Case(
        "p vf",
        par(validation_fraction=1.0),
        InvalidParameterError,
        "The 'validation_fraction' parameter of AttentionClusterClassifier must be a float in the range (0.0, 1.0). Got 1.0 instead.",
    ),
    Case(
        "p device type",
        par(device=0),
        InvalidParameterError,
        "The 'device' parameter of AttentionClusterClassifier must be an instance of 'str'. Got 0 instead.",
    ),
    Case(
        "p meta",
        par(device="meta"),
        ValueError,
        "device='meta' is not there; torch sees "
        + AVAILABLE
        + ". Use device='auto', or install torch for your GPU.",
    ),
    Case(
        "p device there",
        par(device="cuda:99"),
        ValueError,
        "device='cuda:99' is not there; torch sees "
        + AVAILABLE
        + ". Use device='auto', or install torch for your GPU.",
    ),
    Case(
        "p device name",
        par(device="gpu"),
        ValueError,
        "device='gpu' is not the name of a device; use 'auto', 'cpu', 'cuda' or 'cuda:1'.",
    ),
    Case(
        "p dtype",
        par(dtype="float16"),
        InvalidParameterError,
        "The 'dtype' parameter of AttentionClusterClassifier must be a str among {'float64', 'float32', 'auto'}. Got 'float16' instead.",
    ),
    Case(
        "p seed",
        par(random_state="a"),
        InvalidParameterError,
        "The 'random_state' parameter of AttentionClusterClassifier must be an int in the range [0, 4294967295], an instance of 'numpy.random.mtrand.RandomState' or None. Got 'a' instead.",
    ),
    Case(
        "p verbose",
        par(verbose="a"),
        InvalidParameterError,
        "The 'verbose' parameter of AttentionClusterClassifier must be an instance of 'bool' or an instance of 'numpy.bool'. Got 'a' instead.",
    ),
    Case(
        "p unknown",
        lambda: A(n_units=3),
        TypeError,
        "AttentionClusterClassifier.__init__() got an unexpected keyword argument 'n_units'",
    ),
    Case(
        "p positional",
        lambda: A(8),
        TypeError,
        "AttentionClusterClassifier.__init__() takes 1 positional argument but 2 were given",
    ),
    Case(
        "val no y",
        fit(X, X_val=X),
        ValueError,
        "X_val is passed without y_val; pass both or neither.",
    ),
    Case(
        "val no X",
        fit(X, y_val=y),
        ValueError,
        "y_val is passed without X_val; pass both or neither.",
    ),
    Case(
        "val labels",
        fit(X, X_val=X, y_val=y + 1),
        ValueError,
        "y_val contains labels that the classifier does not know: [2]; its classes are [0, 1].",
    ),
    Case(
        "val width",
        fit(X, X_val=np.zeros((60, 3, 5)), y_val=y),
        ValueError,
        "In X_val and y_val: X has 5 features, but AttentionClusterClassifier is expecting 4 features as input.",
    ),
    Case(
        "val short",
        fit(X, X_val=X, y_val=y[:5]),
        ValueError,
        "In X_val and y_val: Found input variables with inconsistent numbers of samples: [60, 5]",
    ),
    Case(
        "val indicator",
        fit(X, X_val=X, y_val=INDICATOR),
        ValueError,
        "y_val has shape (60, 2); the classifier was fitted on one label per item.",
    ),
    Case(
        "val multi columns",
        lambda: A(max_iter=1, tol=None).fit(X, INDICATOR, X_val=X, y_val=np.eye(3, dtype=int)[y]),
        ValueError,
        "y_val has shape (60, 3); the classifier was fitted on 2 label columns.",
    ),
    Case(
        "es few",
        lambda: A(early_stopping=True).fit(X[:3], [0, 1, 1]),
        ValueError,
        "early_stopping=True cannot hold out validation_fraction=0.1 of 3 items: The least populated classes in y have only 1 member, which is too few. The minimum number of groups for any class cannot be less than 2. Classes with too few members are: [0]. Pass X_val and y_val, change validation_fraction, or set early_stopping=False.",
    ),
    Case(
        "es tiny",
        lambda: A(early_stopping=True, validation_fraction=0.01).fit(X, y),
        ValueError,
        "early_stopping=True cannot hold out validation_fraction=0.01 of 60 items: The test_size = 1 should be greater or equal to the number of classes = 2. Pass X_val and y_val, change validation_fraction, or set early_stopping=False.",
    ),
    Case(
        "unfit predict",
        lambda: A().predict(X),
        NotFittedError,
        "This AttentionClusterClassifier instance is not fitted yet. Call 'fit' with appropriate arguments before using this estimator.",
    ),
    Case(
        "unfit transform",
        lambda: A().transform(X),
        NotFittedError,
        "This AttentionClusterClassifier instance is not fitted yet. Call 'fit' with appropriate arguments before using this estimator.",
    ),
    Case(
        "unfit attention",
        lambda: A().attention_weights(X),
        NotFittedError,
        "This AttentionClusterClassifier instance is not fitted yet. Call 'fit' with appropriate arguments before using this estimator.",
    ),
    Case(
        "unfit names",
        lambda: A().get_feature_names_out(),
        NotFittedError,
        "This AttentionClusterClassifier instance is not fitted yet. Call 'fit' with appropriate arguments before using this estimator.",
    ),
    Case(
        "unfit proba garbage",
        lambda: A().predict_proba("x"),
        NotFittedError,
        "This AttentionClusterClassifier instance is not fitted yet. Call 'fit' with appropriate arguments before using this estimator.",
    ),
    Case(
        "predict width",
        lambda: fitted.predict(np.zeros((3, 2, 5))),
        ValueError,
        "X has 5 features, but AttentionClusterClassifier is expecting 4 features as input.",
    ),
    Case(
        "predict width2d",
        lambda: fitted.predict(np.zeros((3, 1))),
        ValueError,
        "X has 1 features, but AttentionClusterClassifier is expecting 4 features as input.",
    ),
    Case(
        "predict nan",
        lambda: fitted.predict(with_value(np.nan)),
        ValueError,
        "Input X contains NaN.\nX[17] has nan in local feature 1, column 2. Drop that local feature or impute it (acluster.preprocessing.LocalFeatureTransformer can wrap an imputer).",
    ),
    Case(
        "predict empty",
        lambda: fitted.predict(with_item(17, np.zeros((0, 4)))),
        ValueError,
        "X[17] has 0 local features; every item needs at least one. Drop it, or give it one (for example the mean local feature).",
    ),
    Case(
        "transform none",
        lambda: fitted.transform(None),
        TypeError,
        "X is a NoneType; expected FeatureSets, a list of two-dimensional arrays, a three-dimensional array, or the path of a store.",
    ),
    Case(
        "predict no items",
        lambda: fitted.predict([]),
        ValueError,
        "X has 0 items; at least one is required.",
    ),
    Case(
        "names wrong",
        lambda: fitted.get_feature_names_out(["a"]),
        ValueError,
        "input_features should have length equal to number of features (4), got 1",
    ),
    Case(
        "score indicator",
        lambda: fitted.score(X, INDICATOR),
        ValueError,
        "Classification metrics can't handle a mix of multilabel-indicator and binary targets",
    ),
    Case(
        "pf no classes",
        lambda: A().partial_fit(X, y),
        ValueError,
        "classes must be passed on the first call to partial_fit.",
    ),
    Case(
        "pf other classes",
        lambda: A().partial_fit(X, y, classes=[0, 1]).partial_fit(X, y, classes=[0, 1, 2]),
        ValueError,
        "`classes=[0, 1, 2]` is not the same as on last call to partial_fit, was: array([0, 1])",
    ),
    Case(
        "pf unknown",
        lambda: A().partial_fit(X, y, classes=[1, 2]),
        ValueError,
        "y contains labels that the classifier does not know: [0]; its classes are [1, 2].",
    ),
    Case(
        "pf balanced",
        lambda: A(class_weight="balanced").partial_fit(X, y, classes=[0, 1]),
        ValueError,
        "partial_fit does not support class_weight='balanced': it never sees all labels. Pass the weights as a dict, from sklearn.utils.compute_class_weight.",
    ),
    Case(
        "pf es",
        lambda: A(early_stopping=True).partial_fit(X, y, classes=[0, 1]),
        ValueError,
        "partial_fit does not support early_stopping=True: it never sees all items. Use fit, or early_stopping=False.",
    ),
    Case(
        "pf width",
        lambda: A().partial_fit(X, y, classes=[0, 1]).partial_fit(np.zeros((60, 2)), y),
        ValueError,
        "X has 2 features, but AttentionClusterClassifier is expecting 4 features as input.",
    ),
    Case(
        "pf ind",
        lambda: A().partial_fit(X, INDICATOR, classes=[0, 1, 2]),
        ValueError,
        "classes=[0, 1, 2] do not fit an indicator y of 2 columns; pass classes=[0, 1].",
    ),
    Case(
        "pf one class",
        lambda: A().partial_fit(X, y, classes=[0]),
        ValueError,
        "classes=[0] holds fewer than two classes.",
    ),
    Case(
        "pf then indicator",
        lambda: A().partial_fit(X, y, classes=[0, 1]).partial_fit(X, INDICATOR),
        ValueError,
        "y has shape (60, 2); the classifier was fitted on one label per item.",
    ),
    Case(
        "ws labels",
        lambda: A(warm_start=True, max_iter=1, tol=None).fit(X, y).fit(X, y + 1),
        ValueError,
        "y contains labels that the classifier does not know: [2]; its classes are [0, 1].",
    ),
    Case(
        "ws size",
        lambda: (
            A(warm_start=True, max_iter=1, tol=None).fit(X, y).set_params(cluster_size=3).fit(X, y)
        ),
        ValueError,
        "warm_start=True cannot change the network: it was fitted with cluster_size=32, the parameters now say cluster_size=3. Fit a clone, or set warm_start=False.",
    ),
    Case(
        "ws width",
        lambda: A(warm_start=True, max_iter=1, tol=None).fit(X, y).fit(np.zeros((60, 2)), y),
        ValueError,
        "X has 2 features, but AttentionClusterClassifier is expecting 4 features as input.",
    ),
    Case(
        "fs 1d",
        lambda: FeatureSets(np.zeros(3), [0, 3]),
        ValueError,
        "The array of local features has shape (3,); expected a two-dimensional array (local features, features). Reshape a single local feature to (1, n_features).",
    ),
    Case(
        "fs 0 cols",
        lambda: FeatureSets(np.zeros((3, 0)), [0, 3]),
        ValueError,
        "The array of local features has 0 features; local features need at least one.",
    ),
    Case(
        "fs str",
        lambda: FeatureSets(np.array([["a"]]), [0, 1]),
        ValueError,
        "The array of local features has dtype <U1; local features must be real numbers. Convert it to a real dtype, such as float32.",
    ),
    Case(
        "fs off 2d",
        lambda: FeatureSets(np.zeros((3, 1)), [[0, 3]]),
        ValueError,
        "offsets must be a one-dimensional array of n_items + 1 integers; got shape (1, 2), dtype int64.",
    ),
    Case(
        "fs off float",
        lambda: FeatureSets(np.zeros((3, 1)), [0.0, 3.0]),
        ValueError,
        "offsets must be a one-dimensional array of n_items + 1 integers; got shape (2,), dtype float64.",
    ),
    Case(
        "fs off empty",
        lambda: FeatureSets(np.zeros((3, 1)), []),
        ValueError,
        "offsets must be a one-dimensional array of n_items + 1 integers; got shape (0,), dtype float64.",
    ),
    Case(
        "fs off start",
        lambda: FeatureSets(np.zeros((3, 1)), [1, 3]),
        ValueError,
        "offsets must run from 0 to the number of rows, 3; they run from 1 to 3.",
    ),
    Case(
        "fs off end",
        lambda: FeatureSets(np.zeros((3, 1)), [0, 2]),
        ValueError,
        "offsets must run from 0 to the number of rows, 3; they run from 0 to 2.",
    ),
    Case(
        "fs off fall",
        lambda: FeatureSets(np.zeros((3, 1)), [0, 2, 1, 3]),
        ValueError,
        "offsets must not decrease: offsets[1] = 2 is followed by 1.",
    ),
    Case(
        "fs list",
        lambda: FeatureSets.from_arrays([]),
        ValueError,
        "X has 0 items; at least one is required.",
    ),
    Case(
        "fs pad 2d",
        lambda: FeatureSets.from_padded(np.zeros((3, 2))),
        ValueError,
        "A padded array must have three dimensions (items, local features, features); got shape (3, 2).",
    ),
    Case(
        "fs pad len",
        lambda: FeatureSets.from_padded(padded, [1, 2]),
        ValueError,
        "lengths must be 5 integers, one per item; got shape (2,), dtype int64.",
    ),
    Case(
        "fs pad too long",
        lambda: FeatureSets.from_padded(padded, [1, 2, 9, 1, 1]),
        ValueError,
        "lengths[2] is 9; the padded array has room for 0 to 4 local features per item.",
    ),
    Case(
        "fs pad neg",
        lambda: FeatureSets.from_padded(padded, [1, -2, 1, 1, 1]),
        ValueError,
        "lengths[1] is -2; the padded array has room for 0 to 4 local features per item.",
    ),
    Case(
        "fs pad float",
        lambda: FeatureSets.from_padded(padded, [1.0, 2, 1, 1, 1]),
        ValueError,
        "lengths must be 5 integers, one per item; got shape (5,), dtype float64.",
    ),
    Case("ix out", lambda: X[60], IndexError, "index 60 is out of bounds for axis 0 with size 60"),
    Case(
        "ix neg", lambda: X[-61], IndexError, "index -61 is out of bounds for axis 0 with size 60"
    ),
    Case(
        "ix float",
        lambda: X[1.5],
        IndexError,
        "only integers, slices (`:`), ellipsis (`...`), numpy.newaxis (`None`) and integer or boolean arrays are valid indices",
    ),
    Case(
        "ix str",
        lambda: X["a"],
        IndexError,
        "only integers, slices (`:`), ellipsis (`...`), numpy.newaxis (`None`) and integer or boolean arrays are valid indices",
    ),
    Case(
        "ix tuple",
        lambda: X[0, 1],
        IndexError,
        "too many indices for array: array is 1-dimensional, but 2 were indexed",
    ),
    Case(
        "ix 2d",
        lambda: X[[[0, 1]]],
        IndexError,
        "FeatureSets has one dimension, the items; an index of shape (1, 2) has more. Index the features of an item instead: X[i][:, j].",
    ),
    Case(
        "ix mask",
        lambda: X[[True] * 3],
        IndexError,
        "boolean index did not match indexed array along axis 0; size of axis is 60 but size of corresponding boolean axis is 3",
    ),
    Case(
        "ix list out",
        lambda: X[[0, 99]],
        IndexError,
        "index 99 is out of bounds for axis 0 with size 60",
    ),
    Case(
        "ix none",
        lambda: X[None],
        IndexError,
        "FeatureSets has one dimension, the items; an index of shape (1, 60) has more. Index the features of an item instead: X[i][:, j].",
    ),
    Case(
        "asarray",
        lambda: np.asarray(X),
        TypeError,
        "FeatureSets cannot be converted to one array, because its sets differ in size. Use X[i] for one item, X.packed() for all local features end to end, or list(X).",
    ),
    Case(
        "take axis",
        lambda: X.take([0], axis=1),
        ValueError,
        "FeatureSets.take only selects items: axis must be 0, out None and mode 'raise'; got axis=1, out=None, mode='raise'.",
    ),
    Case(
        "lft rows",
        lambda: LocalFeatureTransformer(FunctionTransformer(lambda v: v[:3])).fit_transform(X),
        ValueError,
        "FunctionTransformer returned 3 rows for 308 local features. Use a transformer that keeps the number of rows.",
    ),
    Case(
        "lft width",
        lambda: LocalFeatureTransformer(StandardScaler()).fit(X).transform(np.zeros((3, 2, 5))),
        ValueError,
        "X has 5 features, but LocalFeatureTransformer is expecting 4 features as input.",
    ),
    Case(
        "lft none",
        lambda: LocalFeatureTransformer(None).fit(X),
        TypeError,
        "Cannot clone object 'None' (type <class 'NoneType'>): it does not seem to be a scikit-learn estimator as it does not implement a 'get_params' method.",
    ),
    Case(
        "lft unfit",
        lambda: LocalFeatureTransformer(StandardScaler()).transform(X),
        NotFittedError,
        "This LocalFeatureTransformer instance is not fitted yet. Call 'fit' with appropriate arguments before using this estimator.",
    ),
    Case(
        "callbacks",
        lambda: A().set_callbacks(3),
        TypeError,
        "callbacks must be instances following the FitCallback protocol.",
    ),
    Case(
        "diverge",
        lambda: A(
            shifting=False,
            learning_rate=1e37,
            batch_size=128,
            max_grad_norm=None,
            max_iter=5,
            tol=None,
            cluster_size=2,
            dtype="float32",
            random_state=0,
        ).fit(X, y),
        ValueError,
        "Training diverged in epoch 3, with loss nan. Lower learning_rate (now 1e+37), or set standardize=True.",
    ),
    Case(
        "overflow",
        lambda: A(dtype="float32", batch_size=128, max_iter=1, tol=None).fit(
            [a * 1e300 for a in R], y
        ),
        ValueError,
        "X has values beyond the range of float32, up to 7.95123e+300; standardise the local features, or use float64 for X and dtype.",
    ),
    Case(
        "y -1 and 1",
        fit(X, 2 * INDICATOR - 1),
        ValueError,
        "y has 2 columns and holds -1; an indicator matrix holds 0 and 1 only. For labels -1 and 1, pass (y > 0).astype(int).",
    ),
    Case(
        "x sparse items",
        fit([sparse.eye_array(3).tocsr()] * 60),
        TypeError,
        "X[0] is sparse; local features must be dense. Convert it with .toarray().",
    ),
    Case(
        "x sparse tensor",
        fit([torch.eye(3).to_sparse()] * 60),
        TypeError,
        "A nested or sparse tensor cannot be converted to one array. Pass its parts as a list (tensor.unbind()), or tensor.to_dense().",
    ),
    Case(
        "x object rows",
        fit(object_array([np.zeros(4)] * 60)),
        ValueError,
        "X[0] has shape (4,); expected a two-dimensional array (local features, features). Reshape a single local feature to (1, n_features).",
    ),
    Case(
        "nn offsets",
        lambda: attend(torch.ones(6, 1), torch.tensor([2, 4, 6]), torch.zeros(6, 1)),
        ValueError,
        "offsets must run from 0 to the number of local features, 6, and hold at least one set; got [2, 4] to [6].",
    ),
    Case(
        "nn weighting",
        lambda: AttentionCluster(3, 2, "fc3"),
        ValueError,
        "weighting='fc3' is not one of ['average', 'fc1', 'fc2'], nor a subclass of acluster.nn.Weighting.",
    ),
    Case(
        "lft labels",
        lambda: LocalFeatureTransformer(StandardScaler()).fit(X, y[:5]),
        ValueError,
        "Found input variables with inconsistent numbers of samples: [60, 5]",
    ),
    Case(
        "modality unseen",
        lambda: fitted_two.predict({"rgb": X, "flow": X}),
        ValueError,
        "X has the modality 'flow', which MultimodalAttentionClusterClassifier has not seen in fit; it was fitted on ['rgb', 'audio']. Leave it out, or fit again with it.",
    ),
    Case(
        "modality width",
        lambda: fitted_two.predict({"rgb": X, "audio": X}),
        ValueError,
        "X['audio'] has 4 features, but MultimodalAttentionClusterClassifier is expecting 3 features as input.",
    ),
    Case(
        "modality unnamed",
        lambda: fitted_two.predict(X),
        ValueError,
        "X is one modality without a name, but MultimodalAttentionClusterClassifier was fitted on ['rgb', 'audio']. Pass a dict of sets with these names.",
    ),
    Case(
        "modality none of one item",
        lambda: fitted_two.predict({"rgb": HALF, "audio": HALF_AUDIO}),
        ValueError,
        "X[17] (and 1 more) has 0 local features in any modality (rgb, audio); every item needs at least one. Drop it, or give it one (for example the mean local feature).",
    ),
    Case(
        "modality none at all",
        fit_two({}),
        ValueError,
        "X has 0 modalities; at least one is required.",
    ),
    Case(
        "modality missing everywhere",
        fit_two({"rgb": X, "audio": NO_AUDIO}),
        ValueError,
        "Modality 'audio' is missing from every item; the first fit needs some local features of it. Add items that have the modality, or leave the modality out.",
    ),
    Case(
        "modality all none",
        fit_two({"rgb": X, "audio": [None] * 60}),
        ValueError,
        "In modality 'audio': All 60 items are None, so the width of the modality is unknown. Leave the modality out.",
    ),
    Case(
        "modality counts",
        fit_two({"rgb": X, "audio": AUDIO[:59]}),
        ValueError,
        "The modalities have different numbers of items: {'rgb': 60, 'audio': 59}. If an item lacks a modality, give it an empty set there.",
    ),
    Case(
        "modality nan",
        fit_two({"rgb": X, "audio": with_nan()}),
        ValueError,
        "In modality 'audio': Input X contains NaN.\nX[3] has nan in local feature 0, column 1. Drop that local feature or impute it (acluster.preprocessing.LocalFeatureTransformer can wrap an imputer).",
    ),
    Case(
        "modality not sets",
        fit_two({"rgb": X, "audio": 3}),
        TypeError,
        "In modality 'audio': X is a int; expected FeatureSets, a list of two-dimensional arrays, a three-dimensional array, or the path of a store.",
    ),
    Case(
        "modality name number",
        fit_two({1: X}),
        ValueError,
        "1 is not a valid name of a modality; use non-empty strings without '/'.",
    ),
    Case(
        "modality name slash",
        fit_two({"a/b": X}),
        ValueError,
        "'a/b' is not a valid name of a modality; use non-empty strings without '/'.",
    ),
    Case(
        "modality list item",
        fit_two([{"rgb": R[0]}, {"rgb": 3}], [0, 1]),
        ValueError,
        "In modality 'rgb': X[1] has shape (); expected a two-dimensional array (local features, features). Reshape a single local feature to (1, n_features).",
    ),
    Case(
        "modality item width",
        fit_two([{"rgb": R[0]}, {"rgb": R[1][:, :2]}], [0, 1]),
        ValueError,
        "In modality 'rgb': X[1] has 2 features, but X[0] has 4; all local features need the same width. Use the same extractor for all items, or two modalities.",
    ),
    Case(
        "modality empty items",
        fit_two([{"rgb": R[0]}, {}], [0, 1]),
        ValueError,
        "X[1] has 0 local features in any modality (rgb); every item needs at least one. Drop it, or give it one (for example the mean local feature).",
    ),
    Case(
        "size lacks a modality",
        par_of_two(cluster_size={"rgb": 4}),
        ValueError,
        "cluster_size={'rgb': 4} names the modalities ['rgb'], but X has ['rgb', 'audio']. Give each of these a value, or one value for all.",
    ),
    Case(
        "size of unknown",
        par_of_two(cluster_size={"rgb": 4, "audio": 3, "flow": 2}),
        ValueError,
        "cluster_size={'rgb': 4, 'audio': 3, 'flow': 2} names the modalities ['rgb', 'audio', 'flow'], but X has ['rgb', 'audio']. Give each of these a value, or one value for all.",
    ),
    Case(
        "size zero",
        par_of_two(cluster_size={"rgb": 4, "audio": 0}),
        InvalidParameterError,
        "The \"cluster_size['audio']\" parameter of MultimodalAttentionClusterClassifier must be an int in the range [1, inf). Got 0 instead.",
    ),
    Case(
        "weighting of one",
        par_of_two(weighting={"rgb": "fc1", "audio": "fc3"}),
        InvalidParameterError,
        "The \"weighting['audio']\" parameter of MultimodalAttentionClusterClassifier must be a str among {'average', 'fc2', 'fc1'} or a callable. Got 'fc3' instead.",
    ),
    Case(
        "n_local of one",
        par_of_two(n_local_features={"rgb": None, "audio": "all"}),
        InvalidParameterError,
        "The \"n_local_features['audio']\" parameter of MultimodalAttentionClusterClassifier must be an int in the range [1, inf) or None. Got 'all' instead.",
    ),
    Case(
        "missing rule",
        par_of_two(missing_modality="zero"),
        InvalidParameterError,
        "The 'missing_modality' parameter of MultimodalAttentionClusterClassifier must be a str among {'mean', 'mask'}. Got 'zero' instead.",
    ),
    Case(
        "modality dropout",
        par_of_two(modality_dropout=1.0),
        InvalidParameterError,
        "The 'modality_dropout' parameter of MultimodalAttentionClusterClassifier must be a float in the range [0.0, 1.0). Got 1.0 instead.",
    ),
    Case(
        "cache",
        par_of_two(cache="disk"),
        InvalidParameterError,
        "The 'cache' parameter of MultimodalAttentionClusterClassifier must be a str among {'memory', 'auto', 'device', 'stream'}. Got 'disk' instead.",
    ),
    Case(
        "single given dict",
        lambda: A().fit(BOTH, y),
        TypeError,
        "X is a MultimodalFeatureSets of several modalities; AttentionClusterClassifier takes one. Pass X[name], or use MultimodalAttentionClusterClassifier.",
    ),
    Case(
        "missing store",
        lambda: fitted_two.predict("nowhere.zarr"),
        FileNotFoundError,
        "There is no store at 'nowhere.zarr'. Write one with acluster.save_feature_sets.",
    ),
    Case(
        "container of arrays",
        lambda: MultimodalFeatureSets({"rgb": R}),
        TypeError,
        "Modality 'rgb' is a list; expected FeatureSets. Use FeatureSets.from_arrays to convert one array per item.",
    ),
    Case(
        "container unknown name",
        lambda: BOTH["flow"],
        KeyError,
        "\"There is no modality 'flow'; the modalities are ['rgb', 'audio'].\"",
    ),
    Case(
        "container two indices",
        lambda: BOTH[0, 1],
        IndexError,
        "too many indices for array: array is 1-dimensional, but 2 were indexed",
    ),
    Case(
        "container array",
        lambda: np.asarray(BOTH),
        TypeError,
        "MultimodalFeatureSets cannot be converted to one array, because its sets differ in size. Use X[i] for one item, X[name].packed() for all local features end to end, or list(X).",
    ),
    Case(
        "container take",
        lambda: BOTH.take([0], axis=1),
        ValueError,
        "MultimodalFeatureSets.take only selects items: axis must be 0, out None and mode 'raise'; got axis=1, out=None, mode='raise'.",
    ),
    Case(
        "partial modality",
        lambda: M().partial_fit({"rgb": X, "audio": NO_AUDIO}, y, classes=[0, 1]),
        ValueError,
        "Modality 'audio' is missing from every item; the first fit needs some local features of it. Add items that have the modality, or leave the modality out.",
    ),
    Case(
        "warm start size",
        lambda: (
            M(max_iter=1, tol=None, cluster_size=2, warm_start=True)
            .fit(BOTH, y)
            .set_params(cluster_size={"rgb": 3, "audio": 2})
            .fit(BOTH, y)
        ),
        ValueError,
        "warm_start=True cannot change the network: it was fitted with cluster_size=2, the parameters now say cluster_size=3. Fit a clone, or set warm_start=False.",
    ),
    Case(
        "names out",
        lambda: fitted_two.get_feature_names_out(["a"]),
        ValueError,
        "input_features should have length equal to number of features (7), got 1",
    ),
    Case(
        "transformer of unknown",
        lambda: LocalFeatureTransformer({"rgb": "passthrough"}).fit(BOTH),
        ValueError,
        "transformer has the modalities ['rgb'], but X has ['rgb', 'audio']. Pass a transformer or 'passthrough' for each, or one transformer for all.",
    ),
    Case(
        "transformer then other",
        lambda: LocalFeatureTransformer("passthrough").fit(BOTH).transform(X),
        ValueError,
        "X is one modality without a name, but LocalFeatureTransformer was fitted on ['rgb', 'audio']. Pass a dict of sets with these names.",
    ),
    Case(
        "X_val modality",
        lambda: M(max_iter=1, tol=None).fit(BOTH, y, X_val={"flow": X}, y_val=y),
        ValueError,
        "In X_val and y_val: X has the modality 'flow', which MultimodalAttentionClusterClassifier has not seen in fit; it was fitted on ['rgb', 'audio']. Leave it out, or fit again with it.",
    ),
]


def in_fixed_order(message):
    """Sets are written in an order that changes from process to process."""
    return re.sub(
        r"\{([^{}:]*)\}", lambda m: "{" + ", ".join(sorted(m[1].split(", "))) + "}", message
    )


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_message(case):
    with pytest.raises(case.error) as caught:
        case.call()
    assert in_fixed_order(str(caught.value)) == in_fixed_order(case.message)
    assert type(caught.value) is case.error


def test_there_are_many_distinct_messages():
    assert len({case.message for case in CASES}) >= 60


def test_sets_are_not_assigned_to():
    with pytest.raises(TypeError, match="does not support item assignment"):
        X[0] = 1
