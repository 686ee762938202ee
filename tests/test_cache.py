"""The bounded cache keeps what was used last and never more than its bytes."""

from vcm.runtime.cache import BoundedCache


def test_the_least_recently_used_goes_first():
    cache: BoundedCache[bytes] = BoundedCache(3, len)
    for key in "abc":
        cache.put(key, b"x")
    cache.get("a")
    cache.put("d", b"x")
    assert [cache.get(key) for key in "abcd"] == [b"x", None, b"x", b"x"]


def test_it_never_holds_more_bytes_than_allowed():
    cache: BoundedCache[bytes] = BoundedCache(100, len)
    for number in range(50):
        cache.put(number, bytes(number))
        assert cache.num_bytes <= 100


def test_a_value_put_again_replaces_the_old_one_and_its_bytes():
    cache: BoundedCache[bytes] = BoundedCache(10, len)
    cache.put("a", bytes(8))
    cache.put("a", bytes(4))
    assert cache.num_bytes == 4


def test_a_value_larger_than_the_cache_is_not_kept_and_drives_nothing_out():
    cache: BoundedCache[bytes] = BoundedCache(10, len)
    cache.put("small", bytes(2))
    cache.put("large", bytes(11))
    assert cache.get("large") is None
    assert cache.get("small") == bytes(2)
