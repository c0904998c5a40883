"""TLS over real sockets: whom it trusts, how it ends, and that no socket serves two kinds of trust."""

from __future__ import annotations

import hashlib
import ssl
import threading
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import attrs
import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from sessionpool import Limits, Observer, SessionPool, Timeout
from sessionpool.exceptions import (
    ConnectionBroken,
    ConnectionError,
    ConnectTimeout,
    IncompleteRead,
    MaySent,
    NotSent,
    ReadTimeout,
    RequestException,
    SSLError,
)
from tests.helpers import eventually, in_thread
from tests.with_server.raw_server import (
    RawServer,
    Script,
    Step,
    arrived,
    audit,
    await_bytes,
    chunked,
    close,
    close_notify,
    discard,
    expect,
    half_close,
    head,
    playing,
    reset,
    response,
    send,
    send_bytewise,
    serving,
    stale_connections,
    tell,
    trickle,
    wait_for,
)

OK = response(b"hello")
NEXT = response(b"the next")
EXCHANGE: list[Step] = [expect(), send(OK)]


@attrs.frozen
class Trust:
    """An authority, what it vouches for, and where its certificates lie.

    Attributes:
        server: A context for a server at 127.0.0.1 and localhost.
        stranger: One for a server of another name.
        demanding: Like `server`, but asks for the client's certificate.
        file: The authority's certificate.
        directory: The same, under its hash.
        client: A client's certificate and key, in one file.
        pair: The same, in two.
    """

    server: ssl.SSLContext
    stranger: ssl.SSLContext
    demanding: ssl.SSLContext
    file: str
    directory: str
    client: str
    pair: tuple[str, str]


def server_context(leaf: trustme.LeafCert) -> ssl.SSLContext:
    """A server's context with this certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    leaf.configure_cert(context)
    return context


@pytest.fixture(scope="module")
def trust(tmp_path_factory: pytest.TempPathFactory) -> Trust:
    """Made once: keys take time."""
    folder = tmp_path_factory.mktemp("trust")
    authority = trustme.CA()
    leaf = authority.issue_cert("127.0.0.1", "localhost")
    client = authority.issue_cert("ada@example.com")
    demanding = server_context(leaf)
    demanding.verify_mode = ssl.CERT_REQUIRED
    authority.configure_trust(demanding)
    file = folder / "authority.pem"
    file.write_bytes(authority.cert_pem.bytes())
    (folder / "hashed").mkdir()
    (folder / "hashed" / f"{subject_hash(file)}.0").write_bytes(file.read_bytes())
    client.private_key_and_cert_chain_pem.write_to_path(str(folder / "client.pem"))
    client.private_key_pem.write_to_path(str(folder / "client.key"))
    client.cert_chain_pems[0].write_to_path(str(folder / "client.crt"))
    return Trust(
        server=server_context(leaf),
        stranger=server_context(authority.issue_cert("other.example")),
        demanding=demanding,
        file=str(file),
        directory=str(folder / "hashed"),
        client=str(folder / "client.pem"),
        pair=(str(folder / "client.crt"), str(folder / "client.key")),
    )


def subject_hash(certificate: Path) -> str:
    """The name by which OpenSSL finds it in a directory: of the subject in canonical form, each part a UTF8String."""
    canonical = b""
    for part in x509.load_pem_x509_certificate(certificate.read_bytes()).subject:
        name = x509.Name([part]).public_bytes()
        oid = name[6 : 8 + name[7]]  # SEQUENCE { SET { SEQUENCE { OID
        text = " ".join(str(part.value).lower().split()).encode()
        pair = oid + bytes([0x0C, len(text)]) + text
        pair = bytes([0x30, len(pair)]) + pair
        canonical += bytes([0x31, len(pair)]) + pair
    digest = hashlib.sha1(canonical, usedforsecurity=False).digest()
    return f"{int.from_bytes(digest[:4], 'little'):08x}"


@pytest.fixture(autouse=True)
def trusting_nobody_by_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)


# --- whom it trusts ---


def trusting_context(trust: Trust) -> ssl.SSLContext:
    """A user's own."""
    context = ssl.create_default_context(cafile=trust.file)
    context.options &= ~ssl.OP_IGNORE_UNEXPECTED_EOF  # early Pythons 3.11 set it, and would hide an end that is none
    return context


@pytest.mark.parametrize("kind", ["file", "Path", "directory", "context", "False"])
def test_a_trusted_server_is_asked(trust: Trust, kind: str) -> None:
    """By a file, a directory, a context of the user's own, or by not looking."""
    verify: Any = {
        "file": trust.file,
        "Path": Path(trust.file),
        "directory": trust.directory,
        "context": trusting_context(trust),
        "False": False,
    }[kind]
    with playing(EXCHANGE * 2, tls=trust.server) as (pool, server):
        answers = [pool.get(server.url, verify=verify).content for _ in range(2)]

        assert answers == [b"hello", b"hello"]
        assert pool.stats().opened == 1


def test_what_the_pool_trusts_its_sessions_trust(trust: Trust) -> None:
    """`verify` and `cert` of the pool are every session's default."""
    with playing(EXCHANGE, tls=trust.demanding, verify=trust.file, cert=trust.pair) as (pool, server):
        with pool.lease() as session:
            answer = session.get(server.url)

        assert answer.content == b"hello"


def test_the_environment_names_a_bundle(trust: Trust, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in requests: `REQUESTS_CA_BUNDLE`, unless `verify` says otherwise or the environment is not trusted."""
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", trust.file)
    monkeypatch.setenv("NO_PROXY", "*")
    with playing(EXCHANGE, tls=trust.server, trust_env=True) as (pool, server):
        assert pool.get(server.url).content == b"hello"
    with playing([], tls=trust.server, trust_env=False) as (pool, server), pytest.raises(SSLError):
        pool.get(server.url)


@pytest.mark.parametrize("name", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR"])
@pytest.mark.parametrize("kind", ["file", "directory"])
def test_the_environment_names_whom_to_trust(
    name: str, kind: str, trust: Trust, monkeypatch: pytest.MonkeyPatch
) -> None:
    """requests' and curl's variables may name a file or a directory; OpenSSL has one for each."""
    if (name, kind) in (("SSL_CERT_FILE", "directory"), ("SSL_CERT_DIR", "file")):
        name = "REQUESTS_CA_BUNDLE"
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setenv(name, trust.file if kind == "file" else trust.directory)
    with playing(EXCHANGE, tls=trust.server, trust_env=True) as (pool, server):
        assert pool.get(server.url).content == b"hello"


def test_whose_bundle_goes_first(trust: Trust, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """requests' before curl's, `verify` before both; what stands behind is not even looked at."""
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setenv("CURL_CA_BUNDLE", str(tmp_path / "missing"))
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", trust.file)
    with playing(EXCHANGE, tls=trust.server, trust_env=True) as (pool, server):
        assert pool.get(server.url).content == b"hello"
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "missing"))
    with playing(EXCHANGE, EXCHANGE, tls=trust.server, trust_env=True) as (pool, server):
        assert pool.get(server.url, verify=trust.file).content == b"hello"
        assert pool.get(server.url, verify=False).content == b"hello"
        with pytest.raises(SSLError, match="missing"):
            pool.get(server.url)


def test_not_to_look_is_not_warned_about(trust: Trust) -> None:
    """Who says `verify=False` has decided; requests, by urllib3, warns at every request."""
    with warnings.catch_warnings(record=True) as warned, playing(EXCHANGE, tls=trust.stranger) as (pool, server):
        warnings.simplefilter("always")
        assert pool.get(server.url, verify=False).content == b"hello"

    assert warned == []


def test_the_server_is_told_the_name_that_is_meant(trust: Trust) -> None:
    """SNI (RFC 6066 §3) has a name, and never an address."""
    names: list[str | None] = []
    context = trust.server
    context.sni_callback = lambda sock, name, _: names.append(name)
    try:
        with playing(EXCHANGE, EXCHANGE, tls=context, verify=trust.file) as (pool, server):
            for host in ("localhost", "127.0.0.1"):
                assert pool.get(f"https://{host}:{server.port}/").content == b"hello"
    finally:
        context.sni_callback = None

    assert names == ["localhost", None]


def refused(server: RawServer, **kwargs: Any) -> SSLError:
    """The error that comes of asking; the pool has been audited and the server got no request."""
    with SessionPool(retry=None, trust_env=False) as pool:
        with pytest.raises(SSLError) as caught:
            pool.post(server.url, data=b"secret", **kwargs)
        audit(pool, server)
        assert pool.stats().opened == 0
    assert not server.requests
    error = caught.value
    assert server.origin in str(error)
    assert isinstance(error, NotSent)
    assert not isinstance(error, MaySent)
    return error


def test_an_unknown_authority_is_refused_with_the_reason(trust: Trust) -> None:
    """The system's trust store is the default, and it has never heard of this one."""
    with serving([], tls=trust.server) as server:
        error = refused(server)

    assert "unable to get local issuer certificate" in str(error)
    assert "_ssl.c" not in str(error)


def test_a_name_that_does_not_match_is_refused_with_the_reason(trust: Trust) -> None:
    """The certificate is good, and another's."""
    with serving([], tls=trust.stranger) as server:
        error = refused(server, verify=trust.file)

    assert "127.0.0.1" in str(error)
    assert "not valid for" in str(error)


def test_a_certificate_that_vouches_for_itself_is_refused_with_the_reason(trust: Trust, tmp_path: Path) -> None:
    """Unless it is trusted by name, or nobody looks."""
    authority = trustme.CA()
    authority.private_key_pem.write_to_path(str(tmp_path / "key"))
    authority.cert_pem.write_to_path(str(tmp_path / "crt"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "crt", tmp_path / "key")
    with serving([], tls=context) as server:
        error = refused(server)
    with playing(EXCHANGE, tls=context) as (pool, server):
        assert pool.get(server.url, verify=False).content == b"hello"

    assert "self-signed certificate" in str(error) or "self signed certificate" in str(error)


def test_an_expired_certificate_is_refused_with_the_reason(trust: Trust, tmp_path: Path) -> None:
    """A right name and a right authority do not help."""
    import datetime as dt

    authority = trustme.CA()
    leaf = authority.issue_cert("127.0.0.1", not_after=dt.datetime.now(dt.UTC) - dt.timedelta(days=1))
    authority.cert_pem.write_to_path(str(tmp_path / "authority"))
    with serving([], tls=server_context(leaf)) as server:
        error = refused(server, verify=str(tmp_path / "authority"))

    assert "expired" in str(error)


@pytest.mark.parametrize("names", [("localhost",), ("127.0.0.2",), ("*.0.0.1",)], ids=" ".join)
def test_an_address_has_to_be_in_the_certificate_itself(names: tuple[str], tmp_path: Path) -> None:
    """RFC 9110 §4.3.5: neither a name that leads there vouches for it, nor another address, nor a wildcard."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "authority"))
    with serving([], tls=server_context(authority.issue_cert(*names))) as server:
        error = refused(server, verify=str(tmp_path / "authority"))

    assert "not valid for '127.0.0.1'" in str(error)


def test_versions_that_do_not_meet_are_refused_with_the_reason(trust: Trust) -> None:
    """The server's oldest is newer than our newest."""
    old, new = trusting_context(trust), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(new)
    new.minimum_version = ssl.TLSVersion.TLSv1_3
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    with serving([], tls=new) as server:
        error = refused(server, verify=old)

    assert "protocol version" in str(error)
    assert "_ssl.c" not in str(error)


def test_what_is_not_tls_is_said_to_be(trust: Trust) -> None:
    """https to a plain port."""
    answers: Script = [await_bytes, send(b"HTTP/1.1 400 Bad Request\r\n\r\n"), discard]
    with serving(answers) as server, SessionPool(retry=None, trust_env=False) as pool:
        with pytest.raises(SSLError) as caught:
            pool.get(server.url.replace("http", "https"), verify=trust.file)
        audit(pool, server)

        assert f"https://127.0.0.1:{server.port}" in str(caught.value)
        assert isinstance(caught.value, NotSent)


def test_plain_http_to_a_tls_port_is_an_error(trust: Trust) -> None:
    """Whether the server says something or just hangs up."""
    with playing([], tls=trust.server) as (pool, server):
        with pytest.raises(ConnectionError) as caught:
            pool.get(server.url.replace("https", "http"))

        assert f"http://127.0.0.1:{server.port}" in str(caught.value)
        assert isinstance(caught.value, MaySent)


@pytest.mark.parametrize("end", [close, reset])
@pytest.mark.parametrize("after", [0, 1])
def test_a_server_that_hangs_up_in_the_handshake_is_an_error(trust: Trust, end: Step, after: int) -> None:
    """Nothing was sent."""
    script: Script = [await_bytes, *([send(b"\x16\x03\x03\x00\x50")] * after), arrived, end]
    with serving(script) as server, SessionPool(retry=None, trust_env=False) as pool:
        with pytest.raises(ConnectionError) as caught:
            pool.post(server.url.replace("http", "https"), verify=trust.file)
        audit(pool, server)

        assert isinstance(caught.value, NotSent)
        assert f"https://127.0.0.1:{server.port}" in str(caught.value)


def test_a_handshake_that_stalls_is_given_up(trust: Trust) -> None:
    """`Timeout.connect` covers TLS as well, also when the server began well."""
    with serving([await_bytes, send(b"\x16"), discard]) as server, SessionPool(retry=None, trust_env=False) as pool:
        with pytest.raises(ConnectTimeout, match=r"Timeout\.connect=0\.2 s") as caught:
            pool.post(server.url.replace("http", "https"), verify=trust.file, timeout=Timeout(connect=0.2))
        audit(pool, server)

        assert isinstance(caught.value, NotSent)
        eventually(lambda: server.open == 0)


@pytest.mark.parametrize("kind", ["missing file", "no certificate", "missing cert", "wrong cert", "wrong pair"])
def test_trust_that_cannot_be_read_is_said_to_be(trust: Trust, kind: str, tmp_path: Path) -> None:
    """The error names the setting and its value; nobody was asked."""
    empty = tmp_path / "empty.pem"
    empty.write_text("nothing")
    cases: dict[str, dict[str, Any]] = {
        "missing file": {"verify": str(tmp_path / "missing.pem")},
        "no certificate": {"verify": str(empty)},
        "missing cert": {"verify": trust.file, "cert": str(tmp_path / "missing.pem")},
        "wrong cert": {"verify": trust.file, "cert": str(empty)},
        "wrong pair": {"verify": trust.file, "cert": (trust.pair[0], str(empty))},
    }
    settings = cases[kind]
    with playing(tls=trust.server) as (pool, server):
        with pytest.raises(RequestException) as caught:
            pool.get(server.url, **settings)

        assert ("cert=" if "cert" in settings else "verify=") in str(caught.value)
        assert ".pem" in str(caught.value)
        assert isinstance(caught.value, NotSent)


@pytest.fixture(scope="module")
def encrypted(trust: Trust, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The client's key, under a password."""
    key = serialization.load_pem_private_key(Path(trust.pair[1]).read_bytes(), None)
    path = tmp_path_factory.mktemp("keys") / "encrypted.key"
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.TraditionalOpenSSL,
            serialization.BestAvailableEncryption(b"0pen sesame"),
        )
    )
    return str(path)


def unreadable(trust: Trust, encrypted: str, folder: Path) -> dict[str, tuple[dict[str, Any], str]]:
    """Settings that cannot be used, and what has to be said about them."""
    missing, other = str(folder / "missing.pem"), folder / "other.key"
    trustme.CA().private_key_pem.write_to_path(str(other))
    return {
        "no such authority": ({"verify": missing}, "No such file"),
        "no such file": ({"cert": missing}, f"{missing}: No such file"),
        "no such certificate": ({"cert": (missing, trust.pair[1])}, f"{missing}: No such file"),
        "no such key": ({"cert": (trust.pair[0], missing)}, f"{missing}: No such file"),
        "no key": ({"cert": trust.pair[0]}, "PEM"),
        "another's key": ({"cert": (trust.pair[0], str(other))}, "key values mismatch"),
        "a key under a password": ({"cert": (trust.pair[0], encrypted)}, "the key is encrypted"),
    }


UNREADABLE = [
    *("no such authority", "no such file", "no such certificate", "no such key", "no key", "another's key"),
    "a key under a password",
]


@pytest.mark.parametrize("name", UNREADABLE)
def test_what_cannot_be_read_is_said_with_host_and_reason(
    name: str, trust: Trust, encrypted: str, tmp_path: Path
) -> None:
    """Nobody is asked, neither the server nor, for a password, whoever sits at the terminal; nothing secret is said."""
    settings, reason = unreadable(trust, encrypted, tmp_path)[name]
    with serving([], tls=trust.server) as server:
        error = refused(server, **{"verify": trust.file, **settings})

        assert server.peers == []
    assert reason in str(error)
    assert "_ssl.c" not in str(error)
    assert "PRIVATE" not in str(error)
    assert "0pen sesame" not in str(error)


@pytest.mark.parametrize("name", ["no such authority", "no such file", "no such certificate", "no such key"])
def test_what_is_not_there_is_an_oserror_as_in_requests(
    name: str, trust: Trust, encrypted: str, tmp_path: Path
) -> None:
    """`except OSError` catches both; ours is a RequestException as well."""
    requests = pytest.importorskip("requests", reason="requests, with which we are compared, is not installed")
    settings, _ = unreadable(trust, encrypted, tmp_path)[name]
    with requests.Session() as theirs, SessionPool(retry=None, trust_env=False) as ours:
        theirs.trust_env = False
        for session in (theirs, ours):
            with pytest.raises(OSError, match=r"missing\.pem"):
                session.get("https://127.0.0.1:1/", **{"verify": trust.file, **settings})


# --- the client's certificate ---


@pytest.mark.parametrize("form", ["file", "Path", "pair", "pair of Paths", "list", "context", "encrypted"])
def test_a_client_shows_its_certificate(trust: Trust, encrypted: str, form: str) -> None:
    """In one file or two, or from a context of the user's own; and the server sees whose it is."""
    settings: dict[str, Any] = {"verify": trust.file, "cert": trust.client}
    if form == "Path":
        settings["cert"] = Path(trust.client)
    elif form == "pair":
        settings["cert"] = trust.pair
    elif form == "pair of Paths":
        settings["cert"] = tuple(map(Path, trust.pair))
    elif form == "list":
        settings["cert"] = list(trust.pair)
    elif form in ("context", "encrypted"):
        context = trusting_context(trust)
        context.load_cert_chain(trust.pair[0], trust.pair[1] if form == "context" else encrypted, "0pen sesame")
        settings = {"verify": context}
    seen: list[Any] = []

    def look(peer: Any) -> None:
        seen.append(peer.socket.getpeercert()["subjectAltName"])

    with playing([look, *EXCHANGE], tls=trust.demanding) as (pool, server):
        answer = pool.get(server.url, **settings)

        assert answer.content == b"hello"
        assert seen == [(("email", "ada@example.com"),)]


class Patient(Observer):
    """Lets a new connection's first request wait until the server has closed it."""

    def __init__(self) -> None:
        self.is_closed = lambda: True

    def connected(self, host: str, seconds: float) -> None:
        eventually(self.is_closed)


@pytest.mark.parametrize("late", [False, True], ids=["while it asks", "before it asks"])
def test_a_client_without_a_certificate_is_told_why(trust: Trust, late: bool) -> None:
    """With TLS 1.3 the refusal comes after the handshake, instead of the answer: the reason is in the error."""
    observer = Patient()
    with playing([], tls=trust.demanding, observer=observer) as (pool, server):
        if late:
            observer.is_closed = lambda: bool(server.peers) and server.peers[0].socket.fileno() < 0
        with pytest.raises(ConnectionError) as caught:
            pool.get(server.url, verify=trust.file)

        assert server.origin in str(caught.value)
        assert "certificate required" in str(caught.value).lower().replace("_", " ")
        assert not server.requests


def test_a_context_and_a_certificate_beside_it_are_too_much(trust: Trust) -> None:
    """A context is never changed, so the certificate has to be in it."""
    with playing(tls=trust.server) as (pool, server), pytest.raises(ValueError, match="SSLContext"):
        pool.get(server.url, verify=trusting_context(trust), cert=trust.client)


class Untouchable(ssl.SSLContext):
    """A user's context that remembers who would change it."""

    changes: Sequence[str] = ()

    def set_alpn_protocols(self, alpn_protocols: Any) -> None:
        self.changes = [*self.changes, "alpn"]
        super().set_alpn_protocols(alpn_protocols)

    def __setattr__(self, name: str, value: Any) -> None:
        if name != "changes":
            self.changes = [*self.changes, name]
        super().__setattr__(name, value)


def test_a_context_of_the_users_own_is_used_as_it_is(trust: Trust) -> None:
    """Other threads may be using it at this moment, and to change it then has crashed interpreters."""
    context = Untouchable(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(trust.file)
    context.changes = []
    with playing(EXCHANGE, EXCHANGE, tls=trust.server, limits=Limits(max_uses=1)) as (pool, server):
        pool.get(server.url, verify=context)
        pool.get(server.url, verify=context)

        assert context.changes == []


# --- sockets and trust ---


class Closings(Observer):
    """Why connections were closed."""

    def __init__(self) -> None:
        self.reasons: list[str] = []

    def closed(self, host: str, reason: str) -> None:
        self.reasons.append(reason)


def variants(trust: Trust) -> list[dict[str, Any]]:
    """Kinds of trust, of which no two may share a socket."""
    return [
        {"verify": trust.file},
        {"verify": False},
        {"verify": trust.directory},
        {"verify": trusting_context(trust)},
        {"verify": trust.file, "cert": trust.client},
        {"verify": trust.file, "cert": trust.pair},
    ]


def test_kinds_of_trust_share_the_limit_and_no_socket(trust: Trust) -> None:
    """With one permit the idle connection of the other kind is closed first; the server never sees two."""
    kinds, watch = variants(trust), Closings()
    limits = Limits(per_host=1)
    with playing(*[EXCHANGE * 2] * len(kinds), tls=trust.server, limits=limits, observer=watch) as (pool, server):
        for kind in kinds:
            for _ in range(2):
                assert pool.get(server.url, **kind).content == b"hello"

        assert [request.connection for request in server.requests] == [n for n in range(1, 7) for _ in range(2)]
        assert server.peak == 1
        assert watch.reasons == ["evicted"] * 5


def test_kinds_of_trust_keep_their_sockets_while_there_is_room(trust: Trust) -> None:
    """Each finds its own again, and only its own."""
    kinds = variants(trust)
    with playing(*[EXCHANGE * 3] * len(kinds), tls=trust.server) as (pool, server):
        for _ in range(3):
            for kind in kinds:
                pool.get(server.url, **kind)

        assert [request.connection for request in server.requests] == [1, 2, 3, 4, 5, 6] * 3
        assert pool.stats().hosts[server.origin].idle == 6


def test_an_unchecked_connection_never_serves_who_wants_it_checked(trust: Trust) -> None:
    """The server is a stranger: with `verify=False` it answers, and with trust in the authority it is refused."""
    with playing(EXCHANGE, [], tls=trust.stranger) as (pool, server):
        pool.get(server.url, verify=False)
        with pytest.raises(SSLError):
            pool.get(server.url, verify=trust.file)

        assert len(server.requests) == 1


def test_a_waiter_of_another_kind_is_served_by_the_same_permit(trust: Trust) -> None:
    """Who waits for a permit gets it when a connection of the other kind comes back, which is closed for it."""
    go = threading.Event()
    first: Script = [expect(), wait_for(go), send(OK)]
    limits = Limits(per_host=1)
    with playing(first, EXCHANGE, tls=trust.server, limits=limits) as (pool, server):
        with in_thread(pool.get, server.url, verify=False) as one:
            eventually(lambda: server.requests)
            with in_thread(pool.get, server.url, verify=trust.file) as two:
                eventually(lambda: pool.stats().waiting == 1)
                go.set()

        assert (one.get().content, two.get().content) == (b"hello", b"hello")
        assert server.peak == 1


def test_threads_that_start_together_make_one_context(trust: Trust) -> None:
    """Each makes its handshake, none is disturbed."""
    count = 8
    start = threading.Barrier(count)

    def one(pool: SessionPool, url: str) -> bytes:
        start.wait(10)
        return pool.get(url, verify=trust.file).content

    all_in = threading.Barrier(count)
    script: Script = [expect(), lambda _: all_in.wait(10), send(OK)]
    with playing(*[script] * count, tls=trust.server, limits=Limits(per_host=count)) as (pool, server):
        calls = [in_thread(one, pool, server.url) for _ in range(count)]
        answers = [call.get() for call in calls]

        assert answers == [b"hello"] * count
        assert len(pool._transport._connector._contexts) == 1


# --- how it ends ---

GOODBYES: dict[str, list[Step]] = {
    "with a goodbye": [close_notify, close],
    "without": [close],
    "reset": [arrived, reset],
}


def kinds_of_client(trust: Trust) -> Iterator[Any]:
    """A context that we make, and one that the user made."""
    yield trust.file
    yield trusting_context(trust)


@pytest.mark.parametrize("body", [b"", b"hello", b"x" * 100_000], ids=len)
@pytest.mark.parametrize("stream", [False, True])
def test_a_body_without_length_ends_with_a_goodbye(trust: Trust, body: bytes, stream: bool) -> None:
    """RFC 9112 §9.8: only close_notify shows that nobody cut it."""
    steps: Script = [expect(), send(head() + body), close_notify, close]
    for verify in kinds_of_client(trust):
        with playing(steps, tls=trust.server, verify=verify) as (pool, server):
            answer = pool.get(server.url, stream=stream)

            assert b"".join(answer.iter_content(1000)) == body


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("end", ["without", "reset"])
@pytest.mark.parametrize("own", [False, True], ids=["our context", "the user's context"])
def test_a_body_without_length_and_without_a_goodbye_is_an_error(
    trust: Trust, end: str, own: bool, stream: bool
) -> None:
    """It may have been cut by anybody who can send a packet."""
    verify: Any = trusting_context(trust) if own else trust.file
    with playing([expect(), send(head() + b"hello"), *GOODBYES[end]], tls=trust.server, verify=verify) as (
        pool,
        server,
    ):
        with pytest.raises(IncompleteRead) as caught:
            list(pool.get(server.url, stream=stream).iter_content(1000))

        assert server.origin in str(caught.value)
        assert caught.value.received == 5


@pytest.mark.parametrize("end", GOODBYES)
@pytest.mark.parametrize("name", ["length", "chunks"])
def test_a_cut_response_is_an_error_with_and_without_a_goodbye(trust: Trust, name: str, end: str) -> None:
    """A goodbye does not make half a body whole."""
    wire = response(b"hello, world") if name == "length" else chunked(b"hello, world")
    begin = wire.index(b"\r\n\r\n") + 4
    cuts = [0, 1, begin - 1, begin, begin + 1, begin + 5, len(wire) - 2, len(wire) - 1]
    scripts: list[Script] = [[expect(), send(wire[:cut]), *GOODBYES[end]] for cut in cuts]
    with playing(*scripts, tls=trust.server, verify=trust.file) as (pool, server):
        for cut in cuts:
            with pytest.raises(RequestException) as caught:
                pool.get(server.url)

            assert isinstance(caught.value, IncompleteRead if cut >= begin else ConnectionBroken), cut
            assert isinstance(caught.value, MaySent)
            assert server.origin in str(caught.value)


@pytest.mark.parametrize("end", GOODBYES)
def test_a_whole_response_needs_no_goodbye(trust: Trust, end: str) -> None:
    """A length, or a last chunk, says as much."""
    steps = [expect(), send(chunked(b"hello", "Connection: close")), *GOODBYES[end]]
    with playing(steps, tls=trust.server, verify=trust.file) as (pool, server):
        assert pool.get(server.url).content == b"hello"


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize(
    "end",
    [[close_notify, discard], [close_notify, close], [close], [half_close, discard], [arrived, reset]],
    ids=["goodbye", "goodbye and FIN", "FIN", "half-close", "RST"],
)
def test_a_connection_that_ended_while_idle_is_not_used(trust: Trust, end: list[Step], method: str) -> None:
    """However it ended, it is noticed before anything is written, or nothing can be."""
    with playing([*EXCHANGE, *end], EXCHANGE, tls=trust.server, verify=trust.file) as (pool, server):
        pool.get(server.url)
        eventually(lambda: stale_connections(pool))
        answer = pool.request(method, server.url)

        assert answer.content == b"hello"
        assert [request.connection for request in server.requests] == [1, 2]


@pytest.mark.parametrize("end", [[close], [close_notify, close], [reset]], ids=["FIN", "goodbye", "RST"])
def test_an_end_that_crossed_the_request(trust: Trust, end: list[Step]) -> None:
    """GET goes once more over a fresh connection, POST does not."""
    stale: Script = [*EXCHANGE, expect(), *end]
    with playing(stale, [*EXCHANGE, *stale[2:]], tls=trust.server, verify=trust.file) as (pool, server):
        pool.get(server.url)
        answer = pool.get(server.url)
        with pytest.raises(ConnectionBroken) as caught:
            pool.post(server.url, data=b"body")

        assert answer.content == b"hello"
        assert isinstance(caught.value, MaySent)
        assert server.peak == 1


@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("extra", [NEXT, b"x"])
def test_what_follows_a_response_never_becomes_the_next(trust: Trust, extra: bytes, apart: bool) -> None:
    """In the same record, in one of its own, or later: the connection is closed."""
    go, sent = threading.Event(), threading.Event()
    rubbish: list[Step] = [send(OK), wait_for(go), send(extra)] if apart else [send(OK + extra)]
    first: Script = [expect(), *rubbish, arrived, tell(sent)]
    second: Script = [expect("POST / "), send(OK), expect(), send(OK, extra), arrived, tell(sent), discard]
    with playing(first, second, EXCHANGE, tls=trust.server, verify=trust.file) as (pool, server):
        answers = [pool.get(server.url).content]
        go.set()
        assert sent.wait(10)
        answers.append(pool.post(server.url).content)
        sent.clear()
        answers.append(pool.get(server.url).content)
        assert sent.wait(10)
        answers.append(pool.get(server.url).content)

        assert answers == [b"hello"] * 4


# --- it is the same exchange ---


@pytest.mark.parametrize("size", [0, 1, 16_384, 16_385, 65_536, 1_000_000])
def test_bodies_of_any_size_come_whole(trust: Trust, size: int) -> None:
    """Records are of 16 KiB at most, and no border shows."""
    body = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    steps = [expect(body=body), send(response(body)), expect(body=body), send(chunked(body, size=10_000))]
    with playing([*steps, expect(), send(OK)], tls=trust.server, verify=trust.file) as (pool, server):
        answers = [pool.post(server.url, data=body).content, pool.put(server.url, data=iter([body])).content]
        pool.get(server.url)

        assert answers == [body, body]
        assert pool.stats().opened == 1


def test_a_record_for_every_byte_is_no_matter(trust: Trust) -> None:
    """Head and body are put together as they come."""
    steps: Script = [expect(), send_bytewise(chunked(b"hello, world")), *EXCHANGE]
    with playing(steps, tls=trust.server, verify=trust.file) as (pool, server):
        answers = [pool.get(server.url).content, pool.get(server.url).content]

        assert answers == [b"hello, world", b"hello"]


def test_a_server_that_says_nothing_is_given_up(trust: Trust) -> None:
    """The read timeout works under TLS as well, and names itself."""
    with playing([expect(), discard], tls=trust.server, verify=trust.file) as (pool, server):
        with pytest.raises(ReadTimeout, match=r"0\.2 s \(Timeout\.read\)") as caught:
            pool.get(server.url, timeout=Timeout(read=0.2))

        assert server.origin in str(caught.value)


def test_the_total_deadline_cuts_what_trickles(trust: Trust) -> None:
    """Byte by byte, record by record."""
    steps: Script = [expect(), send(head("Content-Length: 1000")), trickle(b"x")]
    with playing(steps, tls=trust.server, verify=trust.file) as (pool, server):
        with pytest.raises(ReadTimeout, match=r"Timeout\.total=0\.3 s"):
            pool.get(server.url, timeout=Timeout(total=0.3))

        eventually(lambda: server.open == 0)


def test_a_refusal_while_uploading_is_delivered(trust: Trust) -> None:
    """The server has seen enough, says so, and reads no further."""
    refusal = response(b"too large", "Connection: close", status="413 Content Too Large")
    steps: Script = [expect("POST / ", head_only=True), send(refusal), close_notify, half_close, discard]
    with playing(steps, tls=trust.server, verify=trust.file) as (pool, server):
        answer = pool.post(server.url, data=b"x" * 5_000_000)

        assert (answer.status_code, answer.content) == (413, b"too large")


def test_closing_by_force_wakes_who_waits_for_an_answer(trust: Trust) -> None:
    """The thread that reads keeps its TLS state and gets an error that names the reason."""
    with playing([expect(), discard], tls=trust.server, verify=trust.file) as (pool, server):
        with in_thread(pool.get, server.url) as call:
            eventually(lambda: server.requests)
            pool.close(timeout=0)

        assert isinstance(call.error, ConnectionBroken)
        assert "was closed" in str(call.error)
        assert len(server.requests) == 1


def test_a_redirect_to_plain_http_is_refused(trust: Trust) -> None:
    """What was asked in private is not asked again in public; the connection is free again."""
    moved = response(b"", "Location: http://127.0.0.1:9/", status="302 Found")
    with playing([expect(), send(moved)], tls=trust.server, verify=trust.file) as (pool, server):
        with pytest.raises(RequestException, match="https to"):
            pool.get(server.url)

        assert pool.stats().leased == 0
