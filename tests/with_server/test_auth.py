"""Who is asking, proved to servers that look: digests above all, which a strict server works out for itself."""

from __future__ import annotations

import copy
import hashlib
import io
import itertools
import os
import pickle
import re
import socket
import threading
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes

import attrs
import pytest
import requests

from sessionpool import Limits, PreparedRequest, Request, Response, Session, SessionPool, exceptions
from sessionpool.adapters import HTTPAdapter
from sessionpool.auth import HTTPDigestAuth, HTTPProxyDigestAuth
from tests.helpers import in_thread
from tests.with_server.echo_server import (
    Answer,
    EchoServer,
    Seen,
    Server,
    page,
    read_request,
    redirect,
    set_cookies,
    write_answer,
)

HASHES = {"MD5": "md5", "SHA": "sha1", "SHA-256": "sha256", "SHA-512-256": "sha512_256", "SHA-512": "sha512"}
QUOTED = ("username", "realm", "nonce", "uri", "response", "cnonce", "opaque")  # RFC 7616 §3.4
UNQUOTED = ("algorithm", "stale", "userhash", "charset")  # in a challenge, §3.3
PARAM = re.compile(r"([\w*]+)=(?:\"((?:[^\"\\]|\\.)*)\"|([^\s\",]+))(?:, |$)")


class Refusal(Exception):
    """An answer that no client may give."""


@attrs.define(eq=False)
class Nonce:
    """What the server knows of one nonce: the highest count so far, all of them, and the key of a "-sess" algorithm."""

    highest: int = 0
    counts: set[str] = attrs.Factory(set)
    session: bytes | None = None
    spent: bool = False


class Doorkeeper:
    """An answer for `EchoServer`: lets in who proves by digest that he knows the password. Thread-safe.

    Strict: whoever answers other than RFC 7616 says gets 400, and is noted in `offences`.

    Args:
        challenges: What is asked, each a mapping of parameters beside realm and nonce.
        users: Passwords by user.
        realm: The realm.
        uses: How often a nonce may be used; then an answer is stale.
        in_turn: An answer with a lower count than one that came before is stale.
        hands_on: Each answer names the next nonce, which alone is good from then on.
        joined: All challenges go into one field.
        before: Challenges of other schemes, that come first.
        nonces: The nonces to give, instead of a new one each time.
        quotes: Quotes may be where they must not, as requests has them.
        proxy: It is a proxy: 407 and its fields.
        inside: The answer for who is let in.

    Attributes:
        offences: What clients did wrong, in words.
        refused, admitted: How often it said no, and yes.
        params: Those of every answer, in order.
    """

    def __init__(
        self,
        *challenges: dict[str, str],
        users: dict[str, str] | None = None,
        realm: str = "door",
        uses: int | None = None,
        in_turn: bool = False,
        hands_on: bool = False,
        joined: bool = True,
        before: tuple[str, ...] = (),
        nonces: Iterator[str] | None = None,
        quotes: bool = False,
        proxy: bool = False,
        inside: Answer | None = None,
    ) -> None:
        self.challenges = challenges or ({"qop": "auth"},)
        self.users = users or {"ada": "s3cret"}
        self.realm = realm
        self.uses = uses
        self.in_turn = in_turn
        self.hands_on = hands_on
        self.joined = joined
        self.before = before
        self.quotes = quotes
        self.inside = inside or page("welcome")
        self.status, self.asks, self.says, self.adds = (
            (407, "Proxy-Authenticate", "proxy-authorization", "Proxy-Authentication-Info")
            if proxy
            else (401, "WWW-Authenticate", "authorization", "Authentication-Info")
        )
        self.offences: list[str] = []
        self.params: list[dict[str, str]] = []
        self.refused = self.admitted = 0
        self._fresh = nonces or (f"nonce{number}+/=" for number in itertools.count(1))
        self._nonces: dict[str, Nonce] = {}
        self._lock = threading.Lock()

    def forget(self) -> None:
        """Know no nonce any more, as after a restart."""
        with self._lock:
            self._nonces.clear()

    def expire(self) -> None:
        """No nonce that was given is good any more."""
        with self._lock:
            for nonce in self._nonces.values():
                nonce.spent = True

    def __call__(self, seen: Seen) -> Answer:
        with self._lock:
            try:
                return self._judge(seen)
            except Refusal as refusal:
                self.offences.append(str(refusal))
                return Answer(str(refusal).encode(), 400)

    def _issue(self) -> str:
        nonce = next(self._fresh)
        self._nonces.setdefault(nonce, Nonce())
        return nonce

    def _refuse(self, *, stale: bool = False) -> Answer:
        self.refused += 1
        nonce = self._issue()
        fields = list(self.before)
        for challenge in self.challenges:
            params = {"realm": self.realm, "nonce": nonce, **challenge}
            if stale:
                params["stale"] = "true"
            told = [
                f"{name}={value}" if name in UNQUOTED else '{}="{}"'.format(name, re.sub(r'(["\\])', r"\\\1", value))
                for name, value in params.items()
            ]
            fields.append(f"Digest {', '.join(told)}")
        if self.joined:
            fields = [", ".join(fields)]
        return Answer(b"who are you?", self.status, [(self.asks, field) for field in fields])

    def _judge(self, seen: Seen) -> Answer:
        [said] = seen.all(self.says) or [""]
        if not said.startswith("Digest "):
            return self._refuse()
        params = self._read(said[len("Digest ") :])
        self.params.append(params)
        name = HASHES[params.get("algorithm", "MD5").upper().removesuffix("-SESS")]

        def hashed(*parts: bytes) -> bytes:
            return hashlib.new(name, b":".join(parts)).hexdigest().encode()

        target = seen.target if seen.target.startswith("/") else "/" + seen.target.split("/", 3)[3]
        if params["uri"] != target:
            raise Refusal(f"an answer for {params['uri']} was sent to {target}")
        realm = self.realm.encode("latin-1")
        if params.get("userhash") == "true":
            known = {hashed(user.encode(), realm): user for user in self.users}
            user = known.get(params["username"].encode(), "")
        elif "username*" in params:
            charset, _, encoded = params["username*"].split("'")
            assert charset == "UTF-8"
            user = unquote_to_bytes(encoded).decode()
        else:
            user = params["username"].encode("latin-1").decode()
        if user not in self.users:
            return self._refuse()
        nonce = self._nonces.get(params["nonce"])
        if nonce is None:
            return self._refuse()
        key = hashed(user.encode(), realm, self.users[user].encode())
        if params.get("algorithm", "").lower().endswith("-sess"):
            nonce.session = key = nonce.session or hashed(key, params["nonce"].encode(), params["cnonce"].encode())
        qop = params.get("qop", "")
        middle = [params["nc"].encode(), params["cnonce"].encode(), qop.encode()] if qop else []
        what = [seen.method.encode(), params["uri"].encode()]
        if qop == "auth-int":
            what.append(hashed(seen.body))
        proof = hashed(key, params["nonce"].encode(), *middle, hashed(*what))
        if params["response"].encode() != proof:
            return self._refuse()
        if qop and params["nc"] in nonce.counts:
            raise Refusal(f"count {params['nc']} of {params['nonce']} came twice")
        count = int(params["nc"], 16) if qop else nonce.highest + 1
        is_late, nonce.highest = count < nonce.highest, max(count, nonce.highest)
        nonce.counts.add(params.get("nc", ""))
        if nonce.spent or (is_late and self.in_turn) or (self.uses is not None and count > self.uses):
            return self._refuse(stale=True)
        self.admitted += 1
        info = [] if not qop else [f'rspauth="{self._rspauth(hashed, key, middle, params).decode()}"', f"qop={qop}"]
        if self.hands_on:
            nonce.spent = True
            following = self._issue()
            self._nonces[following].session = nonce.session
            info.append(f'nextnonce="{following}"')
        headers = [*self.inside.headers, (self.adds, ", ".join(info))] if info else self.inside.headers
        return attrs.evolve(self.inside, headers=headers)

    @staticmethod
    def _rspauth(hashed: Any, key: bytes, middle: list[bytes], params: dict[str, str]) -> bytes:
        proof: bytes = hashed(key, params["nonce"].encode(), *middle, hashed(b"", params["uri"].encode()))
        return proof

    def _read(self, said: str) -> dict[str, str]:
        """The parameters of an answer, if they are those that its challenge asks for."""
        params: dict[str, str] = {}
        at = 0
        while at < len(said):
            match = PARAM.match(said, at)
            if match is None:
                raise Refusal(f"an answer that cannot be read at {at}: {said}")
            name, quoted, bare = match.groups()
            if name in params:
                raise Refusal(f"{name} is said twice")
            if not self.quotes and (name in QUOTED) is (quoted is None):
                raise Refusal(f"{name} has quotes where it must not, or none where it must")
            params[name] = bare if quoted is None else re.sub(r"\\(.)", r"\1", quoted)
            at = match.end()
        asked = [each for each in self.challenges if each.get("algorithm") == params.get("algorithm")]
        if not asked:
            raise Refusal(f"nobody asked for {params.get('algorithm')}")
        [challenge] = asked
        offered = challenge.get("qop")
        wanted = {"realm", "nonce", "uri", "response"} | ({"qop", "nc", "cnonce"} if offered else set())
        wanted |= {"username*"} if "username*" in params else {"username"}
        wanted |= challenge.keys() & {"algorithm", "opaque"}
        wanted |= {"userhash"} if challenge.get("userhash") == "true" else set()
        if params.keys() != wanted:
            raise Refusal(f"{sorted(params)} instead of {sorted(wanted)}")
        if offered is not None and params["qop"] not in re.split(r"\s*,\s*", offered):
            raise Refusal(f"qop {params['qop']} was not offered")
        if offered is not None and not re.fullmatch("[0-9a-f]{8}", params["nc"]):
            raise Refusal(f"the count {params['nc']}")
        if params.get("opaque") != challenge.get("opaque"):
            raise Refusal("another opaque")
        if params["realm"] != self.realm:
            raise Refusal("another realm")
        return params


@pytest.fixture
def server() -> Iterator[EchoServer]:
    with EchoServer() as server:
        yield server


@pytest.fixture
def other() -> Iterator[EchoServer]:
    """Another origin."""
    with EchoServer() as other:
        yield other


@pytest.fixture
def session() -> Iterator[Session]:
    with Session() as session:
        session.trust_env = False
        yield session


@pytest.fixture
def ada() -> HTTPDigestAuth:
    return HTTPDigestAuth("ada", "s3cret")


# --- a challenge and its answer ---


@pytest.mark.parametrize("qop", ["auth", "auth-int", "auth,auth-int"])
@pytest.mark.parametrize("suffix", ["", "-sess"])
@pytest.mark.parametrize("algorithm", HASHES)
def test_each_algorithm_opens_the_door(
    algorithm: str, suffix: str, qop: str, server: EchoServer, session: Session, ada: HTTPDigestAuth
) -> None:
    """With the query and a body, three times; asked once."""
    door = Doorkeeper({"qop": qop, "algorithm": algorithm + suffix, "opaque": 'a"b'})
    server.answers["/door"] = door
    for _ in range(3):
        assert session.post(server.url + "/door?a=b%20c", data={"d": "e"}, auth=ada).text == "welcome"

    assert door.offences == []
    assert (door.refused, door.admitted) == (1, 3)
    assert [params["nc"] for params in door.params] == ["00000001", "00000002", "00000003"]
    assert [seen.body for seen in server.seen] == [b"d=e"] * 4


def test_a_server_of_rfc_2069(server: EchoServer, session: Session, ada: HTTPDigestAuth) -> None:
    """Without qop there are no counts, and the nonce is good for more than one request as well."""
    door = server.answers["/door"] = Doorkeeper({})
    for _ in range(3):
        assert session.get(server.url + "/door", auth=ada).text == "welcome"

    assert (door.offences, door.refused) == ([], 1)


def test_the_server_agrees_with_requests(server: EchoServer) -> None:
    """What tests ours lets in who is known to do it right, as far as that goes."""
    for algorithm in ("MD5", "SHA", "SHA-256", "SHA-512"):
        door = server.answers["/door"] = Doorkeeper({"qop": "auth", "algorithm": algorithm}, quotes=True)
        with requests.Session() as session:
            session.trust_env = False
            session.auth = requests.auth.HTTPDigestAuth("ada", "s3cret")
            for _ in range(3):
                assert session.get(server.url + "/door?a=b").text == "welcome"
            session.auth = requests.auth.HTTPDigestAuth("ada", "wrong")
            assert session.get(server.url + "/door?a=b").status_code == 401

        assert (door.offences, door.admitted) == ([], 3)


def test_the_handler_of_requests_itself(server: EchoServer, session: Session) -> None:
    """It is one of those that are made for requests and work on our sessions."""
    door = server.answers["/door"] = Doorkeeper({"qop": "auth", "algorithm": "SHA-256"}, quotes=True)
    session.auth = requests.auth.HTTPDigestAuth("ada", "s3cret")
    for _ in range(3):
        assert session.get(server.url + "/door?a=b").text == "welcome"

    assert (door.offences, door.refused) == ([], 1)


@pytest.mark.parametrize("joined", [True, False])
@pytest.mark.parametrize(
    ("challenges", "chosen"),
    [
        ([{"qop": "auth", "algorithm": "SHA-256"}, {"qop": "auth", "algorithm": "MD5"}], "SHA-256"),
        ([{"qop": "auth"}, {"qop": "auth", "algorithm": "SHA-512-256"}], "SHA-512-256"),
        ([{"qop": "auth", "algorithm": "SHA-3"}, {"qop": "auth", "algorithm": "MD5"}], "MD5"),
        ([{"qop": "auth-conf", "algorithm": "SHA-512"}, {"qop": "auth"}], None),
    ],
)
def test_several_challenges(
    challenges: list[dict[str, str]],
    chosen: str | None,
    joined: bool,
    server: EchoServer,
    session: Session,
    ada: HTTPDigestAuth,
) -> None:
    """In one field or in several, after other schemes: the strongest that is known is answered."""
    before = ("Negotiate", 'Basic realm="x, y", charset="UTF-8"')
    door = server.answers["/door"] = Doorkeeper(*challenges, joined=joined, before=before)

    assert session.get(server.url + "/door", auth=ada).text == "welcome"
    assert door.offences == []
    assert door.params[0].get("algorithm") == chosen


@pytest.mark.parametrize(
    "challenge", ["Basic realm=x", "Digest realm=x, nonce=y, algorithm=SHA-3", 'Digest realm="x, nonce=y', "", "Digest"]
)
def test_what_cannot_be_answered_is_given_back(
    challenge: str, server: EchoServer, session: Session, ada: HTTPDigestAuth
) -> None:
    """The 401 itself, after one request."""
    server.answers["/door"] = Answer(b"no", 401, [("WWW-Authenticate", challenge)])
    response = session.get(server.url + "/door", auth=ada)

    assert (response.status_code, response.text, response.history) == (401, "no", [])
    assert [seen.header("authorization") for seen in server.seen] == [None]


def test_a_wrong_password(server: EchoServer, session: Session) -> None:
    """Ends with the 401, after one answer each time; an answer from another's success is not tried."""
    door = server.answers["/door"] = Doorkeeper()
    wrong = HTTPDigestAuth("ada", "wrong")
    for _ in range(2):
        response = session.get(server.url + "/door", auth=wrong)

        assert (response.status_code, response.text) == (401, "who are you?")
        assert [each.status_code for each in response.history] == [401]
    assert (door.offences, door.refused, len(server.seen)) == ([], 4, 4)


def test_a_server_that_is_never_content(server: EchoServer, session: Session, ada: HTTPDigestAuth) -> None:
    """One for which every nonce is stale gets two answers, not one for each that it asks for."""
    door = server.answers["/door"] = Doorkeeper(uses=0)

    assert session.get(server.url + "/door", auth=ada).status_code == 401
    assert (door.offences, len(server.seen)) == ([], 3)


def test_what_led_to_the_answer(server: EchoServer, session: Session, ada: HTTPDigestAuth) -> None:
    """The history has the challenge, with its body; each response the request that it is for."""
    server.answers["/door"] = Doorkeeper()
    response = session.get(server.url + "/door", auth=ada)
    [challenged] = response.history

    assert challenged.text == "who are you?"
    assert "Authorization" not in challenged.request.headers
    assert response.request.headers["Authorization"].startswith("Digest ")
    assert response.url == server.url + "/door"


def test_names_and_passwords_of_all_letters(server: EchoServer, session: Session) -> None:
    """Quotes, backslashes and letters beyond ASCII, in the user's name, the password and the realm."""
    user, password, realm = 'J\u00e4 "s\\n', 'p\u00fc"\\\u20ac', 'caf\u00e9 "\\'.encode().decode("latin-1")
    for challenge in ({}, {"charset": "UTF-8"}, {"charset": "UTF-8", "userhash": "true"}):
        told = {"qop": "auth", "algorithm": "SHA-256", **challenge}
        door = server.answers["/door"] = Doorkeeper(told, users={user: password}, realm=realm)

        assert session.get(server.url + "/door", auth=HTTPDigestAuth(user, password)).text == "welcome"
        assert (door.offences, door.refused) == ([], 1)


# --- what is remembered ---


def test_a_nonce_that_is_too_old(server: EchoServer, session: Session, ada: HTTPDigestAuth) -> None:
    """stale=true is answered again, within the call."""
    door = server.answers["/door"] = Doorkeeper(uses=2)
    for _ in range(6):
        assert session.get(server.url + "/door", auth=ada).text == "welcome"

    assert door.offences == []
    assert [params["nc"][-1] for params in door.params] == list("12312312")


def test_a_nonce_that_is_stale_at_once(server: EchoServer, session: Session, ada: HTTPDigestAuth) -> None:
    """A second challenge of one request is answered too, if it says that the password was right."""
    door = Doorkeeper()
    asked = itertools.count(1)

    def slow(seen: Seen) -> Answer:
        if next(asked) == 2:
            door.expire()
        return door(seen)

    server.answers["/door"] = slow
    response = session.get(server.url + "/door", auth=ada)

    assert response.text == "welcome"
    assert [each.status_code for each in response.history] == [401, 401]
    assert (door.offences, len(server.seen)) == ([], 3)


def test_a_server_that_has_forgotten(server: EchoServer, session: Session, ada: HTTPDigestAuth) -> None:
    """One that knows the nonce no more, and does not call it stale, is answered once more."""
    door = server.answers["/door"] = Doorkeeper()
    session.get(server.url + "/door", auth=ada)
    door.forget()

    assert session.get(server.url + "/door", auth=ada).text == "welcome"
    assert (door.offences, door.refused) == ([], 2)


@pytest.mark.parametrize("algorithm", ["MD5", "SHA-256-sess"])
def test_a_server_that_hands_on_nonces(
    algorithm: str, server: EchoServer, session: Session, ada: HTTPDigestAuth
) -> None:
    """`nextnonce` is used for the next request, from count 1 (RFC 7616 §3.5)."""
    door = server.answers["/door"] = Doorkeeper({"qop": "auth", "algorithm": algorithm}, hands_on=True)
    for _ in range(4):
        assert session.get(server.url + "/door", auth=ada).text == "welcome"

    assert (door.offences, door.refused) == ([], 1)
    assert len({params["nonce"] for params in door.params}) == 4
    assert {params["nc"] for params in door.params} == {"00000001"}


def test_a_protection_space(server: EchoServer, session: Session, ada: HTTPDigestAuth) -> None:
    """Outside what `domain` names nothing is sent unasked, and a challenge there is answered."""
    door = Doorkeeper({"qop": "auth", "domain": "/in /also"})
    server.answers |= {"/in": door, "/in/side": door, "/out": door}
    for path in ("/in", "/in/side", "/out", "/"):
        session.get(server.url + path, auth=ada)

    assert (door.offences, door.admitted) == ([], 3)
    assert [(seen.path, seen.header("authorization") is not None) for seen in server.seen] == [
        ("/in", False),
        ("/in", True),
        ("/in/side", True),
        ("/out", False),
        ("/out", True),
        ("/", False),
    ]


def test_origins_do_not_learn_of_each_other(
    server: EchoServer, other: EchoServer, session: Session, ada: HTTPDigestAuth
) -> None:
    """Each is asked without an answer first, and has its own nonce and counts."""
    doors = [Doorkeeper(nonces=itertools.repeat("the same")) for _ in range(2)]
    server.answers["/door"], other.answers["/door"] = doors
    for _ in range(3):
        for each in (server, other):
            assert session.get(each.url + "/door", auth=ada).text == "welcome"

    for each, door in zip((server, other), doors, strict=True):
        assert (door.offences, door.refused) == ([], 1)
        assert [params["nc"][-1] for params in door.params] == list("123")
        assert [seen.header("authorization") is None for seen in each.seen] == [True, False, False, False]


def test_one_handler_for_many_sessions(server: EchoServer, ada: HTTPDigestAuth) -> None:
    """What one session was asked, another knows."""
    door = server.answers["/door"] = Doorkeeper()
    with SessionPool(auth=ada, trust_env=False) as pool:
        for _ in range(3):
            with pool.lease(fresh=True) as session:
                assert session.get(server.url + "/door").text == "welcome"

    assert (door.offences, door.refused) == ([], 1)


@pytest.mark.parametrize("same", [False, True], ids=["nonces of their own", "one nonce for all"])
@pytest.mark.parametrize("uses", [None, 5])
@pytest.mark.usefixtures("switch_interval")
def test_threads_do_not_repeat_a_count(uses: int | None, same: bool, server: EchoServer, ada: HTTPDigestAuth) -> None:
    """One handler in eight threads: the server sees no count of a nonce twice, and lets everybody in."""
    nonces = itertools.repeat("the same") if same and uses is None else None
    door = server.answers["/door"] = Doorkeeper(uses=uses, nonces=nonces)
    with SessionPool(auth=ada, trust_env=False, limits=Limits(per_host=8)) as pool:

        def work() -> list[int]:
            return [pool.get(server.url + "/door").status_code for _ in range(20)]

        answers = [status for call in [in_thread(work) for _ in range(8)] for status in call.get()]

    assert door.offences == []
    assert answers.count(200) == 160


@pytest.mark.usefixtures("switch_interval")
def test_threads_that_overtake_each_other(server: EchoServer, ada: HTTPDigestAuth) -> None:
    """A server that takes counts only in rising order lets everybody in: an answer to a challenge is not overtaken."""
    door = server.answers["/door"] = Doorkeeper(in_turn=True)
    with SessionPool(auth=ada, trust_env=False, limits=Limits(per_host=8)) as pool:

        def work() -> list[int]:
            return [pool.get(server.url + "/door").status_code for _ in range(20)]

        answers = [status for call in [in_thread(work) for _ in range(8)] for status in call.get()]

    assert door.offences == []
    assert answers.count(200) == 160


def test_nobody_has_a_key_before_its_first_answer_came_through(
    server: EchoServer, session: Session, ada: HTTPDigestAuth
) -> None:
    """Who asks meanwhile is challenged anew: with the next count he could arrive first, and the first be refused."""
    door = Doorkeeper(in_turn=True)
    arrived, go_on = threading.Event(), threading.Event()

    def slow(seen: Seen) -> Answer:
        if seen.header("authorization") is not None and not arrived.is_set():
            arrived.set()
            assert go_on.wait(20)
        return door(seen)

    server.answers["/door"] = slow
    with in_thread(session.get, server.url + "/door", auth=ada) as first:
        assert arrived.wait(20)
        with Session() as second:
            meanwhile = second.get(server.url + "/door", auth=ada)
        go_on.set()

    for response in (meanwhile, first.get()):
        assert response.text == "welcome"
        assert [each.status_code for each in response.history] == [401]
    assert door.offences == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_process_begins_anew(server: EchoServer, session: Session, ada: HTTPDigestAuth) -> None:
    """Its counts would be the parent's over again; and a lock held at the fork would be held for ever."""
    door = server.answers["/door"] = Doorkeeper()
    session.get(server.url + "/door", auth=ada)
    with ada._memory()._lock:
        child = os.fork()
        if not child:
            status = 1
            try:
                with Session() as own:
                    status = own.get(server.url + "/door", auth=ada).status_code != 200
            finally:
                os._exit(status)
    _, status = os.waitpid(child, 0)

    assert status == 0
    assert session.get(server.url + "/door", auth=ada).text == "welcome"
    assert (door.offences, door.refused) == ([], 2)


@pytest.mark.parametrize("twin_of", [copy.copy, copy.deepcopy, lambda each: pickle.loads(pickle.dumps(each))])
def test_a_twin_begins_anew(twin_of: Any, server: EchoServer, session: Session, ada: HTTPDigestAuth) -> None:
    """A copy, and what comes out of a pickle, knows who asks and has nothing of the challenges."""
    door = server.answers["/door"] = Doorkeeper()
    session.get(server.url + "/door", auth=ada)
    twin = twin_of(ada)

    assert twin == ada
    assert session.get(server.url + "/door", auth=twin).text == "welcome"
    assert (door.offences, door.refused) == ([], 2)


# --- redirects ---


def test_a_redirect_within_the_origin(server: EchoServer, session: Session, ada: HTTPDigestAuth) -> None:
    """An answer is for one URI; the next one gets its own."""
    inner = Doorkeeper()
    outer = Doorkeeper(inside=redirect("/inner?x"), nonces=(f"outer{number}" for number in itertools.count()))
    server.answers |= {"/outer": outer, "/inner": inner}
    for _ in range(3):
        response = session.get(server.url + "/outer", auth=ada)

        assert response.text == "welcome"
        assert response.url == server.url + "/inner?x"
    assert (inner.offences, outer.offences) == ([], [])


def test_a_redirect_shows_what_was_sent(server: EchoServer, session: Session, ada: HTTPDigestAuth) -> None:
    """The request in the history has the answer that it carried."""
    server.answers |= {"/door": Doorkeeper(), "/outer": Doorkeeper(inside=redirect("/elsewhere"))}
    for _ in range(2):
        response = session.get(server.url + "/outer", auth=ada)

        assert response.history[-1].request.headers["Authorization"].startswith("Digest ")


def test_a_redirect_to_another_origin(
    server: EchoServer, other: EchoServer, session: Session, ada: HTTPDigestAuth
) -> None:
    """It is sent no answer, and its challenge gets none: with it, it could try passwords at home."""
    there = other.answers["/there"] = Doorkeeper()
    here = server.answers["/door"] = Doorkeeper(inside=redirect(other.url + "/there"))
    for _ in range(2):
        response = session.get(server.url + "/door", auth=ada)

        assert (response.status_code, response.url) == (401, other.url + "/there")
    assert (here.offences, here.admitted) == ([], 2)
    assert [seen.header("authorization") for seen in other.seen] == [None, None]
    assert there.params == []


def test_there_and_back(server: EchoServer, other: EchoServer, session: Session, ada: HTTPDigestAuth) -> None:
    """Where a redirect leads back to the origin that was asked, that is answered again."""
    door = server.answers["/door"] = Doorkeeper()
    server.answers["/out"] = redirect(other.url + "/back")
    other.answers["/back"] = redirect(server.url + "/door")

    assert session.get(server.url + "/out", auth=ada).text == "welcome"
    assert (door.offences, door.refused) == ([], 1)
    assert [seen.header("authorization") for seen in other.seen] == [None]


# --- bodies, connections, cookies ---


def test_a_file_is_sent_again_from_where_it_was(server: EchoServer, session: Session, ada: HTTPDigestAuth) -> None:
    """Not from its start, nor from its end; with auth-int it is hashed from there as well."""
    for qop in ("auth", "auth-int"):
        door = server.answers["/door"] = Doorkeeper({"qop": qop})
        file = io.BytesIO(b"skipped body")
        for _ in range(2):
            file.seek(8)
            assert session.put(server.url + "/door", data=file, auth=HTTPDigestAuth("ada", "s3cret")).ok

        assert (door.offences, door.admitted) == ([], 2)
    assert {seen.body for seen in server.seen} == {b"body"}


def pieces() -> Iterator[bytes]:
    yield b"bo"
    yield b"dy"


def test_a_body_that_can_be_read_once(server: EchoServer, session: Session, ada: HTTPDigestAuth) -> None:
    """Raises instead of sending an empty one; after that the challenge is known, and the next one goes."""
    door = server.answers["/door"] = Doorkeeper()
    with pytest.raises(exceptions.UnrewindableBodyError, match="only once") as raised:
        session.post(server.url + "/door?token=t0ken", data=pieces(), auth=ada)

    assert raised.value.response is not None
    assert raised.value.response.status_code == 401
    assert "t0ken" not in str(raised.value)
    assert session.post(server.url + "/door", data=pieces(), auth=ada).text == "welcome"
    assert (door.offences, [seen.body for seen in server.seen]) == ([], [b"body"] * 2)


def test_a_body_that_can_be_read_once_and_a_wrong_password(server: EchoServer, session: Session) -> None:
    """When an answer has been refused, the 401 tells what is wrong better than an error about the body."""
    server.answers["/door"] = Doorkeeper()
    wrong = HTTPDigestAuth("ada", "wrong")
    with pytest.raises(exceptions.UnrewindableBodyError):
        session.post(server.url + "/door", data=pieces(), auth=wrong)

    assert session.post(server.url + "/door", data=pieces(), auth=wrong).status_code == 401
    assert session.post(server.url + "/door", data=pieces(), auth=wrong).status_code == 401


def test_a_hash_of_a_body_that_can_be_read_once(server: EchoServer, session: Session, ada: HTTPDigestAuth) -> None:
    """auth-int needs it before it is sent: raises, and sends nothing."""
    server.answers["/door"] = Doorkeeper({"qop": "auth-int"})
    session.get(server.url + "/door", auth=ada)
    sent = len(server.seen)
    with pytest.raises(exceptions.UnrewindableBodyError, match="auth-int"):
        session.post(server.url + "/door", data=pieces(), auth=ada)

    assert len(server.seen) == sent


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("size", [10, 1_000_000])
def test_one_connection_is_enough(size: int, stream: bool, server: EchoServer, ada: HTTPDigestAuth) -> None:
    """A challenge gives its connection back before the answer asks for one, however long its body."""
    door = Doorkeeper()

    def wordy(seen: Seen) -> Answer:
        answer = door(seen)
        return attrs.evolve(answer, body=b"x" * size) if answer.status == 401 else answer

    server.answers["/door"] = wordy
    with SessionPool(limits=Limits(per_host=1, total=1), auth=ada, trust_env=False) as pool:
        for _ in range(2):
            door.expire()
            response = pool.get(server.url + "/door", stream=stream, timeout=(5, 5))

            assert response.text == "welcome"
        assert pool.stats().leased == 0
    assert door.offences == []


def test_a_cookie_of_the_challenge_comes_back(server: EchoServer, session: Session, ada: HTTPDigestAuth) -> None:
    """With the answer, beside and before those that there were: some servers know by it whom they have asked."""
    door = Doorkeeper()

    def baking(seen: Seen) -> Answer:
        answer = door(seen)
        set_by = [*set_cookies("id=new", "far=1; Domain=example.org").headers] if answer.status == 401 else []
        return attrs.evolve(answer, headers=[*answer.headers, *set_by])

    server.answers["/door"] = baking
    session.cookies.set("id", "old")
    session.get(server.url + "/door", auth=ada, cookies={"own": "1"})

    assert server.seen[0].cookies == [("id", "old"), ("own", "1")]
    assert dict(server.seen[1].cookies) == {"id": "new", "own": "1"}


def test_hooks_do_not_pile_up(server: EchoServer, session: Session, ada: HTTPDigestAuth) -> None:
    """What a request is given to answer with stays on the request; a user's hook still sees what came in the end."""
    server.answers["/door"] = Doorkeeper()
    seen: list[int] = []

    def note(response: Response, **_: Any) -> None:
        seen.append(response.status_code)

    session.hooks["response"].append(note)
    session.auth = ada
    for _ in range(3):
        session.get(server.url + "/door")

    assert session.hooks["response"] == [note]
    assert seen == [200, 200, 200]


def test_a_prepared_request_sent_twice(server: EchoServer, session: Session, ada: HTTPDigestAuth) -> None:
    """Its answer was good for once; it is asked again, and gives another."""
    door = server.answers["/door"] = Doorkeeper(uses=1)
    prepared = session.prepare_request(Request("GET", server.url + "/door", auth=ada))

    assert session.send(prepared).text == "welcome"
    assert session.send(prepared).text == "welcome"
    assert (door.offences, door.admitted) == ([], 2)


def test_nothing_of_a_digest_is_shown(
    server: EchoServer, session: Session, ada: HTTPDigestAuth, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither password nor answer is in a repr or in the log."""
    caplog.set_level(0)
    server.answers["/door"] = Doorkeeper()
    response = session.get(server.url + "/door", auth=ada)
    answer = response.request.headers["Authorization"].partition("response=")[2][1:33]
    shown = [repr(each) for each in (ada, response, response.request, response.request.headers, response.request.hooks)]

    assert len(answer) == 32
    assert not [text for text in [*shown, *caplog.messages] if "s3cret" in text or answer in text]


# --- proxies ---


class DigestProxy(Server):
    """A proxy that lets nobody through without a digest, and answers by itself."""

    def __init__(self, door: Doorkeeper) -> None:
        super().__init__()
        self.seen: list[Seen] = []
        self._door = door

    def handle(self, stream: io.BufferedIOBase, sock: socket.socket, number: int) -> None:
        while (seen := read_request(stream)) is not None:
            self.seen.append(seen)
            write_answer(stream, self._door(seen), seen.method)


def test_a_proxy_that_wants_a_digest(session: Session) -> None:
    """Its 407 is answered, for each request anew: it is not known before which proxy a request will go through."""
    door = Doorkeeper({"qop": "auth", "algorithm": "SHA-256"}, proxy=True, inside=page("by proxy"))
    with DigestProxy(door) as proxy:
        session.proxies["http"] = proxy.url
        session.auth = HTTPProxyDigestAuth("ada", "s3cret")
        for _ in range(2):
            response = session.get("http://example.org/x?y")
            assert (response.text, [each.status_code for each in response.history]) == ("by proxy", [407])
        assert session.get("http://example.org/x?y", auth=HTTPProxyDigestAuth("ada", "wrong")).status_code == 407

    assert (door.offences, door.refused, door.admitted) == ([], 4, 2)
    assert {seen.header("authorization") for seen in proxy.seen} == {None}


def test_no_server_has_the_proxys_password(server: EchoServer, session: Session) -> None:
    """A 407 that came without a proxy is not answered: the origin would learn what is meant for another."""
    door = server.answers["/door"] = Doorkeeper(proxy=True)
    response = session.get(server.url + "/door", auth=HTTPProxyDigestAuth("ada", "s3cret"))

    assert response.status_code == 407
    assert (door.params, len(server.seen)) == ([], 1)


def test_a_proxys_digest_does_not_go_on(server: EchoServer, session: Session) -> None:
    """Where a redirect leads past the proxy, its answer stays behind."""
    door = Doorkeeper(proxy=True, inside=redirect(server.url + "/there"))
    with DigestProxy(door) as proxy:
        session.proxies["http://example.org"] = proxy.url
        assert session.get("http://example.org/", auth=HTTPProxyDigestAuth("ada", "s3cret")).ok

    assert door.offences == []
    assert [seen.header("proxy-authorization") for seen in server.seen] == [None]


def test_a_request_that_was_prepared_pickles(session: Session, server: EchoServer, ada: HTTPDigestAuth) -> None:
    """With what it answers by: sent by another session, it is let in."""
    door = server.answers["/door"] = Doorkeeper()
    prepared: PreparedRequest = session.prepare_request(Request("GET", server.url + "/door", auth=ada))

    assert session.send(pickle.loads(pickle.dumps(prepared))).text == "welcome"
    assert (door.offences, door.refused) == ([], 1)


# --- who says who asks ---


def by(user: str) -> str:
    return "Basic " + b64encode(f"{user}:word".encode()).decode()


@pytest.fixture
def netrc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file with a password for this machine."""
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    file = tmp_path / "netrc"
    file.write_text("machine 127.0.0.1 login netrc password word\n")
    monkeypatch.setenv("NETRC", str(file))
    return file


# What says it, and whose word counts; each is there unless it is named.
SAYING: dict[str, tuple[set[str], str | None]] = {
    "the call's": (set(), by("call")),
    "then the session's": ({"call"}, by("session")),
    "then the URL's": ({"call", "session"}, by("url")),
    "then a header set by hand": ({"call", "session", "url"}, "Bearer by hand"),
    "then a header of the session": ({"call", "session", "url", "hand"}, "Bearer of the session"),
    "then the file": ({"call", "session", "url", "hand", "header"}, by("netrc")),
    "then nobody": ({"call", "session", "url", "hand", "header", "netrc"}, None),
    "not the file, where the environment is not trusted": (
        {"call", "session", "url", "hand", "header", "environment"},
        None,
    ),
}


@pytest.mark.parametrize(("without", "value"), SAYING.values(), ids=SAYING)
def test_whose_word_counts(without: set[str], value: str | None, netrc: Path, server: EchoServer) -> None:
    """The nearest to the call; the netrc file is asked last, and never overrides a header (requests #3929)."""
    if "netrc" in without:
        netrc.unlink()
    url = server.url if "url" in without else server.url.replace("//", "//url:word@")
    with Session() as session:
        session.trust_env = "environment" not in without
        session.auth = None if "session" in without else ("session", "word")
        if "header" not in without:
            session.headers["Authorization"] = "Bearer of the session"
        session.get(
            url,
            auth=None if "call" in without else ("call", "word"),
            headers={} if "hand" in without else {"authorization": "Bearer by hand"},
        )

    assert server.seen[0].all("authorization") == ([] if value is None else [value])


@pytest.mark.usefixtures("netrc")
@pytest.mark.parametrize("userinfo", ["", "u:p@", "127.0.0.1:x@", "127.0.0.1%2F:x@", "127.0.0.1%40@", "@"])
def test_the_host_is_that_of_the_request(userinfo: str, server: EchoServer) -> None:
    """CVE-2024-47081: nothing else in a URL is taken for the host whose password is sent."""
    url = server.url.replace("127.0.0.1", "localhost").replace("//", "//" + userinfo)
    with Session() as session:
        session.get(url + "/@127.0.0.1/?http://127.0.0.1#127.0.0.1")

    assert by("netrc") not in server.seen[0].all("authorization")


@pytest.mark.usefixtures("netrc")
def test_a_redirect_to_a_host_of_the_file(server: EchoServer) -> None:
    """The password of one host does not go to another; the other's own does (as with requests and curl)."""
    local = server.url.replace("127.0.0.1", "localhost")
    server.answers |= {"/out": redirect(local + "/back"), "/back": redirect(server.url + "/in")}
    with Session() as session:
        session.get(server.url + "/out")

    assert [seen.header("authorization") for seen in server.seen] == [by("netrc"), None, by("netrc")]


@pytest.mark.usefixtures("netrc")
def test_a_redirect_of_one_who_answers(server: EchoServer, ada: HTTPDigestAuth) -> None:
    """Within the origin the file is not asked: it is said already who asks, even where nothing is sent unasked."""
    door = server.answers["/inner"] = Doorkeeper()
    server.answers["/outer"] = Doorkeeper(inside=redirect("/inner"))
    with Session() as session:
        for _ in range(2):
            assert session.get(server.url + "/outer", auth=ada).text == "welcome"

    assert door.offences == []
    assert not [seen for seen in server.seen if by("netrc") in seen.all("authorization")]


@pytest.mark.usefixtures("netrc")
def test_a_pool_reads_the_file_once(netrc: Path, server: EchoServer) -> None:
    """When it is made; its sessions share what was read, and its repr has nothing of it."""
    with SessionPool() as pool:
        netrc.unlink()
        pool.get(server.url)
        with pool.lease(fresh=True) as session:
            session.get(server.url)
            shown = repr(pool) + repr(session) + repr(session._defaults)

    assert [seen.header("authorization") for seen in server.seen] == [by("netrc")] * 2
    assert "word" not in shown


def test_a_digest_by_an_adapter_of_ones_own(server: EchoServer, session: Session, ada: HTTPDigestAuth) -> None:
    """What is mounted sends the answer as well."""
    sent: list[str] = []

    class Counting(HTTPAdapter):
        def send(self, request: PreparedRequest, *args: Any, **kwargs: Any) -> Response:
            sent.append(request.method)
            return super().send(request, *args, **kwargs)

    door = server.answers["/door"] = Doorkeeper()
    session.mount("http://", Counting())
    for _ in range(2):
        assert session.get(server.url + "/door", auth=ada).text == "welcome"

    assert (door.offences, sent) == ([], ["GET"] * 3)
