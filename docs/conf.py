import acluster

project = "acluster"
copyright = "2026, the acluster developers"
release = version = acluster.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "numpydoc",
    "sphinx_gallery.gen_gallery",
]
autodoc_typehints = "none"
nitpicky = True  # what a page refers to has to be there
nitpick_ignore_regex = [
    ("py:.*", r"(sklearn|numpy|torch|zarr)\..*"),  # other packages' pages
    ("py:obj", r"[a-z_]+_"),  # fitted attributes that are properties
]
numpydoc_show_class_members = False
# Every parameter and what comes back is described. Two classes have a constructor of torch's, and
# the forward of a weighting function is described where their base has it.
numpydoc_validation_checks = {"PR01", "PR02", "RT01"}
numpydoc_validation_exclude = {
    r"acluster\.nn\.Integration$",
    r"acluster\.nn\.Weighting$",
    r"acluster\.nn\.\w+Weighting\.forward$",
}
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "acluster"

sphinx_gallery_conf = {
    "examples_dirs": "../examples/gallery",
    "gallery_dirs": "gallery",
    "abort_on_example_error": True,
    "show_signature": False,
    "download_all_examples": False,
}
suppress_warnings = ["config.cache"]  # a class in sphinx_gallery_conf cannot be pickled
