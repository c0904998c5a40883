"""Bodies that are read while they are sent, over real sockets: whole, again, in no more memory than a piece takes."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import urllib3

from loadtests import memory
from sessionpool import Response, RetryPolicy, SessionPool
from sessionpool.exceptions import NotSent, RequestException, UnrewindableBodyError
from tests.helpers import eventually, in_thread
from tests.with_server.echo_server import Answer, EchoServer, Seen, page, redirect
from tests.with_server.raw_server import close, discard, expect, playing, response, send

OK = response(b"hello")
AT_ONCE = RetryPolicy(backoff=0, budget=None)


@pytest.fixture
def server() -> Iterator[EchoServer]:
    with EchoServer() as server:
        yield server


@pytest.fixture
def pool() -> Iterator[SessionPool]:
    with SessionPool(retry=AT_ONCE, trust_env=False) as pool:
        yield pool


@pytest.fixture
def file(tmp_path: Path) -> Iterator[Any]:
    """An open file, of which a part was read before."""
    path = tmp_path / "file.bin"
    path.write_bytes(b"skipped" + bytes(range(256)) * 1000)
    with path.open("rb") as file:
        file.seek(7)
        yield file


CONTENT = bytes(range(256)) * 1000


def produce(*pieces: Any) -> Iterator[Any]:
    yield from pieces


# --- once more ---

TEXT = "äöü" * 50_000
AGAIN: dict[str, tuple[Callable[[Any], dict[str, Any]], bytes]] = {
    "file": (lambda file: {"data": file}, CONTENT),
    "text": (lambda _: {"data": io.StringIO(TEXT)}, TEXT.encode()),
    "multipart": (lambda file: {"data": {"a": "1"}, "files": {"f": file, "g": io.StringIO("ü")}}, CONTENT),
    "multipart of text": (lambda _: {"files": {"f": io.StringIO(TEXT)}}, TEXT.encode()),
    "multipart of bytes": (lambda _: {"files": {"f": b"bytes"}}, b"bytes"),
}


def challenge(seen: Seen) -> Answer:
    """Ask who it is (RFC 7616); who says so is let in, whatever the digest."""
    if seen.header("authorization"):
        return page("come in")
    return Answer(b"who?", 401, [("WWW-Authenticate", 'Digest realm="r", nonce="n", qop="auth", algorithm=MD5')])


def busy_once() -> Callable[[Seen], Answer]:
    answers = iter([Answer(b"not now", 503)])
    return lambda _: next(answers, page("at last"))


@pytest.mark.parametrize("kind", AGAIN)
@pytest.mark.parametrize("why", ["redirect", "retry", "challenge", "by hand"])
def test_a_body_is_the_same_each_time(why: str, kind: str, pool: SessionPool, server: EchoServer, file: Any) -> None:
    """Every byte of it, with a multipart body's boundary, from where each file stood."""
    make, content = AGAIN[kind]
    arguments: dict[str, Any] = make(file)
    if why == "redirect":
        server.answers["/"] = redirect("/there", 307)
    elif why == "retry":
        server.answers["/"] = busy_once()
    elif why == "challenge":
        server.answers["/"] = challenge
        theirs = pytest.importorskip("requests.auth", reason="requests, with its auth handlers, is not installed")
        arguments["auth"] = theirs.HTTPDigestAuth("user", "password")
    with pool.lease() as session:
        answer = session.put(server.url, **arguments)
        if why == "by hand":
            answer = session.send(answer.request)

    assert answer.ok
    first, second = [(seen.body, seen.all("content-type"), seen.all("content-length")) for seen in server.seen]
    assert content in first[0]
    assert first[2] == [str(len(first[0]))]
    assert second == first


@pytest.mark.parametrize("why", ["redirect", "challenge"])
@pytest.mark.parametrize("kind", ["generator", "multipart with a pipe"])
def test_a_body_that_can_be_read_once_is_not_sent_twice(
    why: str, kind: str, pool: SessionPool, server: EchoServer, file: Any
) -> None:
    """UnrewindableBodyError, and never what is left of it; requests sends that, as if it were the body."""
    reader, writer = os.pipe()
    os.write(writer, b"some")
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        bodies: dict[str, Any] = {
            "generator": {"data": produce(b"one", b"two")},
            "multipart with a pipe": {"files": {"f": file, "g": pipe}},
        }
        if why == "redirect":
            server.answers["/"] = redirect("/there", 308)
        else:
            server.answers["/"] = challenge
        with pytest.raises(UnrewindableBodyError):
            pool.put(server.url, hooks={"response": answering}, **bodies[kind])

    assert len(server.seen) == 1
    assert server.seen[0].chunked
    assert pool.stats().leased == 0


def answering(answer: Any, **kwargs: Any) -> Any:
    """Answer a challenge as auth handlers do: a copy of the request, by the same connection."""
    if answer.status_code != 401:
        return answer
    answer.content  # noqa: B018 - reads it
    answer.close()
    request = answer.request.copy()
    request.headers["Authorization"] = "me"
    return answer.connection.send(request, **kwargs)


def test_a_failure_is_not_retried_with_what_is_left_of_a_body(pool: SessionPool, server: EchoServer) -> None:
    """The 503 is the answer then; a file would have been sent again."""
    server.answers["/"] = Answer(b"not now", 503)

    assert pool.put(server.url, data=produce(b"one")).status_code == 503
    assert len(server.seen) == 1


def test_a_form_with_files_survives_a_stale_connection(file: Any) -> None:
    """PUT goes once more over a fresh connection, whole."""
    with playing(
        [expect(), send(OK), expect(head_only=True), close],
        [expect("PUT / "), send(OK)],
    ) as (pool, server):
        pool.get(server.url)
        answer = pool.put(server.url, files={"f": file})

        assert answer.content == b"hello"
        assert CONTENT in server.requests[-1].body


# --- pieces ---


def test_neither_an_empty_nor_a_text_piece_breaks_the_chunks(pool: SessionPool, server: EchoServer) -> None:
    """An empty chunk would end the body (RFC 9112 §7.1), and what follows would be the next request."""
    pool.put(server.url, data=produce("", "ä", b"", None, memoryview(b"b"), bytearray(b"c"), ""))
    pool.put(server.url)

    assert [(seen.body, seen.nth) for seen in server.seen] == [("äbc".encode(), 1), (b"", 2)]
    assert server.seen[0].chunked


@pytest.mark.parametrize("piece", [5, ("a", "b"), 1.5])
def test_a_piece_that_is_no_bytes_ends_the_request(piece: Any) -> None:
    """TypeError; the connection with half a body is closed, and the server knows that it is half."""
    with playing([expect(head_only=True), discard]) as (pool, server):
        with pytest.raises(TypeError, match=f"generator gave {type(piece).__name__}"):
            pool.put(server.url, data=produce(b"a", piece))

        eventually(lambda: server.open == 0)


def test_a_download_is_an_upload(pool: SessionPool, server: EchoServer) -> None:
    """A response's `raw`, or its pieces, are read as they are sent; the socket under it has no length to go by."""
    server.answers["/from"] = Answer(CONTENT)
    ways: list[Callable[[Response], Any]] = [lambda answer: answer.raw, lambda answer: answer.iter_content(1000)]
    for take in ways:
        with pool.get(server.url + "/from", stream=True) as source:
            pool.put(server.url + "/to", data=take(source))

    received = [seen for seen in server.seen if seen.path == "/to"]
    assert [(seen.body == CONTENT, seen.chunked) for seen in received] == [(True, True)] * 2
    assert pool.stats().leased == 0


def test_a_socket_is_sent_as_it_comes(pool: SessionPool, server: EchoServer) -> None:
    """urllib3's own response over a socket is a body too, whatever `fstat` says of the socket."""
    server.answers["/from"] = Answer(CONTENT)
    with urllib3.PoolManager() as manager:
        source = manager.request("GET", server.url + "/from", preload_content=False)
        pool.put(server.url + "/to", data=source)
        source.release_conn()

    assert (server.seen[-1].body, server.seen[-1].chunked) == (CONTENT, True)


def test_a_pipe_is_sent_as_it_comes(pool: SessionPool, server: EchoServer) -> None:
    """In chunks, to the end that its writer makes."""
    reader, writer = os.pipe()
    with os.fdopen(reader, "rb") as source:
        call = in_thread(pool.put, server.url, data=source)
        with os.fdopen(writer, "wb") as sink:
            sink.write(CONTENT)

        assert call.get().ok
    assert (server.seen[0].body, server.seen[0].chunked) == (CONTENT, True)


# --- files that change ---


class Changing(io.BytesIO):
    """A file that is cut or appended to by somebody else while it is read."""

    def __init__(self, content: bytes, change: bytes | int) -> None:
        super().__init__(content)
        self._change = change
        self._armed = True

    def read(self, size: int | None = -1) -> bytes:
        piece = super().read(size)
        if self._armed and piece:
            self._armed = False
            here = self.tell()
            if isinstance(self._change, int):
                self.truncate(self._change)
            else:
                self.seek(0, io.SEEK_END)
                self.write(self._change)
                self.seek(here)
        return piece


@pytest.mark.parametrize("change", [b"GET /smuggled HTTP/1.1\r\n\r\n", 100_000], ids=["grows", "shrinks"])
@pytest.mark.parametrize("kind", ["file", "multipart"])
def test_a_file_that_changes_while_it_is_sent_is_an_error(
    change: Any, kind: str, pool: SessionPool, server: EchoServer
) -> None:
    """Not a byte more than was promised goes out, and the connection is closed: no request is made of the rest."""
    file = Changing(CONTENT, change)
    with pytest.raises(RequestException, match=r"(has|had) .*\b\d{6}\b") as caught:
        pool.put(server.url, **({"data": file} if kind == "file" else {"files": {"f": file}}))

    assert not isinstance(caught.value, NotSent)
    assert (pool.stats().leased, pool.stats().idle) == (0, 0)
    pool.get(server.url + "/next")
    assert [seen.path for seen in server.seen] == ["/next"]


@pytest.mark.parametrize("kind", ["file", "multipart"])
def test_a_file_that_cannot_be_read_to_its_end(kind: str) -> None:
    """The system's error is the caller's; the half request is cut off."""

    class Broken(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            if self.tell() > 100_000:
                raise OSError("the disk is gone")
            return super().read(size)

    file = Broken(CONTENT)
    body: dict[str, Any] = {"data": file} if kind == "file" else {"files": {"f": file}}
    with playing([expect("PUT / ", head_only=True), discard]) as (pool, server):
        with pytest.raises(OSError, match="the disk is gone"):
            pool.put(server.url, **body)

        eventually(lambda: server.open == 0)


# --- requests-toolbelt ---


def test_toolbelt_sends_one_servers_file_to_another(pool: SessionPool, server: EchoServer) -> None:
    """Its FileFromURLWrapper takes our session, in its encoder and in `files`, and is read while it is sent."""
    encoder_module = pytest.importorskip(
        "requests_toolbelt.multipart.encoder", reason="requests-toolbelt is not installed"
    )
    server.answers["/from"] = Answer(CONTENT)
    with pool.lease() as session:
        wrapped = encoder_module.FileFromURLWrapper(server.url + "/from", session=session)
        encoder = encoder_module.MultipartEncoder({"f": ("n", wrapped, "a/b")})
        session.put(server.url + "/to", data=encoder, headers={"Content-Type": encoder.content_type})
        wrapped = encoder_module.FileFromURLWrapper(server.url + "/from", session=session)
        session.put(server.url + "/to", files={"f": ("n", wrapped, "a/b")})

    received = [seen for seen in server.seen if seen.path == "/to"]
    assert all(CONTENT in seen.body and not seen.chunked for seen in received)
    assert len(received[0].body) == len(received[1].body)


# --- memory ---


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="nothing tells the peak of a process's memory")
@pytest.mark.parametrize("case", memory.CASES)
def test_memory_stays_flat(case: str) -> None:
    """64 MiB up or down take a few: `python -m loadtests.memory` does it with 2 GiB."""
    if case == "encoder":
        pytest.importorskip("requests_toolbelt", reason="requests-toolbelt is not installed")
    with memory.Server() as server:
        measured = memory.measure_in_process(case, server.url, 64 * memory.MIB)

    assert measured.growth < memory.LIMIT


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="nothing tells the peak of a process's memory")
def test_the_load_test_says_what_it_saw(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A table on standard output, a page with the machine, and the exit status."""
    assert memory.main(["file", "raw", "--size", "4", "--out", str(tmp_path)]) == 0

    said = capsys.readouterr().out
    written = (tmp_path / "memory.md").read_text("utf-8")
    for title in (memory.CASES["file"][0], memory.CASES["raw"][0]):
        assert title in said
        assert f"| {title} | " in written
    assert "# 4 MiB up and down" in written
    assert str(tmp_path) not in written
