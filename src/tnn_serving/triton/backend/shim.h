/* What the parts of the backend share:
 *   interpreter.c  starts and ends CPython, lets server threads in and out of it, turns exceptions into Triton errors
 *   requests.c     Triton's requests, read and gathered into groups
 *   tuples.c       a group as Python sees it
 *   execute.c      the road of a group: into Python, and its answers out again, at once or later from another thread
 *   responses.c    results to responses
 *   group.c        which groups are under work, and their end
 *   metrics.c      series of the server's metrics endpoint
 *   watch.c        publishes how long executions have been running, without Python
 *   clock.c        the monotonic clock
 *   shim.c         the entry points Triton looks up
 *   contract.h     what C and Python agree on, generated from contract.py
 * All serving logic is in Python (bridge.py and below). Who owns what, and when: docs/backend.md. */
#ifndef TNN_SHIM_H
#define TNN_SHIM_H

#include <pthread.h>

#include "python_api.h"
#include "triton_api.h"

/* Copies above this many bytes are done without the GIL: below, giving it up costs more than the copy. */
enum { COPY_WITH_GIL_BYTES = 64 * 1024 };

/* How often the interpreter shows that it moves, and the age of executions is published. */
#ifndef PERIOD_MS
#define PERIOD_MS 500
#endif

#define TRY(call) \
  do { \
    TritonResult try_error = (call); \
    if (try_error) return try_error; \
  } while (0)

/* ---- clock.c ---- */

uint64_t now_ns(void); /* that of Triton's statistics and traces */
/* A condition for wait_a_period. */
void condition_init(pthread_cond_t *condition);
/* Waits for PERIOD_MS, unless the condition is signalled before. */
void wait_a_period(pthread_cond_t *condition, pthread_mutex_t *mutex);

/* ---- watch.c ---- */

bool watch_start(void); /* false: there is no thread for it */
void watch_stop(void);  /* waits */

/* ---- interpreter.c ---- */

/* Starts CPython and the bridge at the first call; later calls give the outcome of the first. Waits. */
TritonResult interpreter_start(TRITONBACKEND_Backend *backend);
/* Ends CPython; to be called when no model is left. Waits. */
void interpreter_stop(void);
PyObject *interpreter_backend(void); /* the bridge's Backend; borrowed */

/* Takes the GIL for a server thread; false when Python is not running (any more). `leave` undoes it. */
typedef struct { int gil_state; bool borrowed; } PythonEntry;
bool python_enter(PythonEntry *entry);
void python_leave(PythonEntry entry);

/* All four need the GIL. The first clears the pending exception and writes its traceback into Triton's log. */
TritonResult error_from_pending(const char *where);
TritonResult error_from_exception(PyObject *exception);
PyObject *raise_triton(TritonResult error); /* as RuntimeError; deletes the error; returns NULL */
PyObject *python_none(void);                /* a new reference */

/* A pointer as Python has it: a number. The second gives NULL with an exception for what is none. */
PyObject *handle_of(const void *pointer);
void *handle_from(PyObject *number);

PyObject *python_text(const char *utf8); /* never fails for bad UTF-8: Triton does not check names */

/* Neither needs the GIL; they may block on stderr, so don't hold it. */
void log_message(int level, const char *message);
void log_and_delete(TritonResult error); /* NULL is fine */

TritonResult error_new(int code, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* ---- what Python can call: shim_finish and so on, each in the file that it belongs to ---- */

#define X(name, convention) PyObject *shim_##name(PyObject *module, PyObject *arguments);
SHIM_FUNCTIONS(X)
#undef X

#endif
