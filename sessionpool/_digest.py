"""Digest access authentication (RFC 7616, and RFC 2617 and 2069 before it): what a server asks, and what is answered.

A server's challenge gives a nonce. An answer proves that the password is known by a hash over it, the nonce, the
request and a count; one challenge lets many requests be answered before they are refused, each with a count of its own.
What is sent and hashed is bytes, and a header's text is Latin-1, so that realm, nonce and opaque go back as they came,
whatever encoding the server meant.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import re
import secrets
import threading
import unicodedata
from collections import OrderedDict
from collections.abc import Hashable, Iterable
from typing import Final
from urllib.parse import quote

import attrs

# What hashlib calls an algorithm, by its name without "-sess", the weakest first. SHA is in no RFC, but in requests.
_NAMES: Final = {"MD5": "md5", "SHA": "sha1", "SHA-256": "sha256", "SHA-512-256": "sha512_256", "SHA-512": "sha512"}
_HASHES: Final = {name: each for name, each in _NAMES.items() if each in hashlib.algorithms_available}
_STRENGTH: Final = tuple(_NAMES.values())

_REMEMBERED: Final = 1024  # nonces, of one handler; a crawler's hosts are many, and some give a new nonce every time

# RFC 9110 §5.6 and §11.2. Possessive, so that nothing is matched twice: the time is linear in the length.
_BETWEEN: Final = re.compile(r"[ \t,]*+")
_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]++")
_TOKEN68: Final = re.compile(r" ++([-._~+/0-9A-Za-z]++=*+)[ \t]*+(?=,|\Z)")
# A value without quotes should be a token, yet servers leave out the quotes of nonces and URLs: all up to the next
# comma or space is clear enough.
_VALUE: Final = re.compile(
    r"[ \t]*+=[ \t]*+"
    r"(?:\"((?:[^\"\\\x00-\x08\x0a-\x1f\x7f]|\\[^\x00-\x08\x0a-\x1f\x7f])*+)\"|([^\s\",\x00-\x1f\x7f]++))"
    r"[ \t]*+(?=,|\Z)"
)
_IS_SCHEME: Final = re.compile(r"(?=[ \t,]|\Z)(?![ \t]*+=)")
_ESCAPED: Final = re.compile(r"\\(.)")
_TO_ESCAPE: Final = re.compile(r'(["\\])')


# --- what a server asks ---


@attrs.frozen
class Challenge:
    """One challenge of `WWW-Authenticate` or `Proxy-Authenticate` (RFC 9110 §11.3). Immutable.

    Attributes:
        scheme: Lower case.
        params: By lower-case name, without quotes; empty where the challenge is a `token68`.
        token68: As in `Negotiate`; else empty.
    """

    scheme: str
    params: dict[str, str] = attrs.field(factory=dict)
    token68: str = ""


def parse_challenges(field: str) -> list[Challenge]:
    """The challenges of a field, or of several that were joined by commas (RFC 9110 §11.6.1), in their order.

    From where the text is not to be understood on, it says nothing: the challenge in which that is does not count. Nor
    does one that says the same thing twice.
    """
    found: list[Challenge] = []
    repetitive: set[int] = set()
    at, is_first = _skip(field, 0), True  # in the list, or after a comma
    while at < len(field):
        if (name := _TOKEN.match(field, at)) is None:
            break
        at = name.end()
        word = name[0].lower()
        if found and not found[-1].token68 and (value := _VALUE.match(field, at)) is not None:
            if word in found[-1].params:
                repetitive.add(len(found) - 1)
            found[-1].params[word] = _text(value)
            at = value.end()
        elif is_first and _IS_SCHEME.match(field, at) is not None:
            token = _TOKEN68.match(field, at)
            found.append(Challenge(word, {}, "" if token is None else token[1]))
            at = at if token is None else token.end()
        else:
            break
        end = _skip(field, at)
        at, is_first = end, "," in field[at:end]
    else:
        return [challenge for number, challenge in enumerate(found) if number not in repetitive]
    return [challenge for number, challenge in enumerate(found[:-1]) if number not in repetitive]


def parse_params(field: str) -> dict[str, str]:
    """The parameters of `Authentication-Info` (RFC 9110 §11.6.3), by lower-case name; empty if it is malformed."""
    challenges = parse_challenges(f"info {field}")
    return dict(challenges[0].params) if len(challenges) == 1 else {}


def _skip(field: str, at: int) -> int:
    between = _BETWEEN.match(field, at)
    return at if between is None else between.end()


def _text(value: re.Match[str]) -> str:
    quoted, bare = value.groups()
    return bare if quoted is None else _ESCAPED.sub(r"\1", quoted)


@attrs.frozen(kw_only=True)
class Terms:
    """A Digest challenge that can be answered. Immutable.

    Attributes:
        realm, nonce: As they came.
        opaque: What is to be sent back; `None` for nothing.
        algorithm: As it was spelt; `None` where the server does not say, and means MD5.
        hash: What hashlib calls it.
        is_session: A "-sess" algorithm: the nonce goes into the key.
        qop: `auth`; `auth-int`, where nothing else is offered; empty for a server that knows only RFC 2069.
        is_utf8: The server understands `username*`, and wants names normalised.
        hashes_user: The user's name is not to be sent in the clear.
        domain: The URIs that are asked about the same, by their beginnings; empty for all of the server.
        stale: Only the nonce was refused, not the password.
    """

    realm: str
    nonce: str
    opaque: str | None
    algorithm: str | None
    hash: str
    is_session: bool
    qop: str
    is_utf8: bool
    hashes_user: bool
    domain: str
    stale: bool

    @classmethod
    def of(cls, challenge: Challenge) -> Terms | None:
        """`None` if it is not Digest, or asks for what nobody here can do (RFC 7616 §3.3: such a one is ignored)."""
        params = challenge.params
        if challenge.scheme != "digest" or "realm" not in params or not params.get("nonce"):
            return None
        algorithm = params.get("algorithm")
        name = (algorithm or "MD5").upper()
        bare = name.removesuffix("-SESS")
        is_session = bare != name
        offered = [each.strip().lower() for each in params.get("qop", "").split(",")]
        # A server that offers both leaves it to us, and the body need not be read twice for `auth`.
        qop = next((each for each in ("auth", "auth-int") if each in offered), "")
        if bare not in _HASHES or (not qop and ("qop" in params or is_session)):
            return None
        return cls(
            realm=params["realm"],
            nonce=params["nonce"],
            opaque=params.get("opaque"),
            algorithm=algorithm,
            hash=_HASHES[bare],
            is_session=is_session,
            qop=qop,
            is_utf8=params.get("charset", "").lower() == "utf-8",
            hashes_user=params.get("userhash", "").lower() == "true",
            domain=params.get("domain", ""),
            stale=params.get("stale", "").lower() == "true",
        )

    @property
    def strength(self) -> tuple[int, bool]:
        """For comparisons."""
        return _STRENGTH.index(self.hash), bool(self.qop)


def choose(challenges: Iterable[Challenge]) -> Terms | None:
    """The strongest of the Digest challenges; the first of several that are; `None` if there is none to be answered."""
    answerable = [terms for challenge in challenges if (terms := Terms.of(challenge)) is not None]
    return max(answerable, key=lambda terms: terms.strength, default=None)


# --- the answers ---


@attrs.frozen(kw_only=True, eq=False)
class Key:
    """What requests are answered with after one challenge. Immutable.

    Attributes:
        terms: What the server asked.
        nonce: The challenge's, or the one that the server named as the next.
        cnonce: Ours. The same for all answers: servers disagree about whether the first one's or each one's own goes
            into the key of a "-sess" algorithm (RFC 7616 §3.4.2: the first), and so they cannot.
        user: The parameter that says who asks.
        secret: The hash of user, realm and password: as good as the password, here.
    """

    terms: Terms
    nonce: str
    cnonce: str
    user: str = attrs.field(repr=False)
    secret: bytes = attrs.field(repr=False)

    @classmethod
    def of(cls, terms: Terms, username: str | bytes, password: str | bytes, cnonce: str | None = None) -> Key:
        """`cnonce`: for test vectors; else chosen at random."""
        cnonce = secrets.token_hex(16) if cnonce is None else cnonce
        user, word, realm = (
            _octets(username, terms.is_utf8),
            _octets(password, terms.is_utf8),
            terms.realm.encode("latin-1"),
        )
        secret = _hashed(terms.hash, user, realm, word)
        if terms.is_session:
            secret = _hashed(terms.hash, secret, terms.nonce.encode("latin-1"), cnonce.encode("ascii"))
        if terms.hashes_user:
            shown = f'username="{_hashed(terms.hash, user, realm).decode("ascii")}", userhash=true'
        elif terms.is_utf8 and not user.isascii():
            shown = f"username*=UTF-8''{quote(user, safe='')}"  # RFC 7616 §3.4
        else:
            shown = f"username={_quoted(user.decode('latin-1'))}"
        return cls(terms=terms, nonce=terms.nonce, cnonce=cnonce, user=shown, secret=secret)

    def answer(self, method: str, uri: str, count: int, body: Iterable[bytes] = ()) -> str:
        """The value of `Authorization` (RFC 7616 §3.4).

        Args:
            method: As sent.
            uri: Path and query, as sent.
            count: How many requests were answered with this nonce, this one counted.
            body: Looked at for `auth-int` alone.
        """
        terms = self.terms
        what = [method.encode("ascii"), uri.encode("ascii")]
        if terms.qop == "auth-int":
            digest = _new(terms.hash)
            for piece in body:
                digest.update(piece)
            what.append(digest.hexdigest().encode("ascii"))
        asked = _hashed(terms.hash, *what)
        nonce, cnonce, counted = self.nonce.encode("latin-1"), self.cnonce.encode("ascii"), b"%08x" % count
        proof = [self.secret, nonce, asked]
        if terms.qop:
            proof[2:2] = [counted, cnonce, terms.qop.encode("ascii")]
        parts = [
            self.user,
            f"realm={_quoted(terms.realm)}",
            f"nonce={_quoted(self.nonce)}",
            f"uri={_quoted(uri)}",
            f'response="{_hashed(terms.hash, *proof).decode("ascii")}"',
        ]
        if terms.algorithm is not None:
            parts.append(f"algorithm={terms.algorithm}")
        if terms.opaque is not None:
            parts.append(f"opaque={_quoted(terms.opaque)}")
        if terms.qop:
            parts.append(f'qop={terms.qop}, nc={counted.decode("ascii")}, cnonce="{self.cnonce}"')
        return f"Digest {', '.join(parts)}"

    def covers(self, origin: str, uri: str) -> bool:
        """Whether the server that this came from, `scheme://host:port`, will ask the same for this path and query.

        `domain` may name other servers (RFC 7616 §3.3). They would see an answer that is not theirs, and do not count.
        """
        beginnings = [each if "://" in each else origin + each for each in self.terms.domain.split()]
        return not beginnings or any((origin + uri).startswith(each) for each in beginnings)


def _octets(text: str | bytes, normalise: bool) -> bytes:
    if isinstance(text, bytes):
        return text
    # RFC 7616 §4 asks for NFC where the server says charset=UTF-8; where it says nothing, for nothing.
    return (unicodedata.normalize("NFC", text) if normalise else text).encode("utf-8")


def _new(name: str) -> hashlib._Hash:
    return hashlib.new(name, usedforsecurity=False)  # MD5 is what the server asks; what is strict about it would refuse


def _hashed(name: str, *parts: bytes) -> bytes:
    """The parts, with colons between them, hashed: hexadecimal."""
    digest = _new(name)
    digest.update(b":".join(parts))
    return digest.hexdigest().encode("ascii")


def _quoted(text: str) -> str:
    return '"' + _TO_ESCAPE.sub(r"\\\1", text) + '"'


# --- what is remembered ---


class Memory:
    """The keys in use, one for each server, and how often each nonce was used. Thread-safe, bounded.

    A count is given once for a nonce, whoever asks, also where a server gives one nonce to many. Where the nonce that
    has not been used for longest is forgotten, so is its key: its counts begin again only after a new challenge.
    """

    __slots__ = ("_counts", "_keys", "_lock")

    def __init__(self) -> None:
        # One that its own thread may take again, and each step whole: a signal handler may ask in the midst of this.
        self._lock = threading.RLock()
        self._counts: OrderedDict[tuple[Hashable, str], itertools.count[int]] = OrderedDict()
        self._keys: dict[Hashable, Key] = {}

    def get(self, server: Hashable) -> Key | None:
        """The key for this server, if it has asked before."""
        return self._keys.get(server)

    def count(self, server: Hashable, nonce: str) -> int:
        """The next count for this nonce, from 1."""
        with self._lock:
            counter = self._touch(server, nonce)
            return next(counter)

    def keep(self, server: Hashable, key: Key) -> None:
        """Use this key from now on."""
        with self._lock:
            self._touch(server, key.nonce)
            self._keys[server] = key

    def forget(self, server: Hashable, nonce: str) -> None:
        """Drop the key with this nonce, unless there is another by now; the nonce's count goes on."""
        with self._lock:
            key = self._keys.get(server)
            if key is not None and key.nonce == nonce:
                self._keys.pop(server, None)

    def _touch(self, server: Hashable, nonce: str) -> itertools.count[int]:
        counter = self._counts.setdefault((server, nonce), itertools.count(1))
        with contextlib.suppress(KeyError):
            self._counts.move_to_end((server, nonce))
        while len(self._counts) > _REMEMBERED:
            self.forget(*self._counts.popitem(last=False)[0])
        return counter
