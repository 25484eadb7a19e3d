/* What Python gave becomes responses. What is wrong with the result of one request fails that request and no other. */
#define _GNU_SOURCE
#include <stdlib.h>
#include <string.h>

#include "group.h"

enum { MANY_REQUESTS = 8 /* from here on their responses are made without the GIL, however small they are */ };

/* An output that Python gave. */
typedef struct {
  PyObject *name_object, *datatype_object; /* which own the two texts */
  const char *name;
  const char *datatype_name;
  int datatype;
  uint32_t rank;
  int64_t dims[MAX_RANK];
  Py_buffer view;
  uint64_t at; /* where the next request's rows begin */
} Output;

/* ---- one output ---- */

static TritonResult parse_shape(PyObject *shape, const char *name, int64_t *dims, uint32_t *rank) {
  Py_ssize_t count = py.PyTuple_Size(shape);
  if (count < 0) return error_from_pending("shape of an output");
  if (count > MAX_RANK) return error_new(ERROR_INTERNAL, "output `%s` has %zd dimensions", name, count);
  for (Py_ssize_t i = 0; i < count; i++) {
    dims[i] = py.PyLong_AsLongLong(py.PyTuple_GetItem(shape, i));
    if (dims[i] == -1 && py.PyErr_Occurred()) return error_from_pending("shape of an output");
  }
  *rank = (uint32_t)count;
  return NULL;
}

static TritonResult check_size(
    const char *name, const char *datatype_name, int datatype, const int64_t *dims, uint32_t rank, uint64_t bytes) {
  uint64_t elements = 1, expected;
  for (uint32_t i = 0; i < rank; i++) {
    if (dims[i] < 0 || __builtin_mul_overflow(elements, (uint64_t)dims[i], &elements)) {
      return error_new(ERROR_INTERNAL, "output `%s` has an impossible shape", name);
    }
  }
  uint64_t element_bytes = TRITONSERVER_DataTypeByteSize(datatype);
  if (element_bytes && (__builtin_mul_overflow(elements, element_bytes, &expected) || expected != bytes)) {
    return error_new(ERROR_INTERNAL, "output `%s`: %llu bytes do not fill %llu elements of %s", name,
                     (unsigned long long)bytes, (unsigned long long)elements, datatype_name);
  }
  return NULL;
}

/* *to: Triton's memory for `bytes` bytes of an output of one request */
static TritonResult new_output(
    Item *item, const char *name, int datatype, const int64_t *dims, uint32_t rank, uint64_t bytes, void **to) {
  TRITONBACKEND_Output *output;
  int memory_type = MEMORY_CPU;
  int64_t memory_id = 0;
  if (!item->response) TRY(TRITONBACKEND_ResponseNew(&item->response, item->request));
  TRY(TRITONBACKEND_ResponseOutput(item->response, &output, name, datatype, dims, rank));
  TRY(TRITONBACKEND_OutputBuffer(output, to, bytes, &memory_type, &memory_id));
  if (memory_type == MEMORY_GPU) {
    return error_new(ERROR_UNSUPPORTED, "output `%s`: the answer is wanted in GPU memory", name);
  }
  return NULL;
}

static TritonResult parse_datatype(const char *name, const char *text, int *datatype) {
  *datatype = TRITONSERVER_StringToDataType(text);
  return *datatype ? NULL : error_new(ERROR_INTERNAL, "output `%s`: no such datatype: %s", name, text);
}

static void release_output(Output *output) {
  if (output->name_object) py.Py_DecRef(output->name_object);
  if (output->datatype_object) py.Py_DecRef(output->datatype_object);
  if (output->view.obj) py.PyBuffer_Release(&output->view);
}

static TritonResult read_attributes(PyObject *object, Output *output) {
  output->name_object = py.PyObject_GetAttr(object, py.names.name);
  output->datatype_object = output->name_object ? py.PyObject_GetAttr(object, py.names.datatype) : NULL;
  output->name = output->datatype_object ? py.PyUnicode_AsUTF8AndSize(output->name_object, NULL) : NULL;
  output->datatype_name = output->name ? py.PyUnicode_AsUTF8AndSize(output->datatype_object, NULL) : NULL;
  if (!output->datatype_name) return error_from_pending("an output");
  TRY(parse_datatype(output->name, output->datatype_name, &output->datatype));
  PyObject *shape = py.PyObject_GetAttr(object, py.names.shape);
  if (!shape) return error_from_pending("an output");
  TritonResult error = parse_shape(shape, output->name, output->dims, &output->rank);
  py.Py_DecRef(shape);
  if (error) return error;
  PyObject *data = py.PyObject_GetAttr(object, py.names.data);
  int failed = !data || py.PyObject_GetBuffer(data, &output->view, PyBUF_SIMPLE);
  if (data) py.Py_DecRef(data);
  if (failed) output->view.obj = NULL;
  return failed ? error_from_pending("data of an output") : NULL;
}

/* An object with the attributes name, datatype, shape and data; on success it must be released. */
static TritonResult parse_output(PyObject *object, Output *output) {
  output->name_object = output->datatype_object = NULL;
  output->view.obj = NULL;
  output->at = 0;
  TritonResult error = read_attributes(object, output);
  if (!error) {
    error = check_size(output->name, output->datatype_name, output->datatype, output->dims, output->rank,
                       (uint64_t)output->view.len);
  }
  if (error) release_output(output);
  return error;
}

/* ---- a list of outputs ---- */

static void release_outputs(Output *outputs, uint32_t count) {
  for (uint32_t i = 0; i < count; i++) release_output(&outputs[i]);
}

static TritonResult parse_list(PyObject *list, Output *outputs, uint32_t count) {
  for (uint32_t i = 0; i < count; i++) {
    TritonResult error = parse_output(py.PyList_GetItem(list, i), &outputs[i]);
    for (uint32_t k = 0; !error && k < i; k++) {
      if (strcmp(outputs[k].name, outputs[i].name)) continue;
      error = error_new(ERROR_INTERNAL, "the model gave the output `%s` twice", outputs[i].name);
      release_output(&outputs[i]);
    }
    if (!error) continue;
    release_outputs(outputs, i);
    return error;
  }
  return NULL;
}

static Output *output_named(Output *outputs, uint32_t count, const char *name) {
  for (uint32_t i = 0; i < count; i++) {
    if (!strcmp(outputs[i].name, name)) return &outputs[i];
  }
  return NULL;
}

static uint64_t elements_per_row(const Output *output) {
  uint64_t elements = 1;
  for (uint32_t i = 1; i < output->rank; i++) elements *= (uint64_t)output->dims[i];
  return elements;
}

/* Whether an output can be cut into the rows of the group's requests. */
static TritonResult check_rows(const Group *group, const Output *output) {
  if (!output->rank || (uint64_t)output->dims[0] != group->rows) {
    return error_new(ERROR_INTERNAL, "output `%s` does not have the %llu rows of its requests", output->name,
                     (unsigned long long)group->rows);
  }
  uint64_t bytes = (uint64_t)output->view.len, taken;
  if (TRITONSERVER_DataTypeByteSize(output->datatype)) return NULL; /* check_size has seen its bytes */
  if (bytes_elements(output->view.buf, bytes, group->rows * elements_per_row(output), &taken) && taken == bytes) return NULL;
  return error_new(ERROR_INTERNAL, "the bytes of output `%s` are not the elements of its shape", output->name);
}

/* Everything that was asked for must be there, with a row for each row; more than that does no harm. */
static TritonResult check_outputs(const Group *group, Output *outputs, uint32_t count, bool cut) {
  for (uint32_t i = 0; i < group->output_count; i++) {
    if (group->allocated[i]) continue;
    Output *output = output_named(outputs, count, group->outputs[i]);
    if (!output) return error_new(ERROR_INTERNAL, "the model did not give the output `%s`", group->outputs[i]);
    if (cut) TRY(check_rows(group, output));
  }
  return NULL;
}

/* Bytes of the next `rows` rows of an output of `all` rows, which check_outputs has seen to be whole. */
static uint64_t bytes_of_rows(const Output *output, uint64_t rows, uint64_t all) {
  uint64_t total = (uint64_t)output->view.len, bytes = 0;
  if (TRITONSERVER_DataTypeByteSize(output->datatype)) return all ? total / all * rows : 0;
  bytes_elements((const char *)output->view.buf + output->at, total - output->at, rows * elements_per_row(output), &bytes);
  return bytes;
}

static TritonResult copy_rows(Item *item, const Output *output, uint64_t bytes) {
  void *to = NULL;
  TRY(new_output(item, output->name, output->datatype, output->dims, output->rank, bytes, &to));
  if (bytes) memcpy(to, (const char *)output->view.buf + output->at, bytes);
  return NULL;
}

/* One request's outputs: its rows of them, or all there is. Needs no GIL. */
static TritonResult fill(const Group *group, Item *item, Output *outputs, uint32_t count, bool cut) {
  TritonResult error = NULL;
  for (uint32_t i = 0; i < group->output_count; i++) {
    if (group->allocated[i]) continue;
    Output *output = output_named(outputs, count, group->outputs[i]);
    uint64_t bytes = (uint64_t)output->view.len;
    if (cut) {
      bytes = bytes_of_rows(output, item->rows, group->rows);
      output->dims[0] = (int64_t)item->rows;
    }
    if (!error) error = copy_rows(item, output, bytes);
    output->at += bytes; /* after an error too: the rows of the next request follow */
  }
  return error;
}

/* A list of outputs for `item`, or for all requests of the group, of which each gets its rows. */
static TritonResult take_list(Group *group, Item *item, PyObject *list) {
  uint32_t count = (uint32_t)py.PyList_Size(list);
  bool cut = !item && group->count > 1;
  Output *outputs = malloc((count + 1) * sizeof *outputs);
  if (!outputs) return TRITONSERVER_ErrorNew(ERROR_UNAVAILABLE, "out of memory");
  TritonResult error = parse_list(list, outputs, count);
  if (!error) {
    error = check_outputs(group, outputs, count, cut);
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < count; i++) bytes += (uint64_t)outputs[i].view.len;
    bool large = bytes > COPY_WITH_GIL_BYTES || (cut && group->count >= MANY_REQUESTS);
    PyThreadState *state = large && !error ? py.PyEval_SaveThread() : NULL;
    for (uint32_t i = 0; !error && i < group->count; i++) {
      Item *next = &group->items[i];
      if (!item || next == item) next->error = fill(group, next, outputs, count, cut);
    }
    if (state) py.PyEval_RestoreThread(state);
    release_outputs(outputs, count);
  }
  free(outputs);
  /* The Servable may still hold the list. Without its elements the engine has its memory back before the answers are
   * sent, which takes longer than anything else here. */
  if (py.PyList_SetSlice(list, 0, count, NULL)) py.PyErr_Clear();
  return error;
}

/* ---- the answers ---- */

static bool is_a(PyObject *object, PyObject *type) { return py.PyObject_IsInstance(object, type) == 1; }

/* `item`: whose answer it is; NULL: it is for all requests of the group. */
static TritonResult take_answer(Group *group, Item *item, PyObject *answer) {
  if (is_a(answer, py.list_type)) return take_list(group, item, answer);
  if (is_a(answer, *py.BaseException)) return error_from_exception(answer);
  return TRITONSERVER_ErrorNew(ERROR_INTERNAL, "the result is no list of outputs, no exception and no tuple of these");
}

void responses_take(Group *group, PyObject *answers) {
  TritonResult failure = NULL;
  if (!is_a(answers, py.tuple_type)) {
    failure = take_answer(group, NULL, answers);
  } else if (py.PyTuple_Size(answers) != (Py_ssize_t)group->count) {
    failure = error_new(ERROR_INTERNAL, "%zd results came for %u requests", py.PyTuple_Size(answers), group->count);
  } else {
    for (uint32_t i = 0; i < group->count; i++) {
      TritonResult error = take_answer(group, &group->items[i], py.PyTuple_GetItem(answers, i));
      if (error) group->items[i].error = error;
    }
  }
  if (failure) group_fail(group, failure);
}

/* ---- called by Python ---- */

/* The group's place of an output that may still be allocated. */
static TritonResult find_output(const Group *group, const char *name, uint32_t *at) {
  if (group->count != 1) return TRITONSERVER_ErrorNew(ERROR_INTERNAL, "the memory of several requests is not in one piece");
  for (*at = 0; *at < group->output_count; ++*at) {
    if (strcmp(group->outputs[*at], name)) continue;
    return group->allocated[*at] ? error_new(ERROR_INTERNAL, "output `%s` was allocated twice", name) : NULL;
  }
  return error_new(ERROR_INTERNAL, "output `%s` was not asked for", name);
}

static TritonResult allocate(
    Group *group, const char *name, const char *datatype_name, PyObject *shape, uint64_t bytes, void **to) {
  int64_t dims[MAX_RANK];
  uint32_t at = 0, rank = 0;
  int datatype;
  TRY(find_output(group, name, &at));
  TRY(parse_datatype(name, datatype_name, &datatype));
  TRY(parse_shape(shape, name, dims, &rank));
  TRY(check_size(name, datatype_name, datatype, dims, rank, bytes));
  TRY(new_output(&group->items[0], name, datatype, dims, rank, bytes, to));
  group->allocated[at] = true;
  return NULL;
}

/* allocate(name, datatype, shape, nbytes) -> a writable view on Triton's own memory of a lone request */
PyObject *group_allocate(PyObject *ticket, PyObject *arguments) {
  const char *name, *datatype;
  PyObject *shape;
  long long bytes;
  void *to = NULL;
  if (!py.PyArg_ParseTuple(arguments, "ssOL", &name, &datatype, &shape, &bytes)) return NULL;
  Group *group = group_of(ticket);
  if (!group) return NULL;
  if (bytes < 0) {
    py.PyErr_SetString(*py.RuntimeError, "an output can't have a negative size");
    return NULL;
  }
  if (!group->output_views && !(group->output_views = py.PyList_New(0))) return NULL;
  TritonResult error = allocate(group, name, datatype, shape, (uint64_t)bytes, &to);
  if (error) return raise_triton(error);
  PyObject *view = py.PyMemoryView_FromMemory(to ? to : "", bytes, PyBUF_WRITE);
  if (view && py.PyList_Append(group->output_views, view)) {
    py.Py_DecRef(view);
    return NULL;
  }
  return view;
}
