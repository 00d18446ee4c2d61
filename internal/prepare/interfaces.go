package prepare

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"keelson/internal/bundle"
)

// linkPatience bounds the wait for a link that is about to come or go: the
// kernel gives a physical link back, and takes a veth pair away, some time after
// the network namespace it was in has ended.
const linkPatience = 3 * time.Second

// attachInterfaces gives pid's network namespace the links of runtime.json.
func attachInterfaces(ctx context.Context, b *bundle.Bundle, pid int) error {
	a, err := openNamespaces(pid)
	if err != nil {
		return fieldError(b, "interfaces", err)
	}
	defer a.close()
	for i, want := range b.Runtime.Interfaces {
		if err := a.attach(ctx, want); err != nil {
			return fieldError(b, fmt.Sprintf("interfaces[%d]", i), err)
		}
	}
	return nil
}

// attacher holds the two sides of a move.
type attacher struct {
	ns     netns.NsHandle  // the container's network namespace
	inside *netlink.Handle // looks into it
	shared bool            // it is the machine's own
}

func openNamespaces(pid int) (*attacher, error) {
	ns, err := netns.GetFromPid(pid)
	if err != nil {
		return nil, fmt.Errorf("open the network namespace of process %d: %w", pid, err)
	}
	inside, err := netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
	if err != nil {
		_ = ns.Close()
		return nil, fmt.Errorf("look into the network namespace of process %d: %w", pid, err)
	}
	own, err := netns.Get()
	if err != nil {
		own = netns.None()
	}
	defer own.Close()
	return &attacher{ns: ns, inside: inside, shared: own.IsOpen() && own.Equal(ns)}, nil
}

func (a *attacher) close() {
	a.inside.Close()
	_ = a.ns.Close()
}

// attach makes or moves one link.
func (a *attacher) attach(ctx context.Context, want bundle.Interface) error {
	if want.Peer != "" && want.Add == "" {
		want.Add = "veth"
	}
	if err := check(want); err != nil {
		return err
	}
	if a.has(want) {
		return nil
	}
	switch {
	case want.Add == "":
		link, err := a.existing(ctx, want.Name)
		if err != nil {
			return err
		}
		return a.move(link, want)
	case want.Add == "veth" || want.CreateInRoot:
		link := newLink(want, netlink.NewLinkAttrs())
		if err := a.create(ctx, link, want); err != nil {
			return err
		}
		if err := a.move(link, want); err != nil {
			// a link that nobody asked for in the root namespace would be in the
			// way of the next try
			if made, lerr := netlink.LinkByName(want.Name); lerr == nil {
				_ = netlink.LinkDel(made)
			}
			return err
		}
		return nil
	default:
		attrs := netlink.NewLinkAttrs()
		attrs.Namespace = netlink.NsFd(a.ns)
		return a.create(ctx, newLink(want, attrs), want)
	}
}

func check(want bundle.Interface) error {
	switch {
	case want.Name == "":
		return errors.New("name is empty: name the interface")
	case len(want.Name) >= unix.IFNAMSIZ:
		return fmt.Errorf("name %q is too long: the kernel takes %d bytes", want.Name, unix.IFNAMSIZ-1)
	case len(want.Peer) >= unix.IFNAMSIZ:
		return fmt.Errorf("peer %q is too long: the kernel takes %d bytes", want.Peer, unix.IFNAMSIZ-1)
	case want.Add == "veth" && want.Peer == "":
		return fmt.Errorf("add is veth without a peer: name the other end of %s", want.Name)
	case want.Add != "veth" && want.Peer != "":
		return fmt.Errorf("a peer belongs to a veth, not to add: %s", want.Add)
	case want.Peer == want.Name && want.Peer != "":
		return fmt.Errorf("peer and name are both %q: the two ends are made in one namespace first", want.Name)
	}
	return nil
}

func newLink(want bundle.Interface, attrs netlink.LinkAttrs) netlink.Link {
	attrs.Name = want.Name
	if want.Add == "veth" {
		return &netlink.Veth{LinkAttrs: attrs, PeerName: want.Peer}
	}
	return &netlink.GenericLink{LinkAttrs: attrs, LinkType: want.Add}
}

// has reports whether the container has the link from an earlier try or, in a
// namespace that outlives it, an earlier run.
func (a *attacher) has(want bundle.Interface) bool {
	if a.shared && want.Add == "" {
		return false // look for it below, where its absence is said
	}
	link, err := a.inside.LinkByName(want.Name)
	return err == nil && (want.Add == "" || link.Type() == want.Add)
}

func (a *attacher) create(ctx context.Context, link netlink.Link, want bundle.Interface) error {
	err := netlink.LinkAdd(link)
	if errors.Is(err, unix.EEXIST) {
		// the ends of the last run may still be on their way out
		for _, name := range []string{want.Name, want.Peer} {
			if name != "" {
				waitLink(ctx, name, false)
			}
		}
		err = netlink.LinkAdd(link)
	}
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.EOPNOTSUPP):
		return fmt.Errorf("add %s %s: %w: the kernel has no such link type (modules tried: rtnl-link-%s)", want.Add, want.Name, err, want.Add)
	case errors.Is(err, unix.EEXIST) && want.Peer != "":
		return fmt.Errorf("add veth %s with peer %s: %w: an interface of one of these names is there already", want.Name, want.Peer, err)
	case errors.Is(err, unix.EEXIST):
		return fmt.Errorf("add %s %s: %w: an interface of this name is there already", want.Add, want.Name, err)
	case errors.Is(err, unix.EINVAL):
		return fmt.Errorf("add %s %s: %w: this link type needs settings that runtime.json cannot give; make the link in an onboot container and move it", want.Add, want.Name, err)
	}
	return fmt.Errorf("add %s %s: %w", want.Add, want.Name, err)
}

// existing finds a link of the machine, waiting for one that is about to appear.
func (a *attacher) existing(ctx context.Context, name string) (netlink.Link, error) {
	link, err := netlink.LinkByName(name)
	if err == nil {
		return link, nil
	}
	waitLink(ctx, name, true)
	if link, err = netlink.LinkByName(name); err == nil {
		return link, nil
	}
	var have []string
	if all, lerr := netlink.LinkList(); lerr == nil {
		for _, l := range all {
			have = append(have, l.Attrs().Name)
		}
	}
	return nil, fmt.Errorf("find interface %s: %w (the machine has %v)", name, err, have)
}

func (a *attacher) move(link netlink.Link, want bundle.Interface) error {
	if a.shared {
		return nil
	}
	err := netlink.LinkSetNsFd(link, int(a.ns))
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.ENODEV):
		return fmt.Errorf("move %s into the container: %w: it has just vanished", want.Name, err)
	case errors.Is(err, unix.EINVAL):
		return fmt.Errorf("move %s into the container: %w: this kind of interface is bound to its namespace", want.Name, err)
	case errors.Is(err, unix.EEXIST):
		return fmt.Errorf("move %s into the container: %w: the container has an interface of this name", want.Name, err)
	}
	return fmt.Errorf("move %s into the container: %w", want.Name, err)
}

// waitLink waits until a link of that name is there (or gone), the context ends,
// or patience does; the caller looks for himself what came of it.
func waitLink(ctx context.Context, name string, there bool) {
	ctx, cancel := context.WithTimeout(ctx, linkPatience)
	defer cancel()
	updates := make(chan netlink.LinkUpdate, 64)
	done := make(chan struct{})
	defer close(done)
	if err := netlink.LinkSubscribeWithOptions(updates, done, netlink.LinkSubscribeOptions{}); err != nil {
		return
	}
	for { // look only once subscribed: no change is missed
		if _, err := netlink.LinkByName(name); (err == nil) == there {
			return
		}
		select {
		case <-ctx.Done():
			return
		case _, open := <-updates:
			if !open {
				return
			}
		}
	}
}
