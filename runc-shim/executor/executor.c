// The executor: it performs a plan (package plan) in a container's new namespaces, from
// where libcontainer's nsexec would let the Go runtime begin, to the exec.
//
// A plan is a list of steps, and the steps are in the order in which libcontainer does
// the same (libcontainer/standard_init_linux.go, rootfs_linux.go): who changes one
// changes the other. What it says to its parent is libcontainer's protocol as well.
//
// Paths in the root file system belong to an image, which may have links anywhere. Until
// pivot_root they are opened below the root alone (openat2), and what is mounted is
// mounted on what was opened, by /proc/self/fd of the machine.
#define _GNU_SOURCE
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/keyctl.h>
#include <linux/magic.h>
#include <linux/openat2.h>
#include <linux/seccomp.h>
#include <net/if.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "plan.h"

#define LEN(a) (sizeof(a) / sizeof *(a))

enum { maxTexts = 5 };

struct step {
	uint32_t op, texts;
	uint64_t n[4];
	const char *s[maxTexts]; // the first of them
	size_t len[maxTexts];
};

// Where in the plan.
static const char *at, *end;

// Descriptors: what libcontainer passes, the report of the exec, /proc/self/fd and the
// root file system. What is open when a path of the configuration is used can be reached
// by that path, as /proc/self/fd/N, so none of them leads to the machine's files after
// pivot_root.
static int initPipe = -1, syncPipe = -1, logPipe = -1, fifo = -1, report = -1;
static int ownFiles = -1, root = -1;

static const char *rootPath;
static pid_t parent;
static char context[3 * PATH_MAX]; // what an error begins with
static char home[PATH_MAX];
static char command[2 * PATH_MAX];
static char **argv, **envp;

// Errors

static size_t escape(char *to, size_t room, const char *from) {
	size_t n = 0;
	for (; *from && n + 7 < room; from++) {
		unsigned char c = *from;
		if (c == '"' || c == '\\')
			n += sprintf(to + n, "\\%c", c);
		else if (c < 0x20)
			n += sprintf(to + n, "\\u%04x", c);
		else
			to[n++] = c;
	}
	to[n] = 0;
	return n;
}

// linger waits until the parent has read an error, and meanwhile reads what it sends to
// libcontainer's own last stage: its configuration. A parent that cannot send that would
// not come to read.
static void linger(void) {
	char text[4096];
	struct pollfd on[2] = {{.fd = syncPipe, .events = POLLIN}, {.fd = initPipe, .events = POLLIN}};
	for (;;) {
		if (poll(on, 2, -1) < 0)
			continue;
		if (on[1].revents && read(initPipe, text, sizeof text) <= 0)
			on[1].fd = -1;
		if (on[0].revents && read(syncPipe, text, sizeof text) <= 0)
			return;
	}
}

// fail reports an error to who waits: the parent until the container is created, the
// report from then on.
static _Noreturn void fail(const char *format, ...) {
	static char text[5 * PATH_MAX], json[2 * sizeof text];
	size_t n = snprintf(text, sizeof text, "%s", context);
	va_list args;
	va_start(args, format);
	vsnprintf(text + n, sizeof text - n, format, args);
	va_end(args);
	ssize_t r;
	if (syncPipe >= 0) {
		n = sprintf(json, "{\"type\":\"procError\",\"flags\":0,\"arg\":{\"message\":\"");
		n += escape(json + n, sizeof json - n - 4, text);
		n += sprintf(json + n, "\"}}");
		r = write(syncPipe, json, n);
		if (r >= 0)
			linger();
	} else
		r = dprintf(report, "%s\n", text);
	_exit(r < 0 ? 254 : 255);
}

// why is the reason of the last error as Go writes it.
static const char *why(void) {
	static char text[128];
	const char *s = strerrordesc_np(errno);
	snprintf(text, sizeof text, "%s", s ? s : "unknown error");
	if (islower((unsigned char)text[1]) || text[1] == ' ' || text[1] == '/')
		text[0] = tolower((unsigned char)text[0]);
	return text;
}

static void must(bool ok, const char *what, const char *path) {
	if (!ok)
		fail("%s %s: %s", what, path, why());
}

static void inside(const char *format, ...) {
	va_list args;
	va_start(args, format);
	vsnprintf(context, sizeof context, format, args);
	va_end(args);
}

// The plan

static const void *take(size_t n) {
	if ((size_t)(end - at) < n)
		fail("the plan is damaged");
	const void *p = at;
	at += n;
	return p;
}

static const char *takeText(size_t *len) {
	uint64_t n;
	memcpy(&n, take(sizeof n), sizeof n);
	if (n >= (size_t)(end - at))
		fail("the plan is damaged");
	const char *s = take((n + 8) & ~(uint64_t)7);
	if (s[n])
		fail("the plan is damaged");
	if (len)
		*len = n;
	return s;
}

// Paths below the root

static int openBelow(const char *path, uint64_t flags, uint64_t resolve) {
	struct open_how how = {.flags = flags | O_PATH | O_CLOEXEC, .resolve = resolve | RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS};
	int fd = -1;
	// A rename anywhere makes the kernel unsure about "..".
	for (int i = 0; i < 128; i++) {
		fd = syscall(SYS_openat2, root, path, &how, sizeof how);
		if (fd >= 0 || (errno != EAGAIN && errno != EINTR))
			break;
	}
	return fd;
}

// resolve follows all links of a path below the root, those to what does not exist as
// well, into a path that has none.
static void resolve(const char *path, char out[PATH_MAX]) {
	char rest[PATH_MAX], link[PATH_MAX];
	int links = 0;
	size_t len = 0;
	if (snprintf(rest, sizeof rest, "%s", path) >= (int)sizeof rest)
		fail("%s: file name too long", path);
	*out = 0;
	for (char *p = rest;;) {
		p += strspn(p, "/");
		size_t n = strcspn(p, "/");
		if (!n)
			return;
		if (n == 1 && *p == '.') {
			p += n;
			continue;
		}
		if (n == 2 && p[0] == '.' && p[1] == '.') {
			char *slash = strrchr(out, '/');
			len = slash ? (size_t)(slash - out) : 0;
			out[len] = 0;
			p += n;
			continue;
		}
		if (len + n + 2 > PATH_MAX)
			fail("%s: file name too long", path);
		snprintf(out + len, PATH_MAX - len, "/%.*s", (int)n, p);
		p += n;
		struct stat st;
		int fd = openBelow(out, O_NOFOLLOW, RESOLVE_NO_SYMLINKS);
		if (fd < 0) {
			must(errno == ENOENT || errno == ENOTDIR, "open", out);
			len += n + 1;
			continue;
		}
		must(!fstat(fd, &st), "stat", out);
		if (!S_ISLNK(st.st_mode)) {
			len += n + 1;
			close(fd);
			continue;
		}
		ssize_t l = readlinkat(fd, "", link, sizeof link);
		must(l > 0, "readlink", out);
		close(fd);
		if (++links > 255)
			fail("%s: too many levels of symbolic links", path);
		if (l + strlen(p) + 2 > sizeof rest)
			fail("%s: file name too long", path);
		memmove(rest + l, p, strlen(p) + 1);
		memcpy(rest, link, l);
		p = rest;
		if (*link == '/')
			len = 0;
		out[len] = 0;
	}
}

// makeDirs makes the directories of a resolved path that are not there, and opens the
// last.
static int makeDirs(const char *all) {
	const char *path = all;
	struct open_how how = {.flags = O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC,
			       .resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS};
	char name[NAME_MAX + 1];
	int dir = openat(root, ".", O_PATH | O_DIRECTORY | O_CLOEXEC);
	must(dir >= 0, "open", rootPath);
	for (;;) {
		path += strspn(path, "/");
		size_t n = strcspn(path, "/");
		if (!n)
			return dir;
		if (n > NAME_MAX)
			fail("%s: file name too long", path);
		snprintf(name, sizeof name, "%.*s", (int)n, path);
		path += n;
		int next = syscall(SYS_openat2, dir, name, &how, sizeof how);
		if (next < 0 && errno == ENOENT) {
			if (mkdirat(dir, name, 0755) && errno != EEXIST)
				fail("mkdirat %s%.*s: %s", rootPath, (int)(path - all), all, why());
			next = syscall(SYS_openat2, dir, name, &how, sizeof how);
		}
		if (next < 0)
			fail("open %s%.*s: %s", rootPath, (int)(path - all), all, why());
		close(dir);
		dir = next;
	}
}

// makeParent does so with all but the last name.
static int makeParent(const char *path, char resolved[PATH_MAX], const char **name) {
	resolve(path, resolved);
	char *slash = strrchr(resolved, '/');
	if (!slash)
		fail("%s: no file name", path);
	*slash = 0;
	*name = slash + 1;
	return makeDirs(resolved);
}

static void fdPath(int fd, char path[32]) { snprintf(path, 32, "/proc/self/fd/%d", fd); }

// below returns what of fd's path is below the root.
static const char *below(int fd, char full[PATH_MAX]) {
	char path[32];
	fdPath(fd, path);
	ssize_t n = readlink(path, full, PATH_MAX - 1);
	must(n >= 0, "readlink", path);
	full[n] = 0;
	size_t len = strlen(rootPath);
	if (strncmp(full, rootPath, len) || (full[len] && full[len] != '/'))
		fail("mountpoint \"%s\" is outside of rootfs \"%s\"", full, rootPath);
	return full + len;
}

// Mounts

static void mountOn(int fd, const struct step *m, const char *source, const char *type, unsigned long flags, const char *data) {
	char path[32];
	fdPath(fd, path);
	if (mount(source, path, type, flags, *data ? data : NULL))
		fail("mount src=%s, dst=%s, dstFd=%s, flags=%#lx: %s", source, m->s[MountTo], path, flags, why());
}

// checkProc refuses to mount over /proc or in it, but for what others emulate there.
static void checkProc(const char *path, const struct step *m) {
	static const char *const fine[] = {"/proc/cpuinfo", "/proc/diskstats", "/proc/meminfo", "/proc/stat", "/proc/swaps", "/proc/uptime",
					   "/proc/loadavg", "/proc/slabinfo", "/proc/sys/kernel/ns_last_pid", "/proc/sys/crypto/fips_enabled"};
	if (strncmp(path, "/proc", 5) || (path[5] && path[5] != '/'))
		return;
	if (!path[5]) {
		struct statfs st;
		if (m->n[MountKind] == KindProc)
			return;
		if (m->n[MountKind] == KindBind && !statfs(m->s[MountFrom], &st) && st.f_type == PROC_SUPER_MAGIC)
			return;
		fail("create mountpoint for %s mount: check proc-safety of %s mount: \"%s%s\" cannot be mounted because it is not of type proc",
		     m->s[MountTo], m->s[MountTo], rootPath, path);
	}
	for (size_t i = 0; i < LEN(fine); i++)
		if (!strcmp(path, fine[i]))
			return;
	fail("create mountpoint for %s mount: check proc-safety of %s mount: \"%s%s\" cannot be mounted because it is inside /proc", m->s[MountTo],
	     m->s[MountTo], rootPath, path);
}

static int mountpointOfProc(const struct step *m) {
	char path[PATH_MAX];
	struct stat st;
	checkProc(m->s[MountTo], m);
	int fd = openBelow(m->s[MountTo], O_NOFOLLOW, 0);
	if (fd >= 0) {
		must(!fstat(fd, &st), "stat", m->s[MountTo]);
		if (!S_ISDIR(st.st_mode))
			fail("filesystem \"%s\" must be mounted on ordinary directory", m->s[MountType]);
		close(fd);
	} else
		must(errno == ENOENT, "open", m->s[MountTo]);
	resolve(m->s[MountTo], path);
	return makeDirs(path);
}

// mountpoint opens what is mounted on, and makes it if it is not there: a file for a
// file, a directory otherwise.
static int mountpoint(const struct step *m, char *data, size_t room) {
	char path[PATH_MAX], full[PATH_MAX];
	struct stat st;
	int fd = openBelow(m->s[MountTo], 0, 0);
	if (fd >= 0) {
		if (m->n[MountKind] == KindTmpfs) {
			must(!fstat(fd, &st), "stat", m->s[MountTo]);
			snprintf(data, room, "mode=%04o%s%s", st.st_mode & 07777, *m->s[MountData] ? "," : "", m->s[MountData]);
		}
	} else {
		if (errno != ENOENT)
			fail("create mountpoint for %s mount: lookup mountpoint target: openat2 %s: %s", m->s[MountTo], m->s[MountTo], why());
		bool file = false;
		if (m->n[MountKind] == KindBind) {
			must(!stat(m->s[MountFrom], &st), "stat", m->s[MountFrom]);
			file = !S_ISDIR(st.st_mode);
		}
		size_t n = strlen(context);
		snprintf(context + n, sizeof context - n, "create mountpoint for %s mount: make mountpoint \"%s\": ", m->s[MountTo], m->s[MountTo]);
		if (file) {
			const char *name;
			int dir = makeParent(m->s[MountTo], path, &name);
			fd = openat(dir, name, O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0644);
			must(fd >= 0, "openat", m->s[MountTo]);
			close(dir);
		} else {
			resolve(m->s[MountTo], path);
			fd = makeDirs(path);
		}
		context[n] = 0;
	}
	const char *rest = below(fd, full);
	if (!*rest)
		fail("create mountpoint for %s mount: mountpoint \"%s\" is on the top of rootfs \"%s\"", m->s[MountTo], full, rootPath);
	checkProc(rest, m);
	return fd;
}

// reopened is the mount on top of a mountpoint.
static int reopened(int fd) {
	char before[PATH_MAX], after[PATH_MAX];
	const char *path = below(fd, before);
	int top = openBelow(path, 0, 0);
	must(top >= 0, "reopen mountpoint after mount:", path);
	below(top, after);
	if (strcmp(before, after))
		fail("mountpoint \"%s\" was moved while re-opening", before);
	close(fd);
	return top;
}

static void stepMount(const struct step *m) {
	static char data[64 << 10];
	struct stat st;
	inside("error mounting \"%s\" to rootfs at \"%s\": ", m->s[MountFrom], m->s[MountTo]);
	bool bind = m->n[MountKind] == KindBind;
	if (m->len[MountData] + 16 > sizeof data)
		fail("its data is too long");
	memcpy(data, m->s[MountData], m->len[MountData] + 1);
	if (bind && stat(m->s[MountFrom], &st)) {
		inside("");
		fail("failed to fulfil mount request: open %s: %s", m->s[MountFrom], why());
	}
	int fd = m->n[MountKind] == KindProc || m->n[MountKind] == KindSysfs ? mountpointOfProc(m) : mountpoint(m, data, sizeof data);
	unsigned long flags = m->n[MountFlags];
	mountOn(fd, m, m->s[MountFrom], m->s[MountType], flags, data);
	const uint64_t *propagation = (const uint64_t *)m->s[MountPropagation];
	size_t changes = m->len[MountPropagation] / sizeof *propagation;
	if (changes || m->n[MountRemount])
		fd = reopened(fd);
	for (size_t i = 0; i < changes; i++)
		mountOn(fd, m, "", "", propagation[i], "");
	if (m->n[MountRemount])
		mountOn(fd, m, "", "", m->n[MountRemount], "");
	close(fd);
}

// The root file system

static void stepRoot(const struct step *s) {
	rootPath = s->s[0];
	inside("error preparing rootfs: ");
	must(!mount("", "/", "", s->n[0], NULL), "mount", "/");
	// The mount that the root is on must not be shared.
	char path[PATH_MAX];
	snprintf(path, sizeof path, "%s", rootPath);
	while (mount("", path, "", s->n[1], NULL)) {
		must(errno == EINVAL && strcmp(path, "/"), "remount-propagation", path);
		char *slash = strrchr(path, '/');
		slash[slash == path] = 0;
	}
	must(!mount(rootPath, rootPath, "bind", MS_BIND | MS_REC, NULL), "mount", rootPath);
	root = open(rootPath, O_DIRECTORY | O_CLOEXEC | O_PATH);
	must(root >= 0, "open rootfs handle:", rootPath);
}

static void bindDevice(int dir, const char *name, const char *path) {
	char on[32];
	int fd = openat(dir, name, O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0);
	must(fd >= 0, "create device inode", path);
	fdPath(fd, on);
	must(!mount(path, on, "bind", MS_BIND, NULL), "mount", path);
	close(fd);
}

static void stepDevice(const struct step *s) {
	char path[PATH_MAX], on[32];
	const char *name;
	struct stat st;
	inside("configuring container /dev: error creating device nodes: ");
	mode_t mode = s->n[0];
	int dir = makeParent(s->s[0], path, &name);
	if (mknodat(dir, name, mode, s->n[1])) {
		must(errno == EEXIST || errno == EPERM || errno == EACCES, "mknodat", s->s[0]);
		if (errno != EEXIST)
			bindDevice(dir, name, s->s[0]);
		close(dir);
		return;
	}
	int fd = openat(dir, name, O_NOFOLLOW | O_PATH | O_CLOEXEC);
	must(fd >= 0, "open", s->s[0]);
	must(!fstat(fd, &st), "stat", s->s[0]);
	if ((st.st_mode & S_IFMT) != (mode & S_IFMT) || (st.st_rdev != s->n[1] && !S_ISFIFO(mode)))
		fail("new device inode %s is another", s->s[0]);
	fdPath(fd, on);
	must(!chmod(on, mode & 07777), "chmod", s->s[0]);
	must(!fchownat(fd, "", s->n[2], s->n[3], AT_EMPTY_PATH), "chown", s->s[0]);
	close(fd);
	close(dir);
}

// removeBelow removes what a path names, the link itself if that is one.
static void removeBelow(const char *path) {
	char parent[PATH_MAX];
	snprintf(parent, sizeof parent, "%s", path);
	char *slash = strrchr(parent, '/');
	*slash = 0;
	int dir = openBelow(*parent ? parent : "/", O_DIRECTORY, 0);
	must((dir >= 0 && !unlinkat(dir, slash + 1, 0)) || errno == ENOENT, "unlinkat", path);
	if (dir >= 0)
		close(dir);
}

static void stepLink(const struct step *s) {
	char path[PATH_MAX];
	const char *name;
	inside("configuring container /dev: ");
	if (*s->s[2] && access(s->s[2], F_OK))
		return;
	if (s->n[0])
		removeBelow(s->s[0]);
	int dir = makeParent(s->s[0], path, &name);
	must(!symlinkat(s->s[1], dir, name) || (errno == EEXIST && !s->n[0]), "symlinkat", s->s[0]);
	close(dir);
}

static void stepPivot(void) {
	inside("error jailing process inside rootfs: ");
	int old = open("/", O_DIRECTORY | O_PATH | O_CLOEXEC);
	must(old >= 0, "open", "/");
	must(!fchdir(root), "chdir", rootPath);
	must(!syscall(SYS_pivot_root, ".", "."), "pivot_root", ".");
	must(!fchdir(old), "fchdir", "/");
	// So that no umount is seen on the outside.
	must(!mount("", ".", "", MS_SLAVE | MS_REC, NULL), "mount", ".");
	must(!umount2(".", MNT_DETACH), "unmount", ".");
	must(!chdir("/"), "chdir", "/");
	close(old);
	close(root);
	root = -1;
}

static bool isNull(const struct stat *st) { return S_ISCHR(st->st_mode) && st->st_rdev == makedev(1, 3); }

static void stepNull(void) {
	struct stat st;
	inside("error reopening /dev/null inside container: ");
	int fd = open("/dev/null", O_RDWR | O_CLOEXEC);
	must(fd >= 0, "open", "/dev/null");
	must(!fstat(fd, &st), "stat", "/dev/null");
	if (!isNull(&st))
		fail("can't reopen /dev/null: container's /dev/null is invalid");
	for (int i = 0; i < 3; i++) {
		must(!fstat(i, &st), "stat", "standard stream");
		if (isNull(&st))
			must(dup3(fd, i, 0) == i, "dup3", "/dev/null");
	}
	close(fd);
}

static void stepMkdir(const struct step *s) {
	struct stat st;
	char path[PATH_MAX];
	if (!stat(s->s[0], &st)) {
		if (!S_ISDIR(st.st_mode))
			fail("mkdir %s: not a directory", s->s[0]);
		return;
	}
	if (snprintf(path, sizeof path, "%s", s->s[0]) >= (int)sizeof path)
		fail("mkdir %s: file name too long", s->s[0]);
	for (char *p = path; *p;) {
		p += strspn(p, "/");
		p += strcspn(p, "/");
		char c = *p;
		*p = 0;
		if (stat(path, &st) || !S_ISDIR(st.st_mode))
			if (mkdir(path, 0755)) {
				int reason = errno;
				if (stat(path, &st) || !S_ISDIR(st.st_mode)) {
					errno = reason;
					must(false, "mkdir", path);
				}
			}
		*p = c;
	}
}

static void stepRemount(const struct step *s) {
	for (int i = 0; mount("", s->s[0], "", s->n[0], NULL); i++) {
		must(errno == EBUSY, "mount", s->s[0]);
		if (i == 5)
			fail("unable to mount %s as readonly max retries reached", s->s[0]);
		poll(NULL, 0, 100);
	}
}

static void stepReadonlyRoot(void) {
	struct statfs st;
	unsigned long flags = MS_BIND | MS_REMOUNT | MS_RDONLY;
	inside("error setting rootfs as readonly: ");
	if (!mount("", "/", "", flags, NULL))
		return;
	must(!statfs("/", &st), "statfs", "/");
	must(!mount("", "/", "", flags | st.f_flags, NULL), "mount", "/");
}

static void stepReadonlyPath(const struct step *s) {
	struct statfs st;
	inside("can't make \"%s\" read-only: ", s->s[0]);
	if (mount(s->s[0], s->s[0], "", MS_BIND | MS_REC, NULL)) {
		must(errno == ENOENT, "mount", s->s[0]);
		return;
	}
	must(!statfs(s->s[0], &st), "statfs", s->s[0]);
	unsigned long flags = st.f_flags & (MS_NOSUID | MS_NODEV | MS_NOEXEC);
	must(!mount(s->s[0], s->s[0], "", flags | MS_BIND | MS_REMOUNT | MS_RDONLY, NULL), "mount", s->s[0]);
}

// cover binds what from is open at over what to is.
static void cover(int from, int to, const char *path) {
	int tree = syscall(SYS_open_tree, from, "", OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_EMPTY_PATH);
	must(tree >= 0, "open_tree", path);
	must(!syscall(SYS_move_mount, tree, "", to, "", MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH), "move_mount", path);
	close(tree);
}

static void stepMask(const struct step *s) {
	static int null = -1, empty = -1; // what files and directories are covered with
	struct stat st;
	if (null < 0) {
		null = open("/dev/null", O_PATH | O_CLOEXEC);
		must(null >= 0 && !fstat(null, &st), "can't mask paths: open", "/dev/null");
		if (!isNull(&st))
			fail("can't mask paths: container's /dev/null is invalid");
	}
	inside("can't mask path \"%s\": ", s->s[0]);
	int fd = open(s->s[0], O_PATH | O_CLOEXEC);
	if (fd < 0) {
		must(errno == ENOENT, "open", s->s[0]);
		return;
	}
	must(!fstat(fd, &st), "stat", s->s[0]);
	if (!S_ISDIR(st.st_mode))
		cover(null, fd, s->s[0]);
	else if (empty >= 0)
		cover(empty, fd, s->s[0]);
	else {
		// Some kernels do not take the first.
		must(!mount("tmpfs", s->s[0], "tmpfs", MS_RDONLY, "nr_blocks=1,nr_inodes=1") ||
			     !mount("tmpfs", s->s[0], "tmpfs", MS_RDONLY, "nr_blocks=1,nr_inodes=2"),
		     "mount", s->s[0]);
		empty = open(s->s[0], O_PATH | O_CLOEXEC);
		must(empty >= 0, "open", s->s[0]);
	}
	close(fd);
}

static void stepSysctl(const struct step *s) {
	struct open_how how = {.flags = O_WRONLY | O_TRUNC | O_CLOEXEC,
			       .resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_XDEV};
	// The machine's /proc/sys may be read-only.
	static int own = -1;
	if (own < 0) {
		int fs = syscall(SYS_fsopen, "proc", FSOPEN_CLOEXEC);
		must(fs >= 0 && !syscall(SYS_fsconfig, fs, FSCONFIG_CMD_CREATE, NULL, NULL, 0), "fsopen", "proc");
		own = syscall(SYS_fsmount, fs, FSMOUNT_CLOEXEC, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC);
		must(own >= 0, "fsmount", "proc");
		close(fs);
	}
	int fd = syscall(SYS_openat2, own, s->s[1], &how, sizeof how);
	if (fd < 0)
		fail("open sysctl %s file: %s", s->s[0], why());
	if (write(fd, s->s[2], s->len[2]) != (ssize_t)s->len[2])
		fail("failed to write sysctl %s = \"%s\": %s", s->s[0], s->s[2], why());
	close(fd);
}

// Who the process is

static void stepKeyring(const struct step *s) {
	char text[512];
	long ring = syscall(SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, s->s[0]);
	if (ring < 0) {
		if (errno != ENOSYS)
			fail("unable to join session keyring: unable to create session key: %s", why());
		return;
	}
	long n = syscall(SYS_keyctl, KEYCTL_DESCRIBE, ring, text, sizeof text);
	unsigned permissions;
	if (n < 0 || n > (long)sizeof text || sscanf(text, "%*[^;];%*[^;];%*[^;];%x;", &permissions) != 1)
		fail("unable to mod keyring permissions: %s", why());
	if (syscall(SYS_keyctl, KEYCTL_SETPERM, ring, permissions | (unsigned)s->n[0]) < 0)
		fail("unable to mod keyring permissions: %s", why());
}

static void stepLoopback(void) {
	struct ifreq r = {.ifr_name = "lo"};
	int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	must(fd >= 0, "socket for", "lo");
	must(!ioctl(fd, SIOCGIFFLAGS, &r), "read the flags of", "lo");
	r.ifr_flags |= IFF_UP;
	must(!ioctl(fd, SIOCSIFFLAGS, &r), "bring up", "lo");
	close(fd);
}

// stepHome finds the home directory of a user in the image.
static void stepHome(const struct step *s) {
	char *line = NULL;
	size_t room = 0;
	snprintf(home, sizeof home, "HOME=/");
	FILE *f = fopen("/etc/passwd", "re");
	if (!f)
		return;
	while (getline(&line, &room, f) > 0) {
		char *fields[7] = {""}, *p = line + strspn(line, " \t");
		p[strcspn(p, "\r\n")] = 0;
		int n = 0;
		if (!*p)
			continue;
		while (n < 7)
			fields[n++] = strsep(&p, ":");
		char *after = "";
		unsigned long uid = fields[2] ? strtoul(fields[2], &after, 10) : 0;
		if (*after)
			uid = 0; // as libcontainer reads it
		if (uid != s->n[0])
			continue;
		snprintf(home, sizeof home, "HOME=%s", fields[5] ? fields[5] : "");
		break;
	}
	free(line);
	fclose(f);
}

static bool capabilityKnown(int cap) { return cap < 64 && prctl(PR_CAPBSET_READ, cap, 0, 0, 0) >= 0; }

static void stepBounding(const struct step *s) {
	inside("unable to apply bounding set: ");
	for (int i = 0; capabilityKnown(i); i++)
		if (!(s->n[0] >> i & 1))
			must(!prctl(PR_CAPBSET_DROP, i, 0, 0, 0), "drop", "a capability");
}

static void stepUser(const struct step *s) {
	struct stat st;
	inside("unable to setup user: ");
	must(!prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0), "set", "keep caps");
	for (int fd = 0; fd < 3; fd++) {
		must(!fstat(fd, &st), "stat", "standard stream");
		// The shim has given away the error stream.
		if (fd == 2 || st.st_uid == s->n[0] || isNull(&st))
			continue;
		must(!fchown(fd, s->n[0], -1) || errno == EPERM || errno == EROFS, "chown", "standard stream");
	}
	must(!syscall(SYS_setgroups, s->len[0] / sizeof(gid_t), s->s[0]), "setgroups", "");
	must(!syscall(SYS_setgid, s->n[1]), "setgid", "");
	must(!syscall(SYS_setuid, s->n[0]), "setuid", "");
}

static void stepCapabilities(const struct step *s) {
	struct __user_cap_header_struct head = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct data[2];
	uint64_t known = 0;
	inside("unable to apply caps: ");
	for (int i = 0; capabilityKnown(i); i++)
		known |= (uint64_t)1 << i;
	for (int i = 0; i < 2; i++) {
		data[i].effective = (s->n[0] & known) >> 32 * i;
		data[i].permitted = (s->n[1] & known) >> 32 * i;
		data[i].inheritable = (s->n[2] & known) >> 32 * i;
	}
	must(!syscall(SYS_capset, &head, data), "capset", "");
	must(!prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) || errno == EINVAL, "reset", "ambient capabilities");
	for (int i = 0; i < 64; i++)
		if (s->n[3] & known & (uint64_t)1 << i)
			prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, i, 0, 0); // one that is not permitted stays out
}

static bool stepChdir(const struct step *s, bool again) {
	static bool done;
	if (done)
		return true;
	done = !chdir(s->s[0]);
	// The user may enter what root may not.
	if (!done && (again || (errno != EPERM && errno != EACCES)))
		fail("chdir to cwd (\"%s\") set in config.json failed: %s", s->s[0], why());
	return done;
}

static void stepEnter(const struct step *s) {
	char path[PATH_MAX + 16];
	stepChdir(s, true);
	long n = syscall(SYS_getcwd, path, sizeof path);
	if (n < 0)
		fail("failed to verify if current working directory is safe: %s", why());
	if (*path != '/')
		fail("current working directory is outside of container mount namespace root -- possible container breakout detected");
	must(!prctl(PR_SET_KEEPCAPS, 0, 0, 0, 0), "clear", "keep caps");
}

static void stepSeccomp(const struct step *s) {
	struct {
		uint32_t flags, main, quiet;
	} head;
	inside("unable to init seccomp: ");
	if (s->len[0] < sizeof head)
		fail("the filter is damaged");
	memcpy(&head, s->s[0], sizeof head);
	struct sock_filter *code = (struct sock_filter *)(s->s[0] + sizeof head);
	if (head.main < 1 || head.main > BPF_MAXINSNS || head.quiet < 1 || head.quiet > BPF_MAXINSNS ||
	    s->len[0] != sizeof head + (head.main + head.quiet) * sizeof *code)
		fail("the filter is damaged");
	struct sock_fprog main = {.len = head.main, .filter = code}, quiet = {.len = head.quiet, .filter = code + head.main};
	must(!syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, head.flags, &main), "load", "the filter");
	must(!prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &quiet), "load", "the second filter");
}

// The parent

static void tell(const char *what) {
	char text[64];
	int n = snprintf(text, sizeof text, "{\"type\":\"%s\",\"flags\":0}", what);
	if (write(syncPipe, text, n) != n)
		fail("tell the parent: %s", why());
}

// hear waits for an answer of the parent, and meanwhile reads what it sends to
// libcontainer's own last stage: its configuration, which may be more than fits into the
// socket.
static void hear(const char *want) {
	char text[4096], expected[64];
	struct pollfd on[2] = {{.fd = syncPipe, .events = POLLIN}, {.fd = initPipe, .events = POLLIN}};
	for (;;) {
		if (poll(on, 2, -1) < 0) {
			must(errno == EINTR, "wait for", "the parent");
			continue;
		}
		if (on[1].revents && read(initPipe, text, sizeof text) <= 0)
			on[1].fd = -1;
		if (on[0].revents)
			break;
	}
	ssize_t n = read(syncPipe, text, sizeof text - 1);
	if (n <= 0)
		_exit(253); // there is no parent any more
	text[n] = 0;
	snprintf(expected, sizeof expected, "\"type\":\"%s\"", want);
	if (!strstr(text, expected))
		fail("unexpected answer of the parent: %s instead of %s", text, want);
}

static void ask(const char *question, const char *answer) {
	tell(question);
	hear(answer);
}

// The command

// executable says with errno why a file is not.
static bool executable(const char *path) {
	struct stat st;
	if (stat(path, &st))
		return false;
	if (S_ISDIR(st.st_mode)) {
		errno = EISDIR;
		return false;
	}
	if (!syscall(SYS_faccessat2, AT_FDCWD, path, X_OK, AT_EACCESS))
		return true;
	if (errno != ENOSYS && errno != EPERM)
		return false;
	errno = EACCES;
	return st.st_mode & 0111;
}

// lookUp finds the command in the directories of PATH, the last texts of the step.
static void lookUp(const char *name, uint64_t dirs) {
	struct stat st;
	if (strchr(name, '/')) {
		if (stat(name, &st))
			fail("exec: \"%s\": stat %s: %s", name, name, why());
		if (!executable(name))
			fail("exec: \"%s\": %s", name, why());
		if (snprintf(command, sizeof command, "%s", name) >= (int)sizeof command)
			fail("exec: \"%s\": file name too long", name);
	}
	while (dirs--) {
		const char *dir = takeText(NULL);
		if (*command)
			continue;
		if (snprintf(command, sizeof command, "%s%s%s", dir, strcmp(dir, "/") ? "/" : "", name) >= (int)sizeof command || !executable(command))
			*command = 0;
		else if (*dir != '/')
			fail("exec: \"%s\": cannot run executable found relative to current directory", name);
	}
	if (!*command)
		fail("exec: \"%s\": executable file not found in $PATH", name);
}

static void stepCommand(const struct step *s) {
	uint64_t args = s->n[0], envs = s->n[1], dirs = s->n[2];
	if (!args || args + envs + dirs != s->texts)
		fail("the plan is damaged");
	if (getppid() != parent)
		kill(getpid(), SIGKILL);
	argv = mmap(NULL, (args + envs + 3) * sizeof *argv, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	must(argv != MAP_FAILED, "mmap", "the arguments");
	envp = argv + args + 1;
	for (uint64_t i = 0; i < args; i++)
		argv[i] = (char *)takeText(NULL);
	for (uint64_t i = 0; i < envs; i++)
		envp[i] = (char *)takeText(NULL);
	if (*home)
		envp[envs] = home;
	lookUp(*argv, dirs);
}

// stepClose closes everything that is passed on neither to the command nor needed here.
// It is done before a filter is loaded that may refuse it.
static void stepClose(void) {
	int keep[] = {syncPipe, logPipe, fifo, report, ownFiles};
	unsigned from = 3;
	for (;;) {
		unsigned next = ~0U;
		for (size_t i = 0; i < LEN(keep); i++)
			if ((unsigned)keep[i] >= from && (unsigned)keep[i] < next)
				next = keep[i];
		if (next > from)
			must(!syscall(SYS_close_range, from, next - (next != ~0U), 0), "close", "files");
		if (next == ~0U)
			break;
		from = next + 1;
	}
	initPipe = -1;
	must(!syscall(SYS_close_range, 3, ~0U, 1 << 2 /* CLOSE_RANGE_CLOEXEC */), "mark", "files");
}

static _Noreturn void stepRun(void) {
	char path[16];
	inside("");
	close(syncPipe);
	syncPipe = -1;
	close(logPipe);
	snprintf(path, sizeof path, "%d", fifo);
	int f;
	do
		f = openat(ownFiles, path, O_WRONLY | O_CLOEXEC);
	while (f < 0 && errno == EINTR);
	must(f >= 0, "reopen", "exec fifo");
	must(write(f, "0", 1) == 1, "write", "exec fifo");
	// Nothing of the machine may be open when the command's file is: it could be
	// given as that file.
	close(f);
	close(fifo);
	close(ownFiles);
	execve(command, argv, envp);
	fail("exec %s: %s", command, why());
}

static void perform(const struct step *s) {
	*context = 0;
	switch (s->op) {
	case OpKeyring: stepKeyring(s); break;
	case OpLoopback: stepLoopback(); break;
	case OpRoot: stepRoot(s); break;
	case OpMount: stepMount(s); break;
	case OpDevice: stepDevice(s); break;
	case OpLink: stepLink(s); break;
	case OpHooks: ask("procHooks", "procHooksDone"); break;
	case OpPivot: stepPivot(); break;
	case OpPropagation: must(!mount("", "/", "", s->n[0], NULL), "unable to apply root propagation flags:", "/"); break;
	case OpNull: stepNull(); break;
	case OpMkdir: stepMkdir(s); break;
	case OpRemount: stepRemount(s); break;
	case OpReadonlyRoot: stepReadonlyRoot(); break;
	case OpUmask: umask(s->n[0]); break;
	case OpHostname: must(!sethostname(s->s[0], s->len[0]), "sethostname", s->s[0]); break;
	case OpDomainname: must(!setdomainname(s->s[0], s->len[0]), "setdomainname", s->s[0]); break;
	case OpSysctl: stepSysctl(s); break;
	case OpReadonlyPath: stepReadonlyPath(s); break;
	case OpMask: stepMask(s); break;
	case OpNoNewPrivileges: must(!prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "set", "no_new_privs"); break;
	case OpReady: ask("procReady", "procRun"); break;
	case OpSeccomp: stepSeccomp(s); break;
	case OpClose: stepClose(); break;
	case OpChdir: stepChdir(s, false); break;
	case OpHome: stepHome(s); break;
	case OpBounding: stepBounding(s); break;
	case OpUser: stepUser(s); break;
	case OpEnter: stepEnter(s); break;
	case OpCapabilities: stepCapabilities(s); break;
	case OpCommand: stepCommand(s); break;
	case OpRun: stepRun();
	default: fail("the plan has an unknown step %u", s->op);
	}
}

static const unsigned char opTexts[] = {PLAN_TEXTS};

// resetSignals has the command begin with those signals that a Go runtime in between
// would have taken hold of: the shim ignores some.
static void resetSignals(void) {
	static const int kept[] = {SIGHUP, SIGINT, SIGCONT, SIGTSTP, SIGTTIN, SIGTTOU};
	struct sigaction a;
	for (int sig = 1; sig < NSIG; sig++) {
		bool keep = false;
		for (size_t i = 0; i < LEN(kept); i++)
			keep |= kept[i] == sig;
		if (!keep && !sigaction(sig, NULL, &a) && a.sa_handler == SIG_IGN)
			signal(sig, SIG_DFL);
	}
}

static int passed(const char *name) {
	const char *s = getenv(name);
	return s && *s ? atoi(s) : -1;
}

// The linker has nsenter call this in place of nsexec, which returns only in the last
// stage of a start, or where this process is none.
void __real_nsexec(void);
void __wrap_nsexec(void) {
	struct planHead head;
	struct stat st;
	const int seals = F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE;

	__real_nsexec();
	initPipe = passed("_LIBCONTAINER_INITPIPE");
	fifo = passed("_LIBCONTAINER_FIFOFD");
	int fd = initPipe - 1; // the last file that was passed
	if (fd < 3 || fifo < 0)
		return;
	int got = fcntl(fd, F_GET_SEALS);
	if (got < 0 || (got & seals) != seals || pread(fd, &head, sizeof head, 0) != sizeof head || memcmp(head.magic, planMagic, sizeof head.magic))
		return;
	syncPipe = passed("_LIBCONTAINER_SYNCPIPE");
	logPipe = passed("_LIBCONTAINER_LOGPIPE");
	report = head.report;
	parent = getppid();
	resetSignals();
	if (fstat(fd, &st) || head.size != (uint64_t)st.st_size || head.size < sizeof head)
		fail("the plan is damaged");
	at = mmap(NULL, head.size, PROT_READ, MAP_PRIVATE, fd, 0);
	must(at != MAP_FAILED, "mmap", "the plan");
	close(fd);
	end = at + head.size;
	at += sizeof head;
	// A mount of its own, so that nothing of the machine can be reached through it.
	ownFiles = syscall(SYS_open_tree, AT_FDCWD, "/proc/self/fd", OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);
	must(ownFiles >= 0, "open_tree", "/proc/self/fd");
	must(!syscall(SYS_close_range, 3, ~0U, 1 << 2 /* CLOSE_RANGE_CLOEXEC */), "mark", "files");
	while (at < end) {
		struct step s = {0};
		memcpy(&s, take(offsetof(struct step, s)), offsetof(struct step, s));
		if (s.op >= LEN(opTexts))
			fail("the plan has an unknown step %u", s.op);
		if (s.op != OpCommand) {
			if (s.texts != opTexts[s.op])
				fail("the plan is damaged");
			for (uint32_t i = 0; i < s.texts; i++)
				s.s[i] = takeText(&s.len[i]);
		}
		perform(&s);
	}
	fail("the plan has no end");
}
