package modules

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"
)

// modprobePath is where the kernel looks for its helper.
const modprobePath = "/proc/sys/kernel/modprobe"

// modprobeTimeout bounds one run of ModprobeMain; whoever asked the kernel for
// the module waits for it.
const modprobeTimeout = 60 * time.Second

// SetHelper makes program, an absolute path, what the kernel runs when it needs a
// module itself: a file system for a mount, a link type for netlink, a protocol
// for a socket. The kernel calls it as "PROGRAM -q -- NAME"; see ModprobeMain.
func SetHelper(program string) error {
	if err := os.WriteFile(modprobePath, []byte(program), 0); err != nil {
		if errors.Is(err, os.ErrNotExist) {
			return nil // a kernel without modules
		}
		return fmt.Errorf("set the kernel's module helper: %w", err)
	}
	return nil
}

// IsModprobe reports whether a program was started to be modprobe: by that name,
// or by the kernel as its helper, with "-q -- NAME" and nothing else.
func IsModprobe(argv []string) bool {
	if len(argv) == 0 {
		return false
	}
	name := argv[0][strings.LastIndexByte(argv[0], '/')+1:]
	return name == "modprobe" || len(argv) == 4 && argv[1] == "-q" && argv[2] == "--"
}

const modprobeUsage = `usage: modprobe [-q] [-v] [-b] NAME [PARAMETER=VALUE ...]
       modprobe [-q] [-v] [-b] -a NAME ...
Loads a kernel module, by its name or an alias, and the modules it needs.
  -a, --all             every argument is a module
  -b, --use-blacklist   leave out blacklisted modules when a module's own name is given
  -q, --quiet           say nothing about a name that is not known
  -v, --verbose         say what is loaded
`

// ModprobeMain is a modprobe(8) for what the kernel calls and for simple use by
// hand; args are without the program's name. It returns the exit status.
func ModprobeMain(args []string) int {
	ctx, cancel := context.WithTimeout(context.Background(), modprobeTimeout)
	defer cancel()
	// As the kernel's helper there is nobody to read: what goes wrong belongs into
	// the supervisor's log, or else into the kernel's.
	if len(args) == 3 && args[0] == "-q" && args[1] == "--" {
		r := Request{Name: args[2], Askers: askers("/proc")}
		status := r.serve(ctx, func() (*Index, error) { return Open(Running()) })
		if r.idle() || r.report(RequestSocket) == nil {
			return status
		}
		if kmsg, err := os.OpenFile("/dev/kmsg", os.O_WRONLY, 0); err == nil {
			defer kmsg.Close()
			fmt.Fprintf(kmsg, "modprobe: %v\n", r)
		}
		return status
	}
	return modprobe(ctx, args, os.Stdout, os.Stderr, func() (*Index, error) { return Open(Running()) })
}

type modprobeFlags struct {
	all, blacklist, quiet, verbose bool
	names                          []string
}

func parseModprobe(args []string) (f modprobeFlags, err error) {
	for i, arg := range args {
		switch arg {
		case "--":
			f.names = append(f.names, args[i+1:]...)
			return f, nil
		case "--all":
			f.all = true
		case "--use-blacklist":
			f.blacklist = true
		case "--quiet":
			f.quiet = true
		case "--verbose":
			f.verbose = true
		default:
			if !strings.HasPrefix(arg, "-") || arg == "-" {
				f.names = append(f.names, arg)
				continue
			}
			for _, c := range arg[1:] {
				switch c {
				case 'a':
					f.all = true
				case 'b':
					f.blacklist = true
				case 'q':
					f.quiet = true
				case 'v':
					f.verbose = true
				default:
					return f, fmt.Errorf("unknown option %s", arg)
				}
			}
		}
	}
	return f, nil
}

func modprobe(ctx context.Context, args []string, stdout, stderr io.Writer, open func() (*Index, error)) int {
	f, err := parseModprobe(args)
	if err == nil && len(f.names) == 0 {
		err = errors.New("name a module")
	}
	if err != nil {
		fmt.Fprintf(stderr, "modprobe: %v\n%s", err, modprobeUsage)
		return 2
	}
	x, err := open()
	if err != nil {
		if !f.quiet {
			fmt.Fprintf(stderr, "modprobe: %v\n", err)
		}
		return 1
	}
	names, params := f.names[:1], f.names[1:]
	if f.all {
		names, params = f.names, nil
	}
	status := 0
	for _, name := range names {
		fresh, err := x.modprobe(ctx, name, params, f.blacklist)
		if f.verbose {
			for _, n := range fresh {
				fmt.Fprintf(stdout, "%s\n", n)
			}
		}
		if err == nil {
			continue
		}
		status = 1
		if !f.quiet || !errors.Is(err, ErrNotFound) {
			fmt.Fprintf(stderr, "modprobe: %v\n", err)
		}
	}
	return status
}

func (x *Index) modprobe(ctx context.Context, name string, params []string, blacklist bool) (loaded []string, err error) {
	names, err := x.resolve(name)
	if err != nil {
		return nil, err
	}
	var errs []error
	for _, n := range names {
		if blacklist && x.conf.blacklist[n] {
			continue
		}
		fresh, err := x.load(ctx, n, strings.Join(params, " "))
		loaded = append(loaded, fresh...)
		if err != nil {
			errs = append(errs, err)
		}
	}
	return loaded, errors.Join(errs...)
}
