/* Loaded into the daemon with LD_PRELOAD: files below FAULTY_DIRECTORY behave as the file FAULTY_CONTROL says. While it
 * contains "stall", writing and syncing wait; while it contains "read-only", they fail as on a file system that the
 * kernel has made read-only. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int control(char first)
{
    const char *path = getenv("FAULTY_CONTROL");
    int fd = path ? openat(AT_FDCWD, path, O_RDONLY | O_CLOEXEC) : -1;
    char found = 0;
    if (fd < 0)
        return 0;
    if (read(fd, &found, 1) != 1)
        found = 0;
    close(fd);
    return found == first;
}

static int is_below(const char *path)
{
    const char *directory = getenv("FAULTY_DIRECTORY");
    return directory && strncmp(path, directory, strlen(directory)) == 0;
}

static int is_faulty(int fd)
{
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0)
        return 0;
    path[length] = 0;
    return is_below(path);
}

/* Returns whether the call fails. */
static int pass(int fd)
{
    int before = errno;
    if (is_faulty(fd)) {
        while (control('s'))
            usleep(10000);
        if (control('r')) {
            errno = EROFS;
            return 1;
        }
    }
    errno = before;
    return 0;
}

ssize_t write(int fd, const void *bytes, size_t length)
{
    static ssize_t (*next)(int, const void *, size_t);
    if (!next)
        next = dlsym(RTLD_NEXT, "write");
    return fd > 2 && pass(fd) ? -1 : next(fd, bytes, length);
}

int fsync(int fd)
{
    static int (*next)(int);
    if (!next)
        next = dlsym(RTLD_NEXT, "fsync");
    return pass(fd) ? -1 : next(fd);
}

int fdatasync(int fd)
{
    static int (*next)(int);
    if (!next)
        next = dlsym(RTLD_NEXT, "fdatasync");
    return pass(fd) ? -1 : next(fd);
}

int ftruncate64(int fd, off64_t length)
{
    static int (*next)(int, off64_t);
    if (!next)
        next = dlsym(RTLD_NEXT, "ftruncate64");
    return pass(fd) ? -1 : next(fd, length);
}

int open64(const char *path, int flags, ...)
{
    static int (*next)(const char *, int, ...);
    va_list rest;
    va_start(rest, flags);
    mode_t mode = flags & O_CREAT ? va_arg(rest, mode_t) : 0;
    va_end(rest);
    if (!next)
        next = dlsym(RTLD_NEXT, "open64");
    if (flags & (O_WRONLY | O_RDWR) && is_below(path) && control('r')) {
        errno = EROFS;
        return -1;
    }
    return next(path, flags, mode);
}
