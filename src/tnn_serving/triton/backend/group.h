/* A group: requests that Python answers together, with a lifetime of its own, since the answer may come long after
 * Execute has returned and from another thread.
 *
 * Who may touch one: the thread that made it, until it is registered; then any thread that has the GIL and looks it up by
 * its ticket; from group_take on, the thread that took it. */
#ifndef TNN_GROUP_H
#define TNN_GROUP_H

#include <pthread.h>
#include <sys/queue.h>

#include "shim.h"

enum { KNOWN_NAMES = 16, KNOWN_RANK = 8, MAX_RANK = 64 };

typedef struct {
  char *text;
  PyObject *name;
  uint32_t rank;
  int64_t dims[KNOWN_RANK]; /* of the last shape */
  PyObject *shape;
} KnownInput;

/* Python objects that an instance uses again and again. Used by the instance's own thread alone, with the GIL. */
typedef struct {
  KnownInput inputs[KNOWN_NAMES];
  uint32_t input_count;
  uint32_t output_count;
  PyObject *outputs; /* the names that were last asked for */
} Known;

typedef struct {
  TRITONBACKEND_ModelInstance *triton;
  TRITONBACKEND_Model *model;
  PyObject *execute; /* the bound method Model.execute of the bridge */
  bool batched;      /* the first dimension of the inputs is the batch */
  uint64_t joins;    /* most rows that are gathered; 0: never */
  Known known;
  bool warned; /* of a view that was kept; once is enough. Guarded by the GIL */
  /* Guarded by the lock in group.c: */
  uint32_t in_flight; /* groups */
  char *spare;        /* memory of a gathered group that has ended: fresh memory costs more than the copy into it */
  uint64_t spare_bytes;
} Instance;

typedef struct {
  TRITONBACKEND_Request *request;
  TRITONBACKEND_Response *response; /* made with the first output, or at the end */
  TritonResult error;               /* the first thing that went wrong */
  uint64_t rows;
} Item;

typedef struct {
  const char *name; /* belongs to the group's first request, as all names do */
  int datatype;
  uint32_t rank;
  const int64_t *dims; /* Triton's memory, or the group's */
  const char *data;    /* likewise */
  uint64_t bytes;
  PyObject *view; /* of the data, for Python; NULL: none yet. Released with the group */
} Tensor;

typedef struct Group {
  uint64_t ticket; /* names the group for the functions that Python has of it; never used twice in a process */
  struct Group *next;
  Instance *instance;
  uint64_t exec_start, compute_start, compute_end; /* ns; compute_start 0: Python never saw it */
  uint64_t began;                                   /* ns; 0: group_begin was not called */
  TAILQ_ENTRY(Group) running;
  uint64_t rows;                                    /* of all requests */
  bool traced;                                      /* at least one request */
  uint32_t count, input_count, output_count;
  Item *items;
  Tensor *inputs;
  int64_t *dims;        /* of all inputs */
  const char **outputs; /* what every one of the requests asks for */
  bool *allocated;      /* for each of them: group_allocate has given Python its memory */
  char *memory;         /* of inputs that came in several pieces; NULL if none did */
  uint64_t memory_bytes;
  PyObject *output_views; /* list of the views that group_allocate gave, or NULL; released with the group */
} Group;

/* What Python can call: group_finish and so on, bound to the ticket. */
#define X(name, convention) PyObject *group_##name(PyObject *ticket, PyObject *arguments);
GROUP_FUNCTIONS(X)
#undef X

/* ---- group.c ---- */

/* Zeroed but for counts and pointers, and counted as in flight; NULL: out of memory. */
Group *group_new(Instance *instance, uint32_t count, uint32_t input_count, uint32_t output_count, uint64_t dims);
/* Of a group that Python has not seen: as if it had never been. */
void group_discard(Group *group);
/* *group->memory of at least `bytes`; false: out of memory */
bool group_memory(Group *group, uint64_t bytes);
/* Its execution begins, which includes waiting for the GIL, and lasts until group_end. */
void group_begin(Group *group);
/* When the oldest execution of a model began; 0: none runs. Without the GIL, which an execution may never give back. */
uint64_t group_oldest_ns(const TRITONBACKEND_Model *model);

/* These need the GIL. */
void group_register(Group *group);      /* gives it its ticket */
Group *group_of(PyObject *ticket);      /* NULL, with an exception: it has been answered */
Group *group_take(uint64_t ticket);     /* NULL: likewise, without one. The group is the caller's from here on */
void group_release_views(Group *group); /* before Triton frees their memory */

void group_fail(Group *group, TritonResult error); /* every request that has no error yet; deletes the error */
/* Sends the answers, reports statistics, frees the group, releases the requests. Not with the GIL: sending may do the
 * whole work of an HTTP or gRPC answer in this thread. */
void group_end(Group *group);
/* Waits until no group of the instance is in flight. Not with the GIL. */
void group_wait_for_all(Instance *instance);

/* ---- requests.c ---- */

typedef struct { Group **groups; uint32_t count; } Groups;

/* Reads and gathers; no GIL. Requests that can't be read, or that were cancelled, get their answer at once. An error is
 * returned only before any was touched. */
TritonResult requests_group(Instance *instance, TRITONBACKEND_Request **requests, uint32_t count, Groups *groups);
/* Bytes that the first `elements` elements of a BYTES tensor take; false if they are cut off. */
bool bytes_elements(const char *data, uint64_t bytes, uint64_t elements, uint64_t *taken);

/* ---- tuples.c; with the GIL ---- */

/* The arguments of Model.execute; NULL with an exception pending. */
PyObject *tuples_group(Group *group);
void tuples_forget(Known *known);

/* ---- responses.c ---- */

/* With the GIL: the answers that Python gave, into responses. */
void responses_take(Group *group, PyObject *answers);

/* ---- execute.c ---- */

/* Answers and releases every request, now or later; an error is returned only before any was touched. */
TritonResult execute(Instance *instance, TRITONBACKEND_Request **requests, uint32_t count);

#endif
