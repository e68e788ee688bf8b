"""Draw the README's picture, Figure 1 from the published records: ``python book/readme_picture.py``."""

from __future__ import annotations

import io
from pathlib import Path

import matplotlib

from alexnet_lib import evidence, experiments, plots, records

PICTURE = Path(__file__).parent / "static" / "figure1.svg"


def draw() -> bytes:
    """Return the picture: the same bytes from the same records."""
    matplotlib.use("svg")
    results = evidence.results("relu_vs_tanh", "laptop", records.PUBLISHED)
    with matplotlib.rc_context(plots.STYLE):
        figure = plots.training_curves(results, ["2012", "modern"], experiments.TARGET)
        picture = io.BytesIO()
        figure.savefig(picture, format="svg", metadata={"Date": None})
    return picture.getvalue()


if __name__ == "__main__":
    PICTURE.write_bytes(draw())
    print(PICTURE)
