/* The allocations of the backend library, whose calls its linker sends here (--wrap): they are counted, and can fail.
 *
 * Counting is relaxed: it must not order threads, or races between them would be hidden. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdarg.h>
#include <string.h>

#include "server.h"

void *__wrap_malloc(size_t bytes);
void *__wrap_calloc(size_t count, size_t bytes);
void __wrap_free(void *memory);
int __wrap_posix_memalign(void **memory, size_t alignment, size_t bytes);
char *__wrap_strdup(const char *text);
int __wrap_vasprintf(char **text, const char *format, va_list arguments);

static __thread long until_failure;
static __thread bool has_failed;

bool fail_allocation(long number) {
  bool failed = has_failed;
  until_failure = number;
  has_failed = false;
  return failed;
}

static bool may_allocate(void) {
  if (until_failure && !--until_failure) {
    has_failed = true;
    return false;
  }
  return true;
}

static void *counted(void *memory) {
  if (memory) existing(ALLOCATIONS, 1);
  return memory;
}

void *__wrap_malloc(size_t bytes) { return may_allocate() ? counted(malloc(bytes)) : NULL; }

void *__wrap_calloc(size_t count, size_t bytes) { return may_allocate() ? counted(calloc(count, bytes)) : NULL; }

char *__wrap_strdup(const char *text) { return may_allocate() ? counted(strdup(text)) : NULL; }

int __wrap_posix_memalign(void **memory, size_t alignment, size_t bytes) {
  if (!may_allocate()) return ENOMEM;
  int result = posix_memalign(memory, alignment, bytes);
  if (!result) existing(ALLOCATIONS, 1);
  return result;
}

int __wrap_vasprintf(char **text, const char *format, va_list arguments) {
  if (!may_allocate()) return -1;
  int length = vasprintf(text, format, arguments);
  if (length >= 0) existing(ALLOCATIONS, 1);
  return length;
}

void __wrap_free(void *memory) {
  if (memory) existing(ALLOCATIONS, -1);
  free(memory);
}
