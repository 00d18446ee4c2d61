package nstest

import (
	"fmt"
	"os"
	"os/exec"
)

// busyboxEnv names the static busybox that make took from Debian for the images; the
// machine that the tests run on need not have one installed.
const busyboxEnv = "KEELSON_BUSYBOX"

// Busybox returns the path of a static busybox, for a test that makes a container's
// root of it: the one that KEELSON_BUSYBOX names, else the one of this machine.
func Busybox() (string, error) {
	if path := os.Getenv(busyboxEnv); path != "" {
		if _, err := os.Stat(path); err != nil {
			return "", fmt.Errorf("%s: %w", busyboxEnv, err)
		}
		return path, nil
	}
	path, err := exec.LookPath("busybox")
	if err != nil {
		return "", fmt.Errorf("no busybox: run the tests with `make unit`, or set %s to a static one: %w", busyboxEnv, err)
	}
	return path, nil
}
