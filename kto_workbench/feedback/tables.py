"""Parquet and Arrow in bounded memory: a few kilobytes of either may stand for gigabytes.

Values are stored once in a dictionary and named by number, numbers that repeat are stored as a count, and pages and
buffers are packed besides. So a reader takes as few rows at a time as could be large, and refuses a file that unpacks
to what no feedback does.
"""

import itertools
import struct
from collections.abc import Iterable, Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from kto_workbench.feedback.files import BLOCK_BYTES, refuse_bomb

CHUNK_ROWS = 4096
HELD_BYTES = 64 * 2**20  # what rows read at once may come to
ROW_BYTES = 48  # what a row takes in our own table even where it says nothing


def read_parquet(file: Any, name: str, size: int) -> Iterator[pa.RecordBatch]:
    """The batches of a Parquet file of `size` bytes. Raises DataError for a bomb."""
    parquet = pq.ParquetFile(file)
    groups = [parquet.metadata.row_group(i) for i in range(parquet.metadata.num_row_groups)]
    claimed = sum(group.column(i).total_uncompressed_size for group in groups for i in range(group.num_columns))
    refuse_bomb(name, max(claimed, parquet.metadata.num_rows * ROW_BYTES), size)

    def batches() -> Iterator[pa.RecordBatch]:
        for number in range(len(groups)):
            rows = _rows_at_once(parquet, file, number, name, size)
            yield from parquet.iter_batches(batch_size=rows, row_groups=[number])

    yield from _tamed(batches(), name, size)


def read_arrow(file: Any, stream: bool, name: str, size: int) -> Iterator[pa.RecordBatch]:
    """The batches of an Arrow IPC file, or of an Arrow stream, of `size` bytes. Raises DataError for a bomb."""
    _look_into_messages(file, 0 if stream else 8, name, size)
    if stream:
        yield from _tamed(pa.ipc.open_stream(file), name, size)
        return
    reader = pa.ipc.open_file(file)
    yield from _tamed((reader.get_batch(i) for i in range(reader.num_record_batches)), name, size)


def _tamed(batches: Iterable[pa.RecordBatch], name: str, size: int) -> Iterator[pa.RecordBatch]:
    """The batches without dictionaries, in pieces of neither too many bytes nor needlessly few rows."""
    given, held, rows, taken = 0, [], 0, 0
    pieces = (piece for batch in batches for piece in _split(batch))
    for piece in itertools.chain(pieces, [None]):
        if piece is not None:
            piece = _plain(piece)
            held, rows, taken = [*held, piece], rows + piece.num_rows, taken + piece.nbytes
            given += _written_out(piece) + piece.num_rows * ROW_BYTES
            refuse_bomb(name, given, size)
        if held and (piece is None or rows >= CHUNK_ROWS or taken >= BLOCK_BYTES):
            if len(held) == 1:
                yield held[0]
            else:
                yield from pa.Table.from_batches(held).combine_chunks().to_batches()
            held, rows, taken = [], 0, 0


def _split(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    """Halves of halves, until each could be written out."""
    batch.validate(full=True)  # raises ArrowInvalid: bytes from outside may be no UTF-8, or lead anywhere
    if batch.num_rows > 1 and _written_out(batch) > HELD_BYTES:
        middle = batch.num_rows // 2
        yield from _split(batch.slice(0, middle))
        yield from _split(batch.slice(middle))
    else:
        yield batch


def _rows_at_once(parquet: pq.ParquetFile, file: Any, number: int, name: str, size: int) -> int:
    """How many rows of a row group can be read at once, going by the largest values that its dictionaries may hold."""
    group, schema = parquet.metadata.row_group(number), parquet.schema
    largest = 0
    for i in range(group.num_columns):
        column = group.column(i)
        if not column.has_dictionary_page or column.physical_type != "BYTE_ARRAY":
            continue
        dictionary = _unpacked_size(file, column.dictionary_page_offset)
        refuse_bomb(name, dictionary, size)
        largest += dictionary
        if schema.column(i).max_repetition_level and dictionary * column.num_values > HELD_BYTES:
            _look_into_lists(file, column.path_in_schema, number, name, size)
    return max(1, min(CHUNK_ROWS, HELD_BYTES // max(largest, 1)))


def _look_into_lists(file: Any, path: str, number: int, name: str, size: int) -> None:
    """Refuse a row whose list names a large value again and again, before any of it is written out."""
    numbered = pq.ParquetFile(file, read_dictionary=[path])
    for batch in numbered.iter_batches(batch_size=1024, row_groups=[number], columns=[path]):
        refuse_bomb(name, _written_out(batch), size)


def _plain(batch: pa.RecordBatch) -> pa.RecordBatch:
    """The batch without dictionaries of its own, where a column is one."""
    columns = [one.dictionary_decode() if pa.types.is_dictionary(one.type) else one for one in batch.columns]
    return pa.RecordBatch.from_arrays(columns, names=batch.schema.names)


def _written_out(array: pa.Array | pa.RecordBatch) -> int:
    """The bytes that an array's texts take when each stands in its own place."""
    if isinstance(array, pa.RecordBatch):
        return sum(map(_written_out, array.columns))
    if pa.types.is_dictionary(array.type):
        lengths = pc.binary_length(array.dictionary)
        return pc.sum(pc.cast(lengths, pa.int64()).take(array.indices)).as_py() or 0
    if pa.types.is_struct(array.type) or isinstance(array, (pa.ListArray, pa.LargeListArray)):
        inner = array.flatten()
        return sum(map(_written_out, inner)) if isinstance(inner, list) else _written_out(inner)
    return array.nbytes


def _unpacked_size(file: Any, offset: int) -> int:
    """The second field of the page header at this place: how many bytes the page has when unpacked.

    The header is a struct in Thrift's compact protocol, https://parquet.apache.org/docs/file-format/data-pages/: fields
    1 (the page's type) and 2 (the size) are numbers, each a byte of kind and distance, then zigzag in groups of 7 bits.
    Reading elsewhere in the file does not disturb pyarrow, which seeks before it reads.
    """
    file.seek(offset)
    head = iter(file.read(32))
    values = []
    for _ in range(2):
        if next(head, 0) != 0x15:
            raise ValueError("a page of the file has no header")
        value = shift = 0
        for byte in head:
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
        values.append((value >> 1) ^ -(value & 1))
    return values[1]


def _look_into_messages(file: Any, start: int, name: str, size: int) -> None:
    """Refuse an Arrow file whose packed buffers say that they come to too much, before any is unpacked.

    A file is a stream after its first 8 bytes. A message's head is a flatbuffer,
    https://arrow.apache.org/docs/format/Columnar.html#serialization-and-interprocess-communication-ipc; a packed buffer
    begins with its size when unpacked, as 8 bytes.
    """
    file.seek(start)
    unpacked = 0
    try:
        for message in pa.ipc.MessageReader.open_stream(file):
            head, body = memoryview(message.metadata), memoryview(message.body or b"")
            batch = _field(head, struct.unpack_from("<I", head)[0], 2)
            if message.type == "dictionary":
                batch = _field(head, batch, 1)
            elif message.type != "record batch":
                continue
            length = _offset(head, batch, 0)
            unpacked += struct.unpack_from("<q", head, length)[0] * ROW_BYTES if length else 0
            if _offset(head, batch, 3):  # it is packed
                first = _field(head, batch, 2)
                for i in range(struct.unpack_from("<I", head, first)[0]):
                    offset, taken = struct.unpack_from("<qq", head, first + 4 + 16 * i)
                    unpacked += struct.unpack_from("<q", body, offset)[0] if taken >= 8 else 0
            refuse_bomb(name, unpacked, size)
    except struct.error:
        raise pa.ArrowInvalid("a message of the file is cut short") from None
    finally:
        file.seek(0)


def _offset(head: memoryview, table: int, field: int) -> int:
    """Where a table of a flatbuffer holds a field; 0 where it does not."""
    places = table - struct.unpack_from("<i", head, table)[0]
    if 4 + 2 * field >= struct.unpack_from("<H", head, places)[0]:
        return 0
    distance = struct.unpack_from("<H", head, places + 4 + 2 * field)[0]
    return table + distance if distance else 0


def _field(head: memoryview, table: int, field: int) -> int:
    """Where the table or list begins that a field of a table refers to."""
    where = _offset(head, table, field)
    return where + struct.unpack_from("<I", head, where)[0]
