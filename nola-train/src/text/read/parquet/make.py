"""Writes the Parquet files beside it, which the tests of parquet_file.rs read: `python make.py`, with pyarrow and polars."""

from datetime import date, datetime, time
from decimal import Decimal

import polars
import pyarrow as pa
import pyarrow.parquet as parquet


def write(name, table, **options):
    parquet.write_table(table, name + ".parquet", store_schema=False, **options)


two = pa.table({"prompt": ["day one", "day two é"], "completion": [" red", " blue"]})
for codec in ["snappy", "gzip", "brotli", "zstd", "lz4"]:
    for version in ["1.0", "2.0"]:
        write(f"{codec}-{version[0]}", two, compression=codec, data_page_version=version)
for codec in ["zstd", "lz4"]:
    polars.from_arrow(two).write_parquet(f"polars-{codec}.parquet", compression=codec)

message = pa.struct([("role", pa.string()), ("content", pa.large_string()), ("tools", pa.list_(pa.string()))])
nested = pa.table({
    "messages": pa.array([
        [{"role": "user", "content": "hi", "tools": []}, {"role": "assistant", "content": "yo", "tools": ["a", "b"]}],
        [],
        None,
        [{"role": None, "content": "x", "tools": None}, None],
    ], pa.list_(message)),
    "grid": pa.array([[["a"], []], [], None, [None, ["b", None, "c"]]], pa.list_(pa.list_(pa.string()))),
    "map": pa.array([[("k", 1)], [], None, [("l", None), ("m", 2)]], pa.map_(pa.string(), pa.int32())),
    "dictionary": pa.array(["x", "y", None, "x"]).dictionary_encode(),
    "group": pa.array([{"a": True}, {"a": None}, None, {"a": False}], pa.struct([("a", pa.bool_())])),
})
write("nested", nested, compression="zstd")

when = datetime(2024, 1, 2, 3, 4, 5)
types = pa.table({
    "bytes": pa.array([b"day one", b"\xff\xfe", "é".encode()], pa.binary()),
    "large": pa.array([b"a", b"\x80", None], pa.large_binary()),
    "fixed": pa.array([b"ab", b"\xff\xff", None], pa.binary(2)),
    "half": pa.array([0.5, None, 2.0], pa.float16()),
    "decimal": pa.array([Decimal("1.50")] * 3),
    "date": pa.array([date(2024, 1, 2)] * 3),
    "time": pa.array([time(3, 4, 5)] * 3),
    "milli": pa.array([when] * 3, pa.timestamp("ms")),
    "micro": pa.array([when] * 3, pa.timestamp("us", "UTC")),
    "int": pa.array([1, -2, 3], pa.int64()),
    "unsigned": pa.array([255, 0, None], pa.uint8()),
    "float": pa.array([0.5, float("nan"), float("inf")]),
})
write("types", types, compression="lz4")

long = "ab" * (4 << 20)
write("bomb", pa.table({"text": pa.array([long] * 20, pa.string()), "more": pa.array([[long] * 3] * 20)}),
      compression="brotli", compression_level=5)
