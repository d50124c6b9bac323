"""
How the site is built: `tox -e docs`. Its root is the checkout, so that links between
documents are the same on the site and in the repository.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

project = "heap_agent"
author = "heap_agent contributors"
copyright = "heap_agent contributors, MIT license"
root_doc = "docs/index"
include_patterns = [
    "docs/**.md",
    "README.md",
    "ARCHITECTURE.md",
    "RELIABILITY.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "benchmarks/README.md",
    "benchmarks/results/README.md",
]

exclude_patterns = [".tox", ".venv", "build"]

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_click",
    "from_code",
]

# -- documents --------------------------------------------------------------------

myst_heading_anchors = 4
highlight_language = "none"

# -- the reference, from docstrings -----------------------------------------------

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
napoleon_use_ivar = True
python_maximum_signature_line_length = 88
# Dashes, but no curled quotes: what stands in them may be a value.
smartquotes_action = "De"
# Single backticks in docstrings are code.
default_role = "code"

# -- the pages --------------------------------------------------------------------

html_theme = "furo"
html_title = "heap_agent"
html_static_path = ["_static"]
html_css_files = ["site.css"]
# Who opens the site at its root is led to the first page.
html_extra_path = ["_extra"]
html_show_sphinx = False
html_copy_source = False
html_theme_options = {"navigation_with_keys": True}
