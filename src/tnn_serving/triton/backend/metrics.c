/* Series of the server's metrics endpoint. Triton's functions for them may be missing in an older server: then there
 * are no families, and nothing is published. */
#define _GNU_SOURCE
#include "shim.h"

enum { MAX_LABELS = 8, MAX_BUCKETS = 32 };

static bool is_supported(int kind) {
  bool histograms = TRITONSERVER_MetricNewWithArgs && TRITONSERVER_MetricArgsNew && TRITONSERVER_MetricArgsSetHistogram &&
                    TRITONSERVER_MetricArgsDelete && TRITONSERVER_MetricObserve;
  return TRITONSERVER_MetricFamilyNew && TRITONSERVER_MetricNew && TRITONSERVER_MetricDelete &&
         TRITONSERVER_MetricIncrement && TRITONSERVER_MetricSet && TRITONSERVER_ParameterNew &&
         TRITONSERVER_ParameterDelete && (kind != METRIC_HISTOGRAM || histograms);
}

/* metric_family(kind, name, description) -> handle; 0 when this server can't have it. A family stays for ever. */
PyObject *shim_metric_family(PyObject *module, PyObject *arguments) {
  (void)module;
  int kind;
  const char *name, *description;
  TRITONSERVER_MetricFamily *family = NULL;
  if (!py.PyArg_ParseTuple(arguments, "iss", &kind, &name, &description)) return NULL;
  if (is_supported(kind)) {
    TritonResult error = TRITONSERVER_MetricFamilyNew(&family, kind, name, description);
    if (error) return raise_triton(error);
  }
  return handle_of(family);
}

static TritonResult new_metric(
    TRITONSERVER_Metric **metric, TRITONSERVER_MetricFamily *family, TRITONSERVER_Parameter **labels, uint64_t count,
    const double *buckets, uint64_t bucket_count) {
  const TRITONSERVER_Parameter **given = (void *)labels; /* C has no conversion to a pointer to pointers to const */
  if (!bucket_count) return TRITONSERVER_MetricNew(metric, family, given, count);
  TRITONSERVER_MetricArgs *bounds;
  TRY(TRITONSERVER_MetricArgsNew(&bounds));
  TritonResult error = TRITONSERVER_MetricArgsSetHistogram(bounds, buckets, bucket_count);
  if (!error) error = TRITONSERVER_MetricNewWithArgs(metric, family, given, count, bounds);
  log_and_delete(TRITONSERVER_MetricArgsDelete(bounds));
  return error;
}

/* metric(family, {label: value}, buckets) -> handle. buckets: a tuple of upper bounds for a histogram, otherwise (). */
PyObject *shim_metric(PyObject *module, PyObject *arguments) {
  (void)module;
  unsigned long long family;
  PyObject *labels, *bounds, *key, *value;
  if (!py.PyArg_ParseTuple(arguments, "KOO", &family, &labels, &bounds)) return NULL;
  double buckets[MAX_BUCKETS];
  Py_ssize_t bucket_count = py.PyTuple_Size(bounds);
  if (bucket_count < 0) return NULL;
  if (bucket_count > MAX_BUCKETS) bucket_count = MAX_BUCKETS; /* the rest falls into the last one, +Inf */
  for (Py_ssize_t i = 0; i < bucket_count; i++) buckets[i] = py.PyFloat_AsDouble(py.PyTuple_GetItem(bounds, i));
  TRITONSERVER_Parameter *parameters[MAX_LABELS];
  uint64_t count = 0;
  for (Py_ssize_t at = 0; count < MAX_LABELS && py.PyDict_Next(labels, &at, &key, &value);) {
    const char *name = py.PyUnicode_AsUTF8AndSize(key, NULL);
    const char *text = name ? py.PyUnicode_AsUTF8AndSize(value, NULL) : NULL;
    if (!text) break;
    parameters[count++] = TRITONSERVER_ParameterNew(name, PARAMETER_STRING, text);
  }
  TRITONSERVER_Metric *metric = NULL;
  TritonResult error = NULL;
  if (!py.PyErr_Occurred()) {
    error = new_metric(&metric, (TRITONSERVER_MetricFamily *)(uintptr_t)family, parameters, count, buckets,
                       (uint64_t)bucket_count);
  }
  for (uint64_t i = 0; i < count; i++) TRITONSERVER_ParameterDelete(parameters[i]);
  if (error) return raise_triton(error);
  return py.PyErr_Occurred() ? NULL : handle_of(metric);
}

static PyObject *change(PyObject *arguments, TritonResult (*function)(TRITONSERVER_Metric *, double)) {
  unsigned long long metric;
  double value;
  if (!py.PyArg_ParseTuple(arguments, "Kd", &metric, &value)) return NULL;
  TritonResult error = function((TRITONSERVER_Metric *)(uintptr_t)metric, value);
  return error ? raise_triton(error) : python_none();
}

/* metric_set(metric, value), of a gauge */
PyObject *shim_metric_set(PyObject *module, PyObject *arguments) {
  (void)module;
  return change(arguments, TRITONSERVER_MetricSet);
}

/* metric_inc(metric, value), of a counter or a gauge */
PyObject *shim_metric_inc(PyObject *module, PyObject *arguments) {
  (void)module;
  return change(arguments, TRITONSERVER_MetricIncrement);
}

/* metric_observe(metric, value), of a histogram */
PyObject *shim_metric_observe(PyObject *module, PyObject *arguments) {
  (void)module;
  return change(arguments, TRITONSERVER_MetricObserve);
}

/* metric_delete(metric): with its series */
PyObject *shim_metric_delete(PyObject *module, PyObject *handle) {
  (void)module;
  TRITONSERVER_Metric *metric = handle_from(handle);
  if (!metric) return NULL;
  TritonResult error = TRITONSERVER_MetricDelete(metric);
  return error ? raise_triton(error) : python_none();
}
