package images

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"golang.org/x/sys/unix"

	"keelson/mkimage/imagetest"
)

func writeArchive(t *testing.T, list ...Named) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "images.tar")
	f, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := WriteArchive(f, list); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestArchiveIsWhatLinuxKitReads(t *testing.T) {
	const full = "docker.io/keelson/init:latest"
	file := writeArchive(t, Named{Names: []string{full}, Image: simple(t, "init")})
	again := writeArchive(t, Named{Names: []string{full}, Image: simple(t, "init")})
	one, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	two, err := os.ReadFile(again)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(one, two) {
		t.Error("the same image gave other bytes")
	}
	a, err := OpenArchive(file, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	b, err := a.read("index.json")
	if err != nil {
		t.Fatal(err)
	}
	var m v1.IndexManifest
	if err := json.Unmarshal(b, &m); err != nil {
		t.Fatal(err)
	}
	// LinuxKit adds no tag to a name of its YAML: init: [keelson/init] must find it as well.
	var names []string
	for _, d := range m.Manifests {
		names = append(names, d.Annotations["io.containerd.image.name"])
		if d.Annotations["org.opencontainers.image.ref.name"] != names[len(names)-1] {
			t.Errorf("annotations are %v", d.Annotations)
		}
	}
	if want := []string{"docker.io/keelson/init", full}; !slices.Equal(names, want) {
		t.Errorf("the names are %q, want %q", names, want)
	}
	if list, err := a.Images(); err != nil || len(list) != 1 || !slices.Equal(list[0].Names, []string{full}) {
		t.Errorf("it is read back as %+v, %v", list, err)
	}
	d := m.Manifests[0]
	if d.Platform == nil || d.Platform.String() != "linux/amd64" {
		t.Errorf("platform is %v", d.Platform)
	}
	img, err := openImage(a, d)
	if err != nil {
		t.Fatal(err)
	}
	layers, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	rc, err := layers[0].Compressed()
	if err != nil {
		t.Fatal(err)
	}
	defer rc.Close()
	if _, err := gzip.NewReader(rc); err != nil {
		t.Errorf("the layer is not gzip: %v", err)
	}
}

func TestArchives(t *testing.T) {
	img := simple(t, "saved")
	oci := writeArchive(t, Named{Names: []string{"docker.io/you/app:1"}, Image: img})
	docker := filepath.Join(t.TempDir(), "docker.tar")
	tag, err := name.NewTag("you/app:1")
	if err != nil {
		t.Fatal(err)
	}
	if err := tarball.WriteToFile(docker, tag, img); err != nil {
		t.Fatal(err)
	}
	for what, file := range map[string]string{"OCI": oci, "docker": docker, "OCI, gzip": compressFile(t, oci), "docker, gzip": compressFile(t, docker)} {
		t.Run(what, func(t *testing.T) {
			a, err := OpenArchive(file, 0)
			if err != nil {
				t.Fatal(err)
			}
			if has, err := a.HasImages(); !has || err != nil {
				t.Fatal("says it has no images")
			}
			list, err := a.Images()
			if err != nil {
				t.Fatal(err)
			}
			if len(list) != 1 || !slices.Equal(list[0].Names, []string{"docker.io/you/app:1"}) && what[:3] == "OCI" {
				t.Errorf("got %+v", list)
			}
			if got := files(t, list[0].Image)["f"]; got != "saved" {
				t.Errorf("got %q", got)
			}
			s := OpenStore(t.TempDir())
			if err := s.Put("x", list[0].Image, nil); err != nil {
				t.Fatal(err)
			}
			a.Close()
			stored, err := s.Image("x")
			if err != nil {
				t.Fatal(err)
			}
			if got := files(t, stored)["f"]; got != "saved" {
				t.Errorf("from the store: got %q", got)
			}
		})
	}
}

func TestDockerSaveWithoutANameAndOfSeveral(t *testing.T) {
	digest, err := simple(t, "only").Digest()
	if err != nil {
		t.Fatal(err)
	}
	byID, err := name.NewDigest("you/app@" + digest.String())
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "one.tar")
	if err := tarball.WriteToFile(file, byID, simple(t, "only")); err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(archived(t, file)); got != "map[:only]" {
		t.Errorf("got %v", got)
	}
	several := map[name.Tag]v1.Image{}
	for _, n := range []string{"one", "two"} {
		tag, err := name.NewTag("you/" + n)
		if err != nil {
			t.Fatal(err)
		}
		several[tag] = simple(t, n)
	}
	if err := tarball.MultiWriteToFile(file, several); err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(archived(t, file)); got != "map[docker.io/you/one:latest:one docker.io/you/two:latest:two]" {
		t.Errorf("got %v", got)
	}
}

// archived returns what the images of a tarball hold, by their names.
func archived(t *testing.T, file string) map[string]string {
	t.Helper()
	a, err := OpenArchive(file, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	list, err := a.Images()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, n := range list {
		got[strings.Join(n.Names, " ")] = files(t, n.Image)["f"]
	}
	return got
}

func compressFile(t *testing.T, file string) string {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var buf bytes.Buffer
	zw := gzip.NewWriter(&buf)
	if _, err := zw.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := zw.Close(); err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(t.TempDir(), "x.tar.gz")
	if err := os.WriteFile(out, buf.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	return out
}

func TestBadArchives(t *testing.T) {
	dir := t.TempDir()
	write := func(name string, b []byte) string {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, b, 0o644); err != nil {
			t.Fatal(err)
		}
		return file
	}
	whole, err := os.ReadFile(writeArchive(t, Named{Names: []string{"a:1"}, Image: simple(t, "x")}))
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct{ file, want string }{
		{write("text", bytes.Repeat([]byte("no tar "), 200)), "is not a tarball"},
		{write("cut.tar", whole[:len(whole)-3000]), "read tar"},
		{write("cut.gz", []byte{0x1f, 0x8b, 8, 0, 0}), "EOF"},
		{filepath.Join(dir, "none"), "no such file"},
		{"/dev/zero", "is neither a file nor a directory"},
	} {
		a, err := OpenArchive(test.file, 0)
		if err == nil {
			a.Close()
			t.Errorf("%s was taken", test.file)
			continue
		}
		if !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), test.file) {
			t.Errorf("%s: got %v, want %s", test.file, err, test.want)
		}
	}
}

// pipe makes a pipe that nobody writes to.
func pipe(t *testing.T, dir, name string) string {
	file := filepath.Join(dir, name)
	if err := unix.Mkfifo(file, 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// TestArchivesThatOnlySeemToBeRoots: what a tool did not write to its end is no root
// filesystem, and what others call manifest.json makes no image.
func TestArchivesThatOnlySeemToBeRoots(t *testing.T) {
	const broken = "has a manifest.json that is not whole, so the image in it cannot be read; save the image again"
	manifest := func(text string) []imagetest.Entry { return []imagetest.Entry{imagetest.File("manifest.json", text)} }
	for _, test := range []struct {
		entries []imagetest.Entry
		want    string
	}{
		{nil, "is an empty tarball"},
		{manifest(`[{"Config": "a`), broken},
		{manifest("null"), broken},
		{manifest("[]"), broken},
		{manifest("[null]"), broken},
		{manifest(`[{"Layers": ["a"]}]`), broken},
		{append(manifest("{}"), imagetest.File("version", "Directory Transport Version: 1.1\n")), broken},
		{manifest(`{"name": "app"}`), ""},
		{manifest(`["a.js"]`), ""},
		{manifest(`[{"file": "a.js"}]`), ""},
		{append(manifest("// none"), imagetest.File("etc/passwd", "x")), ""},
	} {
		file := filepath.Join(t.TempDir(), "x.tar")
		if err := os.WriteFile(file, imagetest.Tar(t, test.entries...), 0o644); err != nil {
			t.Fatal(err)
		}
		a, err := OpenArchive(file, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer a.Close()
		has, err := a.HasImages()
		if has || test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), file+": "+test.want)) {
			t.Errorf("%v: %t, %v; want %q", test.entries, has, err, test.want)
		}
	}
}

// TestArchiveOfAPipe: what a shell's <(docker save x) gives is read once, and as a whole.
func TestArchiveOfAPipe(t *testing.T) {
	whole, err := os.ReadFile(writeArchive(t, Named{Names: []string{"a:1"}, Image: simple(t, "x")}))
	if err != nil {
		t.Fatal(err)
	}
	name := pipe(t, t.TempDir(), "pipe")
	done := make(chan error, 1)
	go func() { done <- os.WriteFile(name, whole, 0) }()
	a, err := OpenArchive(name, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	list, err := a.Images()
	if err != nil || len(list) != 1 || files(t, list[0].Image)["f"] != "x" {
		t.Errorf("got %v, %v", list, err)
	}
	if _, _, err := FromRoot(name, ImportOptions{}); err == nil || !strings.Contains(err.Error(), name+" is not a regular file; write the root filesystem to a file first") {
		t.Errorf("a root: got %v", err)
	}
}

// TestStoreWaitsForNoPipe: a folder that somebody else filled may have anything in it.
func TestStoreWaitsForNoPipe(t *testing.T) {
	s := OpenStore(t.TempDir())
	if err := s.Put("a:1", simple(t, "x"), nil); err != nil {
		t.Fatal(err)
	}
	list, err := s.List()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{s.blob(list[0].Digest), filepath.Join(s.Dir(), "index.json")} {
		if err := os.Remove(name); err != nil {
			t.Fatal(err)
		}
		pipe(t, filepath.Dir(name), filepath.Base(name))
		img, err := s.Image("a:1")
		if err == nil {
			_, err = img.RawManifest()
		}
		if err == nil || !strings.Contains(err.Error(), name+" is not a regular file") {
			t.Errorf("got %v", err)
		}
	}
}

func TestFromFolder(t *testing.T) {
	digest := func(umask os.FileMode) v1.Hash {
		dir := t.TempDir()
		if err := os.MkdirAll(filepath.Join(dir, "bin"), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "bin", "app"), []byte("app"), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Link(filepath.Join(dir, "bin", "app"), filepath.Join(dir, "bin", "same")); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink("app", filepath.Join(dir, "bin", "link")); err != nil {
			t.Fatal(err)
		}
		when := time.Unix(int64(umask)*1000, 0)
		if err := os.Chtimes(filepath.Join(dir, "bin", "app"), when, when); err != nil {
			t.Fatal(err)
		}
		img, cleanup, err := FromRoot(dir, ImportOptions{Config: v1.Config{Cmd: []string{"/bin/app"}}, Created: time.Unix(0, 0)})
		if err != nil {
			t.Fatal(err)
		}
		defer cleanup()
		got := files(t, img)
		if got["bin/app"] != "app" {
			t.Errorf("got %v", got)
		}
		cf, err := img.ConfigFile()
		if err != nil || cf.OS != "linux" || cf.Architecture != "amd64" || cf.Config.Cmd[0] != "/bin/app" {
			t.Errorf("configuration %+v, %v", cf, err)
		}
		d, err := img.Digest()
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	if a, b := digest(1), digest(2); a != b {
		t.Errorf("the same files at another time and place gave %s and %s", a, b)
	}
}

// TestFolderEntries looks at what a folder's entries become.
func TestFolderEntries(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"a", "b"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(name), 0o640); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Link(filepath.Join(dir, "a"), filepath.Join(dir, "hard")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("a", filepath.Join(dir, "soft")); err != nil {
		t.Fatal(err)
	}
	owner := "0:0"
	if os.Getuid() == 0 {
		if err := os.Lchown(filepath.Join(dir, "b"), 12, 34); err != nil {
			t.Fatal(err)
		}
		owner = "12:34"
	} else {
		owner = fmt.Sprintf("%d:%d", os.Getuid(), os.Getgid())
	}
	for _, keep := range []bool{false, true} {
		var buf bytes.Buffer
		if err := writeFolder(&buf, dir, folderOptions{keepOwner: keep, mtime: time.Unix(7, 0)}); err != nil {
			t.Fatal(err)
		}
		got := map[string]*tar.Header{}
		var names []string
		tr := tar.NewReader(&buf)
		for {
			h, err := tr.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			got[h.Name] = h
			names = append(names, h.Name)
		}
		if want := []string{"a", "b", "hard", "soft"}; !slices.Equal(names, want) {
			t.Fatalf("got %v, want %v", names, want)
		}
		if h := got["hard"]; h.Typeflag != tar.TypeLink || h.Linkname != "a" {
			t.Errorf("hard is %c to %s", h.Typeflag, h.Linkname)
		}
		if h := got["soft"]; h.Typeflag != tar.TypeSymlink || h.Linkname != "a" {
			t.Errorf("soft is %c to %s", h.Typeflag, h.Linkname)
		}
		want := "0:0"
		if keep {
			want = owner
		}
		if h := got["b"]; fmt.Sprintf("%d:%d", h.Uid, h.Gid) != want || h.Mode != 0o640 || h.ModTime.Unix() != 7 || h.Uname != "" {
			t.Errorf("keep %v: b is %d:%d %s %o of %v, want %s", keep, h.Uid, h.Gid, h.Uname, h.Mode, h.ModTime, want)
		}
	}
}

// TestWhatADirectoryHasThatNoImageHolds leaves sockets and attributes of the machine out,
// and names them.
func TestWhatADirectoryHasThatNoImageHolds(t *testing.T) {
	dir := t.TempDir()
	for i := range 22 {
		l, err := net.Listen("unix", filepath.Join(dir, fmt.Sprintf("s%02d", i)))
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
	}
	if err := os.WriteFile(filepath.Join(dir, "f"), []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	want := []string{"left out of the image: sockets (22), which nothing listens on in an image: /s00, /s01, "}
	if err := unix.Setxattr(filepath.Join(dir, "f"), "user.mine", []byte("1"), 0); err == nil {
		want = append(want, "left out of the image: extended attributes (1) other than security.capability, which are this machine's: /f (user.mine)")
	}
	var got []string
	img, cleanup, err := FromRoot(dir, ImportOptions{Warn: func(format string, a ...any) { got = append(got, fmt.Sprintf(format, a...)) }})
	if err != nil {
		t.Fatal(err)
	}
	defer cleanup()
	if len(got) != len(want) {
		t.Fatalf("got %q, want %q", got, want)
	}
	for i := range got {
		if !strings.HasPrefix(got[i], want[i]) {
			t.Errorf("got %q, want %q", got[i], want[i])
		}
	}
	if !strings.HasSuffix(got[0], "/s19, and 2 more") {
		t.Errorf("got %q", got[0])
	}
	if has := files(t, img); len(has) != 1 || has["f"] != "x" {
		t.Errorf("the image has %v", has)
	}
}

// TestCapabilitiesOfADirectory keeps what lets a program do more than its user may.
func TestCapabilitiesOfADirectory(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "ping")
	if err := os.WriteFile(file, []byte("x"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Link(file, filepath.Join(dir, "ping6")); err != nil {
		t.Fatal(err)
	}
	value := imagetest.Capability(13)
	if err := unix.Setxattr(file, capability, []byte(value), 0); err != nil {
		t.Skipf("this user or file system takes no file capabilities: %v", err)
	}
	var buf bytes.Buffer
	if err := writeFolder(&buf, dir, folderOptions{}); err != nil {
		t.Fatal(err)
	}
	tr := tar.NewReader(&buf)
	hdr, err := tr.Next()
	if err != nil {
		t.Fatal(err)
	}
	if hdr.Name != "ping" || hdr.PAXRecords["SCHILY.xattr.security.capability"] != value {
		t.Errorf("got %+v", hdr)
	}
	if hdr, err = tr.Next(); err != nil || hdr.Typeflag != tar.TypeLink || hdr.Linkname != "ping" {
		t.Errorf("got %+v, %v", hdr, err)
	}
}

// TestSparseFilesOfADirectory makes a small layer of a file with a large hole, the same
// whether the hole is one or is written out.
func TestSparseFilesOfADirectory(t *testing.T) {
	const size = 80 << 20
	var digests []v1.Hash
	for _, written := range []bool{false, true} {
		dir := t.TempDir()
		f, err := os.Create(filepath.Join(dir, "lastlog"))
		if err != nil {
			t.Fatal(err)
		}
		if written {
			if _, err := f.Write(make([]byte, size)); err != nil {
				t.Fatal(err)
			}
		} else if err := f.Truncate(size); err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteAt([]byte("entry"), 70<<20); err != nil {
			t.Fatal(err)
		}
		f.Close()
		// Less than the file has, and more than its data.
		img, cleanup, err := FromRoot(dir, ImportOptions{MaxSize: 1 << 20})
		if err != nil {
			t.Fatal(err)
		}
		defer cleanup()
		if got := files(t, img)["lastlog"]; len(got) != size || got[70<<20:70<<20+5] != "entry" {
			t.Errorf("it has %d bytes", len(got))
		}
		d, err := img.Digest()
		if err != nil {
			t.Fatal(err)
		}
		digests = append(digests, d)
	}
	if digests[0] != digests[1] {
		t.Error("a hole and zeros gave two images")
	}
}

func TestFromTarball(t *testing.T) {
	plain := filepath.Join(t.TempDir(), "root.tar")
	if err := os.WriteFile(plain, imagetest.Tar(t, imagetest.File("./f", "x")), 0o644); err != nil {
		t.Fatal(err)
	}
	var digests []v1.Hash
	for _, file := range []string{plain, compressFile(t, plain)} {
		img, cleanup, err := FromRoot(file, ImportOptions{Created: time.Unix(0, 0)})
		if err != nil {
			t.Fatal(err)
		}
		defer cleanup()
		if got := files(t, img)["f"]; got != "x" {
			t.Errorf("got %q", got)
		}
		d, err := img.Digest()
		if err != nil {
			t.Fatal(err)
		}
		digests = append(digests, d)
	}
	if digests[0] != digests[1] {
		t.Error("compressed and not, one root gave two images")
	}
}

func TestFromBzip2(t *testing.T) {
	b, err := base64.StdEncoding.DecodeString("QlpoOTFBWSZTWaiBV7QAAG1bgMmAYABlAAAA4QAeQAgIIABUMpo0AA0CSaoMjBNNH15jQg1uCEUjxyK9z5QIgIKMTgRdoK++UoiKe64zN6RJA+LuSKcKEhUQKvaA")
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "root.tar.bz2")
	if err := os.WriteFile(file, b, 0o644); err != nil {
		t.Fatal(err)
	}
	img, cleanup, err := FromRoot(file, ImportOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer cleanup()
	if got := files(t, img)["f"]; got != "x" {
		t.Errorf("got %q", got)
	}
}

func TestParseConfig(t *testing.T) {
	c, err := ParseConfig([]byte(`{"Entrypoint": ["/a"], "Labels": {"k": "v"}}`))
	if err != nil || c.Entrypoint[0] != "/a" || c.Labels["k"] != "v" {
		t.Errorf("got %+v, %v", c, err)
	}
	if _, err := ParseConfig([]byte(`{"Entrypont": ["/a"]}`)); err == nil || !strings.Contains(err.Error(), `unknown field "Entrypont"`) {
		t.Errorf("got %v", err)
	}
}
