"""The files of a store follow the documented format."""

import numpy as np
import pytest
import zarr

from acluster import open_feature_sets, save_feature_sets
from tests.sets._store.helpers import ARRAYS, COLUMNS, PLACES, item_of, places_of


def test_store_has_documented_arrays_and_attributes(written):
    group = zarr.open_group(written, mode="r")
    attributes = dict(group.attrs)
    assert attributes["acluster_format"] == "ragged-sets"
    assert attributes["version"] == 2
    assert attributes["committed"]["places"] == list(PLACES)
    assert attributes["complete"] is True
    assert attributes["attributes"] == {"extractor": "r18"}
    items = [item_of(i) for i in range(12)]
    for name, width, dtype in [("rgb", 3, "f4"), ("audio", 2, "f4"), ("text", 1, "f2")]:
        sizes = [len(item.get(name, ())) for item in items]
        features = group[name]
        assert (features.shape, features.dtype) == ((sum(sizes), width), dtype)
        assert features.metadata.dimension_names == (f"{name}_obs", f"{name}_feature")
        assert [codec.to_dict() for codec in features.compressors] == [{"name": "crc32c"}]
        expected = np.concatenate([item[name] for item in items if name in item])
        np.testing.assert_array_equal(features[:], expected)
        row_size, offsets = group[f"{name}_row_size"], group[f"{name}_offsets"]
        assert row_size.attrs["sample_dimension"] == f"{name}_obs"
        assert row_size.metadata.dimension_names == ("item",)
        assert offsets.metadata.dimension_names == ("item_edge",)
        assert (row_size.dtype, offsets.dtype) == ("i8", "i8")
        assert (f"{name}_places" in group) == (name in PLACES)
        np.testing.assert_array_equal(row_size[:], sizes)
        np.testing.assert_array_equal(offsets[:], np.cumsum([0, *sizes]))
    for name, names in PLACES.items():
        places = group[f"{name}_places"]
        assert (places.shape, places.dtype) == ((group[name].shape[0], len(names)), "f8")
        assert places.metadata.dimension_names == (f"{name}_obs", f"{name}_place")
        assert places.attrs["column_names"] == names
        assert [codec.to_dict() for codec in places.compressors] == [{"name": "crc32c"}]
        own = [places_of(i)[name] for i in range(12) if name in places_of(i)]
        expected = np.concatenate([np.transpose([one[key] for key in names]) for one in own])
        np.testing.assert_array_equal(places[:], expected)
    for name in COLUMNS:
        assert group[name].metadata.dimension_names == ("item",)
        assert group[name].shape == (12,)
    assert group["label"].attrs["classes"] == ["class0", "class1", "class2"]
    np.testing.assert_array_equal(group["label"][:], np.arange(12) // 4)
    assert group["id"][:].tolist() == [f"item{i}" for i in range(12)]


def test_indicator_labels_have_two_dimensions(path):
    save_feature_sets(path, ARRAYS, label=np.eye(11, dtype=int))
    label = zarr.open_array(path, path="label")
    assert label.shape == (11, 11)
    assert label.metadata.dimension_names == ("item", "label_column")


def test_xarray_opens_store(written):
    xarray = pytest.importorskip("xarray")
    X = open_feature_sets(written)
    with xarray.open_zarr(written, consolidated=False) as data:
        assert data["rgb"].dims == ("rgb_obs", "rgb_feature")
        assert data["rgb_places"].dims == ("rgb_obs", "rgb_place")
        assert data["rgb_row_size"].attrs["sample_dimension"] == "rgb_obs"
        for name in X.names:
            np.testing.assert_array_equal(data[name].values, X[name].packed()[0])
            np.testing.assert_array_equal(data[f"{name}_row_size"].values, X.lengths[name])
        labels = np.array(data["label"].attrs["classes"])[data["label"].values]
        np.testing.assert_array_equal(labels, X.label)
        assert data["id"].values.tolist() == X.id.tolist()
        np.testing.assert_array_equal(data["weight"].values, X.weight)
