"""Conventions of scikit-learn and of typed packages: signatures, tags, wheel, version."""

import inspect
import json
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import sklearn
from sklearn.model_selection import GridSearchCV, cross_validate
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import get_tags

import acluster
from acluster import (
    AttentionClusterClassifier,
    MultimodalAttentionClusterClassifier,
    inspection,
    rivals,
)
from acluster.preprocessing import LocalFeatureTransformer
from tests.conftest import make_sets

ROOT = Path(__file__).resolve().parent.parent
ESTIMATORS = [AttentionClusterClassifier, MultimodalAttentionClusterClassifier]
ESTIMATORS += [getattr(rivals, name) for name in rivals.__all__ if name.endswith("Classifier")]


def quick(**parameters):
    return AttentionClusterClassifier(max_iter=3, tol=None, random_state=0, **parameters)


@pytest.mark.parametrize("kind", ESTIMATORS)
def test_parameters_are_keyword_only(kind):
    parameters = inspect.signature(kind).parameters.values()
    assert all(parameter.kind is parameter.KEYWORD_ONLY for parameter in parameters)
    for name in ("fit", "partial_fit"):
        method = getattr(kind, name, None)
        for parameter in list(inspect.signature(method).parameters.values())[1:] if method else ():
            is_usual = parameter.name in ("X", "y", "sample_weight", "classes")
            assert is_usual or parameter.kind is parameter.KEYWORD_ONLY, parameter


@pytest.mark.parametrize("kind", ESTIMATORS)
def test_tags_describe_the_classifier(kind):
    tags = get_tags(kind())
    assert tags.estimator_type == "classifier"
    assert tags.input_tags.three_d_array
    assert not tags.input_tags.allow_nan
    assert not tags.input_tags.sparse
    assert tags.target_tags.required


def test_repr_and_html_repr_show_parameters():
    clf = quick(cluster_size=7)
    assert "AttentionClusterClassifier" in clf._repr_html_()
    assert "cluster_size" in clf._repr_html_()
    X, y = make_sets()
    pipe = make_pipeline(LocalFeatureTransformer(StandardScaler()), clf.fit(X, y))
    assert "LocalFeatureTransformer" in pipe._repr_html_()
    assert repr(clf) == (
        "AttentionClusterClassifier(cluster_size=7, max_iter=3, random_state=0, tol=None)"
    )


def test_metadata_routing_of_sample_weight():
    X, y = make_sets(n=60)
    weight = np.random.default_rng(0).random(60)
    with sklearn.config_context(enable_metadata_routing=True):
        clf = quick().set_fit_request(sample_weight=True).set_score_request(sample_weight=True)
        pipe = make_pipeline(LocalFeatureTransformer(StandardScaler()), clf)
        pipe.fit(X, y, sample_weight=weight)
        expected = quick().fit(pipe[:-1].transform(X), y, sample_weight=weight)
        assert np.array_equal(
            pipe[-1].decision_function(pipe[:-1].transform(X)),
            expected.decision_function(pipe[:-1].transform(X)),
        )
        search = GridSearchCV(clf, {"cluster_size": [2]}, cv=2).fit(X, y, sample_weight=weight)
        assert search.best_score_ >= 0
        cross_validate(clf, X, y, params={"sample_weight": weight}, cv=2)


def test_set_output_pandas_names_columns():
    pd = pytest.importorskip("pandas")
    X, y = make_sets()
    table = quick(cluster_size=2).set_output(transform="pandas").fit(X, y).transform(X)
    assert isinstance(table, pd.DataFrame)
    assert list(table.columns)[:2] == ["unit0_x0", "unit0_x1"]


def test_public_names_have_docstrings_and_annotations():
    for room in (acluster, inspection, rivals, acluster.nn, acluster.sets, acluster.formats):
        for name in room.__all__:
            thing = getattr(room, name)
            if callable(thing):
                assert inspect.getdoc(thing), f"{room.__name__}.{name}"
            if inspect.isfunction(thing):
                hints = inspect.get_annotations(thing)
                assert set(inspect.signature(thing).parameters) <= set(hints), name
    assert (Path(acluster.__file__).parent / "py.typed").exists()


def test_version_is_semantic_and_in_the_changelog():
    major, minor, patch, *stage = acluster.__version__.split(".")
    assert all(part.isdigit() for part in (major, minor, patch))
    assert all(part.startswith(("dev", "rc")) for part in stage)
    changes = (ROOT / "CHANGELOG.md").read_text()
    assert f"## {major}.{minor}.{patch}" in changes
    assert "deprecated name warns for two minor releases" in changes


@pytest.fixture(scope="module")
def distributions(tmp_path_factory):
    """Build the wheel and the source distribution; return their paths."""
    build = pytest.importorskip("hatchling.build")
    folder, before = tmp_path_factory.mktemp("dist"), Path.cwd()
    os.chdir(ROOT)  # A build backend works in the folder of the project.
    try:
        return folder / build.build_wheel(str(folder)), folder / build.build_sdist(str(folder))
    finally:
        os.chdir(before)


def test_sdist_contains_sources_tests_and_license(distributions):
    with tarfile.open(distributions[1]) as archive:
        inside = {name.split("/", 1)[1] for name in archive.getnames() if "/" in name}
    assert {"pyproject.toml", "README.md", "LICENSE", "tests/conftest.py"} <= inside


def test_wheel_contains_only_the_package(distributions):
    names = zipfile.ZipFile(distributions[0]).namelist()
    for name in ("acluster/py.typed", "acluster/nn/pooling/__init__.py", "acluster/__main__.py"):
        assert name in names
    for suffix in ("html", "css", "js"):
        assert f"acluster/inspection/_report/templates/report.{suffix}" in names
    assert not any(name.startswith(("tests", "examples", "docs")) for name in names)
    assert any(name.endswith("entry_points.txt") for name in names)


def test_installed_wheel_loads_a_model_in_a_new_process(distributions, tmp_path):
    X, y = make_sets()
    # This model needs no kernels, which Numba would compile anew for the installed package.
    clf = rivals.AverageClassifier(max_iter=1, tol=None).fit(X, y)
    clf.save(tmp_path / "model")
    np.save(tmp_path / "X.npy", X[0])
    target = tmp_path / "installed"
    options = ["--no-index", "--no-deps", "--no-compile", "--quiet", "--target", target]
    command = [sys.executable, "-m", "pip", "install", *options, distributions[0]]
    subprocess.run(command, check=True, capture_output=True)
    code = (
        "import acluster, numpy as np; print(acluster.__file__, acluster.__version__);"
        "print(acluster.load('model').predict_proba([np.load('X.npy')]).tolist())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={"PYTHONPATH": str(target)},
        capture_output=True,
        text=True,
        check=True,
    )
    package, probabilities = done.stdout.splitlines()
    assert package == f"{target / 'acluster' / '__init__.py'} {acluster.__version__}"
    np.testing.assert_allclose(json.loads(probabilities), clf.predict_proba([X[0]]))
