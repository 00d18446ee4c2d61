// What the last stage of a start does with a finished program. libcontainer makes
// the placeholder's filter with libseccomp and asks for its program, in order to load
// that; the linker sends this question here. The main filter is loaded at once.
// libcontainer, which takes a program apart instruction by instruction, is given the
// quiet one to load.
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

// The file with the program, see seccomp.go; -1 where there is none.
int keelson_seccomp_program = -1;

int __real_seccomp_export_bpf(const void *ctx, int fd);

enum { most = 4096 }; // instructions, the kernel's own limit

struct program {
	uint32_t flags, main, quiet;
	struct sock_filter code[2 * most];
};

static int deliver(int in, int out, struct program *p) {
	const size_t head = offsetof(struct program, code);
	ssize_t n = pread(in, p, sizeof *p, 0);
	if (n < 0)
		return -errno;
	if ((size_t)n < head || p->main < 1 || p->main > most || p->quiet < 1 || p->quiet > most ||
	    (size_t)n != head + (p->main + p->quiet) * sizeof *p->code)
		return -EINVAL;
	struct sock_fprog main = {.len = p->main, .filter = p->code};
	if (syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, p->flags, &main))
		return -errno;
	size_t size = p->quiet * sizeof *p->code; // less than a pipe holds
	n = write(out, p->code + p->main, size);
	if (n < 0)
		return -errno;
	return (size_t)n == size ? 0 : -EIO;
}

int __wrap_seccomp_export_bpf(const void *ctx, int fd) {
	if (keelson_seccomp_program < 0)
		return __real_seccomp_export_bpf(ctx, fd);
	struct program *p = malloc(sizeof *p);
	if (!p)
		return -ENOMEM;
	int err = deliver(keelson_seccomp_program, fd, p);
	free(p);
	return err;
}
