/*
 * writer COUNTER-FILE LOG : what a freeze must hold up and a snapshot must hold
 *
 * About every 100 ms the counter in COUNTER-FILE goes up by one, durably. The file's one block
 * exists beforehand and is overwritten in place, 17 bytes within one sector: so the block on the
 * disk holds a whole counter at every moment, also without a replay of the journal, and `debugfs`
 * can read it from a copy of the image. On a start the counter goes on from what the disk holds.
 *
 * LOG is on a tmpfs and gets a line per write, "COUNTER BEGAN DONE", times in ms since boot: a
 * freeze shows as one write that took long, a lost write would as a counter that went back.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

enum { PERIOD_MS = 100 };

static long now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

int main(int argc, char **argv)
{
    if (argc != 3) {
        fprintf(stderr, "usage: writer COUNTER-FILE LOG\n");
        return 2;
    }
    int counter = open(argv[1], O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    int log = open(argv[2], O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    if (counter < 0 || log < 0) {
        perror("writer: open");
        return 1;
    }
    char text[32] = "";
    if (pread(counter, text, sizeof text - 1, 0) < 0) {
        perror("writer: read");
        return 1;
    }
    unsigned long long n = strtoull(text, NULL, 10);
    for (;;) {
        long began = now_ms();
        int len = snprintf(text, sizeof text, "%016llu\n", ++n);
        if (pwrite(counter, text, len, 0) != len || fdatasync(counter) != 0) {
            perror("writer: write");
            return 1;
        }
        long done = now_ms();
        dprintf(log, "%llu %ld %ld\n", n, began, done);
        long rest = PERIOD_MS - (done - began);
        if (rest > 0)
            usleep(rest * 1000);
    }
}
