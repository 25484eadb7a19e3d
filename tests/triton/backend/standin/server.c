/* The functions of libtritonserver that every server has. */
#define _GNU_SOURCE
#include "server.h"

#include <dlfcn.h>
#include <errno.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { DEADLINE_S = 60, MODEL_VERSION = 1 };

struct TRITONSERVER_Error {
  int code;
  char *text;
};

struct TRITONSERVER_Message {
  char *json;
};

struct TRITONBACKEND_Input {
  const char *fails;
  char *name;
  int datatype;
  bool in_gpu;
  uint32_t rank;
  int64_t *shape;
  uint64_t bytes; /* that it claims */
  uint32_t piece_count;
  struct {
    char *data;
    uint64_t bytes;
  } pieces[PIECES];
};

struct TRITONBACKEND_Output {
  TRITONBACKEND_Response *response;
  Got got;
};

struct TRITONBACKEND_Response {
  TRITONBACKEND_Request *request;
  TRITONBACKEND_Output outputs[OUTPUTS];
  uint32_t output_count;
};

struct TRITONBACKEND_ModelInstance {
  TRITONBACKEND_Model *model;
  void *state;
  bool running;
};

struct TRITONBACKEND_Model {
  Load load;
  const char *fails;
  char *config;
  void *state;
  atomic_uint unreleased; /* requests */
  atomic_ullong executions, rows;
  TRITONBACKEND_ModelInstance instances[INSTANCES];
};

static atomic_long counts[KINDS], messages[LOG_VERBOSE + 1];
const char *backend_fails;
atomic_int activities, increments;
_Atomic double last_set;
static char backend_json[] = "{\"cmdline\":{\"auto-complete-config\":\"true\"}}";
static TRITONSERVER_Message backend_config = {backend_json};

static struct {
  TritonResult (*Initialize)(TRITONBACKEND_Backend *);
  TritonResult (*Finalize)(TRITONBACKEND_Backend *);
  TritonResult (*ModelInitialize)(TRITONBACKEND_Model *);
  TritonResult (*ModelFinalize)(TRITONBACKEND_Model *);
  TritonResult (*ModelInstanceInitialize)(TRITONBACKEND_ModelInstance *);
  TritonResult (*ModelInstanceFinalize)(TRITONBACKEND_ModelInstance *);
  TritonResult (*ModelInstanceExecute)(TRITONBACKEND_ModelInstance *, TRITONBACKEND_Request **, uint32_t);
} backend;

void existing(Kind kind, int change) { atomic_fetch_add_explicit(&counts[kind], change, memory_order_relaxed); }

long how_many(Kind kind) { return atomic_load_explicit(&counts[kind], memory_order_relaxed); }

static void *allocated(void *memory) {
  MUST(memory, "out of memory");
  return memory;
}

static char *copy_of(const void *bytes, size_t count) {
  return count ? memcpy(allocated(malloc(count)), bytes, count) : allocated(malloc(1));
}

/* ---- errors, log, messages, datatypes ---- */

TRITONSERVER_Error *TRITONSERVER_ErrorNew(int code, const char *message) {
  TRITONSERVER_Error *error = allocated(malloc(sizeof *error));
  *error = (TRITONSERVER_Error){code, allocated(strdup(message))};
  existing(ERRORS, 1);
  return error;
}

void TRITONSERVER_ErrorDelete(TRITONSERVER_Error *error) {
  free(error->text);
  free(error);
  existing(ERRORS, -1);
}

int TRITONSERVER_ErrorCode(TRITONSERVER_Error *error) { return error->code; }

const char *TRITONSERVER_ErrorMessage(TRITONSERVER_Error *error) { return error->text; }

TritonResult injected(const char *function) { return TRITONSERVER_ErrorNew(INJECTED, function); }

TritonResult TRITONSERVER_LogMessage(int level, const char *file, int line, const char *message) {
  atomic_fetch_add_explicit(&messages[level], 1, memory_order_relaxed);
  fprintf(stderr, "%c %s:%d %s\n", "IWEV"[level], file, line, message);
  return NULL;
}

bool TRITONSERVER_LogIsEnabled(int level) { return level != LOG_VERBOSE; }

long server_logged(int level) { return atomic_load_explicit(&messages[level], memory_order_relaxed); }

static const char *datatypes[TYPES] = {"<invalid>", "BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16",
                                       "INT32", "INT64", "FP16", "FP32", "FP64", "BYTES", "BF16"};

const char *TRITONSERVER_DataTypeString(int datatype) { return datatypes[datatype]; }

int TRITONSERVER_StringToDataType(const char *name) {
  for (int i = TYPE_INVALID + 1; i < TYPES; i++) {
    if (!strcmp(datatypes[i], name)) return i;
  }
  return TYPE_INVALID;
}

uint32_t TRITONSERVER_DataTypeByteSize(int datatype) {
  static const uint32_t sizes[TYPES] = {0, 1, 1, 2, 4, 8, 1, 2, 4, 8, 2, 4, 8, 0, 2};
  return sizes[datatype];
}

TritonResult TRITONSERVER_MessageNewFromSerializedJson(TRITONSERVER_Message **message, const char *json, size_t length) {
  MUST(length == strlen(json), "a JSON text of %zu bytes", length);
  *message = allocated(malloc(sizeof **message));
  (*message)->json = allocated(strdup(json));
  existing(MESSAGES, 1);
  return NULL;
}

TritonResult TRITONSERVER_MessageSerializeToJson(TRITONSERVER_Message *message, const char **json, size_t *length) {
  *json = message->json;
  *length = strlen(message->json);
  return NULL;
}

TritonResult TRITONSERVER_MessageDelete(TRITONSERVER_Message *message) {
  MUST(message != &backend_config, "the backend's configuration is the server's");
  free(message->json);
  free(message);
  existing(MESSAGES, -1);
  return NULL;
}

/* ---- backend ---- */

static void find(void *library, const char *name, void *function) {
  void *symbol = dlsym(library, name);
  MUST(symbol, "%s", dlerror());
  memcpy(function, &symbol, sizeof symbol);
}

void server_open(const char *path) {
  void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL); /* as Triton does */
  MUST(library, "%s", dlerror());
#define FIND(name) find(library, "TRITONBACKEND_" #name, &backend.name)
  FIND(Initialize);
  FIND(Finalize);
  FIND(ModelInitialize);
  FIND(ModelFinalize);
  FIND(ModelInstanceInitialize);
  FIND(ModelInstanceFinalize);
  FIND(ModelInstanceExecute);
#undef FIND
}

TritonResult server_start(void) { return backend.Initialize(NULL); }

void server_stop(void) { MUST(!backend.Finalize(NULL), "the backend does not end"); }

#define BACKEND_MAY_FAIL() \
  do { \
    if (backend_fails && !strcmp(backend_fails, __func__)) return injected(__func__); \
  } while (0)

TritonResult TRITONBACKEND_ApiVersion(uint32_t *major, uint32_t *minor) {
  BACKEND_MAY_FAIL();
  *major = 1;
  *minor = 19;
  return NULL;
}

TritonResult TRITONBACKEND_BackendConfig(TRITONBACKEND_Backend *which, TRITONSERVER_Message **message) {
  (void)which;
  BACKEND_MAY_FAIL();
  *message = &backend_config;
  return NULL;
}

TritonResult TRITONBACKEND_BackendAttributeAddPreferredInstanceGroup(
    TRITONBACKEND_BackendAttribute *attribute, int kind, uint64_t count, const uint64_t *devices, uint64_t device_count) {
  (void)attribute, (void)kind, (void)count, (void)devices, (void)device_count;
  return NULL;
}

/* ---- models ---- */

static bool initialised(TritonResult error, char *text) {
  if (!error) return true;
  snprintf(text, TEXT_BYTES, "%s", error->text);
  TRITONSERVER_ErrorDelete(error);
  return false;
}

static void finalised(TritonResult error) { MUST(!error, "%s", error->text); }

static void free_model(TRITONBACKEND_Model *model) {
  free(model->config);
  free(model);
}

TRITONBACKEND_Model *model_load(Load load, char *text) {
  TRITONBACKEND_Model *model = allocated(calloc(1, sizeof *model));
  model->load = load;
  model->fails = load.fails;
  MUST(asprintf(&model->config, "{\"name\":\"%s\",\"max_batch_size\":%d}", load.name, load.batched ? 8 : 0) > 0, "-");
  if (!initialised(backend.ModelInitialize(model), text)) {
    free_model(model);
    return NULL;
  }
  for (uint32_t i = 0; i < load.instances; i++) {
    model->instances[i].model = model;
    model->instances[i].running = initialised(backend.ModelInstanceInitialize(&model->instances[i]), text);
    if (model->instances[i].running) continue;
    model_unload(model);
    return NULL;
  }
  return model;
}

void model_end_instance(TRITONBACKEND_Model *model, uint32_t instance) {
  model->fails = NULL;
  finalised(backend.ModelInstanceFinalize(&model->instances[instance]));
  model->instances[instance].running = false;
}

void model_unload(TRITONBACKEND_Model *model) {
  while (atomic_load_explicit(&model->unreleased, memory_order_acquire)) usleep(100);
  for (uint32_t i = 0; i < model->load.instances; i++) {
    if (model->instances[i].running) model_end_instance(model, i);
  }
  model->fails = NULL;
  finalised(backend.ModelFinalize(model));
  free_model(model);
}

uint64_t model_executions(const TRITONBACKEND_Model *model) {
  return atomic_load_explicit(&model->executions, memory_order_relaxed);
}

uint64_t model_rows(const TRITONBACKEND_Model *model) { return atomic_load_explicit(&model->rows, memory_order_relaxed); }

TritonResult TRITONBACKEND_ModelName(TRITONBACKEND_Model *model, const char **name) {
  MAY_FAIL(model);
  *name = model->load.name;
  return NULL;
}

TritonResult TRITONBACKEND_ModelVersion(TRITONBACKEND_Model *model, uint64_t *version) {
  MAY_FAIL(model);
  *version = MODEL_VERSION;
  return NULL;
}

TritonResult TRITONBACKEND_ModelRepository(TRITONBACKEND_Model *model, int *artifact_type, const char **location) {
  MAY_FAIL(model);
  *artifact_type = ARTIFACT_FILESYSTEM;
  *location = model->load.name; /* of the folder, the scripts read no more than its name */
  return NULL;
}

TritonResult TRITONBACKEND_ModelConfig(TRITONBACKEND_Model *model, uint32_t version, TRITONSERVER_Message **message) {
  MAY_FAIL(model);
  MUST(version == CONFIG_VERSION, "configuration version %u", version);
  return TRITONSERVER_MessageNewFromSerializedJson(message, model->config, strlen(model->config));
}

TritonResult TRITONBACKEND_ModelSetConfig(TRITONBACKEND_Model *model, uint32_t version, TRITONSERVER_Message *message) {
  MAY_FAIL(model);
  MUST(version == CONFIG_VERSION && !model->load.as_it_is, "this configuration was not asked for");
  MUST(strstr(message->json, model->load.name), "the configuration is of another model: %s", message->json);
  return NULL;
}

TritonResult TRITONBACKEND_ModelAutoCompleteConfig(TRITONBACKEND_Model *model, bool *completes) {
  MAY_FAIL(model);
  *completes = !model->load.as_it_is;
  return NULL;
}

TritonResult TRITONBACKEND_ModelState(TRITONBACKEND_Model *model, void **state) {
  MAY_FAIL(model);
  *state = model->state;
  return NULL;
}

TritonResult TRITONBACKEND_ModelSetState(TRITONBACKEND_Model *model, void *state) {
  MAY_FAIL(model);
  model->state = state;
  return NULL;
}

TritonResult TRITONBACKEND_ModelInstanceModel(TRITONBACKEND_ModelInstance *instance, TRITONBACKEND_Model **model) {
  MAY_FAIL(instance->model);
  *model = instance->model;
  return NULL;
}

TritonResult TRITONBACKEND_ModelInstanceState(TRITONBACKEND_ModelInstance *instance, void **state) {
  *state = instance->state;
  return NULL;
}

TritonResult TRITONBACKEND_ModelInstanceSetState(TRITONBACKEND_ModelInstance *instance, void *state) {
  MAY_FAIL(instance->model);
  instance->state = state;
  return NULL;
}

TritonResult TRITONBACKEND_ModelInstanceReportBatchStatistics(
    TRITONBACKEND_ModelInstance *instance, uint64_t rows, uint64_t exec_start, uint64_t compute_start,
    uint64_t compute_end, uint64_t exec_end) {
  MUST(exec_start && exec_start <= compute_start && compute_start <= compute_end && compute_end <= exec_end, "times");
  atomic_fetch_add_explicit(&instance->model->executions, 1, memory_order_relaxed);
  atomic_fetch_add_explicit(&instance->model->rows, rows, memory_order_relaxed);
  return NULL;
}

TritonResult TRITONBACKEND_ModelInstanceReportStatistics(
    TRITONBACKEND_ModelInstance *instance, TRITONBACKEND_Request *request, bool success, uint64_t exec_start,
    uint64_t compute_start, uint64_t compute_end, uint64_t exec_end) {
  MUST(instance->model == request->model, "a request of another model");
  MUST(exec_start && exec_start <= compute_start && compute_start <= compute_end && compute_end <= exec_end, "times");
  request->answer->reports++;
  request->answer->success = success;
  MAY_FAIL(request);
  return NULL;
}

/* ---- execution ---- */

void model_execute(TRITONBACKEND_Model *model, uint32_t instance, TRITONBACKEND_Request **requests, uint32_t count) {
  TritonResult error = backend.ModelInstanceExecute(&model->instances[instance], requests, count);
  for (uint32_t i = 0; error && i < count; i++) {
    TRITONBACKEND_Response *response;
    MUST(!requests[i]->response && !requests[i]->answer->reports, "refused, but begun");
    MUST(!TRITONBACKEND_ResponseNew(&response, requests[i]), "-");
    MUST(!TRITONBACKEND_ResponseSend(response, RESPONSE_FINAL, error), "-");
    requests[i]->answer->reports++;
    MUST(!TRITONBACKEND_RequestRelease(requests[i], RELEASE_ALL), "-");
  }
  if (error) TRITONSERVER_ErrorDelete(error);
}

/* ---- requests ---- */

static void add_piece(TRITONBACKEND_Input *input, const char *data, uint64_t bytes) {
  input->pieces[input->piece_count].data = copy_of(data, bytes);
  input->pieces[input->piece_count++].bytes = bytes;
}

/* The input's data, and nothing else of it. */
static char *data_of(const Ask *ask, uint64_t *bytes) {
  if (ask->text) {
    uint32_t length = (uint32_t)strlen(ask->text);
    *bytes = ask->rows * (sizeof length + length);
    char *data = allocated(malloc(*bytes + 1)), *to = data;
    for (uint32_t i = 0; i < ask->rows; i++) {
      memcpy(to, &length, sizeof length);
      memcpy(to + sizeof length, ask->text, length);
      to += sizeof length + length;
    }
    return data;
  }
  uint64_t elements = (uint64_t)ask->rows * ask->columns;
  *bytes = elements * sizeof(float);
  float *x = allocated(malloc(*bytes + 1));
  for (uint64_t i = 0; i < elements; i++) x[i] = ask->first + (float)i;
  return (char *)x;
}

static TRITONBACKEND_Input *input_new(const Ask *ask) {
  TRITONBACKEND_Input *input = allocated(calloc(1, sizeof *input));
  input->fails = ask->fails;
  input->name = allocated(strdup(ask->text ? "t" : "x"));
  input->datatype = ask->text ? TYPE_BYTES : TYPE_FP32;
  input->in_gpu = ask->gpu_input;
  input->rank = 2;
  input->shape = allocated(malloc(2 * sizeof *input->shape));
  input->shape[0] = ask->rows;
  input->shape[1] = ask->text ? 1 : ask->columns;
  uint64_t bytes, at = 0;
  char *data = data_of(ask, &bytes);
  for (uint32_t left = ask->pieces; left > 1; left--) {
    add_piece(input, data + at, bytes / ask->pieces);
    at += bytes / ask->pieces;
  }
  if (bytes) add_piece(input, data + at, bytes - at); /* no data, no piece */
  free(data);
  input->bytes = bytes + ask->excess;
  return input;
}

TRITONBACKEND_Request *request_new(TRITONBACKEND_Model *model, Ask ask, Answer *answer) {
  TRITONBACKEND_Request *request = allocated(calloc(1, sizeof *request));
  request->model = model;
  request->answer = answer;
  request->fails = ask.fails;
  request->input_count = !ask.without_input;
  if (request->input_count) request->inputs = input_new(&ask);
  for (const char *each = ask.outputs; *each; each++) {
    request->outputs[request->output_count++] = allocated(strndup(each, 1));
  }
  answer->ask = ask;
  atomic_init(&answer->cancelled, ask.cancelled);
  answer->code = NO_ERROR;
  sem_init(&answer->released, 0, 0);
  atomic_fetch_add_explicit(&model->unreleased, 1, memory_order_relaxed);
  existing(REQUESTS, 1);
  return request;
}

void answer_wait(Answer *answer) {
  struct timespec end;
  clock_gettime(CLOCK_REALTIME, &end);
  end.tv_sec += DEADLINE_S;
  int failed;
  do failed = sem_timedwait(&answer->released, &end);
  while (failed && errno == EINTR);
  MUST(!failed, "a request was not released in time");
}

void answer_free(Answer *answer) {
  for (uint32_t i = 0; i < answer->output_count; i++) free(answer->outputs[i].data);
  sem_destroy(&answer->released);
}

TritonResult TRITONBACKEND_RequestIsCancelled(TRITONBACKEND_Request *request, bool *is_cancelled) {
  MAY_FAIL(request);
  atomic_fetch_add_explicit(&request->answer->looks, 1, memory_order_relaxed);
  *is_cancelled = atomic_load_explicit(&request->answer->cancelled, memory_order_relaxed);
  return NULL;
}

TritonResult TRITONBACKEND_RequestInputCount(TRITONBACKEND_Request *request, uint32_t *count) {
  MAY_FAIL(request);
  *count = request->input_count;
  return NULL;
}

TritonResult TRITONBACKEND_RequestInputByIndex(
    TRITONBACKEND_Request *request, uint32_t index, TRITONBACKEND_Input **input) {
  MAY_FAIL(request);
  MUST(index < request->input_count, "input %u", index);
  *input = &request->inputs[index];
  return NULL;
}

TritonResult TRITONBACKEND_RequestOutputCount(TRITONBACKEND_Request *request, uint32_t *count) {
  MAY_FAIL(request);
  *count = request->output_count;
  return NULL;
}

TritonResult TRITONBACKEND_RequestOutputName(TRITONBACKEND_Request *request, uint32_t index, const char **name) {
  MAY_FAIL(request);
  MUST(index < request->output_count, "output %u", index);
  *name = request->outputs[index];
  return NULL;
}

TritonResult TRITONBACKEND_InputProperties(
    TRITONBACKEND_Input *input, const char **name, int *datatype, const int64_t **shape, uint32_t *rank,
    uint64_t *bytes, uint32_t *piece_count) {
  MAY_FAIL(input);
  *name = input->name;
  *datatype = input->datatype;
  *shape = input->shape;
  *rank = input->rank;
  *bytes = input->bytes;
  *piece_count = input->piece_count;
  return NULL;
}

TritonResult TRITONBACKEND_InputBuffer(
    TRITONBACKEND_Input *input, uint32_t index, const void **data, uint64_t *bytes, int *memory_type,
    int64_t *memory_id) {
  MAY_FAIL(input);
  MUST(index < input->piece_count, "piece %u", index);
  *data = input->pieces[index].data;
  *bytes = input->pieces[index].bytes;
  *memory_type = input->in_gpu ? MEMORY_GPU : MEMORY_CPU;
  *memory_id = 0;
  return NULL;
}

static void free_input(TRITONBACKEND_Input *input) {
  for (uint32_t i = 0; i < input->piece_count; i++) free(input->pieces[i].data);
  free(input->name);
  free(input->shape);
  free(input);
}

TritonResult TRITONBACKEND_RequestRelease(TRITONBACKEND_Request *request, uint32_t flags) {
  MUST(flags == RELEASE_ALL, "flags %u", flags);
  MUST(!request->response, "released before its response was sent");
  MUST(request->answer->reports == 1, "statistics were reported %u times", request->answer->reports);
  TritonResult result = request->fails && !strcmp(request->fails, __func__) ? injected(__func__) : NULL;
  Answer *answer = request->answer;
  TRITONBACKEND_Model *model = request->model;
  if (request->inputs) free_input(request->inputs);
  for (uint32_t i = 0; i < request->output_count; i++) free(request->outputs[i]);
  free(request);
  existing(REQUESTS, -1);
  sem_post(&answer->released);
  atomic_fetch_sub_explicit(&model->unreleased, 1, memory_order_release); /* from here on the model may be gone */
  return result;
}

/* ---- responses ---- */

TritonResult TRITONBACKEND_ResponseNew(TRITONBACKEND_Response **response, TRITONBACKEND_Request *request) {
  MAY_FAIL(request);
  MUST(!request->response && !request->answer->responses, "a second response");
  *response = request->response = allocated(calloc(1, sizeof **response));
  (*response)->request = request;
  existing(RESPONSES, 1);
  return NULL;
}

TritonResult TRITONBACKEND_ResponseOutput(
    TRITONBACKEND_Response *response, TRITONBACKEND_Output **output, const char *name, int datatype,
    const int64_t *shape, uint32_t rank) {
  MAY_FAIL(response->request);
  MUST(response->output_count < OUTPUTS && rank <= DIMS && strlen(name) < sizeof (*output)->got.name, "%s", name);
  *output = &response->outputs[response->output_count++];
  (*output)->response = response;
  Got *got = &(*output)->got;
  memcpy(got->name, name, strlen(name));
  got->datatype = datatype;
  got->rank = rank;
  if (rank) memcpy(got->dims, shape, rank * sizeof *shape);
  return NULL;
}

TritonResult TRITONBACKEND_OutputBuffer(
    TRITONBACKEND_Output *output, void **data, uint64_t bytes, int *memory_type, int64_t *memory_id) {
  MAY_FAIL(output->response->request);
  MUST(!output->got.data, "memory for an output twice");
  output->got.bytes = bytes;
  *data = output->got.data = bytes ? allocated(malloc(bytes)) : NULL; /* exactly: what is written past it is found */
  *memory_type = output->response->request->answer->ask.gpu_output ? MEMORY_GPU : MEMORY_CPU;
  *memory_id = 0;
  return NULL;
}

TritonResult TRITONBACKEND_ResponseSend(TRITONBACKEND_Response *response, uint32_t flags, TRITONSERVER_Error *error) {
  TRITONBACKEND_Request *request = response->request;
  Answer *answer = request->answer;
  MUST(flags == RESPONSE_FINAL && request->response == response, "flags %u", flags);
  TritonResult result = request->fails && !strcmp(request->fails, __func__) ? injected(__func__) : NULL;
  answer->responses++;
  answer->code = error ? error->code : NO_ERROR;
  if (error) snprintf(answer->text, TEXT_BYTES, "%s", error->text);
  for (uint32_t i = 0; i < response->output_count; i++) answer->outputs[i] = response->outputs[i].got;
  answer->output_count = response->output_count;
  request->response = NULL;
  free(response);
  existing(RESPONSES, -1);
  if (answer->then) answer->then(answer);
  return result;
}
