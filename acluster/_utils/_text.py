"""Text that is safe to show on a terminal."""

import re

# C0 and C1 controls, which start escape sequences; the marks that reorder or break lines; lone
# surrogates, which no encoding writes; the two characters that XML, and so SVG, does not allow.
_UNSAFE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]"
)


def escape(text: object) -> str:
    r"""Return the text as one line, with control characters written as in Python (``\x1b``)."""
    return _UNSAFE.sub(lambda found: ascii(found[0])[1:-1], str(text))
