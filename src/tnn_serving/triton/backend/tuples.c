/* A group as Python sees it: tuples, and views on memory. Each function returns NULL with an exception pending.
 *
 * Requests of one model are much alike: names, types and shapes are made once and used again. */
#define _GNU_SOURCE
#include <stdlib.h>
#include <string.h>

#include "group.h"

enum { DATATYPES = 16 };

/* Steals `element`; false when it is NULL. */
static bool put(PyObject *tuple, uint32_t at, PyObject *element) {
  return element && !py.PyTuple_SetItem(tuple, at, element);
}

static PyObject *filled(PyObject *tuple, bool complete) {
  if (complete) return tuple;
  if (tuple) py.Py_DecRef(tuple);
  return NULL;
}

static PyObject *shared(PyObject *object) {
  py.Py_IncRef(object);
  return object;
}

static PyObject *datatype_name(int datatype) {
  static PyObject *names[DATATYPES]; /* for ever; guarded by the GIL */
  if (datatype < 0 || datatype >= DATATYPES) return python_text(TRITONSERVER_DataTypeString(datatype));
  if (!names[datatype]) names[datatype] = python_text(TRITONSERVER_DataTypeString(datatype));
  return names[datatype] ? shared(names[datatype]) : NULL;
}

static PyObject *new_shape(const Tensor *tensor) {
  PyObject *shape = py.PyTuple_New(tensor->rank);
  bool complete = shape != NULL;
  for (uint32_t i = 0; complete && i < tensor->rank; i++) {
    complete = put(shape, i, py.PyLong_FromLongLong(tensor->dims[i]));
  }
  return filled(shape, complete);
}

/* Name and shape from what the instance saw last, if they are the same. New references; false: an exception. */
static bool name_and_shape(Known *known, const Tensor *tensor, PyObject **name, PyObject **shape) {
  uint32_t at = 0;
  while (at < known->input_count && strcmp(known->inputs[at].text, tensor->name)) at++;
  if (at == KNOWN_NAMES) { /* clients that send ever new names don't fill the memory */
    return (*name = python_text(tensor->name)) && (*shape = new_shape(tensor));
  }
  if (at == known->input_count) {
    char *text = strdup(tensor->name);
    *name = text ? python_text(text) : NULL;
    if (!*name) {
      free(text);
      return false;
    }
    known->inputs[at].text = text;
    known->inputs[at].name = *name;
    known->input_count++;
  }
  size_t dims_bytes = tensor->rank * sizeof *tensor->dims;
  PyObject *last = known->inputs[at].shape;
  if (!last || known->inputs[at].rank != tensor->rank || memcmp(known->inputs[at].dims, tensor->dims, dims_bytes)) {
    if (!(*shape = new_shape(tensor))) return false;
    if (tensor->rank <= KNOWN_RANK) {
      known->inputs[at].shape = shared(*shape);
      known->inputs[at].rank = tensor->rank;
      memcpy(known->inputs[at].dims, tensor->dims, dims_bytes);
      if (last) py.Py_DecRef(last);
    }
  } else {
    *shape = shared(last);
  }
  *name = shared(known->inputs[at].name);
  return true;
}

/* (name, datatype, shape, view) */
static PyObject *input_tuple(Known *known, const Tensor *tensor) {
  PyObject *name = NULL, *shape = NULL, *tuple = py.PyTuple_New(4);
  bool complete = tuple && name_and_shape(known, tensor, &name, &shape);
  complete = complete && put(tuple, 0, name) && put(tuple, 2, shape) && put(tuple, 1, datatype_name(tensor->datatype)) &&
             put(tuple, 3, py.PyMemoryView_FromMemory(tensor->data, (Py_ssize_t)tensor->bytes, PyBUF_READ));
  return filled(tuple, complete);
}

static PyObject *inputs_tuple(Group *group) {
  PyObject *inputs = py.PyTuple_New(group->input_count);
  bool complete = inputs != NULL;
  for (uint32_t i = 0; complete && i < group->input_count; i++) {
    complete = put(inputs, i, input_tuple(&group->instance->known, &group->inputs[i]));
  }
  return filled(inputs, complete);
}

static bool are_known(const Known *known, const Group *group) {
  if (!known->outputs || known->output_count != group->output_count) return false;
  for (uint32_t i = 0; i < group->output_count; i++) {
    const char *text = py.PyUnicode_AsUTF8AndSize(py.PyTuple_GetItem(known->outputs, i), NULL);
    if (!text || strcmp(text, group->outputs[i])) return false;
  }
  return true;
}

static PyObject *outputs_tuple(Group *group) {
  Known *known = &group->instance->known;
  if (are_known(known, group)) return shared(known->outputs);
  PyObject *names = py.PyTuple_New(group->output_count);
  bool complete = names != NULL;
  for (uint32_t i = 0; complete && i < group->output_count; i++) {
    complete = put(names, i, python_text(group->outputs[i]));
  }
  if (!complete) return filled(names, false);
  if (known->outputs) py.Py_DecRef(known->outputs);
  known->outputs = shared(names);
  known->output_count = group->output_count;
  return names;
}

static PyObject *rows_tuple(const Group *group) {
  PyObject *rows = py.PyTuple_New(group->count);
  bool complete = rows != NULL;
  for (uint32_t i = 0; complete && i < group->count; i++) {
    complete = put(rows, i, py.PyLong_FromLongLong((long long)group->items[i].rows));
  }
  return filled(rows, complete);
}

PyObject *tuples_group(Group *group) {
  PyObject *tuple = py.PyTuple_New(5), *inputs = inputs_tuple(group);
  if (inputs) group->inputs_seen = shared(inputs);
  bool complete = tuple && put(tuple, 3, inputs) &&
                  put(tuple, 0, py.PyLong_FromUnsignedLongLong(group->ticket)) &&
                  put(tuple, 1, py.PyBool_FromLong(group->traced)) && put(tuple, 2, rows_tuple(group)) &&
                  put(tuple, 4, outputs_tuple(group));
  return filled(tuple, complete);
}

void tuples_forget(Known *known) {
  for (uint32_t i = 0; i < known->input_count; i++) {
    free(known->inputs[i].text);
    py.Py_DecRef(known->inputs[i].name);
    if (known->inputs[i].shape) py.Py_DecRef(known->inputs[i].shape);
  }
  if (known->outputs) py.Py_DecRef(known->outputs);
}
