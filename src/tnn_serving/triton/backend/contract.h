/* What C and Python agree on. Generated: python -m tnn_serving.triton.backend.contract_header */
#ifndef TNN_CONTRACT_H
#define TNN_CONTRACT_H

#define SHIM_MODULE "_tnn_triton"
#define BRIDGE_MODULE "tnn_serving.triton.backend.bridge"
#define LATER_NAME "LATER" /* an object of BRIDGE_MODULE */
#define INPUT_CLASS "RequestTensor" /* likewise */

/* The functions of SHIM_MODULE. */
#define SHIM_FUNCTIONS(X) \
  X(log, METH_VARARGS) \
  X(log_enabled, METH_O) \
  X(metric_family, METH_VARARGS) \
  X(metric, METH_VARARGS) \
  X(metric_set, METH_VARARGS) \
  X(metric_inc, METH_VARARGS) \
  X(metric_observe, METH_VARARGS) \
  X(metric_delete, METH_O) \
  X(watch, METH_VARARGS) \
  X(unwatch, METH_O)

/* The functions of a group. */
#define GROUP_FUNCTIONS(X) \
  X(finish, METH_O) \
  X(is_cancelled, METH_NOARGS) \
  X(allocate, METH_VARARGS) \
  X(span, METH_VARARGS)

/* The attributes of an output: ResponseTensor's. */
#define OUTPUT_ATTRIBUTES(X) \
  X(name) \
  X(datatype) \
  X(shape) \
  X(data)

/* The arguments of Model.execute. */
enum {
  EXECUTE_INPUTS,
  EXECUTE_OUTPUTS,
  EXECUTE_ROWS,
  EXECUTE_FINISH,
  EXECUTE_IS_CANCELLED,
  EXECUTE_ALLOCATE,
  EXECUTE_SPAN,
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
