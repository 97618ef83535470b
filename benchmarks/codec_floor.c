/* The least that a codec must do: make the objects. It looks at no byte, checks nothing, and knows where everything is.
 *
 * A parse is told the packets' type and where each argument lies, a pack its header and its size.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

enum { MOST_ARGUMENTS = 8 };

/* make_packets(stream, packet_bytes, kind, cuts): the list of (kind, arguments) that a parser would give for a stream
 * of packets of one shape; `cuts` are pairs of where an argument begins and ends, from the start of its packet. */
static PyObject *make_packets(PyObject *module, PyObject *const *args, Py_ssize_t nargs) {
    if (nargs != 4 || !PyBytes_Check(args[0]) || !PyTuple_Check(args[3]) || PyTuple_GET_SIZE(args[3]) > 2 * MOST_ARGUMENTS)
        return PyErr_Format(PyExc_TypeError, "make_packets(stream: bytes, packet_bytes: int, kind: int, cuts: tuple)");
    const char *at = PyBytes_AS_STRING(args[0]);
    const Py_ssize_t packet_bytes = PyLong_AsSsize_t(args[1]);
    const long kind = PyLong_AsLong(args[2]);
    const Py_ssize_t count = PyTuple_GET_SIZE(args[3]) / 2;
    Py_ssize_t begins[MOST_ARGUMENTS], sizes[MOST_ARGUMENTS];
    for (Py_ssize_t i = 0; i < count; i++) {
        begins[i] = PyLong_AsSsize_t(PyTuple_GET_ITEM(args[3], 2 * i));
        sizes[i] = PyLong_AsSsize_t(PyTuple_GET_ITEM(args[3], 2 * i + 1)) - begins[i];
        if (begins[i] < 0 || sizes[i] < 0 || begins[i] + sizes[i] > packet_bytes)
            return PyErr_Format(PyExc_ValueError, "argument %zd lies outside its packet", i);
    }
    if (PyErr_Occurred() || packet_bytes <= 0)
        return PyErr_Occurred() ? NULL : PyErr_Format(PyExc_ValueError, "a packet has %zd bytes", packet_bytes);
    const Py_ssize_t length = PyBytes_GET_SIZE(args[0]) / packet_bytes;
    PyObject *packets = PyList_New(length);
    for (Py_ssize_t n = 0; packets && n < length; n++, at += packet_bytes) {
        PyObject *arguments = PyTuple_New(count), *packet = PyTuple_New(2);
        for (Py_ssize_t i = 0; i < count; i++)
            PyTuple_SET_ITEM(arguments, i, PyBytes_FromStringAndSize(at + begins[i], sizes[i]));
        PyTuple_SET_ITEM(packet, 0, PyLong_FromLong(kind));
        PyTuple_SET_ITEM(packet, 1, arguments);
        PyList_SET_ITEM(packets, n, packet);
    }
    return packets;
}

/* make_packet(header, size, args): the bytes of one packet, `size` of them after the header. */
static PyObject *make_packet(PyObject *module, PyObject *const *args, Py_ssize_t nargs) {
    if (nargs != 3 || !PyBytes_Check(args[0]) || !PyTuple_Check(args[2]))
        return PyErr_Format(PyExc_TypeError, "make_packet(header: bytes, size: int, args: tuple)");
    const Py_ssize_t header_bytes = PyBytes_GET_SIZE(args[0]), count = PyTuple_GET_SIZE(args[2]);
    PyObject *packet = PyBytes_FromStringAndSize(NULL, header_bytes + PyLong_AsSsize_t(args[1]));
    if (!packet)
        return NULL;
    char *to = PyBytes_AS_STRING(packet);
    memcpy(to, PyBytes_AS_STRING(args[0]), header_bytes);
    to += header_bytes;
    for (Py_ssize_t i = 0; i < count; i++) {
        PyObject *argument = PyTuple_GET_ITEM(args[2], i);
        if (i)
            *to++ = 0;
        memcpy(to, PyBytes_AS_STRING(argument), PyBytes_GET_SIZE(argument));
        to += PyBytes_GET_SIZE(argument);
    }
    return packet;
}

static PyMethodDef methods[] = {
    {"make_packets", (PyCFunction)(void (*)(void))make_packets, METH_FASTCALL, NULL},
    {"make_packet", (PyCFunction)(void (*)(void))make_packet, METH_FASTCALL, NULL},
    {NULL, NULL, 0, NULL},
};
static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "codec_floor", NULL, -1, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit_codec_floor(void) { return PyModule_Create(&module); }
