"""Downloads corpora from their publishers: resumed, checked by size and checksum, unpacked without leaving DIR."""

import hashlib
import re
import shutil
import stat
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

import httpx

from perser.corpora.base import Release, Source
from perser.errors import UserError
from perser.terminal import progress as shown_progress

_POINTER = re.compile(rb"version https://git-lfs\S*\noid (sha256:[0-9a-f]{64})\nsize (\d+)\n")
_FACTS = ("address", "size", "checksum")


def terms(name: str, release: Release) -> Iterator[str]:
    """Lines about a release: its licence, and the address of every file, its size and what was not checked."""
    yield f"{name}: {release.licence}"
    for source in release.sources:
        size = f"{source.size / 1e6:.1f} MB" if source.size else "size not stated"
        unchecked = ", ".join(fact for fact in _FACTS if fact not in source.checked)
        yield f"  {source.url} ({size})" + (f"; not checked against the publisher: {unchecked}" if unchecked else "")
    if release.lfs:
        yield f"  {release.lfs}/... (sizes and checksums from the archive above)"


def is_complete(release: Release, directory: Path) -> bool:
    """Whether everything is in the directory, unpacked, with no git-lfs pointer left."""
    return all(_is_present(source, directory) for source in release.sources) and not _pointers(release, directory)


def fetch(release: Release, directory: Path, progress: bool = False) -> None:
    """Download what is missing, check it and unpack it; files that exist are kept.

    UserError: the server's answer, a broken connection (the same call resumes), a wrong size or checksum, a full disk,
    an archive with members outside the directory, another file in the place of one that is not an archive.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with httpx.Client(follow_redirects=True, timeout=60, headers={"Accept-Encoding": "identity"}) as client:
        for source in release.sources:
            if _is_present(source, directory):
                continue
            if not source.members and (directory / source.file).exists():
                raise UserError(f"{directory / source.file}: is not the file at {source.url}; move it elsewhere")
            for part in _downloads(client, [source], directory, progress):
                if source.members:
                    _unpack(part, source, directory)
                else:
                    part.rename(directory / source.file)
        for part in _downloads(client, _pointers(release, directory), directory, progress):
            part.replace(part.with_suffix(""))


def _is_present(source: Source, directory: Path) -> bool:
    if not source.members:
        return (directory / source.file).is_file() and not _mismatch(directory / source.file, source)
    names = [path.relative_to(directory).as_posix() for path in directory.glob("*/*")]
    return sum(bool(re.fullmatch(source.members, name)) for name in names) >= source.count


def _pointers(release: Release, directory: Path) -> list[Source]:
    """The files of which only a git-lfs pointer is in the directory."""
    small = [path for path in sorted(directory.glob("*/*.wav")) if release.lfs and path.stat().st_size < 1024]
    matches = [(path.relative_to(directory), _POINTER.match(path.read_bytes())) for path in small]
    return [Source(f"{release.lfs}/{name.as_posix()}", str(name), int(match[2]), match[1].decode())
            for name, match in matches if match]


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _mismatch(path: Path, source: Source) -> str:
    """How a file differs from what its source states; "" if it does not."""
    if source.size and _size(path) != source.size:
        return f"{_size(path)} bytes, not {source.size}"
    algorithm, _, expected = source.checksum.partition(":")
    if not expected:
        return ""
    with path.open("rb") as file:
        actual = hashlib.file_digest(file, algorithm).hexdigest()
    return "" if actual == expected else f"{algorithm} {actual}, not {expected}"


def _downloads(client: httpx.Client, sources: list[Source], directory: Path, progress: bool) -> Iterator[Path]:
    """Every file, checked, as FILE.part. A broken connection is resumed as long as every attempt brings bytes."""
    parts = [directory / f"{source.file}.part" for source in sources]
    with shown_progress(directory.name, sum(source.size for source in sources) or None, "B", progress and bool(sources),
                        initial=sum(map(_size, parts)), scale=True) as step:
        for source, part in zip(sources, parts, strict=True):
            while not source.size or _size(part) < source.size:
                before = _size(part)
                try:
                    _append(client, source, part, step)
                    break
                except httpx.TransportError as error:
                    if _size(part) <= before:
                        reason = " ".join(str(error).split()) or type(error).__name__
                        raise UserError(f"{source.url}: no connection ({reason}); {before} bytes are kept and the same "
                                        "command resumes") from None
            if mismatch := _mismatch(part, source):
                part.unlink(missing_ok=True)
                raise UserError(f"{source.url}: the download has {mismatch}, and was deleted; run the command again; "
                                "if that fails too, compare the publisher's page")
            yield part


def _append(client: httpx.Client, source: Source, part: Path, step: Callable[[int], object]) -> None:
    """One request for what `part` lacks; servers without ranges send everything again."""
    start = _size(part)
    with client.stream("GET", source.url, headers={"Range": f"bytes={start}-"} if start else {}) as answer:
        if answer.status_code == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE:
            return  # nothing is left to send
        resumes = answer.headers.get("Content-Range", "").startswith(f"bytes {start}-")
        if answer.status_code != 200 and not (answer.status_code == 206 and resumes):
            raise UserError(f"{source.url}: the server answers {answer.status_code} {answer.reason_phrase}; "
                            f"try again later, or get {part.name.removesuffix('.part')} by hand")
        _check_space(part.parent, int(answer.headers.get("Content-Length", 0)) - (0 if resumes else start))
        step(0 if resumes else -start)
        with part.open("ab" if resumes else "wb") as file:
            for block in answer.iter_raw():
                file.write(block)
                step(len(block))


def _check_space(directory: Path, needed: int) -> None:
    free = shutil.disk_usage(directory).free
    if needed > free:
        raise UserError(f"{directory}: {needed / 1e6:.1f} MB are needed and {free / 1e6:.1f} MB are free; "
                        "make space or choose another folder")


def _unpack(archive: Path, source: Source, directory: Path) -> None:
    """Unpack the members that the source names and delete the archive. Nothing is written outside the directory."""
    try:
        with zipfile.ZipFile(archive) as opened:
            members = _members(opened, source, directory)
            _check_space(directory, sum(member.file_size for member in members.values()))
            for name, member in members.items():
                path, part = directory / name, directory / f"{name}.part"
                path.parent.mkdir(parents=True, exist_ok=True)
                if not path.exists():  # or it is a clip that has already replaced its git-lfs pointer
                    with opened.open(member) as packed, part.open("wb") as file:
                        shutil.copyfileobj(packed, file)
                    part.rename(path)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        archive.unlink()
        raise UserError(f"{source.url}: a broken archive ({error}), now deleted; run the command again") from None
    archive.unlink()


def _members(opened: zipfile.ZipFile, source: Source, directory: Path) -> dict[str, zipfile.ZipInfo]:
    """The members to unpack, by their path in the directory. UserError: one that would leave it, or too few."""
    members = {}
    for member in opened.infolist():
        path = PurePosixPath(member.filename)
        match = re.fullmatch(f"(?:.*/)?({source.members})", member.filename)
        place = (directory / match[1]).parent if match else directory
        if path.is_absolute() or ".." in path.parts or stat.S_ISLNK(member.external_attr >> 16) or not (
                place.resolve().is_relative_to(directory.resolve())):
            raise UserError(f"{source.url}: its member {member.filename!r} is a link or lies outside {directory}; "
                            "nothing was unpacked; do not use this archive")
        if match:
            members[match[1]] = member
    if len(members) < source.count:
        raise UserError(f"{source.url}: the archive holds {len(members)} of {source.count} clips; get it by hand")
    return members
