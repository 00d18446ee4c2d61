// Package network does the little the machine's own network needs before any
// container configures it: the loopback interface, and a host name to be found by.
//
// It promises to leave alone what is configured already. Addresses, routes and
// name servers are for a DHCP client or another container of the image.
package network

import (
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Loopback brings lo up with 127.0.0.1/8 and, where the kernel has IPv6, ::1/128.
func Loopback() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find the loopback interface: %w", err)
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return fmt.Errorf("bring lo up: %w", err)
	}
	// The kernel usually gives it its addresses with that; where it did, adding
	// them says EEXIST.
	for _, cidr := range []string{"127.0.0.1/8", "::1/128"} {
		addr, err := netlink.ParseAddr(cidr)
		if err != nil {
			return fmt.Errorf("give lo %s: %w", cidr, err)
		}
		err = netlink.AddrAdd(lo, addr)
		if err == nil || errors.Is(err, unix.EEXIST) {
			continue
		}
		if addr.IP.To4() == nil { // no IPv6, or switched off
			continue
		}
		return fmt.Errorf("give lo %s: %w", cidr, err)
	}
	return nil
}

// Hostname gives the machine a name if it has none: linuxkit- and the hardware
// address of eth0 without its colons, or of the first other Ethernet interface,
// else just linuxkit. It returns the name in force, and whether it set it.
func Hostname() (name string, set bool, err error) {
	name, err = os.Hostname()
	if err != nil {
		return "", false, fmt.Errorf("read the host name: %w", err)
	}
	if name != "" && name != "(none)" {
		return name, false, nil
	}
	links, err := netlink.LinkList()
	if err != nil {
		return name, false, fmt.Errorf("list the network interfaces: %w", err)
	}
	name = fromLinks(links)
	if err := unix.Sethostname([]byte(name)); err != nil {
		return name, false, fmt.Errorf("set the host name %s: %w", name, err)
	}
	return name, true, nil
}

func fromLinks(links []netlink.Link) string {
	var ethernet []*netlink.LinkAttrs
	for _, l := range links {
		a := l.Attrs()
		if a.Flags&net.FlagLoopback == 0 && len(a.HardwareAddr) == 6 {
			ethernet = append(ethernet, a)
		}
	}
	slices.SortFunc(ethernet, func(a, b *netlink.LinkAttrs) int {
		if (a.Name == "eth0") != (b.Name == "eth0") {
			if a.Name == "eth0" {
				return -1
			}
			return 1
		}
		return a.Index - b.Index
	})
	if len(ethernet) == 0 {
		return "linuxkit"
	}
	return "linuxkit-" + strings.ReplaceAll(ethernet[0].HardwareAddr.String(), ":", "")
}
