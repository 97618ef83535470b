# cython: language_level=3, binding=True, auto_pickle=False, embedsignature.format=clinic
"""The codec of `_wire_py`, compiled: the same names, the same values and the same errors.

Arguments are made straight from the receive buffer, and what is missing of a large payload is received into the
argument itself: of 64 MiB the copy, with pages of its own, took half of the receiver's CPU time. What goes wrong is
only found here: the tables and the wording of errors are those of `packets`. Nothing that Python code could change
meanwhile is read twice through a raw pointer.
"""

cimport cython
from cpython.bytearray cimport PyByteArray_AS_STRING
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_Check, PyBytes_GET_SIZE
from cpython.long cimport PyLong_Check
from cpython.object cimport PyObject
from cpython.ref cimport Py_INCREF
from cpython.tuple cimport PyTuple_New, PyTuple_SET_ITEM
from libc.stdint cimport uint32_t, uintptr_t
from libc.string cimport memchr, memcmp, memcpy, memmove

from que.errors import ProtocolError
from que.gearman.packets import DEFAULT_MAX_PAYLOAD, LAYOUTS, Magic, arrival_fault, header_fault, refusal
from que.gearman import packets as _packets

__all__ = ["Parser", "pack", "pack_header"]


cdef extern from "Python.h":
    # As C sees them: a value that goes straight into a tuple, and the arguments of a packet, are not counted on the way.
    PyObject* _new_bytes "PyBytes_FromStringAndSize"(const char* start, Py_ssize_t size) except NULL
    PyObject* _new_int "PyLong_FromLong"(long value) except NULL
    void _set_item "PyTuple_SET_ITEM"(tuple target, Py_ssize_t index, PyObject* stolen)
    bytes _take_bytes "PyBytes_FromStringAndSize"(const char* start, Py_ssize_t size)
    char* _bytes_start "PyBytes_AS_STRING"(PyObject* value)
    Py_ssize_t _bytes_size "PyBytes_GET_SIZE"(PyObject* value)
    bint _is_bytes "PyBytes_Check"(PyObject* value)
    int _expose "PyBuffer_FillInfo"(
        Py_buffer* view, object owner, void* at, Py_ssize_t size, int readonly, int flags
    ) except -1
    long long _clamped "PyLong_AsLongLongAndOverflow"(object value, int* overflow) except? -1
    Py_ssize_t _sequence_size "PySequence_Fast_GET_SIZE"(object sequence)
    PyObject** _sequence_items "PySequence_Fast_ITEMS"(object sequence)

cdef extern from *:
    """
    #include <sys/mman.h>
    #ifndef MADV_HUGEPAGE
    #define MADV_HUGEPAGE MADV_NORMAL
    #endif
    """
    int madvise(void* start, size_t size, int advice) nogil
    int MADV_HUGEPAGE

cdef extern from "string.h":
    char* stpcpy(char* target, const char* source) nogil


cdef enum:
    HEADER_BYTES = 12
    KINDS = 43
    MOST_NAMES = 7
    HUGE_PAGE_BYTES = 2 * 1024 * 1024
    # From here on glibc maps each block anew and unmaps it when it is freed, so that the advice ends with the payload.
    MAPPED_BYTES = 32 * 1024 * 1024

cdef struct Layout:
    int count  # of all arguments, -1 for an unknown type
    int names  # of those that are not data
    bint with_data
    int limits[MOST_NAMES]

cdef Layout TABLE[KINDS]
cdef long long MAX_BODY_BYTES = _packets.MAX_BODY_BYTES
cdef long long MAX_LEADING_BYTES = _packets.MAX_LEADING_BYTES
cdef Py_ssize_t RECEIVE_BUFFER_BYTES = _packets.RECEIVE_BUFFER_BYTES
cdef Py_ssize_t KEPT_BUFFER_BYTES = _packets.KEPT_BUFFER_BYTES
cdef object DEFAULT_LIMIT = DEFAULT_MAX_PAYLOAD
cdef long long DEFAULT_LIMIT_BYTES = DEFAULT_MAX_PAYLOAD
cdef object REQUEST = Magic.REQUEST
cdef object RESPONSE = Magic.RESPONSE
# A packet without arguments is the same value each time.
cdef tuple BARE = tuple((kind, ()) for kind in range(KINDS))


cdef void _fill_table() except *:
    cdef int kind, index
    for kind in range(KINDS):
        TABLE[kind].count = -1
    for known, layout in LAYOUTS.items():
        kind = known
        names = [argument for argument in layout if not argument.data]
        assert 0 <= kind < KINDS and len(names) <= MOST_NAMES and list(layout[: len(names)]) == names
        TABLE[kind].count = len(layout)
        TABLE[kind].names = len(names)
        TABLE[kind].with_data = len(layout) > len(names)
        for index, argument in enumerate(names):
            TABLE[kind].limits[index] = argument.max_bytes


_fill_table()


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


cdef inline int _known_kind(object magic, object kind) except? -1:
    """Return the packet type's number, or -2 where it or the magic is unknown."""
    cdef int overflow = 0
    cdef long long number
    if not PyLong_Check(kind) or not (magic is REQUEST or magic is RESPONSE or _is_magic(magic)):
        return -2
    # What overflows is -1 here, and no type either.
    number = _clamped(kind, &overflow)
    return <int>number if <unsigned long long>number < KINDS and TABLE[number].count >= 0 else -2


# A plain builtin function is called 5 ns of 55 faster than one of Cython's; its signature is embedded, for inspect.
@cython.binding(False)
@cython.embedsignature(True)
def pack(magic, kind, args, max_payload=DEFAULT_MAX_PAYLOAD):
    """Return one packet, as _wire_py.pack() does."""
    cdef object items = args if isinstance(args, (tuple, list)) else tuple(args)
    cdef int number = _known_kind(magic, kind)
    cdef Py_ssize_t leading_bytes = -1, data_bytes = 0
    cdef PyObject* data = NULL
    cdef bytes packet = None
    if number >= 0 and _sequence_size(items) == TABLE[number].count:
        leading_bytes = _leading_bytes(number, _sequence_items(items))
        if TABLE[number].with_data:
            data = _sequence_items(items)[TABLE[number].names]
            data_bytes = _bytes_size(data) if _is_bytes(data) else -1
    if leading_bytes >= 0 and _carries(leading_bytes, data_bytes, max_payload):
        packet = _started(magic, number, _sequence_items(items), leading_bytes, data_bytes, data_bytes)
    if packet is None:
        raise refusal(magic, kind, items, None, max_payload)
    if data_bytes:
        memcpy(PyBytes_AS_STRING(packet) + HEADER_BYTES + leading_bytes, _bytes_start(data), data_bytes)
    return packet


@cython.binding(False)
@cython.embedsignature(True)
def pack_header(magic, kind, leading, data_bytes, max_payload=DEFAULT_MAX_PAYLOAD):
    """Return all of a packet but its data argument, as _wire_py.pack_header() does."""
    cdef object items = leading if isinstance(leading, (tuple, list)) else tuple(leading)
    cdef int number = _known_kind(magic, kind)
    cdef long long data_size = _bounded(data_bytes)
    cdef Py_ssize_t leading_bytes = -1
    cdef bytes packet = None
    if number >= 0 and TABLE[number].with_data and _sequence_size(items) == TABLE[number].names:
        leading_bytes = _leading_bytes(number, _sequence_items(items))
    if leading_bytes >= 0 and _carries(leading_bytes, data_size, max_payload):
        packet = _started(magic, number, _sequence_items(items), leading_bytes, data_size, 0)
    if packet is None:
        raise refusal(magic, kind, leading, data_bytes, max_payload)
    return packet


cdef inline Py_ssize_t _leading_bytes(int kind, PyObject** item) noexcept:
    """Return the size of all but the data, or -1 where a name is no bytes or too long."""
    cdef Py_ssize_t index, length, size = 0
    for index in range(TABLE[kind].names):
        if not _is_bytes(item[index]):
            return -1
        length = _bytes_size(item[index])
        if length > TABLE[kind].limits[index]:
            return -1
        size += length + 1
    if size and not TABLE[kind].with_data:
        size -= 1
    return -1 if size > MAX_LEADING_BYTES else size


cdef inline bint _carries(Py_ssize_t leading_bytes, long long data_bytes, object max_payload) except -1:
    # To see that it is the default is 3 ns of 60 cheaper than to make a number of it.
    cdef long long most = DEFAULT_LIMIT_BYTES if max_payload is DEFAULT_LIMIT else _bounded(max_payload)
    return 0 <= data_bytes <= max(most, 0) and data_bytes <= MAX_BODY_BYTES - leading_bytes


cdef inline bytes _started(
    object magic, int kind, PyObject** item, Py_ssize_t leading_bytes, long long data_bytes, Py_ssize_t room
):
    """Return a packet that ends in `room` bytes to fill, None if a name holds a NUL; it announces `data_bytes`."""
    cdef bytes packet = _take_bytes(NULL, HEADER_BYTES + leading_bytes + room)
    cdef char* at = PyBytes_AS_STRING(packet)
    cdef char* stop
    cdef Py_ssize_t index
    memcpy(at, PyBytes_AS_STRING(magic), 4)
    _put_u32(at + 4, kind)
    _put_u32(at + 8, <uint32_t>(leading_bytes + data_bytes))
    at += HEADER_BYTES
    for index in range(TABLE[kind].names):
        # A bytes object ends in a NUL that its size does not count. To copy up to the first one is to look for it, and
        # to write what ends an argument; after the last name of a type without data it is the packet's own.
        stop = stpcpy(at, _bytes_start(item[index]))
        if stop - at != _bytes_size(item[index]):
            return None
        at = stop + 1
    return packet


cdef inline void _ask_for_huge_pages(char* start, Py_ssize_t size) noexcept:
    # Of 64 MiB 16,000 page faults took half of the receiver's CPU time. A kernel that has no huge pages says no.
    cdef uintptr_t skipped = -(<uintptr_t>start) % HUGE_PAGE_BYTES
    madvise(start + skipped, (size - skipped) // HUGE_PAGE_BYTES * HUGE_PAGE_BYTES, MADV_HUGEPAGE)


@cython.final
cdef class _Payload:
    """A data argument that still arrives, as a buffer to write to.

    Nobody else has the bytes before they are whole. Who holds a view writes nothing to it after buffer_updated().
    """

    cdef bytes _data

    def __getbuffer__(self, Py_buffer* buffer, int flags):
        _expose(buffer, self, PyBytes_AS_STRING(self._data), PyBytes_GET_SIZE(self._data), 0, flags)


@cython.final
cdef class Parser:
    """Parser(magic, max_payload=DEFAULT_MAX_PAYLOAD)
--

Received bytes in, whole packets out, by the law of _wire_py.Parser.
"""
    # CPython reads a class's signature from the head of its docstring; stubtest compares it with the reference.

    cdef bytes _magic
    cdef long long _max_payload
    cdef bytearray _base
    cdef bytearray _buffer
    cdef object _base_view
    cdef bytearray _spare
    cdef object _view
    cdef Py_ssize_t _capacity
    cdef Py_ssize_t _filled
    cdef Py_ssize_t _needed
    cdef tuple _large  # the packet whose data argument the view is, None while the view is a receive buffer
    cdef Py_ssize_t _ahead  # how many bytes of it came before its data
    cdef str _failure
    cdef list _salvaged

    def __init__(self, magic, max_payload=DEFAULT_MAX_PAYLOAD):
        if not _is_magic(magic):
            raise ValueError(f"unknown magic {magic!r}: use Magic.REQUEST or Magic.RESPONSE")
        self._magic = bytes(magic)
        self._max_payload = max(0, min(max_payload, MAX_BODY_BYTES - MAX_LEADING_BYTES))
        self._base = bytearray(RECEIVE_BUFFER_BYTES)
        self._base_view = memoryview(self._base)
        self._spare = bytearray()
        self._use(self._base, self._base_view)
        self._filled = 0
        self._needed = HEADER_BYTES
        self._large = None
        self._ahead = 0
        self._failure = None
        self._salvaged = []

    @property
    def buffered(self):
        """How many bytes of an incomplete packet are held."""
        return self._filled + self._ahead

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
        self._capacity = len(view)

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
        if self._large is not None:
            return self._end_large(packets)
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
            if memcmp(at, magic, 4) != 0 or kind >= KINDS or TABLE[kind].count < 0 or size > self._most(kind):
                raise header_fault(self._magic, _take_bytes(at, 4), kind, size, self._max_payload)
            if end - at - HEADER_BYTES < size:
                needed[0] = HEADER_BYTES + <Py_ssize_t>size
                break
            packets.append(BARE[kind] if TABLE[kind].count == 0 else self._packet(at + HEADER_BYTES, size, kind))
            at += HEADER_BYTES + <Py_ssize_t>size
        assert start <= at <= end
        return at - start

    cdef inline long long _most(self, uint32_t kind) noexcept:
        if TABLE[kind].with_data:
            return self._max_payload + MAX_LEADING_BYTES
        return MAX_LEADING_BYTES if TABLE[kind].count else 0

    cdef inline tuple _packet(self, const char* at, Py_ssize_t size, uint32_t kind):
        cdef Py_ssize_t last = TABLE[kind].count - 1, index
        cdef const char* stop = at + size
        # What may precede the data is searched for NULs, the payload never is.
        cdef const char* search_end = at + MAX_LEADING_BYTES if size > MAX_LEADING_BYTES else stop
        cdef const char* nul
        cdef tuple args = PyTuple_New(last + 1)
        cdef tuple packet
        for index in range(last):
            nul = <const char*>memchr(at, 0, search_end - at)
            if nul == NULL:
                _set_item(args, index, _new_bytes(at, stop - at))
                raise arrival_fault(kind, args[: index + 1], self._max_payload)
            _set_item(args, index, _new_bytes(at, nul - at))
            at = nul + 1
        _set_item(args, last, _new_bytes(at, stop - at))
        if size > self._max_payload and TABLE[kind].with_data and stop - at > self._max_payload:
            raise arrival_fault(kind, args, self._max_payload)
        packet = PyTuple_New(2)
        _set_item(packet, 0, _new_int(<long>kind))
        Py_INCREF(args)
        PyTuple_SET_ITEM(packet, 1, args)
        return packet

    cdef int _keep(self, bytearray held, Py_ssize_t consumed, Py_ssize_t filled, Py_ssize_t needed) except -1:
        cdef bytearray room = self._base
        cdef object view = self._base_view
        cdef Py_ssize_t rest = filled - consumed
        assert 0 <= rest < needed
        if needed > RECEIVE_BUFFER_BYTES:
            if self._begin_large(PyByteArray_AS_STRING(held) + consumed, rest, needed):
                return 0
            room = self._spare if needed <= len(self._spare) else bytearray(needed)
            self._spare = room if len(room) <= KEPT_BUFFER_BYTES else bytearray()
            view = memoryview(room)[:needed]
        assert rest < len(room)
        if rest and (consumed or room is not held):
            memmove(PyByteArray_AS_STRING(room), PyByteArray_AS_STRING(held) + consumed, rest)
        if room is not self._buffer or room is not self._base:
            self._use(room, view)
        self._filled = rest
        self._needed = needed
        return 0

    cdef bint _begin_large(self, const char* start, Py_ssize_t rest, Py_ssize_t needed) except -1:
        """Return whether the view is now what is missing of the data of the packet whose first `rest` bytes are here.

        It is where what precedes the data is here, and the data is not over the limit: that is said of whole packets.
        """
        cdef const char* at = start + HEADER_BYTES
        cdef const char* search_end = at + min(rest - HEADER_BYTES, MAX_LEADING_BYTES)
        cdef const char* nul
        cdef uint32_t kind = _get_u32(start + 4)
        cdef Py_ssize_t ahead, size
        cdef list args = []
        cdef _Payload payload = _Payload.__new__(_Payload)
        assert HEADER_BYTES <= rest < needed and TABLE[kind].with_data
        while len(args) < TABLE[kind].names:
            nul = <const char*>memchr(at, 0, search_end - at)
            if nul == NULL:
                return False
            args.append(_take_bytes(at, nul - at))
            at = nul + 1
        ahead = at - start
        size = needed - ahead
        if size > self._max_payload:
            return False
        payload._data = _take_bytes(NULL, size)
        if size >= MAPPED_BYTES:
            _ask_for_huge_pages(PyBytes_AS_STRING(payload._data), size)
        assert 0 <= rest - ahead < size
        memcpy(PyBytes_AS_STRING(payload._data), at, rest - ahead)
        args.append(payload._data)
        self._large = (<long>kind, tuple(args))
        self._view = memoryview(payload)
        self._capacity = self._needed = size
        self._filled = rest - ahead
        self._ahead = ahead
        return True

    cdef int _end_large(self, list packets) except -1:
        # The view had room for this packet alone, so nothing follows it yet.
        packets.append(self._large)
        self._large = None
        self._ahead = self._filled = 0
        self._needed = HEADER_BYTES
        self._use(self._base, self._base_view)
        return 0
