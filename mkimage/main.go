// Command mkimage builds bootable images from LinuxKit's image YAML, on the
// machine of whoever makes the image.
//
// It owns the command line; what is behind it lies in the packages below: config
// (the YAML), images (where images come from), assemble (the root), ocispec
// (config.json), output (initrd and tar), vm (QEMU). It needs no Docker, no
// daemon and no root.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"keelson/internal/visible"
	"keelson/mkimage/scratch"
	"keelson/mkimage/vm"
)

func main() {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt, unix.SIGTERM, unix.SIGHUP)
	go func() { done <- command().ExecuteContext(ctx) }()
	var err error
	select {
	case err = <-done:
	case sig := <-signals:
		cancel()
		stopped(done, sig.(unix.Signal))
	}
	scratch.RemoveAll()
	if err == nil {
		return
	}
	var exit *vm.ExitError
	if errors.As(err, &exit) {
		os.Exit(exit.Code)
	}
	code := 1
	var status *exitError
	if errors.As(err, &status) {
		code = status.code
	}
	if status == nil || status.err != nil {
		fmt.Fprintln(os.Stderr, visible.Lines(err.Error()))
	}
	os.Exit(code)
}

// grace is how long a command may take to stop; machineGrace is that of QEMU, which
// puts the terminal right.
const (
	grace        = 500 * time.Millisecond
	machineGrace = 6 * time.Second
)

// machineRuns reports that the command is QEMU now.
var machineRuns atomic.Bool

// stopped ends the program for a signal, whatever the command does meanwhile.
func stopped(done <-chan error, sig unix.Signal) {
	wait := grace
	if machineRuns.Load() {
		wait = machineGrace
	}
	select {
	case <-done:
	case <-time.After(wait):
	}
	scratch.RemoveAll()
	fmt.Fprintln(os.Stderr, "stopped")
	os.Exit(128 + int(sig))
}

func command() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "mkimage",
		Short: "Build and boot machine images from a LinuxKit image YAML",
		Long: `mkimage turns an image YAML, the format of LinuxKit, into a kernel and an
initrd that boot anywhere. It needs no Docker and no registry: images may come
from a local store that "mkimage import" fills, from tarballs, or from a registry.

  mkimage import keelson/init build/init    a folder becomes an image of the store
  mkimage build image.yml                   image-kernel, image-initrd.img, image-cmdline
  mkimage run image.yml                     build it and boot it in QEMU
  mkimage size image.yml                    what takes room in it
  mkimage diff old/image build/image        how two builds differ
  mkimage lint image.yml                    what of it cannot work
  mkimage audit image.yml                   what each of its containers could do`,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	cmd.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return fmt.Errorf("%w; see %s --help", err, cmd.CommandPath())
	})
	cmd.AddCommand(buildCommand(), importCommand(), lsCommand(), runCommand(), sizeCommand(), diffCommand(), lintCommand(), auditCommand())
	return cmd
}

// storeFlag adds --store, with the default that the environment or the user's
// cache folder gives.
func storeFlag(cmd *cobra.Command) *string {
	dir := os.Getenv("KEELSON_STORE")
	if dir == "" {
		if cache, err := os.UserCacheDir(); err == nil {
			dir = filepath.Join(cache, "keelson", "store")
		} else {
			dir = "store"
		}
	}
	return cmd.Flags().String("store", dir, "folder of the local image store, an OCI image layout; $KEELSON_STORE sets it too")
}
