"""Runs, studies and tracks as one self-contained HTML page: `model` says what is on it, `html` writes it down."""

from big_vision_dual.lab.report.page.html import render as render
from big_vision_dual.lab.report.page.model import Page as Page
from big_vision_dual.lab.report.page.model import of as of
