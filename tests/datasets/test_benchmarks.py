import io

import numpy as np
import pytest

from acluster import FeatureSets
from acluster.datasets import load_benchmark

PATHS = {
    "musk1": "mil/musk1.npz",
    "elephant": "mil/elephant.npz",
    "birds_winter_wren": "mil/birds_winter_wren.npz",
    "japanese_vowels": "japanese_vowels/japanese_vowels.npz",
    "tiger": "sets/tiger.npz",
    "fox": "sets/fox.npz",
    "newsgroups2": "sets/newsgroups2.npz",
    "colon": "sets/colon.npz",
    "msr_action3d": "sets/msr_action3d.npz",
}


def make_arrays():
    """Eleven items of 1 to 5 local features: not a multiple of 8, as packed bits would be."""
    generator = np.random.default_rng(0)
    lengths = generator.integers(1, 6, 11).astype(np.int32)
    return {
        "X": generator.normal(size=(lengths.sum(), 4)).astype(np.float32),
        "lengths": lengths,
        "y": np.arange(11) % 3,
    }


def write(home, name, arrays):
    path = home / PATHS[name]
    path.parent.mkdir()
    np.savez(path, **arrays)
    return path


@pytest.mark.parametrize("name", PATHS)
def test_load_benchmark_returns_sets_and_targets(tmp_path, name):
    arrays = make_arrays()
    write(tmp_path, name, arrays)
    benchmark = load_benchmark(name, data_home=tmp_path)
    assert isinstance(benchmark.data, FeatureSets)
    expected = np.split(arrays["X"], np.cumsum(arrays["lengths"])[:-1])
    assert len(benchmark.data) == 11
    for features, expected_features in zip(benchmark.data, expected, strict=True):
        np.testing.assert_array_equal(features, expected_features)
    np.testing.assert_array_equal(benchmark.target, arrays["y"])
    assert set(benchmark) == {"data", "target", "DESCR"}
    assert benchmark.DESCR.lower().startswith(name.partition("_")[0].rstrip("12"))


def test_load_benchmark_unpacks_folds(tmp_path):
    is_train = np.random.default_rng(1).random((5, 10, 11)) < 0.9
    write(tmp_path, "musk1", {**make_arrays(), "train_folds": np.packbits(is_train, axis=-1)})
    folds = load_benchmark("musk1", data_home=tmp_path).folds
    assert [len(repetition) for repetition in folds] == [10] * 5
    for repetition, expected in zip(folds, is_train, strict=True):
        for (train, test), is_train_item in zip(repetition, expected, strict=True):
            np.testing.assert_array_equal(train, np.flatnonzero(is_train_item))
            np.testing.assert_array_equal(test, np.flatnonzero(~is_train_item))


def test_load_benchmark_divides_folds_by_repetition(tmp_path):
    folds = np.where(np.random.default_rng(1).random((4, 11)) < 0.8, 1, 2).astype(np.int8)
    write(tmp_path, "colon", {**make_arrays(), "folds": folds, "rep": [1, 0, 1, 0]})
    first, second = load_benchmark("colon", data_home=tmp_path).folds
    for (train, test), fold in zip([*first, *second], folds[[1, 3, 0, 2]], strict=True):
        np.testing.assert_array_equal(train, np.flatnonzero(fold == 1))
        np.testing.assert_array_equal(test, np.flatnonzero(fold == 2))


def test_load_benchmark_returns_a_single_fold_as_split(tmp_path):
    folds = np.array([[1, 2] * 5 + [1]], dtype=np.int8)
    more = {"folds": folds, "rep": [0], "subject": np.arange(11) % 4}
    write(tmp_path, "msr_action3d", {**make_arrays(), **more})
    actions = load_benchmark("msr_action3d", data_home=tmp_path)
    np.testing.assert_array_equal(actions.groups, np.arange(11) % 4)
    np.testing.assert_array_equal(actions.train_indices, [0, 2, 4, 6, 8, 10])
    np.testing.assert_array_equal(actions.test_indices, [1, 3, 5, 7, 9])
    assert "folds" not in actions


def test_load_benchmark_returns_fixed_split(tmp_path):
    is_train = np.arange(11) % 2 == 0
    write(tmp_path, "japanese_vowels", {**make_arrays(), "is_train": is_train})
    vowels = load_benchmark("japanese_vowels", data_home=tmp_path)
    np.testing.assert_array_equal(vowels.train_indices, [0, 2, 4, 6, 8, 10])
    np.testing.assert_array_equal(vowels.test_indices, [1, 3, 5, 7, 9])


def test_load_benchmark_returns_places_and_nuclei(tmp_path):
    arrays = make_arrays()
    n_rows = len(arrays["X"])
    more = {"places": np.arange(2 * n_rows).reshape(-1, 2), "n_nuclei": np.arange(n_rows) % 3}
    path = write(tmp_path, "colon", {**arrays, **more})
    colon = load_benchmark("colon", data_home=tmp_path)
    assert colon.data.places.column_names == ("x", "y")
    np.testing.assert_array_equal(colon.data.places.packed()[0], more["places"][:, ::-1])
    np.testing.assert_array_equal(colon.data.places.lengths, arrays["lengths"])
    np.testing.assert_array_equal(colon.n_nuclei, more["n_nuclei"])
    np.savez(path, **arrays, places=np.arange(n_rows))
    with pytest.raises(ValueError, match=r"has places of shape \(\d+,\), not one row and column"):
        load_benchmark("colon", data_home=tmp_path)


def test_load_benchmark_rejects_unknown_name(tmp_path):
    with pytest.raises(ValueError) as caught:
        load_benchmark("musk2", data_home=tmp_path)
    assert str(caught.value) == (
        "name='musk2' is unknown; choose one of musk1, elephant, birds_winter_wren, "
        "japanese_vowels, tiger, fox, newsgroups2, colon, msr_action3d."
    )


def test_load_benchmark_names_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        load_benchmark("musk1", data_home=tmp_path)
    assert str(caught.value) == (
        f"{tmp_path / 'mil' / 'musk1.npz'} does not exist. Put the file there, or set "
        "ACLUSTER_DATA or data_home to the folder that contains mil/musk1.npz."
    )


def test_load_benchmark_names_missing_arrays(tmp_path):
    path = write(tmp_path, "musk1", {"X": np.zeros((2, 2)), "labels": np.zeros(2)})
    with pytest.raises(ValueError) as caught:
        load_benchmark("musk1", data_home=tmp_path)
    assert str(caught.value) == (
        f"{path} has the arrays ['X', 'labels'], but not ['lengths', 'y']. Replace it with the "
        "original file."
    )


def test_load_benchmark_rejects_pickled_objects(tmp_path):
    path = write(tmp_path, "musk1", {**make_arrays(), "y": np.array([print] * 11, dtype=object)})
    with pytest.raises(ValueError) as caught:
        load_benchmark("musk1", data_home=tmp_path)
    assert str(caught.value) == (
        f"{path} cannot be read: Object arrays cannot be loaded when allow_pickle=False. Replace "
        "it with the original file."
    )


def content_of(save, *arguments):
    """Return the content of a file that a function of numpy writes."""
    file = io.BytesIO()
    save(file, *arguments)
    return file.getvalue()


def with_damaged_stream(archive):
    """Return an archive whose first compressed array cannot be decompressed."""
    start = 30 + int.from_bytes(archive[26:28], "little") + int.from_bytes(archive[28:30], "little")
    return archive[:start] + b"\xff" + archive[start + 1 :]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"PK\x03\x04 cut short",
        b"something else",
        with_damaged_stream(content_of(np.savez_compressed, np.arange(9.0))),
        content_of(np.save, np.arange(9.0)),
    ],
)
def test_load_benchmark_rejects_damaged_file(tmp_path, content):
    path = write(tmp_path, "musk1", {})
    path.write_bytes(content)
    with pytest.raises(ValueError) as caught:
        load_benchmark("musk1", data_home=tmp_path)
    message = str(caught.value)
    assert message.startswith(f"{path} cannot be read: ")
    assert message.endswith(". Replace it with the original file.")


@pytest.mark.parametrize("name", PATHS)
def test_load_benchmark_of_the_real_files(data_home, name):
    if not (data_home / PATHS[name]).is_file():
        pytest.skip(f"{PATHS[name]} is not in {data_home}")
    benchmark = load_benchmark(name)
    n_items = len(benchmark.data)
    assert benchmark.target.shape == (n_items,)
    if name in ("japanese_vowels", "msr_action3d"):
        splits = [(benchmark.train_indices, benchmark.test_indices)]
    else:
        splits = [split for repetition in benchmark.folds for split in repetition]
        # In a repetition of cross-validation every item is tested once.
        for repetition in benchmark.folds:
            tested = np.concatenate([test for _, test in repetition])
            np.testing.assert_array_equal(np.sort(tested), np.arange(n_items))
    for train, test in splits:
        np.testing.assert_array_equal(np.sort(np.concatenate([train, test])), np.arange(n_items))
