/* Faults from outside: preloaded into the daemon and its workers, this library counts the calls that matter
 * to a take (write, sync, rename, unlink, truncate, allocate, make a folder, send) below one folder, and can
 * kill the process before or after one of them, make it fail, or shorten it. The product knows nothing of it.
 *
 * Harness and processes share one mapped file (CHAOS_CONTROL), so a fault can be armed while they run:
 *   struct head, two struct plan (0 the daemon, 1 the workers), then a ring of struct entry.
 * CHAOS_BELOW is the folder. Sockets and pipes count as "send".
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum { WRITE, SYNC, RENAME, UNLINK, TRUNCATE, ALLOCATE, MAKE, LINK, SEND };
enum { NOTHING, KILL, FAIL, SHORTEN };

struct head { uint32_t magic, entries; _Atomic int64_t space; _Atomic uint64_t logged; uint64_t logging; char pad[32]; };
struct plan {
    _Atomic uint64_t count, fire_at, fired;
    uint32_t action, after;
    int32_t error;
    uint32_t calls, sticky;
    char pad[20];
    char pattern[128];
};
struct entry { uint32_t role, call; uint64_t k; uint32_t fired; _Atomic uint32_t whole; char name[104]; };

static struct head *head;
static struct plan *plan;
static struct entry *ring;
static uint32_t role;
static char below[PATH_MAX];
static size_t below_length;

#define REAL(name) ((__typeof__(&name))real(#name))
static void *real(const char *name) { return dlsym(RTLD_NEXT, name); }

__attribute__((constructor)) static void begin(void) {
    const char *control = getenv("CHAOS_CONTROL"), *folder = getenv("CHAOS_BELOW");
    char line[4096];
    if (!control || !folder) return;
    int fd = open("/proc/self/cmdline", O_RDONLY | O_CLOEXEC);
    ssize_t length = fd < 0 ? 0 : read(fd, line, sizeof line - 1);
    if (fd >= 0) close(fd);
    for (ssize_t i = 0; i < length; i++) if (!line[i]) line[i] = ' ';
    line[length > 0 ? length : 0] = 0;
    if (strstr(line, "-m daemon.workers.main")) role = 1;
    else if (strstr(line, "-m daemon serve")) role = 0;
    else return;
    fd = open(control, O_RDWR | O_CLOEXEC);
    struct stat found;
    if (fd < 0 || fstat(fd, &found)) return;
    void *map = mmap(NULL, (size_t)found.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (map == MAP_FAILED) return;
    snprintf(below, sizeof below, "%s/", folder);
    below_length = strlen(below);
    plan = (struct plan *)((char *)map + sizeof(struct head)) + role;
    ring = (struct entry *)((char *)map + sizeof(struct head) + 2 * sizeof(struct plan));
    head = map;
}

/* The name below the folder, "socket" or "pipe"; 0 for what is not ours. */
static int named(char *path, char *name, size_t size) {
    if (!strncmp(path, below, below_length)) {
        char *deleted = strstr(path, " (deleted)");
        if (deleted) *deleted = 0;
        snprintf(name, size, "%s", path + below_length);
        return 1;
    }
    if (!strncmp(path, "socket:", 7)) { snprintf(name, size, "socket"); return 1; }
    if (!strncmp(path, "pipe:", 5)) { snprintf(name, size, "pipe"); return 1; }
    return 0;
}

static int name_of_descriptor(int fd, char *name, size_t size) {
    char link[64], path[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = syscall(SYS_readlinkat, AT_FDCWD, link, path, sizeof path - 1);
    if (length <= 0) return 0;
    path[length] = 0;
    return named(path, name, size);
}

static int name_of_path(int folder, const char *given, char *name, size_t size) {
    char path[2 * PATH_MAX] = "";
    if (given[0] != '/') {
        char link[64];
        if (folder == AT_FDCWD) snprintf(link, sizeof link, "/proc/self/cwd");
        else snprintf(link, sizeof link, "/proc/self/fd/%d", folder);
        ssize_t length = syscall(SYS_readlinkat, AT_FDCWD, link, path, PATH_MAX - 1);
        if (length <= 0) return 0;
        path[length] = '/';
        path[length + 1] = 0;
    }
    strncat(path, given, PATH_MAX - 1);
    return named(path, name, size);
}

/* What to do with this call: NOTHING, FAIL or SHORTEN at once; KILL after it if the plan says so. */
struct verdict { int action, error; };

static void die(void) {
    syscall(SYS_kill, getpid(), SIGKILL);
    for (;;) pause();
}

static struct verdict judge(uint32_t call, const char *name) {
    struct verdict verdict = {NOTHING, 0};
    uint64_t k = 0;
    int saved = errno, fires = 0;
    uint64_t at = plan->fire_at;
    if ((!plan->calls || plan->calls & (1u << call)) &&
        (!plan->pattern[0] || !fnmatch(plan->pattern, name, 0))) {
        k = atomic_fetch_add(&plan->count, 1) + 1;
        fires = at && (plan->sticky ? k >= at : k == at);
    }
    if (head->logging) {
        uint64_t index = atomic_fetch_add(&head->logged, 1);
        struct entry *entry = ring + index % head->entries;
        atomic_store(&entry->whole, 0);
        entry->role = role; entry->call = call; entry->k = k; entry->fired = (uint32_t)fires;
        snprintf(entry->name, sizeof entry->name, "%s", name);
        atomic_store(&entry->whole, (uint32_t)index + 1);
    }
    if (fires) {
        atomic_fetch_add(&plan->fired, 1);
        if (plan->action == KILL && !plan->after) die();
        verdict.action = (int)plan->action;
        verdict.error = plan->error;
    }
    errno = saved;
    return verdict;
}

#define JUDGED(call, known) \
    char name[PATH_MAX]; \
    struct verdict verdict = {NOTHING, 0}; \
    int ours = head && (known); \
    if (ours) verdict = judge(call, name)
#define REFUSE(result) \
    do { if (verdict.action == FAIL) { errno = verdict.error; return result; } } while (0)
#define LEAVE() \
    do { (void)ours; if (verdict.action == KILL) die(); } while (0)

/* A disk of our own with head->space bytes left (-1: as large as the real one), counted in blocks of 4 KiB. */
static int64_t blocks(int64_t bytes) { return (bytes + 4095) / 4096 * 4096; }

static int64_t growth(int fd, int64_t end) {
    struct stat found;
    if (fstat(fd, &found)) return 0;
    int64_t more = blocks(end) - (int64_t)found.st_blocks * 512;
    return more > 0 ? more : 0;
}

static int takes_space(int64_t bytes) {
    if (!head || head->space < 0 || bytes <= 0) return 1;
    if (atomic_fetch_sub(&head->space, bytes) >= bytes) return 1;
    atomic_fetch_add(&head->space, bytes);
    return 0;
}

static void gives_space(int64_t bytes) {
    if (head && head->space >= 0 && bytes > 0) atomic_fetch_add(&head->space, bytes);
}

static ssize_t full(void) { errno = ENOSPC; return -1; }

/* ---- writing ---- */

ssize_t write(int fd, const void *data, size_t size) {
    JUDGED(strcmp(name, "socket") && strcmp(name, "pipe") ? WRITE : SEND,
           name_of_descriptor(fd, name, sizeof name));
    REFUSE(-1);
    if (verdict.action == SHORTEN && size > 1) size /= 2;
    if (ours && head->space >= 0 && strcmp(name, "socket") && strcmp(name, "pipe")) {
        off_t at = lseek(fd, 0, SEEK_CUR);
        struct stat found;
        if (fcntl(fd, F_GETFL) & O_APPEND && !fstat(fd, &found)) at = found.st_size;
        if (at >= 0 && !takes_space(growth(fd, at + (int64_t)size))) return full();
    }
    ssize_t done = REAL(write)(fd, data, size);
    LEAVE();
    return done;
}

ssize_t pwrite64(int fd, const void *data, size_t size, off64_t at) {
    JUDGED(WRITE, name_of_descriptor(fd, name, sizeof name));
    REFUSE(-1);
    if (verdict.action == SHORTEN && size > 1) size /= 2;
    if (ours && head->space >= 0 && !takes_space(growth(fd, at + (int64_t)size))) return full();
    ssize_t done = REAL(pwrite64)(fd, data, size, at);
    LEAVE();
    return done;
}
ssize_t pwrite(int fd, const void *data, size_t size, off_t at) { return pwrite64(fd, data, size, at); }

ssize_t writev(int fd, const struct iovec *parts, int count) {
    JUDGED(strcmp(name, "socket") && strcmp(name, "pipe") ? WRITE : SEND,
           name_of_descriptor(fd, name, sizeof name));
    REFUSE(-1);
    ssize_t done = REAL(writev)(fd, parts, count);
    LEAVE();
    return done;
}

ssize_t send(int fd, const void *data, size_t size, int flags) {
    JUDGED(SEND, name_of_descriptor(fd, name, sizeof name));
    REFUSE(-1);
    ssize_t done = REAL(send)(fd, data, size, flags);
    LEAVE();
    return done;
}

ssize_t sendmsg(int fd, const struct msghdr *message, int flags) {
    JUDGED(SEND, name_of_descriptor(fd, name, sizeof name));
    REFUSE(-1);
    ssize_t done = REAL(sendmsg)(fd, message, flags);
    LEAVE();
    return done;
}

/* ---- syncing ---- */

int fsync(int fd) {
    JUDGED(SYNC, name_of_descriptor(fd, name, sizeof name));
    REFUSE(-1);
    int done = REAL(fsync)(fd);
    LEAVE();
    return done;
}

int fdatasync(int fd) {
    JUDGED(SYNC, name_of_descriptor(fd, name, sizeof name));
    REFUSE(-1);
    int done = REAL(fdatasync)(fd);
    LEAVE();
    return done;
}

/* ---- names ---- */

int renameat(int from, const char *old, int to, const char *new) {
    JUDGED(RENAME, name_of_path(to, new, name, sizeof name));
    REFUSE(-1);
    int done = REAL(renameat)(from, old, to, new);
    LEAVE();
    return done;
}
int rename(const char *old, const char *new) { return renameat(AT_FDCWD, old, AT_FDCWD, new); }

int unlinkat(int folder, const char *path, int flags) {
    JUDGED(UNLINK, name_of_path(folder, path, name, sizeof name));
    REFUSE(-1);
    struct stat found;
    int64_t freed = 0;
    if (ours && head->space >= 0 && !fstatat(folder, path, &found, AT_SYMLINK_NOFOLLOW) &&
        S_ISREG(found.st_mode) && found.st_nlink == 1)
        freed = (int64_t)found.st_blocks * 512;
    int done = REAL(unlinkat)(folder, path, flags);
    if (!done) gives_space(freed);
    LEAVE();
    return done;
}
int unlink(const char *path) { return unlinkat(AT_FDCWD, path, 0); }
int rmdir(const char *path) { return unlinkat(AT_FDCWD, path, AT_REMOVEDIR); }

int linkat(int from, const char *old, int to, const char *new, int flags) {
    JUDGED(LINK, name_of_path(to, new, name, sizeof name));
    REFUSE(-1);
    int done = REAL(linkat)(from, old, to, new, flags);
    LEAVE();
    return done;
}
int link(const char *old, const char *new) { return linkat(AT_FDCWD, old, AT_FDCWD, new, 0); }

int mkdirat(int folder, const char *path, mode_t mode) {
    JUDGED(MAKE, name_of_path(folder, path, name, sizeof name));
    REFUSE(-1);
    int done = REAL(mkdirat)(folder, path, mode);
    LEAVE();
    return done;
}
int mkdir(const char *path, mode_t mode) { return mkdirat(AT_FDCWD, path, mode); }

/* ---- sizes ---- */

int ftruncate64(int fd, off64_t size) {
    JUDGED(TRUNCATE, name_of_descriptor(fd, name, sizeof name));
    REFUSE(-1);
    struct stat before;
    int known = ours && head->space >= 0 && !fstat(fd, &before);
    int done = REAL(ftruncate64)(fd, size);
    if (!done && known) gives_space((int64_t)before.st_blocks * 512 - blocks(size));
    LEAVE();
    return done;
}
int ftruncate(int fd, off_t size) { return ftruncate64(fd, size); }

int posix_fallocate64(int fd, off64_t at, off64_t size) {
    JUDGED(ALLOCATE, name_of_descriptor(fd, name, sizeof name));
    REFUSE(verdict.error);
    if (ours && head->space >= 0 && !takes_space(growth(fd, at + size))) return ENOSPC;
    int done = REAL(posix_fallocate64)(fd, at, size);
    LEAVE();
    return done;
}
int posix_fallocate(int fd, off_t at, off_t size) { return posix_fallocate64(fd, at, size); }

int fallocate64(int fd, int mode, off64_t at, off64_t size) {
    JUDGED(ALLOCATE, name_of_descriptor(fd, name, sizeof name));
    REFUSE(-1);
    struct stat before, after;
    int known = ours && head->space >= 0 && !fstat(fd, &before);
    int punches = mode & 0x02;  /* FALLOC_FL_PUNCH_HOLE */
    if (known && !punches && !takes_space(growth(fd, at + size))) return (int)full();
    int done = REAL(fallocate64)(fd, mode, at, size);
    if (!done && known && punches && !fstat(fd, &after))
        gives_space((int64_t)(before.st_blocks - after.st_blocks) * 512);
    LEAVE();
    return done;
}
int fallocate(int fd, int mode, off_t at, off_t size) { return fallocate64(fd, mode, at, size); }

int statvfs64(const char *path, struct statvfs64 *found) {
    int done = REAL(statvfs64)(path, found);
    if (!done && head && head->space >= 0 && found->f_frsize) {
        fsblkcnt64_t left = (fsblkcnt64_t)(head->space / (int64_t)found->f_frsize);
        if (left < found->f_bavail) found->f_bavail = left;
        if (left < found->f_bfree) found->f_bfree = left;
    }
    return done;
}
int statvfs(const char *path, struct statvfs *found) { return statvfs64(path, (struct statvfs64 *)found); }
