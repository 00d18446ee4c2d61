package main

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/opencontainers/cgroups"

	"keelson/runc-shim/oci"
	"keelson/runc-shim/plan"
	"keelson/runc-shim/seccomp"
)

// printPlan prints the plan of a bundle's container, or why it has none.
func printPlan(args []string) int {
	if len(args) != 1 {
		fmt.Fprintln(os.Stderr, "usage: runc-shim plan BUNDLE")
		return 2
	}
	p, err := planOf(args[0])
	if err != nil {
		fmt.Fprintln(os.Stderr, "plan:", err)
		return 1
	}
	fmt.Print(p)
	return 0
}

func planOf(bundle string) (p *plan.Plan, err error) {
	if bundle, err = filepath.Abs(bundle); err != nil {
		return nil, err
	}
	spec, err := oci.LoadSpec(bundle)
	if err != nil {
		return nil, err
	}
	program, err := seccomp.Program(spec)
	if err != nil {
		return nil, err
	}
	filter, err := seccomp.Code(program)
	if err != nil {
		return nil, err
	}
	process, err := oci.NewProcess(spec.Process)
	if err != nil {
		return nil, err
	}
	o := oci.Options{ID: filepath.Base(bundle), Bundle: bundle}
	err = oci.In(bundle, func() error {
		config, err := oci.Config(o, spec)
		if err == nil {
			p, err = plan.Make(o, config, process, filter, cgroups.IsCgroup2UnifiedMode())
		}
		return err
	})
	return p, err
}
