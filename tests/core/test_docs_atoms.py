"""The atom table of docs/norms.md says what the code does."""

import math
import pathlib
import re

import pytest

from big_vision_dual.core import norms
from big_vision_dual.core.dualize import geometry

PAGE = pathlib.Path(__file__).parent.parent.parent / "docs/norms.md"
FORMS = {"spectral": None, "columns": (-2,), "rows": (-1,), "entries": ()}
INIT = {"scaled orthogonal": "sphere", "unit norm": "sphere", "rows of RMS 1": "sphere", "0": "ball", "1": "ball",
        "kept": "itself"}  # fmt: skip
MADE = {
    "Linear": norms.linear("w", 3, 5), "MaxLinear": norms.max_linear("w", 3, 5), "Embed": norms.embed("w", 3, 5),
    "Bias": norms.bias("w", 5), "Scale": norms.scale("w", 5), "Rate": norms.rate("w", 5, constant=False),
    "DepthwiseConv": norms.depthwise_conv("w", 3, 5), "Conv": norms.conv("w", (1, 1), 3, 5),
}  # fmt: skip


def rows():
    """{atom: (form, gain, init, sensitivity)}, as texts."""
    lines = [re.split(r"(?<!\\)\|", line)[1:-1] for line in PAGE.read_text().splitlines() if line.startswith("| ")]
    table = [[cell.strip() for cell in line] for line in lines if len(line) == 9]
    assert table[0][0] == "atom"
    return {row[0]: (row[2], row[3], row[7], row[8]) for row in table[1:]}


def test_every_atom_has_a_row_in_the_codes_order():
    assert tuple(rows()) == norms.KINDS == tuple(geometry.ATOMS)


@pytest.mark.parametrize("kind", norms.KINDS)
def test_form_gain_initial_value_and_sensitivity(kind):
    form, gain, init, sensitivity = rows()[kind]
    of_code = geometry.ATOMS[kind]
    assert of_code.vector_axes == FORMS[form]
    written = eval(gain, {"sqrt": math.sqrt, "fan_in": 3, "fan_out": 5, "k": 1})
    assert of_code.gain(3, 5) == pytest.approx(written, rel=1e-12)
    assert of_code.projects_to == INIT[init]
    assert MADE[kind].kind == kind
    assert MADE[kind].sensitivity == float(sensitivity.partition(",")[0])
