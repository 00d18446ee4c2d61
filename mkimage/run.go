package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"keelson/mkimage/config"
	"keelson/mkimage/scratch"
	"keelson/mkimage/vm"
)

var memorySize = regexp.MustCompile(`^[1-9][0-9]*[MG]?$`)

func runCommand() *cobra.Command {
	var flags buildFlags
	machine := vm.Machine{Network: true, Random: true}
	var ports, disks []string
	var given []string
	var appended string
	cmd := &cobra.Command{
		Use:   "run [flags] IMAGE.yml...|PREFIX",
		Short: "Boot an image in QEMU, its console on this terminal",
		Long: `Boot an image in QEMU. A YAML is built first, several are merged as mkimage build
does; a PREFIX is what an earlier
build wrote: PREFIX-kernel, PREFIX-initrd.img and PREFIX-cmdline, or the files of
another --format.

The console is this terminal, so Ctrl-C goes to the machine. Ctrl-a x ends it at
once, Ctrl-a c opens QEMU's monitor (system_powerdown presses the power button),
Ctrl-a h lists more.

The machine has a virtio network card behind QEMU's user network (10.0.2.15 by
DHCP) and a virtio random number source. It is emulated unless --kvm is given.`,
		Example: `  mkimage run -p 8080:80 web.yml
  mkimage run -p :80 web.yml
  mkimage run --memory 256M --append console=ttyS0 build/web
  mkimage run --format raw-efi web.yml
  mkimage run --disk data.img web.yml --qemu-arg=-snapshot`,
		Args: someFiles("an image YAML or the prefix of a build"),
		RunE: func(cmd *cobra.Command, args []string) error {
			formats, err := parseFormats(given)
			if err != nil {
				return err
			}
			if len(formats) != 1 {
				return fmt.Errorf("--format %s: a machine boots one; give it once", strings.Join(formats, ","))
			}
			format := formats[0]
			if reason := unbootable[format]; reason != "" {
				return fmt.Errorf("--format %s: %s", format, reason)
			}
			for _, p := range ports {
				f, err := vm.ParseForward(p)
				if err != nil {
					return err
				}
				machine.Forwards = append(machine.Forwards, f)
			}
			if !memorySize.MatchString(machine.Memory) {
				return fmt.Errorf("--memory %s: must be a number of megabytes, or end in M or G, such as 512M", machine.Memory)
			}
			if machine.CPUs < 1 {
				return fmt.Errorf("--cpus %d: must be at least 1", machine.CPUs)
			}
			for _, file := range disks {
				d, err := vm.OpenDisk(file)
				if err != nil {
					return err
				}
				machine.Disks = append(machine.Disks, d)
			}
			prefix := args[0]
			if isYAML(prefix) || len(args) > 1 {
				cfg, err := loadToRun(flags, args)
				if err != nil {
					return err
				}
				dir, err := scratch.Dir("mkimage-run-*")
				if err != nil {
					return err
				}
				defer scratch.Remove(dir)
				prefix = filepath.Join(dir, baseName(args[0]))
				// That of an EFI program can be added to here only.
				flags.words = machine.Words()
				if _, err := buildImage(cmd.Context(), cmd.ErrOrStderr(), args, cfg, prefix, formats, flags); err != nil {
					return err
				}
			}
			if err := setFiles(&machine, prefix, format, appended); err != nil {
				return err
			}
			picked, err := vm.PickPorts(machine.Forwards)
			if err != nil {
				return err
			}
			greet(cmd.ErrOrStderr(), machine.Forwards, picked, flags.quiet)
			machineRuns.Store(true)
			return machine.Run(cmd.Context())
		},
	}
	flags.add(cmd)
	fl := cmd.Flags()
	fl.StringSliceVar(&given, "format", []string{formatKernelInitrd}, "what to build and boot: "+strings.Join(bootable(), ", "))
	fl.StringArrayVarP(&ports, "publish", "p", nil, "[[ADDRESS:]HOST:]GUEST[/udp], a port of this machine that leads to one of the guest; without HOST a free one is picked and printed; may be repeated")
	fl.StringVar(&machine.Memory, "memory", "1024M", "memory of the machine")
	fl.IntVar(&machine.CPUs, "cpus", 1, "number of CPUs")
	fl.BoolVar(&machine.KVM, "kvm", false, "use the CPU's virtualization instead of emulating one")
	fl.StringArrayVar(&disks, "disk", nil, "file that is a disk of the machine, raw or qcow2; may be repeated")
	fl.StringVar(&appended, "append", "", "words to add to the kernel's command line")
	fl.StringArrayVar(&machine.Args, "qemu-arg", nil, "one argument passed to QEMU as it is; may be repeated")
	return cmd
}

func isYAML(name string) bool {
	return strings.HasSuffix(name, ".yml") || strings.HasSuffix(name, ".yaml")
}

// loadToRun reads the YAMLs of a machine, which has the standard input for itself.
func loadToRun(flags buildFlags, files []string) (*config.Config, error) {
	for _, file := range files {
		if !isYAML(file) {
			return nil, fmt.Errorf("%s: run takes image YAMLs (.yml, .yaml) or one PREFIX of a build; the standard input is the machine's", file)
		}
	}
	return config.LoadAll(nil, files...)
}

// greet tells how to get out again, and where the ports lead. Those that were picked
// nobody could know otherwise.
func greet(w io.Writer, forwards, picked []vm.Forward, quiet bool) {
	if quiet {
		forwards = picked
	} else {
		fmt.Fprintln(w, "booting; Ctrl-a x ends the machine, Ctrl-a c is QEMU's monitor")
	}
	for _, f := range forwards {
		fmt.Fprintln(w, f)
	}
}

// unbootable says of formats why run does not boot them.
var unbootable = map[string]string{
	formatTar: "a tar is for other tools to make something of that boots",
	formatEFI: "a program is no machine; raw-efi and iso-efi are the disk and the CD that have it",
	formatGCP: "an archive is no machine; raw-efi is the disk in it",
}

func bootable() []string {
	return slices.DeleteFunc(slices.Clone(formats), func(f string) bool { return unbootable[f] != "" })
}

// setFiles has the machine boot what a build of format wrote.
func setFiles(m *vm.Machine, prefix, format, appended string) error {
	switch format {
	case formatKernelInitrd:
		m.Initrd = initrdFile(prefix)
		return setKernel(m, prefix, m.Initrd, appended)
	case formatSquashfs, formatExt4:
		m.RootDisk = diskFile(prefix, format)
		return setKernel(m, prefix, m.RootDisk, appended)
	}
	if appended != "" {
		return fmt.Errorf("--append: with --format %s the command line is in the program", format)
	}
	file := efiFile(prefix, format)
	if err := haveBuilt(file); err != nil {
		return err
	}
	if format == formatISOEFI {
		m.CD = file
	} else {
		m.RootDisk, m.RootFormat = file, qemuFormats[format]
	}
	var err error
	m.Firmware, err = vm.FindFirmware()
	return err
}

// qemuFormats is what QEMU calls what a format's file is, other than raw.
var qemuFormats = map[string]string{formatQCOW2: "qcow2", formatVHD: "vpc", formatVMDK: "vmdk"}

// haveBuilt says what to do if a file of a build is not there.
func haveBuilt(files ...string) error {
	for _, f := range files {
		if _, err := os.Stat(f); errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("there is no %s; build it first (mkimage build), or give the .yml itself", f)
		} else if err != nil {
			return err
		}
	}
	return nil
}

// setKernel has the machine boot the kernel of a build whose root is the file root,
// with more words on its command line.
func setKernel(m *vm.Machine, prefix, root, appended string) error {
	m.Kernel = prefix + "-kernel"
	words := prefix + "-cmdline"
	if err := haveBuilt(m.Kernel, root, words); err != nil {
		return err
	}
	line, err := os.ReadFile(words)
	if err != nil {
		return err
	}
	m.Cmdline = strings.TrimSpace(strings.TrimSpace(string(line)) + " " + appended)
	return nil
}
