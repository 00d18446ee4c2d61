// Package seccomp gives a container its seccomp filter as a finished program.
//
// libcontainer compiles a profile in the last stage of each start and of each
// exec, with libseccomp, and is handed it there as JSON: ten milliseconds of a small
// machine for the default profile. Here a configuration has the profile's name and a
// placeholder (internal/harden), the shim compiles the profile of that name once, and
// passes the program, as a sealed memfd, to the last stage. There libcontainer still
// decides when the filter is loaded: when it asks libseccomp for the placeholder's
// program, the finished one is loaded (see program.c).
//
// It promises
//   - the answer to every call that the profile gives, and ENOSYS to calls beyond the
//     last one of a profile that refuses, as libcontainer has it;
//   - to leave a profile without a name to libcontainer;
//   - that a container whose program does not arrive does not run: the placeholder
//     kills it with its next call;
//   - that explicit refusals, such as that of clone3 with ENOSYS, which C libraries
//     ask for with every thread, are not logged: those are a filter of their own.
package seccomp

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"unsafe"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"keelson/internal/harden"
)

// fileName is the memfds' name.
const fileName = "keelson-seccomp"

// Program returns the program of a configuration whose seccomp profile is a
// placeholder; nil for any other configuration.
func Program(s *specs.Spec) (*os.File, error) {
	if s.Linux == nil || !harden.IsPlaceholder(s.Linux.Seccomp) {
		return nil, nil
	}
	name, ok := s.Annotations[harden.SeccompAnnotation]
	if !ok {
		return nil, fmt.Errorf("a placeholder stands for the seccomp profile, and no annotation %s names that", harden.SeccompAnnotation)
	}
	return named(name)
}

// programs are those that were made, by the names of their profiles. Containers share
// them for as long as the shim lives: there are few.
var programs struct {
	sync.Mutex
	byName map[string]*os.File
}

func named(name string) (*os.File, error) {
	programs.Lock()
	defer programs.Unlock()
	if f := programs.byName[name]; f != nil {
		return f, nil
	}
	p, err := harden.Named(name)
	if err != nil {
		return nil, fmt.Errorf("annotation %s: %w", harden.SeccompAnnotation, err)
	}
	quiet, main, ok := compile(p)
	if !ok {
		return nil, fmt.Errorf("seccomp profile %q has rules that are not known here", name)
	}
	f, err := file(flags(p), quiet, main)
	if err != nil {
		return nil, err
	}
	if programs.byName == nil {
		programs.byName = map[string]*os.File{}
	}
	programs.byName[name] = f
	return f, nil
}

// Code returns what a program's file holds, nothing for none.
func Code(f *os.File) ([]byte, error) {
	if f == nil {
		return nil, nil
	}
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	code := make([]byte, info.Size())
	if _, err := f.ReadAt(code, 0); err != nil {
		return nil, fmt.Errorf("read the program of a seccomp profile: %w", err)
	}
	return code, nil
}

// flags are what the main filter is loaded with.
func flags(p *specs.LinuxSeccomp) uint32 {
	if slices.Contains(p.Flags, specs.LinuxSeccompFlagLog) {
		return unix.SECCOMP_FILTER_FLAG_LOG
	}
	return 0
}

// file returns a sealed file with a program: the main filter's flags, the lengths of
// both filters, then the main filter and the quiet one.
func file(flags uint32, quiet, main []unix.SockFilter) (*os.File, error) {
	var b strings.Builder
	for _, n := range []uint32{flags, uint32(len(main)), uint32(len(quiet))} {
		b.Write((*[4]byte)(unsafe.Pointer(&n))[:])
	}
	for _, i := range slices.Concat(main, quiet) {
		b.Write((*[8]byte)(unsafe.Pointer(&i))[:])
	}
	fd, err := unix.MemfdCreate(fileName, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	f := os.NewFile(uintptr(fd), fileName)
	if _, err := f.WriteString(b.String()); err != nil {
		f.Close()
		return nil, err
	}
	const seals = unix.F_SEAL_SEAL | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_WRITE
	if _, err := unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, seals); err != nil {
		f.Close()
		return nil, os.NewSyscallError("fcntl(F_ADD_SEALS)", err)
	}
	return f, nil
}
