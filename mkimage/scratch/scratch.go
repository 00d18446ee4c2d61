// Package scratch makes the temporary files and directories of mkimage.
//
//   - It removes what is left of them on any exit that a program can see: RemoveAll,
//     which main calls last, and when a signal ends the program.
//   - A file gets its name once it is whole, and several together: all of them or none.
//   - After RemoveAll nothing is made and nothing gets a name.
package scratch

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"
)

var (
	mu     sync.Mutex
	paths  = map[string]bool{} // guarded by mu
	closed bool                // guarded by mu
)

var errClosed = errors.New("the program is about to exit")

// File makes a temporary file as os.CreateTemp does.
func File(dir, pattern string) (f *os.File, err error) {
	err = add(func() (string, error) {
		if f, err = os.CreateTemp(dir, pattern); err != nil {
			return "", err
		}
		return f.Name(), nil
	})
	return f, err
}

// Dir makes a temporary directory as os.MkdirTemp does, in the system's place for them.
func Dir(pattern string) (dir string, err error) {
	err = add(func() (string, error) {
		dir, err = os.MkdirTemp("", pattern)
		return dir, err
	})
	return dir, err
}

// Add has name, which somebody else makes, removed like the others.
func Add(name string) error { return add(func() (string, error) { return name, nil }) }

func add(create func() (string, error)) error {
	mu.Lock()
	defer mu.Unlock()
	if closed {
		return errClosed
	}
	name, err := create()
	if err == nil {
		paths[name] = true
	}
	return err
}

// Remove removes a temporary file or directory. One that has got its name stays.
func Remove(name string) {
	mu.Lock()
	defer mu.Unlock()
	if paths[name] {
		_ = os.RemoveAll(name)
		delete(paths, name)
	}
}

// RemoveAll removes all there is, and lets nothing be made any more.
func RemoveAll() {
	mu.Lock()
	defer mu.Unlock()
	closed = true
	for name := range paths {
		_ = os.RemoveAll(name)
	}
	clear(paths)
}

// Named is a temporary file and the name it is to get.
type Named struct{ Temp, Name string }

// Publish gives temporary files their names, in place of what had them. If one
// cannot get its name, all are as they were before; on a file system that cannot
// exchange two files, what was replaced by then is gone.
func Publish(list ...Named) error {
	mu.Lock()
	defer mu.Unlock()
	if closed {
		return errClosed
	}
	for i, n := range list {
		if err := swap(n); err != nil {
			for _, done := range list[:i] {
				err = errors.Join(err, swapBack(done))
			}
			return err
		}
	}
	for _, n := range list {
		_ = os.Remove(n.Temp) // what had the name before
		delete(paths, n.Temp)
	}
	return nil
}

// swap gives a file its name; what had the name is then the temporary file.
func swap(n Named) error {
	if fi, err := os.Lstat(n.Name); err == nil && fi.IsDir() {
		return fmt.Errorf("write %s: a folder is there; remove it, or take another name", n.Name)
	}
	err := exchange(n)
	if err != nil { // there is nothing yet, or the file system cannot exchange
		err = os.Rename(n.Temp, n.Name)
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", n.Name, err)
	}
	return nil
}

func exchange(n Named) error {
	return unix.Renameat2(unix.AT_FDCWD, n.Temp, unix.AT_FDCWD, n.Name, unix.RENAME_EXCHANGE)
}

// swapBack undoes a swap.
func swapBack(n Named) error {
	if _, err := os.Lstat(n.Temp); err == nil {
		return exchange(n)
	}
	return os.Rename(n.Name, n.Temp)
}

// Replace writes a file, whole or not at all.
func Replace(name string, b []byte) error {
	f, err := File(filepath.Dir(name), "."+filepath.Base(name)+".*")
	if err != nil {
		return err
	}
	defer Remove(f.Name())
	_, err = f.Write(b)
	if err = errors.Join(err, f.Chmod(0o644), f.Close()); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return Publish(Named{f.Name(), name})
}
