package images

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"testing"
	"time"
)

func TestDevicesOfAnImageThatAFolderLacks(t *testing.T) {
	null, err := ParseDevice("/dev/null:1:3")
	if err != nil {
		t.Fatal(err)
	}
	var buf bytes.Buffer
	if err := writeFolder(&buf, t.TempDir(), folderOptions{mtime: time.Unix(7, 0), devices: []Device{null}}); err != nil {
		t.Fatal(err)
	}
	tr := tar.NewReader(&buf)
	h, err := tr.Next()
	if err != nil || h.Typeflag != tar.TypeChar || h.Name != "dev/null" || h.Devmajor != 1 || h.Devminor != 3 || h.Mode != 0o666 {
		t.Errorf("got %+v, %v", h, err)
	}
	if _, err := tr.Next(); !errors.Is(err, io.EOF) {
		t.Errorf("more than the device: %v", err)
	}
	for _, text := range []string{"", "/dev/null", "/dev/null:1", "/dev/null:a:3", "/:1:3", "/dev/null:-1:3", "/dev/null:1:3:4", "/dev/null:5000:3"} {
		if d, err := ParseDevice(text); err == nil {
			t.Errorf("%q was taken for %+v", text, d)
		}
	}
}
