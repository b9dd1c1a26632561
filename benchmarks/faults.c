/* Faults for benchmarks/faults.py, preloaded into a training: opens, reads and writes that fail, and a wrong clock.

   FAULT_OP open, read or write (write: also forcing to disk); FAULT_PATH a part of the file's path; FAULT_ERRNO (0: the
   call is only noted, -9: the process is killed when half is written); FAULT_AFTER how many matching calls pass first;
   FAULT_COUNT how many then fail (0: all); FAULT_HITS a file that gets a line for each of them. FAULT_CLOCK seconds
   added to the time of day. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum { NOTED = 0, KILLED = -9 };
static int seen;

static void record(const char *call, const char *path) {
  const char *hits = getenv("FAULT_HITS");
  if (!hits) return;
  char line[4200];
  int length = snprintf(line, sizeof line, "%s\t%s\n", call, path);
  long fd = syscall(SYS_openat, AT_FDCWD, hits, O_WRONLY | O_CREAT | O_APPEND, 0600);
  syscall(SYS_write, fd, line, length);
  syscall(SYS_close, fd);
}

static int fails_at(const char *path, const char *operation, const char *call) {
  const char *op = getenv("FAULT_OP"), *part = getenv("FAULT_PATH");
  if (!op || !part || strcmp(op, operation) || !strstr(path, part)) return 0;
  int after = atoi(getenv("FAULT_AFTER")), count = atoi(getenv("FAULT_COUNT"));
  int number = __atomic_fetch_add(&seen, 1, __ATOMIC_SEQ_CST);
  if (number < after || (count && number >= after + count)) return 0;
  record(call, path);
  int error = atoi(getenv("FAULT_ERRNO"));
  if (error != NOTED) errno = error;
  return error != NOTED;
}

static int fails(int fd, const char *operation, const char *call) {
  if (!getenv("FAULT_OP")) return 0;
  char link[64], path[4096];
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  ssize_t length = readlink(link, path, sizeof path - 1);
  if (length < 0) return 0;
  path[length] = 0;
  return fails_at(path, operation, call);
}

#define REAL(name, type) ((type)dlsym(RTLD_NEXT, name))
#define FAULTY(type, name, operation, parameters, arguments, half)            \
  type name parameters {                                                      \
    if (fails(fd, operation, #name)) {                                        \
      if (errno != KILLED) return -1;                                         \
      REAL(#name, type(*) parameters) half;                                   \
      kill(getpid(), SIGKILL);                                                \
    }                                                                         \
    return REAL(#name, type(*) parameters) arguments;                         \
  }
#define V const struct iovec *v
FAULTY(ssize_t, read, "read", (int fd, void *b, size_t n), (fd, b, n), (fd, b, n / 2))
FAULTY(ssize_t, pread, "read", (int fd, void *b, size_t n, off_t o), (fd, b, n, o), (fd, b, n / 2, o))
FAULTY(ssize_t, pread64, "read", (int fd, void *b, size_t n, off64_t o), (fd, b, n, o), (fd, b, n / 2, o))
FAULTY(ssize_t, readv, "read", (int fd, V, int n), (fd, v, n), (fd, v, n / 2))
FAULTY(ssize_t, write, "write", (int fd, const void *b, size_t n), (fd, b, n), (fd, b, n / 2))
FAULTY(ssize_t, pwrite, "write", (int fd, const void *b, size_t n, off_t o), (fd, b, n, o), (fd, b, n / 2, o))
FAULTY(ssize_t, pwrite64, "write", (int fd, const void *b, size_t n, off64_t o), (fd, b, n, o), (fd, b, n / 2, o))
FAULTY(ssize_t, writev, "write", (int fd, V, int n), (fd, v, n), (fd, v, n / 2))
FAULTY(int, fsync, "write", (int fd), (fd), (fd))
FAULTY(int, fdatasync, "write", (int fd), (fd), (fd))

static mode_t mode_of(int flags, va_list rest) {
  int creates = (flags & O_CREAT) || (flags & O_TMPFILE) == O_TMPFILE;
  return creates ? va_arg(rest, mode_t) : 0;
}

#define OPENS(name)                                                           \
  int name(const char *path, int flags, ...) {                                \
    va_list rest;                                                             \
    va_start(rest, flags);                                                    \
    mode_t mode = mode_of(flags, rest);                                       \
    va_end(rest);                                                             \
    if (fails_at(path, "open", #name)) return -1;                             \
    return REAL(#name, int (*)(const char *, int, ...))(path, flags, mode);   \
  }
#define OPENS_AT(name)                                                        \
  int name(int folder, const char *path, int flags, ...) {                    \
    va_list rest;                                                             \
    va_start(rest, flags);                                                    \
    mode_t mode = mode_of(flags, rest);                                       \
    va_end(rest);                                                             \
    if (fails_at(path, "open", #name)) return -1;                             \
    return REAL(#name, int (*)(int, const char *, int, ...))(folder, path, flags, mode); \
  }
OPENS(open)
OPENS(open64)
OPENS_AT(openat)
OPENS_AT(openat64)

static long shift(void) {
  const char *seconds = getenv("FAULT_CLOCK");
  static int told;
  if (seconds && !__atomic_exchange_n(&told, 1, __ATOMIC_SEQ_CST)) record("time of day", "wrong");
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
