// Preloaded (LD_PRELOAD) into a redis-server: gives it the true time of day plus an offset that the harness sets while
// the server runs.
//
// PREGON_TEST_CLOCK names a file of 8 bytes: the offset in microseconds, in this machine's byte order. Clocks that
// measure durations (CLOCK_MONOTONIC) are unchanged, as when a real clock is set.
//
// The code must not allocate, nor use a library that does: an allocator may read the time while it starts. libfaketime
// fails with jemalloc for that reason.
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static const volatile int64_t *offset_us;

__attribute__((constructor)) static void find_offset(void)
{
    const char *path = getenv("PREGON_TEST_CLOCK");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    void *page = file < 0 ? MAP_FAILED : mmap(NULL, sizeof *offset_us, PROT_READ, MAP_SHARED, file, 0);
    // Without the file, clock faults would silently have no effect.
    if (page == MAP_FAILED) abort();
    close(file);
    offset_us = page;
}

int clock_gettime(clockid_t clock, struct timespec *now)
{
    int result = syscall(SYS_clock_gettime, clock, now);
    if (result == 0 && offset_us && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) {
        int64_t us = *offset_us + now->tv_nsec / 1000;
        int64_t seconds = us / 1000000 - (us % 1000000 < 0);
        now->tv_nsec = (us - seconds * 1000000) * 1000 + now->tv_nsec % 1000;
        now->tv_sec += seconds;
    }
    return result;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone)
{
    struct timespec precise;
    (void)zone;
    if (clock_gettime(CLOCK_REALTIME, &precise) != 0) return -1;
    now->tv_sec = precise.tv_sec;
    now->tv_usec = precise.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *now)
{
    struct timespec precise;
    if (clock_gettime(CLOCK_REALTIME, &precise) != 0) return -1;
    if (now) *now = precise.tv_sec;
    return precise.tv_sec;
}
