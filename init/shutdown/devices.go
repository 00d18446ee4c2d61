package shutdown

import (
	"fmt"
	"strings"
)

// removeMapped removes the device-mapper and md devices that nothing uses, and reports
// whether there was one: they keep the loop devices that they are made of in use.
func (e *End) removeMapped() bool {
	names, err := e.Kernel.ReadDir("/sys/block")
	if err != nil {
		return false
	}
	any := false
	for _, n := range names {
		dir := "/sys/block/" + n
		switch {
		case e.hung[n]:
		case strings.HasPrefix(n, "dm-"):
			name, err := e.Kernel.ReadFile(dir + "/dm/name")
			if err == nil && e.removed(n, func() error { return e.Kernel.RemoveMapping(strings.TrimSpace(string(name))) }) {
				any = true
			}
		case strings.HasPrefix(n, "md"):
			// One that is stopped already may leave its device.
			state, err := e.Kernel.ReadFile(dir + "/md/array_state")
			if err == nil && strings.TrimSpace(string(state)) != "clear" && e.removed(n, func() error { return e.Kernel.WriteFile(dir+"/md/array_state", "clear") }) {
				any = true
			}
		}
	}
	return any
}

// removed removes a device, and reports whether that has succeeded. One that did not
// answer is left alone from then on.
func (e *End) removed(device string, f func() error) bool {
	result := make(chan error, 1)
	if !e.bounded(DeviceBound, func() { result <- f() }) {
		if e.hung == nil {
			e.hung = map[string]bool{}
		}
		e.hung[device] = true
		e.Console.Warn(name, "the removal of /dev/%s did not end within %s", device, DeviceBound)
		return false
	}
	select {
	case err := <-result:
		return err == nil
	default: // it panicked
		return false
	}
}

// detachLoops frees the loop devices, and tells whether there was one. The kernel keeps
// one that is used until it is not any more.
func (e *End) detachLoops() bool {
	any := false
	for device := range e.loops() {
		if e.removed(device, func() error { return e.Kernel.DetachLoop("/dev/" + device) }) {
			any = true
		}
	}
	return any
}

// loops returns the loop devices in use and the file behind each.
func (e *End) loops() map[string]string {
	names, err := e.Kernel.ReadDir("/sys/block")
	if err != nil {
		return nil
	}
	list := map[string]string{}
	for _, n := range names {
		if strings.HasPrefix(n, "loop") {
			if file, err := e.Kernel.ReadFile("/sys/block/" + n + "/loop/backing_file"); err == nil {
				list[n] = strings.TrimSpace(string(file))
			}
		}
	}
	return list
}

// loopHolders names the loop devices with a file below target, and what is made of them.
func (e *End) loopHolders(target string) []string {
	var list []string
	for device, file := range e.loops() {
		if !under(file, target) {
			continue
		}
		holder := fmt.Sprintf("/dev/%s with %s", device, file)
		if above, err := e.Kernel.ReadDir("/sys/block/" + device + "/holders"); err == nil && len(above) > 0 {
			holder += " below /dev/" + strings.Join(above, ", /dev/")
		}
		list = append(list, holder)
	}
	return list
}
