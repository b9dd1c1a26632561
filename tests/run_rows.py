"""The metrics of a run, for tests that compare two."""

from __future__ import annotations

from big_vision_dual.train import metrics, run_files


def repeatable(workdir):
    """Rows of its metrics file, without those values that depend on the machine."""
    return [
        {name: value for name, value in row.items() if name not in metrics.TIMING} for row in run_files.rows(workdir)
    ]
