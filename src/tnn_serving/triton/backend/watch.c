/* Publishes the age of each model version's oldest execution. The thread that does it never enters Python: it also sees an
 * execution that keeps the GIL for good, and those that wait for the GIL. */
#define _GNU_SOURCE
#include <stdlib.h>

#include "group.h"

typedef struct Watched {
  const TRITONBACKEND_Model *model;
  TRITONSERVER_Metric *age;
  LIST_ENTRY(Watched) entry;
} Watched;

/* The mutex guards all that follows. Nothing blocks while it is held: Python waits for it with the GIL. */
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t stop_wanted;
static bool stopping;
static LIST_HEAD(, Watched) watched = LIST_HEAD_INITIALIZER(watched);

static pthread_t thread;

static void publish(const Watched *each) {
  uint64_t began = group_oldest_ns(each->model);
  double age = began ? (double)(now_ns() - began) * 1e-9 : 0;
  TritonResult error = TRITONSERVER_MetricSet(each->age, age);
  if (error) TRITONSERVER_ErrorDelete(error); /* the log may block, and the next one comes soon */
}

static void *run(void *unused) {
  pthread_mutex_lock(&mutex);
  while (!stopping) {
    const Watched *each;
    LIST_FOREACH(each, &watched, entry) publish(each);
    wait_a_period(&stop_wanted, &mutex);
  }
  pthread_mutex_unlock(&mutex);
  return unused;
}

bool watch_start(void) {
  condition_init(&stop_wanted);
  return !pthread_create(&thread, NULL, run, NULL);
}

void watch_stop(void) {
  pthread_mutex_lock(&mutex);
  stopping = true;
  pthread_cond_signal(&stop_wanted);
  pthread_mutex_unlock(&mutex);
  pthread_join(thread, NULL);
}

/* ---- called by Python ---- */

/* watch(model, metric): the gauge shows the age of the model's oldest execution until unwatch(model) */
PyObject *shim_watch(PyObject *module, PyObject *arguments) {
  (void)module;
  unsigned long long model, metric;
  if (!py.PyArg_ParseTuple(arguments, "KK", &model, &metric)) return NULL;
  Watched *each = malloc(sizeof *each);
  if (!each) return raise_triton(TRITONSERVER_ErrorNew(ERROR_UNAVAILABLE, "out of memory"));
  each->model = (const TRITONBACKEND_Model *)(uintptr_t)model;
  each->age = (TRITONSERVER_Metric *)(uintptr_t)metric;
  pthread_mutex_lock(&mutex);
  LIST_INSERT_HEAD(&watched, each, entry);
  pthread_mutex_unlock(&mutex);
  return python_none();
}

/* unwatch(model): its gauge is not used any more */
PyObject *shim_unwatch(PyObject *module, PyObject *handle) {
  (void)module;
  const void *model = handle_from(handle);
  if (!model) return NULL;
  pthread_mutex_lock(&mutex);
  Watched *each = LIST_FIRST(&watched);
  while (each && each->model != model) each = LIST_NEXT(each, entry);
  if (each) LIST_REMOVE(each, entry);
  pthread_mutex_unlock(&mutex);
  free(each);
  return python_none();
}
