# cython: language_level=3, binding=True, auto_pickle=False
"""The codec of `_wire_py`, compiled: the same names, the same values and the same errors.

Arguments are made straight from the receive buffer. What goes wrong is only found here: the tables and the wording of
errors are those of `packets`. Nothing that Python code could change meanwhile is read twice through a raw pointer.
"""

cimport cython
from cpython.bytearray cimport PyByteArray_AS_STRING
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_Check, PyBytes_GET_SIZE
from cpython.list cimport PyList_Append
from cpython.long cimport PyLong_Check
from cpython.object cimport PyObject
from libc.stdint cimport uint32_t
from libc.string cimport memchr, memcmp, memcpy, memmove

from que.errors import ProtocolError
from que.gearman.packets import LAYOUTS, arrival_fault, header_fault, refusal
from que.gearman import packets as _packets

__all__ = ["Parser", "pack", "pack_header"]


cdef extern from "Python.h":
    PyObject* _new_bytes "PyBytes_FromStringAndSize"(const char* start, Py_ssize_t size) except NULL
    PyObject* _new_tuple "PyTuple_New"(Py_ssize_t size) except NULL
    PyObject* _new_int "PyLong_FromLong"(long value) except NULL
    void _set_item "PyTuple_SET_ITEM"(PyObject* target, Py_ssize_t index, PyObject* stolen)
    object _take_bytes "PyBytes_FromStringAndSize"(const char* start, Py_ssize_t size)
    char* _bytes_start "PyBytes_AS_STRING"(PyObject* value)
    Py_ssize_t _bytes_size "PyBytes_GET_SIZE"(PyObject* value)
    bint _is_bytes "PyBytes_Check"(PyObject* value)
    void _release "Py_DECREF"(PyObject* value)
    long long _clamped "PyLong_AsLongLongAndOverflow"(object value, int* overflow) except? -1
    Py_ssize_t _sequence_size "PySequence_Fast_GET_SIZE"(object sequence)
    PyObject** _sequence_items "PySequence_Fast_ITEMS"(object sequence)


cdef enum:
    HEADER_BYTES = 12
    KINDS = 43
    MOST_ARGUMENTS = 8
    DATA = -1

cdef long long DEFAULT_MAX_PAYLOAD = _packets.DEFAULT_MAX_PAYLOAD
cdef long long MAX_BODY_BYTES = _packets.MAX_BODY_BYTES
cdef long long MAX_LEADING_BYTES = _packets.MAX_LEADING_BYTES
cdef Py_ssize_t RECEIVE_BUFFER_BYTES = _packets.RECEIVE_BUFFER_BYTES

# The argument count of each type, -1 for an unknown one; the most bytes of each argument, DATA for a data argument.
cdef int COUNTS[KINDS]
cdef bint WITH_DATA[KINDS]
cdef int LIMITS[KINDS][MOST_ARGUMENTS]
# A packet without arguments is the same value each time.
cdef tuple BARE = tuple((kind, ()) for kind in range(KINDS))


cdef void _fill_tables() except *:
    cdef int kind, index
    for kind in range(KINDS):
        COUNTS[kind] = -1
        WITH_DATA[kind] = False
    for known, layout in LAYOUTS.items():
        kind = known
        assert 0 <= kind < KINDS and len(layout) <= MOST_ARGUMENTS
        COUNTS[kind] = len(layout)
        for index, argument in enumerate(layout):
            LIMITS[kind][index] = DATA if argument.data else argument.max_bytes
            WITH_DATA[kind] = argument.data


_fill_tables()
assert DEFAULT_MAX_PAYLOAD == 67108864


cdef inline void _put_u32(char* at, uint32_t value) noexcept:
    at[0] = <char>(value >> 24)
    at[1] = <char>(value >> 16)
    at[2] = <char>(value >> 8)
    at[3] = <char>value


cdef inline uint32_t _get_u32(const char* at) noexcept:
    cdef const unsigned char* byte = <const unsigned char*>at
    return (<uint32_t>byte[0] << 24) | (<uint32_t>byte[1] << 16) | (<uint32_t>byte[2] << 8) | byte[3]


cdef inline long long _bounded(object value) except? -1:
    cdef int overflow = 0
    cdef long long exact = _clamped(value, &overflow)
    if overflow:
        return 0x7FFF_FFFF_FFFF_FFFF if overflow > 0 else -2
    return exact


cdef inline bint _is_magic(object magic):
    return (
        PyBytes_Check(magic)
        and PyBytes_GET_SIZE(magic) == 4
        and (memcmp(PyBytes_AS_STRING(magic), b"\0REQ", 4) == 0 or memcmp(PyBytes_AS_STRING(magic), b"\0RES", 4) == 0)
    )


cdef inline long _known_kind(object kind) except? -1:
    cdef long long number
    if not PyLong_Check(kind):
        return -2
    number = _bounded(kind)
    return <long>number if <unsigned long long>number < KINDS and COUNTS[<unsigned char>number] >= 0 else -2


def pack(magic, kind, args, max_payload=DEFAULT_MAX_PAYLOAD):
    """Return one packet, as _wire_py.pack() does."""
    cdef object items = args if isinstance(args, (tuple, list)) else tuple(args)
    cdef long number = _known_kind(kind)
    cdef Py_ssize_t size
    if number < 0 or not _is_magic(magic) or _sequence_size(items) != COUNTS[number]:
        raise refusal(magic, kind, items, None, max_payload)
    size = _checked_size(<int>number, items, max(_bounded(max_payload), 0))
    if size < 0:
        raise refusal(magic, kind, items, None, max_payload)
    return _joined(magic, <int>number, items, size, <uint32_t>size)


def pack_header(magic, kind, leading, data_bytes, max_payload=DEFAULT_MAX_PAYLOAD):
    """Return all of a packet but its data argument, as _wire_py.pack_header() does."""
    cdef object items = (*leading, b"")
    cdef long number = _known_kind(kind)
    cdef long long data_size = _bounded(data_bytes)
    cdef Py_ssize_t size
    if number < 0 or not _is_magic(magic) or not WITH_DATA[number] or _sequence_size(items) != COUNTS[number]:
        raise refusal(magic, kind, leading, data_bytes, max_payload)
    size = _checked_size(<int>number, items, MAX_BODY_BYTES)
    if size < 0 or not 0 <= data_size <= max(_bounded(max_payload), 0) or data_size > MAX_BODY_BYTES - size:
        raise refusal(magic, kind, leading, data_bytes, max_payload)
    return _joined(magic, <int>number, items, size, <uint32_t>(size + data_size))


cdef Py_ssize_t _checked_size(int kind, object items, long long max_payload) except? -2:
    """Return the size of the body, or -1 where an argument is no bytes, holds a NUL or is too long."""
    cdef Py_ssize_t count = _sequence_size(items), index, length, size = 0, leading
    cdef PyObject** item = _sequence_items(items)
    if count == 0:
        return 0
    for index in range(count):
        if not _is_bytes(item[index]):
            return -1
        length = _bytes_size(item[index])
        if LIMITS[kind][index] == DATA:
            if length > max_payload:
                return -1
        elif length > LIMITS[kind][index] or memchr(_bytes_start(item[index]), 0, length) != NULL:
            return -1
        size += length + 1
    size -= 1
    leading = size - _bytes_size(item[count - 1]) if WITH_DATA[kind] else size
    return -1 if leading > MAX_LEADING_BYTES or size > MAX_BODY_BYTES else size


cdef object _joined(object magic, int kind, object items, Py_ssize_t body_bytes, uint32_t size):
    cdef Py_ssize_t count = _sequence_size(items), index, length
    cdef PyObject** item = _sequence_items(items)
    cdef object packet = _take_bytes(NULL, HEADER_BYTES + body_bytes)
    cdef char* at = PyBytes_AS_STRING(packet)
    memcpy(at, PyBytes_AS_STRING(magic), 4)
    _put_u32(at + 4, kind)
    _put_u32(at + 8, size)
    at += HEADER_BYTES
    for index in range(count):
        if index:
            at[0] = 0
            at += 1
        length = _bytes_size(item[index])
        memcpy(at, _bytes_start(item[index]), length)
        at += length
    assert at == PyBytes_AS_STRING(packet) + HEADER_BYTES + body_bytes
    return packet


@cython.final
cdef class Parser:
    """Parser(magic, max_payload=67108864)
--

Received bytes in, whole packets out, by the law of _wire_py.Parser.
"""
    # CPython reads a class's signature from the head of its docstring; stubtest compares it with the reference.

    cdef bytes _magic
    cdef long long _max_payload
    cdef bytearray _base
    cdef bytearray _buffer
    cdef object _base_view
    cdef object _view
    cdef Py_ssize_t _capacity
    cdef Py_ssize_t _filled
    cdef Py_ssize_t _needed
    cdef str _failure
    cdef list _salvaged

    def __init__(self, magic, max_payload=DEFAULT_MAX_PAYLOAD):
        if not _is_magic(magic):
            raise ValueError(f"unknown magic {magic!r}: use Magic.REQUEST or Magic.RESPONSE")
        self._magic = bytes(magic)
        self._max_payload = max(0, min(max_payload, MAX_BODY_BYTES - MAX_LEADING_BYTES))
        self._base = bytearray(RECEIVE_BUFFER_BYTES)
        self._base_view = memoryview(self._base)
        self._use(self._base, self._base_view)
        self._filled = 0
        self._needed = HEADER_BYTES
        self._failure = None
        self._salvaged = []

    @property
    def buffered(self):
        """How many bytes of an incomplete packet are held."""
        return self._filled

    @property
    def salvaged(self):
        """The packets that were whole before the bad one, in the call that raised; empty while nothing has failed."""
        return self._salvaged

    def get_buffer(self, sizehint):
        """Return where to write what arrives next, never empty; buffer_updated() then says how much was written."""
        return self._view if self._filled == 0 else self._view[self._filled :]

    def buffer_updated(self, Py_ssize_t nbytes):
        """Return the packets that `nbytes` more bytes in the buffer made whole. Raises ProtocolError, see the class."""
        cdef list packets = []
        self._advance(nbytes, packets)
        return packets

    def feed(self, data):
        """Return the packets that `data` made whole, through the buffer. Raises ProtocolError, see the class."""
        cdef list packets = []
        cdef object rest = memoryview(data).cast("B")
        cdef Py_ssize_t at = 0, step, size = len(rest)
        while True:
            step = min(size - at, self._capacity - self._filled)
            self._view[self._filled : self._filled + step] = rest[at : at + step]
            self._advance(step, packets)
            at += step
            if at == size:
                return packets

    cdef void _use(self, bytearray buffer, object view):
        # The view is an export of the bytearray, so nobody can resize it while raw pointers go into it.
        self._buffer = buffer
        self._view = view
        self._capacity = len(buffer)

    cdef int _advance(self, Py_ssize_t nbytes, list packets) except -1:
        cdef bytearray held = self._buffer
        cdef Py_ssize_t filled = self._filled + nbytes, needed = HEADER_BYTES, consumed
        if not 0 <= nbytes <= self._capacity - self._filled:
            raise ValueError(f"{nbytes} bytes cannot have been written to a buffer of {self._capacity - self._filled}")
        if self._failure is not None:
            raise ProtocolError(self._failure)
        self._filled = filled
        if filled < self._needed:
            return 0
        try:
            consumed = self._parse(PyByteArray_AS_STRING(held), filled, packets, &needed)
        except ProtocolError as error:
            self._failure = str(error)
            self._salvaged = packets
            self._use(self._base, self._base_view)
            self._filled = 0
            raise
        self._keep(held, consumed, filled, needed)
        return 0

    cdef Py_ssize_t _parse(self, const char* start, Py_ssize_t filled, list packets, Py_ssize_t* needed) except -1:
        cdef const char* at = start
        cdef const char* end = start + filled
        cdef const char* magic = PyBytes_AS_STRING(self._magic)
        cdef uint32_t kind, size
        while end - at >= HEADER_BYTES:
            kind = _get_u32(at + 4)
            size = _get_u32(at + 8)
            if memcmp(at, magic, 4) != 0 or kind >= KINDS or COUNTS[kind] < 0 or (size and size > self._most(kind)):
                raise header_fault(self._magic, _take_bytes(at, 4), kind, size, self._max_payload)
            if end - at - HEADER_BYTES < size:
                needed[0] = HEADER_BYTES + <Py_ssize_t>size
                break
            if COUNTS[kind] == 0:
                PyList_Append(packets, BARE[kind])
            else:
                self._append(at + HEADER_BYTES, size, kind, packets)
            at += HEADER_BYTES + <Py_ssize_t>size
        assert start <= at <= end
        return at - start

    cdef inline long long _most(self, uint32_t kind) noexcept:
        if WITH_DATA[kind]:
            return self._max_payload + MAX_LEADING_BYTES
        return MAX_LEADING_BYTES if COUNTS[kind] else 0

    cdef int _append(self, const char* at, Py_ssize_t size, uint32_t kind, list packets) except -1:
        cdef Py_ssize_t count = COUNTS[kind], index
        cdef const char* stop = at + size
        # What may precede the data is searched for NULs, the payload never is.
        cdef const char* search_end = at + MAX_LEADING_BYTES if size > MAX_LEADING_BYTES else stop
        cdef const char* nul
        cdef PyObject* args = _new_tuple(count)
        cdef PyObject* packet
        try:
            for index in range(count - 1):
                nul = <const char*>memchr(at, 0, search_end - at)
                if nul == NULL:
                    _set_item(args, index, _new_bytes(at, stop - at))
                    raise arrival_fault(kind, (<tuple>args)[: index + 1], self._max_payload)
                _set_item(args, index, _new_bytes(at, nul - at))
                at = nul + 1
            _set_item(args, count - 1, _new_bytes(at, stop - at))
            if size > self._max_payload and WITH_DATA[kind] and stop - at > self._max_payload:
                raise arrival_fault(kind, <tuple>args, self._max_payload)
            packet = _new_tuple(2)
        except:
            _release(args)
            raise
        _set_item(packet, 1, args)
        _set_item(packet, 0, _new_int(<long>kind))
        PyList_Append(packets, <object>packet)
        _release(packet)
        return 0

    cdef int _keep(self, bytearray held, Py_ssize_t consumed, Py_ssize_t filled, Py_ssize_t needed) except -1:
        cdef bytearray room = self._base if needed <= RECEIVE_BUFFER_BYTES else bytearray(needed)
        cdef Py_ssize_t rest = filled - consumed
        assert 0 <= rest < needed and rest < len(room)
        if rest and (consumed or room is not held):
            memmove(PyByteArray_AS_STRING(room), PyByteArray_AS_STRING(held) + consumed, rest)
        if room is not self._buffer:
            self._use(room, self._base_view if room is self._base else memoryview(room))
        self._filled = rest
        self._needed = needed
        return 0
