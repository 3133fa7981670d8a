"""Keys: kept as hashes, given once."""

import pytest

from plusultra_core.config import parse, to_dict
from plusultra_core.errors import ConfigError
from plusultra_core.service.auth import ApiKey, KeysConfig, find_key, make_key


def test_a_key_opens_and_its_text_is_in_no_file() -> None:
    text, key = make_key("desk", ("predict",))
    keys = KeysConfig(keys=(make_key("other", ("metrics",))[1], key))
    assert find_key(f"Bearer {text}".encode(), keys) == key
    assert find_key(f"bearer {text}".encode(), keys) == key
    assert text not in str(to_dict(keys))
    assert parse(KeysConfig, to_dict(keys), "keys") == keys


@pytest.mark.parametrize("header", [None, b"", b"Bearer ", b"Bearer x", b"\xff\xff\xff"])
def test_what_is_no_key_opens_nothing(header: bytes | None) -> None:
    assert find_key(header, KeysConfig(keys=(make_key("desk", ("predict",))[1],))) is None


def test_the_text_without_its_scheme_opens_nothing() -> None:
    text, key = make_key("desk", ("predict",))
    assert find_key(text.encode(), KeysConfig(keys=(key,))) is None
    assert find_key(f"Basic {text}".encode(), KeysConfig(keys=(key,))) is None


def test_a_plain_key_in_the_file_is_refused_without_showing_it() -> None:
    with pytest.raises(ConfigError, match="write the hash, never the key") as caught:
        ApiKey(name="desk", sha256="hunter2", scopes=("predict",))
    assert "hunter2" not in str(caught.value)


def test_two_keys_of_one_name_are_refused() -> None:
    _, key = make_key("desk", ("predict",))
    with pytest.raises(ConfigError, match="distinct names"):
        KeysConfig(keys=(key, key))
