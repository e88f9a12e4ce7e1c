"""Arrays that bound what a chunk may decode to read the same values as zarr."""

import numcodecs
import numpy as np
import pytest
import zarr
from zarr.codecs import BytesCodec, GzipCodec, ShardingCodec, ZstdCodec

from acluster.sets._store._bounded import bounded
from tests.sets._store.test_bombs import codec_of

pytestmark = pytest.mark.filterwarnings(
    "ignore:Numcodecs codecs are not|Combining a `sharding_indexed"
)
VALUES = np.random.default_rng(0).normal(size=(300, 7)).astype("f4")


@pytest.mark.parametrize("name", ["zstd", "blosc", "gzip", "zlib", "bz2", "lzma", "lz4"])
@pytest.mark.parametrize("values", [VALUES, np.zeros((300, 7), "f4")], ids=["random", "zeros"])
def test_bounded_array_reads_as_zarr_does(tmp_path, name, values):
    config = {"write_empty_chunks": True}
    codec = numcodecs.get_codec({"id": name})
    options = {"filters": [numcodecs.Delta("f4")], "zarr_format": 2, "compressors": codec}
    old = zarr.create_array(tmp_path / "old", data=values, config=config, **options)
    assert np.array_equal(bounded(old)[:], old[:])
    codecs = [BytesCodec(), ZstdCodec(), zarr.registry.get_codec_class(codec_of(name)["name"])()]
    sharding = ShardingCodec(chunk_shape=(1, 7), codecs=codecs)
    new = zarr.create_array(
        tmp_path / "new", data=values, config=config, serializer=sharding, compressors=GzipCodec()
    )
    assert np.array_equal(bounded(new)[:], new[:])
