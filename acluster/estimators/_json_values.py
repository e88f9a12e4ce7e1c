"""Convert parameters, labels and numbers to JSON and back, and check them."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from acluster._utils._model_file import ModelFileError
from acluster.estimators._labels import LabelCoding

_LABELS = {"bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"}
_LABELS |= {"float16", "float32", "float64", "str", "object"}
_MAX_TEXT = 20_000_000


def plain(value: Any) -> Any:
    """Return the value with numpy scalars converted to Python numbers."""
    if isinstance(value, Mapping):
        return {name: plain(own) for name, own in value.items()}
    if isinstance(value, type):
        raise TypeError(
            f"save cannot write the class {value.__qualname__}: a model file contains no code. Use "
            "joblib.dump."
        )
    return value.item() if isinstance(value, np.generic) else value


def to_json(value: Any) -> Any:
    """Convert a parameter for JSON; dicts become pairs, because their keys may be numbers."""
    if isinstance(value, dict):
        return {"pairs": [[plain(key), plain(own)] for key, own in value.items()]}
    return plain(value)


def from_json(value: Any) -> Any:
    return dict(value["pairs"]) if isinstance(value, dict) else value


def labels_to_json(coding: LabelCoding) -> dict[str, Any]:
    classes = coding.classes
    kind = "str" if classes.dtype.kind == "U" else classes.dtype.name
    values = classes.tolist()
    if kind not in _LABELS or (
        kind == "object" and not all(isinstance(value, str) for value in values)
    ):
        raise TypeError(
            f"save supports labels that are text, numbers or booleans; these are {classes.dtype}, "
            f"such as {values[0]!r}. Fit on y.astype(str), or use joblib.dump."
        )
    return {"kind": coding.kind, "dtype": kind, "classes": values}


def labels_from_json(labels: dict[str, Any]) -> LabelCoding:
    dtype = one_of(labels["dtype"], _LABELS, "dtype of the labels")
    values = labels["classes"]
    if dtype in ("str", "object"):
        classes = texts(values, len(values), "classes")
        # An array of text gives every class the room of the longest.
        if dtype == "str" and len(values) * max(map(len, values), default=0) > _MAX_TEXT:
            raise ModelFileError("a name among its classes is too long")
        classes = classes.astype(str) if dtype == "str" else classes
    else:
        classes = np.array(values, dtype=dtype)
    if classes.tolist() != values:  # numpy rounds numbers and reads numbers in text
        raise ModelFileError(f"its classes are not of the type {dtype}")
    kind = one_of(labels["kind"], ("binary", "multiclass", "multilabel"), "kind of the labels")
    if classes.ndim != 1 or not np.array_equal(np.unique(classes), classes):
        raise ModelFileError("its classes are not sorted and unique")
    if kind == "multilabel":
        is_right = np.array_equal(classes, np.arange(len(classes))) and len(classes) > 1
    else:
        is_right = len(classes) == 2 if kind == "binary" else len(classes) > 2
    if not is_right:
        raise ModelFileError(f"it has {len(classes)} classes, which does not match {kind!r}")
    return LabelCoding(kind, classes)


def one_of(value: Any, known: Iterable[str], name: str) -> str:
    if not isinstance(value, str) or value not in known:
        raise ModelFileError(f"its {name} is {value!r:.80}, not one of {sorted(known)}")
    return value


def texts(values: Any, n: int, name: str) -> NDArray[np.object_]:
    if not isinstance(values, list) or len(values) != n or not all(type(v) is str for v in values):
        raise ModelFileError(f"its {name} are not {n} strings")
    return np.array(values, dtype=object)


def numbers(values: Any, name: str) -> list[float]:
    if not isinstance(values, list) or not all(type(v) is float for v in values):
        raise ModelFileError(f"its {name} is not a list of numbers")
    return values
