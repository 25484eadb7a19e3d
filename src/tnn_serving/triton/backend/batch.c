/* One call of Execute: requests become Python tuples, results become responses.
 *
 * What concerns one request (data in GPU memory, a bad result, an exception) fails that request and no other. */
#define _GNU_SOURCE
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "shim.h"

enum { MAX_RANK = 64, INPUTS_AT = 4 /* place of the inputs in a request's tuple */, VIEW_AT = 3 /* in an input's */ };

typedef struct {
  TRITONBACKEND_Request *request;
  TRITONBACKEND_Response *response; /* made with the first output, or at the end */
  TritonResult error;               /* the first thing that went wrong */
  uint32_t output_count;            /* requested outputs */
  bool *given;                      /* for each of them: the response has it */
  bool listed;                      /* was handed to Python */
} Item;

/* The batches under work in any thread, so that is_cancelled and alloc_output work from threads of Python's too.
 * Guarded by the GIL. A ticket names a request and is never used twice in a process. */
typedef struct Batch {
  Item *items;
  uint32_t count;
  uint64_t first_ticket;
  struct Batch *next;
} Batch;
static Batch *batches;
static uint64_t next_ticket;

static uint64_t now_ns(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static Item *item_of(uint64_t ticket) {
  for (Batch *batch = batches; batch; batch = batch->next) {
    uint64_t index = ticket - batch->first_ticket;
    if (index < batch->count) return &batch->items[index];
  }
  py.PyErr_SetString(*py.RuntimeError, "this request has already been answered");
  return NULL;
}

static void unlink_batch(Batch *batch) {
  for (Batch **link = &batches; *link; link = &(*link)->next) {
    if (*link == batch) {
      *link = batch->next;
      return;
    }
  }
}

/* ---- requests to Python ----
 * These return NULL either with *error set (Triton refused) or with a Python exception pending. */

/* Steals `element`; false when it is NULL. */
static bool put(PyObject *tuple, uint32_t at, PyObject *element) {
  return element && !py.PyTuple_SetItem(tuple, at, element);
}

static PyObject *filled(PyObject *tuple, bool complete) {
  if (complete) return tuple;
  py.Py_DecRef(tuple);
  return NULL;
}

static TritonResult input_piece(TRITONBACKEND_Input *input, uint32_t index, const char **data, uint64_t *bytes) {
  const void *piece = NULL;
  int memory_type = MEMORY_CPU;
  int64_t memory_id = 0;
  TRY(TRITONBACKEND_InputBuffer(input, index, &piece, bytes, &memory_type, &memory_id));
  if (memory_type == MEMORY_GPU) {
    return TRITONSERVER_ErrorNew(ERROR_UNSUPPORTED, "an input lies in GPU memory; this backend runs on the CPU");
  }
  *data = piece ? piece : "";
  return NULL;
}

static TritonResult join_pieces(TRITONBACKEND_Input *input, uint32_t count, char *to, uint64_t total) {
  uint64_t at = 0;
  for (uint32_t i = 0; i < count; i++) {
    const char *piece;
    uint64_t bytes;
    TRY(input_piece(input, i, &piece, &bytes));
    if (bytes > total - at) return TRITONSERVER_ErrorNew(ERROR_INTERNAL, "an input has more data than its size says");
    memcpy(to + at, piece, bytes);
    at += bytes;
  }
  if (at != total) return TRITONSERVER_ErrorNew(ERROR_INTERNAL, "an input has less data than its size says");
  return NULL;
}

/* One contiguous, read-only memoryview: on Triton's own memory when that is one piece. An HTTP body sent in chunks
 * comes as hundreds of pieces of 4 KiB, which are joined into a bytes object. */
static PyObject *input_view(TRITONBACKEND_Input *input, uint64_t total, uint32_t count, TritonResult *error) {
  if (count <= 1) {
    const char *data = "";
    uint64_t bytes = 0;
    if (count && (*error = input_piece(input, 0, &data, &bytes))) return NULL;
    return py.PyMemoryView_FromMemory((char *)data, (Py_ssize_t)bytes, PyBUF_READ);
  }
  PyObject *joined = py.PyBytes_FromStringAndSize(NULL, (Py_ssize_t)total);
  if (!joined) return NULL;
  char *to = py.PyBytes_AsString(joined);
  /* No other thread can know the new object, so it may be filled without the GIL. */
  PyThreadState *state = total > COPY_WITH_GIL_BYTES ? py.PyEval_SaveThread() : NULL;
  *error = join_pieces(input, count, to, total);
  if (state) py.PyEval_RestoreThread(state);
  PyObject *view = *error ? NULL : py.PyMemoryView_FromObject(joined);
  py.Py_DecRef(joined);
  return view;
}

/* (name, datatype, shape, view); *rows becomes the first dimension */
static PyObject *input_tuple(TRITONBACKEND_Request *request, uint32_t index, uint64_t *rows, TritonResult *error) {
  TRITONBACKEND_Input *input;
  const char *name;
  int datatype;
  const int64_t *dims;
  uint32_t rank, count;
  uint64_t total;
  if ((*error = TRITONBACKEND_RequestInputByIndex(request, index, &input))) return NULL;
  if ((*error = TRITONBACKEND_InputProperties(input, &name, &datatype, &dims, &rank, &total, &count))) return NULL;
  PyObject *shape = py.PyTuple_New(rank);
  if (!shape) return NULL;
  bool complete = true;
  for (uint32_t i = 0; complete && i < rank; i++) complete = put(shape, i, py.PyLong_FromLongLong(dims[i]));
  PyObject *view = complete ? input_view(input, total, count, error) : NULL;
  if (!view) return filled(shape, false);
  *rows = rank ? (uint64_t)dims[0] : 1;
  return py.Py_BuildValue("(NsNN)", python_text(name), TRITONSERVER_DataTypeString(datatype), shape, view);
}

/* Looked up by name later: the control inputs of a sequence come before the model's own. */
static PyObject *inputs_tuple(TRITONBACKEND_Request *request, uint64_t *rows, TritonResult *error) {
  uint32_t count;
  if ((*error = TRITONBACKEND_RequestInputCount(request, &count))) return NULL;
  PyObject *inputs = py.PyTuple_New(count);
  bool complete = inputs != NULL;
  uint64_t first = 1;
  for (uint32_t i = 0; complete && i < count; i++) {
    complete = put(inputs, i, input_tuple(request, i, i ? &first : rows, error));
  }
  return inputs ? filled(inputs, complete) : NULL;
}

static PyObject *outputs_tuple(Item *item, TritonResult *error) {
  if ((*error = TRITONBACKEND_RequestOutputCount(item->request, &item->output_count))) return NULL;
  if (item->output_count && !(item->given = calloc(item->output_count, sizeof *item->given))) {
    *error = TRITONSERVER_ErrorNew(ERROR_UNAVAILABLE, "out of memory");
    return NULL;
  }
  PyObject *names = py.PyTuple_New(item->output_count);
  bool complete = names != NULL;
  for (uint32_t i = 0; complete && i < item->output_count; i++) {
    const char *name;
    *error = TRITONBACKEND_RequestOutputName(item->request, i, &name);
    complete = !*error && put(names, i, python_text(name));
  }
  return names ? filled(names, complete) : NULL;
}

static PyObject *parameter_value(int type, const void *value) {
  switch (type) {
    case PARAMETER_STRING: return python_text(value);
    case PARAMETER_INT: return py.PyLong_FromLongLong(*(const int64_t *)value);
    case PARAMETER_BOOL: return py.PyBool_FromLong(*(const bool *)value);
    case PARAMETER_DOUBLE: return py.PyFloat_FromDouble(*(const double *)value);
    default: /* BYTES, which no protocol of Triton's can send and whose size this call does not tell */
      py.Py_IncRef(py.None);
      return py.None;
  }
}

static PyObject *parameters_tuple(TRITONBACKEND_Request *request, TritonResult *error) {
  uint32_t count;
  if ((*error = TRITONBACKEND_RequestParameterCount(request, &count))) return NULL;
  PyObject *parameters = py.PyTuple_New(count);
  bool complete = parameters != NULL;
  for (uint32_t i = 0; complete && i < count; i++) {
    const char *key;
    int type;
    const void *value;
    *error = TRITONBACKEND_RequestParameter(request, i, &key, &type, &value);
    complete = !*error &&
               put(parameters, i, py.Py_BuildValue("(NN)", python_text(key), parameter_value(type, value)));
  }
  return parameters ? filled(parameters, complete) : NULL;
}

static PyObject *correlation_id(TRITONBACKEND_Request *request) {
  uint64_t number;
  TritonResult error = TRITONBACKEND_RequestCorrelationId(request, &number);
  if (!error) return py.PyLong_FromUnsignedLongLong(number);
  TRITONSERVER_ErrorDelete(error); /* the id is a string */
  const char *text = "";
  error = TRITONBACKEND_RequestCorrelationIdString(request, &text);
  if (error) TRITONSERVER_ErrorDelete(error);
  return python_text(text);
}

/* (ticket, id, correlation id, flags, inputs, outputs, parameters, timeout_us) */
static PyObject *request_tuple(Item *item, uint64_t ticket, uint64_t *rows, TritonResult *error) {
  const char *id;
  uint32_t flags;
  uint64_t timeout_us;
  if ((*error = TRITONBACKEND_RequestId(item->request, &id))) return NULL;
  if ((*error = TRITONBACKEND_RequestFlags(item->request, &flags))) return NULL;
  if ((*error = TRITONBACKEND_InferenceRequestTimeoutMicroseconds(item->request, &timeout_us))) return NULL;
  PyObject *inputs = inputs_tuple(item->request, rows, error);
  PyObject *outputs = inputs ? outputs_tuple(item, error) : NULL;
  PyObject *parameters = outputs ? parameters_tuple(item->request, error) : NULL;
  if (!parameters) {
    if (inputs) py.Py_DecRef(inputs);
    if (outputs) py.Py_DecRef(outputs);
    return NULL;
  }
  return py.Py_BuildValue("(KNNINNNK)", (unsigned long long)ticket, python_text(id), correlation_id(item->request),
                          (unsigned)flags, inputs, outputs, parameters, (unsigned long long)timeout_us);
}

/* Makes the memoryviews of a request unusable before Triton frees what they show. Returns how many could not be, since
 * their buffer is still exported. A numpy array or a further view made of one can't be seen from here: that nothing of
 * the kind outlives execute is the Servable's promise. */
static int release_views(PyObject *request) {
  int kept = 0;
  PyObject *inputs = py.PyTuple_GetItem(request, INPUTS_AT);
  for (Py_ssize_t i = 0, count = py.PyTuple_Size(inputs); i < count; i++) {
    PyObject *view = py.PyTuple_GetItem(py.PyTuple_GetItem(inputs, i), VIEW_AT);
    PyObject *released = py.PyObject_CallMethod(view, "release", NULL);
    if (released) {
      py.Py_DecRef(released);
    } else {
      py.PyErr_Clear();
      kept++;
    }
  }
  return kept;
}

/* ---- results to responses ---- */

static TritonResult parse_shape(PyObject *shape, int64_t *dims, uint32_t *rank, uint64_t *elements) {
  Py_ssize_t count = py.PySequence_Size(shape);
  if (count < 0) return error_from_pending("shape of an output");
  if (count > MAX_RANK) return error_new(ERROR_INTERNAL, "an output has %zd dimensions", count);
  *elements = 1;
  for (Py_ssize_t i = 0; i < count; i++) {
    PyObject *dim = py.PySequence_GetItem(shape, i);
    dims[i] = dim ? py.PyLong_AsLongLong(dim) : -1;
    if (dim) py.Py_DecRef(dim);
    if (py.PyErr_Occurred()) return error_from_pending("shape of an output");
    if (dims[i] < 0 || __builtin_mul_overflow(*elements, (uint64_t)dims[i], elements)) {
      return TRITONSERVER_ErrorNew(ERROR_INTERNAL, "an output has an impossible shape");
    }
  }
  *rank = (uint32_t)count;
  return NULL;
}

/* Finds `name` among the outputs this request asked for (Triton puts in all when the client names none). */
static TritonResult claim_output(Item *item, const char *name) {
  for (uint32_t i = 0; i < item->output_count; i++) {
    const char *requested;
    TRY(TRITONBACKEND_RequestOutputName(item->request, i, &requested));
    if (strcmp(requested, name)) continue;
    if (item->given[i]) return error_new(ERROR_INTERNAL, "the model gave the output `%s` twice", name);
    item->given[i] = true;
    return NULL;
  }
  return error_new(ERROR_INTERNAL, "the model gave an output `%s` that was not asked for", name);
}

/* *buffer: Triton's memory for `bytes` bytes of this output */
static TritonResult new_output(
    Item *item, const char *name, const char *datatype_name, PyObject *shape, uint64_t bytes, void **buffer) {
  int64_t dims[MAX_RANK];
  uint32_t rank = 0;
  uint64_t elements = 0, expected;
  TRY(parse_shape(shape, dims, &rank, &elements));
  int datatype = TRITONSERVER_StringToDataType(datatype_name);
  if (!datatype) return error_new(ERROR_INTERNAL, "output `%s`: no such datatype: %s", name, datatype_name);
  uint64_t element_bytes = TRITONSERVER_DataTypeByteSize(datatype);
  if (element_bytes &&
      (__builtin_mul_overflow(elements, element_bytes, &expected) || expected != bytes)) {
    return error_new(ERROR_INTERNAL, "output `%s`: %llu bytes do not fill %llu elements of %s", name,
                     (unsigned long long)bytes, (unsigned long long)elements, datatype_name);
  }
  TRY(claim_output(item, name));
  if (!item->response) TRY(TRITONBACKEND_ResponseNew(&item->response, item->request));
  TRITONBACKEND_Output *output;
  TRY(TRITONBACKEND_ResponseOutput(item->response, &output, name, datatype, dims, rank));
  int memory_type = MEMORY_CPU;
  int64_t memory_id = 0;
  TRY(TRITONBACKEND_OutputBuffer(output, buffer, bytes, &memory_type, &memory_id));
  if (memory_type == MEMORY_GPU) {
    return error_new(ERROR_UNSUPPORTED, "output `%s`: the answer is wanted in GPU memory", name);
  }
  return NULL;
}

static TritonResult take_output(Item *item, PyObject *output) {
  const char *name, *datatype;
  PyObject *shape, *data;
  Py_buffer view;
  void *to = NULL;
  if (!py.PyArg_ParseTuple(output, "ssOO", &name, &datatype, &shape, &data)) return error_from_pending("an output");
  if (py.PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)) return error_from_pending("data of an output");
  TritonResult error = new_output(item, name, datatype, shape, (uint64_t)view.len, &to);
  if (!error && view.len) {
    PyThreadState *state = view.len > COPY_WITH_GIL_BYTES ? py.PyEval_SaveThread() : NULL;
    memcpy(to, view.buf, (size_t)view.len);
    if (state) py.PyEval_RestoreThread(state);
  }
  py.PyBuffer_Release(&view);
  return error;
}

/* result: an exception, None (every output was written through alloc_output), or a sequence of outputs */
static TritonResult take_result(Item *item, PyObject *result) {
  if (py.PyObject_IsInstance(result, *py.BaseException) == 1) return error_from_exception(result);
  if (result != py.None) {
    Py_ssize_t count = py.PySequence_Size(result);
    if (count < 0) return error_from_pending("a result");
    for (Py_ssize_t i = 0; i < count; i++) {
      PyObject *output = py.PySequence_GetItem(result, i);
      if (!output) return error_from_pending("a result");
      TritonResult error = take_output(item, output);
      py.Py_DecRef(output);
      if (error) return error;
    }
  }
  for (uint32_t i = 0; i < item->output_count; i++) {
    if (item->given[i]) continue;
    const char *name;
    TRY(TRITONBACKEND_RequestOutputName(item->request, i, &name));
    return error_new(ERROR_INTERNAL, "the model did not give the output `%s`", name);
  }
  return NULL;
}

/* ---- the batch ---- */

/* A list with a tuple for each request that can be read; the others get their error. NULL: out of memory. */
static PyObject *list_requests(Batch *batch, bool batched, uint64_t *total_rows) {
  PyObject *list = py.PyList_New(0);
  for (uint32_t i = 0; list && i < batch->count; i++) {
    Item *item = &batch->items[i];
    uint64_t rows = 1;
    PyObject *tuple = request_tuple(item, batch->first_ticket + i, &rows, &item->error);
    if (tuple) {
      item->listed = !py.PyList_Append(list, tuple);
      py.Py_DecRef(tuple);
    }
    if (item->listed) {
      *total_rows += batched ? rows : 1;
    } else if (!item->error) {
      item->error = error_from_pending("reading a request");
    }
  }
  return list;
}

/* Takes each result into its request's response. */
static void take_results(Batch *batch, PyObject *results, TritonResult failure) {
  Py_ssize_t at = 0;
  for (uint32_t i = 0; i < batch->count; i++) {
    Item *item = &batch->items[i];
    if (item->error || !item->listed) continue;
    PyObject *result = results ? py.PySequence_GetItem(results, at++) : NULL;
    if (result) {
      item->error = take_result(item, result);
      py.Py_DecRef(result);
    } else if (failure) {
      item->error = TRITONSERVER_ErrorNew(TRITONSERVER_ErrorCode(failure), TRITONSERVER_ErrorMessage(failure));
    } else {
      item->error = error_from_pending("reading the results");
    }
  }
}

/* Calls Python with the batch; false when nothing was computed. Everything here happens with the GIL. */
static bool compute(Batch *batch, PyObject *execute, bool batched, uint64_t *rows, uint64_t *start, uint64_t *end) {
  PyObject *list = list_requests(batch, batched, rows), *results = NULL;
  *start = *end = now_ns();
  if (!list) {
    TritonResult failure = error_from_pending("reading a batch");
    for (uint32_t i = 0; i < batch->count; i++) batch->items[i].listed = true;
    take_results(batch, NULL, failure);
    TRITONSERVER_ErrorDelete(failure);
    return false;
  }
  Py_ssize_t listed = py.PySequence_Size(list);
  TritonResult failure = NULL;
  if (listed > 0) {
    results = py.PyObject_CallFunction(execute, "(O)", list);
    *end = now_ns();
    if (!results) {
      failure = error_from_pending("execute");
    } else if (py.PySequence_Size(results) != listed) {
      py.PyErr_Clear();
      py.Py_DecRef(results);
      results = NULL;
      failure = TRITONSERVER_ErrorNew(ERROR_INTERNAL, "execute did not return one result for each request");
    }
    take_results(batch, results, failure);
  }
  bool computed = results != NULL;
  /* The results go first: they may hold arrays on the inputs' memory. */
  if (results) py.Py_DecRef(results);
  if (failure) TRITONSERVER_ErrorDelete(failure);
  int kept = 0;
  for (Py_ssize_t i = 0; i < listed; i++) kept += release_views(py.PyList_GetItem(list, i));
  py.Py_DecRef(list);
  if (kept) {
    PyThreadState *state = py.PyEval_SaveThread();
    log_message(LOG_WARN, "a view of an input was kept after the request: what it shows is no longer valid");
    py.PyEval_RestoreThread(state);
  }
  return computed;
}

TritonResult batch_execute(
    TRITONBACKEND_ModelInstance *instance, PyObject *execute, bool batched, TRITONBACKEND_Request **requests,
    uint32_t count) {
  uint64_t exec_start = now_ns(), compute_start = exec_start, compute_end = exec_start, rows = 0;
  Item *items = calloc(count ? count : 1, sizeof *items);
  if (!items) return TRITONSERVER_ErrorNew(ERROR_UNAVAILABLE, "out of memory");
  for (uint32_t i = 0; i < count; i++) items[i].request = requests[i];
  PythonEntry entry;
  if (!python_enter(&entry)) {
    free(items);
    return TRITONSERVER_ErrorNew(ERROR_UNAVAILABLE, "Python is not running");
  }
  Batch batch = {items, count, next_ticket, batches};
  batches = &batch;
  next_ticket += count;
  bool computed = compute(&batch, execute, batched, &rows, &compute_start, &compute_end);
  unlink_batch(&batch);
  python_leave(entry);

  /* From here on without the GIL: sending may do the whole work of an HTTP or gRPC answer in this thread. */
  for (uint32_t i = 0; i < count; i++) {
    Item *item = &items[i];
    if (!item->response) log_and_delete(TRITONBACKEND_ResponseNew(&item->response, item->request));
    if (item->response) log_and_delete(TRITONBACKEND_ResponseSend(item->response, RESPONSE_FINAL, item->error));
  }
  uint64_t exec_end = now_ns();
  for (uint32_t i = 0; i < count; i++) {
    log_and_delete(TRITONBACKEND_ModelInstanceReportStatistics(
        instance, items[i].request, !items[i].error, exec_start, compute_start, compute_end, exec_end));
  }
  if (computed) {
    log_and_delete(TRITONBACKEND_ModelInstanceReportBatchStatistics(
        instance, rows, exec_start, compute_start, compute_end, exec_end));
  }
  for (uint32_t i = 0; i < count; i++) {
    if (items[i].error) TRITONSERVER_ErrorDelete(items[i].error);
    free(items[i].given);
  }
  free(items);
  /* Releasing is the very last step: with its last request gone the server may take the instance and its model down. */
  for (uint32_t i = 0; i < count; i++) log_and_delete(TRITONBACKEND_RequestRelease(requests[i], RELEASE_ALL));
  return NULL;
}

/* ---- called by Python ---- */

PyObject *batch_is_cancelled(PyObject *module, PyObject *arguments) {
  (void)module;
  unsigned long long ticket;
  if (!py.PyArg_ParseTuple(arguments, "K", &ticket)) return NULL;
  Item *item = item_of(ticket);
  if (!item) return NULL;
  bool cancelled = false;
  TritonResult error = TRITONBACKEND_RequestIsCancelled(item->request, &cancelled);
  return error ? raise_triton(error) : py.PyBool_FromLong(cancelled);
}

PyObject *batch_alloc_output(PyObject *module, PyObject *arguments) {
  (void)module;
  unsigned long long ticket;
  const char *name, *datatype;
  PyObject *shape;
  long long bytes;
  void *buffer = NULL;
  if (!py.PyArg_ParseTuple(arguments, "KssOL", &ticket, &name, &datatype, &shape, &bytes)) return NULL;
  Item *item = item_of(ticket);
  if (!item) return NULL;
  if (bytes < 0) {
    py.PyErr_SetString(*py.RuntimeError, "an output can't have a negative size");
    return NULL;
  }
  TritonResult error = new_output(item, name, datatype, shape, (uint64_t)bytes, &buffer);
  if (error) return raise_triton(error);
  return py.PyMemoryView_FromMemory(buffer ? buffer : "", bytes, PyBUF_WRITE);
}
