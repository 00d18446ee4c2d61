package config

import (
	"fmt"
	"math"
	"strconv"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"keelson/internal/userns"
)

// checkMappings checks the entries of uidMappings or gidMappings by themselves.
// How they go with the rest of a container is known only when the image's label
// is.
func checkMappings(c *checker, field string, v *value) {
	var entries []specs.LinuxIDMapping
	for i, item := range v.items {
		var e specs.LinuxIDMapping
		for key, into := range map[string]*uint32{"containerID": &e.ContainerID, "hostID": &e.HostID, "size": &e.Size} {
			if item.get(key) == nil {
				continue // 0
			}
			n, err := strconv.ParseInt(item.get(key).text(), 10, 64)
			if err != nil {
				return // said already
			}
			if n < 0 || n > math.MaxUint32 {
				c.add(item.get(key).line, fmt.Sprintf("%s[%d].%s", field, i, key), "is %d, must be from 0 to %d", n, uint32(math.MaxUint32))
				return
			}
			*into = uint32(n)
		}
		entries = append(entries, e)
	}
	for _, p := range userns.CheckEntries(entries) {
		line := v.line
		for i, item := range v.items {
			if p.Key == "["+strconv.Itoa(i)+"]" {
				line = item.line
			}
		}
		c.add(line, field+p.Key, "%s", p.Text)
	}
}
