// What the last stage of a start does with a finished program. libcontainer makes
// the placeholder's filter with libseccomp and asks for its program, in order to put
// its own answer to unknown calls before it and to load the whole; the linker sends
// that question here.
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <unistd.h>

// The file with the program, see seccomp.go; -1 where there is none.
int keelson_seccomp_program = -1;

int __real_seccomp_export_bpf(const void *ctx, int fd);

enum { most = 4096 }; // instructions, the kernel's own limit

static int all(ssize_t done, size_t want) {
	if (done < 0)
		return -errno;
	return (size_t)done == want ? 0 : -EIO;
}

static int deliver(int in, int out, struct sock_filter *code) {
	uint32_t n[2];
	int err = all(pread(in, n, sizeof n, 0), sizeof n);
	if (err)
		return err;
	if (n[0] > most || n[1] > most)
		return -EINVAL;
	if (n[0] > 0) {
		size_t size = n[0] * sizeof *code;
		if ((err = all(pread(in, code, size, sizeof n), size)))
			return err;
		struct sock_fprog quiet = {.len = n[0], .filter = code};
		if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &quiet, 0, 0))
			return -errno;
	}
	size_t size = n[1] * sizeof *code; // less than a pipe holds
	if ((err = all(pread(in, code, size, sizeof n + n[0] * sizeof *code), size)))
		return err;
	return all(write(out, code, size), size);
}

int __wrap_seccomp_export_bpf(const void *ctx, int fd) {
	if (keelson_seccomp_program < 0)
		return __real_seccomp_export_bpf(ctx, fd);
	struct sock_filter *code = malloc(most * sizeof *code);
	if (!code)
		return -ENOMEM;
	int err = deliver(keelson_seccomp_program, fd, code);
	free(code);
	return err;
}
