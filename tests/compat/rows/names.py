"""What can be imported, and what it is: codes, structures, exceptions, helpers."""

from __future__ import annotations

import builtins
import inspect
import json
import operator
from typing import Any

import requests

from tests.compat.sides import Row
from tests.compat.stage import Stage

_SESSION = (
    "adapters auth cert close cookies delete get get_adapter get_redirect_target head headers hooks max_redirects "
    "merge_environment_settings mount options params patch post prepare_request proxies put rebuild_auth "
    "rebuild_method rebuild_proxies request resolve_redirects send should_strip_auth stream trust_env verify"
)
_RESPONSE = (
    "apparent_encoding close content cookies elapsed encoding headers history is_permanent_redirect is_redirect "
    "iter_content iter_lines json links next ok raise_for_status raw reason request status_code text url connection"
)
_PREPARED = (
    "body copy deregister_hook headers hooks method path_url prepare prepare_auth prepare_body prepare_content_length "
    "prepare_cookies prepare_headers prepare_hooks prepare_method prepare_url register_hook url"
)
_ADAPTER = "add_headers close init_poolmanager max_retries proxy_headers proxy_manager_for send"
_JAR = (
    "clear copy get get_dict items iteritems iterkeys itervalues keys list_domains list_paths multiple_domains pop set "
    "set_cookie update values"
)
_EXCEPTIONS = sorted(
    name
    for name, each in vars(requests.exceptions).items()
    if isinstance(each, type) and issubclass(each, requests.RequestException)
)
_MODULES = "adapters auth cookies exceptions hooks models sessions status_codes structures utils"
# What requests' own modules use among themselves, and others now and then.
_SCAFFOLDING = (
    "dict_to_sequence extract_zipped_paths from_key_val_list get_auth_from_url get_environ_proxies get_netrc_auth "
    "guess_filename guess_json_utf iter_slices parse_dict_header parse_list_header prepend_scheme_if_needed "
    "resolve_proxies rewind_body select_proxy should_bypass_proxies super_len to_key_val_list unquote_unreserved "
    "urldefragauth"
)
_PACKAGE = (
    "ConnectTimeout ConnectionError HTTPError JSONDecodeError PreparedRequest ReadTimeout Request RequestException "
    "Response Session Timeout TooManyRedirects URLRequired codes delete get head options patch post put request session"
)
# Numbers that others bear by now: 414 and 103 (RFC 9110 §15.5.15, RFC 8297).
_OLD_CODES = ("request_uri_too_long", "REQUEST_URI_TOO_LONG", "early-hints", "EARLY-HINTS")
_CODES = sorted(vars(requests.codes).keys() - {"name", *_OLD_CODES})


def _missing(names: Any, of: Any) -> Any:
    return lambda r, s: [name for name in names.split() if not hasattr(of(r, s), name)]


def _signature(path: str) -> Any:
    """The names by which arguments may be given, of those that requests has."""
    of = operator.attrgetter(path)

    def call(r: Any, s: Stage) -> Any:
        theirs = inspect.signature(of(requests)).parameters
        takes = inspect.signature(of(r)).parameters
        anything = any(each.kind is each.VAR_KEYWORD for each in takes.values())
        return [name for name, each in theirs.items() if each.kind is each.VAR_KEYWORD or name in takes or anything]

    return call


def _ancestry(name: Any) -> Any:
    """Which of requests' and Python's errors this one can be caught as."""

    def call(r: Any, s: Stage) -> Any:
        kinds = [getattr(r.exceptions, each) for each in _EXCEPTIONS]
        kinds += [OSError, ValueError, TypeError, json.JSONDecodeError, builtins.Exception]
        ours = getattr(r.exceptions, name)
        return [kind.__name__ for kind in kinds if issubclass(ours, kind)]

    return call


def _dict(r: Any) -> Any:
    return r.structures.CaseInsensitiveDict({"Content-Type": "a", "X-B": "b"})


ROWS = [
    Row("names/package", _missing(_PACKAGE, lambda r, s: r)),
    Row("names/modules", _missing(_MODULES, lambda r, s: r)),
    Row("names/modules-inside", _missing("api compat certs", lambda r, s: r), "names-left-out"),
    Row("names/session", _missing(_SESSION, lambda r, s: s.session(r))),
    Row("names/response", _missing(_RESPONSE, lambda r, s: r.get(s.page()))),
    Row(
        "names/request",
        _missing(
            "method url headers files data json params auth cookies hooks prepare register_hook deregister_hook",
            lambda r, s: r.Request(),
        ),
    ),
    Row("names/prepared", _missing(_PREPARED, lambda r, s: r.Request("GET", "http://example.com/").prepare())),
    Row("names/adapter", _missing(_ADAPTER, lambda r, s: r.adapters.HTTPAdapter()), "adapter-inside"),
    Row("names/jar", _missing(_JAR, lambda r, s: r.cookies.RequestsCookieJar())),
    Row("names/auth", _missing("AuthBase HTTPBasicAuth HTTPProxyAuth HTTPDigestAuth", lambda r, s: r.auth)),
    Row(
        "names/cookies",
        _missing(
            "RequestsCookieJar CookieConflictError cookiejar_from_dict create_cookie merge_cookies",
            lambda r, s: r.cookies,
        ),
    ),
    Row("names/models", _missing("Request PreparedRequest Response", lambda r, s: r.models)),
    Row("names/sessions", _missing("Session session", lambda r, s: r.sessions)),
    *(
        Row(f"signatures/{name.replace('_', '-')}", _signature(f"Session.{name}"))
        for name in (
            "request",
            "get",
            "post",
            "put",
            "send",
            "mount",
            "prepare_request",
            "merge_environment_settings",
            "resolve_redirects",
            "should_strip_auth",
            "rebuild_auth",
        )
    ),
    *(
        Row(f"signatures/one-off-{name}", _signature(name))
        for name in ("request", "get", "options", "head", "post", "put", "patch", "delete")
    ),
    Row("signatures/request-class", _signature("Request")),
    Row("signatures/http-adapter", _signature("adapters.HTTPAdapter")),
    Row("signatures/adapter-send", _signature("adapters.HTTPAdapter.send")),
    Row("signatures/iter-content", _signature("Response.iter_content")),
    Row("signatures/iter-lines", _signature("Response.iter_lines")),
    Row(
        "signatures/iter-lines-defaults",
        lambda r, s: [p.default for p in inspect.signature(r.Response.iter_lines).parameters.values()][1:],
    ),
    Row("signatures/prepare", _signature("PreparedRequest.prepare")),
    Row(
        "signatures/jar-set",
        lambda r, s: r.cookies.RequestsCookieJar().set("a", "1", domain="a.example", path="/p").name,
    ),
    *(Row(f"exceptions/{name}", _ancestry(name)) for name in _EXCEPTIONS),
    Row(
        "exceptions/warnings",
        lambda r, s: [
            issubclass(getattr(r.exceptions, name), Warning)
            for name in ("RequestsWarning", "FileModeWarning", "RequestsDependencyWarning")
        ],
    ),
    # --- codes ---
    Row("codes/all", lambda r, s: {name: r.codes.get(name) for name in _CODES}),
    Row("codes/old-numbers", lambda r, s: [r.codes.get(name) for name in _OLD_CODES], "codes-numbers"),
    Row("codes/by-attribute", lambda r, s: [r.codes.ok, r.codes.NOT_FOUND, r.codes.teapot, r.codes.im_a_teapot]),
    Row("codes/odd-names", lambda r, s: [r.codes["\\o/"], r.codes["✓"]]),
    Row("codes/unknown-attribute", lambda r, s: r.codes.nothing),
    Row("codes/unknown-item", lambda r, s: r.codes["nothing"], "unknown-codes", raises="KeyError"),
    Row("codes/get", lambda r, s: [r.codes.get("ok"), r.codes.get("nothing"), r.codes.get("nothing", 5)]),
    Row("codes/compared", lambda r, s: r.get(s.page()).status_code == r.codes.ok),
    Row("codes/module", lambda r, s: r.status_codes.codes.ok),
    # --- structures ---
    Row("structures/get", lambda r, s: [_dict(r)["content-type"], _dict(r)["CONTENT-TYPE"], _dict(r).get("x-b")]),
    Row("structures/keeps-case", lambda r, s: list(_dict(r).items())),
    Row("structures/last-case", lambda r, s: _set_again(_dict(r))),
    Row("structures/delete", lambda r, s: _deleted(_dict(r))),
    Row("structures/missing", lambda r, s: _dict(r)["nothing"]),
    Row(
        "structures/equal",
        lambda r, s: [_dict(r) == {"content-type": "a", "x-b": "b"}, _dict(r) == {"x": 1}, _dict(r) == 5],
    ),
    Row("structures/copy", lambda r, s: _dict(r).copy()),
    Row("structures/lower-items", lambda r, s: list(_dict(r).lower_items())),
    Row("structures/repr", lambda r, s: [repr(_dict(r)), str(_dict(r))]),
    Row(
        "structures/repr-of-secrets",
        lambda r, s: repr(r.structures.CaseInsensitiveDict(Authorization="secret")),
        "no-secrets-in-repr",
    ),
    Row("structures/update", lambda r, s: _updated(_dict(r))),
    Row("structures/length", lambda r, s: [len(_dict(r)), "X-b" in _dict(r), bool(r.structures.CaseInsensitiveDict())]),
    Row("structures/pop", lambda r, s: _dict(r).pop("X-B")),
    Row("structures/setdefault", lambda r, s: _dict(r).setdefault("x-b", "z")),
    Row("structures/key-not-text", lambda r, s: r.structures.CaseInsensitiveDict({1: 2})),
    Row("structures/keywords", lambda r, s: r.structures.CaseInsensitiveDict(a=1)["A"]),
    Row("structures/pairs", lambda r, s: r.structures.CaseInsensitiveDict([("a", 1)])["A"]),
    # --- helpers that people import ---
    Row("utils/quote", lambda r, s: r.utils.quote("a b/ü")),
    Row("utils/unquote", lambda r, s: r.utils.unquote("a%20b")),
    Row("utils/urlparse", lambda r, s: r.utils.urlparse("http://a.example/b").netloc),
    Row("utils/requote-uri", lambda r, s: r.utils.requote_uri("http://a.example/a b%20c/ü")),
    Row("utils/default-headers", lambda r, s: sorted(r.utils.default_headers())),
    Row("utils/default-user-agent", lambda r, s: r.utils.default_user_agent("mine").split("/")[0]),
    Row(
        "utils/parse-header-links",
        lambda r, s: r.utils.parse_header_links('</a>; rel="next"; type="x", </b>; rel=last'),
    ),
    Row(
        "utils/get-encoding",
        lambda r, s: r.utils.get_encoding_from_headers(
            r.structures.CaseInsensitiveDict({"content-type": "text/html; charset=x"})
        ),
    ),
    Row("utils/own-scaffolding", _missing(_SCAFFOLDING, lambda r, s: r.utils), "names-left-out"),
]


def _set_again(mapping: Any) -> Any:
    mapping["CONTENT-type"] = "c"
    return list(mapping.items())


def _deleted(mapping: Any) -> Any:
    del mapping["x-B"]
    return mapping


def _updated(mapping: Any) -> Any:
    mapping.update({"x-b": "c", "X-C": "d"})
    return mapping
