// Package guestagent is the second channel into a machine under test: a small server that runs in a service
// container of its own and carries out requests that arrive over a virtio-serial port, so that a test can
// look at processes, mounts and files without a shell in the machine's root.
//
// It promises to answer every request it could read with one response of the same ID, in whatever order they
// finish, and to live through the host's going away and coming back. It must never be part of an image that
// is meant for anything but tests: whoever holds the port is root in the machine.
//
// On the wire each request and each response is one JSON document on a line of its own. A line that is not
// one (the rest of a request whose reader was killed) is dropped.
package guestagent

import "time"

// PortName is the name of the virtio-serial port, as QEMU's virtserialport and the guest's sysfs have it.
const PortName = "keelson.agent"

// What a request may ask for.
const (
	OpPing  = "ping"  // answers, and does nothing else
	OpExec  = "exec"  // runs Argv to its end
	OpRead  = "read"  // reads the file Path
	OpWrite = "write" // writes Data to the file Path, which it makes if need be
	OpStat  = "stat"  // describes the file Path, without following a last symbolic link
	OpList  = "list"  // describes the files in the folder Path
	OpKill  = "kill"  // sends Signal to PID
	OpPS    = "ps"    // lists all processes
)

// Request is what the host asks for.
type Request struct {
	ID uint64 `json:"id"`
	Op string `json:"op"`

	// In is the process in whose mount, network, UTS, IPC and PID namespaces the request is carried out:
	// 1 is the machine itself, 0 the agent's own container.
	In int `json:"in,omitempty"`

	Argv    []string      `json:"argv,omitempty"`
	Stdin   []byte        `json:"stdin,omitempty"`
	Timeout time.Duration `json:"timeout,omitempty"` // of an exec, in nanoseconds; then it is killed

	Path string `json:"path,omitempty"`
	Data []byte `json:"data,omitempty"`

	PID    int `json:"pid,omitempty"`
	Signal int `json:"signal,omitempty"`
}

// Response is what became of a request.
type Response struct {
	ID    uint64 `json:"id"`
	Error string `json:"error,omitempty"` // set where it could not be carried out

	Exit   int    `json:"exit,omitempty"` // exit code; 128+n where signal n ended it
	Stdout []byte `json:"stdout,omitempty"`
	Stderr []byte `json:"stderr,omitempty"`

	Data      []byte    `json:"data,omitempty"`
	Files     []File    `json:"files,omitempty"`
	Processes []Process `json:"processes,omitempty"`
}

// File describes a file, as lstat(2) does.
type File struct {
	Name   string `json:"name"`
	Mode   uint32 `json:"mode"` // st_mode: the type's bits as well as the permissions
	UID    int    `json:"uid"`
	GID    int    `json:"gid"`
	Size   int64  `json:"size"`
	Inode  uint64 `json:"inode"`
	Device uint64 `json:"device"` // of the file system it is on
	Major  uint32 `json:"major"`  // of the device it is, for a device node
	Minor  uint32 `json:"minor"`
	Link   string `json:"link,omitempty"` // where a symbolic link points
}

// Process describes a process, from /proc.
type Process struct {
	PID    int      `json:"pid"`
	Parent int      `json:"parent"`
	Name   string   `json:"name"`  // comm
	State  string   `json:"state"` // R, S, D, Z ...
	Argv   []string `json:"argv"`  // empty for a kernel thread
	Cgroup string   `json:"cgroup"`
	RSS    int64    `json:"rss"` // resident memory, in bytes
}
