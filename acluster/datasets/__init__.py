"""Flash-MNIST, its feature extractor, and loaders for other data sets."""

from acluster.datasets._benchmarks import load_benchmark
from acluster.datasets._data_home import get_data_home
from acluster.datasets._extractor import FrameExtractor
from acluster.datasets._flash_mnist import make_flash_mnist
from acluster.datasets._fsdd import load_fsdd
from acluster.datasets._mnist import fetch_mnist, load_digits_28
from acluster.datasets._utd_mhad import load_utd_mhad

__all__ = [
    "FrameExtractor",
    "fetch_mnist",
    "get_data_home",
    "load_benchmark",
    "load_digits_28",
    "load_fsdd",
    "load_utd_mhad",
    "make_flash_mnist",
]
