import numpy as np
import pytest

from acluster.datasets import load_utd_mhad

SENSORS, DEPTH = "utd_mhad/utd_mhad.npz", "utd_mhad/utd_mhad_depth.npz"


def make_arrays(n=9):
    """Clips of 1 to 5 local features in every modality, for both files."""
    generator = np.random.default_rng(0)
    lengths = {name: generator.integers(1, 6, n) for name in ("skeleton", "inertial", "depth")}
    sensors = {
        "skeleton": generator.normal(size=(lengths["skeleton"].sum(), 60)).astype(np.float32),
        "skeleton_lengths": lengths["skeleton"],
        "inertial": generator.normal(size=(lengths["inertial"].sum(), 6)).astype(np.float32),
        "inertial_lengths": lengths["inertial"],
        "y": np.arange(n) % 3,
        "subject": np.arange(n) % 8 + 1,
    }
    frames = generator.integers(0, 256, (lengths["depth"].sum(), 4, 3), np.uint8)
    return sensors, {"depth": frames, "lengths": lengths["depth"]}


def write(home, sensors, depth):
    (home / SENSORS).parent.mkdir()
    np.savez(home / SENSORS, **sensors)
    np.savez(home / DEPTH, **depth)


def test_load_utd_mhad_returns_sets_targets_and_split(tmp_path):
    sensors, depth = make_arrays()
    write(tmp_path, sensors, depth)
    actions = load_utd_mhad(data_home=tmp_path)
    expected = {
        "skeleton": np.split(sensors["skeleton"], np.cumsum(sensors["skeleton_lengths"])[:-1]),
        "inertial": np.split(sensors["inertial"], np.cumsum(sensors["inertial_lengths"])[:-1]),
        "depth": np.split(depth["depth"].reshape(-1, 12), np.cumsum(depth["lengths"])[:-1]),
    }
    assert actions.data.names == list(expected)
    assert len(actions.data) == 9
    for modality in actions.data.names:
        for features, expected_features in zip(
            actions.data[modality], expected[modality], strict=True
        ):
            np.testing.assert_array_equal(features, expected_features)
    assert actions.data["depth"].dtype == np.uint8
    np.testing.assert_array_equal(actions.target, sensors["y"])
    np.testing.assert_array_equal(actions.subject, [1, 2, 3, 4, 5, 6, 7, 8, 1])
    np.testing.assert_array_equal(actions.train_indices, [0, 2, 4, 6, 8])
    np.testing.assert_array_equal(actions.test_indices, [1, 3, 5, 7])
    assert actions.DESCR.startswith("UTD-MHAD")


@pytest.mark.parametrize("name", [SENSORS, DEPTH])
def test_load_utd_mhad_names_missing_file(tmp_path, name):
    write(tmp_path, *make_arrays())
    (tmp_path / name).unlink()
    with pytest.raises(FileNotFoundError) as caught:
        load_utd_mhad(data_home=tmp_path)
    assert str(caught.value) == (
        f"{tmp_path / name} does not exist. Put the file there, or set ACLUSTER_DATA or "
        f"data_home to the folder that contains {name}."
    )


def test_load_utd_mhad_names_missing_arrays(tmp_path):
    sensors, depth = make_arrays()
    del sensors["subject"], sensors["y"]
    write(tmp_path, sensors, depth)
    with pytest.raises(ValueError) as caught:
        load_utd_mhad(data_home=tmp_path)
    assert str(caught.value) == (
        f"{tmp_path / SENSORS} has the arrays ['inertial', 'inertial_lengths', 'skeleton', "
        "'skeleton_lengths'], but not ['y', 'subject']. Replace it with the original file."
    )


def test_load_utd_mhad_rejects_files_of_different_clips(tmp_path):
    write(tmp_path, make_arrays(9)[0], make_arrays(8)[1])
    with pytest.raises(ValueError) as caught:
        load_utd_mhad(data_home=tmp_path)
    assert str(caught.value) == (
        f"{tmp_path / SENSORS} has 9 clips, but {tmp_path / DEPTH} has 8. Replace both with the "
        "original files."
    )


def test_load_utd_mhad_of_the_real_files(data_home):
    if not ((data_home / SENSORS).is_file() and (data_home / DEPTH).is_file()):
        pytest.skip(f"{SENSORS} or {DEPTH} is not in {data_home}")
    actions = load_utd_mhad(data_home=data_home)
    assert actions.data.n_features == {"skeleton": 60, "inertial": 6, "depth": 4800}
    assert len(actions.data) == 861
    assert not any(missing.any() for missing in actions.data.missing.values())
    np.testing.assert_array_equal(np.unique(actions.target), np.arange(27))
    assert set(actions.subject[actions.train_indices]) == {1, 3, 5, 7}
    assert set(actions.subject[actions.test_indices]) == {2, 4, 6, 8}
