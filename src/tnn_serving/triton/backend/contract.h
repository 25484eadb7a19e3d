/* What C and Python agree on. Generated: python -m tnn_serving.triton.backend.contract_header */
#ifndef TNN_CONTRACT_H
#define TNN_CONTRACT_H

#define SHIM_MODULE "_tnn_triton"
#define BRIDGE_MODULE "tnn_serving.triton.backend.bridge"
#define LATER_NAME "LATER" /* an object of BRIDGE_MODULE */
#define INPUT_CLASS "RequestTensor" /* likewise */

/* The functions of SHIM_MODULE. */
#define SHIM_FUNCTIONS(X) \
  X(log) \
  X(log_enabled) \
  X(finish) \
  X(is_cancelled) \
  X(alloc_output) \
  X(span) \
  X(oldest_execution) \
  X(metric_family) \
  X(metric) \
  X(metric_set) \
  X(metric_inc) \
  X(metric_observe) \
  X(metric_delete)

/* The attributes of an output: ResponseTensor's. */
#define OUTPUT_ATTRIBUTES(X) \
  X(name) \
  X(datatype) \
  X(shape) \
  X(data)

/* The arguments of Model.execute. */
enum {
  EXECUTE_TICKET,
  EXECUTE_TRACED,
  EXECUTE_ROWS,
  EXECUTE_INPUTS,
  EXECUTE_OUTPUTS,
  EXECUTE_ARGUMENTS,
};

/* The arguments of RequestTensor. */
enum {
  INPUT_NAME,
  INPUT_DATATYPE,
  INPUT_SHAPE,
  INPUT_DATA,
  INPUT_ARGUMENTS,
};

/* TRITONSERVER_Error_Code. */
enum {
  ERROR_UNKNOWN = 0,
  ERROR_INTERNAL = 1,
  ERROR_NOT_FOUND = 2,
  ERROR_INVALID_ARG = 3,
  ERROR_UNAVAILABLE = 4,
  ERROR_UNSUPPORTED = 5,
  ERROR_ALREADY_EXISTS = 6,
  ERROR_CANCELLED = 7,
};

/* TRITONSERVER_LogLevel. */
enum {
  LOG_INFO = 0,
  LOG_WARN = 1,
  LOG_ERROR = 2,
  LOG_VERBOSE = 3,
};

/* TRITONSERVER_MetricKind. */
enum {
  METRIC_COUNTER = 0,
  METRIC_GAUGE = 1,
  METRIC_HISTOGRAM = 2,
};

#endif
