package images

import (
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// CheckRegistry checks what names a registry: HOST or HOST:PORT.
func CheckRegistry(s string) error {
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		host, port = strings.Trim(s, "[]"), "1"
	}
	_, number := strconv.ParseUint(port, 10, 16)
	if _, ip := netip.ParseAddr(host); host == "" || number != nil || strings.ContainsAny(host, "/@ ") || ip != nil && strings.Contains(host, ":") {
		return fmt.Errorf("%q is no registry: want HOST or HOST:PORT, such as registry.lan:5000 or 10.0.0.5", s)
	}
	return nil
}

// insecure reports whether the user lets a registry be asked without TLS. An entry
// without a port is for all ports of that host.
func (r *Resolver) insecure(host string) bool {
	return slices.ContainsFunc(r.Insecure, func(s string) bool {
		return strings.EqualFold(s, host) || strings.EqualFold(strings.Trim(s, "[]"), hostname(host))
	})
}

// hostname is a host without its port.
func hostname(host string) string {
	if name, _, err := net.SplitHostPort(host); err == nil {
		return name
	}
	return strings.Trim(host, "[]")
}

// loopback reports whether a host is this machine by its name or number, so that
// nobody else reads what is sent to it.
func loopback(host string) bool {
	name := strings.ToLower(hostname(host))
	ip, err := netip.ParseAddr(name)
	return name == "localhost" || strings.HasSuffix(name, ".localhost") || err == nil && ip.IsLoopback()
}

// plainHTTP lets requests without TLS pass to this machine and to the registries of
// which the user said so, and to no others: the library would ask those on private
// addresses without it too, where anybody on the way can give another image.
type plainHTTP struct {
	next     http.RoundTripper
	insecure func(host string) bool
}

// RoundTrip sends a request.
func (p plainHTTP) RoundTrip(req *http.Request) (*http.Response, error) {
	if host := req.URL.Host; req.URL.Scheme == "http" && !loopback(host) && !p.insecure(host) {
		return nil, notPlain(host)
	}
	return p.next.RoundTrip(req)
}

func notPlain(host string) error {
	return fmt.Errorf("%s is not asked over plain HTTP; --insecure-registry %s allows it", host, host)
}
