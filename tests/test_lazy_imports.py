"""Heavy libraries are imported when they are used, not before."""

import pickle
import subprocess
import sys

import numpy as np
import pytest

import acluster

REFUSE = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {names!r}:
            raise AssertionError(f"{{name}} is imported")

sys.meta_path.insert(0, Refuse())
"""


def run_without(names, code, folder):
    script = REFUSE.format(names=set(names)) + code
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=folder
    )
    assert done.returncode == 0, done.stderr


def test_public_names_resolve_in_a_fresh_process(tmp_path):
    code = (
        "import acluster\n"
        "assert set(acluster.__all__) < set(dir(acluster))\n"
        "assert acluster.nn.AttentionCluster and acluster.rivals.AverageClassifier\n"
        "from acluster import *\n"
        "assert load is acluster.load and FeatureSets is acluster.sets.FeatureSets\n"
    )
    run_without([], code, tmp_path)


def test_unknown_name_raises_attribute_error():
    with pytest.raises(AttributeError, match="module 'acluster' has no attribute 'laod'"):
        acluster.laod  # noqa: B018


def test_public_class_pickles():
    assert pickle.loads(pickle.dumps(acluster.FeatureSets)) is acluster.FeatureSets


def test_import_acluster_imports_no_dependency(tmp_path):
    names = ["numpy", "scipy", "sklearn", "torch", "zarr"]
    code = (
        "import acluster\n"
        "from acluster.command_line import main\n"
        "try:\n"
        "    main(['--help'])\n"
        "except SystemExit as exit:\n"
        "    assert exit.code == 0\n"
    )
    run_without(names, code, tmp_path)


def test_containers_import_neither_torch_nor_scikit_learn(tmp_path):
    code = (
        "import numpy as np\n"
        "from acluster import FeatureSets, FeatureSetsWriter, open_feature_sets\n"
        "from acluster import MultimodalFeatureSets, save_feature_sets\n"
        "X = FeatureSets.from_arrays([np.ones((2, 3)), np.ones((1, 3))])\n"
        "save_feature_sets('sets.zarr', MultimodalFeatureSets({'rgb': X}))\n"
        "assert len(open_feature_sets('sets.zarr')[1:]['rgb'].packed()[0]) == 1\n"
    )
    run_without(["scipy", "sklearn", "torch"], code, tmp_path)


def test_store_commands_do_not_import_torch(tmp_path):
    (tmp_path / "features").mkdir()
    np.save(tmp_path / "features" / "item0.npy", np.ones((2, 3), np.float32))
    code = (
        "from acluster.command_line import main\n"
        "for command in (['convert', 'features'], ['info'], ['validate']):\n"
        "    assert main([*command, 'sets.zarr']) == 0\n"
    )
    run_without(["torch", "matplotlib"], code, tmp_path)
