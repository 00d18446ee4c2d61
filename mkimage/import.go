package main

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/spf13/cobra"

	"keelson/internal/visible"
	"keelson/mkimage/images"
	"keelson/mkimage/output"
)

type importFlags struct {
	store                     *string
	output                    string
	config                    string
	entrypoint, cmd           []string
	env, labels, devices      []string
	workdir, user, stopSignal string
	keepOwner, quiet          bool
	maxSize                   size
}

func importCommand() *cobra.Command {
	var f importFlags
	cmd := &cobra.Command{
		Use:   "import [flags] [NAME] PATH",
		Short: "Make an image of a folder or tarball, or take one over as it is",
		Long: `Put an image into the local store.

PATH is a folder or a tarball of a root filesystem, which becomes an image of one
layer with the configuration that the flags give, as with docker import. Files
of a folder belong to root in the image and carry the date in $SOURCE_DATE_EPOCH
(else 1970), so the same files give the same image everywhere.

Or PATH is a tarball or directory of images, as docker save, buildx, podman, skopeo,
crane, ko, kaniko and ctr write them; these are taken over as they are, under NAME or,
without one, under their own names.

With --output the image goes into an OCI image layout tarball, which docker load,
ctr images import and linuxkit cache import read, and not into the store.`,
		Example: `  mkimage import keelson/busybox build/busybox --cmd /bin/sh
  mkimage import --output build/keelson.tar keelson/init build/init
  docker save nginx | gzip > nginx.tgz && mkimage import nginx.tgz`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) < 1 || len(args) > 2 {
				return errors.New("mkimage import takes [NAME] PATH; see mkimage import --help")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			name, path := "", args[0]
			if len(args) == 2 {
				name, path = args[0], args[1]
			}
			return f.run(cmd, name, path)
		},
	}
	f.store = storeFlag(cmd)
	fl := cmd.Flags()
	sizeFlag(cmd, &f.maxSize)
	fl.StringVar(&f.output, "output", "", "write an OCI image layout tarball instead of filling the store")
	fl.StringVar(&f.config, "config", "", `configuration as JSON, such as {"Cmd": ["/bin/sh"]}, or @FILE; other flags add to it`)
	fl.StringArrayVar(&f.entrypoint, "entrypoint", nil, "entry point, once per argument")
	fl.StringArrayVar(&f.cmd, "cmd", nil, "command, once per argument")
	fl.StringArrayVar(&f.env, "env", nil, "NAME=VALUE in the environment; may be repeated")
	fl.StringArrayVar(&f.labels, "label", nil, "KEY=VALUE; may be repeated")
	fl.StringVar(&f.workdir, "workdir", "", "working directory")
	fl.StringVar(&f.user, "user", "", "user")
	fl.StringVar(&f.stopSignal, "stop-signal", "", "signal that asks the command to end")
	fl.StringArrayVar(&f.devices, "device", nil, "PATH:MAJOR:MINOR, a character device to put into the image of a folder; may be repeated")
	fl.BoolVar(&f.keepOwner, "keep-owner", false, "keep the owners of a folder's files")
	fl.BoolVarP(&f.quiet, "quiet", "q", false, "say nothing but errors")
	return cmd
}

func (f *importFlags) run(cmd *cobra.Command, name, path string) error {
	list, cleanup, err := f.images(newReporter(cmd.ErrOrStderr(), true), name, path)
	if err != nil {
		return err
	}
	defer cleanup()
	if f.output != "" {
		err := output.ToFile(f.output, func(w *os.File) error { return images.WriteArchive(w, list) }, path)
		if err != nil {
			return err
		}
	} else {
		store := images.OpenStore(*f.store)
		for _, n := range list {
			for _, full := range n.Names {
				if err := store.Put(full, n.Image, nil); err != nil {
					return fmt.Errorf("import %s: %w", full, err)
				}
			}
		}
	}
	if f.quiet {
		return nil
	}
	var lines strings.Builder
	for _, n := range list {
		digest, err := n.Image.Digest()
		if err != nil {
			return err
		}
		for _, full := range n.Names {
			fmt.Fprintf(&lines, "%s  %s\n", visible.Text(full), digest)
		}
	}
	cleanup() // a reader that has gone ends the program
	_, err = fmt.Fprint(cmd.OutOrStdout(), lines.String())
	return err
}

// images returns what PATH holds, under the names it goes by.
func (f *importFlags) images(ui *reporter, name, path string) (list []images.Named, cleanup func(), err error) {
	if _, err := os.Stat(path); err != nil {
		return nil, nil, err
	}
	a, err := images.OpenArchive(path, int64(f.maxSize))
	if err != nil {
		return nil, nil, err
	}
	has, err := a.HasImages()
	if has {
		if list, err = f.takeOver(a, name, path); err == nil {
			return list, a.Close, nil
		}
	}
	a.Close()
	if err != nil {
		return nil, nil, err
	}
	if name == "" {
		return nil, nil, fmt.Errorf("%s holds no image but files, so it needs a name: mkimage import NAME %s", path, path)
	}
	full, err := fullName(name)
	if err != nil {
		return nil, nil, err
	}
	cfg, err := f.imageConfig()
	if err != nil {
		return nil, nil, err
	}
	created, err := sourceDate()
	if err != nil {
		return nil, nil, err
	}
	var devices []images.Device
	for _, text := range f.devices {
		d, err := images.ParseDevice(text)
		if err != nil {
			return nil, nil, fmt.Errorf("--device: %w", err)
		}
		devices = append(devices, d)
	}
	img, cleanup, err := images.FromRoot(path, images.ImportOptions{Config: cfg, KeepOwner: f.keepOwner, Created: created, Devices: devices, MaxSize: int64(f.maxSize), Warn: ui.warn})
	if err != nil {
		return nil, nil, err
	}
	return []images.Named{{Names: []string{full}, Image: img}}, cleanup, nil
}

func (f *importFlags) takeOver(a *images.Archive, name, path string) ([]images.Named, error) {
	if f.hasConfig() {
		return nil, fmt.Errorf("%s holds images, which are taken over as they are: --config, --entrypoint, --cmd, --env, --label, --workdir, --user, --stop-signal, --device and --keep-owner are for directories and root filesystems", path)
	}
	list, err := a.Images()
	if err != nil {
		return nil, err
	}
	if name != "" {
		if err := rename(list, name, path); err != nil {
			return nil, err
		}
	}
	for _, n := range list {
		switch {
		case len(n.Names) > 0:
		case len(n.Tags) > 0:
			return nil, fmt.Errorf("%s holds an image of which only the tag is known, %s; give a name: mkimage import NAME:%s %s", path, n.Tags[0], n.Tags[0], path)
		default:
			return nil, fmt.Errorf("%s holds an image without a name; give one: mkimage import NAME %s", path, path)
		}
	}
	return list, nil
}

// rename gives the image of PATH the name that the user chose. Several of which each has
// a tag but no name get it with their tags.
func rename(list []images.Named, name, path string) error {
	full, err := fullName(name)
	if err != nil {
		return err
	}
	if len(list) == 1 {
		list[0].Names = []string{full}
		return nil
	}
	repository, ok := strings.CutSuffix(full, ":latest")
	for i, n := range list {
		if !ok || len(n.Tags) == 0 || len(n.Names) > 0 {
			return fmt.Errorf("%s holds %d images, so one name does not do; leave NAME out to keep their own", path, len(list))
		}
		for _, tag := range n.Tags {
			list[i].Names = append(list[i].Names, repository+":"+tag)
		}
	}
	return nil
}

func fullName(name string) (string, error) {
	ref, err := images.ParseRef(name, "")
	if err != nil {
		return "", err
	}
	if ref.Name == "" || strings.Contains(ref.Name, "@") {
		return "", fmt.Errorf("%q: an image is stored under a name with a tag, such as you/app:1.2", name)
	}
	return ref.Name, nil
}

func (f *importFlags) hasConfig() bool {
	return f.config != "" || len(f.entrypoint) > 0 || len(f.cmd) > 0 || len(f.env) > 0 || len(f.labels) > 0 ||
		f.workdir != "" || f.user != "" || f.stopSignal != "" || len(f.devices) > 0 || f.keepOwner
}

func (f *importFlags) imageConfig() (v1.Config, error) {
	var cfg v1.Config
	if f.config != "" {
		text := []byte(f.config)
		if file, ok := strings.CutPrefix(f.config, "@"); ok {
			var err error
			if text, err = os.ReadFile(file); err != nil {
				return cfg, fmt.Errorf("--config: %w", err)
			}
		}
		var err error
		if cfg, err = images.ParseConfig(text); err != nil {
			return cfg, fmt.Errorf("--config: %w", err)
		}
	}
	if len(f.entrypoint) > 0 {
		cfg.Entrypoint = f.entrypoint
	}
	if len(f.cmd) > 0 {
		cfg.Cmd = f.cmd
	}
	for _, e := range f.env {
		if k, _, ok := strings.Cut(e, "="); !ok || k == "" {
			return cfg, fmt.Errorf("--env %s: must be NAME=VALUE", e)
		}
		cfg.Env = append(cfg.Env, e)
	}
	for _, l := range f.labels {
		k, v, ok := strings.Cut(l, "=")
		if !ok || k == "" {
			return cfg, fmt.Errorf("--label %s: must be KEY=VALUE", l)
		}
		if cfg.Labels == nil {
			cfg.Labels = map[string]string{}
		}
		cfg.Labels[k] = v
	}
	setIf(&cfg.WorkingDir, f.workdir)
	setIf(&cfg.User, f.user)
	setIf(&cfg.StopSignal, f.stopSignal)
	return cfg, nil
}

func setIf(to *string, s string) {
	if s != "" {
		*to = s
	}
}

// sourceDate is the date that reproducible builds give their files:
// reproducible-builds.org/specs/source-date-epoch.
func sourceDate() (time.Time, error) {
	s := os.Getenv("SOURCE_DATE_EPOCH")
	if s == "" {
		return time.Unix(0, 0).UTC(), nil
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < 0 {
		return time.Time{}, fmt.Errorf("SOURCE_DATE_EPOCH=%s: must be seconds since 1970", s)
	}
	return time.Unix(n, 0).UTC(), nil
}
