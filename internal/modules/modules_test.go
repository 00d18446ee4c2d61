package modules

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"os"
	"path"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
	"golang.org/x/sys/unix"
)

const release = "6.1.0-test"

// tree is a made-up machine: files below a folder, and a kernel that writes down
// what it is given.
type tree struct {
	t        *testing.T
	root     string
	mu       sync.Mutex
	inserted []string // "name" or "name params"
	answers  map[string]error
}

func newTree(t *testing.T, files map[string]string) *tree {
	m := &tree{t: t, root: t.TempDir(), answers: map[string]error{}}
	for name, text := range files {
		m.write(name, text)
	}
	return m
}

func (m *tree) write(name, text string) {
	m.t.Helper()
	name = filepath.Join(m.root, strings.Replace(name, "MOD/", "/lib/modules/"+release+"/", 1))
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		m.t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
		m.t.Fatal(err)
	}
}

// A driver that hangs in its initialisation holds up its lane for a while, and is not
// tried again until it has ended.
func TestInitialisationThatHangs(t *testing.T) {
	m := newTree(t, map[string]string{"MOD/modules.dep": "dead.ko:\nneeds.ko: dead.ko\nlate.ko:\n"})
	synctest.Test(t, func(t *testing.T) {
		end := make(chan error)
		var hangs atomic.Bool
		hangs.Store(true)
		x, err := open(release, system{root: m.root, insert: func(path, params string) error {
			if hangs.Load() && moduleName(path) != "needs" {
				return <-end
			}
			return m.insert(path, params)
		}})
		if err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		if err := x.Load(t.Context(), "dead"); !errors.Is(err, ErrHangs) || time.Since(began) != initBound {
			t.Errorf("after %v: %v", time.Since(began), err)
		}
		if err := x.Load(t.Context(), "needs"); !errors.Is(err, ErrHangs) || time.Since(began) != initBound {
			t.Errorf("what needs it, after %v: %v", time.Since(began), err)
		}
		hangs.Store(false)
		end <- nil
		synctest.Wait()
		if err := x.Load(t.Context(), "needs"); err != nil {
			t.Errorf("when it has ended: %v", err)
		}
		hangs.Store(true)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := x.Load(ctx, "late"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("when the caller's time is over: %v", err)
		}
		end <- nil
	})
}

func (m *tree) insert(path, params string) error {
	name := moduleName(path)
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.answers[name]; err != nil {
		return err
	}
	m.inserted = append(m.inserted, strings.TrimSpace(name+" "+params))
	m.write("/sys/module/"+name+"/initstate", "live\n")
	return nil
}

func (m *tree) index() *Index {
	m.t.Helper()
	x, err := open(release, system{root: m.root, insert: m.insert})
	if err != nil {
		m.t.Fatal(err)
	}
	return x
}

var base = map[string]string{
	"MOD/modules.dep": `kernel/virtio/virtio.ko:
kernel/virtio/virtio_ring.ko: kernel/virtio/virtio.ko
kernel/virtio/virtio-pci.ko.xz: kernel/virtio/virtio_ring.ko kernel/virtio/virtio.ko
kernel/net/failover.ko:
kernel/net/net_failover.ko: kernel/net/failover.ko
kernel/net/virtio_net.ko: kernel/net/net_failover.ko kernel/net/failover.ko kernel/virtio/virtio_ring.ko kernel/virtio/virtio.ko
kernel/char/virtio-rng.ko: kernel/virtio/virtio_ring.ko kernel/virtio/virtio.ko
kernel/fs/overlay.ko:
kernel/fs/nfsd.ko:
kernel/crypto/md5.ko:
kernel/a.ko:
kernel/b.ko:
`,
	"MOD/modules.alias": `# Aliases extracted from modules themselves.
alias pci:v00001AF4d*sv*sd*bc*sc*i* virtio_pci
alias virtio:d00000001v* virtio_net
alias virtio:d00000004v* virtio_rng
alias fs-overlay overlay
alias crypto-md5 md5
`,
	"MOD/modules.builtin": "kernel/fs/ext4/ext4.ko\nkernel/drivers/virtio-mmio.ko\n",
	"MOD/modules.softdep": "# soft\nsoftdep nfsd pre: crypto-md5 post: a\nsoftdep a pre: b nosuch\nsoftdep b post: a\n",
	"/proc/cmdline":       `console=ttyS0 virtio_net.napi_tx=0 virtio-net.gso modprobe.blacklist=a,virtio-rng x="y z.w=1" -- b.c=d`,
}

func (m *tree) want(names ...string) {
	m.t.Helper()
	if !slices.Equal(m.inserted, names) {
		m.t.Errorf("inserted %q, want %q", m.inserted, names)
	}
}

func TestDependenciesComeFirst(t *testing.T) {
	m := newTree(t, base)
	x := m.index()
	for range 2 {
		if err := x.Load(t.Context(), "virtio-net", "csum=0"); err != nil {
			t.Fatal(err)
		}
	}
	m.want("virtio", "virtio_ring", "failover", "net_failover", "virtio_net napi_tx=0 gso csum=0")
	if err := x.Load(t.Context(), "virtio_mmio"); err != nil {
		t.Errorf("built in: %v", err)
	}
	if err := x.Load(t.Context(), "nosuch"); !errors.Is(err, ErrNotFound) {
		t.Errorf("nosuch: %v", err)
	}
}

func TestSoftDependencies(t *testing.T) {
	m := newTree(t, base)
	if err := m.index().Load(t.Context(), "nfsd"); err != nil {
		t.Fatal(err)
	}
	m.want("md5", "nfsd", "b", "a") // a and b name each other
}

func TestAliasAndBlacklist(t *testing.T) {
	m := newTree(t, base)
	x := m.index()
	if loaded, err := x.LoadAlias(t.Context(), "fs-overlay"); err != nil || !slices.Equal(loaded, []string{"overlay"}) {
		t.Errorf("%v %v", loaded, err)
	}
	if loaded, err := x.LoadAlias(t.Context(), "virtio:d00000004v00001AF4"); err != nil || len(loaded) != 0 {
		t.Errorf("a blacklisted module: %v %v", loaded, err)
	}
	if err := x.Load(t.Context(), "virtio:d00000004v00001AF4"); !errors.Is(err, ErrNotFound) {
		t.Errorf("a blacklisted module, by its alias: %v", err)
	}
	m.want("overlay")
	if err := x.Load(t.Context(), "virtio_rng"); err != nil { // by its own name
		t.Error(err)
	}
	m.want("overlay", "virtio", "virtio_ring", "virtio_rng")
}

func TestAnAliasIsLookedUpOnce(t *testing.T) {
	m := newTree(t, base)
	x := m.index()
	for range 2 {
		if _, err := x.LoadAlias(t.Context(), "fs-overlay"); err != nil {
			t.Fatal(err)
		}
		if _, err := x.LoadAlias(t.Context(), "nobody:x"); !errors.Is(err, ErrNotFound) {
			t.Fatal(err)
		}
		m.write("MOD/modules.alias", "alias nobody:* md5\n") // not read again
	}
	// but a module that was taken out meanwhile is loaded again
	if err := os.RemoveAll(filepath.Join(m.root, "sys/module/overlay")); err != nil {
		t.Fatal(err)
	}
	if loaded, err := x.LoadAlias(t.Context(), "fs-overlay"); err != nil || !slices.Equal(loaded, []string{"overlay"}) {
		t.Errorf("%v %v", loaded, err)
	}
	m.want("overlay", "overlay")
}

func TestModprobeD(t *testing.T) {
	m := newTree(t, base)
	m.write("/etc/modprobe.d/a.conf", "blacklist overlay\noptions virtio_net \\\n  one=1 two\ninstall nfsd /bin/false\ninstall md5 /sbin/special\nalias blockdev-* b\n")
	m.write("/lib/modprobe.d/a.conf", "options virtio_net three\n") // the same name: not read
	m.write("/lib/modprobe.d/b.conf", "options virtio_net four\nsoftdep overlay pre: md5\n")
	m.write("/lib/modprobe.d/readme", "options virtio_net five\n")
	x := m.index()
	if _, err := x.LoadAlias(t.Context(), "fs-overlay"); err != nil {
		t.Error(err)
	}
	if err := x.Load(t.Context(), "nfsd"); err == nil || !strings.Contains(err.Error(), "switched off in modprobe.d") {
		t.Errorf("nfsd: %v", err)
	}
	if err := x.Load(t.Context(), "overlay"); err != nil {
		t.Error(err)
	}
	if err := x.Load(t.Context(), "blockdev-7"); err != nil {
		t.Error(err)
	}
	m.want("md5", "overlay", "b", "a") // b's soft dependency
	if got, want := x.conf.params("virtio_net", ""), "one=1 two four napi_tx=0 gso"; got != want {
		t.Errorf("parameters %q, want %q", got, want)
	}
}

func TestErrors(t *testing.T) {
	m := newTree(t, base)
	m.answers["virtio_ring"] = unix.ENOEXEC
	m.answers["failover"] = unix.EEXIST
	m.answers["net_failover"] = unix.ENODEV
	x := m.index()
	if err := x.Load(t.Context(), "virtio-rng"); !errors.Is(err, unix.ENOEXEC) || err.Error() != "virtio_rng needs load module virtio_ring: exec format error: the file is no module, or one for another kernel" {
		t.Errorf("%v", err)
	}
	m.want("virtio")
	if err := x.Load(t.Context(), "failover"); err != nil {
		t.Errorf("loaded meanwhile: %v", err)
	}
	if loaded, err := x.loadAll(t.Context(), []string{"net_failover", "overlay"}); err != nil || !slices.Equal(loaded, []string{"overlay"}) {
		t.Errorf("%v %v", loaded, err)
	}
	m.answers["a"], m.answers["b"] = os.ErrNotExist, os.ErrNotExist
	if _, err := x.loadAll(t.Context(), []string{"b", "md5"}); err == nil || !strings.Contains(err.Error(), "not in the image: b") {
		t.Errorf("%v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := x.Load(ctx, "nfsd"); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}

func TestOpen(t *testing.T) {
	if x, err := open(release, system{root: t.TempDir()}); !errors.Is(err, ErrNoModules) || x == nil {
		t.Errorf("%v", err)
	} else {
		if loaded, errs := x.Early(t.Context(), []string{"overlay"}, nobody, func() {}); len(loaded)+len(errs) != 0 {
			t.Errorf("coldplug without modules: %v %v", loaded, errs)
		}
		if err := x.Load(t.Context(), "overlay"); !errors.Is(err, ErrNotFound) {
			t.Errorf("load without modules: %v", err)
		}
	}
	other := newTree(t, map[string]string{"/lib/modules/5.10.1/modules.dep": "", "/usr/lib/modules/6.12.3/modules.dep": ""})
	if _, err := open(release, system{root: other.root}); err == nil || !strings.Contains(err.Error(), "the kernel is 6.1.0-test but /lib/modules holds modules of 5.10.1, 6.12.3") {
		t.Errorf("%v", err)
	}
	undepped := newTree(t, map[string]string{"MOD/kernel/a.ko": ""})
	if _, err := open(release, system{root: undepped.root}); err == nil || !strings.Contains(err.Error(), "run depmod") {
		t.Errorf("%v", err)
	}
}

func TestColdplug(t *testing.T) {
	m := newTree(t, base)
	m.write("/proc/cmdline", "quiet")
	m.write("/sys/bus/pci/devices/0000:00:01.0/modalias", "pci:v00001AF4d00001000sv00001AF4sd00000001bc02sc00i00\n")
	m.write("/sys/bus/pci/devices/0000:00:02.0/modalias", "pci:v00008086d00001237sv00001AF4sd00001100bc06sc00i00\n")
	m.write("/sys/bus/pci/devices/0000:00:03.0/class", "no modalias here")
	m.write("/sys/class/input/input0/modalias", "input:b0019v0000p0001e0000-e0,1,k74,ramlsfw\n")
	m.write("MOD/modules.alias", base["MOD/modules.alias"]+"alias input:b*v*p*e*-e*k*r*a*m*l*s*f*w* a\n")
	// the driver of the bus finds the card on it
	x := m.index()
	x.sys.insert = func(path, params string) error {
		if moduleName(path) == "virtio_pci" {
			m.write("/sys/bus/virtio/devices/virtio0/modalias", "virtio:d00000001v00001AF4\n")
		}
		return m.insert(path, params)
	}
	loaded, errs := x.Early(t.Context(), []string{"virtio-rng", "nosuch", "fs-overlay"}, nobody, func() {})
	if len(errs) != 0 {
		t.Error(errs)
	}
	// the lane of the input device goes its own way
	platform := func(name string) bool { return name == "a" || name == "b" }
	wantPlatform := []string{"b", "a"}
	want := []string{"virtio", "virtio_ring", "virtio_rng", "overlay", "virtio_pci", "failover", "net_failover", "virtio_net"}
	var got, gotPlatform []string
	for _, name := range loaded {
		if platform(name) {
			gotPlatform = append(gotPlatform, name)
		} else {
			got = append(got, name)
		}
	}
	if !slices.Equal(got, want) || !slices.Equal(gotPlatform, wantPlatform) {
		t.Errorf("loaded %q and %q,\nwant   %q and %q", got, gotPlatform, want, wantPlatform)
	}
	m.inserted = nil
	if loaded, errs := x.Early(t.Context(), []string{"virtio-rng"}, nobody, func() {}); len(loaded)+len(errs)+len(m.inserted) != 0 {
		t.Errorf("again: %v %v", loaded, errs)
	}
}

// nobody is an image whose containers name no device.
func nobody(string) bool { return false }

func TestLateModules(t *testing.T) {
	machine := func(t *testing.T) *tree {
		m := newTree(t, base)
		m.write("/proc/cmdline", "quiet")
		m.write("MOD/modules.dep", base["MOD/modules.dep"]+`kernel/drivers/acpi/button.ko:
kernel/drivers/input/evdev.ko:
kernel/drivers/input/serio/hyperv-keyboard.ko:
kernel/drivers/hwmon/coretemp.ko:
kernel/drivers/acpi/unknown.ko:
`)
		m.write("MOD/modules.alias", base["MOD/modules.alias"]+`alias acpi*:LNXPWRBN:* button
alias input:b*v*p*e*-e*1,*k*r*a*m*l*s*f*w* evdev
alias acpi*:ACME0001:* unknown
alias acpi*:ACME0002:* coretemp
`)
		m.write("/sys/bus/acpi/devices/LNXPWRBN:00/modalias", "acpi:LNXPWRBN:\n")
		m.write("/sys/bus/acpi/devices/ACME0001:00/modalias", "acpi:ACME0001:\n")
		m.write("/sys/bus/acpi/devices/ACME0002:00/modalias", "acpi:ACME0002:\n")
		m.write("/sys/bus/virtio/devices/virtio0/modalias", "virtio:d00000001v00001AF4\n")
		return m
	}
	// The driver of the button makes an input device.
	index := func(m *tree) *Index {
		x := m.index()
		x.sys.insert = func(path, params string) error {
			if moduleName(path) == "button" {
				m.write("/sys/class/input/input0/modalias", "input:b0019v0000p0001e0000-e0,1,k74,ramlsfw\n")
			}
			return m.insert(path, params)
		}
		return x
	}
	network := []string{"failover", "net_failover", "virtio", "virtio_net", "virtio_ring"}
	for _, test := range []struct {
		what, cmdline string
		names         string // what a container names
		early, late   []string
	}{
		{"nobody cares", "quiet", "", []string{"unknown"}, []string{"button", "coretemp", "evdev"}},
		{"a container has keys", "quiet", "/dev/input", []string{"button", "evdev", "unknown"}, []string{"coretemp"}},
		{"a container reads sensors", "quiet", "/sys/class/hwmon", []string{"coretemp", "unknown"}, []string{"button", "evdev"}},
		{"the command line names one", "button.lid_init_state=open", "", []string{"button", "unknown"}, []string{"coretemp", "evdev"}},
		{"one is switched off", "modprobe.blacklist=button", "", []string{"unknown"}, []string{"coretemp"}},
	} {
		t.Run(test.what, func(t *testing.T) {
			m := machine(t)
			m.write("/proc/cmdline", test.cmdline)
			x := index(m)
			named := func(path string) bool { return path == test.names }
			early, errs := x.Early(t.Context(), nil, named, func() {})
			slices.Sort(early)
			if want := slices.Sorted(slices.Values(slices.Concat(network, test.early))); len(errs) != 0 || !slices.Equal(early, want) {
				t.Errorf("early %q %v, want %q", early, errs, want)
			}
			late, errs := x.Coldplug(t.Context())
			slices.Sort(late)
			if len(errs) != 0 || !slices.Equal(late, test.late) {
				t.Errorf("late %q %v, want %q", late, errs, test.late)
			}
		})
	}
}

func TestSlowDisksDoNotHoldUpTheNetwork(t *testing.T) {
	m := newTree(t, base)
	m.write("/proc/cmdline", "quiet")
	m.write("MOD/modules.alias", base["MOD/modules.alias"]+"alias pci:v*d*sv*sd*bc01sc*i* a\n")
	m.write("/sys/bus/pci/devices/0000:00:00.0/modalias", "pci:v00008086d00007010sv00001AF4sd00001100bc01sc01i80\n")
	m.write("/sys/bus/virtio/devices/virtio0/modalias", "virtio:d00000001v00001AF4\n")
	x := m.index()
	networkUp := make(chan struct{})
	x.sys.insert = func(path, params string) error {
		switch moduleName(path) {
		case "virtio_net":
			defer close(networkUp)
		case "a":
			select {
			case <-networkUp:
			case <-time.After(time.Minute):
				t.Error("the network waits for the disks")
			}
		}
		return m.insert(path, params)
	}
	if _, errs := x.Coldplug(t.Context()); len(errs) != 0 {
		t.Error(errs)
	}
}

func TestProcessor(t *testing.T) {
	m := newTree(t, base)
	m.write("/proc/cmdline", "quiet")
	x := m.index()
	if loaded, err := x.Processor(t.Context()); err != nil || len(loaded) != 0 { // no such file
		t.Errorf("%v %v", loaded, err)
	}
	m.write("/sys/devices/system/cpu/modalias", "cpu:type:x86,ven0002fam000Fmod006B:feature:,0000,0072\n")
	if loaded, err := x.Processor(t.Context()); err != nil || len(loaded) != 0 { // nobody wants it
		t.Errorf("%v %v", loaded, err)
	}
	m.write("MOD/modules.alias", "alias cpu:type:x86,ven*fam*mod*:feature:*0072* overlay\nalias cpu:type:x86,ven*fam*mod*:feature:*00E7* md5\nalias acpi*:LNXCPU:* failover\n")
	m.write("/sys/bus/acpi/devices/LNXCPU:00/modalias", "acpi:LNXCPU:\n")
	if loaded, err := m.index().Processor(t.Context()); err != nil || !slices.Equal(loaded, []string{"failover", "overlay"}) {
		t.Errorf("%v %v", loaded, err)
	}
	if loaded, errs := m.index().Coldplug(t.Context()); len(loaded)+len(errs) != 0 {
		t.Errorf("coldplug took the processor along: %v %v", loaded, errs)
	}
}

func TestColdplugEndsWithItsContext(t *testing.T) {
	m := newTree(t, base)
	m.write("/sys/bus/virtio/devices/virtio0/modalias", "virtio:d00000001v00001AF4\n")
	x := m.index()
	ctx, cancel := context.WithCancel(t.Context())
	let := make(chan struct{})
	defer close(let)
	x.sys.insert = func(string, string) error {
		cancel()
		<-let // a driver that never comes back
		return nil
	}
	_, errs := x.Coldplug(ctx)
	if err := errors.Join(errs...); !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "while loading virtio_net") {
		t.Errorf("%v", err)
	}
}

func TestGlob(t *testing.T) {
	for _, c := range []struct {
		pattern, name string
		want          bool
	}{
		{"pci:v00001AF4d*sv*sd*bc*sc*i*", "pci:v00001AF4d00001000sv00001AF4sd00000001bc02sc00i00", true},
		{"pci:v00001AF4d*sv*sd*bc*sc*i*", "pci:v00008086d00001000sv00001AF4sd00000001bc02sc00i00", false},
		{"virtio:d00000001v*", "virtio:d00000001v", true},
		{"acpi*:LNXPWRBN:*", "acpi:LNXPWRBN:", true},
		{"acpi*:LNXPWRBN:*", "acpi:PNP0C0A:LNXPWRBN:", true},
		{"fs-overlay", "fs_overlay", true},
		{"usb:v*d[0-7]dc*", "usb:v1d5dcx", true},
		{"usb:v*d[0-7]dc*", "usb:v1d8dcx", false},
		{"x[!ab]y", "xcy", true},
		{"x[!ab]y", "xay", false},
		{"x[]]y", "x]y", true},
		{"x[a-", "x[a-", true},
		{"a?c", "abc", true},
		{"a?c", "ac", false},
		{`a\*c`, "a*c", true},
		{`a\*c`, "abc", false},
		{"", "", true},
		{"*", "", true},
		{"a/*", "a/b/c", true},
		{"cpu:type:x86,ven*fam*mod*:feature:*0099*", "cpu:type:x86,ven0000fam0006mod0006:feature:,0000,0099,009A", true},
		{"a", "ab", false},
		{"ab", "a", false},
	} {
		if got := glob(c.pattern, c.name); got != c.want {
			t.Errorf("glob(%q, %q) = %v", c.pattern, c.name, got)
		}
	}
}

// FuzzGlob compares with path.Match, whose * and ? stop at a slash and whose sets
// are more particular.
func FuzzGlob(f *testing.F) {
	f.Add("pci:v*d?", "pci:v1d2")
	f.Add("*a*b*", "xaybz")
	f.Fuzz(func(t *testing.T, pattern, name string) {
		for _, s := range []string{pattern, name} {
			if strings.ContainsAny(s, `[]\/-_`) || !isASCII(s) {
				return
			}
		}
		want, err := path.Match(pattern, name)
		if err != nil {
			return
		}
		if got := glob(pattern, name); got != want {
			t.Errorf("glob(%q, %q) = %v", pattern, name, got)
		}
	})
}

func isASCII(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r >= 0x80 })
}

// FuzzMatchAliases: the quick way through the file finds what the plain one does.
func FuzzMatchAliases(f *testing.F) {
	f.Add("alias fs-overlay overlay\nalias f* x\nalias ? y\nnoise\nalias [a-z]* z", "fs_overlay", "q")
	f.Fuzz(func(t *testing.T, text, a, b string) {
		names := []string{a, b}
		want := make([][]string, 2)
		for _, line := range strings.Split(text, "\n") {
			rest, ok := strings.CutPrefix(line, "alias ")
			space := strings.LastIndexByte(rest, ' ')
			if !ok || space <= 0 || space == len(rest)-1 {
				continue
			}
			for i, n := range names {
				if glob(rest[:space], n) {
					want[i] = append(want[i], normalize(rest[space+1:]))
				}
			}
		}
		if got := matchAliases(text, names); !reflect.DeepEqual(got, want) {
			t.Errorf("%q %q: %q, want %q", text, names, got, want)
		}
	})
}

func FuzzParsers(f *testing.F) {
	f.Add("softdep a pre: b post: c\nfuse fuse c10:229\nkernel/a.ko: kernel/b.ko\nblacklist x\ninstall y /bin/true\nz.w=\"1 2\" --")
	f.Fuzz(func(t *testing.T, text string) {
		parseSoftdep(text)
		parseDep(text)
		for _, n := range parseDevname(text) {
			if !filepath.IsLocal(n.name) {
				t.Errorf("a node outside of /dev: %q", n.name)
			}
		}
		c := config{blacklist: map[string]bool{}, never: map[string]bool{}, options: map[string][]string{}, soft: map[string]softdep{}}
		c.addFile(text)
		c.addCmdline(text)
	})
}

func TestUnpack(t *testing.T) {
	plain := bytes.Repeat([]byte("\x7fELF module"), 10000)
	pack := map[string]func(io.Writer) io.WriteCloser{
		".gz": func(w io.Writer) io.WriteCloser { return gzip.NewWriter(w) },
		".xz": func(w io.Writer) io.WriteCloser {
			z, err := xz.NewWriter(w)
			if err != nil {
				t.Fatal(err)
			}
			return z
		},
		".zst": func(w io.Writer) io.WriteCloser {
			z, err := zstd.NewWriter(w)
			if err != nil {
				t.Fatal(err)
			}
			return z
		},
	}
	for ext, packer := range pack {
		var packed bytes.Buffer
		w := packer(&packed)
		if _, err := w.Write(plain); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		if got, err := unpack(bytes.NewReader(packed.Bytes()), ext, maxModule); err != nil || !bytes.Equal(got, plain) {
			t.Errorf("%s: %d bytes, %v", ext, len(got), err)
		}
		if _, err := unpack(bytes.NewReader(packed.Bytes()), ext, 1000); err == nil {
			t.Errorf("%s: no limit", ext)
		}
		if _, err := unpack(bytes.NewReader(packed.Bytes()[:packed.Len()/2]), ext, maxModule); err == nil {
			t.Errorf("%s: half a file was taken for a whole one", ext)
		}
	}
}

func TestParseDevname(t *testing.T) {
	got := parseDevname("# comment\nfuse fuse c10:229\ntun net/tun c10:200\nloop ../evil b7:0\nx y z\nbad c c10\n")
	want := []node{{"fuse", "fuse", unix.S_IFCHR, 10, 229}, {"tun", "net/tun", unix.S_IFCHR, 10, 200}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%+v", got)
	}
}

func TestStaticNodes(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root: it makes device nodes")
	}
	m := newTree(t, base)
	m.write("MOD/modules.devname", "tun net/tun c10:200\n")
	dev := t.TempDir()
	x := m.index()
	for range 2 {
		if err := x.StaticNodes(dev); err != nil {
			t.Fatal(err)
		}
	}
	var st unix.Stat_t
	if err := unix.Stat(filepath.Join(dev, "net/tun"), &st); err != nil || st.Mode != unix.S_IFCHR|0o600 || st.Rdev != unix.Mkdev(10, 200) {
		t.Errorf("%v: mode %o, device %x", err, st.Mode, st.Rdev)
	}
}

func TestModprobe(t *testing.T) {
	for _, c := range []struct {
		args   string
		status int
		loaded []string
		said   string
	}{
		{"-q -- fs-overlay", 0, []string{"overlay"}, ""},
		{"-q -- fs-nosuch", 1, nil, ""},
		{"fs-nosuch", 1, nil, "modprobe: fs-nosuch: no such module\n"},
		{"-v virtio-net csum=0", 0, []string{"virtio", "virtio_ring", "failover", "net_failover", "virtio_net napi_tx=0 gso csum=0"}, ""},
		{"-abq overlay a md5", 0, []string{"overlay", "md5"}, ""}, // a is blacklisted
		{"a", 0, []string{"b", "a"}, ""},
		{"-r overlay", 2, nil, "modprobe: unknown option -r\n"},
		{"", 2, nil, "modprobe: name a module\n"},
	} {
		m := newTree(t, base)
		var out, errOut bytes.Buffer
		status := modprobe(t.Context(), strings.Fields(c.args), &out, &errOut, func() (*Index, error) { return m.index(), nil })
		if status != c.status || !slices.Equal(m.inserted, c.loaded) || !strings.HasPrefix(errOut.String(), c.said) || c.said == "" && errOut.Len() > 0 {
			t.Errorf("modprobe %s: status %d, inserted %q, said %q", c.args, status, m.inserted, errOut.String())
		}
	}
}

func TestIsModprobe(t *testing.T) {
	for _, c := range []struct {
		argv string
		want bool
	}{
		{"/usr/bin/service -q -- fs-overlay", true}, {"/sbin/modprobe overlay", true}, {"modprobe", true},
		{"/usr/bin/service -q start web", false}, {"/usr/bin/service", false}, {"service -q --", false},
	} {
		if got := IsModprobe(strings.Fields(c.argv)); got != c.want {
			t.Errorf("%s: %v", c.argv, got)
		}
	}
}
