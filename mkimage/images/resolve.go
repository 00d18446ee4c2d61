package images

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// Resolver finds images: tarballs by their path, others in the store and, if
// they are not there, in their registry.
type Resolver struct {
	Store *Store
	// Pull asks the registry even for what the store has.
	Pull bool
	// Offline never asks a registry.
	Offline bool
	// Timeout bounds how long a registry may stay silent; 0 is 30 s.
	Timeout time.Duration
	// Progress is told of a download: its name, its size, and then of bytes.
	Progress func(what string, total int64) (count func(n int), done func())

	archives []*Archive
}

// Close removes temporary files.
func (r *Resolver) Close() error {
	var errs []error
	for _, a := range r.archives {
		errs = append(errs, a.Close())
	}
	return errors.Join(errs...)
}

// Image returns the image that ref names.
func (r *Resolver) Image(ctx context.Context, ref Ref) (v1.Image, error) {
	if ref.Archive != "" {
		return r.fromArchive(ref.Archive)
	}
	img, err := r.Store.Image(ref.Name)
	switch {
	case err != nil && !errors.Is(err, ErrNotFound):
		return nil, err
	case err == nil && !r.Pull:
		return img, nil
	case r.Offline:
		return nil, fmt.Errorf("image %s is not in the store %s; put it there with: mkimage import --store %s %s PATH (a folder or a tarball)",
			ref.Name, r.Store.Dir(), r.Store.Dir(), ref.Name)
	}
	if err := r.pull(ctx, ref.Name); err != nil {
		return nil, fmt.Errorf("image %s is not in the store %s, and its registry gave no image (%w); without a registry, put it into the store with: mkimage import --store %s %s PATH (a folder or a tarball)",
			ref.Name, r.Store.Dir(), err, r.Store.Dir(), ref.Name)
	}
	return r.Store.Image(ref.Name)
}

func (r *Resolver) fromArchive(file string) (v1.Image, error) {
	a, err := OpenArchive(file)
	if err != nil {
		return nil, err
	}
	r.archives = append(r.archives, a)
	if !a.HasImages() {
		return nil, fmt.Errorf("%s: holds no image, only files; make one of it with: mkimage import NAME %s", file, file)
	}
	list, err := a.Images()
	if err != nil {
		return nil, err
	}
	if len(list) > 1 {
		return nil, fmt.Errorf("%s: holds %d images; import it (mkimage import %s) and use their names", file, len(list), file)
	}
	return list[0].Image, nil
}

func (r *Resolver) pull(ctx context.Context, full string) error {
	ref, err := name.ParseReference(full, name.WeakValidation)
	if err != nil {
		return err
	}
	limit := r.Timeout
	if limit == 0 {
		limit = 30 * time.Second
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	// The watchdog ends a download that stands still; a slow one may take as
	// long as it needs.
	silent := fmt.Errorf("nothing heard from %s for %v", ref.Context().RegistryStr(), limit)
	watchdog := time.AfterFunc(limit, func() { cancel(silent) })
	defer watchdog.Stop()

	dialer := &net.Dialer{Timeout: min(limit, 10*time.Second)}
	transport := &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           dialer.DialContext,
		TLSHandshakeTimeout:   min(limit, 10*time.Second),
		ResponseHeaderTimeout: limit,
	}
	defer transport.CloseIdleConnections()
	img, err := remote.Image(ref, remote.WithContext(ctx), remote.WithPlatform(Platform),
		remote.WithAuthFromKeychain(authn.DefaultKeychain), remote.WithTransport(transport),
		remote.WithRetryBackoff(remote.Backoff{Duration: 500 * time.Millisecond, Factor: 2, Steps: 3}))
	if err != nil {
		return cause(ctx, err)
	}
	count, done := r.progress(full, img)
	defer done()
	err = r.Store.Put(full, img, func(n int) {
		watchdog.Reset(limit)
		count(n)
	})
	return cause(ctx, err)
}

// cause prefers the reason a context was ended for over what that broke.
func cause(ctx context.Context, err error) error {
	if c := context.Cause(ctx); err != nil && c != nil {
		return c
	}
	return err
}

func (r *Resolver) progress(what string, img v1.Image) (count func(int), done func()) {
	if r.Progress == nil {
		return func(int) {}, func() {}
	}
	var total int64
	if m, err := img.Manifest(); err == nil {
		for _, l := range m.Layers {
			total += l.Size
		}
	}
	return r.Progress("pull "+what, total)
}
