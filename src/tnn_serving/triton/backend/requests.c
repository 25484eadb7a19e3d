/* Triton's requests, read and gathered into groups. Python has no part in it: all of this runs without the GIL. */
#define _GNU_SOURCE
#include <stdlib.h>
#include <string.h>

#include "group.h"

enum { ALIGNMENT = 64 /* of each gathered input: what vector instructions like best */ };

typedef struct {
  TRITONBACKEND_Input *handle;
  Tensor tensor; /* data: NULL when it comes in several pieces */
  uint32_t pieces;
} Input;

/* A request as it was read; everything it points to is Triton's, and valid until the request is released. */
typedef struct {
  TRITONBACKEND_Request *request;
  TritonResult error;
  Input *inputs;
  const char **outputs;
  uint32_t input_count, output_count;
  uint64_t rows;
  uint64_t dims; /* of all inputs */
  bool traced;
  bool joinable;   /* its data is as its shapes say, so it can't shift its neighbours' */
  uint32_t leader; /* index of the first request of its group */
  uint32_t count;  /* for a leader: requests of the group, */
  uint64_t total;  /* and their rows */
} Incoming;

/* ---- reading ---- */

static TritonResult input_piece(TRITONBACKEND_Input *input, uint32_t index, const char **data, uint64_t *bytes) {
  const void *piece = NULL;
  int memory_type = MEMORY_CPU;
  int64_t memory_id = 0;
  TRY(TRITONBACKEND_InputBuffer(input, index, &piece, bytes, &memory_type, &memory_id));
  if (memory_type == MEMORY_GPU) {
    return TRITONSERVER_ErrorNew(ERROR_UNSUPPORTED, "an input is in GPU memory; this backend runs on the CPU");
  }
  *data = piece ? piece : "";
  return NULL;
}

/* Looks at every piece now, so that copying them later can't fail. */
static TritonResult read_data(Input *input) {
  Tensor *tensor = &input->tensor;
  uint64_t total = 0;
  for (uint32_t i = 0; i < input->pieces; i++) {
    const char *piece;
    uint64_t bytes;
    TRY(input_piece(input->handle, i, &piece, &bytes));
    if (input->pieces == 1) tensor->data = piece;
    if (__builtin_add_overflow(total, bytes, &total)) total = UINT64_MAX;
  }
  if (total != tensor->bytes) {
    return error_new(ERROR_INVALID_ARG, "input `%s` has %llu bytes of data, but says %llu", tensor->name,
                     (unsigned long long)total, (unsigned long long)tensor->bytes);
  }
  if (!input->pieces) tensor->data = "";
  return NULL;
}

bool bytes_elements(const char *data, uint64_t bytes, uint64_t elements, uint64_t *taken) {
  uint64_t at = 0;
  for (; elements; elements--) {
    uint32_t length; /* little-endian, as every machine that Triton runs on */
    if (bytes - at < sizeof length) return false;
    memcpy(&length, data + at, sizeof length);
    at += sizeof length;
    if (bytes - at < length) return false;
    at += length;
  }
  *taken = at;
  return true;
}

/* Whether the data is what datatype and shape promise. */
static bool is_whole(const Input *input) {
  const Tensor *tensor = &input->tensor;
  uint64_t elements = 1, taken;
  for (uint32_t i = 0; i < tensor->rank; i++) {
    if (tensor->dims[i] < 0 || __builtin_mul_overflow(elements, (uint64_t)tensor->dims[i], &elements)) return false;
  }
  uint64_t element_bytes = TRITONSERVER_DataTypeByteSize(tensor->datatype);
  if (element_bytes) return !__builtin_mul_overflow(elements, element_bytes, &taken) && taken == tensor->bytes;
  return tensor->data && bytes_elements(tensor->data, tensor->bytes, elements, &taken) && taken == tensor->bytes;
}

/* By name: Triton's order is that of a hash table, and may differ between requests that a client sees as equal. */
static void sort_in(Input *inputs, uint32_t at) {
  for (; at && strcmp(inputs[at].tensor.name, inputs[at - 1].tensor.name) < 0; at--) {
    Input swapped = inputs[at];
    inputs[at] = inputs[at - 1];
    inputs[at - 1] = swapped;
  }
}

static TritonResult read_request(Incoming *in, bool batched, bool gathering) {
  in->joinable = gathering && in->input_count;
  for (uint32_t i = 0; i < in->input_count; i++) {
    Input input = {0};
    Tensor *tensor = &input.tensor;
    TRY(TRITONBACKEND_RequestInputByIndex(in->request, i, &input.handle));
    TRY(TRITONBACKEND_InputProperties(
        input.handle, &tensor->name, &tensor->datatype, &tensor->dims, &tensor->rank, &tensor->bytes, &input.pieces));
    TRY(read_data(&input));
    uint64_t rows = batched && tensor->rank ? (uint64_t)tensor->dims[0] : 1;
    if (!i) in->rows = rows;
    in->joinable = in->joinable && tensor->rank && rows == in->rows && is_whole(&input);
    in->dims += tensor->rank;
    in->inputs[i] = input;
    sort_in(in->inputs, i);
  }
  if (!in->input_count) in->rows = 1;
  for (uint32_t i = 0; i < in->output_count; i++) {
    TRY(TRITONBACKEND_RequestOutputName(in->request, i, &in->outputs[i]));
  }
  TRITONSERVER_InferenceTrace *trace = NULL;
  if (TRITONBACKEND_RequestTrace) log_and_delete(TRITONBACKEND_RequestTrace(in->request, &trace));
  in->traced = trace != NULL;
  bool cancelled = false;
  TRY(TRITONBACKEND_RequestIsCancelled(in->request, &cancelled));
  if (cancelled) return TRITONSERVER_ErrorNew(ERROR_CANCELLED, "the request was cancelled before it ran");
  return NULL;
}

/* The place for what all requests hold is one block; the caller frees *parts. */
static TritonResult read_all(
    Instance *instance, TRITONBACKEND_Request **requests, uint32_t count, Incoming *all, Input **parts) {
  uint64_t inputs = 0, outputs = 0;
  for (uint32_t i = 0; i < count; i++) {
    Incoming *in = &all[i];
    in->request = requests[i];
    in->error = TRITONBACKEND_RequestInputCount(in->request, &in->input_count);
    if (!in->error) in->error = TRITONBACKEND_RequestOutputCount(in->request, &in->output_count);
    if (in->error) in->input_count = in->output_count = 0;
    inputs += in->input_count;
    outputs += in->output_count;
  }
  *parts = malloc(inputs * sizeof(Input) + outputs * sizeof(char *) + 1);
  if (!*parts) {
    for (uint32_t i = 0; i < count; i++) {
      if (all[i].error) TRITONSERVER_ErrorDelete(all[i].error);
    }
    return TRITONSERVER_ErrorNew(ERROR_UNAVAILABLE, "out of memory");
  }
  Input *next_input = *parts;
  const char **next_output = (const char **)(*parts + inputs);
  for (uint32_t i = 0; i < count; i++) {
    Incoming *in = &all[i];
    in->inputs = next_input;
    in->outputs = next_output;
    next_input += in->input_count;
    next_output += in->output_count;
    if (!in->error) in->error = read_request(in, instance->batched, instance->joins > 1 && count > 1);
  }
  return NULL;
}

/* ---- gathering ---- */

static bool agree(const Incoming *a, const Incoming *b) {
  if (a->input_count != b->input_count || a->output_count != b->output_count) return false;
  for (uint32_t i = 0; i < a->input_count; i++) {
    const Tensor *x = &a->inputs[i].tensor, *y = &b->inputs[i].tensor;
    if (x->datatype != y->datatype || x->rank != y->rank || strcmp(x->name, y->name)) return false;
    if (memcmp(x->dims + 1, y->dims + 1, (x->rank - 1) * sizeof *x->dims)) return false;
  }
  for (uint32_t i = 0; i < a->output_count; i++) {
    if (strcmp(a->outputs[i], b->outputs[i])) return false;
  }
  return true;
}

/* Gives each request its leader; returns how many groups there are. */
static uint32_t choose_leaders(Incoming *all, uint32_t count, uint64_t joins) {
  uint32_t groups = 0;
  for (uint32_t i = 0; i < count; i++) {
    Incoming *in = &all[i];
    in->leader = i;
    in->joinable = in->joinable && !in->error;
    for (uint32_t k = 0; in->joinable && k < i; k++) {
      Incoming *other = &all[k];
      if (!other->count || !other->joinable || other->total > joins || in->rows > joins - other->total) continue;
      if (!agree(other, in)) continue;
      in->leader = k;
      break;
    }
    groups += in->leader == i;
    all[in->leader].count++;
    all[in->leader].total += in->rows;
  }
  return groups;
}

static void copy_data(const Input *input, char *to) {
  if (input->tensor.data) {
    memcpy(to, input->tensor.data, input->tensor.bytes);
    return;
  }
  for (uint32_t i = 0; i < input->pieces; i++) {
    const char *piece;
    uint64_t bytes;
    if (input_piece(input->handle, i, &piece, &bytes)) return; /* read_data has seen it: can't happen */
    memcpy(to, piece, bytes);
    to += bytes;
  }
}

static uint64_t aligned(uint64_t bytes) { return (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT; }

/* Input i of all requests behind each other. One request in one piece needs no copy; but an HTTP body that was sent in
 * chunks comes as hundreds of pieces of 4 KiB. */
static bool gather_data(Group *group, const Incoming *all, const uint32_t *members) {
  uint64_t needed = 0;
  for (uint32_t i = 0; i < group->input_count; i++) {
    Tensor *tensor = &group->inputs[i];
    tensor->data = group->count == 1 ? all[members[0]].inputs[i].tensor.data : NULL;
    if (!tensor->data) needed += aligned(tensor->bytes);
  }
  if (needed && !group_memory(group, needed)) return false;
  char *to = group->memory;
  for (uint32_t i = 0; i < group->input_count; i++) {
    Tensor *tensor = &group->inputs[i];
    if (tensor->data) continue;
    tensor->data = tensor->bytes ? to : "";
    if (!tensor->bytes) continue; /* and there may be no memory */
    char *at = to;
    for (uint32_t k = 0; k < group->count; k++) {
      const Input *input = &all[members[k]].inputs[i];
      copy_data(input, at);
      at += input->tensor.bytes;
    }
    to += aligned(tensor->bytes);
  }
  return true;
}

/* NULL: out of memory */
static Group *make_group(Instance *instance, const Incoming *all, const uint32_t *members, uint32_t count) {
  const Incoming *first = &all[members[0]];
  bool readable = !first->error; /* otherwise it is alone, and its inputs and outputs are not known */
  Group *group = group_new(
      instance, count, readable ? first->input_count : 0, readable ? first->output_count : 0, first->dims);
  if (!group) return NULL;
  for (uint32_t k = 0; k < count; k++) {
    const Incoming *in = &all[members[k]];
    group->items[k] = (Item){.request = in->request, .error = in->error, .rows = in->rows};
    group->rows += in->rows;
    group->traced = group->traced || in->traced;
  }
  int64_t *dims = group->dims;
  for (uint32_t i = 0; i < group->input_count; i++) {
    Tensor *tensor = &group->inputs[i];
    *tensor = first->inputs[i].tensor;
    if (tensor->rank) memcpy(dims, tensor->dims, tensor->rank * sizeof *dims); /* Triton's may be NULL for a scalar */
    if (count > 1) dims[0] = (int64_t)group->rows;
    tensor->dims = dims;
    dims += tensor->rank;
    for (uint32_t k = 1; k < count; k++) tensor->bytes += all[members[k]].inputs[i].tensor.bytes;
  }
  if (group->output_count) memcpy(group->outputs, first->outputs, group->output_count * sizeof *group->outputs);
  if (gather_data(group, all, members)) return group;
  group_discard(group);
  return NULL;
}

static TritonResult make_groups(Instance *instance, Incoming *all, uint32_t count, Groups *groups) {
  groups->count = 0;
  uint32_t expected = choose_leaders(all, count, instance->joins);
  uint32_t *members = malloc(count * sizeof *members);
  groups->groups = malloc(expected * sizeof *groups->groups);
  bool complete = members && groups->groups;
  for (uint32_t i = 0; complete && i < count; i++) {
    uint32_t found = 0;
    for (uint32_t k = i; found < all[i].count; k++) {
      if (all[k].leader == i) members[found++] = k;
    }
    if (!found) continue;
    Group *group = make_group(instance, all, members, found);
    if ((complete = group != NULL)) groups->groups[groups->count++] = group;
  }
  free(members);
  if (complete) return NULL;
  for (uint32_t i = 0; i < groups->count; i++) group_discard(groups->groups[i]);
  free(groups->groups);
  return TRITONSERVER_ErrorNew(ERROR_UNAVAILABLE, "out of memory");
}

TritonResult requests_group(Instance *instance, TRITONBACKEND_Request **requests, uint32_t count, Groups *groups) {
  Incoming *all = calloc(count, sizeof *all);
  Input *parts = NULL;
  if (!all) return TRITONSERVER_ErrorNew(ERROR_UNAVAILABLE, "out of memory");
  TritonResult failure = read_all(instance, requests, count, all, &parts);
  if (!failure) failure = make_groups(instance, all, count, groups);
  for (uint32_t i = 0; failure && i < count; i++) {
    if (all[i].error) TRITONSERVER_ErrorDelete(all[i].error);
  }
  free(parts);
  free(all);
  return failure;
}
