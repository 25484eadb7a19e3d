/* libtriton_tnn.so: the entry points that Triton looks up, and the functions that Python can call back.
 *
 * A model's state is the bridge's Model object. All its instances share that object, whose `execute` is re-entrant. */
#include <stdio.h>
#include <stdlib.h>

#include "group.h"

#define EXPORT __attribute__((visibility("default")))
enum { BACKEND_API_MAJOR = 1, BACKEND_API_MINOR = 15 /* request parameters and cancellation */ };

/* ---- called by Python ---- */

/* log(level, file, line, message) */
PyObject *shim_log(PyObject *module, PyObject *arguments) {
  (void)module;
  int level, line;
  const char *file, *message;
  if (!py.PyArg_ParseTuple(arguments, "isis", &level, &file, &line, &message)) return NULL;
  /* Without the GIL: writing to a full pipe blocks. The arguments' tuple keeps the strings alive. */
  PyThreadState *state = py.PyEval_SaveThread();
  TritonResult error = TRITONSERVER_LogMessage(level, file, line, message);
  py.PyEval_RestoreThread(state);
  if (error) return raise_triton(error);
  return python_none();
}

/* log_enabled(level) -> bool */
PyObject *shim_log_enabled(PyObject *module, PyObject *level) {
  (void)module;
  long long number = py.PyLong_AsLongLong(level);
  if (py.PyErr_Occurred()) return NULL;
  return py.PyBool_FromLong(TRITONSERVER_LogIsEnabled((int)number));
}

/* ---- backend ---- */

EXPORT TritonResult TRITONBACKEND_Initialize(TRITONBACKEND_Backend *backend) {
  uint32_t major, minor;
  TRY(TRITONBACKEND_ApiVersion(&major, &minor));
  if (major != BACKEND_API_MAJOR || minor < BACKEND_API_MINOR) {
    return error_new(ERROR_UNSUPPORTED, "this tritonserver has backend API %u.%u; the tnn backend needs %d.%d or a later %d.x",
                     major, minor, BACKEND_API_MAJOR, BACKEND_API_MINOR, BACKEND_API_MAJOR);
  }
  return interpreter_start(backend);
}

EXPORT TritonResult TRITONBACKEND_Finalize(TRITONBACKEND_Backend *backend) {
  (void)backend;
  interpreter_stop();
  return NULL;
}

/* Without this a machine with a GPU would get instances of KIND_GPU. */
EXPORT TritonResult TRITONBACKEND_GetBackendAttribute(
    TRITONBACKEND_Backend *backend, TRITONBACKEND_BackendAttribute *attribute) {
  (void)backend;
  return TRITONBACKEND_BackendAttributeAddPreferredInstanceGroup(attribute, KIND_CPU, 0, NULL, 0);
}

/* ---- model ---- */

static TritonResult set_config(TRITONBACKEND_Model *model, PyObject *bridge_model) {
  PyObject *json = py.PyObject_GetAttrString(bridge_model, "completed_config");
  if (!json) return error_from_pending("the completed configuration");
  TritonResult error = NULL;
  char *text = py.PyBytes_AsString(json);
  if (!text) {
    error = error_from_pending("the completed configuration");
  } else {
    TRITONSERVER_Message *message = NULL;
    error = TRITONSERVER_MessageNewFromSerializedJson(&message, text, (size_t)py.PyBytes_Size(json));
    if (!error) {
      error = TRITONBACKEND_ModelSetConfig(model, CONFIG_VERSION, message);
      log_and_delete(TRITONSERVER_MessageDelete(message));
    }
  }
  py.Py_DecRef(json);
  return error;
}

static TritonResult open_model(
    TRITONBACKEND_Model *model, const char *name, uint64_t version, const char *folder, const char *config_json,
    size_t length, bool complete) {
  PyObject *opened = py.PyObject_CallMethod(
      interpreter_backend(), "open_model", "KNKNNN", (unsigned long long)(uintptr_t)model, python_text(name),
      (unsigned long long)version, py.PyUnicode_DecodeFSDefault(folder),
      py.PyUnicode_DecodeUTF8(config_json, (Py_ssize_t)length, "strict"), py.PyBool_FromLong(complete));
  if (!opened) return error_from_pending(name);
  TritonResult error = complete ? set_config(model, opened) : NULL;
  if (!error) error = TRITONBACKEND_ModelSetState(model, opened);
  if (!error) return NULL;
  PyObject *closed = py.PyObject_CallMethod(opened, "close", NULL);
  if (closed) {
    py.Py_DecRef(closed);
  } else {
    TRITONSERVER_ErrorDelete(error_from_pending(name));
  }
  py.Py_DecRef(opened);
  return error;
}

EXPORT TritonResult TRITONBACKEND_ModelInitialize(TRITONBACKEND_Model *model) {
  const char *name, *folder, *config_json;
  uint64_t version;
  size_t length;
  int artifact_type;
  bool complete;
  TRITONSERVER_Message *config;
  TRY(TRITONBACKEND_ModelName(model, &name));
  TRY(TRITONBACKEND_ModelVersion(model, &version));
  TRY(TRITONBACKEND_ModelRepository(model, &artifact_type, &folder));
  if (artifact_type != ARTIFACT_FILESYSTEM) {
    return TRITONSERVER_ErrorNew(ERROR_UNSUPPORTED, "the tnn backend reads models from a file system only");
  }
  TRY(TRITONBACKEND_ModelAutoCompleteConfig(model, &complete));
  TRY(TRITONBACKEND_ModelConfig(model, CONFIG_VERSION, &config));
  TritonResult error = TRITONSERVER_MessageSerializeToJson(config, &config_json, &length);
  PythonEntry entry;
  if (!error && !python_enter(&entry)) {
    error = TRITONSERVER_ErrorNew(ERROR_UNAVAILABLE, "Python is not running");
  } else if (!error) {
    error = open_model(model, name, version, folder, config_json, length, complete);
    python_leave(entry);
  }
  log_and_delete(TRITONSERVER_MessageDelete(config));
  return error;
}

EXPORT TritonResult TRITONBACKEND_ModelFinalize(TRITONBACKEND_Model *model) {
  void *state = NULL;
  PythonEntry entry;
  TRY(TRITONBACKEND_ModelState(model, &state));
  if (!state || !python_enter(&entry)) return NULL;
  PyObject *closed = py.PyObject_CallMethod(state, "close", NULL);
  TritonResult error = closed ? NULL : error_from_pending("closing a model");
  if (closed) py.Py_DecRef(closed);
  py.Py_DecRef(state);
  python_leave(entry);
  return error;
}

/* ---- instance ---- */

static TritonResult number_of(PyObject *model, const char *attribute, uint64_t *number) {
  PyObject *value = py.PyObject_GetAttrString(model, attribute);
  long long given = value ? py.PyLong_AsLongLong(value) : -1;
  if (value) py.Py_DecRef(value);
  if (given < 0) {
    if (py.PyErr_Occurred()) return error_from_pending(attribute);
    return error_new(ERROR_INTERNAL, "%s is negative", attribute);
  }
  *number = (uint64_t)given;
  return NULL;
}

static TritonResult open_instance(PyObject *model, Instance *instance) {
  uint64_t max_batch_size;
  TRY(number_of(model, "max_batch_size", &max_batch_size));
  TRY(number_of(model, "joins", &instance->joins));
  instance->batched = max_batch_size > 0;
  if (!instance->batched) instance->joins = 0;
  instance->execute = py.PyObject_GetAttrString(model, "execute");
  return instance->execute ? NULL : error_from_pending("execute");
}

/* Triton keeps a model while it has requests, but not an instance: a change of the instance group ends one as soon as its
 * Execute has returned. */
static void close_instance(Instance *instance) {
  PythonEntry entry;
  group_wait_for_all(instance);
  if (instance->execute && python_enter(&entry)) {
    py.Py_DecRef(instance->execute);
    tuples_forget(&instance->known);
    python_leave(entry);
  }
  free(instance->spare);
  free(instance);
}

EXPORT TritonResult TRITONBACKEND_ModelInstanceInitialize(TRITONBACKEND_ModelInstance *triton_instance) {
  TRITONBACKEND_Model *model;
  void *state = NULL;
  PythonEntry entry;
  TRY(TRITONBACKEND_ModelInstanceModel(triton_instance, &model));
  TRY(TRITONBACKEND_ModelState(model, &state));
  Instance *instance = calloc(1, sizeof *instance);
  if (!instance) return TRITONSERVER_ErrorNew(ERROR_UNAVAILABLE, "out of memory");
  instance->triton = triton_instance;
  instance->model = model;
  TritonResult error = NULL;
  if (python_enter(&entry)) {
    error = open_instance(state, instance);
    python_leave(entry);
  } else {
    error = TRITONSERVER_ErrorNew(ERROR_UNAVAILABLE, "Python is not running");
  }
  if (!error) error = TRITONBACKEND_ModelInstanceSetState(triton_instance, instance);
  if (error) close_instance(instance);
  return error;
}

EXPORT TritonResult TRITONBACKEND_ModelInstanceFinalize(TRITONBACKEND_ModelInstance *triton_instance) {
  void *state = NULL;
  TRY(TRITONBACKEND_ModelInstanceState(triton_instance, &state));
  if (state) close_instance(state);
  return NULL;
}

EXPORT TritonResult TRITONBACKEND_ModelInstanceExecute(
    TRITONBACKEND_ModelInstance *triton_instance, TRITONBACKEND_Request **requests, uint32_t count) {
  void *state = NULL;
  TRY(TRITONBACKEND_ModelInstanceState(triton_instance, &state));
  return execute(state, requests, count);
}
