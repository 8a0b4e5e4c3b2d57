/* A disk that forgets what was not synced, as an LD_PRELOAD library for Linux.
 *
 *   cc -O2 -Wall -shared -fPIC -o powercut.so powercut.c -ldl -lpthread
 *   POWERCUT_DIR=data POWERCUT_SHADOW=disk LD_PRELOAD=./powercut.so program…
 *
 * The program works on POWERCUT_DIR as ever. POWERCUT_SHADOW is what the disk holds: it gets bytes
 * only when the program syncs them. Kill the program with SIGKILL at any moment, and the shadow is
 * the directory as a power cut at that moment would have left it. The shadow is made, as a copy of
 * the directory, by the first program that finds none.
 *
 * The model:
 *   - fsync and fdatasync of a file bring to the disk: its size, every byte written so far by
 *     anyone, and its own name (a creation or rename of it, with the directories above it).
 *   - fsync of a directory brings its entries: creations (without the bytes not yet synced),
 *     renames and removals. Without it a removed file is still there after the cut.
 *   - Nothing else does. A sync that the kill interrupts may have brought any part of it.
 *   - POWERCUT_LEAK=n: each 4096-byte piece of a write also reaches the disk at once with n % chance
 *     (disks may write early, and out of order); POWERCUT_SEED=n chooses which.
 *
 * Not modelled: names ending in -shm (SQLite rebuilds them), writes through mmap, io_uring, sync(),
 * O_SYNC, several names for one file, several programs writing one directory at the same time.
 * Renames and removals need no hook: they are read from the real directory when it is synced.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#if !defined(__LP64__)
#error "off_t and off64_t are taken to be the same here"
#endif

struct range {
    off_t from, to; /* bytes from..to are written and not synced */
};

/* A file of POWERCUT_DIR, known by its inode as long as it exists. */
struct file {
    ino_t ino;    /* 0: it is gone, and only its name on the disk may be left */
    char *name;   /* its name on the disk, relative to the shadow; NULL: it has none */
    struct range *dirty; /* sorted, apart */
    size_t dirties;
    struct file *next;
};

enum { FDS = 65536, BUCKETS = 4096, PIECE = 4096 };
#define END ((off_t)INT64_MAX)

static char dir[PATH_MAX], shadow[PATH_MAX];
static size_t dir_len;
static int active, leak;
static uint64_t chance;
static struct file *files[BUCKETS];
/* What each descriptor is: NULL not looked at yet, &OTHER not ours, &FOLDER, or the file. */
static struct file OTHER, FOLDER;
static _Atomic(struct file *) fds[FDS];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

/* Ours to call without meeting our own hooks. */
#define raw_openat(d, p, f, m) ((int)syscall(SYS_openat, d, p, f, m))
#define raw_close(fd) ((void)syscall(SYS_close, fd))
#define raw_ftruncate(fd, n) ((int)syscall(SYS_ftruncate, fd, n))

#define NEXT(name) \
    static __typeof__(name) *next; \
    if (!next) next = (__typeof__(name) *)dlsym(RTLD_NEXT, #name)

__attribute__((noreturn)) static void give_up(const char *what, const char *on)
{
    /* A model that is silently wrong would pass tests it should fail. */
    fprintf(stderr, "powercut: %s %s: %s\n", what, on, strerror(errno));
    abort();
}

static void *must(void *memory)
{
    if (!memory) give_up("out of", "memory");
    return memory;
}

static void join(char *out, const char *base, const char *name)
{
    if (snprintf(out, PATH_MAX, *name ? "%s/%s" : "%s%s", base, name) >= PATH_MAX) {
        errno = ENAMETOOLONG;
        give_up("path", name);
    }
}

static int ignored(const char *name)
{
    size_t n = strlen(name);
    return n >= 4 && strcmp(name + n - 4, "-shm") == 0;
}

/* ---- the files ---- */

static struct file *by_inode(ino_t ino)
{
    for (struct file *f = files[ino % BUCKETS]; f; f = f->next)
        if (f->ino == ino) return f;
    return NULL;
}

static struct file *by_name(const char *name)
{
    for (size_t i = 0; i < BUCKETS; i++)
        for (struct file *f = files[i]; f; f = f->next)
            if (f->name && strcmp(f->name, name) == 0) return f;
    return NULL;
}

static struct file *new_file(ino_t ino, const char *name)
{
    struct file *f = must(calloc(1, sizeof *f));
    f->ino = ino;
    f->name = name ? must(strdup(name)) : NULL;
    f->next = files[ino % BUCKETS];
    return files[ino % BUCKETS] = f;
}

static void mark(struct file *f, off_t from, off_t to)
{
    size_t i = 0, j;
    if (from >= to) return;
    while (i < f->dirties && f->dirty[i].to < from) i++;
    for (j = i; j < f->dirties && f->dirty[j].from <= to; j++) {
        if (f->dirty[j].from < from) from = f->dirty[j].from;
        if (f->dirty[j].to > to) to = f->dirty[j].to;
    }
    if (i == j) {
        f->dirty = must(realloc(f->dirty, (f->dirties + 1) * sizeof *f->dirty));
        memmove(f->dirty + i + 1, f->dirty + i, (f->dirties - i) * sizeof *f->dirty);
        f->dirties++;
    } else {
        memmove(f->dirty + i + 1, f->dirty + j, (f->dirties - j) * sizeof *f->dirty);
        f->dirties -= j - i - 1;
    }
    f->dirty[i] = (struct range){from, to};
}

/* ---- the disk ---- */

static void make_parents(char *path)
{
    for (char *slash = strchr(path + strlen(shadow) + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        *slash = 0;
        if (mkdir(path, 0777) && errno != EEXIST) give_up("mkdir", path);
        *slash = '/';
    }
}

/* Gives the file this name on the disk, in place of whatever had it. */
static void name_on_disk(struct file *f, const char *name)
{
    char old[PATH_MAX], new[PATH_MAX];
    if (f->name && strcmp(f->name, name) == 0) return;
    join(new, shadow, name);
    make_parents(new);
    struct file *before = by_name(name);
    if (before) {
        free(before->name);
        before->name = NULL;
    }
    if (f->name) {
        join(old, shadow, f->name);
        if (rename(old, new)) give_up("rename", old);
        free(f->name);
    } else {
        int fd = raw_openat(AT_FDCWD, new, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
        if (fd < 0) give_up("create", new);
        raw_close(fd);
        /* bytes synced under no name at all are on no disk yet */
        mark(f, 0, END);
    }
    f->name = must(strdup(name));
}

static void copy_range(int from_fd, int to_fd, off_t from, off_t to, const char *what)
{
    static char buffer[1 << 16]; /* under the lock */
    while (from < to) {
        size_t want = to - from < (off_t)sizeof buffer ? (size_t)(to - from) : sizeof buffer;
        ssize_t got = syscall(SYS_pread64, from_fd, buffer, want, from);
        if (got < 0) give_up("read", what);
        if (got == 0) return;
        for (ssize_t done = 0; done < got;) {
            ssize_t put = syscall(SYS_pwrite64, to_fd, buffer + done, got - done, from + done);
            if (put <= 0) give_up("write", what);
            done += put;
        }
        from += got;
    }
}

static int open_on_disk(const struct file *f)
{
    char path[PATH_MAX];
    join(path, shadow, f->name);
    int fd = raw_openat(AT_FDCWD, path, O_WRONLY | O_CLOEXEC, 0);
    if (fd < 0) give_up("open", path);
    return fd;
}

/* A descriptor to read fd's file by. Where fd itself can be read it is fd: to open and close
 * another one would drop the locks that SQLite holds on the file (POSIX says so). */
static int readable(int fd)
{
    if ((fcntl(fd, F_GETFL) & O_ACCMODE) != O_WRONLY) return fd;
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    int other = raw_openat(AT_FDCWD, link, O_RDONLY | O_CLOEXEC, 0);
    if (other < 0) give_up("open", link);
    return other;
}

/* The path of fd relative to POWERCUT_DIR ("" for itself); 0 when outside or removed. */
static int path_of(int fd, char *out)
{
    char link[64], path[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof path - 1);
    if (n < 0) return 0;
    path[n] = 0;
    if ((size_t)n < dir_len || memcmp(path, dir, dir_len) || (path[dir_len] && path[dir_len] != '/'))
        return 0;
    if (n > 10 && strcmp(path + n - 10, " (deleted)") == 0) return 0;
    strcpy(out, path[dir_len] ? path + dir_len + 1 : "");
    return 1;
}

static void sync_file(struct file *f, int fd)
{
    char name[PATH_MAX];
    struct stat st;
    if (!path_of(fd, name)) return; /* removed: no name for its bytes to come back under */
    if (fstat(fd, &st)) give_up("stat", name);
    name_on_disk(f, name);
    int disk = open_on_disk(f), from = readable(fd);
    struct stat was;
    if (fstat(disk, &was)) give_up("stat", name);
    if (was.st_size != st.st_size && raw_ftruncate(disk, st.st_size)) give_up("truncate", name);
    for (size_t i = 0; i < f->dirties; i++) {
        off_t to = f->dirty[i].to < st.st_size ? f->dirty[i].to : st.st_size;
        copy_range(from, disk, f->dirty[i].from, to, name);
    }
    f->dirties = 0;
    raw_close(disk);
    if (from != fd) raw_close(from);
}

/* Calls on each file and folder below base/name, depth first. */
static void walk(const char *base, const char *name,
                 void (*on)(const char *name, const struct stat *st, void *arg), void *arg)
{
    char path[PATH_MAX], below[PATH_MAX];
    struct stat st;
    join(path, base, name);
    DIR *d = opendir(path);
    if (!d) return;
    for (struct dirent *e; (e = readdir(d));) {
        if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, "..") || ignored(e->d_name)) continue;
        if (*name) join(below, name, e->d_name);
        else join(below, e->d_name, "");
        join(path, base, below);
        if (lstat(path, &st)) continue;
        if (S_ISDIR(st.st_mode)) walk(base, below, on, arg);
        on(below, &st, arg);
    }
    closedir(d);
}

struct search {
    ino_t ino;
    char name[PATH_MAX];
};

static void is_it(const char *name, const struct stat *st, void *arg)
{
    struct search *s = arg;
    if (S_ISREG(st->st_mode) && st->st_ino == s->ino) strcpy(s->name, name);
}

/* The name on the disk is gone from the directory: take it off, or move it where it went. */
static void drop_name(const char *name)
{
    char path[PATH_MAX];
    struct file *f = by_name(name);
    if (f && f->ino) {
        struct search s = {f->ino, ""};
        walk(dir, "", is_it, &s);
        if (*s.name) {
            name_on_disk(f, s.name);
            return;
        }
    }
    join(path, shadow, name);
    if (unlink(path) && errno != ENOENT && errno != EISDIR) give_up("unlink", path);
    if (f) {
        free(f->name);
        f->name = NULL;
    }
}

static void drop_if_gone(const char *name, const struct stat *st, void *arg)
{
    char path[PATH_MAX];
    struct stat real;
    (void)arg;
    join(path, dir, name);
    if (!lstat(path, &real) && (real.st_mode & S_IFMT) == (st->st_mode & S_IFMT)) return;
    if (!S_ISDIR(st->st_mode)) drop_name(name);
    else {
        walk(shadow, name, drop_if_gone, NULL); /* the removals inside came before this one */
        join(path, shadow, name);
        rmdir(path);
    }
}

static void sync_folder(int fd)
{
    char name[PATH_MAX], below[PATH_MAX], path[PATH_MAX];
    struct stat st;
    if (!path_of(fd, name)) return;
    join(path, dir, name);
    DIR *d = opendir(path);
    if (!d) return;
    join(path, shadow, name);
    strcat(path, "/");
    make_parents(path);
    for (struct dirent *e; (e = readdir(d));) {
        if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, "..") || ignored(e->d_name)) continue;
        if (*name) join(below, name, e->d_name);
        else join(below, e->d_name, "");
        join(path, dir, below);
        if (lstat(path, &st)) continue;
        if (S_ISDIR(st.st_mode)) {
            join(path, shadow, below);
            if (mkdir(path, 0777) && errno != EEXIST) give_up("mkdir", path);
        } else if (S_ISREG(st.st_mode)) {
            struct file *f = by_inode(st.st_ino);
            if (!f) f = new_file(st.st_ino, NULL);
            name_on_disk(f, below);
        }
    }
    closedir(d);
    join(path, shadow, name);
    d = opendir(path);
    if (!d) return;
    char (*gone)[PATH_MAX] = NULL;
    size_t count = 0;
    for (struct dirent *e; (e = readdir(d));) {
        if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, "..")) continue;
        gone = must(realloc(gone, (count + 1) * sizeof *gone));
        if (*name) join(gone[count], name, e->d_name);
        else join(gone[count], e->d_name, "");
        count++;
    }
    closedir(d);
    for (size_t i = 0; i < count; i++) {
        join(path, shadow, gone[i]);
        if (!lstat(path, &st)) drop_if_gone(gone[i], &st, NULL);
    }
    free(gone);
}

/* ---- the start ---- */

static int same(const char *a, const char *b)
{
    static char x[1 << 16], y[1 << 16];
    int fx = raw_openat(AT_FDCWD, a, O_RDONLY | O_CLOEXEC, 0);
    int fy = raw_openat(AT_FDCWD, b, O_RDONLY | O_CLOEXEC, 0), equal = fx >= 0 && fy >= 0;
    while (equal) {
        ssize_t n = read(fx, x, sizeof x), m = read(fy, y, sizeof y);
        equal = n == m && n >= 0 && memcmp(x, y, n) == 0;
        if (n <= 0) break;
    }
    raw_close(fx);
    raw_close(fy);
    return equal;
}

static void know(const char *name, const struct stat *st, void *first)
{
    char real[PATH_MAX], disk[PATH_MAX];
    join(real, dir, name);
    join(disk, shadow, name);
    if (S_ISDIR(st->st_mode)) {
        if (first && mkdir(disk, 0777) && errno != EEXIST) give_up("mkdir", disk);
        return;
    }
    if (!S_ISREG(st->st_mode)) return;
    if (first) {
        make_parents(disk);
        int in = raw_openat(AT_FDCWD, real, O_RDONLY | O_CLOEXEC, 0);
        int out = raw_openat(AT_FDCWD, disk, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
        if (in < 0 || out < 0) give_up("copy", real);
        copy_range(in, out, 0, END, real);
        raw_close(in);
        raw_close(out);
    }
    struct file *f = new_file(st->st_ino, access(disk, F_OK) ? NULL : name);
    /* what an earlier program wrote and did not sync is still waiting for a sync */
    if (!f->name || !same(real, disk)) mark(f, 0, END);
}

static void absolute(const char *path, char *out)
{
    char parent[PATH_MAX], *slash;
    if (realpath(path, out)) return;
    join(parent, path, "");
    for (size_t n = strlen(parent); n > 1 && parent[n - 1] == '/'; n--) parent[n - 1] = 0;
    slash = strrchr(parent, '/');
    char full[PATH_MAX];
    if (slash) *slash = 0;
    if (!realpath(slash ? (slash == parent ? "/" : parent) : ".", full)) give_up("find", path);
    join(out, strcmp(full, "/") ? full : "", slash ? slash + 1 : parent);
}

__attribute__((constructor)) static void start(void)
{
    const char *d = getenv("POWERCUT_DIR"), *s = getenv("POWERCUT_SHADOW");
    const char *l = getenv("POWERCUT_LEAK"), *seed = getenv("POWERCUT_SEED");
    if (!d || !s || !*d || !*s) return;
    absolute(d, dir);
    absolute(s, shadow);
    dir_len = strlen(dir);
    leak = l ? atoi(l) : 0;
    chance = (seed ? strtoull(seed, NULL, 0) : 1) * 2862933555777941757u + 3037000493u;
    int first = mkdir(shadow, 0777) == 0;
    if (!first && errno != EEXIST) give_up("mkdir", shadow);
    walk(dir, "", know, first ? &first : NULL);
    active = 1;
}

/* ---- descriptors ---- */

static struct file *look_up(int fd)
{
    struct stat st;
    char name[PATH_MAX];
    if (fstat(fd, &st) || !path_of(fd, name)) return &OTHER;
    if (S_ISDIR(st.st_mode)) return &FOLDER;
    if (!S_ISREG(st.st_mode) || ignored(name)) return &OTHER;
    struct file *f = by_inode(st.st_ino);
    if (!f) {
        f = new_file(st.st_ino, NULL);
        mark(f, 0, END);
    }
    return f;
}

/* What fd is; takes the lock, and keeps it if fd is of POWERCUT_DIR. */
static struct file *ours(int fd)
{
    if (!active || fd < 0 || fd >= FDS || atomic_load(&fds[fd]) == &OTHER) return NULL;
    int before = errno;
    pthread_mutex_lock(&lock);
    struct file *f = atomic_load(&fds[fd]);
    if (!f) atomic_store(&fds[fd], f = look_up(fd));
    errno = before;
    if (f != &OTHER) return f;
    pthread_mutex_unlock(&lock);
    return NULL;
}

static void forget(int fd)
{
    if (fd >= 0 && fd < FDS) atomic_store(&fds[fd], NULL);
}

static void release(void)
{
    int before = errno;
    pthread_mutex_unlock(&lock);
    errno = before;
}

static int by_chance(void)
{
    chance ^= chance << 13, chance ^= chance >> 7, chance ^= chance << 17;
    return (int)((chance >> 33) % 100) < leak;
}

static void written(struct file *f, int fd, off_t from, ssize_t n)
{
    int before = errno;
    if (n > 0 && f != &FOLDER) {
        mark(f, from, from + n);
        if (leak && f->name) {
            int disk = open_on_disk(f), real = readable(fd);
            for (off_t at = from; at < from + n; at = (at / PIECE + 1) * PIECE) {
                off_t to = (at / PIECE + 1) * PIECE;
                if (by_chance()) copy_range(real, disk, at, to < from + n ? to : from + n, f->name);
            }
            raw_close(disk);
            if (real != fd) raw_close(real);
        }
    }
    errno = before;
    release();
}

static void written_at_cursor(struct file *f, int fd, ssize_t n)
{
    /* the cursor stands behind what was written, O_APPEND or not */
    written(f, fd, lseek(fd, 0, SEEK_CUR) - (n > 0 ? n : 0), n);
}

static int opened(int at, const char *path, int flags, mode_t mode)
{
    if (!active || (!(flags & (O_CREAT | O_TRUNC)) && (flags & O_TMPFILE) != O_TMPFILE)) {
        int fd = raw_openat(at, path, flags, mode);
        forget(fd);
        return fd;
    }
    struct stat st;
    pthread_mutex_lock(&lock);
    int missing = fstatat(at, path, &st, 0) != 0;
    int fd = raw_openat(at, path, flags, mode), before = errno;
    if (fd >= 0 && fd < FDS) {
        struct file *f = NULL;
        if ((missing || (flags & O_TMPFILE) == O_TMPFILE) && !fstat(fd, &st)) {
            /* a new file may have got the inode of one that is gone */
            while ((f = by_inode(st.st_ino))) f->ino = 0;
        }
        atomic_store(&fds[fd], NULL);
        f = look_up(fd);
        atomic_store(&fds[fd], f);
        if (f != &OTHER && f != &FOLDER && (flags & O_TRUNC)) mark(f, 0, END);
    }
    errno = before;
    release();
    return fd;
}

/* ---- the hooks ---- */

#define MODE(flags, last) \
    mode_t mode = 0; \
    if (((flags) & O_CREAT) || ((flags) & O_TMPFILE) == O_TMPFILE) { \
        va_list rest; \
        va_start(rest, last); \
        mode = va_arg(rest, mode_t); \
        va_end(rest); \
    }

int open(const char *path, int flags, ...)
{
    MODE(flags, flags)
    return opened(AT_FDCWD, path, flags, mode);
}

int open64(const char *path, int flags, ...)
{
    MODE(flags, flags)
    return opened(AT_FDCWD, path, flags, mode);
}

int openat(int at, const char *path, int flags, ...)
{
    MODE(flags, flags)
    return opened(at, path, flags, mode);
}

int openat64(int at, const char *path, int flags, ...)
{
    MODE(flags, flags)
    return opened(at, path, flags, mode);
}

int creat(const char *path, mode_t mode)
{
    return opened(AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, mode);
}

int creat64(const char *path, mode_t mode) { return creat(path, mode); }

int close(int fd)
{
    NEXT(close);
    /* before: another thread may get the same number the moment it is free */
    forget(fd);
    return next(fd);
}

int dup2(int from, int to)
{
    NEXT(dup2);
    int fd = next(from, to);
    forget(fd);
    return fd;
}

int dup3(int from, int to, int flags)
{
    NEXT(dup3);
    int fd = next(from, to, flags);
    forget(fd);
    return fd;
}

ssize_t write(int fd, const void *bytes, size_t n)
{
    NEXT(write);
    struct file *f = ours(fd);
    ssize_t done = next(fd, bytes, n);
    if (f) written_at_cursor(f, fd, done);
    return done;
}

ssize_t writev(int fd, const struct iovec *v, int n)
{
    NEXT(writev);
    struct file *f = ours(fd);
    ssize_t done = next(fd, v, n);
    if (f) written_at_cursor(f, fd, done);
    return done;
}

ssize_t pwrite(int fd, const void *bytes, size_t n, off_t at)
{
    NEXT(pwrite);
    struct file *f = ours(fd);
    ssize_t done = next(fd, bytes, n, at);
    if (f) written(f, fd, at, done);
    return done;
}

ssize_t pwrite64(int fd, const void *bytes, size_t n, off64_t at) { return pwrite(fd, bytes, n, at); }

ssize_t pwritev(int fd, const struct iovec *v, int n, off_t at)
{
    NEXT(pwritev);
    struct file *f = ours(fd);
    ssize_t done = next(fd, v, n, at);
    if (f) written(f, fd, at, done);
    return done;
}

ssize_t pwritev64(int fd, const struct iovec *v, int n, off64_t at) { return pwritev(fd, v, n, at); }

ssize_t pwritev2(int fd, const struct iovec *v, int n, off_t at, int flags)
{
    NEXT(pwritev2);
    struct file *f = ours(fd);
    ssize_t done = next(fd, v, n, at, flags);
    if (f && at == -1) written_at_cursor(f, fd, done);
    else if (f) written(f, fd, at, done);
    return done;
}

ssize_t pwritev64v2(int fd, const struct iovec *v, int n, off64_t at, int flags)
{
    return pwritev2(fd, v, n, at, flags);
}

int ftruncate(int fd, off_t size)
{
    NEXT(ftruncate);
    struct file *f = ours(fd);
    int done = next(fd, size);
    if (f && f != &FOLDER && done == 0) mark(f, size, END);
    if (f) release();
    return done;
}

int ftruncate64(int fd, off64_t size) { return ftruncate(fd, size); }

ssize_t copy_file_range(int in, off64_t *in_at, int out, off64_t *out_at, size_t n, unsigned flags)
{
    NEXT(copy_file_range);
    struct file *f = ours(out);
    ssize_t done = next(in, in_at, out, out_at, n, flags);
    if (f && f != &FOLDER) mark(f, 0, END);
    if (f) release();
    return done;
}

ssize_t sendfile(int out, int in, off_t *at, size_t n)
{
    NEXT(sendfile);
    struct file *f = ours(out);
    ssize_t done = next(out, in, at, n);
    if (f && f != &FOLDER) mark(f, 0, END);
    if (f) release();
    return done;
}

ssize_t sendfile64(int out, int in, off64_t *at, size_t n) { return sendfile(out, in, at, n); }

static int synced(int fd, struct file *f)
{
    /* The real disk is not asked: what it holds matters to nobody here, and this is faster. */
    if (f == &FOLDER) sync_folder(fd);
    else sync_file(f, fd);
    release();
    return 0;
}

int fsync(int fd)
{
    NEXT(fsync);
    struct file *f = ours(fd);
    return f ? synced(fd, f) : next(fd);
}

int fdatasync(int fd)
{
    NEXT(fdatasync);
    struct file *f = ours(fd);
    return f ? synced(fd, f) : next(fd);
}
