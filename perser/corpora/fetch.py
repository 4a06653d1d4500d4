"""Downloads corpora from their publishers. Downloads resume, are checked by size and checksum, and unpack inside DIR."""

import hashlib
import json
import re
import shutil
import stat
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import httpx
from tqdm import tqdm

from perser.errors import UserError

UNPACKED = "fetched.json"  # in DIR: what each archive left there, by address
_POINTER = re.compile(rb"version https://git-lfs\S*\noid (sha256:[0-9a-f]{64})\nsize (\d+)\n")
_CREMAD = "CheyneyComputerScience/CREMA-D/{}1658cd342dff90010aa843eaeebd53610a08b1dc"
_FACTS = ("address", "size", "checksum")


class Source(NamedTuple):
    """A file of a publisher. Size 0 or checksum "" (algorithm:hexadecimal): the publisher states none."""

    url: str
    file: str  # path in DIR
    size: int = 0  # bytes
    checksum: str = ""
    unpack: str = ""  # pattern of the members to unpack, whose group is the path in DIR; "": not an archive
    checked: tuple[str, ...] = ()  # which of _FACTS were confirmed when the table was written, not just reported


class Release(NamedTuple):
    """A corpus as published. lfs: address below which the files behind git-lfs pointers in DIR lie."""

    licence: str
    sources: tuple[Source, ...]
    lfs: str = ""


# No publisher could be reached when this table was written. Sizes and checksums are those that other public projects
# report after downloading; those of study_5_data.csv were computed on a copy.
RELEASES = {
    "ravdess": Release("CC BY-NC-SA 4.0 (not for trade; Livingstone and Russo 2018, doi:10.1371/journal.pone.0196391)", (
        Source("https://zenodo.org/records/1188976/files/Audio_Speech_Actors_01-24.zip", "Audio_Speech_Actors_01-24.zip",
               208_468_073, "md5:bc696df654c87fed845eb13823edef8a", r"(?:.*/)?(Actor_\d\d/03-01-[-\d]+\.wav)"),)),
    "cremad": Release("ODbL 1.0 and DbCL 1.0 (Cao et al. 2014, doi:10.1109/TAFFC.2014.2336244)", (
        Source(f"https://codeload.github.com/{_CREMAD.format('zip/')}", "CREMA-D.zip",
               unpack=r"[^/]+/(finishedResponses\.csv|AudioWAV/\w+\.wav)"),),
        f"https://media.githubusercontent.com/media/{_CREMAD.format('')}"),
    "emodb": Release("speech: CC BY 4.0 by its record, CC0 1.0 by the archive itself (Burkhardt et al. 2005, "
                     "doi:10.5281/zenodo.7447302); ratings: BSD 3-Clause (Sievers et al., supramodal arousal)", (
        Source("https://raw.githubusercontent.com/beausievers/supramodal_arousal/"
               "1c3574799685ec61fd80800d532314e5918910c8/data/study_5/study_5_data.csv", "study_5_data.csv", 379_338,
               "sha256:ee826ca8bc71f121921208cd6cdc39c3d54add2fd41d063558cd0d8328b0d3c4", "", ("size", "checksum")),
        Source("https://zenodo.org/records/7447302/files/emodb.zip", "emodb.zip", 39_981_818,
               "md5:9d21362dbc5676ef3ab4745d83ced0db", r"(?:.*/)?(wav/\d\d[abc]\d\d[WLEAFTN][a-z]\.wav)"))),
}


def describe(name: str, release: Release) -> Iterator[str]:
    """Lines about a release: its licence, and for each file where it is, its size and what was not checked."""
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
    """Download what is missing, check it and unpack it; what is there stays as it is.

    UserError: the publisher's answer, a broken connection (the same call resumes), a wrong size or checksum, a full
    disk, an archive whose members would leave the directory, a different file in the place of one.
    """
    directory = directory.expanduser().absolute()
    directory.mkdir(parents=True, exist_ok=True)
    with httpx.Client(follow_redirects=True, timeout=60, headers={"Accept-Encoding": "identity"}) as client:
        for source in release.sources:
            if _is_present(source, directory):
                continue
            if not source.unpack and (directory / source.file).exists():
                raise UserError(f"{directory / source.file}: differs from {source.url}; move it away or use another folder")
            part = _part(source, directory)
            with _bar([source], directory, source.file, progress) as bar:
                _download(client, source, part, bar)
            if source.unpack:
                _unpack(part, source, directory)
            else:
                part.replace(directory / source.file)
        pointers = _pointers(release, directory)
        with _bar(pointers, directory, "clips", progress) as bar:
            for source in pointers:
                _download(client, source, _part(source, directory), bar)
                _part(source, directory).replace(directory / source.file)


def _bar(sources: list[Source], directory: Path, label: str, progress: bool) -> tqdm:
    here = sum(_size(_part(source, directory)) for source in sources)
    return tqdm(total=sum(source.size for source in sources) or None, initial=here, desc=label, unit="B",
                unit_scale=True, disable=not (progress and sources))


def _part(source: Source, directory: Path) -> Path:
    """Where an unfinished download lies, until it is checked."""
    return directory / f"{source.file}.part"


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _is_present(source: Source, directory: Path) -> bool:
    if not source.unpack:
        return (directory / source.file).is_file() and not _mismatch(directory / source.file, source)
    members = _unpacked(directory).get(source.url)
    return bool(members) and all((directory / name).is_file() for name in members)


def _unpacked(directory: Path) -> dict[str, list[str]]:
    try:
        return json.loads((directory / UNPACKED).read_text())
    except (OSError, ValueError):
        return {}


def _pointers(release: Release, directory: Path) -> list[Source]:
    """The files of which only a git-lfs pointer is in the directory."""
    names = [name for source in release.sources for name in _unpacked(directory).get(source.url, []) if release.lfs]
    small = [name for name in names if _size(directory / name) < 1024]
    matches = [(name, _POINTER.match((directory / name).read_bytes())) for name in small if _size(directory / name)]
    return [Source(f"{release.lfs}/{name}", name, int(match[2]), match[1].decode()) for name, match in matches if match]


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


def _download(client: httpx.Client, source: Source, part: Path, bar: tqdm) -> None:
    """Fill `part` and check it. A broken connection is resumed as long as every attempt brings bytes."""
    while not source.size or _size(part) < source.size:
        before = _size(part)
        try:
            _append(client, source, part, bar)
            break
        except httpx.TransportError as error:
            if _size(part) <= before:
                reason = " ".join(str(error).split()) or type(error).__name__
                raise UserError(f"{source.url}: no connection after {before} bytes ({reason}); "
                                "the same command resumes") from None
    if mismatch := _mismatch(part, source):
        part.unlink()
        raise UserError(f"{source.url}: the download has {mismatch}, and was deleted; run the command again, and if "
                        f"this repeats, compare with the publisher's page")


def _append(client: httpx.Client, source: Source, part: Path, bar: tqdm) -> None:
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
        bar.update(0 if resumes else -start)
        with part.open("ab" if resumes else "wb") as file:
            for block in answer.iter_raw():
                file.write(block)
                bar.update(len(block))


def _check_space(directory: Path, needed: int) -> None:
    free = shutil.disk_usage(directory).free
    if needed > free:
        raise UserError(f"{directory}: {needed / 1e6:.1f} MB are needed and {free / 1e6:.1f} MB are free; "
                        "make space or choose another folder")


def _unpack(archive: Path, source: Source, directory: Path) -> None:
    """Unpack the members that the source names, note them in DIR and delete the archive."""
    try:
        with zipfile.ZipFile(archive) as opened:
            members = _members(opened, source, directory)
            _check_space(directory, sum(member.file_size for member in members.values()))
            for name, member in members.items():
                part = directory / f"{name}.part"
                part.parent.mkdir(parents=True, exist_ok=True)
                with opened.open(member) as packed, part.open("wb") as file:
                    shutil.copyfileobj(packed, file)
                part.replace(directory / name)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        archive.unlink()
        raise UserError(f"{source.url}: the archive cannot be read ({error}) and was deleted; run the command again") from None
    (directory / UNPACKED).write_text(json.dumps(_unpacked(directory) | {source.url: sorted(members)}, indent=0))
    archive.unlink()


def _members(opened: zipfile.ZipFile, source: Source, directory: Path) -> dict[str, zipfile.ZipInfo]:
    """The members to unpack, by their path in DIR. UserError: one that would leave DIR, or none at all."""
    members = {}
    for member in opened.infolist():
        path = PurePosixPath(member.filename)
        match = re.fullmatch(source.unpack, member.filename, re.ASCII)
        leaves = path.is_absolute() or ".." in path.parts
        if match:
            leaves |= stat.S_ISLNK(member.external_attr >> 16)
            leaves |= not (directory / match[1]).parent.resolve().is_relative_to(directory.resolve())
            members[match[1]] = member
        if leaves:
            raise UserError(f"{source.url}: member {member.filename!r} would be written outside {directory}; nothing "
                            "was unpacked; do not use this archive")
    if not members:
        raise UserError(f"{source.url}: the archive holds none of the corpus's files; get them by hand")
    return members
