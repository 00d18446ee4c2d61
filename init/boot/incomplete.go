package boot

import (
	"fmt"
	"strings"

	"keelson/init/handover"
	"keelson/init/kernel"
)

// Full tells whether a root in memory has no room left, as one has that the
// initramfs did not fit into.
func Full(k kernel.Calls, root handover.Root) bool {
	if !root.InMemory {
		return false
	}
	st, err := k.Statfs("/")
	return err == nil && (st.Blocks > 0 && st.BlocksFree < 16 || st.Files > 0 && st.FilesFree == 0)
}

// Incomplete asks the kernel whether it unpacked the whole initramfs, and says
// what happened and what to do if it did not: the kernel goes on without the
// files that did not fit, and leaves one line among hundreds about it.
func Incomplete(k kernel.Calls, root handover.Root) []string {
	if !root.InMemory {
		return nil
	}
	lines, err := k.KernelLog("nitramfs")
	if err != nil {
		return nil
	}
	for _, line := range lines {
		// With a RAM disk driver in the kernel it says the second.
		i := strings.Index(line, "Initramfs unpacking failed")
		if i < 0 {
			if i = strings.Index(line, "rootfs image is not initramfs"); i < 0 {
				continue
			}
		}
		said := fmt.Sprintf("the root is incomplete: the kernel said %q; files are missing from it", line[i:])
		if !strings.Contains(line, "write error") {
			return []string{said, "the initrd is damaged or compressed in a way this kernel does not know: build it or copy it again"}
		}
		todo := "give it more RAM"
		if ram, err := k.Memory(); err == nil {
			todo = fmt.Sprintf("this machine has %d MiB of RAM: give it more", ram>>20)
		}
		if root.Type == "tmpfs" {
			todo += ", or put rootfstype=ramfs on the kernel command line (the root may then use all of the RAM, not half)"
		}
		return []string{said, todo}
	}
	return nil
}
