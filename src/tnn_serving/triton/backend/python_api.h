/* The part of CPython's C API that the backend uses, as a table of functions filled by dlsym.
 *
 * All but Py_SetProgramName (gone in 3.15, deprecated before) are in the stable ABI with the same signature in 3.10
 * to 3.13, and every object is only touched through functions, so one binary serves all these versions. (CPython's
 * PyMemoryView_FromMemory takes a char *: it makes views that write, too.) */
#ifndef TNN_PYTHON_API_H
#define TNN_PYTHON_API_H

#include <sys/types.h>
#include <wchar.h>

#include "contract.h"

typedef struct PyObject PyObject;
typedef struct PyThreadState PyThreadState;
typedef ssize_t Py_ssize_t;
typedef struct {
  void *buf;
  PyObject *obj;
  Py_ssize_t len, itemsize;
  int readonly, ndim;
  char *format;
  Py_ssize_t *shape, *strides, *suboffsets;
  void *internal;
} Py_buffer;
typedef struct {
  const char *name;
  PyObject *(*function)(PyObject *self, PyObject *arguments);
  int flags;
  const char *doc;
} PyMethodDef;

enum { METH_VARARGS = 1, METH_NOARGS = 4, METH_O = 8, PyBUF_SIMPLE = 0, PyBUF_READ = 0x100, PyBUF_WRITE = 0x200 };

#define PYTHON_FUNCTIONS(X) \
  X(void, Py_SetProgramName, (const wchar_t *)) \
  X(wchar_t *, Py_DecodeLocale, (const char *, size_t *)) \
  X(void, Py_InitializeEx, (int)) \
  X(int, Py_FinalizeEx, (void)) \
  X(PyThreadState *, PyEval_SaveThread, (void)) \
  X(void, PyEval_RestoreThread, (PyThreadState *)) \
  X(int, PyGILState_Ensure, (void)) \
  X(void, PyGILState_Release, (int)) \
  X(PyThreadState *, PyGILState_GetThisThreadState, (void)) \
  X(PyThreadState *, PyThreadState_Get, (void)) \
  X(PyObject *, PyImport_ImportModule, (const char *)) \
  X(PyObject *, PyImport_GetModuleDict, (void)) \
  X(PyObject *, PyModule_New, (const char *)) \
  X(PyObject *, PyCFunction_NewEx, (PyMethodDef *, PyObject *, PyObject *)) \
  X(PyObject *, PyObject_GetAttr, (PyObject *, PyObject *)) \
  X(PyObject *, PyObject_GetAttrString, (PyObject *, const char *)) \
  X(int, PyObject_SetAttrString, (PyObject *, const char *, PyObject *)) \
  X(int, PyObject_IsInstance, (PyObject *, PyObject *)) \
  X(PyObject *, PyObject_CallFunctionObjArgs, (PyObject *, ...)) \
  X(PyObject *, PyObject_CallObject, (PyObject *, PyObject *)) \
  X(PyObject *, PyObject_CallMethod, (PyObject *, const char *, const char *, ...)) \
  X(PyObject *, PyObject_Str, (PyObject *)) \
  X(int, PyArg_ParseTuple, (PyObject *, const char *, ...)) \
  X(void, Py_DecRef, (PyObject *)) \
  X(void, Py_IncRef, (PyObject *)) \
  X(void, PyErr_Fetch, (PyObject **, PyObject **, PyObject **)) \
  X(void, PyErr_NormalizeException, (PyObject **, PyObject **, PyObject **)) \
  X(void, PyErr_Restore, (PyObject *, PyObject *, PyObject *)) \
  X(void, PyErr_WriteUnraisable, (PyObject *)) \
  X(void, PyErr_Clear, (void)) \
  X(PyObject *, PyErr_Occurred, (void)) \
  X(void, PyErr_SetString, (PyObject *, const char *)) \
  X(PyObject *, PyUnicode_DecodeUTF8, (const char *, Py_ssize_t, const char *)) \
  X(PyObject *, PyUnicode_InternFromString, (const char *)) \
  X(const char *, PyUnicode_AsUTF8AndSize, (PyObject *, Py_ssize_t *)) \
  X(PyObject *, PyUnicode_DecodeFSDefault, (const char *)) \
  X(PyObject *, PyUnicode_AsEncodedString, (PyObject *, const char *, const char *)) \
  X(char *, PyBytes_AsString, (PyObject *)) \
  X(Py_ssize_t, PyBytes_Size, (PyObject *)) \
  X(PyObject *, PyLong_FromLongLong, (long long)) \
  X(PyObject *, PyLong_FromUnsignedLongLong, (unsigned long long)) \
  X(double, PyFloat_AsDouble, (PyObject *)) \
  X(PyObject *, PyBool_FromLong, (long)) \
  X(long long, PyLong_AsLongLong, (PyObject *)) \
  X(unsigned long long, PyLong_AsUnsignedLongLong, (PyObject *)) \
  X(PyObject *, PyDict_New, (void)) \
  X(int, PyDict_SetItem, (PyObject *, PyObject *, PyObject *)) \
  X(int, PyDict_SetItemString, (PyObject *, const char *, PyObject *)) \
  X(int, PyDict_Next, (PyObject *, Py_ssize_t *, PyObject **, PyObject **)) \
  X(PyObject *, PyTuple_New, (Py_ssize_t)) \
  X(int, PyTuple_SetItem, (PyObject *, Py_ssize_t, PyObject *)) \
  X(PyObject *, PyTuple_GetItem, (PyObject *, Py_ssize_t)) \
  X(Py_ssize_t, PyTuple_Size, (PyObject *)) \
  X(PyObject *, PyList_New, (Py_ssize_t)) \
  X(int, PyList_Append, (PyObject *, PyObject *)) \
  X(PyObject *, PyList_GetItem, (PyObject *, Py_ssize_t)) \
  X(Py_ssize_t, PyList_Size, (PyObject *)) \
  X(int, PyList_SetSlice, (PyObject *, Py_ssize_t, Py_ssize_t, PyObject *)) \
  X(PyObject *, PyMemoryView_FromMemory, (const char *, Py_ssize_t, int)) \
  X(int, PyObject_GetBuffer, (PyObject *, Py_buffer *, int)) \
  X(void, PyBuffer_Release, (Py_buffer *))

/* `py.PyTuple_New(2)` and so on; valid once the interpreter has been started. */
typedef struct {
#define X(result, name, arguments) result(*name) arguments;
  PYTHON_FUNCTIONS(X)
#undef X
  PyObject *None, *list_type, *tuple_type;
  PyObject **RuntimeError, **BaseException;
  PyObject *memoryview_release; /* the method, unbound */
  PyObject *later;              /* the bridge's: what execute returns for a group that is answered later */
  PyObject *request_tensor;     /* the bridge's class of inputs */
  struct {
#define X(name) PyObject *name;
    OUTPUT_ATTRIBUTES(X)
#undef X
  } names; /* as str objects */
} PythonApi;
extern PythonApi py;

#endif
