package supervise

import (
	"fmt"
	"strings"
)

// fewMost is how many of a list are shown on the console.
const fewMost = 10

// few joins a list for the console, where a thousand names would take seconds to write.
func few(list []string) string {
	if len(list) <= fewMost+1 {
		return strings.Join(list, ", ")
	}
	return fmt.Sprintf("%s and %d others", strings.Join(list[:fewMost], ", "), len(list)-fewMost)
}
