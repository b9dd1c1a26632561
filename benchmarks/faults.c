/* Faults for benchmarks/faults.py, preloaded into a training: reads and writes that fail, and a clock that is wrong.

   FAULT_OP read or write; FAULT_PATH a part of the file's path; FAULT_ERRNO; FAULT_AFTER how many matching calls pass
   first; FAULT_COUNT how many then fail (0: all). FAULT_CLOCK seconds added to the time of day. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

static int seen;

static int fails(int fd, const char *operation) {
  const char *op = getenv("FAULT_OP"), *part = getenv("FAULT_PATH");
  if (!op || !part || strcmp(op, operation)) return 0;
  char link[64], path[4096];
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  ssize_t length = readlink(link, path, sizeof path - 1);
  if (length < 0) return 0;
  path[length] = 0;
  if (!strstr(path, part)) return 0;
  int after = atoi(getenv("FAULT_AFTER")), count = atoi(getenv("FAULT_COUNT"));
  int number = __atomic_fetch_add(&seen, 1, __ATOMIC_SEQ_CST);
  if (number < after || (count && number >= after + count)) return 0;
  errno = atoi(getenv("FAULT_ERRNO"));
  return 1;
}

#define REAL(name, type) ((type)dlsym(RTLD_NEXT, name))
#define FAULTY(name, operation, parameters, arguments)                        \
  ssize_t name parameters {                                                   \
    if (fails(fd, operation)) return -1;                                      \
    return REAL(#name, ssize_t(*) parameters) arguments;                      \
  }
FAULTY(read, "read", (int fd, void *b, size_t n), (fd, b, n))
FAULTY(pread, "read", (int fd, void *b, size_t n, off_t o), (fd, b, n, o))
FAULTY(pread64, "read", (int fd, void *b, size_t n, off64_t o), (fd, b, n, o))
FAULTY(readv, "read", (int fd, const struct iovec *v, int n), (fd, v, n))
FAULTY(write, "write", (int fd, const void *b, size_t n), (fd, b, n))
FAULTY(pwrite, "write", (int fd, const void *b, size_t n, off_t o), (fd, b, n, o))
FAULTY(pwrite64, "write", (int fd, const void *b, size_t n, off64_t o), (fd, b, n, o))
FAULTY(writev, "write", (int fd, const struct iovec *v, int n), (fd, v, n))

static long shift(void) {
  const char *seconds = getenv("FAULT_CLOCK");
  return seconds ? atol(seconds) : 0;
}

int clock_gettime(clockid_t clock, struct timespec *now) {
  int status = REAL("clock_gettime", int (*)(clockid_t, struct timespec *))(clock, now);
  if (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE) now->tv_sec += shift();
  return status;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
  int status = REAL("gettimeofday", int (*)(struct timeval *, void *))(now, zone);
  now->tv_sec += shift();
  return status;
}

time_t time(time_t *where) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  if (where) *where = now.tv_sec;
  return now.tv_sec;
}
