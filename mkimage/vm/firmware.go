package vm

import (
	"errors"
	"os"
)

// firmwares are where distributions have EFI firmware for QEMU's PC.
var firmwares = []string{
	"/usr/share/OVMF/OVMF_CODE.fd",
	"/usr/share/OVMF/OVMF_CODE_4M.fd",
	"/usr/share/edk2/ovmf/OVMF_CODE.fd",
	"/usr/share/edk2/x64/OVMF_CODE.4m.fd",
	"/usr/share/edk2-ovmf/x64/OVMF_CODE.fd",
}

// FindFirmware returns the file with this machine's EFI firmware for QEMU.
func FindFirmware() (string, error) {
	for _, path := range firmwares {
		if _, err := os.Stat(path); err == nil {
			return path, nil
		}
	}
	return "", errors.New("EFI firmware for QEMU is not on this machine; on Debian and Ubuntu: apt-get install ovmf")
}
