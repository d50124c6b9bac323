/*
 * Records what a program does to the files of one directory, in order, with the bytes.
 *
 *   LD_PRELOAD=recorder.so RECORD_DIRECTORY=/abs/dir RECORD_LOG=/abs/log RECORD_MARKS=/abs/marks
 *
 * Each record of the log is
 *
 *   op:u8 inode:u64 offset:u64 path:u32 other:u32 data:u32, then path, other path, data
 *
 * in the machine's own order, written when the call has succeeded. What is written to
 * RECORD_MARKS is recorded as a mark: the program's own words between its calls.
 *
 * A program that calls die_after(n) is killed when n more calls have succeeded.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define FILES 4096

enum { NOTHING, FILE_, DIRECTORY, MARKS };

static char kind[FILES];
static uint64_t inode_of[FILES];
static char appends[FILES];
static const char *directory, *marks;
static size_t length;
static int log_fd = -1;
static long left = -1;
static pthread_mutex_t lock = PTHREAD_RECURSIVE_MUTEX_INITIALIZER_NP;

#define REAL(type, name, ...) \
    static type (*real)(__VA_ARGS__); \
    if (!real) real = (type (*)(__VA_ARGS__))dlsym(RTLD_NEXT, name)

/* A fork must not copy the lock while another thread holds it. */
static void before_fork(void) { pthread_mutex_lock(&lock); }
static void after_fork(void) { pthread_mutex_unlock(&lock); }
static void in_child(void)
{
    lock = (pthread_mutex_t)PTHREAD_RECURSIVE_MUTEX_INITIALIZER_NP;
}

__attribute__((constructor)) static void begin(void)
{
    pthread_atfork(before_fork, after_fork, in_child);
    directory = getenv("RECORD_DIRECTORY");
    marks = getenv("RECORD_MARKS");
    const char *path = getenv("RECORD_LOG");
    if (!directory || !marks || !path) { directory = NULL; return; }
    length = strlen(directory);
    int fd = syscall(SYS_openat, AT_FDCWD, path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    log_fd = fcntl(fd, F_DUPFD_CLOEXEC, FILES);
    if (log_fd < 0) log_fd = fd; else syscall(SYS_close, fd);
}

static int is_inside(const char *path)
{
    return directory && path && !strncmp(path, directory, length) && path[length] == '/';
}

void die_after(long calls)
{
    left = calls;
}

static void put(char op, uint64_t inode, uint64_t offset, const char *path, const char *other,
                const void *data, uint32_t size)
{
    char head[29];
    uint32_t one = path ? strlen(path) : 0, two = other ? strlen(other) : 0;
    head[0] = op;
    memcpy(head + 1, &inode, 8);
    memcpy(head + 9, &offset, 8);
    memcpy(head + 17, &one, 4);
    memcpy(head + 21, &two, 4);
    memcpy(head + 25, &size, 4);
    syscall(SYS_write, log_fd, head, sizeof head);
    if (one) syscall(SYS_write, log_fd, path, one);
    if (two) syscall(SYS_write, log_fd, other, two);
    if (size) syscall(SYS_write, log_fd, data, size);
    if (op != 'M' && left > 0 && !--left) kill(getpid(), SIGKILL);
}

static int known(int fd, int what)
{
    return fd >= 0 && fd < FILES && kind[fd] == what;
}

static int opened(int fd, const char *path, int flags, int existed)
{
    struct stat found;
    if (fd < 0 || fd >= FILES || !directory || !path) return fd;
    kind[fd] = NOTHING;
    if (!strcmp(path, marks)) kind[fd] = MARKS;
    else if (!strcmp(path, directory)) kind[fd] = DIRECTORY;
    else if (is_inside(path)) {
        kind[fd] = FILE_;
        fstat(fd, &found);
        inode_of[fd] = found.st_ino;
        appends[fd] = (flags & O_APPEND) != 0;
        if (!existed) put('C', found.st_ino, 0, path, NULL, NULL, 0);
        else if (flags & O_TRUNC) put('T', found.st_ino, 0, NULL, NULL, NULL, 0);
    }
    return fd;
}

static int is_there(const char *path)
{
    struct stat found;
    return !lstat(path, &found);
}

#define OPEN(name, parameters, call) \
    int name parameters \
    { \
        int mode = 0, saved; \
        if (flags & (O_CREAT | O_TMPFILE)) { \
            va_list rest; va_start(rest, flags); mode = va_arg(rest, int); va_end(rest); \
        } \
        pthread_mutex_lock(&lock); \
        int existed = is_inside(path) ? is_there(path) : 1; \
        int fd = opened(call, path, flags, existed); \
        saved = errno; pthread_mutex_unlock(&lock); errno = saved; \
        return fd; \
    }

OPEN(open, (const char *path, int flags, ...), syscall(SYS_openat, AT_FDCWD, path, flags, mode))
OPEN(open64, (const char *path, int flags, ...), syscall(SYS_openat, AT_FDCWD, path, flags, mode))
OPEN(openat, (int at, const char *path, int flags, ...), syscall(SYS_openat, at, path, flags, mode))
OPEN(openat64, (int at, const char *path, int flags, ...),
     syscall(SYS_openat, at, path, flags, mode))

int close(int fd)
{
    if (fd >= 0 && fd < FILES) kind[fd] = NOTHING;
    REAL(int, "close", int);
    return real(fd);
}

ssize_t write(int fd, const void *data, size_t size)
{
    REAL(ssize_t, "write", int, const void *, size_t);
    if (!known(fd, FILE_) && !known(fd, MARKS)) return real(fd, data, size);
    pthread_mutex_lock(&lock);
    struct stat found;
    fstat(fd, &found);
    off_t offset = appends[fd] ? found.st_size : lseek(fd, 0, SEEK_CUR);
    ssize_t done = real(fd, data, size);
    int saved = errno;
    if (done > 0) put(kind[fd] == MARKS ? 'M' : 'W', inode_of[fd], offset, NULL, NULL, data, done);
    pthread_mutex_unlock(&lock);
    errno = saved;
    return done;
}

static ssize_t pwrite_(int fd, const void *data, size_t size, off64_t offset)
{
    REAL(ssize_t, "pwrite64", int, const void *, size_t, off64_t);
    if (!known(fd, FILE_)) return real(fd, data, size, offset);
    pthread_mutex_lock(&lock);
    ssize_t done = real(fd, data, size, offset);
    int saved = errno;
    if (done > 0) put('W', inode_of[fd], offset, NULL, NULL, data, done);
    pthread_mutex_unlock(&lock);
    errno = saved;
    return done;
}

ssize_t pwrite(int fd, const void *data, size_t size, off_t offset) { return pwrite_(fd, data, size, offset); }
ssize_t pwrite64(int fd, const void *data, size_t size, off64_t offset) { return pwrite_(fd, data, size, offset); }

static int truncate_(int fd, off64_t size)
{
    REAL(int, "ftruncate64", int, off64_t);
    if (!known(fd, FILE_)) return real(fd, size);
    pthread_mutex_lock(&lock);
    int done = real(fd, size);
    int saved = errno;
    if (!done) put('T', inode_of[fd], size, NULL, NULL, NULL, 0);
    pthread_mutex_unlock(&lock);
    errno = saved;
    return done;
}

int ftruncate(int fd, off_t size) { return truncate_(fd, size); }
int ftruncate64(int fd, off64_t size) { return truncate_(fd, size); }

static int sync_(int fd, int call)
{
    if (!known(fd, FILE_) && !known(fd, DIRECTORY)) return syscall(call, fd);
    pthread_mutex_lock(&lock);
    int done = syscall(call, fd);
    int saved = errno;
    if (!done) put(kind[fd] == FILE_ ? 'S' : 'D', inode_of[fd], 0, NULL, NULL, NULL, 0);
    pthread_mutex_unlock(&lock);
    errno = saved;
    return done;
}

int fsync(int fd) { return sync_(fd, SYS_fsync); }
int fdatasync(int fd) { return sync_(fd, SYS_fdatasync); }

#define NAMES(op, first, second, result) \
    if (!is_inside(first)) return result; \
    pthread_mutex_lock(&lock); \
    int done = result; \
    int saved = errno; \
    if (!done) put(op, 0, 0, first, second, NULL, 0); \
    pthread_mutex_unlock(&lock); \
    errno = saved; \
    return done

int unlink(const char *path)
{
    REAL(int, "unlink", const char *);
    NAMES('U', path, NULL, real(path));
}

int unlinkat(int at, const char *path, int flags)
{
    REAL(int, "unlinkat", int, const char *, int);
    NAMES('U', path, NULL, real(at, path, flags));
}

int rename(const char *from, const char *to)
{
    REAL(int, "rename", const char *, const char *);
    NAMES('R', from, to, real(from, to));
}

int link(const char *from, const char *to)
{
    REAL(int, "link", const char *, const char *);
    NAMES('L', from, to, real(from, to));
}

int linkat(int one, const char *from, int two, const char *to, int flags)
{
    REAL(int, "linkat", int, const char *, int, const char *, int);
    NAMES('L', from, to, real(one, from, two, to, flags));
}
