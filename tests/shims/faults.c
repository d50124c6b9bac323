/*
 * Makes calls on the files of one directory fail, or take long.
 *
 *   LD_PRELOAD=faults.so FAULTS_DIRECTORY=/abs/dir FAULTS_FIRST=n FAULTS_LAST=m FAULTS_ERRNO=5
 *
 * Calls are counted from 1, whichever thread makes them; those from n to m fail, and do
 * nothing. With FAULTS_MILLISECONDS=t they take so long instead, and succeed; with
 * FAULTS_SYNCS=1 the others are left as they are. A read fails with EIO or not at all.
 *
 * A program may ask, or tell: faults_seen() is how many calls there were, faults_taken() how
 * many of them have written something since one failed, faults_held() how many take long at
 * this moment; faults_end(n) lets the next n calls be the last that fail, faults_hold(1) lets
 * all that follow hang until faults_hold(0).
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define FILES 4096

static char inside[FILES];
static const char *directory;
static size_t length;
static long first, last, seen, taken, held, delay;
static int fault, syncs, holding;

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
    delay = number("FAULTS_MILLISECONDS");
    syncs = number("FAULTS_SYNCS");
}

long faults_seen(void)
{
    return __atomic_load_n(&seen, __ATOMIC_SEQ_CST);
}

long faults_taken(void)
{
    return __atomic_load_n(&taken, __ATOMIC_SEQ_CST);
}

void faults_end(long more)
{
    last = faults_seen() + more;
}

long faults_held(void)
{
    return __atomic_load_n(&held, __ATOMIC_SEQ_CST);
}

void faults_hold(int on)
{
    __atomic_store_n(&holding, on, __ATOMIC_SEQ_CST);
    first = on ? 1 : LONG_MAX;
    last = LONG_MAX;
}

static void wait_for(long milliseconds)
{
    struct timespec time = {milliseconds / 1000, milliseconds % 1000 * 1000000};
    nanosleep(&time, NULL);
}

/* A call that takes long. */
static void drag(void)
{
    __atomic_add_fetch(&held, 1, __ATOMIC_SEQ_CST);
    wait_for(delay);
    while (__atomic_load_n(&holding, __ATOMIC_SEQ_CST)) wait_for(1);
    __atomic_sub_fetch(&held, 1, __ATOMIC_SEQ_CST);
}

enum what { READS, CHANGES, WRITES, SYNCS };

/* Whether this call is one that fails. */
static int fails(enum what what)
{
    long now = __atomic_add_fetch(&seen, 1, __ATOMIC_SEQ_CST);
    int hit = now >= first && now <= last && (!syncs || what == SYNCS);
    if (hit && !fault) drag();
    if (hit && fault && (what != READS || fault == EIO)) {
        __atomic_store_n(&taken, 0, __ATOMIC_SEQ_CST);
        errno = fault;
        return 1;
    }
    if (what == WRITES) __atomic_add_fetch(&taken, 1, __ATOMIC_SEQ_CST);
    return 0;
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
    if (ours && fails(flags & O_CREAT ? WRITES : CHANGES)) return -1;
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

#define BY_FILE(what, type, name, parameters, call) \
    type name parameters { return known(fd) && fails(what) ? -1 : call; }

BY_FILE(READS, ssize_t, read, (int fd, void *data, size_t size), syscall(SYS_read, fd, data, size))
BY_FILE(READS, ssize_t, pread, (int fd, void *data, size_t size, off_t at),
        syscall(SYS_pread64, fd, data, size, at))
BY_FILE(READS, ssize_t, pread64, (int fd, void *data, size_t size, off64_t at),
        syscall(SYS_pread64, fd, data, size, at))
BY_FILE(WRITES, ssize_t, write, (int fd, const void *data, size_t size),
        syscall(SYS_write, fd, data, size))
BY_FILE(WRITES, ssize_t, pwrite, (int fd, const void *data, size_t size, off_t at),
        syscall(SYS_pwrite64, fd, data, size, at))
BY_FILE(WRITES, ssize_t, pwrite64, (int fd, const void *data, size_t size, off64_t at),
        syscall(SYS_pwrite64, fd, data, size, at))
BY_FILE(CHANGES, int, ftruncate, (int fd, off_t size), syscall(SYS_ftruncate, fd, size))
BY_FILE(CHANGES, int, ftruncate64, (int fd, off64_t size), syscall(SYS_ftruncate, fd, size))
BY_FILE(SYNCS, int, fsync, (int fd), syscall(SYS_fsync, fd))
BY_FILE(SYNCS, int, fdatasync, (int fd), syscall(SYS_fdatasync, fd))

/* These give the error back, and do not leave it in errno. */
int posix_fallocate(int fd, off_t at, off_t size)
{
    REAL(int, "posix_fallocate", int, off_t, off_t);
    return known(fd) && fails(WRITES) ? errno : real(fd, at, size);
}

int posix_fallocate64(int fd, off64_t at, off64_t size)
{
    return posix_fallocate(fd, at, size);
}

#define BY_NAME(name, parameters, types, path, ...) \
    int name parameters \
    { \
        REAL(int, #name, types); \
        return is_inside(path) && fails(CHANGES) ? -1 : real(__VA_ARGS__); \
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
