"""How Sphinx builds the docs: `make docs`. Pages are Markdown (MyST); what code knows is written by `generate.py`."""

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import kto_workbench  # noqa: E402

project = "KTO Workbench"
author = "The authors of KTO Workbench"
release = version = kto_workbench.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build"]
autodoc_member_order = "bysource"
autodoc_typehints = "description"

html_theme = "furo"
html_title = "KTO Workbench"
html_static_path: list[str] = []
default_role = "code"  # docstrings write `name`


def setup(app: Any) -> None:
    """Conditional probabilities are no substitutions of reStructuredText."""

    def escape(app: Any, what: str, name: str, of: Any, options: Any, lines: list[str]) -> None:
        lines[:] = [line.replace("|", r"\|") for line in lines]

    app.connect("autodoc-process-docstring", escape, priority=900)  # behind napoleon
