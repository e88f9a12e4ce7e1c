"""Several stores written to one."""

import os
import shutil
import signal
import subprocess
import sys
import tracemalloc

import numpy as np
import pandas as pd
import pytest

import acluster
from acluster import FeatureSetsWriter, open_feature_sets, save_feature_sets
from acluster.command_line import main
from acluster.sets import info, merge_stores, validate

RNG = np.random.default_rng(0)
SETS = [RNG.normal(size=(n, 3)).astype(np.float32) for n in (2, 1, 4, 3, 5, 2, 6)]
COLUMNS = {
    "id": [f"v{i}" for i in range(7)],
    "label": list("abbaabc"),
    "group": [0, 0, 1, 1, 2, 2, 3],
    "weight": [1.0, 0.5] * 3 + [2.0],
}


def save(path, first=0, last=7, X=SETS, **options):
    columns = {name: values[first:last] for name, values in COLUMNS.items()} | options
    columns = {name: values for name, values in columns.items() if values is not None}
    save_feature_sets(path, X[first:last], **columns)
    return path


@pytest.fixture(autouse=True)
def in_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def assert_equal_stores(one, other):
    X, Y = open_feature_sets(one), open_feature_sets(other)
    for name in ("id", "label", "group", "weight"):
        np.testing.assert_array_equal(getattr(X, name), getattr(Y, name))
    assert repr(X) == repr(Y)
    for x, y in zip(X, Y, strict=True):
        np.testing.assert_equal(x, y)
    assert info(one) == info(other)


def test_merge_stores_equals_the_store_of_all_items():
    attributes = {"extractor": "dino", "size": 224}
    parts = [
        save("a", 0, 3, attributes=attributes),
        save("b", 3, 4, attributes=attributes),
        save("c", 4, 7, attributes=attributes),
    ]
    assert merge_stores(parts, "merged") == 7
    assert_equal_stores("merged", save("whole", attributes=attributes))
    validate("merged")
    assert merge_stores(parts, "merged") == 7  # nothing is left to do


def test_merge_stores_of_modalities_of_which_items_lack_some():
    items = [{"rgb": x, "audio": x[:, :2]} if i % 3 else {"rgb": x} for i, x in enumerate(SETS)]
    save("a", 0, 4, X=items)
    save("b", 4, 7, X=[dict(reversed(item.items())) for item in items])
    merge_stores(["a", "b"], "merged")
    assert_equal_stores("merged", save("whole", X=items))


def test_merge_stores_keeps_names_of_labels_and_features():
    def labels(n):
        return pd.DataFrame(np.eye(n, 2, dtype=int), columns=["cat", "dog"])

    for path, first, last in (("a", 0, 3), ("b", 3, 7)):
        frames = [pd.DataFrame(x, columns=["u", "v", "w"]) for x in SETS[first:last]]
        columns = {"id": COLUMNS["id"][first:last], "label": labels(last - first)}
        save_feature_sets(path, acluster.FeatureSets.from_arrays(frames), **columns)
    merge_stores(["a", "b"], "merged")
    assert info("merged").label_names == ("cat", "dog")
    clf = acluster.AttentionClusterClassifier(max_iter=1)
    X = open_feature_sets("merged")
    assert clf.fit(X, X.label).feature_names_in_.tolist() == ["u", "v", "w"]


def test_merge_stores_resumes(monkeypatch):
    save("a", 0, 3)
    save("b", 3, 7)
    append = FeatureSetsWriter.append

    def interrupted(self, *args, **columns):
        if len(self) == 5:
            raise KeyboardInterrupt
        append(self, *args, **columns)

    with monkeypatch.context() as patch:
        patch.setattr(FeatureSetsWriter, "append", interrupted)
        with pytest.raises(KeyboardInterrupt):
            merge_stores(["a", "b"], "merged")
    assert info("merged").n_items == 5
    merge_stores(["a", "b"], "merged")
    assert_equal_stores("merged", save("whole"))


@pytest.mark.skipif(os.name != "posix", reason="needs SIGKILL")
def test_merge_stores_survives_sigkill(tmp_path):
    sets = RNG.normal(size=(60, 4, 8)).astype(np.float32)
    for name, part in (("a", slice(0, 25)), ("b", slice(25, 60))):
        ids = [f"v{i}" for i in range(60)][part]
        save_feature_sets(name, sets[part], id=ids)
    code = (
        "import os\n"
        "os.fsync = lambda file: None\n"
        "from acluster import FeatureSetsWriter\n"
        "from acluster.sets import merge_stores\n"
        "append = FeatureSetsWriter.append\n"
        "def slow(self, *args, **columns):\n"
        "    append(self, *args, **columns)\n"
        "    self.flush()\n"
        "    print('one', flush=True)\n"
        "FeatureSetsWriter.append = slow\n"
        "merge_stores(['a', 'b'], 'merged')\n"
    )
    for _ in range(2):
        done = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
        for _ in range(12):
            done.stdout.readline()
        done.send_signal(signal.SIGKILL)
        done.wait()
        done.stdout.close()
    assert 24 <= info("merged").n_items < 60
    assert merge_stores(["a", "b"], "merged") == 60
    merged = open_feature_sets("merged")
    assert merged.id.tolist() == [f"v{i}" for i in range(60)]
    assert all(np.array_equal(x, y) for x, y in zip(merged, sets, strict=True))


def test_merge_stores_reads_items_one_by_one(monkeypatch):
    for name in "ab":
        big = np.ones((200, 100, 256), np.float32)  # 20 MB
        save_feature_sets(name, big, id=[f"{name}{i}" for i in range(200)])
    del big
    append = FeatureSetsWriter.append
    # The writer keeps up to 32 MB, which would hide how much is read at a time.
    monkeypatch.setattr(
        FeatureSetsWriter, "append", lambda self, item, **columns: append(self, item[:1], **columns)
    )
    tracemalloc.start()
    merge_stores(["a", "b"], "merged")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10 << 20
    assert info("merged").n_items == 400


WRONG = {
    "ids that occur twice": (lambda: save("b", 2, 5), "a and b both have an item with the id 'v2'"),
    "other widths": (
        lambda: save("b", 3, 5, X=[x[:, :2] for x in SETS]),
        r"a and b cannot be .* numbers of features: \{'features': 3\} and \{'features': 2\}",
    ),
    "other dtypes": (lambda: save("b", 3, 5, dtype="float16"), "a and b .* differ in their dtypes"),
    "other columns": (lambda: save("b", 3, 5, group=None), "a and b .* differ in their columns"),
    "other modalities": (
        lambda: save("b", 3, 5, X=[{"rgb": x} for x in SETS]),
        "a and b .* differ in their modalities",
    ),
    "labels that are numbers": (
        lambda: save("b", 3, 5, label=[1, 2]),
        "a and b .* differ in their kinds of labels: text and int64",
    ),
    "other attributes": (
        lambda: save("b", 3, 5, attributes={"extractor": "x"}),
        "a and b .* differ in their attributes",
    ),
    "no ids": (lambda: save("b", 3, 5, id=None), "b has no ids"),
    "ids twice in a store": (lambda: save("b", 3, 5, id=["x", "x"]), "b has two items with the id"),
}


@pytest.mark.parametrize("name", WRONG)
def test_merge_stores_rejects(name):
    write, message = WRONG[name]
    save("a", 0, 3)
    write()
    with pytest.raises(ValueError, match=message):
        merge_stores(["a", "b"], "merged")
    assert not os.path.exists("merged")


def test_merge_stores_rejects_one_store_twice_and_other_items():
    save("a", 0, 3)
    save("b", 3, 7)
    with pytest.raises(ValueError, match="named twice"):
        merge_stores(["a", "./a"], "merged")
    with pytest.raises(ValueError, match="named twice"):
        merge_stores(["a", "b"], "b")
    with pytest.raises(ValueError, match="no stores"):
        merge_stores([], "merged")
    with pytest.raises(FileNotFoundError):
        merge_stores(["a", "nothing"], "merged")
    merge_stores(["b", "a"], "merged")
    with pytest.raises(ValueError, match="merged cannot be resumed: its column group differs"):
        merge_stores(["a", "b"], "merged")


def test_merge_command(capsys):
    save("a", 0, 3)
    save("b", 3, 7)
    assert main(["merge", "a", "b", "merged"]) == 0
    assert capsys.readouterr().out == "7 items are in merged\n"
    assert_equal_stores("merged", save("whole"))
    shutil.rmtree("merged")
    save("c", 0, 1)
    assert main(["merge", "a", "b", "c", "merged"]) == 1
    assert "acluster merge: a and c both have an item with the id 'v0'" in capsys.readouterr().err
