"""Load model files; the only module that knows every estimator."""

import os
from pathlib import Path
from typing import Any

from acluster import estimators, rivals
from acluster._utils._model_file import ModelFileError, open_model
from acluster.estimators import restore


def load(path: str | os.PathLike[str]) -> Any:
    """Load a classifier from a file written by its method `save`.

    Parameters
    ----------
    path : str or path
        The file. Loading it runs no code: the file holds only numbers and text, and anything that
        does not describe a model raises an error.

    Returns
    -------
    AttentionClusterClassifier or another classifier with `save`
        Fitted, on its `device`, or on the CPU if that device is not available.

    Raises
    ------
    acluster.ModelFileError
        A ValueError: the file is not a model, is damaged, or has a format version that this
        version of acluster does not know.

    OSError
        If the file cannot be read.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> import acluster
    >>> X, y = [np.eye(3), np.ones((2, 3))] * 5, ["sharp", "flat"] * 5
    >>> clf = acluster.AttentionClusterClassifier(max_iter=50).fit(X, y)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     clf.save(f"{folder}/notes.model")
    ...     acluster.load(f"{folder}/notes.model").predict(X[:2])
    array(['sharp', 'flat'], dtype='<U5')
    """
    with open_model(path) as (description, tensors):
        if "identity" in description:
            raise ModelFileError(
                f"{path} is the checkpoint of a fit, not a model. To resume it, repeat the call of "
                f"fit that wrote it, with checkpoint_dir={str(Path(path).parent)!r}."
            )
        name, known = description.get("class"), _classes()
        if not isinstance(name, str) or name not in known:
            raise ModelFileError(
                f"{path} holds a {name!r:.80}, which this version of acluster does not have; it "
                f"was written by acluster {_writer(description)}. Known classes are "
                f"{', '.join(sorted(known))}."
            )
        try:
            return restore(known[name], description, tensors)
        except (KeyboardInterrupt, SystemExit, MemoryError):
            raise
        except BaseException as error:  # a malicious file may raise anything, even a Rust panic
            reason = (
                f"it lacks {error!s:.200}" if isinstance(error, KeyError) else f"{error!s:.500}"
            )
            raise ModelFileError(
                f"{path}, written by acluster {_writer(description)}, is not a model of class "
                f"{name}: {reason or type(error).__name__}"
            ) from error


def _classes() -> dict[str, type]:
    """Return the public classes that have `save`, by name."""
    public = [*vars(estimators).values(), *vars(rivals).values()]
    return {one.__name__: one for one in public if _is_savable(one)}


def _is_savable(one: Any) -> bool:
    # Base classes have no parameters, and the integration of IntegrationClassifier is code.
    is_classifier = isinstance(one, type) and hasattr(one, "_parameter_constraints")
    trained = getattr(one, "_integration", getattr(one, "_classifier", None))
    return is_classifier and isinstance(trained, type)


def _writer(description: dict[str, Any]) -> str:
    versions = description.get("versions")
    return f"{versions.get('acluster')!r:.20}" if isinstance(versions, dict) else "?"
