"""Names of modalities in memory, in stores and in new stores."""

import json

import numpy as np
import pytest

from acluster import FeatureSets, MultimodalFeatureSets, open_feature_sets, save_feature_sets

X = FeatureSets(np.ones((3, 2), np.float32), [0, 1, 3])
OF_OLD_STORES = [".x", "LABEL", "x_Offsets", "zarr.JSON", "a" * 201, "x_places"]
ONLY_IN_MEMORY = ["label", "id", "rgb_offsets", "rgb_row_size", "a\\b", "__x", ".."]


@pytest.mark.parametrize("name", OF_OLD_STORES + ONLY_IN_MEMORY)
def test_save_rejects_names_that_are_valid_in_memory(name, tmp_path):
    sets = MultimodalFeatureSets({name: X})
    assert sets.names == [name]
    with pytest.raises(ValueError, match=r"Item 0, modality .*Rename it"):
        save_feature_sets(tmp_path / "a.zarr", sets)


@pytest.mark.parametrize("name", OF_OLD_STORES + ONLY_IN_MEMORY)
def test_open_accepts_names_of_old_stores(name, tmp_path):
    path = tmp_path / "a.zarr"
    save_feature_sets(path, MultimodalFeatureSets({"rgb": X}))
    if name in OF_OLD_STORES:
        for ending in ("", "_row_size", "_offsets"):
            (path / f"rgb{ending}").rename(path / f"{name}{ending}")
    metadata = json.loads((path / "zarr.json").read_text())
    metadata["attributes"]["committed"]["n_rows"] = {name: 3}
    (path / "zarr.json").write_text(json.dumps(metadata))
    if name in OF_OLD_STORES:
        assert open_feature_sets(path)[name].lengths.tolist() == [1, 2]
    else:
        with pytest.raises(ValueError, match="cannot be the name of a modality"):
            open_feature_sets(path)
