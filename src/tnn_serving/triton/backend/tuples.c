/* A group as Python sees it: argument tuples, and views on memory. Each function returns NULL with an exception pending.
 *
 * Requests of one model are much alike: names, types and shapes are made once and used again. */
#define _GNU_SOURCE
#include <stdlib.h>
#include <string.h>

#include "group.h"

enum { DATATYPES = 16 };

/* Steals `element`; false when it or the tuple is NULL. */
static bool put(PyObject *tuple, uint32_t at, PyObject *element) {
  if (tuple && element) return !py.PyTuple_SetItem(tuple, at, element);
  if (element) py.Py_DecRef(element);
  return false;
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

/* What the instance remembers of the inputs with this name; NULL: nothing, and it has no room for more. */
static KnownInput *known_input(Known *known, const char *name) {
  for (uint32_t i = 0; i < known->input_count; i++) {
    if (!strcmp(known->inputs[i].text, name)) return &known->inputs[i];
  }
  /* The limit is for clients that send ever new names. */
  char *text = known->input_count < KNOWN_NAMES ? strdup(name) : NULL;
  PyObject *as_object = text ? python_text(text) : NULL;
  if (!as_object) {
    if (text) py.PyErr_Clear();
    free(text);
    return NULL;
  }
  KnownInput *input = &known->inputs[known->input_count++];
  input->text = text;
  input->name = as_object;
  return input;
}

/* The last shape of the input, if it is the same. */
static PyObject *known_shape(KnownInput *input, const Tensor *tensor) {
  size_t dims_bytes = tensor->rank * sizeof *tensor->dims;
  PyObject *last = input->shape;
  if (last && input->rank == tensor->rank && !memcmp(input->dims, tensor->dims, dims_bytes)) return shared(last);
  PyObject *shape = new_shape(tensor);
  if (shape && tensor->rank <= KNOWN_RANK) {
    input->shape = shared(shape);
    input->rank = tensor->rank;
    memcpy(input->dims, tensor->dims, dims_bytes);
    if (last) py.Py_DecRef(last);
  }
  return shape;
}

/* A RequestTensor. */
static PyObject *new_input(KnownInput *known, Tensor *tensor) {
  PyObject *arguments = py.PyTuple_New(INPUT_ARGUMENTS);
  tensor->view = py.PyMemoryView_FromMemory(tensor->data, (Py_ssize_t)tensor->bytes, PyBUF_READ);
  bool complete = tensor->view && put(arguments, INPUT_DATA, shared(tensor->view)) &&
                  put(arguments, INPUT_NAME, known ? shared(known->name) : python_text(tensor->name)) &&
                  put(arguments, INPUT_DATATYPE, datatype_name(tensor->datatype)) &&
                  put(arguments, INPUT_SHAPE, known ? known_shape(known, tensor) : new_shape(tensor));
  PyObject *input = complete ? py.PyObject_CallObject(py.request_tensor, arguments) : NULL;
  if (arguments) py.Py_DecRef(arguments);
  return input;
}

/* By name. */
static PyObject *inputs_dict(Group *group) {
  PyObject *inputs = py.PyDict_New();
  bool complete = inputs != NULL;
  for (uint32_t i = 0; complete && i < group->input_count; i++) {
    KnownInput *known = known_input(&group->instance->known, group->inputs[i].name);
    PyObject *input = new_input(known, &group->inputs[i]);
    PyObject *name = known ? shared(known->name) : python_text(group->inputs[i].name);
    complete = input && name && !py.PyDict_SetItem(inputs, name, input);
    if (name) py.Py_DecRef(name);
    if (input) py.Py_DecRef(input);
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

#define X(name, convention) static PyMethodDef name##_definition = {#name, group_##name, convention, NULL};
GROUP_FUNCTIONS(X)
#undef X

/* A function of the group; None where it has none. */
static PyObject *bound(PyMethodDef *definition, PyObject *ticket, bool exists) {
  return exists ? py.PyCFunction_NewEx(definition, ticket, NULL) : python_none();
}

PyObject *tuples_group(Group *group) {
  PyObject *ticket = py.PyLong_FromUnsignedLongLong(group->ticket);
  PyObject *arguments = ticket ? py.PyTuple_New(EXECUTE_ARGUMENTS) : NULL;
  bool complete = arguments && put(arguments, EXECUTE_INPUTS, inputs_dict(group)) &&
                  put(arguments, EXECUTE_OUTPUTS, outputs_tuple(group)) &&
                  put(arguments, EXECUTE_ROWS, rows_tuple(group)) &&
                  put(arguments, EXECUTE_FINISH, bound(&finish_definition, ticket, true)) &&
                  put(arguments, EXECUTE_IS_CANCELLED, bound(&is_cancelled_definition, ticket, true)) &&
                  put(arguments, EXECUTE_ALLOCATE, bound(&allocate_definition, ticket, group->count == 1)) &&
                  put(arguments, EXECUTE_SPAN, bound(&span_definition, ticket, group->traced));
  if (ticket) py.Py_DecRef(ticket);
  return filled(arguments, complete);
}

void tuples_forget(Known *known) {
  for (uint32_t i = 0; i < known->input_count; i++) {
    free(known->inputs[i].text);
    py.Py_DecRef(known->inputs[i].name);
    if (known->inputs[i].shape) py.Py_DecRef(known->inputs[i].shape);
  }
  if (known->outputs) py.Py_DecRef(known->outputs);
}
