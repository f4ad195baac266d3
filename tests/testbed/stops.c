/* Preloaded into virtsnapd: it stands still before or after one of the calls with which it changes something through
 * libvirt, until the test lets it go on, or kills it there.
 *
 * /run/virtsnap/stops/arm holds a name for this arming, `before`, `after` or `never`, a number and perhaps a function:
 * calls (of that function, if it is named) count from when the file was first seen, by this process. Each is written to
 * `log`, with its number. At the one with that number the file is taken away, `at` is written, and the thread that makes
 * the call waits for somebody to open the FIFO `gate`. All others go on. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define STOPS "/run/virtsnap/stops/"

struct call {
    const char *function;
    int number, stops;
    char when;
};

static void put(const char *path, int flags, const struct call *call, const char *more)
{
    char line[256];
    int length, fd = open(path, flags | O_WRONLY | O_CREAT | O_CLOEXEC, 0644);

    if (fd < 0)
        return;
    length = snprintf(line, sizeof line, "%d %s%s\n", call->number, call->function, more);
    if (write(fd, line, length) != length)
        abort();
    close(fd);
}

static void stop(const struct call *call)
{
    int fd;

    unlink(STOPS "arm");
    put(STOPS "at.new", O_TRUNC, call, call->when == 'b' ? " before" : " after");
    rename(STOPS "at.new", STOPS "at");
    if ((fd = open(STOPS "gate", O_RDONLY | O_CLOEXEC)) >= 0)
        close(fd);
}

static struct call enter(const char *function)
{
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    static char armed[64];
    static int count;
    struct call call = {function, 0, 0, 0};
    char text[256] = "", id[64] = "", when[16] = "", only[64] = "";
    int wanted = 0, fd;

    pthread_mutex_lock(&lock);
    if ((fd = open(STOPS "arm", O_RDONLY | O_CLOEXEC)) >= 0) {
        ssize_t got = read(fd, text, sizeof text - 1);

        close(fd);
        if (got > 0 && sscanf(text, "%63s %15s %d %63s", id, when, &wanted, only) >= 3 &&
            (!*only || !strcmp(only, function))) {
            if (strcmp(id, armed))
                count = 0;
            strcpy(armed, id);
            call.number = ++count;
            call.when = *when;
            call.stops = *when != 'n' && wanted == count;
            put(STOPS "log", O_APPEND, &call, "");
        }
    }
    pthread_mutex_unlock(&lock);
    if (call.stops && call.when == 'b')
        stop(&call);
    return call;
}

static void leave(const struct call *call)
{
    if (call->stops && call->when == 'a')
        stop(call);
}

/* Handles and texts are all pointers to us. */
#define CARRY_OUT(type, name, types, values) \
    { \
        static type(*real) types; \
        struct call call = enter(#name); \
        type result; \
\
        if (!real) \
            real = dlsym(RTLD_NEXT, #name); \
        result = real values; \
        leave(&call); \
        return result; \
    }

typedef void *ptr;
typedef unsigned int uint;
typedef unsigned long ulong;
typedef unsigned long long ull;

#define WRAP1(type, name) \
    type name(ptr a) CARRY_OUT(type, name, (ptr), (a))
#define WRAP2(type, name, B) \
    type name(ptr a, B b) CARRY_OUT(type, name, (ptr, B), (a, b))
#define WRAP3(type, name, B, C) \
    type name(ptr a, B b, C c) CARRY_OUT(type, name, (ptr, B, C), (a, b, c))
#define WRAP4(type, name, B, C, D) \
    type name(ptr a, B b, C c, D d) CARRY_OUT(type, name, (ptr, B, C, D), (a, b, c, d))
#define WRAP5(type, name, B, C, D, E) \
    type name(ptr a, B b, C c, D d, E e) CARRY_OUT(type, name, (ptr, B, C, D, E), (a, b, c, d, e))
#define WRAP6(type, name, B, C, D, E, F) \
    type name(ptr a, B b, C c, D d, E e, F f) CARRY_OUT(type, name, (ptr, B, C, D, E, F), (a, b, c, d, e, f))

WRAP2(int, virStoragePoolCreate, uint)
WRAP3(ptr, virStoragePoolCreateXML, ptr, uint)
WRAP1(int, virStoragePoolDestroy)
WRAP3(ptr, virStorageVolCreateXML, ptr, uint)
WRAP2(int, virStorageVolDelete, uint)
WRAP5(int, virStorageVolUpload, ptr, ull, ull, uint)
WRAP3(ptr, virDomainSnapshotCreateXML, ptr, uint)
WRAP2(int, virDomainSnapshotDelete, uint)
WRAP2(int, virDomainRevertToSnapshot, uint)
WRAP2(ptr, virDomainDefineXML, ptr)
WRAP2(int, virDomainUndefineFlags, uint)
WRAP2(int, virDomainCreateWithFlags, uint)
WRAP3(ptr, virDomainCreateXML, ptr, uint)
WRAP1(int, virDomainDestroy)
WRAP2(int, virDomainDestroyFlags, uint)
WRAP1(int, virDomainSuspend)
WRAP1(int, virDomainResume)
WRAP4(int, virDomainRestoreFlags, ptr, ptr, uint)
WRAP6(int, virDomainBlockCommit, ptr, ptr, ptr, ulong, uint)
WRAP4(int, virDomainBlockPull, ptr, ulong, uint)
WRAP3(int, virDomainBlockJobAbort, ptr, uint)
WRAP4(int, virDomainBlockJobSetSpeed, ptr, ulong, uint)

/* Only what freezes and thaws: all else that the agent is asked changes nothing. */
ptr virDomainQemuAgentCommand(ptr domain, const char *command, int timeout, uint flags)
{
    static ptr (*real)(ptr, const char *, int, uint);
    int changes = strstr(command, "fsfreeze-freeze") || strstr(command, "fsfreeze-thaw");
    struct call call = {0};
    ptr result;

    if (!real)
        real = dlsym(RTLD_NEXT, "virDomainQemuAgentCommand");
    if (changes)
        call = enter(strstr(command, "fsfreeze-thaw") ? "thaw" : "freeze");
    result = real(domain, command, timeout, flags);
    leave(&call);
    return result;
}
