// Package deletion answers containerd's `delete` for a container that its shim has
// removed already.
//
// containerd runs the shim's binary with `delete` whenever its connection to a shim
// ends, because the shim may have died. It does so after every delete that went well
// too, as it ends the connection itself then, and ignores the answer. So a shim that
// has removed a container leaves the answer in the bundle, and a constructor in C
// copies it to containerd before the Go runtime starts, which is most of what such a
// process costs.
//
// It promises that containerd gets the answer that the shim gave, and that the binary
// does all it always did where no shim has left one: after a shim that died, and after
// a delete that failed.
package deletion

import "C" // for answer.c

import (
	"fmt"
	"os"
	"path/filepath"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"google.golang.org/protobuf/proto"
)

// file is the answer's name in a bundle; answer.c has it too.
const file = "deleted"

// Leave leaves the answer in the bundle of a container that has been removed.
func Leave(bundle string, answer *taskapi.DeleteResponse) error {
	data, err := proto.Marshal(answer)
	if err != nil {
		return fmt.Errorf("leave the answer to a delete: %w", err)
	}
	// The constructor takes a file that it sees for whole.
	tmp := filepath.Join(bundle, "."+file)
	if err := os.WriteFile(tmp, data, 0o600); err != nil {
		return fmt.Errorf("leave the answer to a delete: %w", err)
	}
	return os.Rename(tmp, filepath.Join(bundle, file))
}
