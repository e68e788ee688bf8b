"""Sphinx extension: leave the text below a field or constant alone.

Napoleon reads "Seeds needed: 0, 1, ..." there as "type: description". Arguments, returns and errors are
left to it.
"""

from __future__ import annotations

from typing import Any

PLAIN = ("attribute", "data", "property")


def setup(app: Any) -> dict[str, bool]:
    """Hold such docstrings back while napoleon (priority 500) works."""
    held: dict[str, list[str]] = {}

    def hold(_app: Any, what: str, name: str, _obj: Any, _options: Any, lines: list[str]) -> None:
        if what in PLAIN:
            held[name] = list(lines)

    def hand_back(_app: Any, what: str, name: str, _obj: Any, _options: Any, lines: list[str]) -> None:
        if what in PLAIN:
            lines[:] = held.pop(name)

    app.connect("autodoc-process-docstring", hold, priority=400)
    app.connect("autodoc-process-docstring", hand_back, priority=600)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
