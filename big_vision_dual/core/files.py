"""Files: where those that ship with the package are, and how all others are written and read.

A file is written whole or not at all. What cannot be read is a `FileError` that names the file.
"""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import pathlib
import re
import stat
from collections.abc import Iterable, Iterator
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

_PACKAGE = pathlib.Path(__file__).parent.parent
FORMER_NAMES = {"vit_s16_i1k_seed": "vit_s16_i1k_first_attempt"}
"""Names of shipped files before 0.2 -> their names."""


class FileError(ValueError):
    """A file whose content is not what it should be."""


def shipped(name: str) -> pathlib.Path:
    """Folder `configs`, `norm_cache` or `tracks`: beside the package in a clone, inside it in a wheel."""
    inside = _PACKAGE / name
    return inside if inside.is_dir() else _PACKAGE.parent / name


def path_of(path: str | os.PathLike[str]) -> Any:
    """A pathlib.Path, or for a bucket (gs://...) an etils.epath.Path, which is imported only then."""
    name = os.fspath(path)
    if "://" not in name:
        return pathlib.Path(name)
    from etils import epath

    return epath.Path(name)


@contextlib.contextmanager
def naming(path: str | os.PathLike[str]) -> Iterator[None]:
    """Context in which an error of the operating system says of which file it is: reads and writes know a number."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None:
            error.filename = os.fspath(path)
        raise


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """A binary file to fill, which takes the place of the one at `path` when the block ends without an error.

    A crash or a full disk leaves the old one as it was. Local files are written beside their place, forced to disk and
    renamed, and so is the new name; an object in a bucket appears when it is complete. What is no regular file, such as
    /dev/stdout, is written to as it is.
    """
    target = path_of(path)
    if not isinstance(target, pathlib.Path) or _special(target):
        content = io.BytesIO()
        yield content
        target.write_bytes(content.getvalue())
        return
    target = target.resolve()  # through a link, to what it names
    beside = target.with_name(f"{target.name}.{os.getpid()}.tmp")
    try:
        with naming(path), beside.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        beside.replace(target)
        _force_folder(target.parent)
    except BaseException:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)
        raise


def write(path: str | os.PathLike[str], content: str | bytes) -> None:
    """Replaces a file by `content`, whole or not at all; text is UTF-8. See `replacing`."""
    with replacing(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def append(path: str | os.PathLike[str], line: str) -> None:
    """Adds a line to a local file and forces it to disk. A line before it that a crash has cut is ended first."""
    with naming(path), open(path, "ab+") as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            file.write(b"" if file.read(1) == b"\n" else b"\n")
        file.write(line.encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def force(path: str | os.PathLike[str]) -> None:
    """Forces a local file to disk; an object in a bucket is there once it is closed."""
    if isinstance(path_of(path), pathlib.Path):
        with naming(path), open(path, "rb") as file:
            os.fsync(file.fileno())


def drop_unfinished(folder: str | os.PathLike[str], names: Iterable[str]) -> None:
    """Deletes what `replacing` left in a local folder where it was killed before a file of one of `names` was whole."""
    place = path_of(folder)
    if isinstance(place, pathlib.Path):
        unfinished = re.compile(rf"({'|'.join(map(re.escape, names))})\.\d+\.tmp")
        for path in place.iterdir():
            if unfinished.fullmatch(path.name):
                path.unlink(missing_ok=True)


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """`write`, of JSON; objects that JSON does not know become their text."""
    write(path, json.dumps(value, indent=2, default=str) + "\n")


def read_bytes(path: str | os.PathLike[str]) -> bytes:
    """A file's content. Raises what the operating system says, with the file's name."""
    with naming(path):
        return path_of(path).read_bytes()


def read(path: str | os.PathLike[str]) -> str:
    """A text file. Raises FileError where it is not UTF-8, and what the operating system says."""
    try:
        return read_bytes(path).decode()
    except UnicodeDecodeError as error:
        raise FileError(f"{os.fspath(path)} is damaged, or no text: byte {error.start} is not UTF-8.") from error


def read_json(path: str | os.PathLike[str]) -> Any:
    """A JSON file. Raises FileError where it is none, and what the operating system says."""
    text = read(path)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise FileError(f"{os.fspath(path)} is damaged, or no JSON: {error or type(error).__name__}.") from error


def read_npz(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """{name: array} of a NumPy archive; nothing in it is executed. Raises FileError where it is none, or damaged."""
    import numpy as np  # here, because tables need the standard library only

    try:
        with naming(path), path_of(path).open("rb") as opened, np.load(opened, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except Exception as error:  # zipfile, zlib, ast and NumPy raise some ten kinds on damaged bytes
        if isinstance(error, OSError) and error.errno != errno.EINVAL:  # EINVAL: a damaged offset, sought
            raise
        said = str(error).partition("\n")[0] or type(error).__name__
        raise FileError(f"{os.fspath(path)} is no .npz archive, or a damaged one ({said}).") from error


def _force_folder(path: pathlib.Path) -> None:
    """Forces the names in a folder to disk, where its file system can."""
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _special(path: pathlib.Path) -> bool:
    try:
        return not stat.S_ISREG(path.stat().st_mode)
    except FileNotFoundError:
        return False
