package network

import (
	"net"
	"os"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"keelson/internal/nstest"
)

func TestMain(m *testing.M) { os.Exit(nstest.Main(m)) }

func TestLoopback(t *testing.T) {
	nstest.Need(t)
	if lo, err := netlink.LinkByName("lo"); err != nil || lo.Attrs().Flags&net.FlagUp != 0 {
		t.Fatalf("lo is up before the test, which so would prove nothing: %v", err)
	}
	for range 2 {
		if err := Loopback(); err != nil {
			t.Fatal(err)
		}
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	_ = c.Close()
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	addrs, err := netlink.AddrList(lo, netlink.FAMILY_V4)
	if err != nil || len(addrs) != 1 || addrs[0].IPNet.String() != "127.0.0.1/8" {
		t.Errorf("addresses of lo: %v %v", addrs, err)
	}
}

func link(index int, name, mac string) netlink.Link {
	a := netlink.NewLinkAttrs()
	a.Index, a.Name = index, name
	if mac != "" {
		a.HardwareAddr, _ = net.ParseMAC(mac)
	} else {
		a.Flags = net.FlagLoopback
		a.HardwareAddr = make(net.HardwareAddr, 6)
	}
	return &netlink.Dummy{LinkAttrs: a}
}

func TestFromLinks(t *testing.T) {
	lo, eth0, eth1, ens3 := link(1, "lo", ""), link(7, "eth0", "52:54:00:12:34:56"), link(2, "eth1", "02:00:00:00:00:01"), link(3, "ens3", "02:00:00:00:00:02")
	for _, c := range []struct {
		links []netlink.Link
		want  string
	}{
		{[]netlink.Link{lo, eth1, eth0}, "linuxkit-525400123456"},
		{[]netlink.Link{lo, ens3, eth1}, "linuxkit-020000000001"},
		{[]netlink.Link{lo}, "linuxkit"},
		{nil, "linuxkit"},
	} {
		if got := fromLinks(c.links); got != c.want {
			t.Errorf("%q, want %q", got, c.want)
		}
	}
}

func TestHostname(t *testing.T) {
	nstest.Need(t) // the tests have a UTS namespace of their own
	if err := unix.Sethostname([]byte("(none)")); err != nil {
		t.Fatal(err)
	}
	name, set, err := Hostname()
	if err != nil || !set || name == "" || name == "(none)" {
		t.Fatalf("%q %v %v", name, set, err)
	}
	if is, _ := os.Hostname(); is != name {
		t.Errorf("the machine is called %q, not %q", is, name)
	}
	if err := unix.Sethostname([]byte("web1")); err != nil {
		t.Fatal(err)
	}
	if name, set, err := Hostname(); name != "web1" || set || err != nil {
		t.Errorf("a name was there: %q %v %v", name, set, err)
	}
}
