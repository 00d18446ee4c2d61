package imagetest

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// Form is one image in the form that a tool writes it in, made from what those tools'
// sources and formats have, so that it is the same bytes each time.
type Form struct {
	Name   string   // of the file or directory
	Dir    bool     // a directory; else a tarball
	Names  []string // that the image has in it
	Tags   []string // that it has without a name
	Digest string   // of the manifest, where the form keeps the registry's
	Err    string   // what the error of a form has that cannot be taken
	files  []Entry
}

// Write writes a form into a directory and returns its path.
func (f Form) Write(t testing.TB, dir string) string {
	t.Helper()
	name := filepath.Join(dir, f.Name)
	if !f.Dir {
		if err := os.WriteFile(name, Tar(t, f.files...), 0o644); err != nil {
			t.Fatal(err)
		}
		return name
	}
	for _, e := range f.files {
		file := filepath.Join(name, e.Name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		var err error
		switch e.Typeflag {
		case tar.TypeReg:
			err = os.WriteFile(file, []byte(e.Body), 0o644)
		case tar.TypeSymlink:
			err = os.Symlink(e.Linkname, file)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return name
}

// WildFiles is what is in each image of Wild.
var WildFiles = map[string]string{"app": "app", "same": "app", "f": "upper"}

// Media types.
const (
	ociIndex       = "application/vnd.oci.image.index.v1+json"
	ociManifest    = "application/vnd.oci.image.manifest.v1+json"
	ociConfig      = "application/vnd.oci.image.config.v1+json"
	ociTar         = "application/vnd.oci.image.layer.v1.tar"
	dockerList     = "application/vnd.docker.distribution.manifest.list.v2+json"
	dockerManifest = "application/vnd.docker.distribution.manifest.v2+json"
	dockerConfig   = "application/vnd.docker.container.image.v1+json"
	dockerLayer    = "application/vnd.docker.image.rootfs.diff.tar.gzip"
)

type object map[string]any

// blob is a file that is named by its digest.
type blob struct {
	mediaType string
	data      []byte
}

func (b blob) hex() string    { sum := sha256.Sum256(b.data); return hex.EncodeToString(sum[:]) }
func (b blob) digest() string { return "sha256:" + b.hex() }
func (b blob) entry() Entry   { return File("blobs/sha256/"+b.hex(), string(b.data)) }

// desc is a descriptor of a blob, with more keys.
func (b blob) desc(more object) object {
	o := object{"mediaType": b.mediaType, "digest": b.digest(), "size": len(b.data)}
	for k, v := range more {
		o[k] = v
	}
	return o
}

func jsonBlob(t testing.TB, mediaType string, v any) blob {
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return blob{mediaType, b}
}

// wild is the image, in parts.
type wild struct {
	t        testing.TB
	layers   []blob // uncompressed
	config   blob
	arm      blob // its configuration for another machine
	packed   []blob
	manifest blob
}

func newWild(t testing.TB) *wild {
	w := &wild{t: t}
	for _, entries := range [][]Entry{
		{File("app", "app"), HardLink("same", "app"), File("f", "lower"), File("gone", "x")},
		{File("f", "upper"), File(".wh.gone", "")},
	} {
		w.layers = append(w.layers, blob{ociTar, Tar(t, entries...)})
	}
	config := func(arch string) blob {
		return jsonBlob(t, ociConfig, object{"architecture": arch, "os": "linux", "config": object{"Cmd": []string{"/app"}},
			"rootfs": object{"type": "layers", "diff_ids": []string{w.layers[0].digest(), w.layers[1].digest()}}})
	}
	w.config, w.arm = config("amd64"), config("arm64")
	for _, l := range w.layers {
		w.packed = append(w.packed, blob{ociTar + "+gzip", stored(t, l.data)})
	}
	w.manifest = w.ociManifest(w.config, w.packed)
	return w
}

func (w *wild) ociManifest(config blob, layers []blob) blob {
	m := object{"schemaVersion": 2, "mediaType": ociManifest, "config": config.desc(nil)}
	var list []object
	for _, l := range layers {
		list = append(list, l.desc(nil))
	}
	m["layers"] = list
	return jsonBlob(w.t, ociManifest, m)
}

// dockerManifest is as Docker's registry has it.
func (w *wild) dockerManifest() blob {
	m := object{"schemaVersion": 2, "mediaType": dockerManifest, "config": blob{dockerConfig, w.config.data}.desc(nil)}
	var list []object
	for _, l := range w.packed {
		list = append(list, blob{dockerLayer, l.data}.desc(nil))
	}
	m["layers"] = list
	return jsonBlob(w.t, dockerManifest, m)
}

// stored is gzip that compresses nothing, so that it is the same of any library.
func stored(t testing.TB, b []byte) []byte {
	var buf bytes.Buffer
	zw, err := gzip.NewWriterLevel(&buf, gzip.NoCompression)
	if err == nil {
		_, err = zw.Write(b)
	}
	if err == nil {
		err = zw.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// storedZstd is a zstd frame of one raw block (RFC 8878).
func storedZstd(b []byte) []byte {
	out := []byte{0x28, 0xb5, 0x2f, 0xfd, 0xa0}
	out = binary.LittleEndian.AppendUint32(out, uint32(len(b)))
	header := uint32(len(b))<<3 | 1
	return append(append(out, byte(header), byte(header>>8), byte(header>>16)), b...)
}

// layout is an OCI image layout of blobs and what index.json lists.
func (w *wild) layout(manifests any, blobs ...blob) []Entry {
	files := []Entry{Dir("blobs"), Dir("blobs/sha256")}
	for _, b := range blobs {
		files = append(files, b.entry())
	}
	index := jsonBlob(w.t, ociIndex, object{"schemaVersion": 2, "mediaType": ociIndex, "manifests": manifests})
	return append(files, File("index.json", string(index.data)), File("oci-layout", `{"imageLayoutVersion":"1.0.0"}`))
}

// saved is manifest.json of docker save.
func (w *wild) saved(config string, tags any, layers ...string) Entry {
	b := jsonBlob(w.t, "", []object{{"Config": config, "RepoTags": tags, "Layers": layers}})
	return File("manifest.json", string(b.data))
}

func named(full, tag string) object {
	return object{"annotations": object{"io.containerd.image.name": full, "org.opencontainers.image.ref.name": tag}}
}

func platform(arch string) object {
	return object{"platform": object{"os": "linux", "architecture": arch}}
}

func (w *wild) all(more ...blob) []blob {
	return append(slices.Concat(w.packed, []blob{w.config, w.manifest}), more...)
}

const (
	wildName = "docker.io/you/app:1"
	wildTag  = "you/app:1"
)

// Wild returns the image in each of the forms.
func Wild(t testing.TB) []Form {
	w := newWild(t)
	return slices.Concat(w.docker(), w.buildx(), w.podman(), w.crane(), w.others(), w.refused())
}

func (w *wild) docker() []Form {
	one := []string{wildName}
	raw := w.ociManifest(w.config, w.layers)
	blobs := slices.Concat(w.layers, []blob{w.config, raw})
	sources := object{}
	for _, l := range w.layers {
		sources[l.digest()] = l.desc(nil)
	}
	save25 := func(tags any) Entry {
		b := jsonBlob(w.t, "", []object{{"Config": "blobs/sha256/" + w.config.hex(), "RepoTags": tags, "LayerSources": sources,
			"Layers": []string{"blobs/sha256/" + w.layers[0].hex(), "blobs/sha256/" + w.layers[1].hex()}}})
		return File("manifest.json", string(b.data))
	}
	// A layer that comes again is a link to the first.
	id := func(i int) string { return strings.Repeat(string(rune('a'+i)), 64) }
	old := []Entry{File(w.config.hex()+".json", string(w.config.data))}
	for i, l := range w.layers {
		old = append(old, Dir(id(i)), File(id(i)+"/VERSION", "1.0"), File(id(i)+"/json", "{}"), File(id(i)+"/layer.tar", string(l.data)))
	}
	old = append(old, Dir(id(2)), File(id(2)+"/VERSION", "1.0"), File(id(2)+"/json", "{}"), Symlink(id(2)+"/layer.tar", "../"+id(0)+"/layer.tar"))
	twice := func(tags any) []Entry {
		return append(slices.Clone(old), w.saved(w.config.hex()+".json", tags, id(2)+"/layer.tar", id(1)+"/layer.tar"), File("repositories", `{}`))
	}
	return []Form{
		{Name: "docker-24.tar", Names: one, files: twice([]string{wildTag})},
		{Name: "docker-24-dir", Dir: true, Names: one, files: twice([]string{wildTag})}, // unpacked
		{Name: "docker-24-names.tar", Names: []string{wildName, "docker.io/you/other:2"}, files: twice([]string{wildTag, "you/other:2"})},
		{Name: "docker-25.tar", Names: one, Digest: raw.digest(),
			files: append(w.layout([]object{raw.desc(named(wildName, "1"))}, blobs...), save25([]string{wildTag}), File("repositories", `{}`))},
		{Name: "docker-25-names.tar", Names: []string{wildName, "docker.io/you/other:2"}, Digest: raw.digest(),
			files: append(w.layout([]object{raw.desc(named(wildName, "1")), raw.desc(named("docker.io/you/other:2", "2"))}, blobs...), save25([]string{wildTag, "you/other:2"}))},
		{Name: "docker-25-digest.tar", files: append(w.layout(nil, blobs...), save25(nil))},
	}
}

func (w *wild) buildx() []Form {
	one := []string{wildName}
	attestation := jsonBlob(w.t, ociManifest, object{"schemaVersion": 2, "mediaType": ociManifest, "config": w.arm.desc(nil),
		"layers": []object{blob{"application/vnd.in-toto+json", []byte("{}")}.desc(nil)}})
	attested := attestation.desc(object{"platform": object{"os": "unknown", "architecture": "unknown"},
		"annotations": object{"vnd.docker.reference.type": "attestation-manifest", "vnd.docker.reference.digest": w.manifest.digest()}})
	arm := w.ociManifest(w.arm, w.packed)
	index := jsonBlob(w.t, ociIndex, object{"schemaVersion": 2, "mediaType": ociIndex,
		"manifests": []object{arm.desc(platform("arm64")), attested, w.manifest.desc(platform("amd64"))}})
	blobs := w.all(attestation, arm, index)
	var zstd []blob
	for _, l := range w.layers {
		zstd = append(zstd, blob{ociTar + "+zstd", storedZstd(l.data)})
	}
	small := w.ociManifest(w.config, zstd)
	return []Form{
		{Name: "buildx-docker.tar", Names: one, Digest: w.manifest.digest(), files: append(w.layout([]object{w.manifest.desc(named(wildName, "1"))}, w.all()...),
			w.saved("blobs/sha256/"+w.config.hex(), []string{wildTag}, "blobs/sha256/"+w.packed[0].hex(), "blobs/sha256/"+w.packed[1].hex()))},
		{Name: "buildx-oci.tar", Names: one, Digest: w.manifest.digest(), files: w.layout([]object{index.desc(named(wildName, "1"))}, blobs...)},
		{Name: "buildx-oci-dir", Dir: true, Names: one, Digest: w.manifest.digest(), files: w.layout([]object{index.desc(named(wildName, "1"))}, blobs...)},
		{Name: "buildx-zstd.tar", Digest: small.digest(), files: w.layout([]object{small.desc(platform("amd64"))}, slices.Concat(zstd, []blob{w.config, small})...)},
	}
}

func (w *wild) podman() []Form {
	one := []string{wildName}
	var files []Entry
	var layers []string
	for i, l := range w.layers {
		id := strings.Repeat(string(rune('c'+i)), 64)
		layers = append(layers, l.hex()+".tar")
		files = append(files, File(l.hex()+".tar", string(l.data)), File(id+"/VERSION", "1.0"), File(id+"/json", "{}"), Symlink(id+"/layer.tar", "../"+l.hex()+".tar"))
	}
	files = append(files, File(w.config.hex()+".json", string(w.config.data)), w.saved(w.config.hex()+".json", []string{wildTag}, layers...), File("repositories", "{}"))
	ref := func(s string) object { return object{"annotations": object{"org.opencontainers.image.ref.name": s}} }
	old := w.dockerManifest()
	dir := []Entry{File("version", "Directory Transport Version: 1.1\n"), File("manifest.json", string(old.data))}
	var blobs []Entry
	for _, b := range append(slices.Clone(w.packed), w.config) {
		blobs = append(blobs, File(b.hex(), string(b.data)))
	}
	arm := w.ociManifest(w.arm, w.packed)
	list := jsonBlob(w.t, dockerList, object{"schemaVersion": 2, "mediaType": dockerList,
		"manifests": []object{arm.desc(platform("arm64")), old.desc(platform("amd64"))}})
	everything := []Entry{File("version", "Directory Transport Version: 1.1\n"), File("manifest.json", string(list.data)),
		File(arm.hex()+".manifest.json", string(arm.data)), File(old.hex()+".manifest.json", string(old.data)), File(w.arm.hex(), string(w.arm.data))}
	return []Form{
		{Name: "podman-docker.tar", Names: one, files: files},
		{Name: "podman-oci.tar", Names: one, Digest: w.manifest.digest(), files: w.layout([]object{w.manifest.desc(ref(wildName))}, w.all()...)},
		{Name: "skopeo-dir", Dir: true, Digest: old.digest(), files: append(dir, blobs...)},
		{Name: "skopeo-dir-all", Dir: true, Digest: old.digest(), files: append(everything, blobs...)},
		{Name: "skopeo-dir.tar", Digest: old.digest(), files: append(dir, blobs...)},
		{Name: "skopeo-oci-dir", Dir: true, Tags: []string{"1"}, Digest: w.manifest.digest(), files: w.layout([]object{w.manifest.desc(ref("1"))}, w.all()...)},
		{Name: "skopeo-docker.tar", Names: one, files: append(slices.Clone(files[:0:0]),
			File(layers[0], string(w.layers[0].data)), File(layers[1], string(w.layers[1].data)), File(w.config.hex()+".json", string(w.config.data)),
			w.saved(w.config.hex()+".json", []string{wildTag}, layers...))},
	}
}

// crane, ko and kaniko write with one library.
func (w *wild) crane() []Form {
	one := []string{wildName}
	tarball := func(tag string) []Entry {
		return []Entry{File(w.config.digest(), string(w.config.data)), File(w.packed[0].hex()+".tar.gz", string(w.packed[0].data)),
			File(w.packed[1].hex()+".tar.gz", string(w.packed[1].data)),
			w.saved(w.config.digest(), []string{tag}, w.packed[0].hex()+".tar.gz", w.packed[1].hex()+".tar.gz")}
	}
	arm := w.ociManifest(w.arm, w.packed)
	index := jsonBlob(w.t, ociIndex, object{"schemaVersion": 2, "mediaType": ociIndex, "manifests": []object{arm.desc(platform("arm64")), w.manifest.desc(platform("amd64"))}})
	outer := jsonBlob(w.t, ociIndex, object{"schemaVersion": 2, "manifests": []object{index.desc(nil)}})
	return []Form{
		{Name: "crane.tar", Names: one, files: tarball("index.docker.io/" + wildTag)},
		{Name: "crane-digest.tar", files: tarball("index.docker.io/you/app:i-was-a-digest")},
		{Name: "crane-oci-dir", Dir: true, Digest: w.manifest.digest(), files: w.layout([]object{w.manifest.desc(nil)}, w.all()...)},
		{Name: "ko.tar", Names: one, files: tarball(wildTag)},
		{Name: "ko-oci-dir", Dir: true, Digest: w.manifest.digest(), files: w.layout([]object{outer.desc(nil)}, w.all(arm, w.arm, index, outer)...)},
		{Name: "kaniko.tar", Names: []string{"registry.example.com/you/app:1"}, files: tarball("registry.example.com/" + wildTag)},
		{Name: "kaniko-zstd.tar", Names: one, files: []Entry{File(w.config.digest(), string(w.config.data)), File("0.tar.zst", string(storedZstd(w.layers[0].data))),
			File("1.tar.gz", string(w.packed[1].data)), w.saved(w.config.digest(), []string{wildTag}, "0.tar.zst", "1.tar.gz")}},
		{Name: "kaniko-oci-dir", Dir: true, Digest: w.manifest.digest(), files: w.layout([]object{w.manifest.desc(nil)}, w.all()...)},
	}
}

func (w *wild) others() []Form {
	one := []string{wildName}
	arm := w.ociManifest(w.arm, w.packed)
	armed := w.all(arm, w.arm)
	missing := jsonBlob(w.t, ociIndex, object{"schemaVersion": 2, "mediaType": ociIndex, "manifests": []object{arm.desc(platform("arm64"))}})
	index := jsonBlob(w.t, ociIndex, object{"schemaVersion": 2, "mediaType": ociIndex, "manifests": []object{missing.desc(nil), arm.desc(nil), w.manifest.desc(nil)}})
	return []Form{
		// With what is for one platform alone, as docker save --platform and ctr write it.
		{Name: "one-platform.tar", Names: one, Digest: w.manifest.digest(), files: w.layout([]object{index.desc(named(wildName, "1"))}, w.all(index)...)},
		{Name: "containerd.tar", Names: one, Digest: w.manifest.digest(), files: append(w.layout([]object{w.manifest.desc(named(wildName, "1"))}, w.all()...),
			w.saved("blobs/sha256/"+w.config.hex(), []string{wildTag}, "blobs/sha256/"+w.packed[0].hex(), "blobs/sha256/"+w.packed[1].hex()))},
		// What each is for is in its configuration alone.
		{Name: "no-platform.tar", Digest: w.manifest.digest(), files: w.layout([]object{arm.desc(nil), w.manifest.desc(nil)}, armed...)},
	}
}

// refused are forms of what cannot be run.
func (w *wild) refused() []Form {
	foreign := w.ociManifest(w.config, []blob{{"application/vnd.oci.image.layer.nondistributable.v1.tar+gzip", w.packed[0].data}, w.packed[1]})
	encrypted := w.ociManifest(w.config, []blob{{ociTar + "+gzip+encrypted", w.packed[0].data}, w.packed[1]})
	arm := w.ociManifest(w.arm, w.packed)
	signature := jsonBlob(w.t, ociManifest, object{"schemaVersion": 2, "mediaType": ociManifest, "config": w.config.desc(nil),
		"layers": []object{blob{"application/vnd.dev.cosign.simplesigning.v1+json", []byte("{}")}.desc(nil)}})
	layout := func(m blob, more ...blob) []Entry {
		return w.layout([]object{m.desc(named(wildName, "1"))}, w.all(append(more, m)...)...)
	}
	broken := w.layout([]object{w.manifest.desc(named(wildName, "1"))}, w.all()...)
	return []Form{
		{Name: "foreign.tar", Err: "layer " + w.packed[0].digest() + " is a foreign layer", files: layout(foreign)},
		{Name: "encrypted.tar", Err: "is encrypted; decrypt the image first", files: layout(encrypted)},
		{Name: "arm64.tar", Err: "holds no image for linux/amd64, but for linux/arm64", files: layout(arm, w.arm)},
		{Name: "signature.tar", Err: "holds no image for linux/amd64", files: layout(signature)},
		{Name: "docker-arm64.tar", Err: "holds no image for linux/amd64, but for linux/arm64", files: []Entry{File("c.json", string(w.arm.data)),
			File("l.tar", string(w.layers[0].data)), w.saved("c.json", []string{wildTag}, "l.tar", "l.tar")}},
		{Name: "docker-cut.tar", Err: `names a layer "b/layer.tar", which is not there`, files: []Entry{File("c.json", string(w.config.data)),
			File("a/layer.tar", string(w.layers[0].data)), w.saved("c.json", []string{wildTag}, "a/layer.tar", "b/layer.tar")}},
		{Name: "docker-1.9.tar", Err: "Docker older than 1.10", files: []Entry{File("repositories", "{}"), File(path.Join("x", "layer.tar"), string(w.layers[0].data))}},
		{Name: "no-index-dir", Dir: true, Err: "not a whole OCI image layout", files: slices.DeleteFunc(broken, func(e Entry) bool { return e.Name == "index.json" })},
	}
}

// TwoTags writes an OCI image layout of two images that have tags alone, and returns its
// path.
func TwoTags(t testing.TB, dir string) string {
	w := newWild(t)
	config := jsonBlob(t, ociConfig, object{"architecture": "amd64", "os": "linux", "rootfs": object{"type": "layers", "diff_ids": []string{w.layers[0].digest()}}})
	other := w.ociManifest(config, w.packed[:1])
	tag := func(s string) object {
		return object{"annotations": object{"org.opencontainers.image.ref.name": s}}
	}
	return Form{Name: "two-tags", Dir: true, files: w.layout([]object{w.manifest.desc(tag("1")), other.desc(tag("2"))}, w.all(config, other)...)}.Write(t, dir)
}
