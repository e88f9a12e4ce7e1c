"""Commands read and write stores in object storage, and print no credentials."""

import csv

import numpy as np
import pytest
import zarr

from acluster import AttentionClusterClassifier, load, open_feature_sets, save_feature_sets
from acluster.command_line import main
from tests.conftest import make_sets
from tests.object_server import KEY, SECRET, ObjectServer, copy_store

pytest.importorskip("obstore", reason="object storage needs the extra cloud")

X, y = make_sets(n=40, dtype=np.float32)
QUICK = ("--set", "max_iter=3", "tol=None", "cluster_size=4")


@pytest.fixture(scope="module")
def one_server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("objects")
    save_feature_sets(folder / "sets.zarr", X, label=y, id=[f"item{i}" for i in range(len(X))])
    with ObjectServer(folder) as server:
        server.address = copy_store(folder / "sets.zarr", folder)
        server.local = folder / "sets.zarr"
        yield server


@pytest.fixture
def server(one_server, monkeypatch, tmp_path):
    """A server whose credentials are in the environment."""
    for name, value in one_server.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    one_server.mend()
    one_server.set(needs_key=True)
    yield one_server
    one_server.mend()


@pytest.fixture
def output_of(capfd):
    """Run a command, check what it prints and writes for credentials, and return what it prints."""

    def run(*arguments, status=0):
        assert main([*map(str, arguments)]) == status
        shown = "".join(capfd.readouterr())
        assert KEY not in shown
        assert SECRET not in shown
        return shown

    return run


@pytest.fixture
def model(tmp_path):
    clf = AttentionClusterClassifier(cluster_size=4, max_iter=3, tol=None, random_state=0)
    clf.fit(X, y).save(tmp_path / "local.model")
    return tmp_path / "local.model"


def test_info_and_validate_print_what_they_print_of_a_local_store(server, output_of):
    for command in ("info", "validate"):
        assert output_of(command, server.address) == output_of(command, server.local)


def test_fit_writes_the_model_of_a_local_store(server, output_of, tmp_path):
    shown = {}
    for name, store in (("there", server.address), ("here", server.local)):
        shown[name] = output_of("fit", store, "--out", f"{name}.model", "--hold-out", "0.2", *QUICK)
    assert "accuracy on the 8 held-out items: " in shown["here"]
    assert shown["there"] == shown["here"].replace("here.model", "there.model")
    there, here = (load(tmp_path / f"{name}.model") for name in ("there", "here"))
    np.testing.assert_array_equal(there.predict_proba(X), here.predict_proba(X))
    content = (tmp_path / "there.model").read_bytes()
    assert KEY.encode() not in content
    assert SECRET.encode() not in content


def test_predict_and_transform_give_the_results_of_a_local_store(server, output_of, model):
    for options in ((), ("--jobs", "1")):
        found = {}
        for name, store in (("there", server.address), ("here", server.local)):
            output_of("predict", model, store, "--out", f"{name}.csv", "--proba", *options)
            with open(f"{name}.csv", newline="") as file:
                found[name] = list(csv.reader(file))
        assert found["there"] == found["here"]
        assert [row[0] for row in found["here"][1:]] == [f"item{i}" for i in range(40)]
    for name, store in (("there", server.address), ("here", server.local)):
        shown = output_of("transform", model, store, "--out", f"{name}.zarr")
        assert shown == f"{name}.zarr: 40 items, {4 * X.n_features} columns\n"
    features = [zarr.open_array(f"{name}.zarr")[...] for name in ("there", "here")]
    np.testing.assert_array_equal(*features)


def test_attention_and_search_read_an_address(server, output_of, model, tmp_path):
    shown = output_of("attention", model, server.address, "item7")
    assert shown == output_of("attention", model, server.local, "item7")
    output_of("search", server.address, "--out", "found.model", "--cv", "2",
              "--param", "dropout", "0", "0.5", *QUICK)  # fmt: skip
    assert load(tmp_path / "found.model").predict(X).shape == (40,)


def test_convert_reads_an_address(server, output_of, tmp_path):
    assert "40 items are in copy.zarr" in output_of("convert", server.address, "copy.zarr")
    assert open_feature_sets("copy.zarr").id.tolist() == [f"item{i}" for i in range(40)]
    hidden = f"s3://{KEY}:{SECRET}@bucket/sets.zarr"
    assert "credentials" in output_of("convert", hidden, "other.zarr", status=1)
    assert not (tmp_path / "other.zarr").exists()


def test_convert_and_merge_write_to_an_address(server, output_of, tmp_path):
    save_feature_sets(tmp_path / "more.zarr", X[:3], label=y[:3], id=["a", "b", "c"])
    more, both = "s3://bucket/more.zarr", "s3://bucket/both.zarr"
    assert f"3 items are in {more}" in output_of("convert", "more.zarr", more)
    np.testing.assert_array_equal(open_feature_sets(more).packed()[0], X[:3].packed()[0])
    assert f"43 items are in {both}" in output_of("merge", server.address, more, both)
    assert open_feature_sets(both).id[[0, 40, 42]].tolist() == ["item0", "a", "c"]


def test_transform_refuses_to_write_to_an_address(server, output_of, model):
    shown = output_of("transform", model, server.address, "--out", "s3://bucket/G", status=1)
    assert shown.startswith("acluster transform: ")
    assert "s3://bucket/G" in shown


COMMANDS = (
    ("info", "{store}"),
    ("fit", "{store}", "--out", "m", *QUICK),
    ("predict", "local.model", "{store}"),
    ("transform", "local.model", "{store}", "--out", "G.zarr"),
)


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
@pytest.mark.parametrize("case", ["refused", "absent", "secret in the address"])
def test_errors_are_one_line_without_credentials(server, output_of, model, command, case):
    stores = {"absent": "s3://bucket/none.zarr", "refused": server.address}
    host = server.endpoint.removeprefix("http://")
    store = stores.get(case, f"http://{KEY}:{SECRET}@{host}/bucket/sets.zarr")
    if case == "refused":
        server.fail("403", "sets.zarr")
    shown = output_of(*(one.format(store=store) for one in command), status=1)
    assert shown.startswith(f"acluster {command[0]}: ")
    assert shown.count("\n") == 1
