"""URLs, proxies and the environment."""

from __future__ import annotations

from typing import Any

from tests.compat.sides import Row, given
from tests.compat.stage import Stage

_PREPARED = {
    "plain": "http://example.com/path?x=1#frag",
    "bare": "http://example.com",
    "bare-query": "http://example.com?x=1",
    "bare-fragment": "http://example.com#frag",
    "upper-case-scheme": "HTTP://example.com/",
    "upper-case-host": "http://EXAMPLE.com/PATH",
    "default-port": "http://example.com:80/",
    "default-port-tls": "https://example.com:443/",
    "empty-port": "http://example.com:/",
    "leading-space": "  http://example.com/",
    "space-in-path": "http://example.com/a b",
    "space-in-query": "http://example.com/?a b",
    "plus": "http://example.com/a+b?c+d",
    "unicode-path": "http://example.com/größe",
    "unicode-query": "http://example.com/?größe=ja",
    "unicode-fragment": "http://example.com/#größe",
    "escaped": "http://example.com/a%20b%2Fc?d%26e",
    "escaped-unreserved": "http://example.com/%7Euser/%41",
    "percent-alone": "http://example.com/100%",
    "percent-bad": "http://example.com/%zz",
    "percent-in-query": "http://example.com/?a=100%",
    "reserved-in-path": "http://example.com/a:b@c!d$e&f'g(h)i*j+k,l;m=n",
    "reserved-in-query": "http://example.com/?a:b@c!d$e'f(g)h*i+j,k;l=m/n?o",
    "brackets-in-query": "http://example.com/?a[]=1&b[c]=2",
    "brackets-in-path": "http://example.com/[a]",
    "braces": "http://example.com/{a}|^`",
    "quotes": 'http://example.com/"a"<b>',
    "backslash": "http://example.com/a\\b",
    "dollar-hash": "http://example.com/#a#b",
    "question-marks": "http://example.com/?a?b",
    "empty-query": "http://example.com/?",
    "empty-fragment": "http://example.com/#",
    "semicolon-parameters": "http://example.com/a;b=c/d;e",
    "double-slash": "http://example.com//a//b",
    "dots": "http://example.com/a/../b/./c",
    "dots-at-the-end": "http://example.com/a/..",
    "dots-above-the-root": "http://example.com/../../a",
    "dots-escaped": "http://example.com/a/%2e%2e/b",
    "dots-three": "http://example.com/.../a",
    "userinfo": "http://user:password@example.com/",
    "userinfo-escaped": "http://us%40er:pa%3Ass@example.com/",
    "userinfo-empty": "http://@example.com/",
    "userinfo-at": "http://user@name:password@example.com/",
    "ipv4": "http://127.0.0.1:8000/",
    "ipv6": "http://[::1]/",
    "ipv6-port": "http://[2001:DB8::1]:8080/a",
    "ipv6-zone": "http://[fe80::1%25eth0]/",
    "ipv6-zone-bare": "http://[fe80::1%eth0]/",
    "idna": "http://bücher.example/",
    "idna-upper": "http://BÜCHER.example/",
    "idna-sharp-s": "http://straße.example/",
    "idna-cyrillic": "http://пример.испытание/",
    "idna-cjk": "http://例え.テスト/",
    "idna-encoded": "http://xn--bcher-kva.example/",
    "idna-fullwidth-dot": "http://a。example/",
    "idna-emoji": "http://☃.example/",
    "underscore": "http://my_host.example/",
    "trailing-dot": "http://example.com./",
    "localhost": "http://localhost:8000/",
    "tab-in-path": "http://example.com/a\tb",
    "line-break-in-path": "http://example.com/a\nb",
    "trailing-space": "http://example.com/a ",
    "control-in-path": "http://example.com/a\x01b",
    "trailing-line-break": "http://example.com/a\n",
    "percent-beside-an-escape": "http://example.com/a%20b%",
    "dots-then-empty": "http://example.com/..//a",
    "port-0": "http://example.com:0/",
    "ipv4-hexadecimal": "http://0X7F.1/",
    "ipv6-zone-empty": "http://[fe80::1%25]/",
    "idna-fullwidth": "http://\uff45\uff58.example/",
    "idna-escaped": "http://b%C3%BCcher.example/",
    "tilde": "http://example.com/~user",
    "long": "http://example.com/" + "a" * 3000,
    "surrogate-pair": "http://example.com/😀",
}
# The rows that differ: the entry of docs/requests.md that says why.
_PREPARED_DIFFER = {
    "empty-query": "empty-query",
    "empty-fragment": "empty-query",
    "dots-escaped": "escaped-dots",
    "dots-then-empty": "escaped-dots",
    "percent-beside-an-escape": "stray-percent",
    "trailing-space": "blanks-behind",
    "trailing-line-break": "blanks-behind",
    "port-0": "port-0",
    "idna-fullwidth-dot": "host-names",
    "idna-fullwidth": "host-names",
    "idna-escaped": "host-names",
    "ipv4-hexadecimal": "host-names",
    "ipv6-zone-empty": "host-names",
}


def _proxied(proxies: Any, url: Any = "{other}/a", **kwargs: Any) -> Any:
    """A call through what stands for a proxy, which is the first server, whatever it is asked for."""

    def call(r: Any, s: Stage) -> Any:
        filled = {name: None if proxy is None else proxy.format(url=s.url) for name, proxy in proxies.items()}
        return r.get(url.format(url=s.url, other=s.other, dead=s.dead, tls=s.tls), proxies=filled, **kwargs)

    return call


def _plain(url: Any = "{other}/a", **kwargs: Any) -> Any:
    return _proxied({}, url, **kwargs)


def _environment(**variables: Any) -> Any:
    return lambda s: {name: value.format(url=s.url, dead=s.dead) for name, value in variables.items()}


def _session(r: Any, s: Stage, trust_env: Any = True, **attributes: Any) -> Any:
    session = s.session(r)
    session.trust_env = trust_env
    for name, value in attributes.items():
        setattr(session, name, value)
    return session


ROWS = [
    *(
        Row(
            f"urls/{name}",
            given(lambda r, s, url: r.Request("GET", url).prepare(), url),
            _PREPARED_DIFFER.get(name, ""),
            raises="InvalidURL" if name == "ipv6-zone-empty" else "",
        )
        for name, url in _PREPARED.items()
    ),
    *(
        Row(f"urls/sent-{name}", given(lambda r, s, tail: r.get(s.url + tail), tail))
        for name, tail in {
            "bare": "",
            "query-only": "?x=1",
            "fragment": "/a#there",
            "space": "/a b",
            "unicode": "/größe?ü=ö",
            "escaped": "/a%2Fb%20c",
            "double-slash": "//a",
            "semicolon": "/a;b",
            "quotes": "/a'b\"c",
            "brackets": "/?a[]=1",
            "percent-alone": "/100%",
            "at-sign": "/a@b",
            "colon": "/a:b",
            "upper": "/A?B=C",
        }.items()
    ),
    Row("urls/sent-dots", lambda r, s: r.get(s.url + "/a/../b")),
    Row("urls/sent-lower-case-escape", lambda r, s: r.get(s.url + "/a%2fb")),
    Row("urls/sent-localhost", lambda r, s: r.get(s.url.replace("127.0.0.1", "localhost") + "/a")),
    Row("urls/sent-upper-case-host", lambda r, s: r.get(s.url.replace("127.0.0.1", "LOCALHOST") + "/a")),
    Row("urls/sent-leading-space", lambda r, s: r.get("  " + s.url + "/a")),
    # --- proxies ---
    Row("proxies/http", _proxied({"http": "{url}"})),
    Row("proxies/without-scheme", lambda r, s: r.get(s.other + "/a", proxies={"http": s.url.removeprefix("http://")})),
    Row("proxies/all", _proxied({"all": "{url}"})),
    Row("proxies/for-a-host", _proxied({"http://127.0.0.2": "{url}"})),
    Row("proxies/for-another-host", _proxied({"http://127.0.0.9": "{url}"})),
    Row(
        "proxies/for-a-host-before-scheme",
        lambda r, s: r.get(s.other + "/a", proxies={"http": s.dead, "http://127.0.0.2": s.url}),
    ),
    Row("proxies/all-for-a-host", _proxied({"all://127.0.0.2": "{url}"})),
    Row("proxies/only-https", _proxied({"https": "{url}"})),
    Row("proxies/empty", _proxied({})),
    Row("proxies/none-value", _proxied({"http": None})),
    Row("proxies/empty-value", _proxied({"http": ""})),
    Row(
        "proxies/userinfo",
        lambda r, s: r.get(s.other + "/a", proxies={"http": s.url.replace("//", "//user:pass%20word@")}),
    ),
    Row(
        "proxies/userinfo-redirect",
        lambda r, s: r.get(
            s.script("/a", _moved(s)) and s.other + "/a", proxies={"http": s.url.replace("//", "//user:password@")}
        ),
    ),
    Row("proxies/path-ignored", lambda r, s: r.get(s.other + "/a", proxies={"http": s.url + "/proxy"})),
    Row("proxies/query-and-fragment", _proxied({"http": "{url}"}, "{other}/a?b=c#d")),
    Row("proxies/host-header", _proxied({"http": "{url}"}, "{other}/a", headers={"Host": "example.com"})),
    Row("proxies/unknown-name", _proxied({"http": "{url}"}, "http://x.invalid/a")),
    Row("proxies/post", lambda r, s: r.post(s.other + "/a", data="x", proxies={"http": s.url})),
    Row("proxies/refused", lambda r, s: r.get(s.other + "/a", proxies={"http": s.dead})),
    Row("proxies/unknown-proxy", lambda r, s: r.get(s.other + "/a", proxies={"http": "http://x.invalid:3128"})),
    Row("proxies/bad-url", lambda r, s: r.get(s.other + "/a", proxies={"http": "http:///nowhere"})),
    Row("proxies/bad-port", lambda r, s: r.get(s.other + "/a", proxies={"http": "http://127.0.0.1:port"})),
    Row(
        "proxies/bad-scheme",
        lambda r, s: r.get(s.other + "/a", proxies={"http": "ftp://127.0.0.1:21"}),
        "proxy-scheme",
        raises="InvalidSchema",
    ),
    Row("proxies/tunnel-refused", lambda r, s: _tunnelled(r, s, 403), "connect-host", "seen", raises="ProxyError"),
    Row(
        "proxies/tunnel-needs-password", lambda r, s: _tunnelled(r, s, 407), "connect-host", "seen", raises="ProxyError"
    ),
    Row("proxies/tunnel-dead", lambda r, s: r.get(s.tls + "/a", proxies={"https": s.dead}, verify=s.ca)),
    Row("proxies/session", lambda r, s: _session(r, s, proxies={"http": s.url}).get(s.other + "/a")),
    Row(
        "proxies/session-and-call",
        lambda r, s: _session(r, s, proxies={"http": s.dead}).get(s.other + "/a", proxies={"http": s.url}),
    ),
    Row(
        "proxies/session-update",
        lambda r, s: [
            (session := s.session(r)).proxies.update({"http": s.url}),
            session.get(s.other + "/a").status_code,
        ],
    ),
    Row("proxies/environment", _plain(), environment=_environment(HTTP_PROXY="{url}")),
    Row("proxies/environment-lower-case", _plain(), environment=_environment(http_proxy="{url}")),
    Row("proxies/environment-all", _plain(), environment=_environment(ALL_PROXY="{url}")),
    Row(
        "proxies/environment-without-scheme",
        lambda r, s: r.get(s.other + "/a"),
        environment=lambda s: {"http_proxy": s.url.removeprefix("http://")},
    ),
    Row("proxies/environment-only-https", _plain(), environment=_environment(HTTPS_PROXY="{dead}")),
    Row(
        "proxies/environment-not-trusted",
        lambda r, s: _session(r, s, trust_env=False).get(s.other + "/a"),
        environment=_environment(http_proxy="{dead}"),
    ),
    Row("proxies/environment-and-call", _proxied({"http": "{url}"}), environment=_environment(http_proxy="{dead}")),
    Row(
        "proxies/environment-and-session",
        lambda r, s: _session(r, s, proxies={"http": s.url}).get(s.other + "/a"),
        "session-proxies-over-environment",
        ("got", "seen"),
        environment=_environment(http_proxy="{dead}"),
    ),
    Row("proxies/environment-and-call-none", _proxied({"http": None}), environment=_environment(http_proxy="{url}")),
    Row("proxies/environment-empty", _plain(), environment=_environment(http_proxy="")),
    *(
        Row(f"proxies/no-proxy-{name}", _plain(), environment=_environment(http_proxy="{url}", no_proxy=value))
        for name, value in {
            "host": "127.0.0.2",
            "star": "*",
            "network": "127.0.0.0/8",
            "other-network": "10.0.0.0/8",
            "list": "example.com, 127.0.0.2",
            "spaces": " 127.0.0.2 ",
            "other": "127.0.0.3",
            "empty": "",
        }.items()
    ),
    Row(
        "proxies/no-proxy-port",
        _plain(),
        environment=lambda s: {"http_proxy": s.url, "no_proxy": s.other.removeprefix("http://")},
        differs="no-proxy-port",
        where=("got", "seen"),
    ),
    Row(
        "proxies/no-proxy-name",
        lambda r, s: r.get(s.url.replace("127.0.0.1", "localhost") + "/a"),
        environment=_environment(http_proxy="{dead}", no_proxy="localhost"),
    ),
    Row(
        "proxies/no-proxy-suffix",
        lambda r, s: r.get("http://a.example.invalid/"),
        environment=_environment(http_proxy="{url}", no_proxy=".example.invalid"),
    ),
    Row(
        "proxies/no-proxy-suffix-without-dot",
        lambda r, s: r.get("http://a.example.invalid/"),
        environment=_environment(http_proxy="{url}", no_proxy="example.invalid"),
    ),
    Row(
        "proxies/no-proxy-inside-a-word",
        lambda r, s: r.get("http://anexample.invalid/"),
        environment=_environment(http_proxy="{url}", no_proxy="example.invalid"),
    ),
    Row("proxies/no-proxy-upper-case", _plain(), environment=_environment(http_proxy="{url}", NO_PROXY="127.0.0.2")),
    Row("proxies/no-proxy-of-the-call", _proxied({"http": "{url}", "no_proxy": "127.0.0.2"})),
    Row(
        "proxies/no-proxy-does-not-bind-the-call",
        _proxied({"http": "{url}"}),
        environment=_environment(no_proxy="127.0.0.2"),
    ),
    Row(
        "proxies/no-proxy-does-not-bind-the-session",
        lambda r, s: _session(r, s, proxies={"http": s.url}).get(s.other + "/a"),
        environment=_environment(no_proxy="127.0.0.2"),
    ),
    Row(
        "proxies/headers",
        lambda r, s: r.adapters.HTTPAdapter().proxy_headers("http://user:password@proxy.example"),
        "adapter-inside",
    ),
    Row(
        "proxies/headers-without-userinfo", lambda r, s: r.adapters.HTTPAdapter().proxy_headers("http://proxy.example")
    ),
    Row(
        "proxies/rebuild",
        lambda r, s: s.session(r).rebuild_proxies(
            r.Request("GET", "http://example.com/").prepare(), {"http": "http://p.example"}
        ),
    ),
    Row(
        "proxies/socks-refused",
        lambda r, s: r.get(s.other + "/a", proxies={"http": s.dead.replace("http:", "socks5:")}),
    ),
]


def _tunnelled(r: Any, s: Stage, status: Any) -> Any:
    from tests.with_server.echo_server import Answer

    s.script(s.tls.removeprefix("https://"), Answer(b"", status))
    return r.get(s.tls + "/a", proxies={"https": s.url}, verify=s.ca)


def _moved(s: Stage) -> Any:
    from tests.with_server.echo_server import redirect

    return lambda seen: redirect(s.other + "/b")
