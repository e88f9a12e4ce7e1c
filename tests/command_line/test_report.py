"""`acluster report` writes the page of the Python function, for the items that it names."""

import re
from pathlib import Path

import numpy as np
import pytest

import acluster
from acluster.command_line import main
from acluster.inspection import report
from tests.conftest import make_sets

pytest.importorskip("jinja2")


@pytest.fixture
def items(tmp_path, monkeypatch):
    """The items of a store with groups, whose folder is the current one, and a model."""
    monkeypatch.chdir(tmp_path)
    X, y = make_sets(n=60, n_classes=3, dtype=np.float32)
    label, group = np.array(["a", "b", "c"])[y], np.arange(60) // 4
    ids = [f"item{i}" for i in range(60)]
    acluster.save_feature_sets("sets.zarr", X, label=label, group=group, id=ids)
    clf = acluster.AttentionClusterClassifier(cluster_size=4, max_iter=5, random_state=0)
    clf.fit(X[:30], label[:30]).save("model")
    return X, label


def run(*arguments, status=0):
    assert main([str(argument) for argument in arguments]) == status


def without_date(html):
    return re.sub(r"Made by acluster .*", "", html)


def test_report_writes_the_page_of_the_function(items, capsys):
    run("report", "model", "sets.zarr", "--out", "page.html", "--mistakes", "2")
    html = Path("page.html").read_text(encoding="utf-8")
    expected = report(acluster.load("model"), "sets.zarr", n_mistakes=2)
    assert without_date(html) == without_date(expected.html)
    output = capsys.readouterr().out
    value, low, high = expected.scores["accuracy"]
    assert f"accuracy: {value:.4f} (95 % interval {low:.4f} to {high:.4f})" in output
    assert "page.html: 60 items" in output
    assert "15 groups" in html
    run("report", "model", "sets.zarr", "--out", "page.html", "--no-group")
    assert "60 items.</figcaption>" in Path("page.html").read_text(encoding="utf-8")


def test_report_scores_the_items_that_fit_held_out(items, capsys):
    options = ["--hold-out", "0.3"]
    run("fit", "sets.zarr", "--out", "held.model", "--set", "max_iter=5", *options)
    accuracy = re.search(r"the (\d+) held-out items: ([.\d]+)", capsys.readouterr().out)
    run("report", "held.model", "sets.zarr", "--out", "page.html", *options)
    output = capsys.readouterr().out
    assert f"page.html: {accuracy[1]} items" in output
    assert f"accuracy: {accuracy[2]} " in output
    page = Path("page.html").read_text(encoding="utf-8")
    assert "the items of sets.zarr that fit --hold-out 0.3 holds out" in page


@pytest.mark.parametrize("command", ["report", "predict"])
def test_out_must_not_be_the_model(items, capsys, command):
    before = Path("model").read_bytes()
    Path("link").symlink_to("model")
    for out in ("model", "./model", "link"):
        run(command, "model", "sets.zarr", "--out", out, status=1)
        assert f"{out} would be replaced, but the command reads it" in capsys.readouterr().err
    assert Path("model").read_bytes() == before


def test_report_of_one_group_prints_no_interval(items, capsys):
    X, label = items
    acluster.save_feature_sets("one.zarr", X[:9], label=label[:9], group=["a"] * 9)
    run("report", "model", "one.zarr", "--out", "page.html", "--mistakes", "0")
    output = capsys.readouterr().out
    assert re.search(r"^accuracy: [.\d]+$", output, re.M)
    assert "nan" not in output


def test_report_needs_labels_and_keeps_the_former_page(items, capsys):
    X, _ = items
    acluster.save_feature_sets("bare.zarr", X)
    Path("page.html").write_text("former")
    run("report", "model", "bare.zarr", "--out", "page.html", status=1)
    assert "bare.zarr has no labels. Add them from a table" in capsys.readouterr().err
    acluster.save_feature_sets("other.zarr", X, label=["owl"] * 60)
    run("report", "model", "other.zarr", "--out", "page.html", status=1)
    assert "y has the label 'owl', but the classifier knows" in capsys.readouterr().err
    assert Path("page.html").read_text() == "former"
    run("report", "model", "sets.zarr", "--out", "no/page.html", status=1)
    assert "does not exist" in capsys.readouterr().err
