package prepare

import (
	"context"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"keelson/internal/bundle"
	"keelson/internal/nstest"
)

func itoa(n int) string { return strconv.Itoa(n) }

func withInterfaces(links ...bundle.Interface) *bundle.Bundle {
	return &bundle.Bundle{Dir: "/c/web", Name: "web", Section: bundle.Services, Runtime: bundle.Runtime{Interfaces: links}}
}

func linkType(h interface {
	LinkByName(string) (netlink.Link, error)
}, name string) string {
	l, err := h.LinkByName(name)
	if err != nil {
		return ""
	}
	return l.Type()
}

type root struct{}

func (root) LinkByName(n string) (netlink.Link, error) { return netlink.LinkByName(n) }

// addLink makes a link that can be moved: one end of a veth pair, whose other
// end keeps out of the way.
func addLink(t *testing.T, name string) {
	t.Helper()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: name + "-far"}); err != nil {
		t.Errorf("add a veth pair: %v", err)
	}
	t.Cleanup(func() {
		if l, err := netlink.LinkByName(name + "-far"); err == nil {
			_ = netlink.LinkDel(l)
		}
	})
}

// inNamespace returns the type of a link as pid's network namespace has it, and
// holds that namespace no longer than it looks.
func inNamespace(t *testing.T, pid int, name string) string {
	t.Helper()
	a, err := openNamespaces(pid)
	if err != nil {
		t.Fatal(err)
	}
	defer a.close()
	return linkType(a.inside, name)
}

func TestMoveExistingLink(t *testing.T) {
	nstest.Need(t)
	addLink(t, "port0")
	pid, _ := nstest.Process(t, syscall.CLONE_NEWNET)
	b := withInterfaces(bundle.Interface{Name: "port0"})
	for range 2 { // the second finds it moved
		if err := Attach(testContext(t), b, nil, pid); err != nil {
			t.Fatal(err)
		}
		if inNamespace(t, pid, "port0") != "veth" || linkType(root{}, "port0") != "" {
			t.Fatal("port0 was not moved")
		}
	}
}

func TestVeth(t *testing.T) {
	nstest.Need(t)
	pid, end := nstest.Process(t, syscall.CLONE_NEWNET)
	b := withInterfaces(bundle.Interface{Name: "in0", Peer: "out0"}) // a peer implies veth
	for range 2 {
		if err := Attach(testContext(t), b, nil, pid); err != nil {
			t.Fatal(err)
		}
		if inNamespace(t, pid, "in0") != "veth" || linkType(root{}, "out0") != "veth" || linkType(root{}, "in0") != "" {
			t.Fatal("the pair is not one end in, one end out")
		}
	}
	// the service restarts: the old pair goes with its namespace, in the kernel's
	// own time, and must not be in the way
	end()
	pid, _ = nstest.Process(t, syscall.CLONE_NEWNET)
	if err := Attach(testContext(t), b, nil, pid); err != nil {
		t.Fatal(err)
	}
	if inNamespace(t, pid, "in0") != "veth" || linkType(root{}, "out0") != "veth" {
		t.Error("no pair after the restart")
	}
}

func TestLinkTypes(t *testing.T) {
	nstest.Need(t)
	pid, _ := nstest.Process(t, syscall.CLONE_NEWNET)
	for _, want := range []bundle.Interface{
		{Name: "d0", Add: "dummy"},
		{Name: "d1", Add: "dummy", CreateInRoot: true},
		{Name: "br0", Add: "bridge"},
		{Name: "wg0", Add: "wireguard", CreateInRoot: true},
	} {
		if err := Attach(testContext(t), withInterfaces(want), nil, pid); err != nil {
			if strings.Contains(err.Error(), "the kernel has no such link type") {
				t.Logf("%s: not in this kernel", want.Add)
				continue
			}
			t.Errorf("%+v: %v", want, err)
			continue
		}
		if inNamespace(t, pid, want.Name) != want.Add || linkType(root{}, want.Name) != "" {
			t.Errorf("%+v is not where it should be", want)
		}
	}
}

func TestFailedMoveLeavesNothing(t *testing.T) {
	nstest.Need(t)
	pid, _ := nstest.Process(t, syscall.CLONE_NEWNET)
	// the container has a link of that name, of another type
	if err := Attach(testContext(t), withInterfaces(bundle.Interface{Name: "x0", Add: "bridge"}), nil, pid); err != nil {
		t.Skip(err)
	}
	err := Attach(testContext(t), withInterfaces(bundle.Interface{Name: "x0", Peer: "y0"}), nil, pid)
	if err == nil || !strings.Contains(err.Error(), "web: /c/web/runtime.json: interfaces[0]: move x0 into the container: file exists") {
		t.Errorf("%v", err)
	}
	if linkType(root{}, "x0") != "" || linkType(root{}, "y0") != "" {
		t.Error("the pair of the failed move is still there")
	}
}

func TestInterfaceErrors(t *testing.T) {
	nstest.Need(t)
	pid, _ := nstest.Process(t, syscall.CLONE_NEWNET)
	for _, c := range []struct {
		i    bundle.Interface
		want string
	}{
		{bundle.Interface{}, "name is empty"},
		{bundle.Interface{Name: "a-name-much-too-long"}, "the kernel takes 15 bytes"},
		{bundle.Interface{Name: "v0", Add: "veth"}, "add is veth without a peer: name the other end of v0"},
		{bundle.Interface{Name: "v0", Peer: "v0"}, "peer and name are both"},
		{bundle.Interface{Name: "d0", Add: "dummy", Peer: "d1"}, "a peer belongs to a veth"},
		{bundle.Interface{Name: "n0", Add: "nosuchtype"}, "the kernel has no such link type (modules tried: rtnl-link-nosuchtype)"},
		{bundle.Interface{Name: "absent0"}, "find interface absent0"},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second) // the longest that the absent one is waited for
		err := Attach(ctx, withInterfaces(c.i), nil, pid)
		cancel()
		if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "interfaces[0]") {
			t.Errorf("%+v:\n got  %v\n want ...%s", c.i, err, c.want)
		}
	}
}

func TestWaitsForALinkThatComes(t *testing.T) {
	nstest.Need(t)
	pid, _ := nstest.Process(t, syscall.CLONE_NEWNET)
	done := make(chan error, 1)
	started := make(chan struct{})
	go func() {
		close(started)
		done <- Attach(testContext(t), withInterfaces(bundle.Interface{Name: "late0"}), nil, pid)
	}()
	<-started
	addLink(t, "late0")
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestSharedNetworkNamespace(t *testing.T) {
	nstest.Need(t)
	pid, _ := nstest.Process(t, syscall.CLONE_NEWUTS)
	addLink(t, "host0")
	b := withInterfaces(bundle.Interface{Name: "host0"}, bundle.Interface{Name: "hv0", Peer: "hv1"})
	for range 2 {
		if err := Attach(testContext(t), b, nil, pid); err != nil {
			t.Fatal(err)
		}
	}
	for _, n := range []string{"host0", "hv0", "hv1"} {
		if linkType(root{}, n) == "" {
			t.Errorf("%s is gone", n)
		}
	}
}
