/*
 * Makes calls that change the files of one directory fail.
 *
 *   LD_PRELOAD=faults.so FAULTS_DIRECTORY=/abs/dir FAULTS_FIRST=n FAULTS_LAST=m FAULTS_ERRNO=5
 *
 * Calls are counted from 1, whichever thread makes them; those from n to m fail, and do
 * nothing. A program that asks faults_seen() is told how many there were.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define FILES 4096

static char inside[FILES];
static const char *directory;
static size_t length;
static long first, last, seen;
static int fault;

#define REAL(type, name, ...) \
    static type (*real)(__VA_ARGS__); \
    if (!real) real = (type (*)(__VA_ARGS__))dlsym(RTLD_NEXT, name)

static long number(const char *name)
{
    const char *value = getenv(name);
    return value ? atol(value) : 0;
}

__attribute__((constructor)) static void begin(void)
{
    directory = getenv("FAULTS_DIRECTORY");
    length = directory ? strlen(directory) : 0;
    first = number("FAULTS_FIRST");
    last = number("FAULTS_LAST");
    fault = number("FAULTS_ERRNO");
}

long faults_seen(void)
{
    return __atomic_load_n(&seen, __ATOMIC_SEQ_CST);
}

/* Whether this call is one that fails. */
static int fails(void)
{
    long now = __atomic_add_fetch(&seen, 1, __ATOMIC_SEQ_CST);
    if (now < first || now > last) return 0;
    errno = fault;
    return 1;
}

static int is_inside(const char *path)
{
    return directory && path && !strncmp(path, directory, length)
        && (path[length] == '/' || !path[length]);
}

static int known(int fd)
{
    return fd >= 0 && fd < FILES && inside[fd];
}

static int opened(int at, const char *path, int flags, int mode)
{
    int ours = is_inside(path);
    if (ours && fails()) return -1;
    int fd = syscall(SYS_openat, at, path, flags, mode);
    if (fd >= 0 && fd < FILES) inside[fd] = ours;
    return fd;
}

#define OPEN(name, parameters, at) \
    int name parameters \
    { \
        int mode = 0; \
        if (flags & (O_CREAT | O_TMPFILE)) { \
            va_list rest; va_start(rest, flags); mode = va_arg(rest, int); va_end(rest); \
        } \
        return opened(at, path, flags, mode); \
    }

OPEN(open, (const char *path, int flags, ...), AT_FDCWD)
OPEN(open64, (const char *path, int flags, ...), AT_FDCWD)
OPEN(openat, (int at, const char *path, int flags, ...), at)
OPEN(openat64, (int at, const char *path, int flags, ...), at)

int close(int fd)
{
    if (fd >= 0 && fd < FILES) inside[fd] = 0;
    return syscall(SYS_close, fd);
}

#define BY_FILE(type, name, parameters, call) \
    type name parameters { return known(fd) && fails() ? -1 : call; }

BY_FILE(ssize_t, write, (int fd, const void *data, size_t size), syscall(SYS_write, fd, data, size))
BY_FILE(ssize_t, pwrite, (int fd, const void *data, size_t size, off_t at),
        syscall(SYS_pwrite64, fd, data, size, at))
BY_FILE(ssize_t, pwrite64, (int fd, const void *data, size_t size, off64_t at),
        syscall(SYS_pwrite64, fd, data, size, at))
BY_FILE(int, ftruncate, (int fd, off_t size), syscall(SYS_ftruncate, fd, size))
BY_FILE(int, ftruncate64, (int fd, off64_t size), syscall(SYS_ftruncate, fd, size))
BY_FILE(int, fsync, (int fd), syscall(SYS_fsync, fd))
BY_FILE(int, fdatasync, (int fd), syscall(SYS_fdatasync, fd))

#define BY_NAME(name, parameters, types, path, ...) \
    int name parameters \
    { \
        REAL(int, #name, types); \
        return is_inside(path) && fails() ? -1 : real(__VA_ARGS__); \
    }
#define TYPES(...) __VA_ARGS__

BY_NAME(unlink, (const char *path), TYPES(const char *), path, path)
BY_NAME(unlinkat, (int at, const char *path, int flags), TYPES(int, const char *, int),
        path, at, path, flags)
BY_NAME(rename, (const char *from, const char *to), TYPES(const char *, const char *),
        from, from, to)
BY_NAME(link, (const char *from, const char *to), TYPES(const char *, const char *),
        from, from, to)
BY_NAME(linkat, (int one, const char *from, int two, const char *to, int flags),
        TYPES(int, const char *, int, const char *, int), from, one, from, two, to, flags)
BY_NAME(mkdir, (const char *path, mode_t mode), TYPES(const char *, mode_t), path, path, mode)
BY_NAME(chmod, (const char *path, mode_t mode), TYPES(const char *, mode_t), path, path, mode)
