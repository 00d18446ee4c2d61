// The constructor runs in every process of this binary, before the Go runtime starts.
// It recognizes containerd's call by its arguments:
//
//	-namespace NAMESPACE ... -bundle DIRECTORY ... delete
//
// Whatever goes wrong, it leaves the call to the Go program.
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

enum { most = 4096 };

__attribute__((constructor)) static void answer_delete(int argc, char **argv) {
	if (argc < 5 || strcmp(argv[1], "-namespace") || strcmp(argv[argc - 1], "delete"))
		return;
	for (int i = 1; i < argc - 2; i++) {
		char path[most], data[most];
		if (strcmp(argv[i], "-bundle"))
			continue;
		int length = snprintf(path, sizeof path, "%s/deleted", argv[i + 1]);
		if (length < 0 || (size_t)length >= sizeof path)
			return;
		int fd = open(path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
		if (fd < 0)
			return;
		ssize_t size = read(fd, data, sizeof data);
		close(fd);
		// A pipe takes so much at once.
		if (size > 0 && write(STDOUT_FILENO, data, size) == size)
			_exit(0);
		return;
	}
}
