"""What a run notes of where it ran."""

from __future__ import annotations

import importlib.metadata

import jax

import big_vision_dual
from big_vision_dual.train import workdir


def test_versions_from_a_clone_that_nobody_installed(monkeypatch):
    installed = importlib.metadata.version

    def version(name):
        if name in ("big_vision_dual", "optax"):
            raise importlib.metadata.PackageNotFoundError(name)
        return installed(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    found = workdir.versions()
    assert (found["big_vision_dual"], found["jax"]) == (big_vision_dual.__version__, jax.__version__)
    assert found["optax"] is None
