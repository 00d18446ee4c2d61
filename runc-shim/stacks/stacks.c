#define _GNU_SOURCE
#include <pthread.h>

// Go code has stacks of its own; this is for the runtime and for C.
enum { size = 256 << 10 };

__attribute__((constructor)) static void small_stacks(void) {
	pthread_attr_t attr;
	if (pthread_attr_init(&attr))
		return;
	if (!pthread_attr_setstacksize(&attr, size))
		pthread_setattr_default_np(&attr);
	pthread_attr_destroy(&attr);
}
