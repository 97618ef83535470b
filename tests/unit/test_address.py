"""Engine URLs: what they mean, what is refused, and that no password is ever shown."""

from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from que.address import Address, Host
from que.errors import ConfigurationError, InvalidName

NAMES = st.text(st.characters(codec="utf-8", categories=["L", "N"]), min_size=1, max_size=12)
SECRETS = st.text(st.characters(codec="utf-8", exclude_categories=["C"]), min_size=1, max_size=12)
PORTS = st.none() | st.integers(1, 65535)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        pytest.param("memory://", Address("memory"), id="only a scheme"),
        pytest.param("gearman://a", Address("gearman", (Host("a"),)), id="a host"),
        pytest.param("gearman://a:4730", Address("gearman", (Host("a", 4730),)), id="a port"),
        pytest.param("GEARMAN://a:4730", Address("gearman", (Host("a", 4730),)), id="a shouted scheme"),
        pytest.param("gearman://a:1,b,c:3", Address("gearman", (Host("a", 1), Host("b"), Host("c", 3))), id="hosts"),
        pytest.param("gearman://[::1]:4730", Address("gearman", (Host("::1", 4730),)), id="IPv6"),
        pytest.param("gearman://[::1],b:2", Address("gearman", (Host("::1"), Host("b", 2))), id="IPv6 without a port"),
        pytest.param("x://u:p@h", Address("x", (Host("h"),), "u", "p"), id="user and password"),
        pytest.param("x://:p@h", Address("x", (Host("h"),), None, "p"), id="only a password"),
        pytest.param("x://u@h", Address("x", (Host("h"),), "u"), id="only a user"),
        pytest.param("x://u:p%40%3A%2F@h", Address("x", (Host("h"),), "u", "p@:/"), id="an escaped password"),
        pytest.param("x://u:p@q@h", Address("x", (Host("h"),), "u", "p@q"), id="an at sign in the password"),
        pytest.param("sqlite:///var/a%20b.db", Address("sqlite", path="/var/a b.db"), id="a path"),
        pytest.param(
            "x://h/0?a=1&b=", Address("x", (Host("h"),), path="/0", options=(("a", "1"), ("b", ""))), id="options"
        ),
        pytest.param("x+y-z.1://h", Address("x+y-z.1", (Host("h"),)), id="a scheme with signs"),
    ],
)
def test_a_url_has_these_parts(url: str, expected: Address) -> None:
    assert Address.parse(url) == expected


@pytest.mark.parametrize(
    "url",
    [
        pytest.param("", id="nothing"),
        pytest.param("gearman", id="a word"),
        pytest.param("localhost:4730", id="no scheme"),
        pytest.param("://a", id="an empty scheme"),
        pytest.param("ge arman://a", id="a blank in the scheme"),
        pytest.param("1x://a", id="a digit first"),
        pytest.param("x://a,", id="an empty host at the end"),
        pytest.param("x://,a", id="an empty host in front"),
        pytest.param("x://:4730", id="a port without a host"),
        pytest.param("x://a b", id="a blank in a host"),
        pytest.param("x://a\n", id="a line break in a host"),
        pytest.param("x://a:0", id="port 0"),
        pytest.param("x://a:65536", id="too high a port"),
        pytest.param("x://a:b", id="a port in letters"),
        pytest.param("x://a:٣", id="a port in other digits"),
        pytest.param("x://a:+1", id="a signed port"),
        pytest.param("x://[::1", id="an open bracket"),
        pytest.param("x://[::1]4730", id="no colon after the bracket"),
        pytest.param("x://a?b=1&b=2", id="an option twice"),
    ],
)
def test_what_is_no_engine_url_is_refused(url: str) -> None:
    with pytest.raises(InvalidName, match="engine URL"):
        Address.parse(url)


@given(SECRETS.map(lambda text: f"Zq{text}qZ"), NAMES, PORTS)
def test_str_and_repr_never_show_the_password(password: str, host: str, port: int | None) -> None:
    address = Address.parse(
        f"x://user:{quote(password, safe='')}@{Host(host, port)}/db?token={quote(password, safe='')}&a=1"
    )
    assert address.password == password
    assert address.text("token") == password
    for shown in (str(address), repr(address), f"{address!s:>3}", str(address.__rich_repr__())):
        assert password not in shown
        assert "user:***@" in shown
        assert "token=***" in shown
        assert "a=1" in shown


@pytest.mark.parametrize(
    "option", ["password", "passwd", "pwd", "secret", "token", "key", "api_key", "sslPassword", "auth", "credentials"]
)
def test_an_option_that_sounds_like_a_secret_is_hidden(option: str) -> None:
    address = Address.parse(f"x://h?{option}=hunter2")
    assert "hunter2" not in f"{address!r} {address.__rich_repr__()}"


@pytest.mark.parametrize(
    "url",
    [
        pytest.param("x://user:hunter2@a:b", id="a bad port"),
        pytest.param("x://user:hun/ter2@a", id="a slash in the password"),
        pytest.param("x://user:hunter2?x@a:b", id="a question mark in the password"),
        pytest.param("x://user:hunter2?x/y@a", id="a question mark and a slash"),
        pytest.param("x://user:hunter2://@a:b", id="a scheme mark in the password"),
        pytest.param("x://user:123?hunter2@a", id="a question mark after a number"),
        pytest.param("x://user:123?hunter2/a@b/db?c=1", id="a question mark before an option"),
        pytest.param("user:hunter2@a", id="no scheme"),
        pytest.param("user:hunter2@x://a", id="a password before the scheme"),
        pytest.param("1x://user:hunter2@a", id="a bad scheme"),
        pytest.param("x://a?token=hunter2&token=hunter2", id="a secret option twice"),
        pytest.param("x://a b?token=hunter2", id="a secret option after a bad host"),
    ],
)
def test_an_error_about_a_url_never_shows_its_password(url: str) -> None:
    with pytest.raises(InvalidName) as caught:
        Address.parse(url)
    for shown in (str(caught.value), repr(caught.value), str(caught.value.name)):
        for part in ("hunter2", "hun/", "ter2"):
            assert part not in shown


@given(st.text(max_size=40))
def test_any_text_is_an_address_or_an_invalid_name(text: str) -> None:
    try:
        address = Address.parse(text)
    except InvalidName:
        return
    assert Address.parse(text) == address


@given(NAMES, st.lists(st.builds(Host, NAMES, PORTS), max_size=4).map(tuple))
def test_hosts_survive_a_round_trip(scheme: str, hosts: tuple[Host, ...]) -> None:
    address = Address("x", hosts)
    assert Address.parse(str(address)) == address


def test_an_unknown_option_suggests_the_nearest() -> None:
    address = Address.parse("x://h?timeuot=1")
    with pytest.raises(ConfigurationError, match="did you mean timeout"):
        address.refuse_other_options({"timeout", "tls"})
    with pytest.raises(ConfigurationError, match="known: none"):
        address.refuse_other_options(())
    Address.parse("x://h?tls=1").refuse_other_options({"tls"})


@pytest.mark.parametrize(
    ("text", "value"),
    [("1", True), ("true", True), ("Yes", True), ("0", False), ("FALSE", False), ("no", False)],
)
def test_a_flag_is_a_truth_value(text: str, value: bool) -> None:
    assert Address.parse(f"x://h?flag={text}").flag("flag", default=not value) is value


@pytest.mark.parametrize("default", [True, False])
def test_a_flag_that_is_left_out_has_its_default(default: bool) -> None:
    assert Address.parse("x://h").flag("flag", default=default) is default


@pytest.mark.parametrize("text", ["2", "on!", "", "maybe"])
def test_what_is_no_truth_value_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="option flag must be 1 or 0"):
        Address.parse(f"x://h?flag={text}").flag("flag")


@pytest.mark.parametrize(("text", "value"), [("3", 3.0), ("0.5", 0.5), ("1e1", 10.0)])
def test_a_number_is_a_number(text: str, value: float) -> None:
    assert Address.parse(f"x://h?n={text}").number("n", 7, minimum=0.5, maximum=10) == value


@pytest.mark.parametrize("text", ["0.4", "10.1", "nan", "inf", "-inf", "ten", "", "1,5"])
def test_a_number_that_is_none_or_out_of_bounds_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match=r"option n must be a number from 0\.5 to 10"):
        Address.parse(f"x://h?n={text}").number("n", 7, minimum=0.5, maximum=10)
