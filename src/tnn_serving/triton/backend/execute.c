/* The road of a group: into Python, and its answers out again, at once or later from another thread. */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "group.h"

enum { SPAN_NAME_BYTES = 64 };

/* With the GIL; the group must have been taken. Steals `answers`; NULL: an exception is pending. */
static void answer(Group *group, PyObject *answers) {
  group->compute_end = now_ns();
  if (answers) {
    responses_take(group, answers);
    py.Py_DecRef(answers);
  } else {
    group_fail(group, error_from_pending("execute"));
  }
  group_release_views(group); /* after the answers, which may hold arrays on the inputs' memory */
}

/* With the GIL: hands a group to Python. Returns it when it was answered at once; otherwise it may already be gone. */
static Group *run(Group *group) {
  group->compute_start = now_ns();
  group_register(group);
  uint64_t ticket = group->ticket;
  PyObject *arguments = tuples_group(group);
  PyObject *result = arguments ? py.PyObject_CallObject(group->instance->execute, arguments) : NULL;
  if (arguments) py.Py_DecRef(arguments);
  if (result == py.later) {
    py.Py_DecRef(result);
    return NULL;
  }
  Group *taken = group_take(ticket);
  if (taken) {
    answer(taken, result);
    return taken;
  }
  if (result) {
    py.Py_DecRef(result);
  } else {
    TRITONSERVER_ErrorDelete(error_from_pending("execute, after the answer"));
  }
  return NULL;
}

TritonResult execute(Instance *instance, TRITONBACKEND_Request **requests, uint32_t count) {
  uint64_t exec_start = now_ns();
  Groups groups;
  TRY(requests_group(instance, requests, count, &groups));
  for (uint32_t i = 0; i < groups.count; i++) {
    Group *group = groups.groups[i];
    PythonEntry entry;
    group->exec_start = exec_start;
    if (group->items[0].error) {
      group_end(group); /* it could not be read, or was cancelled */
      continue;
    }
    group_begin(group);
    if (python_enter(&entry)) {
      Group *answered = run(group);
      python_leave(entry);
      if (answered) group_end(answered);
    } else {
      group_fail(group, TRITONSERVER_ErrorNew(ERROR_UNAVAILABLE, "Python is not running"));
      group_end(group);
    }
  }
  free(groups.groups);
  return NULL;
}

/* ---- called by Python ---- */

/* finish(answers): to a group for which execute returned LATER, or will; from any thread. */
PyObject *group_finish(PyObject *ticket, PyObject *answers) {
  Group *group = group_of(ticket);
  if (!group) return NULL;
  group_take(group->ticket);
  py.Py_IncRef(answers);
  answer(group, answers);
  PyThreadState *state = py.PyEval_SaveThread();
  group_end(group);
  py.PyEval_RestoreThread(state);
  return python_none();
}

/* is_cancelled() -> whether all requests of the group have been cancelled */
PyObject *group_is_cancelled(PyObject *ticket, PyObject *nothing) {
  (void)nothing;
  Group *group = group_of(ticket);
  if (!group) return NULL;
  bool all = true;
  for (uint32_t i = 0; all && i < group->count; i++) {
    TritonResult error = TRITONBACKEND_RequestIsCancelled(group->items[i].request, &all);
    if (error) return raise_triton(error);
  }
  return py.PyBool_FromLong(all);
}

static TritonResult report_activity(TRITONSERVER_InferenceTrace *trace, const char *name, const char *end, uint64_t at) {
  char text[SPAN_NAME_BYTES];
  snprintf(text, sizeof text, "%s_%s", name, end);
  return TRITONSERVER_InferenceTraceReportActivity(trace, at, text);
}

/* span(name, start_ns, end_ns): a step of the work in the traces of the requests; monotonic time. Triton's OpenTelemetry
 * mode makes a span of a pair of activities that end in _START and _END. */
PyObject *group_span(PyObject *ticket, PyObject *arguments) {
  unsigned long long start, end;
  const char *name;
  if (!py.PyArg_ParseTuple(arguments, "sKK", &name, &start, &end)) return NULL;
  Group *group = group_of(ticket);
  if (!group) return NULL;
  if (!TRITONBACKEND_RequestTrace || !TRITONSERVER_InferenceTraceReportActivity) return python_none();
  for (uint32_t i = 0; i < group->count; i++) {
    TRITONSERVER_InferenceTrace *trace = NULL;
    TritonResult error = TRITONBACKEND_RequestTrace(group->items[i].request, &trace);
    if (!error && trace) error = report_activity(trace, name, "START", start);
    if (!error && trace) error = report_activity(trace, name, "END", end);
    if (error) return raise_triton(error);
  }
  return python_none();
}
