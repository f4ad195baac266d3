/* Preloaded into libvirtd: it dies, by SIGKILL, at a moment that a file names, which is taken away first.
 *
 * /run/dies holds a letter and a text: `r` dies when a message with that text was received, `a` when the answer to one
 * that was sent was received, before anything is made of either. Messages are those of QEMU's monitors, which begin with
 * a brace. `n` dies when a file is about to get a name with that text: libvirt writes a definition beside the old one. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

static void die(void)
{
    unlink("/run/dies");
    kill(getpid(), SIGKILL);
    for (;;)
        pause();
}

/* The message was sent: its answer is waited for. */
static volatile int asked;

static void die_at(char when, const void *data, ssize_t length)
{
    static ssize_t (*real_read)(int, void *, size_t);
    char wanted[256];
    ssize_t got;
    int fd;

    if (asked && when == 'r' && length > 2 && memmem(data, length, "\"return\"", 8))
        die();
    if (length < 2 || *(const char *)data != '{' || (fd = open("/run/dies", O_RDONLY | O_CLOEXEC)) < 0)
        return;
    if (!real_read)
        real_read = dlsym(RTLD_NEXT, "read");
    got = real_read(fd, wanted, sizeof wanted);
    close(fd);
    while (got > 0 && wanted[got - 1] == '\n')
        got--;
    if (got < 2 || !memmem(data, length, wanted + 1, got - 1))
        return;
    if (wanted[0] == 'r' && when == 'r')
        die();
    if (wanted[0] == 'a' && when == 'w')
        asked = 1;
}

int rename(const char *from, const char *to)
{
    static int (*real)(const char *, const char *);
    static ssize_t (*real_read)(int, void *, size_t);
    char wanted[256];
    ssize_t got = 0;
    int fd = open("/run/dies", O_RDONLY | O_CLOEXEC);

    if (!real) {
        real = dlsym(RTLD_NEXT, "rename");
        real_read = dlsym(RTLD_NEXT, "read");
    }
    if (fd >= 0) {
        got = real_read(fd, wanted, sizeof wanted - 1);
        close(fd);
    }
    while (got > 0 && wanted[got - 1] == '\n')
        got--;
    if (got > 1 && wanted[0] == 'n') {
        wanted[got] = 0;
        if (strstr(to, wanted + 1))
            die();
    }
    return real(from, to);
}

ssize_t read(int fd, void *buffer, size_t length)
{
    static ssize_t (*real)(int, void *, size_t);
    ssize_t got;

    if (!real)
        real = dlsym(RTLD_NEXT, "read");
    got = real(fd, buffer, length);
    die_at('r', buffer, got);
    return got;
}

ssize_t write(int fd, const void *data, size_t length)
{
    static ssize_t (*real)(int, const void *, size_t);
    ssize_t sent;

    if (!real)
        real = dlsym(RTLD_NEXT, "write");
    sent = real(fd, data, length);
    die_at('w', data, sent);
    return sent;
}
