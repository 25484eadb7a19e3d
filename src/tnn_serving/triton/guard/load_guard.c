/* Refuses load requests that bring a configuration or files of their own, and names that lead out of the repository.
 *
 * tritonserver writes what such a request brings into a folder and loads a shared library from it; it has no option
 * against that, nor against a name like `../other`. Both of its front ends call the functions below in libtritonserver.
 * This library is loaded before that one (LD_PRELOAD), so the calls come here first. */
#include <dlfcn.h>
#include <stddef.h>
#include <string.h>

#include "../backend/contract.h"

#define EXPORTED __attribute__((visibility("default")))

typedef void *(*Load)(void *server, const char *name);
typedef void *(*LoadWith)(void *server, const char *name, const void **parameters, size_t count);
typedef void *(*ErrorNew)(int code, const char *message);

void *TRITONSERVER_ServerLoadModel(void *server, const char *name);
void *TRITONSERVER_ServerLoadModelWithParameters(
    void *server, const char *name, const void **parameters, size_t count);

static void *refused(int code, const char *message) {
  ErrorNew error_new = (ErrorNew)dlsym(RTLD_DEFAULT, "TRITONSERVER_ErrorNew");
  return error_new(code, message);
}

static void *check_name(const char *name) {
  if (strchr(name, '/') != NULL || strcmp(name, ".") == 0 || strcmp(name, "..") == 0)
    return refused(ERROR_INVALID_ARG, "a model's name is the name of a folder in the repository, without a slash");
  return NULL;
}

EXPORTED void *TRITONSERVER_ServerLoadModel(void *server, const char *name) {
  void *error = check_name(name);
  return error != NULL ? error : ((Load)dlsym(RTLD_NEXT, "TRITONSERVER_ServerLoadModel"))(server, name);
}

EXPORTED void *TRITONSERVER_ServerLoadModelWithParameters(
    void *server, const char *name, const void **parameters, size_t count) {
  void *error = check_name(name);
  if (error != NULL) return error;
  if (count > 0)
    return refused(ERROR_UNSUPPORTED,
                   "a load request may not bring a configuration or files: put them into the repository, or start the "
                   "server with --allow-load-overrides");
  return ((LoadWith)dlsym(RTLD_NEXT, "TRITONSERVER_ServerLoadModelWithParameters"))(server, name, parameters, count);
}
