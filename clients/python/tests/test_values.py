"""Values to the wire and back: the hand-written encoder against the generated code."""

import datetime
import enum
import io
import math
import random

import pytest

import duite
from duite import _encode
from duite._values import Blob, from_value, to_value
from duite.v1 import common_pb2 as pb
from duite.v1 import state_service_pb2 as states

UTC = datetime.timezone.utc


def by_generated_code(thing) -> pb.Value:
    if thing is None or (isinstance(thing, float) and math.isnan(thing)):
        return pb.Value(null=True)
    kind = {bool: "boolean", int: "integer", float: "number", str: "text"}.get(type(thing))
    if kind:
        return pb.Value(**{kind: thing})
    if isinstance(thing, bytes):
        return pb.Value(blob=pb.Blob(data=thing))
    if isinstance(thing, Blob):
        return pb.Value(blob=pb.Blob(data=thing.data, content_type=thing.content_type))
    if isinstance(thing, datetime.datetime):
        value = pb.Value()
        value.time.FromDatetime(thing)
        return value
    if isinstance(thing, dict):
        entries = [
            pb.MapEntry(key=key, value=by_generated_code(item)) for key, item in thing.items()
        ]
        return pb.Value(map=pb.MapValue(entries=entries))
    return pb.Value(list=pb.ListValue(items=[by_generated_code(item) for item in thing]))


def random_thing(rng: random.Random, depth: int = 0):
    kinds = ["none", "bool", "int", "small", "float", "text", "bytes", "blob", "time"]
    kind = rng.choice(kinds + ["list", "floats", "dict"] * (depth < 4))
    size = rng.choice([0, 1, 5, 127, 128, 200, 20_000 if depth == 0 else 20])
    if kind == "none":
        return None
    if kind == "bool":
        return rng.random() < 0.5
    if kind == "int":
        return rng.choice([1, -1]) * rng.getrandbits(rng.choice([7, 8, 14, 15, 21, 22, 40, 62, 63]))
    if kind == "small":
        return rng.randrange(-2, 130)
    if kind == "float":
        return rng.choice([rng.gauss(0, 1e10), 0.0, -0.0, math.inf, -math.inf, math.nan])
    if kind == "text":
        return "".join(rng.choice("ab\u00e4\u4e2d\U0001f600") for _ in range(size))
    if kind == "bytes":
        return rng.randbytes(size)
    if kind == "blob":
        return Blob(rng.randbytes(size), rng.choice(["", "image/png"]))
    if kind == "time":
        return datetime.datetime.fromtimestamp(rng.randrange(-(10**9), 10**10), UTC).replace(
            microsecond=rng.choice([0, 1, 999_999])
        )
    if kind == "floats":
        return [rng.choice([1.5, -2.0, math.inf, math.nan]) for _ in range(size % 50)]
    if kind == "list":
        return [random_thing(rng, depth + 1) for _ in range(rng.randrange(5))]
    return {
        f"k{n}" * rng.choice([0, 1, 60]): random_thing(rng, depth + 1)
        for n in range(rng.randrange(5))
    }


@pytest.mark.parametrize("seed", range(20))
def test_a_value_has_the_bytes_that_the_generated_code_gives(seed):
    rng = random.Random(seed)
    for _ in range(200):
        thing = random_thing(rng)
        assert _encode.encode(thing) == by_generated_code(thing).SerializeToString(), thing


@pytest.mark.parametrize("seed", range(20))
def test_updates_have_the_bytes_that_the_generated_code_gives(seed):
    rng = random.Random(seed)
    tags = {_encode.ADD: "add", _encode.MAX: "max", _encode.MIN: "min"}
    for _ in range(100):
        entries, wanted = {}, []
        for n in range(rng.randrange(6)):
            key = f"{n}" + "k\u00e4" * rng.choice([0, 1, 30, 63, 80])
            choice = rng.randrange(4)
            if choice == 0:
                operand = rng.choice([3, -4, 2.5])
                kind = rng.choice(list(tags))
                entries[key] = _encode.Operation(kind, operand)
                wanted.append(states.KeyUpdate(key=key, **{tags[kind]: by_generated_code(operand)}))
            elif choice == 1:
                entries[key] = _encode.DELETE
                wanted.append(states.KeyUpdate(key=key, delete=True))
            elif choice == 2:
                entries[key] = _encode.Operations([7, _encode.Operation(_encode.ADD, 1.5)])
                wanted.append(states.KeyUpdate(key=key, put=pb.Value(integer=7)))
                wanted.append(states.KeyUpdate(key=key, add=pb.Value(number=1.5)))
            else:
                thing = random_thing(rng)
                entries[key] = _encode.capture({key: thing})[0][key]
                wanted.append(states.KeyUpdate(key=key, put=by_generated_code(thing)))
        batch = states.UpdateBatch(updates=wanted)
        assert _encode.updates(entries) == batch.SerializeToString()


@pytest.mark.parametrize(
    "thing",
    [None, True, 0, -(2**63), 2**63 - 1, 1.5, math.inf, "", "\u00e4", b"", b"x",
     [], [1, [2.0, None]],
     {"a": {"b": "c"}}, Blob(b"x", "image/png"), datetime.datetime(2026, 1, 2, 3, 4, 5, 6, UTC)],
)  # fmt: skip
def test_values_come_back_as_they_were(thing):
    back = from_value(to_value(thing))
    assert (back, type(back)) == (thing, type(thing))


def test_subclasses_are_what_they_derive_from_and_nan_is_null():
    class Colour(enum.IntEnum):
        RED = 3

    class Word(str):
        pass

    assert from_value(to_value([Colour.RED, Word("w"), math.nan, (1, 2)])) == [3, "w", None, [1, 2]]
    assert from_value(to_value({1: "a"})) == {"1": "a"}


def test_what_cannot_be_sent_is_refused_with_what_to_do():
    deep = []
    deep.append(deep)
    for thing, said in [
        (2**63, "64 bits"), (object(), "type object"), ({1, 2}, "type set"), (deep, "nested"),
        ("\ud800", "surrogate"),
    ]:  # fmt: skip
        with pytest.raises(duite.errors.InvalidArgument, match=said) as caught:
            to_value(thing)
        assert caught.value.reason == "VALUE_INVALID"


def test_the_deepest_value_allowed_is_taken():
    thing = 1
    for _ in range(_encode.MAX_DEPTH):
        thing = [thing]
    assert from_value(to_value(thing)) == thing
    with pytest.raises(duite.errors.InvalidArgument, match="nested"):
        to_value([thing])


def test_numpy_scalars_and_short_arrays_become_plain_values():
    numpy = pytest.importorskip("numpy")
    for thing, plain in [
        (numpy.float32(0.5), 0.5), (numpy.float64(2.5), 2.5), (numpy.int8(-3), -3),
        (numpy.uint64(5), 5), (numpy.bool_(True), True), (numpy.str_("x"), "x"),
        (numpy.array(7), 7),
        (numpy.array([1, 2, 3], "u1"), [1, 2, 3]), (numpy.arange(2.0), [0.0, 1.0]),
        (numpy.array([]), []), ([numpy.float32(1.5)], [1.5]),
    ]:  # fmt: skip
        back = from_value(to_value(thing))
        assert back == plain
        assert type(back) is type(plain)


def test_other_arrays_come_back_as_arrays():
    numpy = pytest.importorskip("numpy")
    for array in [
        numpy.arange(10_000), numpy.zeros((4, 5, 3), "u1"), numpy.array([2**64 - 1], "u8"),
        numpy.array([1 + 2j]), numpy.asfortranarray(numpy.arange(6.0).reshape(2, 3)),
    ]:  # fmt: skip
        value = to_value(array)
        assert value.blob.content_type == "application/vnd.numpy"
        back = from_value(value)
        assert back.dtype == array.dtype
        assert (back == array).all()
    with pytest.raises(duite.errors.InvalidArgument, match="Python objects"):
        to_value(numpy.array([object()]))


def test_a_spoiled_array_stays_a_blob():
    assert from_value(to_value(Blob(b"no array", _encode.NPY))) == Blob(b"no array", _encode.NPY)


def test_arrays_of_other_packages_are_taken_as_numpys():
    numpy = pytest.importorskip("numpy")

    class Tensor:
        def detach(self):
            return self

        def __array__(self, dtype=None, copy=None):
            return numpy.array([1.0, 2.0])

    assert from_value(to_value(Tensor())) == [1.0, 2.0]


def test_images_become_png():
    image_module = pytest.importorskip("PIL.Image")
    for mode in ("RGB", "L", "CMYK", "F"):
        value = to_value(image_module.new(mode, (3, 2)))
        assert value.blob.content_type == "image/png"
        assert image_module.open(io.BytesIO(value.blob.data)).size == (3, 2)


def test_what_may_change_is_captured_at_once_and_the_rest_not_copied():
    inner = [1, 2]
    captured, _, _ = _encode.capture({"a": inner, "b": 1})
    inner.append(3)
    assert captured["a"] == to_value([1, 2]).SerializeToString()
    plain = {"a": 1, "b": 2.5, "c": "text", "d": None, "e": True}
    assert _encode.capture(plain)[0] is plain


def test_keys_are_checked():
    for key in ["", "k" * 257, "\u00e4" * 129, 3, "\ud800"]:
        with pytest.raises(duite.errors.InvalidArgument):
            _encode.capture({key: 1})
    _encode.capture({"k" * 256: 1, "\u00e4" * 128: 1})


def test_the_cache_of_keys_is_bounded():
    for n in range(_encode.MAX_KNOWN_KEYS + 10):
        _encode.check_key(f"bounded-{n}")
    assert len(_encode._known) <= _encode.MAX_KNOWN_KEYS
    # A key that was forgotten meanwhile is encoded all the same.
    _encode._known.clear()
    assert _encode.updates({"bounded-0": 1.5})
