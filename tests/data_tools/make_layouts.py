#!/usr/bin/env python3
"""Makes layouts.parquet: columns of texts in the layouts that Arrow has for strings, lists and structs.

Run by hand when a layout is added; the tests need only what it wrote.
Example: pip install pyarrow==26.0.1 && python3 tests/data_tools/make_layouts.py
"""
import pathlib

import pyarrow as pa
import pyarrow.parquet as pq

TEXTS = ["one", "two", "one", "three with a longer text"]


def main():
    talks = [["Hi", "Ho"], ["Hi", None], [], None]
    chat = pa.list_(pa.struct([("role", pa.string()), ("content", pa.dictionary(pa.int32(), pa.string()))]))
    share = pa.list_(pa.struct([("from", pa.string()), ("value", pa.large_string())]))
    columns = {
        "dictionary": pa.array(TEXTS).dictionary_encode(),
        "large_dictionary": pa.array(TEXTS, pa.large_string()).dictionary_encode(),
        "view": pa.array(TEXTS, pa.string_view()),
        "binary_view": pa.array([text.encode() for text in TEXTS], pa.binary_view()),
        "large": pa.array(TEXTS, pa.large_string()),
        "meta": pa.array([{"id": 1, "inner": {"text": text}} for text in TEXTS[:3]] + [None]),
        "dotted.name": pa.array(TEXTS),
        "strings": pa.array(talks, pa.list_(pa.string())),
        "chat": pa.array([[{"role": "user", "content": text} for text in talk] if talk is not None else None
                          for talk in talks], chat),
        "share": pa.array([[{"from": "human", "value": text} for text in talk] if talk is not None else None
                           for talk in talks], share),
        "numbers": pa.array([[1], [2], [3], [4]]),
    }
    pq.write_table(pa.table(columns), pathlib.Path(__file__).parent / "layouts.parquet")


main()
