"""Megatron-LM's indexed dataset as published (megatron/core/datasets/indexed_dataset.py), in plain Python, so that the
programs are tested against the format and not against themselves.

    megatron_layout.py read PREFIX            prints the token ids, one line per document
    megatron_layout.py write PREFIX DTYPE     writes PREFIX.bin and PREFIX.idx from such lines on stdin;
                                              DTYPE int32, int64 or uint16
"""
import array
import struct
import sys

MAGIC = b"MMIDIDX\x00\x00"
DTYPES = {4: "i", 5: "q", 8: "H"}  # code: int32, int64, uint16
CODES = {"int32": 4, "int64": 5, "uint16": 8}


def read(prefix):
    with open(prefix + ".idx", "rb") as file:
        assert file.read(9) == MAGIC
        version, code = struct.unpack("<QB", file.read(9))
        assert version == 1
        sequences, boundaries = struct.unpack("<QQ", file.read(16))
        lengths = struct.unpack(f"<{sequences}i", file.read(4 * sequences))
        pointers = struct.unpack(f"<{sequences}q", file.read(8 * sequences))
        documents = struct.unpack(f"<{boundaries}q", file.read(8 * boundaries))
        assert file.read() == b""
    assert documents[0] == 0 and documents[-1] == sequences
    with open(prefix + ".bin", "rb") as file:
        for first, last in zip(documents, documents[1:]):
            tokens = []
            for length, pointer in zip(lengths[first:last], pointers[first:last]):
                file.seek(pointer)
                tokens += array.array(DTYPES[code], file.read(length * array.array(DTYPES[code]).itemsize))
            print(*tokens)


def write(prefix, dtype):
    code = CODES[dtype]
    size = array.array(DTYPES[code]).itemsize
    documents = [array.array(DTYPES[code], map(int, line.split())) for line in sys.stdin]
    lengths = [len(document) for document in documents]
    pointers = [size * sum(lengths[:i]) for i in range(len(lengths))]
    with open(prefix + ".bin", "wb") as file:
        for document in documents:
            document.tofile(file)
    with open(prefix + ".idx", "wb") as file:
        file.write(MAGIC + struct.pack("<QBQQ", 1, code, len(documents), len(documents) + 1))
        file.write(struct.pack(f"<{len(documents)}i", *lengths))
        file.write(struct.pack(f"<{len(documents)}q", *pointers))
        file.write(struct.pack(f"<{len(documents) + 1}q", *range(len(documents) + 1)))


if __name__ == "__main__":
    {"read": read, "write": write}[sys.argv[1]](*sys.argv[2:])
