"""Downloads corpora from their publishers: resumed, checked by size and checksum, unpacked without leaving DIR."""

import hashlib
import re
import shutil
import stat
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import httpx

from perser.errors import UserError
from perser.terminal import progress as shown_progress

_POINTER = re.compile(rb"version https://git-lfs\S*\noid (sha256:[0-9a-f]{64})\nsize (\d+)\n")
_CREMAD, _COMMIT = "CheyneyComputerScience/CREMA-D", "1658cd342dff90010aa843eaeebd53610a08b1dc"
_FACTS = ("address", "size", "checksum")


class Source(NamedTuple):
    """A file of a publisher. Of an archive, `count` members are unpacked: those that end in the pattern `members`.

    Size 0 or checksum "": not stated. checked: which of address, size and checksum were confirmed for this table.
    """

    url: str
    file: str  # its path in DIR
    size: int = 0  # bytes
    checksum: str = ""  # algorithm:hexadecimal
    members: str = ""
    count: int = 0  # type: ignore[assignment]  # tuples have a method of this name, which nobody calls here
    checked: tuple[str, ...] = ()


class Release(NamedTuple):
    """A corpus as published. lfs: address of the files of which an archive holds only git-lfs pointers."""

    licence: str
    sources: tuple[Source, ...]
    lfs: str = ""


# No publisher could be reached when this table was written: sizes, checksums and counts are those that other public
# projects report after downloading. The size and checksum of study_5_data.csv were computed on a copy.
RELEASES = {
    "ravdess": Release("CC BY-NC-SA 4.0 (Livingstone and Russo 2018, doi:10.1371/journal.pone.0196391)", (
        Source("https://zenodo.org/records/1188976/files/Audio_Speech_Actors_01-24.zip", "ravdess.zip", 208_468_073,
               "md5:bc696df654c87fed845eb13823edef8a", r"Actor_\d\d/03-01-[-\d]+\.wav", 1440),)),
    "cremad": Release("ODbL 1.0 and DbCL 1.0 (Cao et al. 2014, doi:10.1109/TAFFC.2014.2336244)", (
        Source(f"https://raw.githubusercontent.com/{_CREMAD}/{_COMMIT}/finishedResponses.csv", "finishedResponses.csv"),
        Source(f"https://codeload.github.com/{_CREMAD}/zip/{_COMMIT}", "cremad.zip",
               members=r"AudioWAV/\w+\.wav", count=7442),
    ), f"https://media.githubusercontent.com/media/{_CREMAD}/{_COMMIT}"),
    "emodb": Release("speech: CC BY 4.0 by its record, CC0 1.0 by the archive itself (Burkhardt et al. 2005, "
                     "doi:10.5281/zenodo.7447302); ratings: BSD 3-Clause (Sievers et al., supramodal arousal)", (
        Source("https://raw.githubusercontent.com/beausievers/supramodal_arousal/"
               "1c3574799685ec61fd80800d532314e5918910c8/data/study_5/study_5_data.csv", "study_5_data.csv", 379_338,
               "sha256:ee826ca8bc71f121921208cd6cdc39c3d54add2fd41d063558cd0d8328b0d3c4",
               checked=("size", "checksum")),
        Source("https://zenodo.org/records/7447302/files/emodb.zip", "emodb.zip", 39_981_818,
               "md5:9d21362dbc5676ef3ab4745d83ced0db", r"wav/\d\d[abc]\d\d[WLEAFTN][a-z]\.wav", 535))),
}


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
