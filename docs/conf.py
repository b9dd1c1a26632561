"""The documentation site: `sphinx-build -W -b html docs .venv/site`."""

import importlib.metadata
import pathlib
import sys

HERE = pathlib.Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE / "_ext")]

project = "big_vision_dual"
author = "The big_vision_dual authors"
release = version = importlib.metadata.version("big_vision_dual")
extensions = ["myst_parser", "sphinx.ext.autodoc", "api_pages"]
exclude_patterns = ["_ext", "notebooks"]

myst_enable_extensions = ["colon_fence", "html_image"]
myst_heading_anchors = 4
default_role = "code"
suppress_warnings = ["toc.not_included"]
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_member_order = "bysource"

html_theme = "furo"
html_title = "big_vision_dual"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#0b5cad", "color-brand-content": "#0b5cad"},
    "dark_css_variables": {"color-brand-primary": "#7db7ff", "color-brand-content": "#7db7ff"},
}
html_show_copyright = False
html_copy_source = False
