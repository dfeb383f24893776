/* Goes wrong at a chosen call of the system, for a library that is preloaded: LD_PRELOAD=shim.so
 *
 *   FAULT=write:7:EIO        the 7th write of a process to a file whose path has FAULT_PATH in it fails so; all after it too
 *   FAULT=rename:2:KILL      at the 2nd rename the process is killed, before it
 *   FAULT_CLOCK=-86400       the clock of the day is so many seconds off; the monotonic one is not
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static atomic_int calls;

static int due(const char *call, const char *path) {
    const char *fault = getenv("FAULT"), *within = getenv("FAULT_PATH");
    size_t length = strlen(call);
    if (!fault || !path || strncmp(fault, call, length) || fault[length] != ':') return 0;
    if (within && !strstr(path, within)) return 0;
    char *rest;
    long wanted = strtol(fault + length + 1, &rest, 10);
    if (atomic_fetch_add(&calls, 1) + 1 < wanted) return 0;
    if (!strcmp(rest, ":KILL")) kill(getpid(), SIGKILL);
    errno = !strcmp(rest, ":ENOSPC") ? ENOSPC : !strcmp(rest, ":EROFS") ? EROFS : EIO;
    return 1;
}

static int due_at(const char *call, int descriptor) {
    char link[64], path[4096];
    if (!getenv("FAULT")) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    ssize_t size = readlink(link, path, sizeof path - 1);
    if (size < 0) return 0;
    path[size] = 0;
    return due(call, path);
}

#define NEXT(name) static __typeof__(name) *next; if (!next) next = (__typeof__(name) *)dlsym(RTLD_NEXT, #name)

ssize_t write(int fd, const void *data, size_t size) { NEXT(write); return due_at("write", fd) ? -1 : next(fd, data, size); }
ssize_t pwrite(int fd, const void *data, size_t size, off_t at) { NEXT(pwrite); return due_at("write", fd) ? -1 : next(fd, data, size, at); }
ssize_t pwrite64(int fd, const void *data, size_t size, off64_t at) { NEXT(pwrite64); return due_at("write", fd) ? -1 : next(fd, data, size, at); }
ssize_t read(int fd, void *data, size_t size) { NEXT(read); return due_at("read", fd) ? -1 : next(fd, data, size); }
int fsync(int fd) { NEXT(fsync); return due_at("fsync", fd) ? -1 : next(fd); }
int fdatasync(int fd) { NEXT(fdatasync); return due_at("fsync", fd) ? -1 : next(fd); }
int rename(const char *from, const char *to) { NEXT(rename); return due("rename", to) ? -1 : next(from, to); }
int renameat(int a, const char *from, int b, const char *to) { NEXT(renameat); return due("rename", to) ? -1 : next(a, from, b, to); }
int unlink(const char *path) { NEXT(unlink); return due("unlink", path) ? -1 : next(path); }
int unlinkat(int at, const char *path, int flags) { NEXT(unlinkat); return due_at("unlink", at) ? -1 : next(at, path, flags); }
int mkdir(const char *path, mode_t mode) { NEXT(mkdir); return due("mkdir", path) ? -1 : next(path, mode); }
int link(const char *from, const char *to) { NEXT(link); return due("link", to) ? -1 : next(from, to); }

#define OPEN(name) \
    int name(const char *path, int flags, ...) { \
        NEXT(name); va_list list; va_start(list, flags); mode_t mode = va_arg(list, mode_t); va_end(list); \
        return (flags & O_CREAT) && due("open", path) ? -1 : next(path, flags, mode); \
    }
OPEN(open)
OPEN(open64)

static time_t off(void) { const char *by = getenv("FAULT_CLOCK"); return by ? (time_t)atol(by) : 0; }
int clock_gettime(clockid_t which, struct timespec *now) {
    NEXT(clock_gettime);
    int code = next(which, now);
    if (!code && (which == CLOCK_REALTIME || which == CLOCK_REALTIME_COARSE)) now->tv_sec += off();
    return code;
}
time_t time(time_t *into) { NEXT(time); time_t now = next(0) + off(); if (into) *into = now; return now; }
int gettimeofday(struct timeval *now, void *zone) { NEXT(gettimeofday); int code = next(now, zone); if (!code && now) now->tv_sec += off(); return code; }
