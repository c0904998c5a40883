"""Digest authentication without a server: challenges taken apart, answers computed, nonces counted."""

from __future__ import annotations

import hashlib
import re
import threading
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sessionpool import _digest
from sessionpool._digest import Challenge, Key, Memory, Terms, choose, parse_challenges, parse_params
from tests.helpers import in_thread

REALM = "http-auth@example.org"
NONCE = "7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v"
CNONCE = "f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ"


def terms_of(field: str) -> Terms:
    terms = choose(parse_challenges(field))
    assert terms is not None
    return terms


def said(answer: str) -> dict[str, str]:
    """The parameters of an answer."""
    [challenge] = parse_challenges(answer)
    return challenge.params


# --- challenges ---

READ: dict[str, list[Challenge]] = {
    "": [],
    " , ,": [],
    "Basic": [Challenge("basic")],
    "NTLM, Basic": [Challenge("ntlm"), Challenge("basic")],
    "Negotiate YWJj": [Challenge("negotiate", token68="YWJj")],
    "Negotiate YWI=, Basic realm=x": [Challenge("negotiate", token68="YWI="), Challenge("basic", {"realm": "x"})],
    'Basic realm="x"': [Challenge("basic", {"realm": "x"})],
    'BASIC Realm = "x"': [Challenge("basic", {"realm": "x"})],
    'Basic realm="x", charset="UTF-8"': [Challenge("basic", {"realm": "x", "charset": "UTF-8"})],
    'Basic realm="a, b=c"': [Challenge("basic", {"realm": "a, b=c"})],
    r'Basic realm="a\"b\\c\d"': [Challenge("basic", {"realm": 'a"b\\cd'})],
    'Basic realm=""': [Challenge("basic", {"realm": ""})],
    'Basic realm="h\xe9"': [Challenge("basic", {"realm": "h\xe9"})],
    'Basic realm="a\tb"': [Challenge("basic", {"realm": "a\tb"})],
    'Digest realm="x",nonce="y",Basic realm="z"': [
        Challenge("digest", {"realm": "x", "nonce": "y"}),
        Challenge("basic", {"realm": "z"}),
    ],
    # RFC 9110 §11.6.1
    'Basic realm="simple", Newauth realm="apps", type=1, title="Login to \\"apps\\""': [
        Challenge("basic", {"realm": "simple"}),
        Challenge("newauth", {"realm": "apps", "type": "1", "title": 'Login to "apps"'}),
    ],
    ",Digest ,,realm=x , ,nonce=y,": [Challenge("digest", {"realm": "x", "nonce": "y"})],
    "Basic realm=,": [Challenge("basic", token68="realm=")],  # so the grammar has it
    "Digest nonce=YWI=, domain=/a/b": [Challenge("digest", {"nonce": "YWI=", "domain": "/a/b"})],
    'Digest qop="auth,auth-int", stale=FALSE': [Challenge("digest", {"qop": "auth,auth-int", "stale": "FALSE"})],
}


@pytest.mark.parametrize(("field", "challenges"), READ.items(), ids=READ)
def test_challenges_are_taken_apart(field: str, challenges: list[Challenge]) -> None:
    """RFC 9110 §11.6.1: several schemes, each with parameters, all divided by commas."""
    assert parse_challenges(field) == challenges


NOT_READ: dict[str, list[Challenge]] = {
    'realm="x"': [],
    '"x"': [],
    "Basic/1.0": [],
    'Basic realm="x': [],
    'Basic realm="x\\"': [],
    'Basic realm="x\\': [],
    'Basic realm="x"y': [],
    'Basic realm="a" b="c"': [],
    'Basic realm="a"; b="c"': [],
    'Basic realm="\x00"': [],
    'Basic realm="\x7f"': [],
    'Basic realm="\\\x01"': [],
    "Basic =x": [],
    "Digest Basic realm=x": [],
    'Digest realm="x", nonce="y", qop="auth': [],
    'Digest realm="x", nonce="y", qop = "auth': [],
    'Basic realm="x", realm="y"': [],
    'Basic realm="x", Realm="x"': [],
    'Negotiate YWI=, realm="x"': [],
    # What came before the fault stands.
    'Basic realm="x", Digest realm="y': [Challenge("basic", {"realm": "x"})],
    'Basic realm="x", Digest realm="y", realm="y", NTLM': [Challenge("basic", {"realm": "x"}), Challenge("ntlm")],
}


@pytest.mark.parametrize(("field", "challenges"), NOT_READ.items(), ids=map(repr, NOT_READ))
def test_what_is_malformed_does_not_count(field: str, challenges: list[Challenge]) -> None:
    """Nothing is made up for a challenge that is cut short or says two things, nor for what follows a fault."""
    assert parse_challenges(field) == challenges


@pytest.mark.parametrize(
    "piece",
    ["a", "a,", "a ", "a=b,", 'a="', '\\"', "=", ",", " ", "\t", 'a="\\', "a=b c=d,", "Digest ", "a = ", '"'],
)
@pytest.mark.parametrize("start", ["", "Digest ", 'Digest a="'])
def test_a_long_field_is_no_harm(start: str, piece: str) -> None:
    """The time is linear in the length: what tried again from every character would not end within the test's time."""
    for end in ("", '"', "=", "\x00"):
        parse_challenges(start + piece * 20_000 + end)


TOKENS = st.text("abcXYZ019!#$%&'*+-.^_`|~", min_size=1, max_size=8)
TEXTS = st.text(st.characters(codec="latin-1", exclude_categories=["Cc"]), max_size=12)


@given(
    st.lists(
        st.tuples(TOKENS, st.lists(st.tuples(TOKENS, TEXTS), min_size=1, unique_by=lambda pair: pair[0].lower())),
        max_size=4,
    )
)
def test_what_is_quoted_comes_back(said: list[tuple[str, list[tuple[str, str]]]]) -> None:
    """Whatever realm or nonce a server has, it is understood as it was meant."""
    field = ", ".join(
        f"{scheme} {', '.join(f'{name}={_digest._quoted(text)}' for name, text in pairs)}" for scheme, pairs in said
    )

    assert parse_challenges(field) == [
        Challenge(scheme.lower(), {name.lower(): text for name, text in pairs}) for scheme, pairs in said
    ]


@given(st.text(st.sampled_from('aB1 =",\\\t\x00;/\xe9'), max_size=40))
def test_no_field_is_too_strange(field: str) -> None:
    """What a server sends never raises, and what is understood has the form of a challenge."""
    for challenge in parse_challenges(field):
        assert re.fullmatch(r"[a-z0-9]+", challenge.scheme)


@pytest.mark.parametrize(
    ("field", "params"),
    [
        ('nextnonce="x", qop=auth', {"nextnonce": "x", "qop": "auth"}),
        ('rspauth="", nc=00000001', {"rspauth": "", "nc": "00000001"}),
        ("", {}),
        ('nextnonce="x', {}),
        ("nextnonce", {}),
        ("a=b, Digest c=d", {}),
    ],
)
def test_parameters_alone(field: str, params: dict[str, str]) -> None:
    """`Authentication-Info` has no scheme (RFC 9110 §11.6.3); nothing is taken of one that is malformed."""
    assert parse_params(field) == params


# --- which challenge ---

CHOICES: dict[str, tuple[str, str | None]] = {
    "Digest realm=r, nonce=n": ("md5", None),
    "Digest realm=r, nonce=n, algorithm=md5": ("md5", "md5"),
    'Digest realm=r, nonce=n, algorithm="MD5"': ("md5", "MD5"),
    "Digest realm=r, nonce=n, algorithm=SHA": ("sha1", "SHA"),
    "Digest realm=r, nonce=n, algorithm=MD5, Digest realm=r, nonce=n, algorithm=SHA-256": ("sha256", "SHA-256"),
    "Digest realm=r, nonce=n, algorithm=SHA-256, Digest realm=r, nonce=n, algorithm=MD5": ("sha256", "SHA-256"),
    "Digest realm=r, nonce=n, algorithm=SHA-512-256, Digest realm=r, nonce=n, algorithm=SHA-256": (
        "sha512_256",
        "SHA-512-256",
    ),
    "Digest realm=r, nonce=n, algorithm=SHA-512-256, Digest realm=r, nonce=n, algorithm=SHA-512": ("sha512", "SHA-512"),
    "Digest realm=r, nonce=n, algorithm=SHA-9, Digest realm=r, nonce=n": ("md5", None),
    "Basic realm=r, Digest realm=r, nonce=n": ("md5", None),
    "Digest realm=r, nonce=n, Digest realm=r, nonce=n, qop=auth, algorithm=MD5": ("md5", "MD5"),
}


@pytest.mark.parametrize(("field", "chosen"), CHOICES.items(), ids=CHOICES)
def test_the_strongest_challenge_is_chosen(field: str, chosen: tuple[str, str | None]) -> None:
    """Of those that can be answered; with qop rather than without; MD5 where none is named (RFC 7616 §3.3)."""
    terms = terms_of(field)

    assert (terms.hash, terms.algorithm) == chosen


@pytest.mark.parametrize(
    "field",
    [
        "",
        "Basic realm=r",
        "Digest",
        "Digest realm=r",
        "Digest nonce=n",
        'Digest realm=r, nonce=""',
        "Digest realm=r, nonce=n, algorithm=SHA-9",
        "Digest realm=r, nonce=n, algorithm=MD5-sess-sess",
        "Digest realm=r, nonce=n, algorithm=-sess",
        "Digest realm=r, nonce=n, qop=auth-conf",
        'Digest realm=r, nonce=n, qop=""',
        "Digest realm=r, nonce=n, algorithm=MD5-sess",  # has no cnonce without qop, which its key is made of
    ],
)
def test_what_cannot_be_answered_is_ignored(field: str) -> None:
    """RFC 7616 §3.3: a challenge with something unknown counts as none, instead of being answered wrongly."""
    assert choose(parse_challenges(field)) is None


@pytest.mark.parametrize(
    ("qop", "chosen"),
    [
        ("", ""),
        ("qop=auth", "auth"),
        ('qop="auth,auth-int"', "auth"),
        ('qop="auth-int, AUTH"', "auth"),
        ("qop=auth-int", "auth-int"),
        ('qop="auth-conf,auth-int"', "auth-int"),
    ],
)
def test_the_quality_of_protection(qop: str, chosen: str) -> None:
    """`auth` where it is offered, for the body then needs no second reading."""
    assert terms_of(f"Digest realm=r, nonce=n, {qop}").qop == chosen


# --- answers ---

# Challenge, user, password, method, URI, cnonce, response.
VECTORS: dict[str, tuple[str, str, str, str, str, str, str]] = {
    "RFC 7616 §3.9.1, MD5": (
        f'Digest realm="{REALM}", qop="auth, auth-int", algorithm=MD5, nonce="{NONCE}"',
        "Mufasa", "Circle of Life", "GET", "/dir/index.html", CNONCE, "8ca523f5e9506fed4657c9700eebdbec",
    ),
    "RFC 7616 §3.9.1, SHA-256": (
        f'Digest realm="{REALM}", qop="auth, auth-int", algorithm=SHA-256, nonce="{NONCE}"',
        "Mufasa", "Circle of Life", "GET", "/dir/index.html", CNONCE,
        "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1",
    ),
    "RFC 2617 §3.5": (
        'Digest realm="testrealm@host.com", qop="auth,auth-int", nonce="dcd98b7102dd2f0e8b11d0f600bfb0c093"',
        "Mufasa", "Circle Of Life", "GET", "/dir/index.html", "0a4f113b", "6629fae49393a05397450978507c4ef1",
    ),
    "RFC 2069 §2.4, with its errata": (
        'Digest realm="testrealm@host.com", nonce="dcd98b7102dd2f0e8b11d0f600bfb0c093"',
        "Mufasa", "CircleOfLife", "GET", "/dir/index.html", "", "1949323746fe6a43ef61f9606e7febea",
    ),
}  # fmt: skip


@pytest.mark.parametrize(
    ("field", "user", "password", "method", "uri", "cnonce", "response"), VECTORS.values(), ids=VECTORS
)
def test_the_examples_of_the_standards(
    field: str, user: str, password: str, method: str, uri: str, cnonce: str, response: str
) -> None:
    """What the RFCs work out, we do."""
    answer = Key.of(terms_of(field), user, password, cnonce).answer(method, uri, 1)

    assert said(answer)["response"] == response


def h(name: str, text: str | bytes) -> str:
    return hashlib.new(name, text.encode() if isinstance(text, str) else text).hexdigest()


ALGORITHMS = {"MD5": "md5", "SHA": "sha1", "SHA-256": "sha256", "SHA-512-256": "sha512_256", "SHA-512": "sha512"}


@pytest.mark.parametrize("qop", ["auth", "auth-int"])
@pytest.mark.parametrize("suffix", ["", "-sess"])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_each_algorithm(algorithm: str, suffix: str, qop: str) -> None:
    """RFC 7616 §3.4, written out once more: key, request and, for auth-int, the body in its pieces."""
    terms = terms_of(f"Digest realm=r, nonce=n, qop={qop}, algorithm={algorithm}{suffix}")
    name = ALGORITHMS[algorithm]
    a1 = h(name, "u:r:p")
    if suffix:
        a1 = h(name, f"{a1}:n:c")
    a2 = h(name, "PUT:/x?y" + (f":{h(name, b'body')}" if qop == "auth-int" else ""))

    params = said(Key.of(terms, "u", "p", "c").answer("PUT", "/x?y", 26, [b"bo", b"dy"]))

    assert params["response"] == h(name, f"{a1}:n:0000001a:c:{qop}:{a2}")
    assert params["algorithm"] == algorithm + suffix


def test_a_session_key_outlives_its_nonce() -> None:
    """RFC 7616 §3.4.2: the key of a "-sess" algorithm is made once after a challenge, not anew by `nextnonce`."""
    key = Key.of(terms_of("Digest realm=r, nonce=n, qop=auth, algorithm=MD5-sess"), "u", "p", "c")
    later = said(attrs.evolve(key, nonce="m").answer("GET", "/", 1))
    a1 = h("md5", f"{h('md5', 'u:r:p')}:n:c")

    assert later["response"] == h("md5", f"{a1}:m:00000001:c:auth:{h('md5', 'GET:/')}")


def test_the_form_of_an_answer() -> None:
    """RFC 7616 §3.4: quotes where they must be, and nowhere that they must not."""
    terms = terms_of('Digest realm="r", nonce="n", qop="auth", algorithm="SHA-256", opaque="o"')
    answer = Key.of(terms, "u", "p", "c").answer("GET", "/", 1)

    assert re.fullmatch(
        r'Digest username="u", realm="r", nonce="n", uri="/", response="[0-9a-f]{64}", algorithm=SHA-256, opaque="o", '
        r'qop=auth, nc=00000001, cnonce="c"',
        answer,
    )


def test_nothing_is_said_that_was_not_asked() -> None:
    """For a server of RFC 2069 neither qop, nc nor cnonce; no algorithm or opaque where there was none."""
    answer = Key.of(terms_of("Digest realm=r, nonce=n"), "u", "p").answer("GET", "/", 1)

    assert list(said(answer)) == ["username", "realm", "nonce", "uri", "response"]


def test_an_empty_opaque_goes_back() -> None:
    """What was sent is returned, even if it is nothing."""
    assert said(Key.of(terms_of('Digest realm=r, nonce=n, opaque=""'), "u", "p").answer("GET", "/", 1))["opaque"] == ""


@pytest.mark.parametrize("text", ['a"b', "a\\b", '\\"', 'a", realm="evil'])
def test_quotes_are_escaped(text: str) -> None:
    """In the user's name and in the realm: neither can end its quotes, and the hash is over what they stand for."""
    terms = terms_of(f"Digest realm={_digest._quoted(text)}, nonce=n")
    params = said(Key.of(terms, text, "p").answer("GET", "/", 1))

    assert params["username"] == params["realm"] == text
    assert params["response"] == h("md5", f"{h('md5', f'{text}:{text}:p')}:n:{h('md5', 'GET:/')}")


def test_a_realm_goes_back_as_it_came() -> None:
    """Its bytes are hashed and sent as they are, whatever they encode; a name that is text is UTF-8."""
    realm = "caf\u00e9".encode().decode("latin-1")  # as a header is read
    params = said(Key.of(terms_of(f'Digest realm="{realm}", nonce=n'), "J\u00e4", "p\u00fc").answer("GET", "/", 1))

    assert params["realm"] == realm
    assert params["username"].encode("latin-1") == "J\u00e4".encode()
    a1 = h("md5", "J\u00e4:caf\u00e9:p\u00fc")
    assert params["response"] == h("md5", f"{a1}:n:{h('md5', 'GET:/')}")


DOE = "J\u00e4s\u00f8n Doe"


def test_a_name_for_a_server_that_says_utf_8() -> None:
    """RFC 7616 §3.4, §3.9.2: in `username*`, percent-encoded, instead of bytes that a server has to guess."""
    terms = terms_of('Digest realm=r, nonce=n, charset="utf-8", qop=auth')
    params = said(Key.of(terms, DOE, "p").answer("GET", "/", 1))

    assert params["username*"] == "UTF-8''J%C3%A4s%C3%B8n%20Doe"
    assert "username" not in params
    assert said(Key.of(terms, "Doe", "p").answer("GET", "/", 1))["username"] == "Doe"


def test_a_name_is_normalised() -> None:
    """RFC 7616 §4: NFC where the server says UTF-8; for others, and bytes, it stays as it is."""
    composed, apart = "\u00e4", "a\u0308"

    def answers(field: str, name: Any) -> str:
        return said(Key.of(terms_of(field), name, name, "c").answer("GET", "/", 1))["response"]

    modern, old = "Digest realm=r, nonce=n, charset=UTF-8", "Digest realm=r, nonce=n"
    assert answers(modern, apart) == answers(modern, composed) == answers(old, composed)
    assert answers(old, apart) != answers(old, composed)
    assert answers(modern, apart.encode()) == answers(old, apart)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_name_that_is_not_to_be_seen(algorithm: str) -> None:
    """RFC 7616 §3.4.4: with userhash=true the name is sent hashed with the realm, whatever its letters."""
    terms = terms_of(
        f'Digest realm="api@example.org", nonce=n, qop=auth, algorithm={algorithm}, charset=UTF-8, userhash=true'
    )
    answer = Key.of(terms, DOE, "Secret, or not?").answer("GET", "/doe.json", 1)

    assert said(answer)["username"] == h(ALGORITHMS[algorithm], f"{DOE}:api@example.org")
    assert said(answer)["userhash"] == "true"
    assert "Doe" not in answer


def test_each_challenge_has_its_own_cnonce() -> None:
    """So that a server cannot have answers worked out beforehand."""
    terms = terms_of("Digest realm=r, nonce=n, qop=auth")

    assert Key.of(terms, "u", "p").cnonce != Key.of(terms, "u", "p").cnonce


def test_a_key_shows_no_secret() -> None:
    """The hash of the password is as good as the password; it is in no repr."""
    key = Key.of(terms_of("Digest realm=r, nonce=n"), "u", "p")

    assert h("md5", "u:r:p").encode() == key.secret
    assert h("md5", "u:r:p") not in repr(key)


@pytest.mark.parametrize(
    ("domain", "covered", "others"),
    [
        ("", ["/", "/a", "/a?b"], []),
        ("/a", ["/a", "/a/b", "/a?b"], ["/", "/b"]),
        ("/a/ /b", ["/a/", "/b"], ["/a", "/c"]),
        ("http://here:80/a", ["/a"], ["/b"]),
        ("http://there/", [], ["/", "/a"]),
        ("http://there/ /a", ["/a"], ["/b"]),
        ("a", [], ["/", "/a"]),
    ],
)
def test_a_protection_space(domain: str, covered: list[str], others: list[str]) -> None:
    """RFC 7616 §3.3, `domain`: only below what it names is an answer sent unasked, and never to another server."""
    key = Key.of(terms_of(f'Digest realm=r, nonce=n, domain="{domain}"'), "u", "p")

    assert all(key.covers("http://here:80", uri) for uri in covered)
    assert not any(key.covers("http://here:80", uri) for uri in others)


# --- what is remembered ---


def key_of(nonce: str) -> Key:
    return Key.of(terms_of(f"Digest realm=r, nonce={nonce}, qop=auth"), "u", "p")


@pytest.mark.usefixtures("switch_interval")
def test_no_count_is_given_twice() -> None:
    """Over all threads and nonces: a server takes the second one for a replay."""
    memory = Memory()
    start = threading.Barrier(8)

    def work() -> list[tuple[str, int]]:
        start.wait()
        return [(nonce, memory.count("server", nonce)) for _ in range(200) for nonce in ("n", "m")]

    counted = [each for call in [in_thread(work) for _ in range(8)] for each in call.get()]

    assert sorted(counted) == [(nonce, count) for nonce in ("m", "n") for count in range(1, 1601)]


def test_servers_are_kept_apart() -> None:
    """Each has its key, and counts of its own even for the same nonce."""
    memory = Memory()
    mine, other = key_of("n"), key_of("n")
    memory.keep("mine", mine)
    memory.keep("other", other)

    assert (memory.get("mine"), memory.get("other"), memory.get("third")) == (mine, other, None)
    assert [memory.count("mine", "n"), memory.count("mine", "n"), memory.count("other", "n")] == [1, 2, 1]


def test_a_nonce_that_comes_again_is_counted_on() -> None:
    """There are servers that give the same nonce to all who ask within a second, or always."""
    memory = Memory()
    memory.keep("server", key_of("n"))
    assert memory.count("server", "n") == 1
    memory.keep("server", key_of("m"))
    memory.keep("server", key_of("n"))

    assert memory.count("server", "n") == 2


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The nonce not used for longest goes, and its key with it: else its counts would begin again."""
    monkeypatch.setattr(_digest, "_REMEMBERED", 3)
    memory = Memory()
    for server in "abc":
        memory.keep(server, key_of(server))
        memory.count(server, server)
    memory.count("a", "a")
    memory.keep("d", key_of("d"))

    assert [server for server in "abcd" if memory.get(server) is not None] == ["a", "c", "d"]
    assert memory.count("a", "a") == 3
    for nonce in range(1000):
        memory.count("a", str(nonce))
    assert len(memory._counts) == 3
    assert not memory._keys


def test_a_new_key_is_not_lost_with_an_old_nonce(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the key that has the nonce which is forgotten goes."""
    monkeypatch.setattr(_digest, "_REMEMBERED", 2)
    memory = Memory()
    memory.keep("a", key_of("old"))
    memory.keep("a", key_of("new"))
    memory.count("b", "b")

    current = memory.get("a")
    assert current is not None
    assert current.nonce == "new"
