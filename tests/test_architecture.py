"""Who may import whom: the arrows of the package, read from its source."""

import ast
from pathlib import Path

import pytest

import acluster

PACKAGE = Path(acluster.__file__).parent

# Every room, and what of acluster and of the heavy libraries it may import.
MAY_IMPORT = {
    "_progress": set(),
    "sets": {"acluster._utils._progress", "acluster.sets", "numpy", "sklearn", "zarr"},
    "_memory": {"numpy", "torch"},
    "nn": {"acluster._utils._memory", "acluster.nn", "torch"},
    "training": {
        "acluster._utils._memory",
        "acluster.training",
        "acluster.sets",
        "numpy",
        "sklearn",
        "torch",
    },
    "_labels": {"acluster.sets", "numpy", "sklearn", "scipy", "torch"},
    "_model_file": {"numpy", "safetensors"},
    "_checkpoint": {
        "acluster._utils._model_file",
        "acluster.sets",
        "acluster.training",
        "numpy",
    },
    "_saving": {
        "acluster",  # the public classes, when a file names one
        "acluster.estimators._labels",
        "acluster._utils._model_file",
        "acluster.rivals",
        "acluster.sets",
        "acluster.training",
        "numpy",
        "sklearn",
        "torch",
    },
    "_training_parameters": {"acluster.training", "numpy", "sklearn"},
    "_set_classifier": {
        "acluster.training._checkpoint",
        "acluster.estimators._labels",
        "acluster._utils._progress",
        "acluster.estimators._description",
        "acluster.estimators._parameters",
        "acluster.nn",
        "acluster.sets",
        "acluster.training",
        "numpy",
        "sklearn",
        "torch",
    },
    "_modalities": {
        "acluster._utils._model_file",
        "acluster.estimators._set_classifier",
        "acluster.sets",
        "acluster.training",
        "numpy",
        "sklearn",
    },
    "_onnx": {"acluster.estimators._labels", "acluster.nn", "numpy", "torch"},
    "_classifiers": {
        "acluster.estimators._modalities",
        "acluster._utils._model_file",
        "acluster.estimators._onnx",
        "acluster.estimators._set_classifier",
        "acluster.nn",
        "acluster.sets",
        "numpy",
        "sklearn",
    },
    "rivals": {
        "acluster.estimators._labels",
        "acluster.estimators._modalities",
        "acluster.estimators._set_classifier",
        "acluster.nn",
        "acluster.rivals",
        "acluster.sets",
        "numpy",
        "sklearn",
        "torch",
    },
    "__main__": {"acluster.command_line._main"},
    "_conversion": {"acluster._utils._progress", "acluster.sets", "numpy"},
    "_command_line": {
        "acluster",
        "acluster.command_line._convert",
        "acluster._utils._progress",
        "acluster.inspection",
        "acluster.sets",
        "numpy",
        "sklearn",
    },
    "__init__": {
        "acluster.estimators._attention_clusters",
        "acluster._utils._model_file",
        "acluster.estimators._description",
        "acluster.sets",
    },
    "inspection": {
        "acluster",
        "acluster.inspection",
        "matplotlib",
        "mpl_toolkits",  # a part of matplotlib
        "numpy",
        "scipy",
        "sklearn",
    },
    "preprocessing": {"acluster.sets", "numpy", "sklearn"},
    "datasets": {
        "acluster",
        "acluster.datasets",
        "acluster.training",  # its devices
        "numpy",
        "scipy",
        "sklearn",
        "torch",
    },
}
GUARDED = {
    "acluster",
    "joblib",
    "matplotlib",
    "mpl_toolkits",
    "numba",
    "numpy",
    "rich",
    "safetensors",
    "scipy",
    "sklearn",
    "torch",
    "zarr",
}


def room(path):
    first = path.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


def imported_modules(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            yield node.module


def shortened(module):
    """`acluster.nn._attention_cluster` is `acluster.nn` to the arrows; `torch.nn` is `torch`."""
    parts = module.split(".")
    return ".".join(parts[:2]) if parts[0] == "acluster" else parts[0]


@pytest.mark.parametrize(
    "path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE))
)
def test_arrows(path):
    used = {shortened(m) for m in imported_modules(path) if m.split(".")[0] in GUARDED}
    allowed = {"numba", "numpy"} if path.name == "_numba_kernels.py" else MAY_IMPORT[room(path)]
    assert used <= allowed, f"{path.name} imports {used - allowed}"


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: p.name)
def test_rooms_do_not_reach_into_each_other(path):
    for module in imported_modules(path):
        parts = module.split(".")
        if parts[0] == "acluster" and len(parts) > 2 and parts[1] != room(path):
            pytest.fail(f"{path.name} imports {module}, past the face of acluster.{parts[1]}")


def test_zarr_stays_in_its_files():
    imports = {
        p.name for p in PACKAGE.rglob("*.py") if "zarr" in map(shortened, imported_modules(p))
    }
    assert imports == {"_save.py", "_writer.py", "_zarr.py"}


def test_public_names():
    assert acluster.__all__ == [
        "AttentionClusterClassifier",
        "FeatureSets",
        "FeatureSetsWriter",
        "ModelFileError",
        "MultimodalAttentionClusterClassifier",
        "MultimodalFeatureSets",
        "load",
        "open_feature_sets",
        "save_feature_sets",
    ]
    assert all(hasattr(acluster, name) for name in acluster.__all__)
