/* Durations: on the monotonic clock, since the wall clock may jump. */
#define _GNU_SOURCE
#include <time.h>

#include "shim.h"

enum { NS_PER_S = 1000000000, NS_PER_MS = 1000000 };

uint64_t now_ns(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (uint64_t)now.tv_sec * NS_PER_S + (uint64_t)now.tv_nsec;
}

void condition_init(pthread_cond_t *condition) {
  pthread_condattr_t attributes;
  pthread_condattr_init(&attributes);
  pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
  pthread_cond_init(condition, &attributes);
  pthread_condattr_destroy(&attributes);
}

void wait_a_period(pthread_cond_t *condition, pthread_mutex_t *mutex) {
  uint64_t end = now_ns() + (uint64_t)PERIOD_MS * NS_PER_MS;
  const struct timespec until = {(time_t)(end / NS_PER_S), (long)(end % NS_PER_S)};
  pthread_cond_timedwait(condition, mutex, &until);
}
