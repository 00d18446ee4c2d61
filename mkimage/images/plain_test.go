package images

import (
	"context"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-containerregistry/pkg/registry"
)

// What is on a private address is asked over plain HTTP only where the user says so.
func TestPlainHTTPOnlyWhereTheUserSaysSo(t *testing.T) {
	local := testRegistry(t)
	push(t, local+"/you/app:1", simple(t, "app"))
	var requests atomic.Int64
	back := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	secure := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		requests.Add(1)
		back.ServeHTTP(w, r)
	}))
	defer secure.Close()
	secure.Config.ErrorLog = log.New(io.Discard, "", 0)
	for _, c := range []struct {
		name, host string
		insecure   []string
		dial       string
		want       string // of the error, "" if there is none
	}{
		{"loopback", local, nil, local, ""},
		{"a name of loopback", "registry.localhost:5000", nil, local, ""},
		{"private", "10.1.2.3:5000", nil, local, "--insecure-registry 10.1.2.3:5000"},
		{"private, allowed", "10.1.2.3:5000", []string{"10.1.2.3:5000"}, local, ""},
		{"private, all ports allowed", "192.168.7.1:5000", []string{"x", "192.168.7.1"}, local, ""},
		{"private, another port allowed", "172.16.0.9:5000", []string{"172.16.0.9:5001"}, local, "--insecure-registry 172.16.0.9:5000"},
		{"a name", "registry.lan:5000", nil, local, "--insecure-registry registry.lan:5000"},
		{"a name, allowed", "registry.lan:5000", []string{"Registry.lan:5000"}, local, ""},
		{"link-local", "169.254.1.1:5000", nil, local, "--insecure-registry 169.254.1.1:5000"},
		{"unique local", "[fd00::1]:5000", nil, local, "--insecure-registry [fd00::1]:5000"},
		{"unique local, allowed", "[fd00::1]:5000", []string{"[fd00::1]"}, local, ""},
		{"a certificate of nobody", "10.1.2.3:5000", nil, secure.Listener.Addr().String(), "certificate"},
		{"a certificate of nobody, allowed", "10.1.2.3:5000", []string{"10.1.2.3:5000"}, secure.Listener.Addr().String(), "_UNKNOWN"},
	} {
		t.Run(c.name, func(t *testing.T) {
			requests.Store(0)
			r := &Resolver{Store: OpenStore(t.TempDir()), Insecure: c.insecure, dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
				var d net.Dialer
				return d.DialContext(ctx, network, c.dial)
			}}
			got, err := resolve(t, r, c.host+"/you/app:1")
			switch {
			case c.want == "" && (err != nil || got != "app"):
				t.Errorf("got %q, %v", got, err)
			case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
				t.Errorf("got %q, %v, want an error with %q", got, err, c.want)
			}
			if c.want == "certificate" && requests.Load() > 0 {
				t.Error("it was asked all the same")
			}
		})
	}
}

func TestCheckRegistry(t *testing.T) {
	for s, ok := range map[string]bool{
		"registry.lan": true, "registry.lan:5000": true, "10.0.0.5": true, "[fd00::1]:5000": true, "[fd00::1]": true, "fd00::1": true,
		"": false, "http://registry.lan": false, "registry.lan/you": false, ":5000": false, "registry.lan:": false, "a b": false, "me@host": false,
	} {
		if err := CheckRegistry(s); (err == nil) != ok {
			t.Errorf("%q: %v", s, err)
		}
	}
}
