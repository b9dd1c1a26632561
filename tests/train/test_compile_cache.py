"""Compiled programs are kept where a restart finds them, and damaged ones are made anew."""

from __future__ import annotations

import errno
import os
import warnings

import jax
import jax.numpy as jnp
import pytest
from etils import epath

from big_vision_dual.train import compile_cache

SETTINGS = {"jax_compilation_cache_dir": None, "jax_persistent_cache_min_compile_time_secs": 0,
            "jax_persistent_cache_min_entry_size_bytes": -1}  # fmt: skip


@pytest.fixture
def fresh(monkeypatch):
    """JAX without a folder for its programs."""
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    before = {name: jax.config.values[name] for name in SETTINGS}
    for name, value in SETTINGS.items():
        jax.config.update(name, value)
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    compile_cache.compilation_cache.reset_cache()


def compute():
    jax.clear_caches()
    return float(jax.jit(lambda x: jnp.sin(x) + 2)(1.0))


@pytest.mark.usefixtures("fresh")
@pytest.mark.filterwarnings("default:Error reading persistent compilation cache")
def test_a_damaged_program_is_said_deleted_and_made_anew(tmp_path, caplog):
    for damage in (False, True, False):
        with compile_cache.enabled(str(tmp_path), epath.Path("/run")):
            entries = list(tmp_path.glob("*-cache"))
            for entry in entries if damage else ():
                entry.write_bytes(entry.read_bytes()[:-20])
            assert compute() == pytest.approx(2.8414709)
        assert jax.config.values["jax_compilation_cache_dir"] is None
    assert caplog.text.count("compiled anew, since it was damaged") == len(entries) > 0


@pytest.mark.usefixtures("fresh")
def test_a_folder_that_cannot_be_written_to_is_said_once(tmp_path, caplog, monkeypatch):
    def full(*_):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), "entry")

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        with compile_cache.enabled(str(tmp_path), epath.Path("/run")):
            monkeypatch.setattr("jax._src.compilation_cache.put_executable_and_time", full)
            for _ in range(2):
                assert compute() == pytest.approx(2.8414709)
    assert caplog.text.count(f"compiled programs cannot be kept in {tmp_path}, the next start compiles") == 1
    assert "Read-only file system" in caplog.text
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError, match=r"the place for compiled programs is no folder: .*file"):
        compile_cache.enabled(str(tmp_path / "file"), epath.Path("/run")).__enter__()


@pytest.mark.usefixtures("fresh")
def test_where_programs_are_kept(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def folder(choice, workdir):
        with compile_cache.enabled(choice, workdir):
            return jax.config.values["jax_compilation_cache_dir"]

    assert folder(None, epath.Path("/runs/a")).startswith(str(tmp_path / "big_vision_dual" / "compiled-"))
    assert folder(None, epath.Path("gs://bucket/runs/a")) == "gs://bucket/runs/compile_cache"
    assert folder("/here", epath.Path("/runs/a")) == "/here"
    assert folder("off", epath.Path("/runs/a")) is None
    assert folder(None, None) is None
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "given"))
    assert folder("/here", epath.Path("/runs/a")) == str(tmp_path / "given")
