"""Integers become text exactly, in the Lua of the real server."""

from importlib.resources import files
from typing import Any

import pytest
import redis

NUMBERS = sorted(
    {sign * (2**n + d) for n in range(54) for d in (-1, 0, 1) for sign in (1, -1)}
    | {9 * 10**15, 9 * 10**15 - 1, -(9 * 10**15), 10**14, 10**15 - 1}
)
WITHIN = [n for n in NUMBERS if abs(n) <= 2**53]


def texts(server: Any, function: str) -> list[str]:
    """What `function`, after lib/text.lua, makes of each number, sent as a sum of halves."""
    lib = files("holdfast.lua").joinpath("lib/text.lua").read_text("utf-8")
    script = (
        f"{lib}\nlocal out = {{}}\n"
        "for i = 1, #ARGV, 2 do out[#out + 1] = " + function + "(ARGV[i] + ARGV[i + 1]) end\n"
        "return out"
    )
    halves = [str(part) for n in WITHIN for part in (n // 2, n - n // 2)]
    client = redis.Redis.from_url(server.url)
    try:
        return [text.decode() for text in client.eval(script, 0, *halves)]
    finally:
        client.close()


def test_text_is_exact(valkey_server: Any) -> None:
    assert texts(valkey_server, "text") == [str(n) for n in WITHIN]


def test_what_lua_does_by_itself_is_not(valkey_server: Any) -> None:
    assert texts(valkey_server, "tostring") != [str(n) for n in WITHIN]


def test_a_number_given_to_redis_is_written_exactly(valkey_server: Any) -> None:
    """The scripts hand amounts to HSET as numbers."""
    call = "redis.call('SET', KEYS[1], ARGV[1] + ARGV[2]) return redis.call('GET', KEYS[1])"
    client = redis.Redis.from_url(valkey_server.url)
    try:
        pipe = client.pipeline(transaction=False)
        for n in WITHIN:
            pipe.eval(call, 1, "a-number", str(n // 2), str(n - n // 2))
        assert [text.decode() for text in pipe.execute()] == [str(n) for n in WITHIN]
        client.delete("a-number")
    finally:
        client.close()


@pytest.mark.parametrize("damaged", ["nan", "inf", "1.5", "", "x"])
def test_damage_in_a_stored_field_is_refused(valkey_server: Any, damaged: str) -> None:
    lib = files("holdfast.lua").joinpath("lib/number.lua").read_text("utf-8")
    client = redis.Redis.from_url(valkey_server.url)
    with pytest.raises(redis.ResponseError, match="not an integer in a stored field"):
        client.eval(f"{lib}\nreturn stored(ARGV[1])", 0, damaged)
    client.close()
