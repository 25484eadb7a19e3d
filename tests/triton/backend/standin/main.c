/* Drives the backend library through what a server may do with it.
 *
 *   standin LIBRARY                    every scenario, in one process; prints the name of each that is done
 *   standin LIBRARY SCENARIO...        some of them
 *   standin LIBRARY --start [FUNCTION] starts the backend, with FUNCTION of the server failing; prints the error */
#define _GNU_SOURCE
#include <pthread.h>
#include <string.h>
#include <unistd.h>

#include "server.h"

typedef TRITONBACKEND_Model Model;
typedef TRITONBACKEND_Request Request;
enum { MOST = 8 /* requests of an execution */, COLUMNS = 3 };

/* ---- asking and checking ---- */

static Model *load(const char *name, uint32_t instances) {
  char error[TEXT_BYTES];
  Model *model = model_load((Load){.name = name, .batched = true, .instances = instances}, error);
  MUST(model, "%s: %s", name, error);
  return model;
}

/* Executes requests together; each gets its answer. */
static void send(Model *model, uint32_t instance, Answer *answers, const Ask *asks, uint32_t count) {
  Request *requests[MOST];
  for (uint32_t i = 0; i < count; i++) {
    answers[i].responses = answers[i].reports = answers[i].output_count = 0;
    requests[i] = request_new(model, asks[i], &answers[i]);
  }
  model_execute(model, instance, requests, count);
}

static void wait_for_all(Answer *answers, uint32_t count) {
  for (uint32_t i = 0; i < count; i++) answer_wait(&answers[i]);
}

static void free_all(Answer *answers, uint32_t count) {
  for (uint32_t i = 0; i < count; i++) answer_free(&answers[i]);
}

/* y is twice x and z its negative; `x` is what the request sent. */
static void check_output(const Got *got, const Ask *ask) {
  float factor = *got->name == 'y' ? 2 : -1;
  uint64_t elements = (uint64_t)ask->rows * ask->columns;
  MUST(got->datatype == TYPE_FP32 && got->rank == 2 && got->dims[0] == ask->rows && got->dims[1] == ask->columns,
       "%s: type or shape", got->name);
  MUST(got->bytes == elements * sizeof(float), "%s: %d bytes", got->name, (int)got->bytes);
  const float *values = (const float *)(void *)got->data;
  for (uint64_t i = 0; i < elements; i++) {
    MUST(values[i] == factor * (ask->first + (float)i), "%s[%d] is %g", got->name, (int)i, (double)values[i]);
  }
}

static bool is_right(const Answer *answer) { return answer->code == NO_ERROR; }

static void check_right(const Answer *answer) {
  MUST(answer->responses == 1 && is_right(answer) && answer->success, "%d: %s", answer->code, answer->text);
  MUST(answer->output_count == strlen(answer->ask.outputs), "%u outputs", answer->output_count);
  for (uint32_t i = 0; i < answer->output_count; i++) {
    MUST(strstr(answer->ask.outputs, answer->outputs[i].name), "output %s", answer->outputs[i].name);
    check_output(&answer->outputs[i], &answer->ask);
  }
}

static void check_refused(const Answer *answer, int code, const char *text) {
  MUST(answer->responses == 1 && answer->code == code && !answer->success, "code %d: %s", answer->code, answer->text);
  MUST(strstr(answer->text, text), "`%s` is not in: %s", text, answer->text);
}

/* Executes them together; all must be right. */
static void ask(Model *model, const Ask *asks, uint32_t count) {
  Answer answers[MOST] = {0};
  send(model, 0, answers, asks, count);
  wait_for_all(answers, count);
  for (uint32_t i = 0; i < count; i++) check_right(&answers[i]);
  free_all(answers, count);
}

static void ask_refused(Model *model, Ask wrong, int code, const char *text) {
  Answer answer = {0};
  send(model, 0, &answer, &wrong, 1);
  answer_wait(&answer);
  check_refused(&answer, code, text);
  answer_free(&answer);
}

static uint32_t next_number(uint32_t *state) { return (*state = *state * 1664525u + 1013904223u) >> 16; }

/* ---- scenarios ---- */

/* One request at a time: outputs, pieces, no data, no rows. */
static void alone(void) {
  static const char *names[] = {"at_once.alone", "later.alone", "before.alone", "lent.alone", "everything.alone"};
  static const char *outputs[] = {"yz", "y", "zy", "yz"};
  for (size_t m = 0; m < sizeof names / sizeof *names; m++) {
    Model *model = load(names[m], 1);
    for (uint32_t i = 0; i < 24; i++) {
      ask(model, &(Ask){.rows = i % 3, .columns = COLUMNS + i, .first = 1, .outputs = outputs[i % 4], .pieces = i % 5}, 1);
    }
    model_unload(model);
  }
}

/* Requests that come together: those that agree are one execution. */
static void together(void) {
  static const char *names[] = {"at_once.together", "later.together", "before.together", "each.together"};
  const Ask asks[MOST] = {
      {.rows = 1, .columns = COLUMNS, .first = 1, .outputs = "yz"},
      {.rows = 2, .columns = COLUMNS, .first = 11, .outputs = "yz", .pieces = 3},
      {.rows = 1, .columns = COLUMNS + 1, .first = 21, .outputs = "yz"}, /* another shape */
      {.rows = 3, .columns = COLUMNS, .first = 31, .outputs = "yz"},
      {.rows = 1, .columns = COLUMNS, .first = 41, .outputs = "y"}, /* other outputs */
      {.rows = 2, .columns = COLUMNS, .first = 51, .outputs = "yz"},
      {.rows = 1, .columns = COLUMNS, .first = 61, .outputs = "yz"}, /* the ninth row: a group of its own */
      {.rows = 0, .columns = COLUMNS, .first = 71, .outputs = "yz"},
  };
  for (size_t m = 0; m < sizeof names / sizeof *names; m++) {
    Model *model = load(names[m], 1);
    ask(model, asks, strncmp(names[m], "each", 4) ? MOST : MOST - 1); /* its script reads the first number */
    MUST(model_executions(model) == 4, "%d executions", (int)model_executions(model));
    MUST(model_rows(model) == 11, "%d rows", (int)model_rows(model));
    model_unload(model);
  }
}

static void texts(void) {
  Model *model = load("text.mixed", 1);
  Ask asks[3] = {{.rows = 2, .text = "abc", .outputs = "u"},
                 {.rows = 1, .text = "", .outputs = "u", .pieces = 3},
                 {.rows = 1, .text = "no", .outputs = "u"}};
  Answer answers[3] = {0};
  send(model, 0, answers, asks, 3);
  wait_for_all(answers, 3);
  static const char last[] = "\2\0\0\0on\5\0\0\0no!no"; /* backwards, and longer */
  const Got *got = &answers[2].outputs[0];
  MUST(answers[2].code == NO_ERROR && got->bytes == sizeof last - 1, "%s", answers[2].text);
  MUST(!memcmp(got->data, last, got->bytes) && got->dims[0] == 1 && got->dims[1] == 2, "other text");
  MUST(answers[0].outputs[0].bytes == 2 * (4 + 3 + 4 + 7) && answers[1].outputs[0].bytes == 4 + 4 + 1, "sizes");
  MUST(model_executions(model) == 2, "%d executions", (int)model_executions(model)); /* the one in pieces is alone */
  free_all(answers, 3);
  model_unload(model);
}

/* What the Servable says of one request is that request's alone. */
static void errors_of_some(void) {
  Model *model = load("each.errors", 1);
  Ask asks[3] = {{.rows = 1, .columns = COLUMNS, .first = 1, .outputs = "yz"},
                 {.rows = 2, .columns = COLUMNS, .first = -9, .outputs = "yz"},
                 {.rows = 1, .columns = COLUMNS, .first = 5, .outputs = "yz"}};
  Answer answers[3] = {0};
  send(model, 0, answers, asks, 3);
  wait_for_all(answers, 3);
  check_right(&answers[0]);
  check_refused(&answers[1], ERROR_INVALID_ARG, "negative");
  check_right(&answers[2]);
  free_all(answers, 3);
  model_unload(model);
}

/* The servable `wrong` breaks the contract in the way that the first number says. */
static void broken_contract(void) {
  enum { WAYS = 15, TOO_MANY_ROWS = 3 /* which only a group notices */ };
  Model *model = load("wrong.all", 1);
  for (uint32_t way = 0; way < WAYS; way++) {
    const Ask one = {.rows = 1, .columns = 1, .first = (float)way, .outputs = "y"};
    const Ask asks[2] = {one, one};
    for (uint32_t count = 1; count <= 2; count++) {
      Answer answers[2] = {0};
      send(model, 0, answers, asks, count);
      wait_for_all(answers, count);
      for (uint32_t i = 0; i < count; i++) {
        bool fine = way == TOO_MANY_ROWS && count == 1;
        MUST(answers[i].responses == 1 && answers[i].code == (fine ? NO_ERROR : ERROR_INTERNAL), "way %u", way);
      }
      free_all(answers, count);
    }
  }
  model_unload(model);
}

/* A second answer, and what may only be done before the first, are refused. */
static void after_the_answer(void) {
  Model *model = load("twice.again", 1);
  for (int i = 0; i < 20; i++) ask(model, &(Ask){.rows = 1, .columns = COLUMNS, .first = 2, .outputs = "yz"}, 1);
  model_unload(model);
  model = load("keeps.views", 1); /* keeps something on the memory of each request */
  long warnings = server_logged(LOG_WARN);
  for (int i = 0; i < 3; i++) ask(model, &(Ask){.rows = 1, .columns = COLUMNS, .first = 2, .outputs = "yz"}, 1);
  MUST(server_logged(LOG_WARN) == warnings + 1, "%ld warnings", server_logged(LOG_WARN) - warnings);
  model_unload(model);
}

/* Memory of the server that must not be given. */
static void refused_memory(void) {
  Model *model = load("greedy.alone", 1); /* itself checks that each of its wishes is refused */
  ask(model, &(Ask){.rows = 1, .columns = COLUMNS, .first = 2, .outputs = "yz"}, 1);
  model_unload(model);
}

typedef struct {
  Model *model;
  Request *request;
} Held;

static void *hold(void *held) {
  model_execute(((Held *)held)->model, 0, &((Held *)held)->request, 1);
  return NULL;
}

static void cancelled(void) {
  Model *model = load("at_once.cancelled", 1);
  const Ask fine = {.rows = 1, .columns = COLUMNS, .first = 1, .outputs = "yz"};
  Ask gone = fine;
  gone.cancelled = true;
  ask_refused(model, gone, ERROR_CANCELLED, "before it ran");
  Answer answers[3] = {0};
  send(model, 0, answers, (Ask[]){fine, gone, fine}, 3); /* its neighbours don't notice */
  wait_for_all(answers, 3);
  check_right(&answers[0]);
  check_refused(&answers[1], ERROR_CANCELLED, "before it ran");
  check_right(&answers[2]);
  free_all(answers, 3);
  model_unload(model);

  model = load("held.cancelled", 1); /* looks again and again whether it is cancelled */
  Answer answer = {0};
  Held held = {model, request_new(model, fine, &answer)};
  pthread_t thread;
  MUST(!pthread_create(&thread, NULL, hold, &held), "no thread");
  while (atomic_load(&answer.looks) < 3) usleep(100); /* the first look is the backend's own */
  atomic_store(&answer.cancelled, true);
  answer_wait(&answer);
  pthread_join(thread, NULL);
  check_refused(&answer, ERROR_CANCELLED, "");
  answer_free(&answer);
  model_unload(model);
}

static sem_t kept, given_back;

/* The script `stuck` calls this with the GIL. */
void keep_the_gil(void);
void keep_the_gil(void) {
  sem_post(&kept);
  while (sem_wait(&given_back)) {}
}

static void wait_for_heartbeat(void) {
  for (int before = atomic_load(&increments); atomic_load(&increments) == before;) usleep(100);
}

/* While an execution keeps the GIL, the heart stands still, and the execution's age grows all the same. */
static void stuck_with_the_gil(void) {
  sem_init(&kept, 0, 0);
  sem_init(&given_back, 0, 0);
  Model *model = load("stuck.alone", 1);
  Answer answer = {0};
  Held held = {model, request_new(model, (Ask){.rows = 1, .columns = COLUMNS, .outputs = "y"}, &answer)};
  wait_for_heartbeat();
  pthread_t thread;
  MUST(!pthread_create(&thread, NULL, hold, &held), "no thread");
  while (sem_wait(&kept)) {}
  int beats = atomic_load(&increments);
  for (double age = 0; age < 0.1; age = atomic_load(&last_set)) usleep(100);
  MUST(atomic_load(&increments) == beats, "%d heartbeats", atomic_load(&increments) - beats);
  sem_post(&given_back);
  answer_wait(&answer);
  pthread_join(thread, NULL);
  check_right(&answer);
  answer_free(&answer);
  wait_for_heartbeat();
  while (atomic_load(&last_set) > 0) usleep(100);
  model_unload(model);
  sem_destroy(&kept);
  sem_destroy(&given_back);
}

static void traced(void) {
  Model *model = load("spans.traced", 1);
  int before = atomic_load(&activities);
  Ask asks[2] = {{.rows = 1, .columns = COLUMNS, .first = 1, .outputs = "yz"},
                 {.rows = 1, .columns = COLUMNS, .first = 1, .outputs = "yz", .traced = true}};
  ask(model, asks, 1);
  MUST(atomic_load(&activities) == before, "a span of a request without a trace");
  ask(model, asks, 2); /* the span is only the second's */
  MUST(atomic_load(&activities) == before + 2, "%d activities", atomic_load(&activities) - before);
  model_unload(model);
}

/* Inputs that can't be served, beside one that can. */
static void wrong_inputs(void) {
  static const struct {
    Ask ask;
    int code;
    const char *text;
  } cases[] = {
      {{.rows = 1, .columns = COLUMNS, .outputs = "y", .gpu_input = true}, ERROR_UNSUPPORTED, "GPU memory"},
      {{.rows = 1, .columns = COLUMNS, .outputs = "y", .gpu_output = true}, ERROR_UNSUPPORTED, "GPU memory"},
      {{.rows = 1, .columns = COLUMNS, .outputs = "y", .excess = 4}, ERROR_INVALID_ARG, "but says"},
      {{.rows = 1, .columns = COLUMNS, .outputs = "y", .excess = UINT64_MAX}, ERROR_INVALID_ARG, "but says"},
      {{.outputs = "y", .without_input = true}, ERROR_INTERNAL, "KeyError"},
  };
  Model *model = load("at_once.wrong", 1);
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    ask_refused(model, cases[i].ask, cases[i].code, cases[i].text);
    Answer answers[2] = {0};
    send(model, 0, answers, (Ask[]){cases[i].ask, {.rows = 1, .columns = COLUMNS, .first = 3, .outputs = "y"}}, 2);
    wait_for_all(answers, 2);
    check_refused(&answers[0], cases[i].code, cases[i].text);
    check_right(&answers[1]);
    free_all(answers, 2);
  }
  model_unload(model);
}

/* Each function of the server fails for one request of three. */
static void failing_server(void) {
  enum { RIGHT, REFUSED, UNANSWERED };
  static const struct {
    const char *function;
    int outcome;
  } cases[] = {
      {"TRITONBACKEND_RequestInputCount", REFUSED},
      {"TRITONBACKEND_RequestOutputCount", REFUSED},
      {"TRITONBACKEND_RequestInputByIndex", REFUSED},
      {"TRITONBACKEND_RequestOutputName", REFUSED},
      {"TRITONBACKEND_RequestIsCancelled", REFUSED},
      {"TRITONBACKEND_InputProperties", REFUSED},
      {"TRITONBACKEND_InputBuffer", REFUSED},
      {"TRITONBACKEND_ResponseOutput", REFUSED},
      {"TRITONBACKEND_OutputBuffer", REFUSED},
      {"TRITONBACKEND_ResponseNew", UNANSWERED},
      {"TRITONBACKEND_ResponseSend", RIGHT}, /* these three are logged */
      {"TRITONBACKEND_ModelInstanceReportStatistics", RIGHT},
      {"TRITONBACKEND_RequestRelease", RIGHT},
  };
  static const char *names[] = {"at_once.failing", "later.failing", "each.failing"};
  for (size_t m = 0; m < sizeof names / sizeof *names; m++) {
    Model *model = load(names[m], 1);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
      Ask asks[3] = {{.rows = 1, .columns = COLUMNS, .first = 1, .outputs = "yz"},
                     {.rows = 2, .columns = COLUMNS, .first = 11, .outputs = "yz", .fails = cases[i].function},
                     {.rows = 1, .columns = COLUMNS, .first = 21, .outputs = "yz"}};
      Answer answers[3] = {0};
      send(model, 0, answers, asks, 3);
      wait_for_all(answers, 3);
      check_right(&answers[0]);
      if (cases[i].outcome == RIGHT) check_right(&answers[1]);
      if (cases[i].outcome == REFUSED) check_refused(&answers[1], INJECTED, cases[i].function);
      if (cases[i].outcome == UNANSWERED) MUST(!answers[1].responses && !answers[1].success, "%s", cases[i].function);
      check_right(&answers[2]);
      free_all(answers, 3);
    }
    model_unload(model);
  }
  Model *model = load("lent.failing", 1);
  ask_refused(model, (Ask){.rows = 1, .columns = 1, .outputs = "y", .fails = "TRITONBACKEND_OutputBuffer"},
              ERROR_INTERNAL, "TRITONBACKEND_OutputBuffer");
  model_unload(model);
}

static void failing_load(void) {
  static const char *functions[] = {
      "TRITONBACKEND_ModelName", "TRITONBACKEND_ModelVersion", "TRITONBACKEND_ModelRepository",
      "TRITONBACKEND_ModelConfig", "TRITONBACKEND_ModelSetConfig", "TRITONBACKEND_ModelAutoCompleteConfig",
      "TRITONBACKEND_ModelSetState", "TRITONBACKEND_ModelState", "TRITONBACKEND_ModelInstanceModel",
      "TRITONBACKEND_ModelInstanceSetState"};
  char error[TEXT_BYTES];
  for (size_t i = 0; i < sizeof functions / sizeof *functions; i++) {
    Load failing = {.name = "at_once.load", .batched = true, .instances = 2, .fails = functions[i]};
    MUST(!model_load(failing, error) && !strcmp(error, functions[i]), "%s: %s", functions[i], error);
  }
  MUST(!model_load((Load){.name = "refused.load"}, error) && strstr(error, "this model can't be opened"), "%s", error);
  Model *model = model_load((Load){.name = "at_once.load", .as_it_is = true, .instances = 1}, error);
  ask(model, &(Ask){.rows = 2, .columns = COLUMNS, .outputs = "yz"}, 1);
  model_unload(model);
}

/* Each allocation of the backend fails once: during a load, and during an execution. */
static void memory_runs_out(void) {
  char error[TEXT_BYTES];
  for (long number = 1;; number++) {
    fail_allocation(number);
    Model *model = model_load((Load){.name = "at_once.memory", .batched = true, .instances = 1}, error);
    bool failed = fail_allocation(0);
    MUST(model || (failed && strstr(error, "out of memory")), "%s", error);
    if (model) model_unload(model);
    if (!failed) break;
  }
  Ask asks[4] = {{.rows = 1, .columns = COLUMNS, .first = 1, .outputs = "yz"},
                 {.rows = 2, .columns = COLUMNS, .first = 11, .outputs = "yz", .pieces = 2},
                 {.rows = 1, .columns = COLUMNS + 1, .first = 21, .outputs = "yz"},
                 {.rows = 1, .columns = COLUMNS, .outputs = "y", .excess = 1}};
  long number = 1;
  for (bool failed = true; failed; number++) {
    Model *model = load("at_once.memory", 1); /* anew: an instance remembers names and memory */
    Answer answers[4] = {0};
    fail_allocation(number);
    send(model, 0, answers, asks, 4);
    failed = fail_allocation(0);
    wait_for_all(answers, 4);
    for (int i = 0; i < 4; i++) {
      if (answers[i].code == ERROR_UNAVAILABLE && failed) continue;
      if (i < 3) check_right(&answers[i]);
      if (i == 3) check_refused(&answers[i], ERROR_INVALID_ARG, "");
    }
    free_all(answers, 4);
    model_unload(model);
  }
  MUST(number > 8, "only %ld allocations", number);
}

/* An unload, and the end of an instance, while answers are still due. */
static void unload_with_requests(void) {
  for (uint32_t round = 0; round < 20; round++) {
    Model *model = load("later.unload", 2);
    Answer answers[MOST] = {0};
    const Ask one = {.rows = 1 + round % 3, .columns = COLUMNS, .first = 1, .outputs = "yz"};
    for (uint32_t i = 0; i < MOST; i++) send(model, i % 2, &answers[i], &one, 1);
    if (round % 2) model_end_instance(model, 1);
    model_unload(model);
    wait_for_all(answers, MOST);
    for (uint32_t i = 0; i < MOST; i++) check_right(&answers[i]);
    free_all(answers, MOST);
  }
}

/* The server executes the next request in the thread that sends an answer, as an ensemble may. */
static void execute_next(Answer *answer) {
  const Ask next = {.rows = 2, .columns = COLUMNS, .first = 7, .outputs = "yz"};
  ask(answer->thens, &next, 1);
}

static void next_in_the_answering_thread(void) {
  static const char *names[] = {"at_once.first", "later.first", "before.first", "twice.first"};
  Model *second = load("at_once.second", 1);
  for (size_t m = 0; m < sizeof names / sizeof *names; m++) {
    Model *first = load(names[m], 1);
    for (int i = 0; i < 10; i++) {
      Answer answer = {.then = execute_next, .thens = second};
      send(first, 0, &answer, &(Ask){.rows = 1, .columns = COLUMNS, .first = 1, .outputs = "yz"}, 1);
      answer_wait(&answer);
      check_right(&answer);
      answer_free(&answer);
    }
    model_unload(first);
  }
  model_unload(second);
}

/* ---- threads ---- */

typedef struct {
  Model *model;
  uint32_t instance, seed, executions;
} Worker;

enum { MOST_AT_ONCE = 5 };

typedef struct {
  Answer answers[MOST_AT_ONCE];
  uint32_t count;
} Sent;

static void finish(Sent *sent) {
  wait_for_all(sent->answers, sent->count);
  for (uint32_t i = 0; i < sent->count; i++) {
    if (sent->answers[i].ask.cancelled) check_refused(&sent->answers[i], ERROR_CANCELLED, "");
    if (!sent->answers[i].ask.cancelled) check_right(&sent->answers[i]);
  }
  free_all(sent->answers, sent->count);
  sent->count = 0;
}

/* Executes while earlier answers are still due. */
static void *work(void *argument) {
  enum { AHEAD = 6 };
  const Worker *worker = argument;
  Sent window[AHEAD] = {0};
  uint32_t random = worker->seed;
  for (uint32_t k = 0; k < worker->executions; k++) {
    Sent *sent = &window[k % AHEAD];
    Ask asks[MOST_AT_ONCE];
    finish(sent);
    sent->count = 1 + next_number(&random) % MOST_AT_ONCE;
    for (uint32_t i = 0; i < sent->count; i++) {
      asks[i] = (Ask){.rows = 1 + next_number(&random) % 3,
                      .columns = COLUMNS + !(next_number(&random) % 4),
                      .first = (float)(next_number(&random) % 1000),
                      .outputs = next_number(&random) % 4 ? "yz" : "y",
                      .pieces = next_number(&random) % 4,
                      .cancelled = !(next_number(&random) % 16),
                      .traced = !(next_number(&random) % 8)};
    }
    send(worker->model, worker->instance, sent->answers, asks, sent->count);
  }
  for (uint32_t k = 0; k < AHEAD; k++) finish(&window[k]);
  return NULL;
}

static void *come_and_go(void *rounds) {
  for (int round = 0; round < *(int *)rounds; round++) {
    Model *model = load("later.coming", 1);
    Worker worker = {model, 0, (uint32_t)round, 3};
    work(&worker);
    model_unload(model);
  }
  return NULL;
}

static void busy(void) {
  static const char *names[] = {"at_once.busy", "soon.busy", "later.busy", "before.busy", "lent.busy", "spans.busy"};
  enum { NAMES = sizeof names / sizeof *names, EACH = 2, EXECUTIONS = 300 };
  Model *models[NAMES];
  Worker workers[NAMES * EACH];
  pthread_t threads[NAMES * EACH], coming;
  for (uint32_t i = 0; i < NAMES; i++) models[i] = load(names[i], EACH);
  for (uint32_t i = 0; i < NAMES * EACH; i++) {
    workers[i] = (Worker){models[i / EACH], i % EACH, i, EXECUTIONS};
    MUST(!pthread_create(&threads[i], NULL, work, &workers[i]), "no thread");
  }
  int rounds = 20;
  MUST(!pthread_create(&coming, NULL, come_and_go, &rounds), "no thread");
  pthread_join(coming, NULL);
  for (uint32_t i = 0; i < NAMES * EACH; i++) pthread_join(threads[i], NULL);
  for (uint32_t i = 0; i < NAMES; i++) model_unload(models[i]);
}

/* Server threads end, and with them their Python thread states. */
static void threads_end(void) {
  Model *model = load("at_once.threads", INSTANCES);
  for (uint32_t round = 0; round < 20; round++) {
    Worker workers[INSTANCES];
    pthread_t threads[INSTANCES];
    for (uint32_t i = 0; i < INSTANCES; i++) {
      workers[i] = (Worker){model, i, round, 3};
      MUST(!pthread_create(&threads[i], NULL, work, &workers[i]), "no thread");
    }
    for (uint32_t i = 0; i < INSTANCES; i++) pthread_join(threads[i], NULL);
  }
  model_unload(model);
}

static const struct {
  const char *name;
  void (*run)(void);
} scenarios[] = {
#define SCENARIO(name) {#name, name},
    SCENARIO(alone) SCENARIO(together) SCENARIO(texts) SCENARIO(errors_of_some) SCENARIO(broken_contract)
    SCENARIO(after_the_answer) SCENARIO(refused_memory) SCENARIO(cancelled) SCENARIO(stuck_with_the_gil) SCENARIO(traced)
    SCENARIO(wrong_inputs) SCENARIO(failing_server) SCENARIO(failing_load) SCENARIO(memory_runs_out) SCENARIO(unload_with_requests)
    SCENARIO(next_in_the_answering_thread) SCENARIO(threads_end) SCENARIO(busy)
#undef SCENARIO
};

/* ---- start and end ---- */

typedef struct {
  Model *model;
  sem_t ready, go;
} Late;

/* Has been in Python, and ends while Python does or afterwards. */
static void *end_late(void *argument) {
  Late *late = argument;
  Worker worker = {late->model, 0, 1, 1};
  work(&worker);
  sem_post(&late->ready);
  while (sem_wait(&late->go)) {}
  return NULL;
}

static void stop_with_threads(void) {
  enum { MEANWHILE = 3, LATE = 4 };
  Late lates[LATE];
  pthread_t threads[LATE];
  for (int i = 0; i < LATE; i++) {
    lates[i].model = load("at_once.stop", 1);
    sem_init(&lates[i].ready, 0, 0);
    sem_init(&lates[i].go, 0, 0);
    MUST(!pthread_create(&threads[i], NULL, end_late, &lates[i]), "no thread");
    while (sem_wait(&lates[i].ready)) {}
    model_unload(lates[i].model);
  }
  for (int i = 0; i < MEANWHILE; i++) sem_post(&lates[i].go);
  server_stop();
  sem_post(&lates[MEANWHILE].go);
  for (int i = 0; i < LATE; i++) pthread_join(threads[i], NULL);
  TritonResult error = server_start();
  MUST(error && strstr(TRITONSERVER_ErrorMessage(error), "has ended"), "started twice");
  TRITONSERVER_ErrorDelete(error);
  char text[TEXT_BYTES];
  MUST(!model_load((Load){.name = "at_once.stop"}, text) && strstr(text, "Python is not running"), "%s", text);
}

static int start_only(const char *fails) {
  backend_fails = fails;
  TritonResult error = server_start();
  puts(error ? TRITONSERVER_ErrorMessage(error) : "started");
  if (error) TRITONSERVER_ErrorDelete(error);
  if (!error) server_stop();
  return 0;
}

static bool is_wanted(const char *name, char **wanted) {
  bool all = !*wanted;
  for (; *wanted; wanted++) {
    if (!strcmp(*wanted, name)) return true;
  }
  return all;
}

int main(int count, char **arguments) {
  MUST(count > 1, "no library");
  server_open(arguments[1]);
  char **rest = arguments + 2;
  if (*rest && !strcmp(*rest, "--start")) return start_only(rest[1]);
  TritonResult error = server_start();
  MUST(!error, "%s", TRITONSERVER_ErrorMessage(error));
  for (size_t i = 0; i < sizeof scenarios / sizeof *scenarios; i++) {
    if (!is_wanted(scenarios[i].name, rest)) continue;
    long before[KINDS];
    for (int kind = 0; kind < KINDS; kind++) before[kind] = how_many(kind);
    scenarios[i].run();
    for (int kind = 0; kind < KINDS; kind++) {
      MUST(how_many(kind) <= before[kind] + (kind == ALLOCATIONS && !i), "kind %d: %ld are left of %s", kind,
           how_many(kind) - before[kind], scenarios[i].name);
    }
    puts(scenarios[i].name);
    fflush(stdout);
  }
  stop_with_threads();
  for (int kind = 0; kind < KINDS; kind++) {
    MUST(how_many(kind) <= (kind == ALLOCATIONS), "kind %d: %ld are left at the end", kind, how_many(kind));
  }
  puts("stop");
  return 0;
}
