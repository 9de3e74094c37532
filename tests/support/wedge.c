/* Loaded into the real binary by LD_PRELOAD. While the file $WEDGE_FILE exists, each of these calls blocks in the
   thread named $WEDGE_THREAD. */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <unistd.h>

static void wedge(void) {
  char name[16] = "";
  const char *thread = getenv("WEDGE_THREAD"), *file = getenv("WEDGE_FILE");
  if (!thread || !file) return;
  prctl(PR_GET_NAME, name);
  if (strcmp(name, thread)) return;
  while (access(file, F_OK) == 0) usleep(1000);
}

#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

int epoll_wait(int epoll, struct epoll_event *events, int most, int timeout) {
  wedge();
  return NEXT(epoll_wait)(epoll, events, most, timeout);
}

ssize_t write(int file, const void *bytes, size_t count) {
  /* Writes of up to 8 bytes are wake-ups between threads or from a signal handler: they never block. */
  if (count > 8) wedge();
  return NEXT(write)(file, bytes, count);
}

int fsync(int file) {
  wedge();
  return NEXT(fsync)(file);
}

int fdatasync(int file) {
  wedge();
  return NEXT(fdatasync)(file);
}

DIR *opendir(const char *path) {
  wedge();
  return NEXT(opendir)(path);
}
