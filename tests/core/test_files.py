"""Files are written whole or not at all, by every function that writes one."""

from __future__ import annotations

import ast
import errno
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from matplotlib.figure import Figure

import big_vision_dual
from big_vision_dual.core import files, tables
from big_vision_dual.lab.report import pictures
from big_vision_dual.models import mup, torch_weights, weights

PACKAGE = pathlib.Path(big_vision_dual.__file__).parent
MAMBA = {"norm_f": {"scale": np.ones(3, np.float32)}}
WRITERS = {
    "text": lambda path: files.write(path, "é"),
    "JSON": lambda path: files.write_json(path, {"a": 1}),
    "table": lambda path: tables.save(tables.load("mnist5k_vit"), path),
    "muP": lambda path: mup.save(mup.MupTable("mlp", {}, 16, "strict", 1e-8, ()), path),
    "parameters": lambda path: weights.save({"w": np.ones(3)}, path),
    "torch.npz": lambda path: torch_weights.save(MAMBA, path),
    "torch.safetensors": lambda path: torch_weights.save(MAMBA, path),
    "picture.png": lambda path: pictures.save(Figure(), path),
    "picture.svg": lambda path: pictures.save(Figure(), path),
}


def full(_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk_leaves_the_file_of_before_and_nothing_else(name, tmp_path, monkeypatch):
    path = tmp_path / name
    WRITERS[name](path)
    before = path.read_bytes()
    assert before
    path.write_bytes(b"before")
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            WRITERS[name](path)
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]
    WRITERS[name](path)
    assert path.read_bytes() != b"before"


def test_a_file_and_then_its_name_are_forced_to_disk(tmp_path, monkeypatch):
    forced, replace = [], pathlib.Path.replace
    monkeypatch.setattr(os, "fsync", lambda number: forced.append(os.readlink(f"/proc/self/fd/{number}")))
    monkeypatch.setattr(pathlib.Path, "replace", lambda old, new: forced.append("renamed") or replace(old, new))
    files.write(tmp_path / "file", "text")
    assert forced == [f"{tmp_path / 'file'}.{os.getpid()}.tmp", "renamed", str(tmp_path)]


def test_a_file_system_that_cannot_force_a_name_is_borne(tmp_path, monkeypatch):
    before = os.fsync

    def fsync(number):
        if os.path.isdir(f"/proc/self/fd/{number}"):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        before(number)

    monkeypatch.setattr(os, "fsync", fsync)
    files.write(tmp_path / "file", "text")
    assert (tmp_path / "file").read_text() == "text"


def test_a_block_that_fails_changes_nothing(tmp_path):
    path = tmp_path / "file"
    path.write_text("before")

    def half():
        with files.replacing(path) as file:
            file.write(b"half")
            raise RuntimeError("half")

    with pytest.raises(RuntimeError, match="half"):
        half()
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_stays_a_link_and_its_file_is_replaced(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "file")
    (tmp_path / "file").write_text("before")
    files.write(tmp_path / "link", "after")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "file").read_text() == "after"


def test_what_is_no_regular_file_is_written_to():
    code = "from big_vision_dual.core import files; files.write('/dev/stdout', 'text')"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "text"


def test_a_line_that_a_crash_cut_does_not_take_the_next_one_along(tmp_path):
    path = tmp_path / "lines"
    files.append(path, "one")
    files.append(path, "two")
    assert path.read_text() == "one\ntwo\n"
    path.write_text("one\ntw")
    files.append(path, "three")
    assert path.read_text() == "one\ntw\nthree\n"


def test_a_failing_disk_names_the_file(tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.write_text("before")
    reads = (files.read, files.read_json, files.read_npz)
    writes = (lambda path: files.write(path, "after"), lambda path: files.append(path, "after"))
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        for write in writes:
            with pytest.raises(OSError, match=f"No space left on device: '{path}'"):
                write(path)
    for read in reads:
        with pytest.raises(IsADirectoryError, match=str(tmp_path)):
            read(tmp_path)
    with pytest.raises(OSError, match=f"Input/output error: '{path}'"), files.naming(path):
        raise OSError(errno.EIO, os.strerror(errno.EIO))  # as read(2) says it, of a number and not of a name


def test_a_damaged_archive_is_told_from_a_failing_disk(tmp_path, monkeypatch):
    path = tmp_path / "a.npz"
    np.savez(path, a=np.arange(3))
    assert files.read_npz(path)["a"].tolist() == [0, 1, 2]
    for code, raised in ((errno.EINVAL, files.FileError), (errno.EIO, OSError)):  # EINVAL: a damaged offset, sought

        def load(*_, code=code, **__):
            raise OSError(code, os.strerror(code))

        with monkeypatch.context() as patched:
            patched.setattr(np, "load", load)
            with pytest.raises(raised, match=str(path)) as caught:
                files.read_npz(path)
        assert caught.type is raised
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(files.FileError, match=rf"{path} is no \.npz archive, or a damaged one"):
        files.read_npz(path)


def test_what_a_killed_writer_left_is_dropped_and_nothing_else(tmp_path):
    for name in ("config.json.17.tmp", "config.json", "config.json.tmp", "config+json.17.tmp", "other.json.17.tmp"):
        (tmp_path / name).touch()
    files.drop_unfinished(tmp_path, ["versions.json", "config.json"])
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"config.json", "config.json.tmp", "config+json.17.tmp", "other.json.17.tmp"}


def test_no_other_module_opens_a_file_to_write():
    """Rows of metrics, which are appended and cut back, are the one exception."""
    found = {str(path.relative_to(PACKAGE)) for path in PACKAGE.rglob("*.py") if any(writing(path))}
    assert found == {"core/files.py", "train/metrics.py"}


def writing(path: pathlib.Path):
    """Calls in a module that write a file: write_text, write_bytes, open in a mode to write, savez to a path."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            modes = [arg.value for arg in node.args if isinstance(arg, ast.Constant) and isinstance(arg.value, str)]
            if name in ("write_text", "write_bytes") or (name == "open" and any(set(m) & set("wax+") for m in modes)):
                yield node
