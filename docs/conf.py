"""Configuration of Sphinx: Markdown pages and docstrings → HTML in ``build/docs``. Needs no network."""

import re
from importlib import import_module

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from simpair import __version__

project = "simpair"
author = "the simpair authors"
copyright = "2026, the simpair authors"
release = version = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns: list[str] = []
html_theme = "furo"
html_title = f"simpair {version}"
html_copy_source = False

myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
_ALIASES = "ArrayLike Data Documents FloatArray Given Ids Metadata Queries Records Where"
autodoc_type_aliases = {name: name for name in _ALIASES.split()}
autodoc_default_options = {"members": True}
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True


class Public(SphinxDirective):
    """``.. public:: module``: the documentation of every name in the module's ``__all__``."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Return the documentation of the names."""
        module = import_module(self.arguments[0])
        values = {f"{module.__name__}.{name}": getattr(module, name) for name in module.__all__}
        kinds = {name: "autoclass" if isinstance(value, type) else "autofunction" for name, value in values.items()}
        return self.parse_text_to_nodes("\n\n".join(f".. {kind}:: {name}" for name, kind in kinds.items()))


def _skip(app: Sphinx, what: str, name: str, obj: object, skip: bool, options: object) -> bool:
    """Return whether to leave a member out: the fields of a NamedTuple stand in its docstring."""
    return skip or type(obj).__name__ == "_tuplegetter"


def _named(
    app: Sphinx, what: str, name: str, obj: object, options: object, signature: str | None, returned: str | None
) -> tuple[str | None, str | None]:
    """Return a signature and a return type in which type aliases have their names."""
    parts = (part and re.sub(r"TypeAliasForwardRef\('(\w+)'\)", r"\1", part) for part in (signature, returned))
    return tuple(parts)


def setup(app: Sphinx) -> None:
    """Add the directive, and what makes signatures and members readable."""
    app.add_directive("public", Public)
    app.connect("autodoc-skip-member", _skip)
    app.connect("autodoc-process-signature", _named)
