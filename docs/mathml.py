"""Sphinx extension that turns LaTeX formulas into MathML when the pages are built.

Browsers draw MathML by themselves, so the pages need neither JavaScript nor the internet to show
a formula.
"""

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.util import logging
from sphinx.util.math import get_node_equation_number

logger = logging.getLogger(__name__)


def to_mathml(node, display):
    mathml = convert(node.astext(), display=display)
    if "\\" in mathml:  # the converter passes on commands that it does not know
        logger.warning("a command in this formula has no MathML: %s", node.astext(), location=node)
    return mathml


def visit_inline(translator, node):
    translator.body.append(f'<span class="math">{to_mathml(node, "inline")}</span>')
    raise nodes.SkipNode


def visit_block(translator, node):
    translator.body.append(translator.starttag(node, "div", CLASS="math"))
    if node["number"]:
        number = get_node_equation_number(translator, node)
        translator.body.append(f'<span class="eqno">({number})')
        translator.add_permalink_ref(node, "Link to this equation")
        translator.body.append("</span>")
    translator.body.append(to_mathml(node, "block") + "</div>\n")
    raise nodes.SkipNode


def setup(app):
    app.add_html_math_renderer(
        "mathml", inline_renderers=(visit_inline, None), block_renderers=(visit_block, None)
    )
    return {"parallel_read_safe": True, "parallel_write_safe": True}
