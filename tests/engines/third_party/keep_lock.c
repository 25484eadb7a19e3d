/* A C extension with a function that keeps the interpreter lock for good. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <unistd.h>

static PyObject *for_good(PyObject *module, PyObject *nothing) {
  (void)module, (void)nothing;
  for (;;) pause();
}

static PyMethodDef functions[] = {{"for_good", for_good, METH_NOARGS, NULL}, {NULL, NULL, 0, NULL}};
static PyModuleDef definition = {PyModuleDef_HEAD_INIT, .m_name = "keep_lock", .m_size = -1, .m_methods = functions};

PyMODINIT_FUNC PyInit_keep_lock(void);
PyMODINIT_FUNC PyInit_keep_lock(void) { return PyModule_Create(&definition); }
