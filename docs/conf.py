import sys
from pathlib import Path

import torch

import acluster

# The examples are small, and more threads than idle cores make them many times slower.
torch.set_num_threads(1)

sys.path.insert(0, str(Path(__file__).parent))  # for the extension in mathml.py

project = "acluster"
copyright = "2026, the acluster developers"
release = version = acluster.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "numpydoc",
    "sphinx_copybutton",
    "sphinx_design",
    "sphinx_gallery.gen_gallery",
    "mathml",
]
exclude_patterns = ["_build"]
templates_path = ["_templates"]
html_math_renderer = "mathml"

# The reference has a page for every name in the __all__ of a public module, so that a new class
# appears there without an edit here.
autosummary_ignore_module_all = False
autosummary_imported_members = True
autodoc_typehints = "none"  # the docstrings state the types
autosummary_context = {
    # What a class inherits from these is documented by torch, Python and scikit-learn.
    "foreign_bases": "Module, Exception, BaseSearchCV, GridSearchCV, RandomizedSearchCV, "
    "HalvingGridSearchCV, HalvingRandomSearchCV",
    # Members that acluster's own modules use to work together.
    "internal_members": "attention_weights_of, blocks, description, from_source, located, "
    "residuals, standardized, train",
    # The other names of acluster.sets are public from acluster, or serve its own modules.
    "public_names": {
        "acluster.sets": [
            "StoreError",
            "as_feature_sets",
            "group_rows",
            "info",
            "merge_stores",
            "validate",
        ]
    },
}
toc_object_entries_show_parents = "hide"

nitpicky = True  # a reference to a name that does not exist is an error
nitpick_ignore_regex = [
    ("py:.*", r"(joblib|sklearn|numpy|torch|zarr)\..*"),  # documented elsewhere
    ("py:obj", r"[a-z_]+_"),  # fitted attributes that are properties
    # From the docstrings of methods inherited from scikit-learn:
    ("std:ref", "metadata_routing|accuracy_score|df_output_transform|sphx_glr_auto_examples_.*"),
    ("std:term", "meta-estimator|fit|classes_"),
]
numpydoc_show_class_members = False
# Every parameter and return value must be described, with two exceptions: classes whose constructor
# is torch's or scikit-learn's, and methods that override a described one.
numpydoc_validation_checks = {"PR01", "PR02", "RT01"}
numpydoc_validation_exclude = {
    r"acluster\.model_selection\.\w+SearchCV$",
    r"acluster\.nn\.Integration$",
    r"acluster\.nn\.Weighting$",
    r"acluster\.nn\.(\w+Weighting|ScoreFusionNetwork)\.forward$",
    r"acluster\.nn\..*\.(reset_parameters|attention_logits)$",
}

html_theme = "pydata_sphinx_theme"
html_title = "acluster"
html_static_path = ["_static"]
html_css_files = ["acluster.css"]
html_show_sourcelink = False
html_sidebars = {"index": []}
html_theme_options = {
    "logo": {"text": "acluster"},
    "header_links_before_dropdown": 6,
    "navbar_persistent": ["search-button"],
    "navbar_end": ["theme-switcher"],
    "navigation_with_keys": False,
    "show_toc_level": 2,
    "footer_start": ["copyright"],
    "footer_end": [],
}

sphinx_gallery_conf = {
    "examples_dirs": "../examples/gallery",
    "gallery_dirs": "examples",
    "abort_on_example_error": True,
    "show_signature": False,
    "download_all_examples": False,
}
suppress_warnings = ["config.cache"]  # a class in sphinx_gallery_conf cannot be pickled
