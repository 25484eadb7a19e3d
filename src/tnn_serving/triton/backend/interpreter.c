/* CPython inside the tritonserver process.
 *
 * Two paths say which Python:
 *   TNN_LIBPYTHON  absolute path of libpython3.X.so.1.0
 *   TNN_PYTHON     absolute path of the Python executable whose packages are to be seen (<venv>/bin/python)
 * They are environment variables, set by tnn_serving.triton.launch. Where TNN_LIBPYTHON is not set, because something
 * else started the server, both are lines `NAME=path` of the file python.conf beside this library, which
 * tnn_serving.triton.install writes. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "shim.h"

#define SETTINGS_FILE "python.conf"
enum { PYTHON_STACK_BYTES = 16 << 20 };

PythonApi py;

typedef enum { COLD, STARTING, READY, FAILED, STOPPED } Phase;
static _Atomic Phase phase = COLD; /* written under phase_mutex */
static pthread_mutex_t phase_mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t phase_changed;
static pthread_t python_thread;
static pthread_key_t thread_end_key;
static char start_error[4096];
static PyObject *bridge, *bridge_backend; /* the module, and its Backend */

static PyMethodDef functions[] = {
#define X(name, convention) {#name, shim_##name, convention, NULL},
    SHIM_FUNCTIONS(X)
#undef X
    {NULL, NULL, 0, NULL},
};

/* ---- logging and errors ---- */

void log_message(int level, const char *message) {
  TritonResult error = TRITONSERVER_LogMessage(level, "tnn", 0, message);
  if (error) TRITONSERVER_ErrorDelete(error); /* no place is left to report it to */
}

void log_and_delete(TritonResult error) {
  if (!error) return;
  log_message(LOG_ERROR, TRITONSERVER_ErrorMessage(error));
  TRITONSERVER_ErrorDelete(error);
}

TritonResult error_new(int code, const char *format, ...) {
  char *text = NULL;
  va_list arguments;
  va_start(arguments, format);
  int length = vasprintf(&text, format, arguments);
  va_end(arguments);
  TritonResult error = TRITONSERVER_ErrorNew(code, length < 0 ? "out of memory" : text);
  if (length >= 0) free(text);
  return error;
}

PyObject *python_text(const char *utf8) {
  return py.PyUnicode_DecodeUTF8(utf8, (Py_ssize_t)strlen(utf8), "backslashreplace");
}

/* str(object) as bytes that can always be encoded; NULL without a pending exception when even that fails */
static PyObject *utf8_of(PyObject *object) {
  PyObject *text = py.PyObject_Str(object);
  PyObject *bytes = text ? py.PyUnicode_AsEncodedString(text, "utf-8", "backslashreplace") : NULL;
  if (text) py.Py_DecRef(text);
  if (!bytes) py.PyErr_Clear();
  return bytes;
}

TritonResult error_from_exception(PyObject *exception) {
  int code = ERROR_INTERNAL;
  PyObject *attribute = py.PyObject_GetAttrString(exception, "triton_code");
  if (attribute) {
    long long value = py.PyLong_AsLongLong(attribute);
    if (value >= ERROR_UNKNOWN && value <= ERROR_CANCELLED) code = (int)value;
    py.Py_DecRef(attribute);
  }
  py.PyErr_Clear(); /* of a missing attribute, or one that is no number */
  PyObject *text = utf8_of(exception);
  const char *message = text ? py.PyBytes_AsString(text) : "an exception without a readable message";
  TritonResult error = TRITONSERVER_ErrorNew(code, message);
  if (text) py.Py_DecRef(text);
  return error;
}

TritonResult error_from_pending(const char *where) {
  PyObject *type = NULL, *value = NULL, *traceback = NULL;
  py.PyErr_Fetch(&type, &value, &traceback);
  py.PyErr_NormalizeException(&type, &value, &traceback);
  if (!value) return error_new(ERROR_INTERNAL, "%s: Python failed without an exception", where);
  TritonResult error = error_from_exception(value);
  if (!bridge) { /* it could not be imported: to stderr, then */
    py.PyErr_Restore(type, value, traceback);
    py.PyErr_WriteUnraisable(NULL);
    return error;
  }
  PyObject *logged = py.PyObject_CallMethod(bridge, "log_exception", "sOO", where, value,
                                            traceback ? traceback : py.None);
  if (logged) py.Py_DecRef(logged);
  py.PyErr_Clear();
  py.Py_DecRef(type);
  py.Py_DecRef(value);
  if (traceback) py.Py_DecRef(traceback);
  return error;
}

PyObject *raise_triton(TritonResult error) {
  py.PyErr_SetString(*py.RuntimeError, TRITONSERVER_ErrorMessage(error));
  TRITONSERVER_ErrorDelete(error);
  return NULL;
}

PyObject *handle_of(const void *pointer) { return py.PyLong_FromUnsignedLongLong((uintptr_t)pointer); }

void *handle_from(PyObject *number) {
  uintptr_t pointer = (uintptr_t)py.PyLong_AsUnsignedLongLong(number);
  if (pointer && !py.PyErr_Occurred()) return (void *)pointer;
  if (!pointer) py.PyErr_SetString(*py.RuntimeError, "0 is no handle");
  return NULL;
}

PyObject *python_none(void) {
  py.Py_IncRef(py.None);
  return py.None;
}

/* ---- server threads in Python ---- */

/* Each server thread keeps one Python thread state until it ends. PyGILState_Ensure/Release around every call would
 * make and destroy a state each time, and lose what libraries keep in threading.local. */
typedef struct { PyThreadState *state; int gil_state; } OwnState;
static __thread OwnState *own_state;

static void thread_ended(void *value) {
  OwnState *own = value;
  /* The lock keeps interpreter_stop from ending Python under our feet. It can't deadlock: no thread waits for this
   * lock while it has the GIL. */
  pthread_mutex_lock(&phase_mutex);
  if (phase == READY) {
    py.PyEval_RestoreThread(own->state);
    py.PyGILState_Release(own->gil_state); /* the last release frees the state and gives up the GIL */
  }
  pthread_mutex_unlock(&phase_mutex);
  free(own);
}

bool python_enter(PythonEntry *entry) {
  *entry = (PythonEntry){0, false};
  if (phase != READY) return false;
  if (own_state) {
    py.PyEval_RestoreThread(own_state->state);
    return true;
  }
  /* A thread that Python started may come here, since the server may go on in the thread that sent it an answer: that
   * thread's state is not ours to keep. The same way out when there is no memory or key for keeping a state. */
  OwnState *own = py.PyGILState_GetThisThreadState() ? NULL : calloc(1, sizeof *own);
  if (own && pthread_setspecific(thread_end_key, own)) {
    free(own);
    own = NULL;
  }
  entry->gil_state = py.PyGILState_Ensure();
  if (own) {
    own->gil_state = entry->gil_state;
    own->state = py.PyThreadState_Get();
    own_state = own;
  } else {
    entry->borrowed = true;
  }
  return true;
}

void python_leave(PythonEntry entry) {
  if (entry.borrowed) {
    py.PyGILState_Release(entry.gil_state);
  } else {
    py.PyEval_SaveThread();
  }
}

PyObject *interpreter_backend(void) { return bridge_backend; }

/* ---- start and end; all of it in Python's own thread ---- */

static bool failed(const char *format, ...) __attribute__((format(printf, 1, 2)));
static bool failed(const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(start_error, sizeof start_error, format, arguments);
  va_end(arguments);
  return false;
}

static const char *libpython, *executable; /* NULL: not set; kept until the process ends */

/* The value of a line `name=value`; NULL for other lines. */
static const char *value_of(const char *line, const char *name) {
  size_t length = strlen(name);
  return strncmp(line, name, length) || line[length] != '=' ? NULL : line + length + 1;
}

static void read_settings(void) {
  Dl_info self;
  if (!dladdr(&py, &self) || !self.dli_fname) return;
  const char *slash = strrchr(self.dli_fname, '/');
  int folder = slash ? (int)(slash + 1 - self.dli_fname) : 0;
  char *path, *line = NULL;
  if (asprintf(&path, "%.*s" SETTINGS_FILE, folder, self.dli_fname) < 0) return;
  FILE *file = fopen(path, "re");
  free(path);
  if (!file) return;
  size_t capacity = 0;
  while (getline(&line, &capacity, file) >= 0) {
    line[strcspn(line, "\r\n")] = 0;
    const char *value;
    if ((value = value_of(line, "TNN_LIBPYTHON"))) libpython = strdup(value);
    if ((value = value_of(line, "TNN_PYTHON"))) executable = strdup(value);
  }
  free(line);
  fclose(file);
}

/* Both from one source: a library and an executable of two Pythons would not go together. */
static void find_python(void) {
  libpython = getenv("TNN_LIBPYTHON");
  executable = getenv("TNN_PYTHON");
  if (libpython && *libpython) return;
  libpython = executable = NULL;
  read_settings();
}

static bool load_libpython(void) {
  find_python();
  const char *path = libpython;
  if (!path || !*path) {
    return failed("nothing says which Python to start: `tnn-serving serve` sets TNN_LIBPYTHON, and for other servers "
                  "`tnn-serving backend install` writes " SETTINGS_FILE " beside this library");
  }
  /* RTLD_GLOBAL: extension modules expect Python's symbols in the global scope. */
  void *library = dlopen(path, RTLD_NOW | RTLD_GLOBAL);
  if (!library) return failed("cannot load the library of Python (TNN_LIBPYTHON): %s", dlerror());
  void *symbol;
#define X(result, name, arguments) \
  if (!(symbol = dlsym(library, #name))) return failed("%s is no CPython 3.10 to 3.14: it lacks %s", path, #name); \
  memcpy(&py.name, &symbol, sizeof symbol);
  PYTHON_FUNCTIONS(X)
#undef X
  py.None = dlsym(library, "_Py_NoneStruct");
  py.list_type = dlsym(library, "PyList_Type");
  py.tuple_type = dlsym(library, "PyTuple_Type");
  py.RuntimeError = dlsym(library, "PyExc_RuntimeError");
  py.BaseException = dlsym(library, "PyExc_BaseException");
  bool complete = py.None && py.list_type && py.tuple_type && py.RuntimeError && py.BaseException;
  return complete || failed("%s lacks CPython's built-in objects", path);
}

static bool add_shim_module(void) {
  PyObject *module = py.PyModule_New(SHIM_MODULE);
  if (!module) return false;
  bool added = true;
  for (PyMethodDef *each = functions; added && each->name; each++) {
    PyObject *function = py.PyCFunction_NewEx(each, NULL, NULL);
    added = function && !py.PyObject_SetAttrString(module, each->name, function);
    if (function) py.Py_DecRef(function);
  }
  added = added && !py.PyDict_SetItemString(py.PyImport_GetModuleDict(), SHIM_MODULE, module);
  py.Py_DecRef(module);
  return added;
}

/* What is looked up once and used for every request. */
static bool find_objects(void) {
  PyObject *view = py.PyMemoryView_FromMemory("", 0, PyBUF_READ);
  PyObject *type = view ? py.PyObject_GetAttrString(view, "__class__") : NULL;
  if (type) py.memoryview_release = py.PyObject_GetAttrString(type, "release");
  if (view) py.Py_DecRef(view);
  if (type) py.Py_DecRef(type);
  if (!py.memoryview_release) return false;
#define X(name) \
  if (!(py.names.name = py.PyUnicode_InternFromString(#name))) return false;
  OUTPUT_ATTRIBUTES(X)
#undef X
  py.later = py.PyObject_GetAttrString(bridge, LATER_NAME);
  py.request_tensor = py.later ? py.PyObject_GetAttrString(bridge, INPUT_CLASS) : NULL;
  return py.request_tensor != NULL;
}

static bool start_bridge(const char *config_json, size_t length) {
  if (add_shim_module() && (bridge = py.PyImport_ImportModule(BRIDGE_MODULE)) && find_objects()) {
    bridge_backend = py.PyObject_CallMethod(bridge, "start", "N",
                                            py.PyUnicode_DecodeUTF8(config_json, (Py_ssize_t)length, "strict"));
    if (bridge_backend) return true;
  }
  TritonResult error = error_from_pending("start of the tnn backend");
  failed("cannot start the tnn backend with TNN_PYTHON=%s: %s", executable ? executable : "(not set)",
         TRITONSERVER_ErrorMessage(error));
  TRITONSERVER_ErrorDelete(error);
  return false;
}

/* *state: the thread state to come back with, NULL when the interpreter could not even be initialised. */
static bool start_python(TRITONBACKEND_Backend *backend, PyThreadState **state) {
  if (!load_libpython()) return false;
  if (executable && *executable) {
    /* The program name decides sys.prefix, and so which venv's packages are seen. Python keeps the pointer. */
    wchar_t *program = py.Py_DecodeLocale(executable, NULL);
    if (!program) return failed("cannot decode TNN_PYTHON=%s", executable);
    py.Py_SetProgramName(program);
  }
  TRITONSERVER_Message *message; /* belongs to the backend */
  const char *config_json;
  size_t length;
  TritonResult error = TRITONBACKEND_BackendConfig(backend, &message);
  if (!error) error = TRITONSERVER_MessageSerializeToJson(message, &config_json, &length);
  if (error) {
    failed("cannot read the backend's configuration: %s", TRITONSERVER_ErrorMessage(error));
    TRITONSERVER_ErrorDelete(error);
    return false;
  }
  py.Py_InitializeEx(0); /* 0: no signal handlers; SIGTERM and SIGINT stay the server's */
  bool started = start_bridge(config_json, length);
  /* On failure the interpreter stays as it is: what a half done import left behind can't be finalised safely. */
  *state = py.PyEval_SaveThread();
  return started;
}

static void end_python(void) {
  PyObject *done = py.PyObject_CallMethod(bridge_backend, "close", NULL);
  if (done) {
    py.Py_DecRef(done);
  } else {
    TRITONSERVER_ErrorDelete(error_from_pending("end of the tnn backend"));
  }
  py.Py_DecRef(bridge_backend);
  py.Py_DecRef(bridge);
  bridge = bridge_backend = NULL;
  if (py.Py_FinalizeEx()) log_message(LOG_WARN, "Python could not flush all its output at its end");
}

/* The heartbeat goes through the interpreter: it stops when something keeps the GIL for good. */
static void beat(PyThreadState *state) {
  py.PyEval_RestoreThread(state);
  PyObject *done = py.PyObject_CallMethod(bridge_backend, "beat", NULL);
  if (done) {
    py.Py_DecRef(done);
  } else {
    TRITONSERVER_ErrorDelete(error_from_pending("heartbeat"));
  }
  py.PyEval_SaveThread();
}

/* Python's main thread from Py_InitializeEx to Py_FinalizeEx, so that threading, atexit and finalisation see the main
 * thread they expect. The thread that loads the first model would not do: it may end, and it isn't the one that
 * finalises. Between start and end it waits, without the GIL, and lets the heart beat. */
static void *python_main(void *backend) {
  PyThreadState *state = NULL;
  bool started = start_python(backend, &state) &&
                 (watch_start() || failed("cannot start the thread that watches executions"));
  if (!started) pthread_detach(pthread_self()); /* interpreter_stop waits only for a Python that runs */
  pthread_mutex_lock(&phase_mutex);
  phase = started ? READY : FAILED;
  pthread_cond_broadcast(&phase_changed);
  while (phase == READY) {
    pthread_mutex_unlock(&phase_mutex);
    beat(state); /* may wait for the GIL for good */
    pthread_mutex_lock(&phase_mutex);
    if (phase == READY) wait_a_period(&phase_changed, &phase_mutex);
  }
  pthread_mutex_unlock(&phase_mutex);
  if (started) {
    watch_stop();
    py.PyEval_RestoreThread(state);
    end_python();
  }
  return NULL;
}

static bool spawn_python_thread(TRITONBACKEND_Backend *backend) {
  pthread_attr_t attributes;
  if (pthread_key_create(&thread_end_key, thread_ended)) return failed("no thread-specific key is left");
  if (pthread_attr_init(&attributes)) return failed("cannot prepare Python's thread");
  /* Imports of large packages recurse deeply; the default of a small `ulimit -s` may not do. */
  bool spawned = !pthread_attr_setstacksize(&attributes, PYTHON_STACK_BYTES) &&
                 !pthread_create(&python_thread, &attributes, python_main, backend);
  pthread_attr_destroy(&attributes);
  return spawned || failed("cannot start Python's thread");
}

TritonResult interpreter_start(TRITONBACKEND_Backend *backend) {
  pthread_mutex_lock(&phase_mutex);
  if (phase == COLD) {
    condition_init(&phase_changed);
    phase = spawn_python_thread(backend) ? STARTING : FAILED;
  }
  while (phase == STARTING) pthread_cond_wait(&phase_changed, &phase_mutex);
  Phase outcome = phase;
  pthread_mutex_unlock(&phase_mutex);
  if (outcome == READY) return NULL;
  return error_new(ERROR_UNAVAILABLE, "%s", outcome == FAILED ? start_error : "Python has ended in this server");
}

void interpreter_stop(void) {
  pthread_mutex_lock(&phase_mutex);
  bool running = phase == READY;
  if (running) {
    phase = STOPPED; /* before Python ends: from here on thread_ended leaves the thread states alone */
    pthread_cond_broadcast(&phase_changed);
  }
  pthread_mutex_unlock(&phase_mutex);
  if (running) pthread_join(python_thread, NULL);
}
