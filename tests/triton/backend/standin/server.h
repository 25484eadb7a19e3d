/* A stand-in for libtritonserver: the functions that the backend uses, over plain memory, for a process that a sanitizer
 * watches. What Triton frees at an event is freed at that event here; what it allows once is checked to happen once. */
#ifndef STANDIN_SERVER_H
#define STANDIN_SERVER_H

#include <semaphore.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

#include "triton_api.h"

enum { TYPE_INVALID = 0, TYPE_FP32 = 11, TYPE_BYTES = 13, TYPES = 15 }; /* TRITONSERVER_DataType */
enum { NO_ERROR = -1, INJECTED = ERROR_ALREADY_EXISTS /* by `fails`; the backend itself never gives this code */ };
enum { DIMS = 4, OUTPUTS = 4, PIECES = 4, INSTANCES = 4, TEXT_BYTES = 1024 };

/* Ends the process: an expectation of a scenario, or a promise of the backend to the server, is broken. */
#define MUST(condition, ...) \
  do { \
    if (!(condition)) { \
      fprintf(stderr, "%s:%d: broken: %s: ", __FILE__, __LINE__, #condition); \
      fprintf(stderr, __VA_ARGS__); \
      fputc('\n', stderr); \
      abort(); \
    } \
  } while (0)

/* ---- objects that exist now ---- */

typedef enum { ERRORS, MESSAGES, REQUESTS, RESPONSES, METRICS, PARAMETERS, METRIC_ARGS, ALLOCATIONS, KINDS } Kind;
void existing(Kind kind, int change);
long how_many(Kind kind); /* ALLOCATIONS: the backend's own */

/* The allocation of the backend with this number, counted from 1 in this thread, fails; 0: none does. Returns whether
 * the one that was named before has failed. */
bool fail_allocation(long number);

/* ---- what a client sends and gets ---- */

typedef struct {
  uint32_t rows, columns; /* of input x, FP32: first, first + 1, ... */
  float first;
  const char *text;    /* instead of x: input t, BYTES, this text in each of the rows */
  const char *outputs; /* a letter each */
  uint32_t pieces;     /* that the input's memory comes in; 0: one */
  const char *fails;   /* the function of the server that fails for this request, or NULL */
  bool cancelled, traced, without_input, gpu_input, gpu_output;
  uint64_t excess; /* bytes that the input claims to have beside its data */
} Ask;

typedef struct {
  char name[8];
  int datatype;
  uint32_t rank;
  int64_t dims[DIMS];
  char *data;
  uint64_t bytes;
} Got;

typedef struct Answer Answer;
struct Answer {
  Ask ask;
  uint32_t responses, reports;
  bool success; /* as reported */
  int code;     /* of the response; NO_ERROR */
  char text[TEXT_BYTES];
  Got outputs[OUTPUTS];
  uint32_t output_count;
  atomic_bool cancelled;
  atomic_uint looks; /* how often the backend asked whether it is cancelled */
  sem_t released;
  void (*then)(Answer *); /* called in the thread that sends the response: the server may go on there */
  void *thens;            /* for it */
};

/* A request whose fate `answer` will tell. It is freed when the backend releases it. */
TRITONBACKEND_Request *request_new(TRITONBACKEND_Model *model, Ask ask, Answer *answer);
void answer_wait(Answer *answer); /* until the request is released */
void answer_free(Answer *answer);

/* ---- the server ---- */

extern const char *backend_fails; /* the function of the server that fails at the backend's start, or NULL */
extern atomic_int activities;     /* reported to traces so far */
extern atomic_int increments;     /* of metrics so far */
extern _Atomic double last_set;   /* the last value that a gauge was set to */

void server_open(const char *library);
TritonResult server_start(void); /* initialises the backend */
void server_stop(void);
long server_logged(int level); /* messages so far */

typedef struct {
  const char *name; /* of the model; the part before the first dot is its script */
  bool batched;     /* max_batch_size is 8 */
  bool as_it_is;    /* the server takes no completed configuration */
  uint32_t instances;
  const char *fails; /* the function of the server that fails for this model, or NULL */
} Load;

/* NULL: refused, with the reason in `error`, of TEXT_BYTES. */
TRITONBACKEND_Model *model_load(Load load, char *error);
/* Waits until all its requests are released, as Triton does. */
void model_unload(TRITONBACKEND_Model *model);
/* Ends an instance, which Triton does as soon as the instance's Execute has returned. */
void model_end_instance(TRITONBACKEND_Model *model, uint32_t instance);
/* One execution of an instance, in the calling thread. If the backend refuses, the server answers. */
void model_execute(TRITONBACKEND_Model *model, uint32_t instance, TRITONBACKEND_Request **requests, uint32_t count);
/* Executions and rows that were reported so far. */
uint64_t model_executions(const TRITONBACKEND_Model *model);
uint64_t model_rows(const TRITONBACKEND_Model *model);

/* ---- between the server's own files ---- */

TritonResult injected(const char *function);
#define MAY_FAIL(object) \
  do { \
    if ((object)->fails && !strcmp((object)->fails, __func__)) return injected(__func__); \
  } while (0)

struct TRITONBACKEND_Request {
  TRITONBACKEND_Model *model;
  Answer *answer;
  const char *fails;
  TRITONBACKEND_Input *inputs;
  uint32_t input_count, output_count;
  char *outputs[OUTPUTS];
  TRITONBACKEND_Response *response; /* made, and not sent yet */
};

#endif
