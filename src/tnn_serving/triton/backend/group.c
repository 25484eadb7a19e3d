/* Which groups are under work, and how one ends. */
#define _GNU_SOURCE
#include <stdlib.h>
#include <string.h>

#include "group.h"

enum { BUCKETS = 256, ALIGNMENT = 64 };

/* By ticket, so that a call for a group that is gone is an error and not a crash. Guarded by the GIL. */
static Group *registered[BUCKETS];
static uint64_t last_ticket;

/* One lock for all instances: it is held for nanoseconds, and an instance may be freed as soon as its last group has
 * let go of it, so the lock can't be a part of it. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t one_less = PTHREAD_COND_INITIALIZER;

/* Groups of all models from group_begin to group_end, the oldest first. Guarded by the lock. */
static TAILQ_HEAD(, Group) running = TAILQ_HEAD_INITIALIZER(running);

/* ---- lifetime ---- */

Group *group_new(Instance *instance, uint32_t count, uint32_t input_count, uint32_t output_count, uint64_t dims) {
  /* One block; the parts in order of their alignment. */
  size_t bytes = sizeof(Group) + count * sizeof(Item) + input_count * sizeof(Tensor) + dims * sizeof(int64_t) +
                 output_count * (sizeof(char *) + sizeof(bool));
  Group *group = calloc(1, bytes);
  if (!group) return NULL;
  group->instance = instance;
  group->count = count;
  group->input_count = input_count;
  group->output_count = output_count;
  group->items = (Item *)(group + 1);
  group->inputs = (Tensor *)(group->items + count);
  group->dims = (int64_t *)(group->inputs + input_count);
  group->outputs = (const char **)(group->dims + dims);
  group->allocated = (bool *)(group->outputs + output_count);
  pthread_mutex_lock(&lock);
  instance->in_flight++;
  pthread_mutex_unlock(&lock);
  return group;
}

bool group_memory(Group *group, uint64_t bytes) {
  Instance *instance = group->instance;
  pthread_mutex_lock(&lock);
  if (instance->spare_bytes >= bytes) {
    group->memory = instance->spare;
    group->memory_bytes = instance->spare_bytes;
    instance->spare = NULL;
    instance->spare_bytes = 0;
  }
  pthread_mutex_unlock(&lock);
  if (group->memory) return true;
  void *memory;
  if (posix_memalign(&memory, ALIGNMENT, bytes)) return false;
  group->memory = memory;
  group->memory_bytes = bytes;
  return true;
}

/* The last touch of the instance: from here on it may be finalised. */
static void let_go_of_instance(Group *group) {
  Instance *instance = group->instance;
  char *unused = group->memory;
  pthread_mutex_lock(&lock);
  if (group->memory_bytes > instance->spare_bytes) {
    unused = instance->spare;
    instance->spare = group->memory;
    instance->spare_bytes = group->memory_bytes;
  }
  if (!--instance->in_flight) pthread_cond_broadcast(&one_less);
  pthread_mutex_unlock(&lock);
  free(unused);
}

void group_discard(Group *group) {
  let_go_of_instance(group);
  free(group);
}

void group_wait_for_all(Instance *instance) {
  pthread_mutex_lock(&lock);
  while (instance->in_flight) pthread_cond_wait(&one_less, &lock);
  pthread_mutex_unlock(&lock);
}

/* ---- registry ---- */

void group_register(Group *group) {
  group->ticket = ++last_ticket;
  Group **bucket = &registered[group->ticket % BUCKETS];
  group->next = *bucket;
  *bucket = group;
}

Group *group_of(PyObject *ticket) {
  uint64_t number = py.PyLong_AsUnsignedLongLong(ticket);
  Group *group = registered[number % BUCKETS];
  while (group && group->ticket != number) group = group->next;
  if (!group) py.PyErr_SetString(*py.RuntimeError, "these requests have already been answered");
  return group;
}

Group *group_take(uint64_t ticket) {
  for (Group **link = &registered[ticket % BUCKETS]; *link; link = &(*link)->next) {
    Group *group = *link;
    if (group->ticket != ticket) continue;
    *link = group->next;
    return group;
  }
  return NULL;
}

/* ---- executions ---- */

void group_begin(Group *group) {
  pthread_mutex_lock(&lock);
  group->began = now_ns(); /* with the lock, so that the list is in order */
  TAILQ_INSERT_TAIL(&running, group, running);
  pthread_mutex_unlock(&lock);
}

static void no_longer_running(Group *group) {
  if (!group->began) return;
  pthread_mutex_lock(&lock);
  TAILQ_REMOVE(&running, group, running);
  pthread_mutex_unlock(&lock);
}

uint64_t group_oldest_ns(const TRITONBACKEND_Model *model) {
  pthread_mutex_lock(&lock);
  const Group *group;
  TAILQ_FOREACH(group, &running, running) {
    if (group->instance->model == model) break;
  }
  uint64_t began = group ? group->began : 0;
  pthread_mutex_unlock(&lock);
  return began;
}

/* ---- end ---- */

/* 1 if an object that has the view's buffer is still alive, which keeps it from being released. */
static int release_view(PyObject *view) {
  PyObject *released = py.PyObject_CallFunctionObjArgs(py.memoryview_release, view, NULL);
  if (!released) {
    py.PyErr_Clear();
    return 1;
  }
  py.Py_DecRef(released);
  return 0;
}

/* That nothing reads the memory any more is the Servable's promise. Most that break it are seen here, but not numpy's
 * arrays: they have views of their own. */
void group_release_views(Group *group) {
  int kept = 0;
  for (uint32_t i = 0; i < group->input_count; i++) {
    PyObject *view = group->inputs[i].view;
    if (!view) continue;
    kept += release_view(view);
    py.Py_DecRef(view);
  }
  if (group->output_views) {
    for (Py_ssize_t i = 0, count = py.PyList_Size(group->output_views); i < count; i++) {
      kept += release_view(py.PyList_GetItem(group->output_views, i));
    }
    py.Py_DecRef(group->output_views);
  }
  if (!kept || group->instance->warned) return;
  group->instance->warned = true;
  PyThreadState *state = py.PyEval_SaveThread();
  log_message(LOG_WARN, "a view of a request's memory was kept after its answer: what it shows is no longer valid");
  py.PyEval_RestoreThread(state);
}

void group_fail(Group *group, TritonResult error) {
  for (uint32_t i = 0; i < group->count; i++) {
    if (group->items[i].error) continue;
    group->items[i].error = TRITONSERVER_ErrorNew(TRITONSERVER_ErrorCode(error), TRITONSERVER_ErrorMessage(error));
  }
  TRITONSERVER_ErrorDelete(error);
}

static void report(Group *group) {
  TRITONBACKEND_ModelInstance *instance = group->instance->triton;
  uint64_t end = now_ns(), rows = 0;
  uint64_t compute_start = group->compute_start ? group->compute_start : end;
  uint64_t compute_end = group->compute_end ? group->compute_end : end;
  for (uint32_t i = 0; i < group->count; i++) {
    if (!group->items[i].error) rows += group->items[i].rows;
  }
  /* One execution, with the rows that it answered. It comes first, so that no request is counted before its execution. */
  if (rows) {
    log_and_delete(TRITONBACKEND_ModelInstanceReportBatchStatistics(
        instance, rows, group->exec_start, compute_start, compute_end, end));
  }
  for (uint32_t i = 0; i < group->count; i++) {
    Item *item = &group->items[i];
    log_and_delete(TRITONBACKEND_ModelInstanceReportStatistics(
        instance, item->request, !item->error, group->exec_start, compute_start, compute_end, end));
  }
}

void group_end(Group *group) {
  no_longer_running(group);
  for (uint32_t i = 0; i < group->count; i++) {
    Item *item = &group->items[i];
    if (!item->response) log_and_delete(TRITONBACKEND_ResponseNew(&item->response, item->request));
    if (item->response) log_and_delete(TRITONBACKEND_ResponseSend(item->response, RESPONSE_FINAL, item->error));
  }
  report(group);
  for (uint32_t i = 0; i < group->count; i++) {
    if (group->items[i].error) TRITONSERVER_ErrorDelete(group->items[i].error);
  }
  let_go_of_instance(group);
  /* Releasing is the last thing of all: with its last request gone the server may take the model down. */
  for (uint32_t i = 0; i < group->count; i++) {
    log_and_delete(TRITONBACKEND_RequestRelease(group->items[i].request, RELEASE_ALL));
  }
  free(group);
}
