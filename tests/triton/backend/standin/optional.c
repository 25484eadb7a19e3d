/* The functions of libtritonserver that an older server lacks: traces and metrics. */
#define _GNU_SOURCE
#include <string.h>

#include "server.h"

struct TRITONSERVER_InferenceTrace {
  uint64_t last_ns;
};
struct TRITONSERVER_Parameter {
  char *value;
};
struct TRITONSERVER_MetricFamily {
  int kind;
};
struct TRITONSERVER_MetricArgs {
  uint64_t bounds;
};
struct TRITONSERVER_Metric {
  TRITONSERVER_MetricFamily *family;
  double value; /* not atomic: calls for one metric must not meet */
};

TritonResult TRITONBACKEND_RequestTrace(TRITONBACKEND_Request *request, TRITONSERVER_InferenceTrace **trace) {
  static TRITONSERVER_InferenceTrace traces;
  MAY_FAIL(request);
  *trace = request->answer->ask.traced ? &traces : NULL;
  return NULL;
}

TritonResult TRITONSERVER_InferenceTraceReportActivity(
    TRITONSERVER_InferenceTrace *trace, uint64_t monotonic_ns, const char *activity) {
  MUST(trace && monotonic_ns && strlen(activity), "-");
  atomic_fetch_add_explicit(&activities, 1, memory_order_relaxed);
  return NULL;
}

TRITONSERVER_Parameter *TRITONSERVER_ParameterNew(const char *name, int type, const void *value) {
  MUST(strlen(name) && type == PARAMETER_STRING, "type %d", type);
  TRITONSERVER_Parameter *parameter = malloc(sizeof *parameter);
  parameter->value = strdup(value);
  existing(PARAMETERS, 1);
  return parameter;
}

void TRITONSERVER_ParameterDelete(TRITONSERVER_Parameter *parameter) {
  free(parameter->value);
  free(parameter);
  existing(PARAMETERS, -1);
}

TritonResult TRITONSERVER_MetricFamilyNew(
    TRITONSERVER_MetricFamily **family, int kind, const char *name, const char *description) {
  static TRITONSERVER_MetricFamily families[METRIC_HISTOGRAM + 1]; /* they stay, as the backend's do */
  MUST(kind >= METRIC_COUNTER && kind <= METRIC_HISTOGRAM && strlen(name) && strlen(description), "kind %d", kind);
  *family = &families[kind];
  (*family)->kind = kind;
  return NULL;
}

TritonResult TRITONSERVER_MetricNew(
    TRITONSERVER_Metric **metric, TRITONSERVER_MetricFamily *family, const TRITONSERVER_Parameter **labels,
    uint64_t count) {
  for (uint64_t i = 0; i < count; i++) MUST(strlen(labels[i]->value), "label %d", (int)i);
  *metric = malloc(sizeof **metric);
  **metric = (TRITONSERVER_Metric){family, 0};
  existing(METRICS, 1);
  return NULL;
}

TritonResult TRITONSERVER_MetricNewWithArgs(
    TRITONSERVER_Metric **metric, TRITONSERVER_MetricFamily *family, const TRITONSERVER_Parameter **labels,
    uint64_t count, const TRITONSERVER_MetricArgs *args) {
  MUST(family->kind == METRIC_HISTOGRAM && args->bounds, "kind %d", family->kind);
  return TRITONSERVER_MetricNew(metric, family, labels, count);
}

TritonResult TRITONSERVER_MetricArgsNew(TRITONSERVER_MetricArgs **args) {
  *args = calloc(1, sizeof **args);
  existing(METRIC_ARGS, 1);
  return NULL;
}

TritonResult TRITONSERVER_MetricArgsSetHistogram(TRITONSERVER_MetricArgs *args, const double *bounds, uint64_t count) {
  for (uint64_t i = 1; i < count; i++) MUST(bounds[i] > bounds[i - 1], "bound %d", (int)i);
  args->bounds = count;
  return NULL;
}

TritonResult TRITONSERVER_MetricArgsDelete(TRITONSERVER_MetricArgs *args) {
  free(args);
  existing(METRIC_ARGS, -1);
  return NULL;
}

TritonResult TRITONSERVER_MetricDelete(TRITONSERVER_Metric *metric) {
  free(metric);
  existing(METRICS, -1);
  return NULL;
}

static TritonResult change(TRITONSERVER_Metric *metric, bool suits, double value) {
  if (!suits) return TRITONSERVER_ErrorNew(ERROR_UNSUPPORTED, "not for this kind of metric");
  metric->value = value;
  return NULL;
}

TritonResult TRITONSERVER_MetricIncrement(TRITONSERVER_Metric *metric, double value) {
  atomic_fetch_add_explicit(&increments, 1, memory_order_relaxed);
  return change(metric, metric->family->kind != METRIC_HISTOGRAM, metric->value + value);
}

TritonResult TRITONSERVER_MetricSet(TRITONSERVER_Metric *metric, double value) {
  atomic_store_explicit(&last_set, value, memory_order_relaxed);
  return change(metric, metric->family->kind == METRIC_GAUGE, value);
}

TritonResult TRITONSERVER_MetricObserve(TRITONSERVER_Metric *metric, double value) {
  return change(metric, metric->family->kind == METRIC_HISTOGRAM, value);
}
