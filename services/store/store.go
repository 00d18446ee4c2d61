// Package store owns the small files by which a supervisor knows what an
// earlier one of the same boot did.
//
// It promises that a file is the old one or the new one, never half of each,
// and that one which cannot be read is set aside and said, not fatal. The files
// live on a tmpfs and end with the boot.
package store

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// Save writes v as JSON to path, atomically, making the folder if need be.
func Save(path string, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode %s: %w", path, err)
	}
	return Write(path, data)
}

// Write is Save for what is bytes already.
func Write(path string, data []byte) error {
	tmp := path + ".new"
	err := InFolder(filepath.Dir(path), 0o700, func() error { return os.WriteFile(tmp, data, 0o600) })
	if err != nil {
		_ = os.Remove(tmp)
		return fmt.Errorf("save %s: %w", path, err)
	}
	if err := os.Rename(tmp, path); err != nil {
		return fmt.Errorf("save %s: %w", path, err)
	}
	return nil
}

// InFolder does something that needs a folder, and does it again if that was missing and
// has been made: this costs nothing where it is there, as it mostly is.
func InFolder(dir string, mode fs.FileMode, do func() error) error {
	err := do()
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.MkdirAll(dir, mode); err != nil {
		return err
	}
	return do()
}

// Load reads what Save wrote into v and reports whether there was something. A
// file that cannot be read is renamed to PATH.corrupt and is an error; v is
// then as it was.
func Load[T any](path string, v *T) (bool, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	var read T
	if err == nil {
		err = json.Unmarshal(data, &read)
	}
	if err != nil {
		aside := path + ".corrupt"
		if rerr := os.Rename(path, aside); rerr != nil {
			return false, fmt.Errorf("read %s: %w; it could not be set aside: %w", path, err, rerr)
		}
		return false, fmt.Errorf("read %s: %w; it is set aside as %s", path, err, aside)
	}
	*v = read
	return true, nil
}
