/*
 * Loaded into the daemon by faults.rs: makes system calls fail. While the file $FAULTS/<thread>.<call> exists, that
 * call fails in threads of that name, with the error number that the file contains. For setsockopt, <call> is the
 * level and the option, and <thread> is "any".
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/socket.h>

static int fails(const char *thread, const char *call) {
    char path[512], name[16] = "";
    const char *directory = getenv("FAULTS");
    int number = 0;
    if (!thread) {
        prctl(PR_GET_NAME, name);
        thread = name;
    }
    snprintf(path, sizeof path, "%s/%s.%s", directory ? directory : "/nonexistent", thread, call);
    FILE *file = fopen(path, "re");
    if (!file)
        return 0;
    if (fscanf(file, "%d", &number) != 1)
        number = 0;
    fclose(file);
    errno = number;
    return number != 0;
}

#define NEXT(call) ((__typeof__(&call))dlsym(RTLD_NEXT, #call))

ssize_t recvfrom(int fd, void *buffer, size_t length, int flags, struct sockaddr *from, socklen_t *size) {
    return fails(NULL, "recvfrom") ? -1 : NEXT(recvfrom)(fd, buffer, length, flags, from, size);
}

int recvmmsg(int fd, struct mmsghdr *messages, unsigned count, int flags, struct timespec *timeout) {
    return fails(NULL, "recvmmsg") ? -1 : NEXT(recvmmsg)(fd, messages, count, flags, timeout);
}

int bind(int fd, const struct sockaddr *address, socklen_t size) {
    return fails(NULL, "bind") ? -1 : NEXT(bind)(fd, address, size);
}

int setsockopt(int fd, int level, int option, const void *value, socklen_t size) {
    char call[32];
    snprintf(call, sizeof call, "%d.%d", level, option);
    return fails("any", call) ? -1 : NEXT(setsockopt)(fd, level, option, value, size);
}
