"""perser fetch against a server on this machine: whole, broken and hostile downloads."""

import hashlib
import io
import shutil
import threading
import zipfile
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile

from perser import corpora
from perser.cli import main
from perser.corpora.base import Release, Source
from perser.corpora.fetch import fetch, is_complete, terms
from perser.errors import UserError


class Handler(BaseHTTPRequestHandler):
    """Serves `server.files`, with ranges; `server.cuts` are the bytes after which the next answers of a path break."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments):
        pass

    def do_GET(self):
        server, path = self.server, self.path
        given = self.headers.get("Range")
        server.asked.append((path, given))
        if path in server.redirects:
            self.answer(302, b"", {"Location": server.redirects[path]})
        elif path not in server.files:
            self.answer(404, b"nothing here")
        else:
            body = server.files[path]
            start = int(given.removeprefix("bytes=").removesuffix("-")) if given and server.ranges else 0
            if start and start >= len(body):
                self.answer(416, b"")
            else:
                headers = {"Content-Range": f"bytes {start}-{len(body) - 1}/{len(body)}"} if start else {}
                self.answer(206 if start else 200, body[start:], headers, server.cuts.get(path, []))

    def answer(self, status, body, headers=None, cuts=()):
        self.send_response(status)
        for name, value in {"Content-Length": len(body), **(headers or {})}.items():
            self.send_header(name, str(value))
        self.end_headers()
        cut = cuts.pop(0) if cuts else None
        self.wfile.write(body[:cut])
        self.close_connection = cut is not None


@pytest.fixture
def server(monkeypatch):
    for name in ("HTTP_PROXY", "ALL_PROXY", "http_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    served = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    served.daemon_threads = True
    served.files, served.redirects, served.cuts, served.asked, served.ranges = {}, {}, {}, [], True
    served.url = f"http://127.0.0.1:{served.server_address[1]}"
    thread = threading.Thread(target=served.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield served
    served.shutdown()
    thread.join()
    served.server_close()


def archive(**members) -> bytes:
    """A zip of path: content."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as opened:
        for name, content in members.items():
            opened.writestr(zipfile.ZipInfo(name), content)  # always of one date, so that its digest is one
    return buffer.getvalue()


def md5(content: bytes) -> str:
    return f"md5:{hashlib.md5(content).hexdigest()}"


WHOLE = {"wav/03a01Fa.wav": b"sound" * 4000, "wav/08a01Na.wav": b"noise" * 3000}
ZIP = archive(**{f"top/{name}": content for name, content in WHOLE.items()}, **{"top/notes.txt": b"no"})


def release(server, content: bytes = ZIP, path: str = "/emodb.zip", **changes) -> Release:
    """One archive of two clips."""
    server.files[path] = content
    source = Source(f"{server.url}{path}", "emodb.zip", len(content), md5(content), r"wav/\w+\.wav", 2)
    return Release("free", (source._replace(**changes),))


def contents(folder) -> dict:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_whole_download_is_unpacked_and_a_second_run_does_nothing(server, tmp_path):
    published = release(server)
    assert not is_complete(published, tmp_path / "new")
    fetch(published, tmp_path / "new")
    assert contents(tmp_path / "new") == WHOLE
    assert is_complete(published, tmp_path / "new") and server.asked == [("/emodb.zip", None)]
    fetch(published, tmp_path / "new")
    assert len(server.asked) == 1


def test_a_lost_clip_is_fetched_again_and_the_others_are_kept(server, tmp_path):
    fetch(release(server), tmp_path)
    (tmp_path / "wav" / "03a01Fa.wav").unlink()
    (tmp_path / "wav" / "08a01Na.wav").write_bytes(b"mine")
    fetch(release(server), tmp_path)
    assert contents(tmp_path) == WHOLE | {"wav/08a01Na.wav": b"mine"}


def test_a_broken_connection_resumes_with_ranges_while_bytes_come(server, tmp_path):
    published = release(server)
    server.cuts["/emodb.zip"] = [1000, 500]
    fetch(published, tmp_path)
    assert [given for _, given in server.asked] == [None, "bytes=1000-", "bytes=1500-"]
    assert contents(tmp_path) == WHOLE


def test_a_server_that_only_breaks_is_one_line_and_the_next_run_resumes(server, tmp_path):
    published = release(server)
    server.cuts["/emodb.zip"] = [1000, 0]
    with pytest.raises(UserError, match=r"no connection .*; 1000 bytes are kept and the same command resumes"):
        fetch(published, tmp_path)
    server.asked.clear()
    fetch(published, tmp_path)
    assert server.asked == [("/emodb.zip", "bytes=1000-")] and contents(tmp_path) == WHOLE


def test_a_server_without_ranges_sends_everything_again(server, tmp_path):
    published, server.ranges = release(server), False
    (tmp_path / "emodb.zip.part").write_bytes(ZIP[:1000])
    fetch(published, tmp_path)
    assert server.asked == [("/emodb.zip", "bytes=1000-")] and contents(tmp_path) == WHOLE


def test_a_complete_part_needs_no_request_and_one_of_unknown_size_a_416(server, tmp_path):
    (tmp_path / "emodb.zip.part").write_bytes(ZIP)
    fetch(release(server), tmp_path)
    assert not server.asked and contents(tmp_path) == WHOLE
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "emodb.zip.part").write_bytes(ZIP)
    fetch(release(server, size=0, checksum=""), tmp_path / "b")
    assert len(server.asked) == 1 and contents(tmp_path / "b") == WHOLE


@pytest.mark.parametrize(("changes", "message"), [
    ({"checksum": "md5:00"}, f"the download has md5 {hashlib.md5(ZIP).hexdigest()}, not 00, and was deleted"),
    ({"checksum": "sha256:00"}, "the download has sha256 "),
    ({"size": len(ZIP) + 1}, f"the download has {len(ZIP)} bytes, not {len(ZIP) + 1}, and was deleted"),
    ({"count": 3}, "the archive holds 2 of 3 clips"),
])
def test_what_differs_from_the_table_is_not_unpacked(server, tmp_path, changes, message):
    with pytest.raises(UserError, match=message) as caught:
        fetch(release(server, **changes), tmp_path)
    assert "\n" not in str(caught.value) and not (tmp_path / "wav").exists()
    assert not (tmp_path / "emodb.zip.part").exists() or "holds" in message


def test_redirects_are_followed_and_404_is_one_line(server, tmp_path):
    published = release(server, path="/moved.zip")
    server.redirects["/old"] = f"{server.url}/moved.zip"
    fetch(Release("free", (published.sources[0]._replace(url=f"{server.url}/old"),)), tmp_path)
    assert contents(tmp_path) == WHOLE
    with pytest.raises(UserError, match=r"/gone: the server answers 404 Not Found; .* get emodb.zip by hand"):
        fetch(Release("free", (published.sources[0]._replace(url=f"{server.url}/gone"),)), tmp_path / "b")
    assert not contents(tmp_path / "b")


def test_no_server_is_one_line(tmp_path):
    with pytest.raises(UserError, match="no connection"):
        fetch(Release("free", (Source("http://127.0.0.1:9/x", "x"),)), tmp_path)


def link(name: str) -> zipfile.ZipInfo:
    """A symbolic link; its content is the target."""
    member = zipfile.ZipInfo(name)
    member.external_attr = 0o120777 << 16
    return member


@pytest.mark.parametrize(("name", "content"), [
    ("../wav/03a01Fa.wav", b""), ("top/../../wav/03a01Fa.wav", b""), ("/tmp/wav/03a01Fa.wav", b""), ("../x", b""),
    ("wav/../../03a01Fa.wav", b""), (link("wav/03a01Fa.wav"), "/etc/passwd"), (link("wav"), ".."),
])
def test_a_hostile_archive_is_refused_whole(server, tmp_path, name, content):
    buffer = io.BytesIO(archive(**{"wav/08a01Na.wav": b"1", "wav/08a01Nb.wav": b"2"}))
    with zipfile.ZipFile(buffer, "a") as opened:
        opened.writestr(name, content)
    with pytest.raises(UserError, match=r"is a link or lies outside .*; nothing was unpacked"):
        fetch(release(server, buffer.getvalue()), tmp_path / "in")
    assert set(contents(tmp_path)) == {"in/emodb.zip.part"}


def test_a_link_in_the_folder_is_not_followed_out_of_it(server, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "in" / "wav").symlink_to(tmp_path / "out")
    with pytest.raises(UserError, match="is a link or lies outside"):
        fetch(release(server), tmp_path / "in")
    assert not contents(tmp_path / "out")


def test_a_broken_archive_is_deleted(server, tmp_path):
    for content in (b"not a zip", ZIP.replace(b"sound", b"soand", 1)):
        with pytest.raises(UserError, match="a broken archive"):
            fetch(release(server, content), tmp_path)
        assert not set(contents(tmp_path)) & {"emodb.zip.part", "wav/03a01Fa.wav"}


@pytest.mark.parametrize(("kept", "left"), [(-1, set()), (0, {"emodb.zip.part"})])
def test_a_full_disk_stops_before_the_download_or_before_unpacking(server, tmp_path, monkeypatch, kept, left):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as opened:  # larger when unpacked
        for name, content in WHOLE.items():
            opened.writestr(name, content)
    size = len(buffer.getvalue())
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=size + kept))
    with pytest.raises(UserError, match=r"MB are needed and 0\.0 MB are free"):
        fetch(release(server, buffer.getvalue()), tmp_path)
    assert set(contents(tmp_path)) == left


def test_git_lfs_pointers_are_replaced_by_checked_clips(server, tmp_path):
    sounds = {"AudioWAV/a.wav": b"x" * 2000, "AudioWAV/b.wav": b"y" * 3000}
    pointers = {f"top/{name}": "version https://git-lfs.github.com/spec/v1\n"
                               f"oid sha256:{hashlib.sha256(sound).hexdigest()}\nsize {len(sound)}\n"
                for name, sound in sounds.items()}
    published = release(server, archive(**pointers), members=r"AudioWAV/\w+\.wav", size=0, checksum="")
    published = published._replace(lfs=f"{server.url}/media")
    server.files["/media/AudioWAV/a.wav"], server.files["/media/AudioWAV/b.wav"] = sounds["AudioWAV/a.wav"], b"y" * 2999
    with pytest.raises(UserError, match=r"/media/AudioWAV/b.wav: the download has 2999 bytes, not 3000"):
        fetch(published, tmp_path)
    assert not is_complete(published, tmp_path)
    server.files["/media/AudioWAV/b.wav"] = sounds["AudioWAV/b.wav"]
    server.asked.clear()
    fetch(published, tmp_path)
    assert contents(tmp_path) == sounds and server.asked == [("/media/AudioWAV/b.wav", None)]
    assert is_complete(published, tmp_path)


def test_another_file_in_its_place_is_kept(server, tmp_path):
    server.files["/r.csv"] = b"a,b\n"
    (tmp_path / "r.csv").write_text("mine")
    published = Release("free", (Source(f"{server.url}/r.csv", "r.csv", 4, md5(b"a,b\n")),))
    with pytest.raises(UserError, match=r"r.csv: is not the file at .*; move it elsewhere"):
        fetch(published, tmp_path)
    assert (tmp_path / "r.csv").read_text() == "mine"


def test_the_table_says_what_was_not_checked():
    published = corpora.names("RELEASE")
    assert set(published) < set(corpora.names())
    lines = [line for name in published for line in terms(name, corpora.release(name))]
    assert Counter(line.startswith("  https://") for line in lines) == {True: 6, False: 3}
    assert "study_5_data.csv (0.4 MB); not checked against the publisher: address" in "\n".join(lines)
    assert "01-24.zip (208.5 MB); not checked against the publisher: address, size, checksum" in "\n".join(lines)


def emodb(server, monkeypatch) -> Release:
    """Ten short clips and the ratings of two listeners, published."""
    sounds, rows = {}, ["subID,stimFile,stimType,valenceRating,arousalRating"]
    for speaker in ("03", "08", "10", "09", "11", "13", "12", "14", "15", "16"):
        buffer = io.BytesIO()
        soundfile.write(buffer, 0.1 * np.sin(np.arange(8000) / int(speaker)), 16000, format="WAV")
        sounds[f"emodb/wav/{speaker}a01Fa.wav"] = buffer.getvalue()
        rows += [f"{listener},F/{speaker}a01Fa.wav,sounds,{30 + listener},70" for listener in (0, 2)]
    table, content = "\n".join([*rows, ""]).encode(), archive(**sounds)
    server.files["/r.csv"] = table
    archived = release(server, content).sources[0]._replace(count=10)
    published = Release("free", (Source(f"{server.url}/r.csv", "study_5_data.csv", len(table), md5(table)), archived))
    monkeypatch.setattr("perser.corpora.emodb.RELEASE", published)
    return published


def command(capsys, *words) -> tuple:
    with pytest.raises(SystemExit) as stop:
        main.main([str(word) for word in words])
    return stop.value.code, *capsys.readouterr()


def test_the_command_shows_the_licence_asks_and_leaves_what_the_loader_reads(server, tmp_path, monkeypatch, capsys):
    emodb(server, monkeypatch)
    monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))
    code, out, err = command(capsys, "fetch", "emodb", tmp_path / "emodb")
    assert code == 1 and "emodb: free" in out and "not checked" in out and err.count("\n") == 1 and "--yes" in err
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    assert command(capsys, "fetch", "emodb", tmp_path / "emodb")[0] == 1 and not server.asked
    code, out, err = command(capsys, "fetch", "emodb", tmp_path / "emodb", "--yes")
    assert code == 0 and not err and "complete" in out and len(server.asked) == 2
    code, out, _ = command(capsys, "fetch", "emodb", tmp_path / "emodb")
    assert code == 0 and "free" not in out and len(server.asked) == 2
    corpus = corpora.load("emodb", tmp_path / "emodb")
    assert len(corpus.clips) == 10 and corpus.ratings["listener"].unique().tolist() == ["L00", "L02"]


def test_a_failed_download_is_one_line_of_the_command(server, tmp_path, monkeypatch, capsys):
    emodb(server, monkeypatch)
    del server.files["/r.csv"]
    code, _, err = command(capsys, "fetch", "emodb", tmp_path, "--yes")
    assert code == 1 and "404" in err and err.count("\n") == 1
    assert command(capsys, "fetch", "iemocap", tmp_path)[0] == 2
