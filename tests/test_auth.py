"""Auth handlers by themselves: what they put into a header, what they refuse, what they show."""

from __future__ import annotations

import copy
import pickle
from base64 import b64encode
from typing import Any

import pytest

from sessionpool import PreparedRequest
from sessionpool._urls import is_same_place
from sessionpool.auth import (
    AuthBase,
    HTTPBasicAuth,
    HTTPBearerAuth,
    HTTPDigestAuth,
    HTTPProxyAuth,
    HTTPProxyDigestAuth,
    Origin,
)

SECRET = "s3cret"
HANDLERS: list[Any] = [
    HTTPBasicAuth("ada", SECRET),
    HTTPProxyAuth("ada", SECRET),
    HTTPDigestAuth("ada", SECRET),
    HTTPProxyDigestAuth("ada", SECRET),
    HTTPBearerAuth(SECRET),
]


def sent(auth: AuthBase) -> dict[str, str]:
    """What a handler puts into the header of a request."""
    request = PreparedRequest()
    request.prepare("GET", "http://127.0.0.1/a?b", auth=auth)
    return dict(request.headers)


# --- Basic ---


@pytest.mark.parametrize(
    ("user", "password", "octets"),
    [
        ("Aladdin", "open sesame", b"Aladdin:open sesame"),  # RFC 7617 §2
        ("ada", "", b"ada:"),
        ("", "word", b":word"),
        ("", "", b":"),
        ("ada", "a:b:", b"ada:a:b:"),
        ("J\u00e4", "p\u00fc", b"J\xe4:p\xfc"),
        ("ada", "\u20ac", b"ada:\xe2\x82\xac"),
        (b"\xff", b"\xfe", b"\xff:\xfe"),
        ("ada", b"\xfe", b"ada:\xfe"),
        ("ada", " ", b"ada: "),
    ],
)
def test_user_and_password(user: Any, password: Any, octets: bytes) -> None:
    """As Latin-1 where that can be, else as UTF-8; bytes as they are; for a proxy the same in the proxy's field."""
    value = "Basic " + b64encode(octets).decode()

    assert sent(HTTPBasicAuth(user, password)) == {"Authorization": value}
    assert sent(HTTPProxyAuth(user, password)) == {"Proxy-Authorization": value}


@pytest.mark.parametrize("kind", [HTTPBasicAuth, HTTPProxyAuth])
@pytest.mark.parametrize("user", ["s3cret:x", b"s3cret:x", ":"])
def test_a_user_with_a_colon_is_refused(kind: Any, user: Any) -> None:
    """RFC 7617 §2: a server would take a part of the name for the password."""
    with pytest.raises(ValueError, match="colon") as raised:
        kind(user, "word")

    assert SECRET not in str(raised.value)


@pytest.mark.parametrize("kind", [HTTPBasicAuth, HTTPProxyAuth, HTTPDigestAuth, HTTPProxyDigestAuth])
@pytest.mark.parametrize(
    "bad", ["s3cret\n", "s3cret\r\nX: y", "s3cret\0", "\x7fs3cret", b"s3cret\n", 5, None, ["s3cret"]]
)
def test_what_is_no_name_and_no_password_is_refused(kind: Any, bad: Any) -> None:
    """Control characters (RFC 7617 §2), and what is no text; the message does not have it."""
    for user, password in ((bad, "word"), ("ada", bad)):
        with pytest.raises(ValueError, match=r"str or bytes|control character") as raised:
            kind(user, password)

        assert SECRET not in str(raised.value)


def test_a_digest_user_may_have_a_colon() -> None:
    """RFC 7616 does not forbid it: the name is sent by itself, and hashed."""
    assert HTTPDigestAuth("realm:ada", "word").username == "realm:ada"


# --- Bearer ---


@pytest.mark.parametrize("token", ["a", "mF_9.B5f-4.1JqM", "YWI=", "12|abc", "a:b~c+/=="])
def test_a_token(token: str) -> None:
    """RFC 6750 §2.1, and those that servers really issue."""
    assert sent(HTTPBearerAuth(token)) == {"Authorization": f"Bearer {token}"}


@pytest.mark.parametrize(
    "token", ["", "s3cret x", "s3cret\n", "s3cret\r\nX: y", "s3cret\0", "s3cret\u00e4", b"s3cret", None]
)
def test_what_is_no_token_is_refused(token: Any) -> None:
    """It could begin another field, or be taken for two words; the message does not have it."""
    with pytest.raises(ValueError, match="visible ASCII") as raised:
        HTTPBearerAuth(token)

    assert SECRET not in str(raised.value)


# --- all ---


@pytest.mark.parametrize("auth", HANDLERS, ids=repr)
def test_the_same_password_is_the_same_auth(auth: Any) -> None:
    """Handlers compare by what they prove, and how."""
    twin = copy.copy(auth)
    others = [each for each in HANDLERS if each is not auth]

    assert twin is not auth
    assert twin == auth
    assert hash(twin) == hash(auth)
    assert auth not in others
    assert auth not in [type(each)("ada", "other") for each in HANDLERS[:4]]
    assert auth not in [type(each)("other", SECRET) for each in HANDLERS[:4]]


@pytest.mark.parametrize("auth", HANDLERS, ids=repr)
def test_what_comes_out_of_a_pickle_is_the_same(auth: Any) -> None:
    """Handlers go to other processes, and copies of them are their equals."""
    assert pickle.loads(pickle.dumps(auth)) == copy.deepcopy(auth) == auth


@pytest.mark.parametrize("auth", HANDLERS, ids=repr)
def test_no_secret_is_shown(auth: Any) -> None:
    """Neither by repr nor by str."""
    assert SECRET not in repr(auth) + str(auth)


def test_a_digest_says_nothing_until_it_is_asked() -> None:
    """A hash that nobody asked for would be of no nonce."""
    assert sent(HTTPDigestAuth("ada", SECRET)) == sent(HTTPProxyDigestAuth("ada", SECRET)) == {}


@pytest.mark.parametrize(
    ("asked", "server", "is_for"),
    [
        (("http", "a", 80), ("http", "a", 80), True),
        (("https", "a", 8443), ("https", "a", 8443), True),
        (("http", "a", 80), ("https", "a", 443), True),
        (("https", "a", 443), ("http", "a", 80), False),
        (("http", "a", 8080), ("https", "a", 443), False),
        (("http", "a", 80), ("https", "a", 8443), False),
        (("http", "a", 80), ("https", "b", 443), False),
        (("http", "a", 80), ("http", "b", 80), False),
        (("http", "a", 80), ("http", "a", 81), False),
    ],
)
def test_whose_challenge_is_answered(asked: Origin, server: Origin, is_for: bool) -> None:
    """That of the origin which was asked, and of the same host when it went over to https; nobody else's."""
    assert is_same_place(asked, server) is is_for
