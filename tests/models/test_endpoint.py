"""Where a model is asked: addresses, time limits, proxies, and keys that do not show."""

from __future__ import annotations

import pickle

import pytest

from manyhands.models.endpoint import Endpoint, Secret, Timeouts, environment_proxy, joined_url

PATH = "/chat/completions"


@pytest.mark.parametrize(
    ("base", "url"),
    [
        ("https://a.test/v1", "https://a.test/v1/chat/completions"),
        ("https://a.test/v1/", "https://a.test/v1/chat/completions"),
        ("http://a.test", "http://a.test/chat/completions"),
        ("https://a.test/deep/er/v1beta", "https://a.test/deep/er/v1beta/chat/completions"),
        ("https://a.test/v1/chat/completions", "https://a.test/v1/chat/completions"),
        ("https://a.test/v1?key=1", "https://a.test/v1/chat/completions?key=1"),
        ("http://[::1]:8000/v1", "http://[::1]:8000/v1/chat/completions"),
        ("a.test/v1", "https://a.test/v1/chat/completions"),
    ],
)
def test_the_path_goes_below_any_base(base: str, url: str) -> None:
    assert joined_url(base, PATH) == url


def test_a_query_is_added_to_that_of_the_base() -> None:
    assert joined_url("https://a.test?x=1", PATH, {"api-version": "2"}).endswith("?x=1&api-version=2")


def test_time_limits_have_several_forms() -> None:
    assert Timeouts.of(None) == Timeouts()
    assert Timeouts.of(30) == Timeouts(connect=10, first_byte=30, between_tokens=30, total=30)
    assert Timeouts.of(5).connect == 5
    assert Timeouts.of({"total": None}).total is None
    assert Timeouts.of(given := Timeouts(total=1)) is given
    with pytest.raises(TypeError, match="conect"):
        Timeouts.of({"conect": 1})


def test_a_whole_reply_may_take_as_long_as_its_first_byte() -> None:
    assert Timeouts(first_byte=5, total=9).reply == 5
    assert Timeouts(first_byte=None, total=9).reply == 9
    assert Timeouts(first_byte=None, total=None).reply is None


def test_secrets_do_not_show() -> None:
    endpoint = Endpoint(
        "https://user:pw@a.test/v1?key=k",
        secret_headers=(("Authorization", Secret("Bearer sk-1")),),
        key=Secret("sk-1"),
        proxy="http://u:pw@proxy.test",
    )
    assert "sk-1" not in repr(endpoint)
    assert "pw@proxy" not in repr(endpoint)
    assert endpoint.shown == "https://a.test/v1"
    assert Secret("a") == Secret("a") != Secret("b")
    assert len({Secret("a"), Secret("a")}) == 1
    assert pickle.loads(pickle.dumps(Secret("a"))).reveal() == "a"


@pytest.fixture
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    return monkeypatch


def test_the_environment_names_the_proxy(no_proxies: pytest.MonkeyPatch) -> None:
    assert environment_proxy("https://a.test/v1") is None
    no_proxies.setenv("HTTPS_PROXY", "http://p.test:3128")
    no_proxies.setenv("NO_PROXY", "localhost,.inner.test")
    assert environment_proxy("https://a.test/v1") == "http://p.test:3128"
    assert environment_proxy("http://a.test/v1") is None
    assert environment_proxy("https://x.inner.test/v1") is None
    no_proxies.setenv("ALL_PROXY", "http://all.test")
    assert environment_proxy("http://a.test/v1") == "http://all.test"
