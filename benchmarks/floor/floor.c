/* The floor: a Triton backend that does nothing but copy its input `x` into its output `y`. What a request to it costs is
 * what tritonserver itself costs. Compiled by benchmarks/floor.py. */
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "triton_api.h"

#define EXPORT __attribute__((visibility("default")))
#define TRY(call) \
  do { \
    TritonResult try_error = (call); \
    if (try_error) return try_error; \
  } while (0)

static uint64_t now_ns(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static void check(TritonResult error) {
  if (!error) return;
  fprintf(stderr, "floor: %s\n", TRITONSERVER_ErrorMessage(error));
  TRITONSERVER_ErrorDelete(error);
}

static TritonResult copy(TRITONBACKEND_Request *request, TRITONBACKEND_Response *response, uint64_t *rows) {
  TRITONBACKEND_Input *input;
  TRITONBACKEND_Output *output;
  const char *name;
  int datatype, memory_type = MEMORY_CPU;
  const int64_t *dims;
  uint32_t rank, pieces;
  uint64_t bytes;
  int64_t memory_id = 0;
  void *to;
  TRY(TRITONBACKEND_RequestInputByIndex(request, 0, &input));
  TRY(TRITONBACKEND_InputProperties(input, &name, &datatype, &dims, &rank, &bytes, &pieces));
  TRY(TRITONBACKEND_ResponseOutput(response, &output, "y", datatype, dims, rank));
  TRY(TRITONBACKEND_OutputBuffer(output, &to, bytes, &memory_type, &memory_id));
  for (uint32_t i = 0; i < pieces; i++) {
    const void *piece;
    uint64_t piece_bytes;
    TRY(TRITONBACKEND_InputBuffer(input, i, &piece, &piece_bytes, &memory_type, &memory_id));
    memcpy(to, piece, piece_bytes);
    to = (char *)to + piece_bytes;
  }
  *rows += (uint64_t)dims[0];
  return NULL;
}

EXPORT TritonResult TRITONBACKEND_ModelInstanceExecute(
    TRITONBACKEND_ModelInstance *instance, TRITONBACKEND_Request **requests, uint32_t count) {
  uint64_t start = now_ns(), rows = 0;
  TRITONBACKEND_Response *responses[count];
  TritonResult errors[count];
  for (uint32_t i = 0; i < count; i++) {
    check(TRITONBACKEND_ResponseNew(&responses[i], requests[i]));
    errors[i] = copy(requests[i], responses[i], &rows);
  }
  uint64_t computed = now_ns();
  for (uint32_t i = 0; i < count; i++) check(TRITONBACKEND_ResponseSend(responses[i], RESPONSE_FINAL, errors[i]));
  uint64_t end = now_ns();
  for (uint32_t i = 0; i < count; i++) {
    check(TRITONBACKEND_ModelInstanceReportStatistics(
        instance, requests[i], !errors[i], start, start, computed, end));
    if (errors[i]) TRITONSERVER_ErrorDelete(errors[i]);
  }
  check(TRITONBACKEND_ModelInstanceReportBatchStatistics(instance, rows, start, start, computed, end));
  for (uint32_t i = 0; i < count; i++) check(TRITONBACKEND_RequestRelease(requests[i], RELEASE_ALL));
  return NULL;
}
