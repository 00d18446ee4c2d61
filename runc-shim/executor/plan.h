// What a plan consists of. Package plan has the same in Go, and a test holds one
// against the other.
#include <stdint.h>

static const char planMagic[8] = "keelplan";

struct planHead {
	char magic[8];
	uint32_t size;   // of all of it
	uint32_t report; // the descriptor that the error of a failed exec goes to
};

// X(name, texts of the step)
#define PLAN_STEPS(X)                                                                                                  \
	X(Keyring, 1)                                                                                                  \
	X(Loopback, 0)                                                                                                 \
	X(Root, 1)                                                                                                     \
	X(Mount, 5)                                                                                                    \
	X(Device, 1)                                                                                                   \
	X(Link, 3)                                                                                                     \
	X(Hooks, 0)                                                                                                    \
	X(Pivot, 0)                                                                                                    \
	X(Propagation, 0)                                                                                              \
	X(Null, 0)                                                                                                     \
	X(Mkdir, 1)                                                                                                    \
	X(Remount, 1)                                                                                                  \
	X(ReadonlyRoot, 0)                                                                                             \
	X(Umask, 0)                                                                                                    \
	X(Hostname, 1)                                                                                                 \
	X(Domainname, 1)                                                                                               \
	X(Sysctl, 3)                                                                                                   \
	X(ReadonlyPath, 1)                                                                                             \
	X(Mask, 1)                                                                                                     \
	X(NoNewPrivileges, 0)                                                                                          \
	X(Ready, 0)                                                                                                    \
	X(Seccomp, 1)                                                                                                  \
	X(Close, 0)                                                                                                    \
	X(Chdir, 1)                                                                                                    \
	X(Home, 0)                                                                                                     \
	X(Bounding, 0)                                                                                                 \
	X(User, 1)                                                                                                     \
	X(Enter, 1)                                                                                                    \
	X(Capabilities, 0)                                                                                             \
	X(Command, 0) /* any number: arguments, environment, directories of PATH */                                    \
	X(Run, 0)

#define PLAN_OP(name, texts) Op##name,
#define PLAN_TEXT(name, texts) texts,
enum { PLAN_STEPS(PLAN_OP) };
#define PLAN_TEXTS PLAN_STEPS(PLAN_TEXT)

// The texts and numbers of a mount.
enum { MountFrom, MountTo, MountType, MountData, MountPropagation };
enum { MountKind, MountFlags, MountRemount };
enum { KindOther, KindProc, KindSysfs, KindTmpfs, KindBind };
