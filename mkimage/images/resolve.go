package images

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"keelson/mkimage/tree"
)

// Resolver finds images: tarballs by their path, others in the store and, if
// they are not there, in their registry.
type Resolver struct {
	Store *Store
	// Pull asks the registry even for what the store has.
	Pull bool
	// Offline never asks a registry.
	Offline bool
	// Insecure are registries, as HOST or HOST:PORT, that may be asked over plain HTTP
	// or without a certificate that anybody vouches for.
	Insecure []string
	// MaxSize bounds the bytes that an image is stored in, and those that a tarball
	// unpacks to; 0 is tree.DefaultMaxSize.
	MaxSize int64
	// Timeout bounds how long a registry may stay silent; 0 is 30 s.
	Timeout time.Duration
	// Progress is told of a download: its name, its size, and then of bytes.
	Progress func(what string, total int64) (count func(n int), done func())

	// afterFunc is time.AfterFunc but in tests.
	afterFunc func(time.Duration, func()) timer
	// dial connects but in tests.
	dial func(ctx context.Context, network, address string) (net.Conn, error)

	archives []*Archive
	silent   map[string]error // registries that did not answer, asked once only
}

// timer is what is needed of a time.Timer.
type timer interface {
	Reset(time.Duration) bool
	Stop() bool
}

// Close removes temporary files.
func (r *Resolver) Close() {
	for _, a := range r.archives {
		a.Close()
	}
}

// Image returns the image that ref names.
func (r *Resolver) Image(ctx context.Context, ref Ref) (v1.Image, error) {
	if ref.Archive != "" {
		return r.fromArchive(ref.Archive)
	}
	img, err := r.Store.Image(ref.Name)
	stored := err == nil
	switch {
	case err != nil && !errors.Is(err, ErrNotFound) && (!r.Pull || r.Offline):
		return nil, err
	case err == nil && !r.Pull:
		return img, nil
	case r.Offline:
		return nil, fmt.Errorf("image %s is not in the store %s; %s", ref.Name, r.Store.Dir(), r.hint(ref))
	}
	if err := r.pull(ctx, ref.Name); err != nil && stored {
		return nil, fmt.Errorf("image %s could not be pulled: %w; without --pull the one in the store %s is taken", ref.Name, err, r.Store.Dir())
	} else if err != nil {
		return nil, fmt.Errorf("image %s is not in the store %s and could not be pulled: %w; %s", ref.Name, r.Store.Dir(), err, r.hint(ref))
	}
	return r.Store.Image(ref.Name)
}

// hint says how an image gets into the store without a registry.
func (r *Resolver) hint(ref Ref) string {
	return fmt.Sprintf("from a folder or a tarball it is put there by: mkimage import --store %s %s PATH", r.Store.Dir(), ref.Name)
}

func (r *Resolver) fromArchive(file string) (v1.Image, error) {
	a, err := OpenArchive(file, r.MaxSize)
	if err != nil {
		return nil, err
	}
	r.archives = append(r.archives, a)
	switch has, err := a.HasImages(); {
	case err != nil:
		return nil, err
	case !has:
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
	host := ref.Context().RegistryStr()
	insecure := r.insecure(host)
	if insecure {
		if ref, err = name.ParseReference(full, name.WeakValidation, name.Insecure); err != nil {
			return err
		}
	}
	if err := r.silent[host]; err != nil {
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
	afterFunc := r.afterFunc
	if afterFunc == nil {
		afterFunc = func(d time.Duration, f func()) timer { return time.AfterFunc(d, f) }
	}
	watchdog := afterFunc(limit, func() { cancel(fmt.Errorf("nothing heard from %s for %v", host, limit)) })
	defer watchdog.Stop()

	dial := r.dial
	if dial == nil {
		dial = (&net.Dialer{Timeout: min(limit, 10*time.Second)}).DialContext
	}
	rt := &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           dial,
		TLSClientConfig:       &tls.Config{InsecureSkipVerify: insecure}, // the user said so of this registry
		TLSHandshakeTimeout:   min(limit, 10*time.Second),
		ResponseHeaderTimeout: limit,
	}
	defer rt.CloseIdleConnections()
	img, err := remoteImage(ref, remote.WithContext(ctx), remote.WithPlatform(Platform),
		remote.WithAuthFromKeychain(authn.DefaultKeychain), remote.WithTransport(plainHTTP{rt, r.insecure}),
		remote.WithRetryBackoff(remote.Backoff{Duration: 500 * time.Millisecond, Factor: 2, Steps: 3}))
	if err != nil {
		err = cause(ctx, err)
		if errors.Is(err, http.ErrSchemeMismatch) {
			err = notPlain(host)
		}
		if !answered(err) {
			r.markSilent(host, err)
		}
		return err
	}
	if err := r.checkSize(img); err != nil {
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

// remoteImage is remote.Image that keeps the index through which it found the image, and
// looks for it as in tarballs: in indexes in it too.
func remoteImage(ref name.Reference, options ...remote.Option) (v1.Image, error) {
	d, err := remote.Get(ref, options...)
	if err != nil {
		return nil, err
	}
	if !d.MediaType.IsIndex() {
		return d.Image()
	}
	registry := registryBlobs{ref.Context(), options, d.Digest, d.Manifest}
	p := &platforms{}
	found, err := p.open(registry, v1.Descriptor{MediaType: d.MediaType, Digest: d.Digest, Size: int64(len(d.Manifest))})
	if errors.Is(err, errPlatform) {
		err = p.none()
	}
	if err != nil {
		return nil, err
	}
	digest, err := found.Digest()
	if err != nil {
		return nil, err
	}
	img, err := remote.Image(ref.Context().Digest(digest.String()), options...)
	if err != nil {
		return nil, err
	}
	x := found.(indexed)
	x.Image = img
	return x, nil
}

// registryBlobs are the manifests and configurations that an index of a registry leads to.
type registryBlobs struct {
	repository name.Repository
	options    []remote.Option
	digest     v1.Hash
	index      []byte
}

func (r registryBlobs) openBlob(h v1.Hash) (io.ReadCloser, error) {
	if h == r.digest {
		return io.NopCloser(bytes.NewReader(r.index)), nil
	}
	ref := r.repository.Digest(h.String())
	d, err := remote.Get(ref, r.options...)
	if err == nil {
		return io.NopCloser(bytes.NewReader(d.Manifest)), nil
	}
	var said *transport.Error
	if !errors.As(err, &said) || said.StatusCode != http.StatusNotFound {
		return nil, err
	}
	l, err := remote.Layer(ref, r.options...) // no manifest: a configuration
	if err != nil {
		return nil, err
	}
	return l.Compressed()
}

// checkSize refuses an image before it fills the disk.
func (r *Resolver) checkSize(img v1.Image) error {
	m, err := img.Manifest()
	if err != nil {
		return err
	}
	limit := r.MaxSize
	if limit == 0 {
		limit = tree.DefaultMaxSize
	}
	left := limit
	for _, l := range m.Layers {
		if left -= l.Size; l.Size < 0 || left < 0 {
			return tree.TooLarge(limit)
		}
	}
	return nil
}

func (r *Resolver) markSilent(host string, err error) {
	if r.silent == nil {
		r.silent = map[string]error{}
	}
	r.silent[host] = err
}

// answered says whether an error is what a registry said, rather than its silence.
func answered(err error) bool {
	var said *transport.Error
	return errors.As(err, &said)
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
